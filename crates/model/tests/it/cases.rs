//! Cases kept as files.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use granary_model::SourceFile;

/// The `.sql` files of a folder beside this one, by name.
pub fn sql_files(folder: &str) -> Vec<(String, Arc<SourceFile>)> {
    let mut cases: Vec<(String, Arc<SourceFile>)> = paths(folder, "sql")
        .into_iter()
        .map(|path| {
            let name = stem(&path);
            let text = std::fs::read_to_string(&path).expect("a case is UTF-8 text");
            let file = SourceFile::new(format!("sql/{name}.sql"), text);
            (name, file)
        })
        .collect();
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    assert!(!cases.is_empty(), "no cases in {folder}");
    cases
}

/// The names of a folder's files of an extension, without it.
pub fn names(folder: &str, extension: &str) -> Vec<String> {
    let mut names: Vec<String> = paths(folder, extension).iter().map(|p| stem(p)).collect();
    names.sort();
    names
}

fn paths(folder: &str, extension: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/it")
        .join(folder);
    std::fs::read_dir(folder)
        .expect("the folder of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|e| e == extension))
        .collect()
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .expect("a file name")
        .to_string_lossy()
        .into_owned()
}
