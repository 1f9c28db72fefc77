//! Queries, kept as text: where they end, and what can't stand in any.

use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed};
use super::lexer::Lexeme;
use crate::diagnostic::Diagnostic;
use crate::statement::SqlText;
use crate::suggest::closest;

/// Clauses of ours that are found behind a query, where they don't belong.
/// The second word, or a token that only a clause has there, makes it certain.
const MISPLACED: [(&[&str], &str); 10] = [
    (&["TTL", "INTERVAL"], "TTL"),
    (&["REFRESH", "EVERY"], "REFRESH EVERY"),
    (&["SERVE", "ONLINE"], "SERVE"),
    (&["SERVE", "QUERY"], "SERVE"),
    (&["SERVE", "OFFLINE"], "SERVE"),
    (&["MAX", "EVENTS"], "MAX EVENTS"),
    (&["EVENT", "TIME"], "EVENT TIME"),
    (&["CREATED", "TIME"], "CREATED TIME"),
    (&["OWNER"], "OWNER"),
    (&["COMMENT"], "COMMENT"),
];

/// The query that the rest of the statement is.
pub(super) fn query(cursor: &mut Cursor<'_>) -> Parsed<SqlText> {
    let mark = cursor.mark();
    let opens = ["SELECT", "WITH", "VALUES", "FROM", "TABLE"];
    if !opens.iter().any(|word| cursor.is_words(&[word])) && !cursor.is_token(&Token::LParen) {
        let error = cursor.expected("a query");
        let slip = cursor.peek().and_then(Lexeme::bare_word).unwrap_or("");
        return Err(match closest(slip, ["SELECT", "WITH"]) {
            Some(meant) => error.help(format!("did you mean {meant}?")),
            None => error.help("write AS SELECT .."),
        });
    }
    scan(cursor)?;
    Ok(cursor.text(mark..cursor.len()))
}

/// The whole statement as text, looked through like a query.
pub(super) fn whole_statement(cursor: &mut Cursor<'_>) -> Parsed<SqlText> {
    cursor.reset(0);
    cursor.skip_until(|_| false)?;
    Ok(cursor.text(0..cursor.len()))
}

/// Reads on to the end: parentheses match, no clause of ours stands here, and
/// nothing that is reserved.
fn scan(cursor: &mut Cursor<'_>) -> Parsed<()> {
    let start = cursor.mark();
    // Reserved forms count wherever they stand, subqueries too.
    while !cursor.at_end() {
        let mark = cursor.mark();
        if cursor.eat_words(&["FOR", "SYSTEM_TIME", "AS", "OF"]) {
            return Err(Diagnostic::new(
                &cursor.span_since(mark),
                "FOR SYSTEM_TIME AS OF is not served by this version",
            )
            .help("join the view's sources instead, with a condition on their event time"));
        }
        cursor.next();
    }
    cursor.reset(start);
    cursor.skip_until(|c| misplaced(c).is_some())?;
    let Some(clause) = misplaced(cursor) else {
        return Ok(());
    };
    let message = format!("{clause} stands behind the query");
    Err(Diagnostic::new(&cursor.here(), message)
        .help("clauses come before AS, the query comes last"))
}

fn misplaced(cursor: &Cursor<'_>) -> Option<&'static str> {
    // Most lexemes open no clause: look at the first word before the rest.
    let (words, clause) = MISPLACED.iter().find(|(words, _)| cursor.is_words(words))?;
    let next = cursor.peek_at(words.len()).map(|l| &l.token);
    let certain = match *clause {
        "OWNER" | "COMMENT" => matches!(next, Some(Token::SingleQuotedString(_))),
        "MAX EVENTS" => matches!(next, Some(Token::Number(..))),
        "EVENT TIME" | "CREATED TIME" => matches!(next, Some(Token::Word(_))),
        _ => true,
    };
    certain.then_some(clause)
}
