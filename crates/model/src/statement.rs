//! Statements as written: the syntax tree of a project's SQL files.
//!
//! [`crate::parse`] splits a file into statements with sqlparser's tokens and parses
//! Granary's own; `CREATE EXTERNAL TABLE` and `CREATE VIEW`, and every query,
//! are kept as text with a span, for DataFusion to parse.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

use crate::diagnostic::{Location, Span, location_of};
use crate::{FeatureType, Interval};

/// A name, folded to lower case unless it was quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ident {
    pub value: String,
    pub span: Span,
}

/// SQL text kept for DataFusion: an exact cut of the file, from the first
/// character of `span` to its last.
///
/// DataFusion's places are relative to the text that it was given; the methods
/// here lead back to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlText {
    pub text: String,
    pub span: Span,
}

impl SqlText {
    /// The file's place of a line and column of the text, both from 1, the
    /// column in characters. The start of the text where they are 0 (sqlparser's
    /// "unknown"), its end where they lie behind it.
    pub fn location(&self, line: u64, column: u64) -> Location {
        let start = self.span.start;
        let (Ok(line), Ok(column)) = (u32::try_from(line), u32::try_from(column)) else {
            return self.span.end;
        };
        let place = match line {
            0 => start,
            1 => Location {
                line: start.line,
                column: start.column.saturating_add(column.saturating_sub(1)),
            },
            _ => Location {
                line: start.line.saturating_add(line - 1),
                column: column.max(1),
            },
        };
        place.min(self.span.end)
    }

    /// The file's span between two `(line, column)` of the text, as sqlparser
    /// and DataFusion give them: the end is the place after the last character.
    /// The whole text where the start is unknown (`(0, 0)`).
    pub fn span_between(&self, start: (u64, u64), end: (u64, u64)) -> Span {
        if start.0 == 0 {
            return self.span.clone();
        }
        let start = self.location(start.0, start.1);
        Span {
            file: Arc::clone(&self.span.file),
            start,
            end: self.location(end.0, end.1).max(start),
        }
    }

    /// The file's span of bytes of the text.
    pub fn span_of(&self, bytes: Range<usize>) -> Span {
        let place = |byte| {
            let inside = location_of(&self.text, byte);
            self.location(u64::from(inside.line), u64::from(inside.column))
        };
        let start = place(bytes.start);
        Span {
            file: Arc::clone(&self.span.file),
            start,
            end: place(bytes.end).max(start),
        }
    }

