//! Types as SQL spells them.
//!
//! Spellings mean what they mean in DataFusion: FLOAT is REAL, DECIMAL alone is
//! DECIMAL(38, 10). TIMESTAMP of any precision and zone is the one TIMESTAMP;
//! unsigned integers are the next wider signed type, as in
//! [`FeatureType::from_arrow`].

use std::str::FromStr;

use sqlparser::tokenizer::Token;

use super::cursor::{Cursor, Parsed};
use super::lexer;
use crate::FeatureType;
use crate::diagnostic::{Diagnostic, Diagnostics, SourceFile, Span};
use crate::suggest::closest;

const TYPES: &str = "a type is BOOLEAN, SMALLINT, INT, BIGINT, REAL, DOUBLE, DECIMAL(p, s), \
    VARCHAR, VARBINARY, DATE, TIMESTAMP or a list of one, as BIGINT[]";

/// Spellings of one word that take no argument.
const PLAIN: [(&str, FeatureType); 27] = [
    ("BOOLEAN", FeatureType::Boolean),
    ("BOOL", FeatureType::Boolean),
    ("TINYINT", FeatureType::SmallInt),
    ("SMALLINT", FeatureType::SmallInt),
    ("INT2", FeatureType::SmallInt),
    ("INT", FeatureType::Int),
    ("INTEGER", FeatureType::Int),
    ("INT4", FeatureType::Int),
    ("BIGINT", FeatureType::BigInt),
    ("INT8", FeatureType::BigInt),
    ("INT64", FeatureType::BigInt),
    ("REAL", FeatureType::Real),
    ("FLOAT4", FeatureType::Real),
    ("FLOAT8", FeatureType::Double),
    ("FLOAT64", FeatureType::Double),
    ("TEXT", FeatureType::Varchar),
    ("STRING", FeatureType::Varchar),
    ("VARCHAR", FeatureType::Varchar),
    ("CHAR", FeatureType::Varchar),
    ("CHARACTER", FeatureType::Varchar),
    ("NVARCHAR", FeatureType::Varchar),
    ("BYTEA", FeatureType::Varbinary),
    ("BYTES", FeatureType::Varbinary),
    ("BLOB", FeatureType::Varbinary),
    ("BINARY", FeatureType::Varbinary),
    ("VARBINARY", FeatureType::Varbinary),
    ("DATE", FeatureType::Date),
];

/// Spellings with an argument or more words, for guesses at a misspelt one.
const COMPOUND: [&str; 10] = [
    "DOUBLE",
    "FLOAT",
    "DECIMAL",
    "NUMERIC",
    "DEC",
    "TIMESTAMP",
    "TIMESTAMPTZ",
    "DATETIME",
    "ARRAY",
    "LIST",
];

/// A type and where it stands.
pub(super) fn feature_type(cursor: &mut Cursor<'_>) -> Parsed<(FeatureType, Span)> {
    let mark = cursor.mark();
    let mut found = element_type(cursor)?;
    while cursor.is_token(&Token::LBracket) || cursor.is_words(&["ARRAY"]) {
        if cursor.eat(&Token::LBracket) {
            cursor.expect(&Token::RBracket, "a list has any length: BIGINT[]")?;
        } else {
            cursor.next();
        }
        found = list_of(found, &cursor.span_since(mark))?;
    }
    Ok((found, cursor.span_since(mark)))
}

fn list_of(item: FeatureType, span: &Span) -> Parsed<FeatureType> {
    if matches!(item, FeatureType::List(_)) {
        return Err(Diagnostic::new(span, "a list of lists").help(TYPES));
    }
    Ok(FeatureType::List(Box::new(item)))
}

fn element_type(cursor: &mut Cursor<'_>) -> Parsed<FeatureType> {
    let mark = cursor.mark();
    let Some(word) = cursor.peek().and_then(lexer::Lexeme::bare_word) else {
        return Err(cursor.expected("a type").help(TYPES));
    };
    let word = word.to_ascii_uppercase();
    cursor.next();
    match word.as_str() {
        "DOUBLE" => {
            cursor.eat_words(&["PRECISION"]);
            return Ok(FeatureType::Double);
        }
        "FLOAT" => return float(cursor),
        "DECIMAL" | "NUMERIC" | "DEC" => return decimal(cursor),
        "TIMESTAMP" | "TIMESTAMPTZ" | "DATETIME" => return timestamp(cursor),
        "ARRAY" | "LIST" => {
            let help = "a list is BIGINT[] or ARRAY<BIGINT>";
            cursor.expect(&Token::Lt, help)?;
            if cursor.is_words(&["ARRAY"]) || cursor.is_words(&["LIST"]) {
                return Err(Diagnostic::new(&cursor.here(), "a list of lists").help(TYPES));
            }
            let (item, _) = feature_type(cursor)?;
            cursor.expect(&Token::Gt, help)?;
            return list_of(item, &cursor.span_since(mark));
        }
        _ => {}
    }
    let Some((_, found)) = PLAIN.iter().find(|(spelling, _)| *spelling == word) else {
        let known = PLAIN.iter().map(|(spelling, _)| *spelling).chain(COMPOUND);
        let help = match closest(&word, known) {
            Some(meant) => format!("did you mean {meant}?"),
            None if ["JSON", "JSONB", "UUID", "ENUM", "XML"].contains(&word.as_str()) => {
                "VARCHAR keeps it as text".to_owned()
            }
            None => TYPES.to_owned(),
        };
        let message = format!("unknown type {word}");
        return Err(Diagnostic::new(&cursor.span_since(mark), message).help(help));
    };
    match found {
        FeatureType::Varchar | FeatureType::Varbinary => {
            cursor.eat_words(&["VARYING"]);
            // A length is allowed and not enforced, as in DataFusion.
            arguments(cursor)?;
        }
        FeatureType::SmallInt | FeatureType::Int | FeatureType::BigInt
            if cursor.eat_words(&["UNSIGNED"]) =>
        {
            return Ok(unsigned(&word, found));
        }
        _ => {}
    }
    Ok(found.clone())
}

