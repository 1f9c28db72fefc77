//! Files of definitions and places in them.
//!
//! A line ends at `\n` (sqlparser and DataFusion count so too), a column is one
//! character, whatever its width on a screen.

use std::ops::Range;
use std::sync::Arc;

/// A place in a file: line and column, both from 1, the column in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Location {
    pub line: u32,
    pub column: u32,
}

impl Location {
    /// Where a text starts.
    pub const START: Self = Self { line: 1, column: 1 };

    /// The place after the given character.
    #[must_use]
    pub fn after(self, character: char) -> Self {
        if character == '\n' {
            Self {
                line: self.line.saturating_add(1),
                column: 1,
            }
        } else {
            Self {
                line: self.line,
                column: self.column.saturating_add(1),
            }
        }
    }

    /// The place after all of `text`.
    #[must_use]
    pub fn after_text(self, text: &str) -> Self {
        text.chars().fold(self, Self::after)
    }
}

/// `line:column`
impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// The text of one file of definitions.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct SourceFile {
    /// Relative to the project folder, with `/` between its parts.
    pub path: String,
    pub text: String,
}

impl SourceFile {
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        Arc::new(Self {
            path: path.into(),
            text: text.into(),
        })
    }

    /// The line of this number, from 1, without its line end.
    pub fn line(&self, number: u32) -> Option<&str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let line = self.text.split('\n').nth(index)?;
        Some(line.strip_suffix('\r').unwrap_or(line))
    }

    /// The place of a byte; of the text's end where `byte` lies behind it.
    pub fn location(&self, byte: usize) -> Location {
        location_of(&self.text, byte)
    }

    /// The stretch that these bytes are.
    pub fn span(self: &Arc<Self>, bytes: Range<usize>) -> Span {
        Span {
            file: Arc::clone(self),
            start: self.location(bytes.start),
            end: self.location(bytes.end.max(bytes.start)),
        }
    }
}

/// The place of a byte of `text`, counted from 1:1; bytes inside a character or
/// behind the text's end are moved back to where a character starts.
pub(crate) fn location_of(text: &str, byte: usize) -> Location {
    let mut end = byte.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    Location::START.after_text(&text[..end])
}

/// A stretch of a file; `end` is the place after the last character.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    pub file: Arc<SourceFile>,
    pub start: Location,
    pub end: Location,
}

impl Span {
    /// From the start of this one to the end of the other, of the same file.
    #[must_use]
    pub fn to(&self, other: &Self) -> Self {
        Self {
            file: Arc::clone(&self.file),
            start: self.start.min(other.start),
            end: self.end.max(other.end),
        }
    }
}

/// `file:line:column` of the start.
impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.file.path, self.start)
    }
}