    /// Where a name stands first in the text, folded as DataFusion folds it;
    /// strings and comments do not count. For errors that come without a place.
    pub fn find_name(&self, name: &str) -> Option<Span> {
        let mut tokens = Vec::new();
        // What stands before a fault of the text is searched all the same.
        let _ = Tokenizer::new(&GenericDialect {}, &self.text)
            .tokenize_with_location_into_buf(&mut tokens);
        let found = tokens.iter().find(|t| match &t.token {
            Token::Word(word) if word.quote_style.is_some() => word.value == name,
            Token::Word(word) => word.value.to_ascii_lowercase() == name,
            _ => false,
        })?;
        let (start, end) = (found.span.start, found.span.end);
        Some(self.span_between((start.line, start.column), (end.line, end.column)))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub kind: StatementKind,
    /// From the first token to the last, without the `;`.
    pub span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatementKind {
    CreateEntity(CreateEntity),
    CreateExternalTable(CreateSource),
    CreateView(CreateSource),
    CreateStream(CreateStream),
    EventTimeOf(EventTimeOf),
    CreateFeatureView(Box<CreateFeatureView>),
    CreateOnDemandView(CreateOnDemandView),
    CreateService(CreateService),
    Grant(GrantStatement),
    Comment(CommentOn),
    /// `CREATE ..` of this name that did not parse. Its errors are told
    /// already; who checks names takes this one as known, of any sort.
    Broken(Ident),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnDef {
    pub name: Ident,
    pub data_type: FeatureType,
    pub type_span: Span,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateEntity {
    pub name: Ident,
    pub keys: Vec<ColumnDef>,
    pub comment: Option<String>,
}

/// A statement of DataFusion's that names a table; `sql` is the whole statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateSource {
    pub name: Ident,
    pub sql: SqlText,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AnnotationClauses {
    pub owner: Option<String>,
    pub tags: BTreeMap<String, String>,
    pub comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateStream {
    pub name: Ident,
    pub columns: Vec<ColumnDef>,
    pub event_time: Ident,
    pub deduplicate_by: Vec<Ident>,
    pub history: Option<Ident>,
    pub then_by: Vec<Ident>,
    pub annotations: AnnotationClauses,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventTimeOf {
    pub relation: Ident,
    pub event_time: Ident,
    pub created_time: Option<Ident>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServeClause {
    Online,
    Query { cache_for: Option<Interval> },
    Offline,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateFeatureView {
    pub name: Ident,
    pub entities: Vec<Ident>,
    pub event_time: Option<Ident>,
    pub created_time: Option<Ident>,
    pub then_by: Vec<Ident>,
    pub ttl: Option<(Interval, Span)>,
    pub max_events: Option<(u64, Span)>,
    pub refresh_every: Option<(Interval, Span)>,
    pub serve: Option<(ServeClause, Span)>,
    pub annotations: AnnotationClauses,
    pub query: SqlText,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateOnDemandView {
    pub name: Ident,
    pub inputs: Vec<ColumnDef>,
    pub annotations: AnnotationClauses,
    /// The text between SELECT and FROM.
    pub select: SqlText,
    pub from: Vec<FromItem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreateService {
    pub name: Ident,
    pub annotations: AnnotationClauses,
    pub items: Vec<ServiceItem>,
    pub from: Vec<FromItem>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServiceItem {
    /// `view.feature [AS alias]`
    Feature {
        view: Ident,
        feature: Ident,
        alias: Option<Ident>,
    },
    /// `view.*`
    All { view: Ident },
    /// `sum(contact.x) AS y`: aggregates over a view that is bound with EACH.
    Expression { sql: SqlText, alias: Option<Ident> },
}

/// `view [AS alias] [KEY (key => expression, ..)]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FromItem {
    pub view: Ident,
    pub alias: Option<Ident>,
    pub keys: Vec<KeyClause>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyClause {
    pub key: Ident,
    /// `EACH` was written.
    pub each: bool,
    pub source: KeyExpression,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyExpression {
    /// A bare name: a key column of the request.
    Name(Ident),
    /// `alias.feature`
    Feature { alias: Ident, feature: Ident },
    /// Anything else.
    Sql(SqlText),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrantStatement {
    pub revoke: bool,
    /// `FEATURE SERVICE` or `FEATURE VIEW`
    pub on_service: bool,
    pub object: Ident,
    pub role: Ident,
}

/// What a statement says an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObjectSort {
    Entity,
    Table,
    View,
    Stream,
    FeatureView,
    OnDemandView,
    FeatureService,
}

/// As SQL writes it: `FEATURE VIEW`.
impl fmt::Display for ObjectSort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Entity => "ENTITY",
            Self::Table => "TABLE",
            Self::View => "VIEW",
            Self::Stream => "STREAM",
            Self::FeatureView => "FEATURE VIEW",
            Self::OnDemandView => "ON DEMAND FEATURE VIEW",
            Self::FeatureService => "FEATURE SERVICE",
        })
    }
}

/// `COMMENT ON {ENTITY | TABLE | VIEW | STREAM | FEATURE VIEW | ON DEMAND FEATURE VIEW | FEATURE SERVICE | COLUMN} x IS 'text'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommentOn {
    /// `None` for `COLUMN`.
    pub sort: Option<ObjectSort>,
    pub object: Ident,
    /// `Some` for `COLUMN object.column`.
    pub column: Option<Ident>,
    /// `None` for `IS NULL`.
    pub comment: Option<String>,
}
