//! The clauses that statements share: which there are, which stands where, and
//! what each holds.

use std::collections::BTreeMap;

use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed};
use super::feature_type::feature_type;
use super::lexer::Lexeme;
use crate::Interval;
use crate::diagnostic::{Diagnostic, Span};
use crate::statement::{AnnotationClauses, ColumnDef, Ident};
use crate::suggest::closest;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clause {
    Key,
    Entity,
    EventTime,
    CreatedTime,
    ThenBy,
    DeduplicateBy,
    History,
    Input,
    Ttl,
    MaxEvents,
    RefreshEvery,
    Serve,
    Owner,
    Tags,
    Comment,
    As,
}

/// Every clause, the words that open it and how it is written.
const CLAUSES: [(Clause, &[&str], &str); 16] = [
    (Clause::Key, &["KEY"], "KEY (column type, ..)"),
    (Clause::Entity, &["ENTITY"], "ENTITY name"),
    (Clause::EventTime, &["EVENT", "TIME"], "EVENT TIME column"),
    (
        Clause::CreatedTime,
        &["CREATED", "TIME"],
        "CREATED TIME column",
    ),
    (Clause::ThenBy, &["THEN", "BY"], "THEN BY (column, ..)"),
    (
        Clause::DeduplicateBy,
        &["DEDUPLICATE", "BY"],
        "DEDUPLICATE BY (column, ..)",
    ),
    (Clause::History, &["HISTORY"], "HISTORY table"),
    (Clause::Input, &["INPUT"], "INPUT (column type, ..)"),
    (Clause::Ttl, &["TTL"], "TTL INTERVAL '30 days'"),
    (Clause::MaxEvents, &["MAX", "EVENTS"], "MAX EVENTS 1000"),
    (
        Clause::RefreshEvery,
        &["REFRESH", "EVERY"],
        "REFRESH EVERY INTERVAL '1 day'",
    ),
    (
        Clause::Serve,
        &["SERVE"],
        "SERVE ONLINE, SERVE QUERY [CACHE FOR interval] or SERVE OFFLINE",
    ),
    (Clause::Owner, &["OWNER"], "OWNER 'team'"),
    (Clause::Tags, &["TAGS"], "TAGS (name = 'value', ..)"),
    (Clause::Comment, &["COMMENT"], "COMMENT 'text'"),
    (Clause::As, &["AS"], "AS SELECT .."),
];

impl Clause {
    fn entry(self) -> &'static (Clause, &'static [&'static str], &'static str) {
        // Every clause has an entry; the first stands in for the impossible.
        CLAUSES
            .iter()
            .find(|(clause, ..)| *clause == self)
            .unwrap_or(&CLAUSES[0])
    }

    /// The words that open it.
    pub(super) fn words(self) -> String {
        self.entry().1.join(" ")
    }

    /// An example of it.
    pub(super) fn usage(self) -> &'static str {
        self.entry().2
    }
}

/// The clauses of one statement: which it may have and which it had so far.
#[derive(Debug)]
pub(super) struct Clauses {
    /// `CREATE ENTITY`
    statement: &'static str,
    allowed: &'static [Clause],
    seen: Vec<(Clause, Span)>,
}

impl Clauses {
    pub(super) fn new(statement: &'static str, allowed: &'static [Clause]) -> Self {
        Self {
            statement,
            allowed,
            seen: Vec::new(),
        }
    }

    /// Where the clause stood.
    pub(super) fn seen(&self, clause: Clause) -> Option<&Span> {
        self.seen.iter().find(|(c, _)| *c == clause).map(|(_, s)| s)
    }

    /// Reads the words that open the next clause, or `None` at the statement's end.
    pub(super) fn next(&mut self, cursor: &mut Cursor<'_>) -> Parsed<Option<Clause>> {
        let Some(lexeme) = cursor.peek() else {
            return Ok(None);
        };
        let opened = CLAUSES
            .iter()
            .find(|(_, words, _)| lexeme.is_word(words[0]));
        let Some((clause, words, usage)) = opened else {
            return Err(self.unknown(cursor, lexeme));
        };
        let mark = cursor.mark();
        cursor.expect_words(words, &format!("write {usage}"))?;
        let span = cursor.span_since(mark);
        if !self.allowed.contains(clause) {
            let message = format!("{} has no {}", self.statement, clause.words());
            return Err(Diagnostic::new(&span, message).help(self.wanted()));
        }
        if let Some(first) = self.seen(*clause) {
            let message = format!("{} stands twice", clause.words());
            let help = format!(
                "keep one of them; the first is in line {}",
                first.start.line
            );
            cursor.tell(Diagnostic::new(&span, message).help(help));
        }
        self.seen.push((*clause, span));
        Ok(Some(*clause))
    }

    fn unknown(&self, cursor: &Cursor<'_>, lexeme: &Lexeme) -> Diagnostic {
        let error = cursor.expected("a clause");
        let openings = self.allowed.iter().map(|clause| clause.entry().1[0]);
        let meant = lexeme.bare_word().and_then(|word| closest(word, openings));
        let clause = |meant| CLAUSES.iter().find(|(_, words, _)| words[0] == meant);
        if let Some((clause, ..)) = meant.and_then(clause) {
            return error.help(format!("did you mean {}?", clause.words()));
        }
        if ["SELECT", "WITH"].iter().any(|word| lexeme.is_word(word)) {
            return error.help("write AS before the query");
        }
        error.help(self.wanted())
    }

    fn wanted(&self) -> String {
        let words: Vec<String> = self.allowed.iter().map(|clause| clause.words()).collect();
        format!("its clauses are {}", words.join(", "))
    }

