//! Definitions checked: what is wrong with them, what they come out as.

mod formats;
mod good;
mod wrong;

use std::path::Path;
use std::sync::Arc;

use granary_engine::{Engine, EngineSettings};
use granary_model::{Definitions, Diagnostics, ManualClock, SourceFile, parse_file};

use crate::project::{Project, at};

/// The folder of this module's cases.
pub(crate) fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/check")
}

/// An engine whose project is `folder`; its clock stands at 2026-01-01.
pub(crate) fn engine(folder: &Path) -> Engine {
    let settings = EngineSettings {
        target_partitions: 2,
        ..EngineSettings::default()
    };
    Project::engine(
        folder,
        settings,
        Arc::new(ManualClock::new(at("2026-01-01"))),
    )
}

/// Parses and checks files of (name, text).
pub(crate) async fn check(
    engine: &Engine,
    files: &[(&str, &str)],
) -> Result<Definitions, Diagnostics> {
    let mut statements = Vec::new();
    for (name, text) in files {
        let file = SourceFile::new(format!("sql/{name}.sql"), *text);
        let (parsed, errors) = parse_file(&file);
        errors.into_result()?;
        statements.extend(parsed);
    }
    engine.check(&statements).await
}
