//! From text to statements.
//!
//! The lexer cuts a file into statements with sqlparser's tokens; a recursive
//! descent reads Granary's own, one module a family of statements. What is
//! DataFusion's stays text: whether a query is right is for `granary-engine` to
//! say, which knows the tables. Here only its parentheses are looked at, and
//! what can't stand in any.

mod clauses;
mod create;
mod cursor;
mod feature_type;
mod grants;
mod lexer;
mod query;
mod select;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::cursor::{Cursor, Parsed};
use self::lexer::{Lexeme, RawStatement};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile};
use crate::statement::{Statement, StatementKind};
use crate::suggest::closest;

pub use feature_type::TypeError;

/// Parses a file. After a syntax error parsing goes on at the next top-level
/// `;`, so that one call tells of every error there is, in their order.
///
/// A `CREATE` with an error comes out as [`StatementKind::Broken`], any other
/// statement with one not at all.
pub fn parse_file(file: &Arc<SourceFile>) -> (Vec<Statement>, Diagnostics) {
    let mut diagnostics = Diagnostics::default();
    let statements = lexer::split(file, &mut diagnostics)
        .into_iter()
        .filter_map(|raw| parse_statement(file, &raw, &mut diagnostics))
        .collect();
    diagnostics.sort();
    (statements, diagnostics)
}

fn parse_statement(
    file: &Arc<SourceFile>,
    raw: &RawStatement,
    diagnostics: &mut Diagnostics,
) -> Option<Statement> {
    let mut told = Diagnostics::default();
    let mut cursor = Cursor::new(file, &raw.lexemes, &mut told);
    let span = cursor.whole();
    let result = statement(&mut cursor);
    let defined = cursor.defined();
    let kind = match result {
        Ok(kind) if told.is_empty() && !raw.faulty => Some(kind),
        result => {
            told.extend(result.err());
            defined.map(StatementKind::Broken)
        }
    };
    // What a fault of the text leads to is not told: the fault is.
    if !raw.faulty {
        diagnostics.extend(told);
    }
    kind.map(|kind| Statement { kind, span })
}

const STATEMENTS: &str = "definitions are CREATE, EVENT TIME OF, GRANT, REVOKE and COMMENT ON";

fn statement(cursor: &mut Cursor<'_>) -> Parsed<StatementKind> {
    let first = cursor
        .peek()
        .and_then(Lexeme::bare_word)
        .map(str::to_ascii_uppercase)
        .unwrap_or_default();
    match first.as_str() {
        "CREATE" => create::create(cursor),
        "EVENT" => grants::event_time_of(cursor).map(StatementKind::EventTimeOf),
        "GRANT" | "REVOKE" => grants::grant(cursor).map(StatementKind::Grant),
        "COMMENT" => grants::comment_on(cursor).map(StatementKind::Comment),
        other => Err(no_definition(cursor, other)),
    }
}

/// The error for a statement that definitions have no place for.
fn no_definition(cursor: &Cursor<'_>, first: &str) -> Diagnostic {
    let error = |message: String| Diagnostic::new(&cursor.here(), message);
    match first {
        "" => cursor.expected("a statement").help(STATEMENTS),
        "SELECT" | "WITH" | "VALUES" | "EXPLAIN" | "SHOW" | "DESCRIBE" | "DESC" => {
            error(format!("{first} defines nothing"))
                .help("try a query with granary sql, or keep it as CREATE VIEW name AS ..")
        }
        "INSERT" | "UPDATE" | "DELETE" | "MERGE" | "COPY" | "TRUNCATE" => {
            error(format!("{first} changes data, and definitions hold none"))
                .help("write the data to files and name them in CREATE EXTERNAL TABLE")
        }
        "DROP" => error("DROP is not needed".to_owned())
            .help("remove the definition from the files: apply drops what they no longer have"),
        "ALTER" => error("ALTER is not needed".to_owned())
            .help("change the CREATE statement: apply sees what is different"),
        "SET" | "RESET" | "USE" | "BEGIN" | "START" | "COMMIT" | "ROLLBACK" | "PREPARE"
        | "EXECUTE" | "ANALYZE" | "REFRESH" => {
            error(format!("{first} is no definition")).help(STATEMENTS)
        }
        _ => {
            let openings = ["CREATE", "EVENT", "GRANT", "REVOKE", "COMMENT"];
            let unknown = error(format!("unknown statement {}", cursor.found()));
            match closest(first, openings) {
                Some(meant) => unknown.help(format!("did you mean {meant}?")),
                None => unknown.help(STATEMENTS),
            }
        }
    }
}