    /// The error where a clause that must be there is not.
    pub(super) fn missing(&self, cursor: &Cursor<'_>, clause: Clause, why: &str) -> Diagnostic {
        let message = format!("{} has no {}: {why}", self.statement, clause.words());
        Diagnostic::new(&cursor.whole(), message).help(format!("write {}", clause.usage()))
    }
}

/// Reads OWNER, TAGS or COMMENT.
pub(super) fn annotation(
    cursor: &mut Cursor<'_>,
    clause: Clause,
    into: &mut AnnotationClauses,
) -> Parsed<()> {
    match clause {
        Clause::Owner => into.owner = Some(cursor.string("the owner")?),
        Clause::Tags => into.tags = tags(cursor)?,
        _ => into.comment = Some(cursor.string("the comment")?),
    }
    Ok(())
}

fn tags(cursor: &mut Cursor<'_>) -> Parsed<BTreeMap<String, String>> {
    let pairs = cursor.list(Clause::Tags.usage(), |cursor| {
        let name = cursor.name("a tag's name")?;
        cursor.expect(&Token::Eq, "a tag is name = 'value'")?;
        let value = cursor.string("the tag's value")?;
        Ok((name, value))
    })?;
    let pairs = cursor.drop_repeated(pairs, |(name, _)| name);
    Ok(pairs.into_iter().map(|(n, v)| (n.value, v)).collect())
}

/// `(column type, ..)`; `usage` is how the clause is written.
pub(super) fn columns(cursor: &mut Cursor<'_>, usage: &str) -> Parsed<Vec<ColumnDef>> {
    let columns = cursor.list(usage, |cursor| {
        let name = cursor.name("a column's name")?;
        let mark = cursor.mark();
        match feature_type(cursor) {
            Ok((data_type, type_span)) => Ok(Some(ColumnDef {
                name,
                data_type,
                type_span,
            })),
            // The list goes on behind a type that does not exist.
            Err(error) if cursor.mark() > mark => {
                cursor.tell(error);
                cursor.reset(mark);
                cursor.skip_until(|c| c.is_token(&Token::Comma) || c.is_token(&Token::RParen))?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    })?;
    let columns: Vec<ColumnDef> = columns.into_iter().flatten().collect();
    Ok(cursor.drop_repeated(columns, |column| &column.name))
}

/// `(column, ..)`; `usage` is how the clause is written.
pub(super) fn names(cursor: &mut Cursor<'_>, usage: &str) -> Parsed<Vec<Ident>> {
    let names = cursor.list(usage, |cursor| cursor.name("a column's name"))?;
    Ok(cursor.drop_repeated(names, |name| name))
}

/// An interval longer than nothing, as SQL writes it: `INTERVAL '7 days'`,
/// `INTERVAL '7' DAY`, `INTERVAL 7 DAY`. One that is no interval is told of and
/// read as `None`.
pub(super) fn interval(cursor: &mut Cursor<'_>, clause: &str) -> Parsed<Option<(Interval, Span)>> {
    let mark = cursor.mark();
    if !cursor.eat_words(&["INTERVAL"]) {
        return Err(no_interval(cursor, clause));
    }
    let text = interval_text(cursor)?;
    let span = cursor.span_since(mark);
    let help =
        "an interval is INTERVAL '7 days', INTERVAL '1 month 2 days' or INTERVAL '90 minutes'";
    match text.parse::<Interval>() {
        Ok(interval) if interval.is_positive() => return Ok(Some((interval, span))),
        Ok(_) => {
            let message = format!("{clause} needs an interval longer than nothing");
            cursor.tell(Diagnostic::new(&span, message).help(help));
        }
        Err(error) => cursor.tell(Diagnostic::new(&span, error.to_string()).help(help)),
    }
    Ok(None)
}

/// The quoted text, or the number, with the unit that may follow.
fn interval_text(cursor: &mut Cursor<'_>) -> Parsed<String> {
    let minus = if cursor.eat(&Token::Minus) { "-" } else { "" };
    let amount = match cursor.peek().map(|l| &l.token) {
        Some(Token::SingleQuotedString(text) | Token::Number(text, false)) => text.clone(),
        _ => {
            return Err(cursor
                .expected("the length of the interval")
                .help("write INTERVAL '7 days'"));
        }
    };
    cursor.next();
    let unit = cursor
        .peek()
        .and_then(Lexeme::bare_word)
        .filter(|word| crate::interval::is_unit(word));
    let Some(unit) = unit else {
        return Ok(format!("{minus}{amount}"));
    };
    cursor.next();
    if cursor.is_words(&["TO"]) {
        return Err(cursor
            .expected("the end of the interval")
            .help("write the parts in one string: INTERVAL '1 year 2 months'"));
    }
    Ok(format!("{minus}{amount} {unit}"))
}

/// Guesses at what was meant where INTERVAL is missing.
fn no_interval(cursor: &Cursor<'_>, clause: &str) -> Diagnostic {
    let error = cursor.expected("INTERVAL");
    let length = match cursor.peek().map(|l| &l.token) {
        Some(Token::SingleQuotedString(text)) => Some(text.clone()),
        Some(Token::Number(number, _)) => cursor
            .peek_at(1)
            .and_then(Lexeme::bare_word)
            .map(|unit| format!("{number} {}", unit.to_ascii_lowercase())),
        Some(Token::Word(word)) if closest(&word.value, ["INTERVAL"]).is_some() => {
            return error.help("did you mean INTERVAL?");
        }
        _ => None,
    };
    let length = length
        .filter(|text| text.parse::<Interval>().is_ok())
        .unwrap_or_else(|| "7 days".to_owned());
    error.help(format!("write {clause} INTERVAL '{length}'"))
}
