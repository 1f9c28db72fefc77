//! What a reader sees of a diagnostic: place, quoted line, carets, help.

use super::*;

fn at(file: &std::sync::Arc<SourceFile>, needle: &str) -> Span {
    let start = file.text.find(needle).expect("needle stands in the text");
    file.span(start..start + needle.len())
}

#[test]
fn shows_place_line_carets_and_help() {
    let text = format!(
        "{}CREATE FEATURE VIEW v ENTITY custmer AS\n",
        "\n".repeat(11)
    );
    let file = SourceFile::new("sql/a.sql", text);
    let wrong = Diagnostic::new(&at(&file, "custmer"), "unknown entity \"custmer\"")
        .help("did you mean \"customer\"?");
    let expected = "\
error: unknown entity \"custmer\"
  --> sql/a.sql:12:30
   |
12 | CREATE FEATURE VIEW v ENTITY custmer AS
   |                              ^^^^^^^
   = help: did you mean \"customer\"?";
    assert_eq!(wrong.to_string(), expected);
    assert!(wrong.render("warning").starts_with("warning: unknown"));
}

#[test]
fn counts_and_sorts() {
    let a = SourceFile::new("a.sql", "one two\n");
    let b = SourceFile::new("b.sql", "three");
    let mut all = Diagnostics::default();
    all.push(Diagnostic::without_place("nowhere").help("first\nsecond"));
    all.push(Diagnostic::new(&at(&b, "three"), "in b"));
    all.push(Diagnostic::new(&at(&a, "two"), "second in a"));
    all.push(Diagnostic::new(&at(&a, "one"), "first in a"));
    all.sort();
    let order: Vec<&str> = all.iter().map(|d| d.message.as_str()).collect();
    assert_eq!(order, ["first in a", "second in a", "in b", "nowhere"]);
    let text = all.render();
    assert!(
        text.ends_with("error: nowhere\n = help: first\n         second\n\n4 errors\n"),
        "{text}"
    );
    assert_eq!(
        all.clone().into_result().expect_err("there are errors"),
        all
    );
    assert!(Diagnostics::default().into_result().is_ok());
    assert!(
        Diagnostics::from(all.0.remove(0))
            .to_string()
            .ends_with("\n\n1 error")
    );
}

/// Carets stand under the characters whatever these are.
#[test]
fn carets_know_tabs_and_wide_characters() {
    for (text, needle, line, carets) in [
        ("\ta\tbad", "bad", "    a    bad", "         ^^^"),
        ("名前 bad", "bad", "名前 bad", "     ^^^"),
        ("x 名前", "名前", "x 名前", "  ^^^^"),
        ("e\u{301} bad", "bad", "e\u{301} bad", "  ^^^"),
        ("\u{1b}[31m bad", "bad", "\u{fffd}[31m bad", "      ^^^"),
        ("\u{202e}x bad", "bad", "\u{fffd}x bad", "   ^^^"),
        ("bad\r\n", "bad", "bad", "^^^"),
        ("a bad\nworse", "bad\nworse", "a bad", "  ^^^"),
        ("", "", "", "^"),
        ("end\n", "\n", "end", "   ^"),
    ] {
        let file = SourceFile::new("f.sql", text);
        let shown = Diagnostic::new(&at(&file, needle), "m").to_string();
        let lines: Vec<&str> = shown.lines().collect();
        let expected_line = format!("1 | {line}").trim_end().to_owned();
        assert_eq!(lines[3].trim_end(), expected_line, "{text:?}");
        assert_eq!(lines[4], format!("  | {carets}"), "{text:?}");
    }
}

#[test]
fn long_lines_are_cut_around_the_span() {
    let text = format!("{}bad{}", "a".repeat(5000), "b".repeat(5000));
    let file = SourceFile::new("f.sql", text);
    let shown = Diagnostic::new(&at(&file, "bad"), "m").to_string();
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines[3].len() < 200, "{shown}");
    let column = lines[4].find('^').expect("carets");
    assert_eq!(&lines[3][column..column + 3], "bad");
}

#[test]
fn places_of_bytes_count_characters() {
    let file = SourceFile::new("f.sql", "aé\nx");
    let place = |byte| file.location(byte).to_string();
    assert_eq!(place(0), "1:1");
    assert_eq!(place(1), "1:2");
    assert_eq!(place(2), "1:2", "inside of a character is its start");
    assert_eq!(place(3), "1:3");
    assert_eq!(place(4), "2:1");
    assert_eq!(place(99), "2:2");
    assert_eq!(file.line(2), Some("x"));
    assert_eq!(file.line(0), None);
    assert_eq!(file.line(3), None);
}

/// A span that lies outside of its file (a bug elsewhere) still gives a message.
#[test]
fn impossible_spans_do_not_panic() {
    let file = SourceFile::new("f.sql", "short");
    for (start, end) in [
        ((9, 9), (9, 9)),
        ((1, 90), (1, 95)),
        ((1, 4), (1, 2)),
        ((0, 0), (0, 0)),
    ] {
        let location = |(line, column)| Location { line, column };
        let span = Span {
            file: file.clone(),
            start: location(start),
            end: location(end),
        };
        assert!(Diagnostic::new(&span, "m").to_string().contains("f.sql"));
    }
}
