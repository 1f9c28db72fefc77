//! Every format of source files: read as DataFusion reads it, and a clear word
//! when the files are not what they were.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray,
};
use arrow::ipc::writer::FileWriter;
use deltalake_core::DeltaTable;
use flate2::Compression;
use flate2::write::GzEncoder;
use granary_engine::{Engine, EngineError};
use granary_model::Definitions;
use parquet::arrow::ArrowWriter;

use super::{check, engine};
use crate::project::lines;

fn sample() -> RecordBatch {
    let columns: [(&str, ArrayRef); 4] = [
        ("Customer ID", Arc::new(Int64Array::from(vec![1, 2, 3]))),
        (
            "amount",
            Arc::new(Float64Array::from(vec![Some(1.5), None, Some(-2.0)])),
        ),
        (
            "note",
            Arc::new(StringArray::from(vec!["a;b", "q\"x", "č"])),
        ),
        (
            "at",
            Arc::new(TimestampMicrosecondArray::from(vec![0, 1, 2_000_000]).with_timezone("UTC")),
        ),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn parquet(path: &Path, rows: &RecordBatch) {
    let mut writer =
        ArrowWriter::try_new(File::create(path).unwrap(), rows.schema(), None).unwrap();
    writer.write(rows).unwrap();
    writer.close().unwrap();
}

async fn definitions(engine: &Engine, sql: &str) -> Definitions {
    let checked = check(engine, &[("sources", sql)]).await;
    checked.unwrap_or_else(|errors| panic!("{errors}"))
}

/// The rows of table t, sorted.
async fn rows(engine: &Engine, definitions: &Definitions) -> Result<Vec<String>, EngineError> {
    let context = engine.session(definitions, None).await?;
    let failed = |error| EngineError::from_query("query", error);
    let frame = context.sql("SELECT * FROM t").await.map_err(failed)?;
    let mut rows = lines(&frame.collect().await.map_err(failed)?);
    rows.sort();
    Ok(rows)
}

async fn expect(folder: &Path, sql: &str, expected: &[&str]) {
    let engine = engine(folder);
    let definitions = definitions(&engine, sql).await;
    assert_eq!(
        rows(&engine, &definitions).await.unwrap(),
        expected,
        "{sql}"
    );
}

const SAMPLE: [&str; 3] = [
    "1|1.5|a;b|1970-01-01T00:00:00Z",
    "2|NULL|q\"x|1970-01-01T00:00:00.000001Z",
    "3|-2.0|č|1970-01-01T00:00:02Z",
];

#[tokio::test]
async fn parquet_files_and_folders() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::create_dir_all(path.join("parts/day=2025-01-01")).unwrap();
    parquet(&path.join("one.parquet"), &sample());
    parquet(
        &path.join("parts/day=2025-01-01/a.parquet"),
        &sample().slice(0, 1),
    );
    parquet(
        &path.join("parts/day=2025-01-01/b.parquet"),
        &sample().slice(1, 2),
    );
    expect(
        path,
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'one.parquet'",
        &SAMPLE,
    )
    .await;
    let partitioned = SAMPLE.map(|row| format!("{row}|2025-01-01"));
    let partitioned = partitioned.each_ref().map(String::as_str);
    expect(
        path,
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'parts/'",
        &partitioned,
    )
    .await;
    let absolute = format!(
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'file://{}/one.parquet'",
        path.display()
    );
    expect(path, &absolute, &SAMPLE).await;
}

#[tokio::test]
async fn a_project_folder_of_any_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a project, č 100%");
    std::fs::create_dir(&path).unwrap();
    parquet(&path.join("one file.parquet"), &sample());
    let sql = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'one file.parquet'";
    expect(&path, sql, &SAMPLE).await;
}

