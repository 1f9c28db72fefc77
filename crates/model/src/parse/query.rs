//! Queries, kept as text: where they end, and what can't stand in any.

use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed, RESERVED};
use super::lexer::Lexeme;
use crate::diagnostic::Diagnostic;
use crate::statement::SqlText;
use crate::suggest::closest;

/// Clauses of ours that are found behind a query, where they don't belong.
const MISPLACED: [(&[&str], &str); 10] = [
    (&["TTL", "INTERVAL"], "TTL"),
    (&["REFRESH", "EVERY", "INTERVAL"], "REFRESH EVERY"),
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

/// The clause that starts here for certain: the same words may be a column and
/// its alias (`SELECT event time FROM t`).
fn misplaced(cursor: &Cursor<'_>) -> Option<&'static str> {
    let (words, clause) = MISPLACED.iter().find(|(words, _)| cursor.is_words(words))?;
    let next = cursor.peek_at(words.len());
    let token = next.map(|l| &l.token);
    let certain = match *clause {
        "OWNER" | "COMMENT" => matches!(token, Some(Token::SingleQuotedString(_))),
        "TTL" | "REFRESH EVERY" | "MAX EVENTS" => {
            matches!(
                token,
                Some(Token::SingleQuotedString(_) | Token::Number(..))
            )
        }
        "SERVE" => next.is_none_or(opens_clause),
        _ => matches!(token, Some(Token::Word(_))) && !next.is_some_and(goes_on),
    };
    certain.then_some(clause)
}

fn opens_clause(lexeme: &Lexeme) -> bool {
    MISPLACED.iter().any(|(words, _)| lexeme.is_word(words[0])) || lexeme.is_word("CACHE")
}

/// Whether the query goes on with this word, so that an alias stood before it.
fn goes_on(lexeme: &Lexeme) -> bool {
    const JOINS: [&str; 8] = [
        "LEFT",
        "RIGHT",
        "INNER",
        "FULL",
        "CROSS",
        "NATURAL",
        "EXCEPT",
        "INTERSECT",
    ];
    RESERVED
        .iter()
        .chain(&JOINS)
        .any(|word| lexeme.is_word(word))
}
