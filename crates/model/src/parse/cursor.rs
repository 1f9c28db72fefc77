//! Reading one statement lexeme by lexeme, and saying what was expected.
//!
//! A fault of grammar ends the statement: methods give `Err` with the message.
//! A fault of meaning that leaves the grammar whole (a bad number) is
//! [`Cursor::tell`], and reading goes on, so that one look finds them all.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::tokenizer::Token;

use super::lexer::Lexeme;
use crate::diagnostic::{Diagnostic, Diagnostics, Location, SourceFile, Span};
use crate::statement::{Ident, SqlText};
use crate::suggest::closest;

pub(super) type Parsed<T> = Result<T, Diagnostic>;

/// Words that are never a name unless quoted: they would hide a missing one.
pub(super) const RESERVED: [&str; 22] = [
    "AND", "AS", "BY", "CREATE", "FROM", "GRANT", "GROUP", "HAVING", "IN", "IS", "JOIN", "LIMIT",
    "NOT", "NULL", "ON", "OR", "ORDER", "SELECT", "UNION", "WHERE", "WINDOW", "WITH",
];

pub(super) struct Cursor<'a> {
    file: &'a Arc<SourceFile>,
    lexemes: &'a [Lexeme],
    at: usize,
    diagnostics: &'a mut Diagnostics,
    defined: Option<Ident>,
}

impl<'a> Cursor<'a> {
    /// `lexemes` must not be empty.
    pub(super) fn new(
        file: &'a Arc<SourceFile>,
        lexemes: &'a [Lexeme],
        diagnostics: &'a mut Diagnostics,
    ) -> Self {
        Self {
            file,
            lexemes,
            at: 0,
            diagnostics,
            defined: None,
        }
    }

    /// Remembers the name that the statement defines.
    pub(super) fn define(&mut self, name: &Ident) {
        self.defined = Some(name.clone());
    }

    /// The name that the statement defines, if it got so far.
    pub(super) fn defined(self) -> Option<Ident> {
        self.defined
    }

    /// Tells of something wrong that leaves the rest of the statement readable.
    pub(super) fn tell(&mut self, diagnostic: Diagnostic) {
        self.diagnostics.push(diagnostic);
    }