#[tokio::test]
async fn csv_with_header_delimiter_quotes_and_gzip() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let text = "\"Customer ID\";amount;note;at\n1;1.5;\"a;b\";1970-01-01T00:00:00Z\n2;;\"q\"\"x\";1970-01-01T00:00:00.000001Z\n3;-2.0;č;1970-01-01T00:00:02Z\n";
    std::fs::write(path.join("plain.csv"), text).unwrap();
    let mut gzip = GzEncoder::new(
        File::create(path.join("t.csv.gz")).unwrap(),
        Compression::fast(),
    );
    gzip.write_all(text.as_bytes()).unwrap();
    gzip.finish().unwrap();
    let headless = text
        .split_once('\n')
        .unwrap()
        .1
        .replace(';', "\t")
        .replace("a\tb", "a;b");
    std::fs::write(path.join("headless.tsv"), headless).unwrap();
    let options = "'format.has_header' 'true', 'format.delimiter' ';'";
    expect(
        path,
        &format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'plain.csv' OPTIONS ({options})"),
        &SAMPLE,
    )
    .await;
    expect(
        path,
        &format!("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't.csv.gz' OPTIONS ({options}, 'format.compression' 'gzip')"),
        &SAMPLE,
    )
    .await;
    expect(
        path,
        "CREATE EXTERNAL TABLE t (id BIGINT, amount DOUBLE, note VARCHAR, at TIMESTAMP) STORED AS CSV LOCATION 'headless.tsv' \
         OPTIONS ('format.has_header' 'false', 'format.delimiter' '\t')",
        &SAMPLE,
    )
    .await;
}

#[tokio::test]
async fn json_and_arrow_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    std::fs::write(
        path.join("t.json"),
        "{\"id\": 1, \"amount\": 1.5, \"tags\": [\"a\", \"b\"], \"home\": {\"city name\": \"Praha\", \"zip\": 1}}\n{\"id\": 2, \"tags\": []}\n",
    )
    .unwrap();
    let file = File::create(path.join("t.arrow")).unwrap();
    let mut writer = FileWriter::try_new(file, &sample().schema()).unwrap();
    writer.write(&sample()).unwrap();
    writer.finish().unwrap();
    expect(
        path,
        "CREATE EXTERNAL TABLE t STORED AS ARROW LOCATION 't.arrow'",
        &SAMPLE,
    )
    .await;
    let engine = engine(path);
    let json = "CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 't.json'";
    let definitions = definitions(&engine, json).await;
    let context = engine.session(&definitions, None).await.unwrap();
    let frame = context
        .sql("SELECT id, amount, tags[1], home['city name'] FROM t ORDER BY id")
        .await
        .unwrap();
    assert_eq!(
        lines(&frame.collect().await.unwrap()),
        ["1|1.5|a|Praha", "2|NULL|NULL|NULL"]
    );
}

async fn write_delta(engine: &Engine, rows: RecordBatch) {
    let location = url::Url::from_directory_path(engine.project().join("delta")).unwrap();
    std::fs::create_dir_all(engine.project().join("delta")).unwrap();
    let mut table = DeltaTable::new(engine.log_store(&location).unwrap());
    let _ = table.load().await;
    table.write(vec![rows]).await.unwrap();
}

#[tokio::test]
async fn delta_tables_at_their_newest_version() {
    let folder = tempfile::tempdir().unwrap();
    let engine = engine(folder.path());
    write_delta(&engine, sample().slice(0, 1)).await;
    let sql =
        "CREATE EXTERNAL TABLE t STORED AS DELTATABLE LOCATION 'delta'; EVENT TIME OF t IS at;";
    let definitions = definitions(&engine, sql).await;
    assert_eq!(rows(&engine, &definitions).await.unwrap(), SAMPLE[..1]);
    write_delta(&engine, sample().slice(1, 2)).await;
    assert_eq!(rows(&engine, &definitions).await.unwrap(), SAMPLE);
    let context = engine
        .session(&definitions, Some(granary_model::UtcMicros(1)))
        .await
        .unwrap();
    let frame = context
        .sql("SELECT note, \"Customer ID\" FROM t WHERE amount IS NULL")
        .await
        .unwrap();
    assert_eq!(lines(&frame.collect().await.unwrap()), ["q\"x|2"]);
}

