//! From text to lexemes, cut into statements.
//!
//! The tokens are those of sqlparser's generic dialect, since DataFusion reads
//! the kept queries with it. Its tokenizer gives up at the first fault (a quote
//! that is never closed); this module names the fault, finds where the next
//! statement starts and goes on there. It knows nothing of what statements mean.

use std::ops::Range;
use std::sync::Arc;

use sqlparser::dialect::GenericDialect;
use sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer, Whitespace};
use unicode_width::UnicodeWidthChar;

use crate::diagnostic::{Diagnostic, Diagnostics, Location, SourceFile, Span};

/// A token that is not white space or a comment, and where it stands.
#[derive(Debug)]
pub(super) struct Lexeme {
    pub(super) token: Token,
    pub(super) bytes: Range<usize>,
    pub(super) start: Location,
    pub(super) end: Location,
    /// Nothing but white space stands before it on its line.
    pub(super) opens_line: bool,
}

impl Lexeme {
    /// The word as written, if it is an unquoted one.
    pub(super) fn bare_word(&self) -> Option<&str> {
        match &self.token {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    /// Whether it is this keyword, in any letter case.
    pub(super) fn is_word(&self, keyword: &str) -> bool {
        self.bare_word()
            .is_some_and(|word| word.eq_ignore_ascii_case(keyword))
    }
}

/// The lexemes of one statement, without the `;`.
#[derive(Debug, Default)]
pub(super) struct RawStatement {
    pub(super) lexemes: Vec<Lexeme>,
    /// A fault in its text was told: what stands here is not what was meant.
    pub(super) faulty: bool,
}

/// Words that open a statement of a definitions file, with what must follow for
/// one that is not set off by a `;` to be taken as a new statement.
const OPENINGS: [(&str, &[&str]); 5] = [
    (
        "CREATE",
        &[
            "ENTITY", "STREAM", "FEATURE", "EXTERNAL", "VIEW", "ON", "OR",
        ],
    ),
    ("EVENT", &["TIME"]),
    ("GRANT", &["READ"]),
    ("REVOKE", &["READ"]),
    ("COMMENT", &["ON"]),
];

/// Cuts a file into statements; what is wrong with its text goes to `diagnostics`.
pub(super) fn split(file: &Arc<SourceFile>, diagnostics: &mut Diagnostics) -> Vec<RawStatement> {
    let mut lexer = Lexer {
        file,
        diagnostics,
        place: Place {
            byte: 0,
            location: Location::START,
            opens_line: true,
        },
        lexemes: Vec::new(),
    };
    lexer.run();
    let lexemes = lexer.lexemes;
    into_statements(file, lexemes, diagnostics)
}

/// Where the lexer stands.
#[derive(Debug, Clone, Copy)]
struct Place {
    byte: usize,
    location: Location,
    opens_line: bool,
}

struct Lexer<'a> {
    file: &'a Arc<SourceFile>,
    diagnostics: &'a mut Diagnostics,
    place: Place,
    /// A lexeme of `Token::EOF` marks a fault: the statement ends there.
    lexemes: Vec<Lexeme>,
}

impl Lexer<'_> {
    fn run(&mut self) {
        if self.file.text.starts_with('\u{feff}') {
            self.advance_to('\u{feff}'.len_utf8());
        }
        while self.place.byte < self.file.text.len() {
            let first = self.lexemes.len();
            let mut tokens = Vec::new();
            let fault = Tokenizer::new(&GenericDialect {}, &self.file.text[self.place.byte..])
                .tokenize_with_location_into_buf(&mut tokens)
                .err();
            self.take(tokens);
            let Some(fault) = fault else { return };
            match self.fault(first, &fault.message) {
                Some(next) => self.advance_to(next),
                None => return,
            }
        }
    }

    /// Gives the tokens their places. sqlparser counts from where it began.
    fn take(&mut self, tokens: Vec<TokenWithSpan>) {
        let mut relative = (1, 1);
        for TokenWithSpan { token, span } in tokens {
            if (span.start.line, span.start.column) < relative {
                // Inside of a /*! hint, which was told of already.
                continue;
            }
            self.step_until(&mut relative, (span.start.line, span.start.column));
            if self.rest().starts_with("/*!") {
                let bytes = self.place.byte..self.place.byte + comment_bytes(self.rest());
                self.hint(bytes.clone());
                self.step_until_byte(&mut relative, bytes.end);
                continue;
            }
            let begin = self.place;
            self.step_until(&mut relative, (span.end.line, span.end.column));
            let opens_line = begin.opens_line;
            let bytes = begin.byte..self.place.byte;
            match token {
                Token::Whitespace(Whitespace::SingleLineComment { .. }) => {
                    self.place.opens_line = true;
                }
                Token::Whitespace(space) => {
                    let turns = matches!(space, Whitespace::Newline)
                        || self.file.text[bytes].contains('\n');
                    self.place.opens_line = turns || opens_line;
                }
                token => {
                    self.place.opens_line = false;
                    let lexeme = Lexeme {
                        token,
                        bytes,
                        start: begin.location,
                        end: self.place.location,
                        opens_line,
                    };
                    self.check_character(&lexeme);
                    self.lexemes.push(lexeme);
                }
            }
        }
    }