    pub(super) fn peek(&self) -> Option<&'a Lexeme> {
        self.peek_at(0)
    }

    pub(super) fn peek_at(&self, ahead: usize) -> Option<&'a Lexeme> {
        self.lexemes.get(self.at + ahead)
    }

    pub(super) fn next(&mut self) -> Option<&'a Lexeme> {
        let lexeme = self.peek()?;
        self.at += 1;
        Some(lexeme)
    }

    pub(super) fn at_end(&self) -> bool {
        self.at >= self.lexemes.len()
    }

    /// How many lexemes were read: to be given to [`Self::span_since`].
    pub(super) fn mark(&self) -> usize {
        self.at
    }

    /// Goes back to a mark.
    pub(super) fn reset(&mut self, mark: usize) {
        self.at = mark;
    }

    /// From the lexeme at `mark` to the last that was read.
    pub(super) fn span_since(&self, mark: usize) -> Span {
        self.span_of(mark..self.at)
    }

    /// The present lexeme, or the place behind the last one.
    pub(super) fn here(&self) -> Span {
        self.span_of(self.at..self.at + 1)
    }

    /// The whole statement.
    pub(super) fn whole(&self) -> Span {
        self.span_of(0..self.lexemes.len())
    }

    fn span_of(&self, range: Range<usize>) -> Span {
        let behind = || self.lexemes.last().map_or(Location::START, |l| l.end);
        let start = self
            .lexemes
            .get(range.start)
            .map_or_else(behind, |l| l.start);
        let end = self.lexemes[..range.end.min(self.lexemes.len())]
            .get(range.start..)
            .and_then(<[Lexeme]>::last)
            .map_or(start, |l| l.end);
        Span {
            file: Arc::clone(self.file),
            start,
            end,
        }
    }

    /// The file's text from the lexeme at `range.start` to the one before `range.end`.
    pub(super) fn text(&self, range: Range<usize>) -> SqlText {
        let span = self.span_of(range.clone());
        let bytes = match (self.lexemes.get(range.start), range.end.checked_sub(1)) {
            (Some(first), Some(last)) if last >= range.start => {
                let last = self.lexemes.get(last).unwrap_or(first);
                first.bytes.start..last.bytes.end
            }
            _ => 0..0,
        };
        SqlText {
            text: self.file.text[bytes].to_owned(),
            span,
        }
    }

    /// The number of lexemes of the statement.
    pub(super) fn len(&self) -> usize {
        self.lexemes.len()
    }

    pub(super) fn is_token(&self, token: &Token) -> bool {
        self.peek().is_some_and(|l| l.token == *token)
    }

    pub(super) fn eat(&mut self, token: &Token) -> bool {
        let found = self.is_token(token);
        self.at += usize::from(found);
        found
    }

    pub(super) fn is_words(&self, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(i, word)| self.peek_at(i).is_some_and(|l| l.is_word(word)))
    }

    /// The lexeme before this one.
    pub(super) fn before(&self) -> Option<&'a Lexeme> {
        self.lexemes.get(self.at.checked_sub(1)?)
    }

    /// Reads these words if all of them stand here.
    pub(super) fn eat_words(&mut self, words: &[&str]) -> bool {
        let found = self.is_words(words);
        self.at += if found { words.len() } else { 0 };
        found
    }

    /// What stands here, for a message: `"KYE"`, `(`, `the end of the statement`.
    pub(super) fn found(&self) -> String {
        let Some(lexeme) = self.peek() else {
            return "the end of the statement".to_owned();
        };
        let text = &self.file.text[lexeme.bytes.clone()];
        match &lexeme.token {
            Token::Word(_) | Token::Number(..) => {
                let mut shown: String =
                    text.chars().take(40).flat_map(char::escape_debug).collect();
                // Quotes of quoted names are not escaped, only what would break the line.
                shown = shown.replace("\\\"", "\"").replace("\\'", "'");
                if text.chars().count() > 40 {
                    shown.push_str("...");
                }
                shown
            }
            _ if text.ends_with(['\'', '"', '$']) && text.len() > 1 => "a string".to_owned(),
            _ => text.escape_debug().to_string(),
        }
    }

    /// `expected X, found Y` at the present place.
    pub(super) fn expected(&self, what: &str) -> Diagnostic {
        let message = format!("expected {what}, found {}", self.found());
        Diagnostic::new(&self.here(), message)
    }

    /// These words, or an error that guesses at a misspelt one.
    pub(super) fn expect_words(&mut self, words: &[&str], help: &str) -> Parsed<()> {
        for word in words {
            if !self.eat_words(&[word]) {
                let error = self.expected(word);
                let slip = self.peek().and_then(Lexeme::bare_word);
                return Err(match slip.and_then(|s| closest(s, [*word])) {
                    Some(meant) => error.help(format!("did you mean {meant}? {help}")),
                    None => error.help(help),
                });
            }
        }
        Ok(())
    }

    pub(super) fn expect(&mut self, token: &Token, help: &str) -> Parsed<()> {
        if self.eat(token) {
            return Ok(());
        }
        Err(self.expected(&token.to_string()).help(help))
    }

    /// Nothing may follow.
    pub(super) fn expect_end(&self, help: &str) -> Parsed<()> {
        if self.at_end() {
            return Ok(());
        }
        Err(self.expected("the end of the statement").help(help))
    }

    /// A name: `what` says of what, as in `an entity's name`.
    pub(super) fn name(&mut self, what: &str) -> Parsed<Ident> {
        let span = self.here();
        let error = self.expected(what);
        let value = match self.peek().map(|l| &l.token) {
            Some(Token::Word(word)) if word.quote_style.is_some() => word.value.clone(),
            Some(Token::Word(word)) => {
                if RESERVED.iter().any(|r| r.eq_ignore_ascii_case(&word.value)) {
                    return Err(error.help(format!(
                        "a name is missing; one that is called so is quoted: \"{}\"",
                        word.value.to_ascii_lowercase()
                    )));
                }
                word.value.to_ascii_lowercase()
            }
            Some(Token::SingleQuotedString(text)) => {
                let quoted = format!("\"{}\"", text.replace('"', "\"\""));
                return Err(error.help(format!(
                    "strings are in single quotes, names in double quotes or none: {quoted}"
                )));
            }
            Some(Token::Number(..)) => {
                return Err(error.help("a name that starts with a digit is quoted"));
            }
            _ => return Err(error.help("a name is a word, or any text in double quotes")),
        };
        if value.is_empty() {
            return Err(Diagnostic::new(&span, "an empty name").help(format!("expected {what}")));
        }
        self.at += 1;
        Ok(Ident { value, span })
    }

    /// A name behind a period, where keywords are names too.
    pub(super) fn part(&mut self, what: &str) -> Parsed<Ident> {
        let span = self.here();
        let Some(word) = self.peek().and_then(Lexeme::bare_word) else {
            return self.name(what);
        };
        let value = word.to_ascii_lowercase();
        self.at += 1;
        Ok(Ident { value, span })
    }

    /// A name that must stand alone: objects have one name, without a schema.
    pub(super) fn object_name(&mut self, what: &str) -> Parsed<Ident> {
        let mark = self.mark();
        let name = self.name(what)?;
        if !self.is_token(&Token::Period) {
            if self.is_token(&Token::Minus) {
                return Err(Diagnostic::new(&self.here(), "a name has no -")
                    .help("write _, or put the name in double quotes"));
            }
            return Ok(name);
        }
        while self.eat(&Token::Period) && self.peek().is_some() {
            self.at += 1;
        }
        Err(
            Diagnostic::new(&self.span_since(mark), "a name of several parts")
                .help(format!("expected {what} alone: there are no schemas")),
        )
    }

    /// A string; `what` says of what.
    pub(super) fn string(&mut self, what: &str) -> Parsed<String> {
        let value = match self.peek().map(|l| &l.token) {
            Some(Token::SingleQuotedString(text) | Token::EscapedStringLiteral(text)) => {
                text.clone()
            }
            Some(Token::DollarQuotedString(text)) => text.value.clone(),
            Some(Token::Word(word)) => {
                let help = format!("put it in single quotes: '{}'", word.value);
                return Err(self.expected(what).help(help));
            }
            _ => return Err(self.expected(what).help("strings are in single quotes")),
        };
        self.at += 1;
        Ok(value)
    }

    /// `( item, item, .. )`, at least one item. `usage` is how the whole is written.
    pub(super) fn list<T>(
        &mut self,
        usage: &str,
        mut item: impl FnMut(&mut Self) -> Parsed<T>,
    ) -> Parsed<Vec<T>> {
        let open = self.mark();
        self.expect(&Token::LParen, &format!("write {usage}"))?;
        let mut items = Vec::new();
        loop {
            if self.is_token(&Token::RParen) {
                let error = if items.is_empty() {
                    let both = self.span_of(open..self.at + 1);
                    Diagnostic::new(&both, "nothing stands between ( and )")
                } else {
                    let comma = self.span_of(self.at - 1..self.at);
                    Diagnostic::new(&comma, "nothing follows the comma")
                };
                return Err(error.help(format!("write {usage}")));
            }
            items.push(item(self)?);
            if self.eat(&Token::RParen) {
                return Ok(items);
            }
            if self.at_end() {
                return Err(self.never_closed(open));
            }
            if !self.eat(&Token::Comma) {
                return Err(self.expected(", or )").help(format!("write {usage}")));
            }
        }
    }

    /// The error for the parenthesis or bracket at `at`.
    pub(super) fn never_closed(&self, at: usize) -> Diagnostic {
        let (open, close) = match self.lexemes.get(at).map(|l| &l.token) {
            Some(Token::LBracket) => ('[', ']'),
            Some(Token::LBrace) => ('{', '}'),
            _ => ('(', ')'),
        };
        let message = format!("this {open} is never closed");
        Diagnostic::new(&self.span_of(at..at + 1), message).help(format!("close it with {close}"))
    }

    /// Reads on to the end of the parentheses that are open here or to one of
    /// the stops outside of any; the stop is not read. Told an error where a
    /// parenthesis does not match.
    pub(super) fn skip_until(&mut self, stop: impl Fn(&Self) -> bool) -> Parsed<()> {
        let mut open: Vec<(usize, Token)> = Vec::new();
        while let Some(lexeme) = self.peek() {
            if open.is_empty() && stop(self) {
                return Ok(());
            }
            match &lexeme.token {
                Token::LParen => open.push((self.at, Token::RParen)),
                Token::LBracket => open.push((self.at, Token::RBracket)),
                Token::LBrace => open.push((self.at, Token::RBrace)),
                Token::RParen | Token::RBracket | Token::RBrace
                    if open.pop().is_none_or(|(_, close)| close != lexeme.token) =>
                {
                    let message = format!("this {} closes nothing", self.found());
                    return Err(Diagnostic::new(&self.here(), message).help("remove it"));
                }
                _ => {}
            }
            self.at += 1;
        }
        match open.pop() {
            None => Ok(()),
            Some((at, _)) => Err(self.never_closed(at)),
        }
    }

    /// Tells of names that stand twice, and drops the later ones.
    pub(super) fn drop_repeated<T>(
        &mut self,
        items: Vec<T>,
        name: impl Fn(&T) -> &Ident,
    ) -> Vec<T> {
        let mut kept: Vec<T> = Vec::with_capacity(items.len());
        for item in items {
            let ident = name(&item);
            if kept.iter().any(|k| name(k).value == ident.value) {
                let message = format!("{} stands twice", ident.value);
                self.tell(Diagnostic::new(&ident.span, message).help("remove one of them"));
            } else {
                kept.push(item);
            }
        }
        kept
    }
}