fn unsigned(word: &str, signed: &FeatureType) -> FeatureType {
    match signed {
        FeatureType::SmallInt if word == "TINYINT" => FeatureType::SmallInt,
        FeatureType::SmallInt => FeatureType::Int,
        FeatureType::Int => FeatureType::BigInt,
        _ => FeatureType::Decimal {
            precision: 20,
            scale: 0,
        },
    }
}

/// FLOAT(n) of more than 24 bits is a DOUBLE, in the standard.
fn float(cursor: &mut Cursor<'_>) -> Parsed<FeatureType> {
    let bits = arguments(cursor)?;
    Ok(match bits.first() {
        Some(bits) if *bits > 24 => FeatureType::Double,
        _ => FeatureType::Real,
    })
}

fn decimal(cursor: &mut Cursor<'_>) -> Parsed<FeatureType> {
    let mark = cursor.mark();
    let given = arguments(cursor)?;
    let (precision, scale) = match given[..] {
        [] => (38, 10),
        [precision] => (precision, 0),
        [precision, scale] => (precision, scale),
        _ => (0, 0),
    };
    match (u8::try_from(precision), i8::try_from(scale)) {
        (Ok(p @ 1..=38), Ok(scale)) if u64::from(p) >= u64::from(scale.unsigned_abs()) => {
            Ok(FeatureType::Decimal {
                precision: p,
                scale,
            })
        }
        _ => Err(Diagnostic::new(&cursor.span_since(mark), "no such DECIMAL")
            .help("DECIMAL(p, s) has p digits, 1 to 38, of which s, 0 to p, after the point")),
    }
}

fn timestamp(cursor: &mut Cursor<'_>) -> Parsed<FeatureType> {
    let mark = cursor.mark();
    if arguments(cursor)?.iter().any(|digits| *digits > 9) {
        return Err(
            Diagnostic::new(&cursor.span_since(mark), "no such TIMESTAMP")
                .help("TIMESTAMP keeps microseconds, whatever precision is asked for"),
        );
    }
    if cursor.is_words(&["WITH", "TIME"]) || cursor.is_words(&["WITHOUT", "TIME"]) {
        cursor.next();
        cursor.expect_words(&["TIME", "ZONE"], "TIMESTAMP WITH TIME ZONE")?;
    }
    Ok(FeatureType::Timestamp)
}

/// `(n)`, `(n, m)` or nothing.
fn arguments(cursor: &mut Cursor<'_>) -> Parsed<Vec<u64>> {
    if !cursor.is_token(&Token::LParen) {
        return Ok(Vec::new());
    }
    cursor.list("a type as VARCHAR(20) or DECIMAL(12, 2)", |cursor| {
        let number = match cursor.peek().map(|l| &l.token) {
            Some(Token::Number(digits, false)) => digits.parse().ok(),
            _ => None,
        };
        let Some(number) = number else {
            return Err(cursor.expected("a whole number").help(TYPES));
        };
        cursor.next();
        Ok(number)
    })
}

/// What was wrong with the text of a type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a type: {reason}")]
pub struct TypeError {
    pub text: String,
    pub reason: String,
}

impl FromStr for FeatureType {
    type Err = TypeError;

    /// Any spelling that definitions may use, `Display`'s among them.
    fn from_str(text: &str) -> Result<Self, TypeError> {
        let error = |reason: &str| TypeError {
            text: text.to_owned(),
            reason: reason.to_owned(),
        };
        let file = SourceFile::new("", text);
        let mut told = Diagnostics::default();
        let statements = lexer::split(&file, &mut told);
        let ([statement], true) = (&statements[..], told.is_empty()) else {
            return Err(error(TYPES));
        };
        let mut cursor = Cursor::new(&file, &statement.lexemes, &mut told);
        feature_type(&mut cursor)
            .and_then(|(found, _)| cursor.expect_end(TYPES).map(|()| found))
            .map_err(|diagnostic| error(diagnostic.help.as_deref().unwrap_or(&diagnostic.message)))
    }
}