    fn rest(&self) -> &str {
        &self.file.text[self.place.byte..]
    }

    fn step(&mut self, relative: &mut (u64, u64)) -> bool {
        let Some(character) = self.rest().chars().next() else {
            return false;
        };
        self.place.byte += character.len_utf8();
        self.place.location = self.place.location.after(character);
        *relative = match character {
            '\n' => (relative.0 + 1, 1),
            _ => (relative.0, relative.1 + 1),
        };
        true
    }

    fn step_until(&mut self, relative: &mut (u64, u64), target: (u64, u64)) {
        while *relative < target && self.step(relative) {}
    }

    fn step_until_byte(&mut self, relative: &mut (u64, u64), target: usize) {
        while self.place.byte < target && self.step(relative) {}
    }

    /// Moves forward, or back to a place inside of what was read.
    fn advance_to(&mut self, byte: usize) {
        self.place = Place {
            byte,
            location: self.file.location(byte),
            opens_line: true,
        };
    }

    fn hint(&mut self, bytes: Range<usize>) {
        self.diagnostics.push(
            Diagnostic::new(
                &self.file.span(bytes),
                "a comment that starts with /*! is read as SQL",
            )
            .help("write /* for a comment"),
        );
        self.mark_fault();
    }

    /// A character that no SQL has outside of quotes.
    fn check_character(&mut self, lexeme: &Lexeme) {
        let Token::Char(character) = lexeme.token else {
            return;
        };
        let help = match character {
            '\u{2018}' | '\u{2019}' | '\u{201a}' | '\u{201b}' | '\u{b4}' => {
                "write ' around a string".to_owned()
            }
            '\u{201c}'..='\u{201f}' | '\u{ab}' | '\u{bb}' => {
                "write ' around a string, \" around a name".to_owned()
            }
            '\u{2013}' | '\u{2014}' | '\u{2212}' => "write - for a minus sign".to_owned(),

            _ => "remove it, or put it in quotes".to_owned(),
        };
        let span = self.file.span(lexeme.bytes.clone());
        let shown = if character.width().unwrap_or(0) == 0 {
            format!("U+{:04X}", u32::from(character))
        } else {
            character.to_string()
        };
        self.diagnostics
            .push(Diagnostic::new(&span, format!("stray character {shown}")).help(help));
    }

    /// Tells of the fault at the present place, marks it, and gives the byte at
    /// which the next statement may start.
    fn fault(&mut self, first: usize, message: &str) -> Option<usize> {
        let at = self.place.byte;
        let rest = &self.file.text[at..];
        if rest.starts_with("/*!") {
            let end = at + comment_bytes(rest);
            self.hint(at..end);
            return (end < self.file.text.len()).then_some(end);
        }
        let (what, quote, help) = describe(rest);
        let what = what.unwrap_or_else(|| message.to_owned());
        if let Some(quote) = quote
            && let Some((index, next)) = self.culprit(first, quote)
        {
            let start = self.lexemes[index].bytes.start;
            self.lexemes.truncate(index);
            self.tell(start, &what, help);
            return Some(next);
        }
        self.tell(at, &what, help);
        next_statement(&self.file.text, at)
    }

    /// Tells that something starts here and is never closed; shows the rest of the line.
    fn tell(&mut self, start: usize, what: &str, help: &'static str) {
        let line = self.file.text[start..].split('\n').next().unwrap_or("");
        let end = start + line.trim_end().len().max(1);
        self.diagnostics
            .push(Diagnostic::new(&self.file.span(start..end), what).help(help));
        self.mark_fault();
    }

    fn mark_fault(&mut self) {
        let Place { byte, location, .. } = self.place;
        self.lexemes.push(Lexeme {
            token: Token::EOF,
            bytes: byte..byte,
            start: location,
            end: location,
            opens_line: false,
        });
    }

    /// A quote left open makes strings of what stands between the later ones,
    /// so the fault shows at the file's last quote. The culprit is the first
    /// string that has the start of another statement in it.
    fn culprit(&self, first: usize, quote: char) -> Option<(usize, usize)> {
        self.lexemes[first..]
            .iter()
            .enumerate()
            .filter(|(_, l)| self.file.text[l.bytes.clone()].starts_with(quote))
            .find_map(|(i, l)| {
                let next = next_statement(&self.file.text[..l.bytes.end], l.bytes.start)?;
                Some((first + i, next))
            })
    }
}

