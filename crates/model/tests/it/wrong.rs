//! Wrong definitions: what is said of each is a snapshot beside it.

use granary_model::parse_file;

use crate::cases;

#[test]
fn every_wrong_definition_gets_its_message() {
    for (name, file) in cases::sql_files("wrong") {
        let (_, diagnostics) = parse_file(&file);
        assert!(!diagnostics.is_empty(), "{name} is not wrong");
        for diagnostic in &diagnostics {
            assert!(diagnostic.span.is_some(), "{name}: no place: {diagnostic}");
            assert!(diagnostic.help.is_some(), "{name}: no help: {diagnostic}");
        }
        insta::with_settings!({
            snapshot_path => "wrong",
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(name, diagnostics.to_string());
        });
    }
}

#[test]
fn every_message_has_its_definition() {
    assert_eq!(cases::names("wrong", "snap"), cases::names("wrong", "sql"));
}
