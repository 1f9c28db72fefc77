//! A project's SQL files: read, parsed and checked in one go.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail};
use granary_engine::Engine;
use granary_model::{Definitions, Diagnostics, SourceFile, parse_file};

use crate::project::Project;

/// The folder of definitions in a project.
pub const SQL_FOLDER: &str = "sql";

impl Project {
    /// Every `sql/**/*.sql`, sorted by path.
    pub fn sql_files(&self) -> anyhow::Result<Vec<Arc<SourceFile>>> {
        let folder = self.folder.join(SQL_FOLDER);
        if !folder.is_dir() {
            bail!(
                "{} has no folder {SQL_FOLDER}/ with definitions",
                self.folder.display()
            );
        }
        let mut paths = Vec::new();
        collect_sql(&folder, &mut paths)?;
        paths.sort();
        paths
            .iter()
            .map(|path| read_sql(&self.folder, path))
            .collect()
    }

    /// Parses and checks the project's files. The outer error is of files that
    /// cannot be read, the inner one of definitions that are wrong.
    pub async fn check(&self, engine: &Engine) -> anyhow::Result<Result<Definitions, Diagnostics>> {
        let mut statements = Vec::new();
        let mut unparsed = Diagnostics::default();
        for file in self.sql_files()? {
            let (parsed, wrong) = parse_file(&file);
            statements.extend(parsed);
            unparsed.extend(wrong);
        }
        let checked = engine.check(&statements).await;
        if unparsed.is_empty() {
            return Ok(checked);
        }
        if let Err(wrong) = checked {
            unparsed.extend(wrong);
        }
        unparsed.sort();
        Ok(Err(unparsed))
    }
}

fn collect_sql(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    let cannot = || format!("cannot read the folder {}", folder.display());
    for entry in fs::read_dir(folder).with_context(cannot)? {
        let path = entry.with_context(cannot)?.path();
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if hidden {
            continue;
        }
        if path.is_dir() {
            collect_sql(&path, paths)?;
        } else if path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("sql"))
        {
            paths.push(path);
        }
    }
    Ok(())
}

fn read_sql(project: &Path, path: &Path) -> anyhow::Result<Arc<SourceFile>> {
    let relative = path.strip_prefix(project).unwrap_or(path);
    let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
    let name = parts.join("/");
    let bytes = fs::read(path).with_context(|| format!("cannot read {name}"))?;
    let text = String::from_utf8(bytes).map_err(|e| {
        let offset = e.utf8_error().valid_up_to();
        let before = &e.as_bytes()[..offset];
        let line = before.iter().filter(|b| **b == b'\n').count() + 1;
        anyhow!("{name} is not UTF-8 at byte {offset} (line {line}); save it as UTF-8")
    })?;
    Ok(Arc::new(SourceFile { path: name, text }))
}
