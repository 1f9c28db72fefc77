//! The repository keeps its own rules: the README's code map is true, arrows
//! between crates point down, every module says why it exists, no file is long.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                rust_files(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_rust_files() -> Vec<PathBuf> {
    let mut found = Vec::new();
    for folder in ["crates", "benches"] {
        rust_files(&root().join(folder), &mut found);
    }
    assert!(
        found.len() > 50,
        "only {} Rust files were found",
        found.len()
    );
    found
}

/// The paths that the README names in back quotes, as far as they look like
/// paths of this repository.
fn paths_in_readme() -> BTreeSet<String> {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    readme
        .split('`')
        .skip(1)
        .step_by(2)
        .filter(|quoted| {
            ["crates/", "proto/", "sql/", "benches/", "deploy/"]
                .iter()
                .any(|p| quoted.starts_with(p))
                && !quoted.contains([' ', '*', '<', '\n'])
        })
        .map(|quoted| quoted.split(':').next().unwrap().to_owned())
        .collect()
}

#[test]
fn readme_names_only_what_exists() {
    let paths = paths_in_readme();
    assert!(
        paths.len() > 20,
        "the README's code map names only {} paths",
        paths.len()
    );
    let gone: Vec<_> = paths
        .iter()
        .filter(|path| !root().join(path).exists())
        .collect();
    assert!(
        gone.is_empty(),
        "the README names paths that do not exist: {gone:?}"
    );
}

#[test]
fn every_crate_is_in_the_readme() {
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    for entry in fs::read_dir(root().join("crates")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            readme.contains(&format!("crates/{name}")),
            "crates/{name} is not in the README"
        );
    }
}

#[test]
fn every_module_says_why_it_exists() {
    let silent: Vec<_> = all_rust_files()
        .into_iter()
        .filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!"))
        .collect();
    assert!(silent.is_empty(), "no //! at the top of {silent:?}");
}

#[test]
fn no_file_is_longer_than_a_thousand_lines() {
    let long: Vec<_> = all_rust_files()
        .into_iter()
        .map(|path| (fs::read_to_string(&path).unwrap().lines().count(), path))
        .filter(|(lines, _)| *lines > 1000)
        .collect();
    assert!(long.is_empty(), "{long:?}");
}

/// What each crate may depend on; see "Crates" in the README.
const ARROWS: &[(&str, &[&str])] = &[
    ("model", &[]),
    ("proto", &["model"]),
    ("catalog", &["model"]),
    ("store", &["model"]),
    ("engine", &["catalog", "model"]),
    ("ingest", &["catalog", "engine", "model", "store"]),
    ("serving", &["catalog", "engine", "model", "store"]),
    (
        "server",
        &[
            "catalog", "engine", "ingest", "model", "proto", "serving", "store",
        ],
    ),
    ("client", &["model", "proto"]),
];

/// Libraries that only one crate may know.
const CONFINED: &[(&str, &[&str])] = &[
    ("datafusion", &["engine"]),
    ("deltalake-core", &["engine"]),
    ("fjall", &["store"]),
    ("heed", &["store"]),
    ("anyhow", &["cli"]),
    ("clap", &["cli"]),
    ("tonic", &["proto", "server", "client"]),
];

/// The names in the `[dependencies]` section of a crate's manifest.
fn dependencies(krate: &str) -> BTreeSet<String> {
    let manifest =
        fs::read_to_string(root().join("crates").join(krate).join("Cargo.toml")).unwrap();
    manifest
        .lines()
        .skip_while(|line| *line != "[dependencies]")
        .skip(1)
        .take_while(|line| !line.starts_with('['))
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty())
        .map(str::to_owned)
        .collect()
}

#[test]
fn arrows_between_crates_point_down() {
    for (krate, allowed) in ARROWS {
        for dependency in dependencies(krate) {
            if let Some(inner) = dependency.strip_prefix("granary-") {
                assert!(
                    allowed.contains(&inner),
                    "{krate} must not depend on {inner}"
                );
            }
        }
    }
}

#[test]
fn libraries_stay_in_the_crates_that_own_them() {
    for (library, owners) in CONFINED {
        for (krate, _) in ARROWS.iter().chain([("cli", &[] as &[&str])].iter()) {
            if dependencies(krate).contains(*library) {
                assert!(
                    owners.contains(krate),
                    "{krate} must not depend on {library}"
                );
            }
        }
        for owner in *owners {
            assert!(
                dependencies(owner).contains(*library),
                "{owner} does not depend on {library}"
            );
        }
    }
}
