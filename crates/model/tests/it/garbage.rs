//! Text that nobody meant: no panic, every place inside of the file, and what
//! is said can be shown.

use std::sync::Arc;

use granary_model::{Diagnostics, Location, SourceFile, parse_file};
use proptest::prelude::*;

use crate::cases;

/// Every place lies in the file, messages render, statements are in order.
fn check(text: String) {
    let file = SourceFile::new("f.sql", text);
    let end = file.location(file.text.len());
    let (statements, diagnostics) = parse_file(&file);
    let mut before = Location::default();
    for statement in &statements {
        assert!(statement.span.start > before, "in order");
        assert!(statement.span.end <= end, "inside of the file");
        before = statement.span.start;
    }
    check_places(&diagnostics, &file, end);
}

fn check_places(diagnostics: &Diagnostics, file: &Arc<SourceFile>, end: Location) {
    for diagnostic in diagnostics {
        let span = diagnostic.span.as_ref().expect("a place");
        assert!(Arc::ptr_eq(&span.file, file));
        assert!(
            span.start >= Location::START && span.start <= span.end && span.end <= end,
            "{span:?}"
        );
        assert!(diagnostic.help.is_some(), "{diagnostic}");
        assert!(!diagnostic.message.contains('\n'), "{diagnostic}");
    }
    assert!(diagnostics.to_string().contains("error"));
}

/// Pieces of definitions, and characters that end or open something.
const PIECES: [&str; 60] = [
    "CREATE",
    "ENTITY",
    "FEATURE",
    "VIEW",
    "SERVICE",
    "ON",
    "DEMAND",
    "STREAM",
    "EXTERNAL",
    "TABLE",
    "KEY",
    "EVENT",
    "TIME",
    "OF",
    "IS",
    "CREATED",
    "THEN",
    "BY",
    "TTL",
    "INTERVAL",
    "'7 days'",
    "MAX",
    "EVENTS",
    "REFRESH",
    "EVERY",
    "SERVE",
    "QUERY",
    "CACHE",
    "FOR",
    "OWNER",
    "TAGS",
    "COMMENT",
    "AS",
    "SELECT",
    "FROM",
    "GRANT",
    "READ",
    "TO",
    "ROLE",
    "EACH",
    "INPUT",
    "a",
    "b",
    "\"c\"",
    "BIGINT",
    "DECIMAL(1, 0)",
    "(",
    ")",
    "[",
    "]",
    ",",
    ";",
    ".",
    "=>",
    "=",
    "*",
    "-",
    "7",
    "'",
    "\n",
];

const ODD: [&str; 14] = [
    "\"", "`", "/*", "*/", "/*!", "--", "$$", "$x$", "é", "\u{feff}", "\r", "q'[", "\u{0}", "\\",
];

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_characters(text in any::<String>()) {
        check(text);
    }

    #[test]
    fn any_pieces(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..40)) {
        check(pieces.join(" "));
    }

    #[test]
    fn odd_pieces(
        pieces in prop::collection::vec(
            prop_oneof![
                4 => prop::sample::select(PIECES.to_vec()),
                1 => prop::sample::select(ODD.to_vec()),
            ],
            0..40,
        ),
    ) {
        check(pieces.concat());
    }

    /// A good file with a stretch taken out, doubled or replaced.
    #[test]
    fn damaged_definitions(
        at in 0.0..1.0f64,
        length in 0usize..40,
        piece in prop::sample::select(ODD.to_vec()),
        repeat in 0usize..3,
    ) {
        for (_, file) in cases::sql_files("good") {
            let characters: Vec<char> = file.text.chars().collect();
            let start = (characters.len() as f64 * at) as usize;
            let end = (start + length).min(characters.len());
            let mut text: String = characters[..start].iter().collect();
            for _ in 0..repeat {
                text.extend(&characters[start..end]);
                text.push_str(piece);
            }
            text.extend(&characters[end..]);
            check(text);
        }
    }
}
