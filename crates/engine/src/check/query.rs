//! A query of the definitions, parsed: what it reads and what it calls.
//!
//! Places of sqlparser and DataFusion are relative to the text that they were
//! given; [`Query::span`] leads them back to the file.

use std::collections::BTreeSet;
use std::ops::ControlFlow;

use datafusion::common::TableReference;
use datafusion::error::DataFusionError;
use datafusion::execution::SessionState;
use datafusion::logical_expr::Volatility;
use datafusion::sql::parser::Statement as ParsedStatement;
use datafusion::sql::sqlparser::ast::{
    self, Function, ObjectName, Spanned, visit_expressions, visit_relations,
};
use datafusion::sql::sqlparser::tokenizer;
use granary_model::statement::SqlText;
use granary_model::{Diagnostic, Span};

use crate::engine::AS_OF_FUNCTION;

/// A parsed query with the text that it stands in.
#[derive(Debug)]
pub(super) struct Query<'a> {
    pub(super) text: &'a SqlText,
    /// Lines that were put before the text to make a query of it.
    lines_before: u64,
    statement: ParsedStatement,
}

impl<'a> Query<'a> {
    /// Parses a whole query or `CREATE VIEW`.
    pub(super) fn parse(state: &SessionState, text: &'a SqlText) -> Result<Self, DataFusionError> {
        Self::parse_within(state, text, &text.text, 0)
    }

    /// Parses `sql`, in which `text` begins after some lines.
    pub(super) fn parse_within(
        state: &SessionState,
        text: &'a SqlText,
        sql: &str,
        lines_before: u64,
    ) -> Result<Self, DataFusionError> {
        let dialect = state.config_options().sql_parser.dialect;
        let statement = state.sql_to_statement(sql, &dialect)?;
        let query = Self {
            text,
            lines_before,
            statement,
        };
        if query.ast().is_none() {
            return Err(DataFusionError::Plan("a query was expected".into()));
        }
        Ok(query)
    }

    /// The syntax tree of the query itself.
    pub(super) fn ast(&self) -> Option<&ast::Query> {
        match &self.statement {
            ParsedStatement::Statement(statement) => match statement.as_ref() {
                ast::Statement::Query(query) => Some(query),
                ast::Statement::CreateView(view) => Some(&view.query),
                _ => None,
            },
            _ => None,
        }
    }

    /// The whole statement, for DataFusion's planner.
    pub(super) fn statement(&self) -> ParsedStatement {
        self.statement.clone()
    }

    /// Where in the file a place of the syntax tree is; the whole text where it is unknown.
    pub(super) fn span(&self, span: tokenizer::Span) -> Span {
        self.span_between(
            (span.start.line, span.start.column),
            (span.end.line, span.end.column),
        )
    }

    pub(super) fn span_between(&self, start: (u64, u64), end: (u64, u64)) -> Span {
        let up = |(line, column): (u64, u64)| (line.saturating_sub(self.lines_before), column);
        self.text.span_between(up(start), up(end))
    }

    /// The relations that the query names, common table expressions aside,
    /// each with the place where it stands first.
    pub(super) fn reads(&self, state: &SessionState) -> Result<Vec<Read>, DataFusionError> {
        let mut reads = Vec::new();
        for table in state.resolve_table_references(&self.statement)? {
            if state.table_functions().contains_key(table.table()) {
                continue;
            }
            let name = match &table {
                TableReference::Bare { table } => table.to_string(),
                TableReference::Partial { schema, table } if schema.as_ref() == "public" => {
                    table.to_string()
                }
                other => other.to_string(),
            };
            let span = self
                .relation_span(&table)
                .or_else(|| self.text.find_name(table.table()))
                .unwrap_or_else(|| self.text.span.clone());
            reads.push(Read { name, span });
        }
        Ok(reads)
    }

    fn relation_span(&self, table: &TableReference) -> Option<Span> {
        let mut found = None;
        let _ = visit_relations(self.ast()?, |relation: &ObjectName| {
            if last_part(relation).as_deref() == Some(table.table()) {
                found = Some(self.span(relation.span()));
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        found
    }

    /// What the query calls and may not.
    pub(super) fn refused_calls(&self, state: &SessionState) -> Vec<Diagnostic> {
        let mut refused = Vec::new();
        let mut told = BTreeSet::new();
        let Some(ast) = self.ast() else {
            return refused;
        };
        let _ = visit_expressions(ast, |expression: &ast::Expr| {
            if let ast::Expr::Function(function) = expression {
                let name = last_part(&function.name).unwrap_or_default();
                let span = self.span(function.name.span());
                if told.insert((span.start, name.clone())) {
                    refused.extend(refusal(state, &name, function, &span));
                }
            }
            ControlFlow::<()>::Continue(())
        });
        refused
    }
}

/// A relation that a query names.
#[derive(Debug, Clone)]
pub(super) struct Read {
    pub(super) name: String,
    pub(super) span: Span,
}

/// Why a function may not be called.
fn refusal(
    state: &SessionState,
    name: &str,
    function: &Function,
    span: &Span,
) -> Option<Diagnostic> {
    let scalar = state.scalar_functions().get(name)?;
    let message = match scalar.signature().volatility {
        _ if name == AS_OF_FUNCTION => return None,
        Volatility::Immutable => return None,
        Volatility::Stable => {
            format!("{} is when the query happens to run", written(function))
        }
        Volatility::Volatile => {
            format!("{} gives another value at each call", written(function))
        }
    };
    let help = "use as_of(): the time of the run, of the training row or of the read";
    Some(Diagnostic::new(span, message).help(help))
}

fn written(function: &Function) -> String {
    match &function.args {
        ast::FunctionArguments::None => function.name.to_string(),
        _ => format!("{}()", function.name),
    }
}

/// The last part of a name, folded unless it is quoted.
pub(super) fn last_part(name: &ObjectName) -> Option<String> {
    name.0.last()?.as_ident().map(folded)
}

/// A name as DataFusion folds it.
pub(super) fn folded(ident: &ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}
