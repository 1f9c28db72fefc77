//! What is wrong with a definition, where, and what would be right.
//!
//! Rendered like a compiler's message:
//!
//! ```text
//! error: unknown entity "custmer"
//!  --> sql/customers.sql:12:32
//!    |
//! 12 | CREATE FEATURE VIEW v ENTITY custmer AS SELECT 1
//!    |                              ^^^^^^^
//!    = help: did you mean "customer"?
//! ```

use std::sync::Arc;

/// A place in a file: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Location {
    pub line: u32,
    pub column: u32,
}

/// The text of one file of definitions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SourceFile {
    /// Relative to the project folder, with `/` between its parts.
    pub path: String,
    pub text: String,
}

/// A stretch of a file; `end` is the place after the last character.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    pub file: Arc<SourceFile>,
    pub start: Location,
    pub end: Location,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in one line, without a full stop.
    pub message: String,
    /// Where; `None` for what no single place is to blame for.
    pub span: Option<Span>,
    /// What would be right.
    pub help: Option<String>,
}

impl Diagnostic {
    pub fn new(span: &Span, message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: Some(span.clone()),
            help: None,
        }
    }

    pub fn without_place(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            span: None,
            help: None,
        }
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// Everything that is wrong, in the order of the files and of the places in them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diagnostics(pub Vec<Diagnostic>);
