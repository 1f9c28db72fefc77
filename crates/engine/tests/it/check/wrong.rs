//! Wrong definitions, a kind a file, beside a project that is right: what is
//! said of each is kept as a snapshot.

use super::{check, engine, folder};

#[tokio::test]
async fn wrong_definitions_are_told_with_their_place() {
    let base = std::fs::read_to_string(folder().join("base.sql")).unwrap();
    let engine = engine(&folder());
    check(&engine, &[("base", &base)])
        .await
        .expect("the base is right");
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path(folder().join("wrong"));
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let _bound = settings.bind_to_scope();
    let mut names: Vec<_> = std::fs::read_dir(folder().join("wrong"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|e| e == "sql"))
        .collect();
    names.sort();
    assert!(names.len() >= 40, "{} cases", names.len());
    for path in names {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        let errors = check(&engine, &[("base", &base), (name, &text)])
            .await
            .expect_err(name);
        for error in &errors {
            let span = error.span.as_ref().expect("a place");
            assert_eq!(span.file.path, format!("sql/{name}.sql"), "{error}");
        }
        insta::assert_snapshot!(name, errors);
    }
}