#[tokio::test]
async fn a_changed_schema_is_told_by_its_column() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let engine = engine(path);
    parquet(&path.join("t.parquet"), &sample());
    let sql = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't.parquet'";
    let of_parquet = definitions(&engine, sql).await;
    assert_eq!(rows(&engine, &of_parquet).await.unwrap(), SAMPLE);
    parquet(
        &path.join("t.parquet"),
        &sample().project(&[0, 1, 3]).unwrap(),
    );
    let told = rows(&engine, &of_parquet).await.unwrap_err().to_string();
    assert_eq!(
        told,
        "t: its schema changed since apply: column note is gone; apply again"
    );
    let amount: ArrayRef = Arc::new(StringArray::from(vec!["x", "y", "z"]));
    let mut columns: Vec<(String, ArrayRef)> = Vec::new();
    for (field, column) in sample().schema().fields().iter().zip(sample().columns()) {
        let column = if field.name() == "amount" {
            amount.clone()
        } else {
            column.clone()
        };
        columns.push((field.name().clone(), column));
    }
    parquet(
        &path.join("t.parquet"),
        &RecordBatch::try_from_iter(columns).unwrap(),
    );
    let told = rows(&engine, &of_parquet).await.unwrap_err().to_string();
    assert_eq!(
        told,
        "t: its schema changed since apply: column amount was DOUBLE, is VARCHAR; apply again"
    );
    std::fs::write(path.join("t.csv"), "a,b\n1,2\n").unwrap();
    let of_csv = definitions(
        &engine,
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't.csv'",
    )
    .await;
    std::fs::write(path.join("t.csv"), "b,a\n1,2\n").unwrap();
    let told = rows(&engine, &of_csv).await.unwrap_err().to_string();
    assert_eq!(
        told,
        format!(
            "t: its schema changed since apply: column 1 was a, is b ({}); apply again",
            path.join("t.csv").display()
        )
    );
}

/// CSV is read by place: a header in another order would swap columns in silence.
#[tokio::test]
async fn a_header_in_another_order_is_refused_file_by_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let engine = engine(path);
    std::fs::create_dir(path.join("parts")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(path.join(name), text).unwrap();
    write("parts/a.csv", "x,y\n1,2\n");
    write("parts/empty.csv", "");
    let inferred = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'parts/'";
    let declared = "CREATE EXTERNAL TABLE t (x BIGINT, y BIGINT) STORED AS CSV LOCATION 'parts/'";
    let renamed = "CREATE EXTERNAL TABLE t (p BIGINT, q BIGINT) STORED AS CSV LOCATION 'parts/'";
    let short = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'parts/' \
                 OPTIONS ('format.truncated_rows' 'true')";
    let bare = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'parts/' \
                OPTIONS ('format.has_header' 'false')";
    let mut all = Vec::new();
    for sql in [inferred, declared, renamed, short, bare] {
        all.push(definitions(&engine, sql).await);
    }
    let [
        inferred_table,
        declared_table,
        renamed_table,
        short_table,
        bare_table,
    ] = all.as_slice()
    else {
        panic!("five tables");
    };
    write("parts/b.csv", "x,y\n3,4\n");
    for table in [inferred_table, declared_table, renamed_table, short_table] {
        assert_eq!(rows(&engine, table).await.unwrap(), ["1|2", "3|4"]);
    }
    let b = path.join("parts/b.csv").display().to_string();
    for (header, of_inferred, of_declared) in [
        (
            "y,x",
            "column 1 was x, is y",
            Some("column 1 is declared as x, which is column 2 of the header"),
        ),
        ("x,z", "column y is gone", None),
        ("x,y,z", "column z is new", None),
    ] {
        let row = if header == "x,y,z" { "3,4,5" } else { "3,4" };
        write("parts/b.csv", &format!("{header}\n{row}\n"));
        let told = rows(&engine, inferred_table).await.unwrap_err().to_string();
        let expected =
            format!("t: its schema changed since apply: {of_inferred} ({b}); apply again");
        assert_eq!(told, expected);
        if let Some(of_declared) = of_declared {
            let told = rows(&engine, declared_table).await.unwrap_err().to_string();
            let expected =
                format!("t: its schema changed since apply: {of_declared} ({b}); apply again");
            assert_eq!(told, expected);
            // At apply too, where no schema was recorded that they could differ from.
            for sql in [inferred, declared] {
                let error = check(&engine, &[("sources", sql)]).await.unwrap_err();
                assert!(error.to_string().contains(&b), "{sql}: {error}");
            }
        }
    }
    // Names of one's own and no header at all: there is nothing to compare.
    write("parts/b.csv", "y,x\n3,4\n");
    assert_eq!(rows(&engine, renamed_table).await.unwrap(), ["1|2", "3|4"]);
    assert_eq!(rows(&engine, bare_table).await.unwrap().len(), 4);
    write("parts/b.csv", "x\n3\n");
    assert_eq!(rows(&engine, short_table).await.unwrap(), ["1|2", "3|NULL"]);
    let told = rows(&engine, inferred_table).await.unwrap_err().to_string();
    assert!(told.contains("column y is gone"), "{told}");
}