/// What is wrong with text that the tokenizer refuses, and which quote it opens.
fn describe(rest: &str) -> (Option<String>, Option<char>, &'static str) {
    let unprefixed = rest.trim_start_matches(|c: char| c.is_ascii_alphabetic() || c == '&');
    if rest.starts_with("/*") {
        let what = "this comment is never closed";
        return (Some(what.into()), None, "close it with */");
    }
    if unprefixed.starts_with('\'') && rest.len() - unprefixed.len() <= 2 {
        let what = "this string is never closed";
        let help = "close it with '; a quote inside of a string is written twice";
        return (Some(what.into()), Some('\''), help);
    }
    if let Some(quote @ ('"' | '`')) = unprefixed.chars().next()
        && rest.len() - unprefixed.len() <= 1
    {
        let what = "this quoted name is never closed";
        return (
            Some(what.into()),
            Some(quote),
            "close it with the same quote",
        );
    }
    if rest.starts_with('$') {
        let what = "this string is never closed";
        let help = "close it with the same $tag$ that opens it";
        return (Some(what.into()), None, help);
    }
    (None, None, "this is no SQL that can be read")
}

/// The bytes of the block comment at the start of `text`; comments nest.
fn comment_bytes(text: &str) -> usize {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0usize, 0);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => depth += 1,
            b"*/" => depth -= 1,
            _ => {
                at += 1;
                continue;
            }
        }
        at += 2;
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The byte after the first `;` from `from` on that a statement follows, on
/// what looks like a line of its own.
fn next_statement(text: &str, from: usize) -> Option<usize> {
    let mut after = from;
    while let Some(found) = text[after..].find(';') {
        after += found + 1;
        let mut rest = &text[after..];
        // Comments that stand before the next statement belong to it.
        loop {
            rest = rest.trim_start();
            match rest.strip_prefix("--") {
                Some(comment) => rest = comment.split_once('\n').map_or("", |(_, rest)| rest),
                None => break,
            }
        }
        let mut words = rest.split_whitespace();
        if let (Some(first), Some(second)) = (words.next(), words.next())
            && opens(first, second)
        {
            return Some(after);
        }
    }
    None
}

fn opens(first: &str, second: &str) -> bool {
    OPENINGS.iter().any(|(word, next)| {
        word.eq_ignore_ascii_case(first) && next.iter().any(|n| n.eq_ignore_ascii_case(second))
    })
}

/// Cuts at every `;` (none stands inside of a statement, parentheses or not),
/// and where a line starts another statement although the `;` is missing.
fn into_statements(
    file: &Arc<SourceFile>,
    lexemes: Vec<Lexeme>,
    diagnostics: &mut Diagnostics,
) -> Vec<RawStatement> {
    let starts: Vec<bool> = (0..lexemes.len())
        .map(|i| starts_statement(&lexemes[i..]))
        .collect();
    let mut statements = Vec::new();
    let mut current = RawStatement::default();
    for (lexeme, starts) in lexemes.into_iter().zip(starts) {
        match lexeme.token {
            Token::SemiColon => statements.push(std::mem::take(&mut current)),
            Token::EOF => {
                current.faulty = true;
                statements.push(std::mem::take(&mut current));
            }
            _ => {
                if starts && !current.lexemes.is_empty() {
                    let span = Span {
                        file: Arc::clone(file),
                        start: lexeme.start,
                        end: lexeme.end,
                    };
                    diagnostics.push(
                        Diagnostic::new(
                            &span,
                            "a statement starts here, and the one before has no ;",
                        )
                        .help("end the statement before with ;"),
                    );
                    statements.push(std::mem::take(&mut current));
                }
                current.faulty |= matches!(lexeme.token, Token::Char(_));
                current.lexemes.push(lexeme);
            }
        }
    }
    statements.push(current);
    statements.retain(|s| !s.lexemes.is_empty());
    statements
}

/// Whether a line starts a statement here for certain.
fn starts_statement(lexemes: &[Lexeme]) -> bool {
    let [first, second, rest @ ..] = lexemes else {
        return false;
    };
    let (Some(word), Some(next)) = (first.bare_word(), second.bare_word()) else {
        return false;
    };
    // EVENT TIME is a clause too, EVENT TIME OF a statement.
    first.opens_line
        && opens(word, next)
        && (!first.is_word("EVENT") || rest.first().is_some_and(|l| l.is_word("OF")))
        && (!first.is_word("CREATE")
            || !second.is_word("ON")
            || rest.first().is_some_and(|l| l.is_word("DEMAND")))
}
