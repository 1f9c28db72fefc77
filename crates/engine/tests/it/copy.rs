//! Where a statement that somebody types may write to.

use std::path::Path;

use granary_engine::{Engine, EngineError};
use granary_model::Definitions;

use crate::check::{check, engine};

async fn project(folder: &Path) -> (Engine, Definitions) {
    for (name, text) in [
        ("data/one.csv", "a,b\n1,2\n"),
        ("data/parts/x.csv", "a,b\n1,2\n"),
        ("data/globbed/y1.csv", "a,b\n1,2\n"),
        ("root/catalog/1.json", "{}"),
    ] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let engine = engine(folder);
    let sql = "CREATE EXTERNAL TABLE one STORED AS CSV LOCATION 'data/one.csv';
               CREATE EXTERNAL TABLE parts STORED AS CSV LOCATION 'data/parts/';
               CREATE EXTERNAL TABLE globbed STORED AS CSV LOCATION 'data/globbed/y*.csv';";
    let checked = check(&engine, &[("sources", sql)]).await.unwrap();
    (engine, checked)
}

async fn run(engine: &Engine, definitions: &Definitions, sql: &str) -> Result<(), EngineError> {
    let session = engine.query_session(definitions, None).await?;
    for query in session.queries(sql).await? {
        let rows = query.rows().await?;
        let failed = |error| EngineError::from_query("query", error);
        let rows: Vec<_> = futures::TryStreamExt::try_collect(rows)
            .await
            .map_err(failed)?;
        assert!(!rows.is_empty());
    }
    Ok(())
}

fn all(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(all(&path));
        } else {
            files.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    files.sort();
    files
}

#[tokio::test]
async fn a_copy_writes_over_no_source_and_not_into_the_root() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, definitions) = project(folder.path()).await;
    std::os::unix::fs::symlink(folder.path().join("data"), folder.path().join("link")).unwrap();
    let before = all(folder.path());
    let absolute = folder.path().join("data/one.csv").display().to_string();
    let url = format!("file://{absolute}");
    for (target, told) in [
        ("data/one.csv", "the source one is read from there"),
        (
            "./data/parts/../one.csv",
            "the source one is read from there",
        ),
        ("link/one.csv", "the source one is read from there"),
        (absolute.as_str(), "the source one is read from there"),
        (url.as_str(), "the source one is read from there"),
        ("data/parts/new.csv", "the source parts is read from there"),
        ("data/parts/", "the source parts is read from there"),
        (
            "data/globbed/y2.csv",
            "the source globbed is read from there",
        ),
        ("root/out.csv", "the project's root lies there"),
        ("root/catalog/1.json", "the project's root lies there"),
        ("root", "the project's root lies there"),
    ] {
        for verb in ["", "EXPLAIN ANALYZE "] {
            let sql = format!("{verb}COPY (SELECT 7 AS a, 8 AS b) TO '{target}' STORED AS CSV");
            let error = run(&engine, &definitions, &sql).await.unwrap_err();
            assert!(matches!(error, EngineError::Refused(_)), "{sql}: {error}");
            assert!(error.to_string().contains(told), "{sql}: {error}");
        }
    }
    assert_eq!(all(folder.path()), before, "nothing was written");
}

#[tokio::test]
async fn a_copy_elsewhere_is_relative_to_the_project() {
    let folder = tempfile::tempdir().unwrap();
    let (engine, definitions) = project(folder.path()).await;
    for target in ["data/out.csv", "data/globbed/z.csv", "exports/new/out.csv"] {
        let sql = format!("COPY (SELECT a, b FROM one) TO '{target}'");
        run(&engine, &definitions, &sql).await.unwrap();
        let written = std::fs::read_to_string(folder.path().join(target)).unwrap();
        assert_eq!(written, "a,b\n1,2\n");
    }
    for sql in [
        "INSERT INTO one VALUES (1, 2)",
        "EXPLAIN ANALYZE INSERT INTO one VALUES (1, 2)",
        "CREATE VIEW v AS SELECT 1",
    ] {
        let error = run(&engine, &definitions, sql).await.unwrap_err();
        assert!(matches!(error, EngineError::Refused(_)), "{sql}: {error}");
    }
}