#[tokio::test]
async fn a_damaged_page_is_named_by_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let engine = engine(path);
    std::fs::create_dir(path.join("parts")).unwrap();
    let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(
        (0..100_000).map(|n| n * 7_919 % 65_537),
    ));
    let rows_of = RecordBatch::try_from_iter([("n", numbers)]).unwrap();
    for name in ["a", "b", "c"] {
        let file = File::create(path.join(format!("parts/{name}.parquet"))).unwrap();
        let properties = parquet::file::properties::WriterProperties::builder()
            .set_compression(parquet::basic::Compression::ZSTD(Default::default()))
            .build();
        let mut writer = ArrowWriter::try_new(file, rows_of.schema(), Some(properties)).unwrap();
        writer.write(&rows_of).unwrap();
        writer.close().unwrap();
    }
    let sql = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'parts/'";
    let definitions = definitions(&engine, sql).await;
    assert_eq!(rows(&engine, &definitions).await.unwrap().len(), 300_000);
    let damaged = path.join("parts/b.parquet");
    let whole = std::fs::read(&damaged).unwrap();
    let mut bytes = whole.clone();
    // Where the first page's compressed bytes begin.
    let frame = bytes
        .windows(4)
        .position(|magic| magic == [0x28, 0xB5, 0x2F, 0xFD])
        .unwrap();
    bytes[frame..frame + 4].fill(0xA5);
    std::fs::write(&damaged, bytes).unwrap();
    let error = rows(&engine, &definitions)
        .await
        .map(|rows| rows.len())
        .unwrap_err();
    assert!(
        matches!(&error, EngineError::Source { path, .. } if *path == damaged.display().to_string()),
        "{error}"
    );
    // A filter that fails by itself blames no file.
    std::fs::write(&damaged, whole).unwrap();
    let context = engine.session(&definitions, None).await.unwrap();
    let frame = context
        .sql("SELECT n FROM t WHERE 1 / (n - n) > 0")
        .await
        .unwrap();
    let error = EngineError::from_query("query", frame.collect().await.unwrap_err());
    assert!(matches!(&error, EngineError::Query { .. }), "{error}");
}

#[tokio::test]
async fn files_that_went_away_or_broke_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let engine = engine(path);
    let file = path.join("t.parquet");
    parquet(&file, &sample());
    let sql = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 't.parquet'";
    let definitions = definitions(&engine, sql).await;
    let whole = std::fs::read(&file).unwrap();
    std::fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let told = rows(&engine, &definitions).await.unwrap_err();
    assert!(
        matches!(&told, EngineError::Source { path, .. } if path.ends_with("t.parquet")),
        "{told}"
    );
    std::fs::remove_file(&file).unwrap();
    let told = rows(&engine, &definitions).await.unwrap_err().to_string();
    assert!(told.ends_with("t.parquet: no such file"), "{told}");
}

