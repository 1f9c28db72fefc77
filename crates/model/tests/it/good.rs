//! Good definitions: nothing is said of them, and their text is kept exactly.

use granary_model::parse_file;
use granary_model::statement::{SqlText, Statement, StatementKind};

use crate::cases;

#[test]
fn good_definitions_parse_whole() {
    for (name, file) in cases::sql_files("good") {
        let (statements, diagnostics) = parse_file(&file);
        assert!(diagnostics.is_empty(), "{name}: {diagnostics}");
        assert!(!statements.is_empty(), "{name}");
        for statement in &statements {
            for kept in kept_texts(statement) {
                assert_eq!(kept.text, cut(&file.text, kept), "{name}");
            }
        }
    }
}

fn kept_texts(statement: &Statement) -> Vec<&SqlText> {
    match &statement.kind {
        StatementKind::CreateExternalTable(source) | StatementKind::CreateView(source) => {
            vec![&source.sql]
        }
        StatementKind::CreateFeatureView(view) => vec![&view.query],
        StatementKind::CreateOnDemandView(view) => vec![&view.select],
        _ => Vec::new(),
    }
}

/// What stands between the span's places, counted afresh.
fn cut(text: &str, kept: &SqlText) -> String {
    let (mut line, mut column) = (1, 1);
    let mut found = String::new();
    for c in text.chars() {
        if (line, column) >= (kept.span.start.line, kept.span.start.column)
            && (line, column) < (kept.span.end.line, kept.span.end.column)
        {
            found.push(c);
        }
        (line, column) = if c == '\n' {
            (line + 1, 1)
        } else {
            (line, column + 1)
        };
    }
    found
}
