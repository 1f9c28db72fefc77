//! Statements as written: the syntax tree of a project's SQL files.
//!
//! [`parse`] splits a file into statements with sqlparser's tokens and parses
//! Granary's own; `CREATE EXTERNAL TABLE` and `CREATE VIEW`, and every query,
//! are kept as text with a span, for DataFusion to parse.

use std::collections::BTreeMap;

use crate::{FeatureType, Interval, Span};

/// A name, folded to lower case unless it was quoted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ident {
    pub value: String,
    pub span: Span,
}

/// SQL text kept for DataFusion. `span.start` is where `text` starts in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SqlText {
    pub text: String,
    pub span: Span,
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

/// `COMMENT ON {ENTITY | TABLE | VIEW | STREAM | FEATURE VIEW | FEATURE SERVICE | COLUMN} x IS 'text'`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommentOn {
    pub object: Ident,
    /// `Some` for `COLUMN object.column`.
    pub column: Option<Ident>,
    pub comment: Option<String>,
}