#[tokio::test]
async fn a_new_file_of_a_folder_is_seen_by_the_next_query() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let engine = engine(path);
    std::fs::create_dir(path.join("parts")).unwrap();
    parquet(&path.join("parts/a.parquet"), &sample().slice(0, 1));
    let sql = "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION 'parts/'";
    let definitions = definitions(&engine, sql).await;
    assert_eq!(rows(&engine, &definitions).await.unwrap().len(), 1);
    parquet(&path.join("parts/b.parquet"), &sample().slice(1, 2));
    assert_eq!(rows(&engine, &definitions).await.unwrap(), SAMPLE);
}

#[tokio::test]
async fn a_row_that_does_not_parse_is_named_by_file_and_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    let engine = engine(path);
    std::fs::create_dir(path.join("parts")).unwrap();
    let good = |from: i64| -> String {
        (from..from + 50_000)
            .map(|n| format!("{n},x{n}\n"))
            .collect()
    };
    let write =
        |name: &str, text: String| std::fs::write(path.join("parts").join(name), text).unwrap();
    write("a.csv", format!("id,note\n{}", good(0)));
    let sql = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'parts/' OPTIONS ('format.has_header' 'true')";
    let of_csv = definitions(&engine, sql).await;
    assert_eq!(rows(&engine, &of_csv).await.unwrap().len(), 50_000);
    for (bad, told) in [
        (
            "oops,x",
            "line 50002: Error while parsing value 'oops' as type 'Int64' for column 0",
        ),
        ("1,x,y", "line 50002: incorrect number of fields"),
    ] {
        write("b.csv", format!("id,note\n{}{bad}\n{}", good(0), good(0)));
        let error = rows(&engine, &of_csv).await.unwrap_err().to_string();
        let place = path.join("parts/b.csv").display().to_string();
        assert!(
            error.starts_with(&format!("query: {place}: {told}")),
            "{error}"
        );
    }
    // Of some mistakes the reader names no line: the rows are counted.
    let times = "CREATE EXTERNAL TABLE t (at TIMESTAMP) STORED AS CSV LOCATION 'parts/late.csv'";
    write("late.csv", "at\n2025-01-01\n".into());
    let of_times = definitions(&engine, times).await;
    let good_times = "2025-01-01\n".repeat(9_000);
    write("late.csv", format!("at\n{good_times}9999-12-31\n"));
    let error = rows(&engine, &of_times).await.unwrap_err().to_string();
    let told = "/parts/late.csv: line 9002: 9999-12-31T00:00:00+00:00 would overflow 64-bit signed \
                nanoseconds; declare the column as TIMESTAMP(6)";
    assert!(error.ends_with(told), "{error}");
    write("late.csv", "at\n9999-12-31\n".into());
    let micros = definitions(&engine, &times.replace("TIMESTAMP", "TIMESTAMP(6)")).await;
    let seen = rows(&engine, &micros).await.unwrap();
    assert_eq!(seen, ["9999-12-31T00:00:00Z"]);
    write("c.json", "{\"n\": 1}\n{\"n\": 2}\n".into());
    let json = "CREATE EXTERNAL TABLE t STORED AS JSON LOCATION 'parts/c.json'";
    let of_json = definitions(&engine, json).await;
    write("c.json", "{\"n\": 1}\n{\"n\": 2}\n{\"n\": \"x\"}\n".into());
    let error = rows(&engine, &of_json).await.unwrap_err().to_string();
    assert!(error.contains("/parts/c.json: line 3: "), "{error}");
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(format!("id,note\n{}", good(0)).as_bytes())
        .unwrap();
    let whole = gzip.finish().unwrap();
    std::fs::write(path.join("t.csv.gz"), &whole[..whole.len() / 2]).unwrap();
    let cut = "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 't.csv.gz' OPTIONS ('format.compression' 'gzip')";
    let of_gzip = definitions(&engine, cut).await;
    let error = rows(&engine, &of_gzip).await.unwrap_err().to_string();
    assert!(error.contains("/t.csv.gz: "), "{error}");
}
