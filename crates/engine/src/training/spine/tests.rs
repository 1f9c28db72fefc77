//! Spines of every form, and what is refused of them.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use arrow::array::{
    DictionaryArray, Int64Array, ListArray, RecordBatch, StringArray, StringViewArray,
    TimestampMillisecondArray, TimestampNanosecondArray, UInt16Array,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Int8Type, Int32Type};
use arrow::ipc::writer::{FileWriter, StreamWriter};
use granary_model::{ManualClock, UtcMicros, json};
use object_store::local::LocalFileSystem;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use url::Url;

use super::*;
use crate::engine::{Engine, EngineSettings, Joins};

/// An engine over the local file system.
pub(crate) fn engine(folder: &Path) -> Engine {
    Engine::new(
        EngineSettings {
            target_partitions: 4,
            ..EngineSettings::default()
        },
        Url::from_directory_path(folder.join("root")).unwrap(),
        folder.to_owned(),
        Arc::new(|_| Ok(Arc::new(LocalFileSystem::new()))),
        Arc::new(ManualClock::new(UtcMicros(0))),
    )
    .unwrap()
}

struct Case {
    folder: tempfile::TempDir,
    context: SessionContext,
    keys: Vec<Column>,
    added: Vec<String>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let context = engine(folder.path()).context(None, Joins::default());
        Self {
            folder,
            context,
            keys: vec![Column::new("customer_id", FeatureType::BigInt)],
            added: vec!["amount_30d".into()],
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Spine {
        std::fs::write(self.path(name), content).unwrap();
        Spine::File(self.path(name))
    }

    async fn open(&self, spine: &Spine) -> Result<SpineRows, String> {
        let columns = SpineColumns {
            time: Some("event_time"),
            keys: &self.keys,
            inputs: &[],
            added: &self.added,
        };
        let opened = open_spine(&self.context, spine, columns).await;
        opened.map_err(|error| error.to_string().replace(&self.path(""), ""))
    }

    async fn read(&self, spine: &Spine) -> RecordBatch {
        let rows = self.open(spine).await.unwrap();
        assert_eq!(rows.plan.output_partitioning().partition_count(), 1);
        let context = self.context.task_ctx();
        let batches = datafusion::physical_plan::collect(rows.plan.clone(), context).await;
        concat_batches(&rows.plan.schema(), &batches.unwrap()).unwrap()
    }

    /// t of every row, as text.
    async fn times(&self, spine: &Spine) -> Vec<Option<String>> {
        let rows = self.open(spine).await.unwrap();
        let batch = self.read(spine).await;
        let times = rows
            .time
            .unwrap()
            .evaluate(&batch)
            .unwrap()
            .into_array(batch.num_rows());
        let times = cast(&times.unwrap(), &timestamp()).unwrap();
        (0..times.len())
            .map(|row| json::text(&times, row))
            .collect()
    }

    async fn refused(&self, spine: &Spine) -> String {
        match self.open(spine).await {
            Ok(rows) => {
                let context = self.context.task_ctx();
                let read = datafusion::physical_plan::collect(rows.plan, context).await;
                let error = EngineError::from_query("spine", read.unwrap_err());
                error.to_string().replace(&self.path(""), "")
            }
            Err(error) => error,
        }
    }
}

/// Rows of many types, in several batches.
fn batches() -> Vec<RecordBatch> {
    let part = |start: i64| {
        let ids: Vec<i64> = (start..start + 3).rev().collect();
        let words: DictionaryArray<Int8Type> = ["b", "a", "b"].into_iter().collect();
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
            Some(vec![Some(1), None]),
            None,
            Some(vec![]),
        ]);
        let times = TimestampMillisecondArray::from_iter_values(ids.iter().map(|i| i * 86_400_000));
        let exact = TimestampNanosecondArray::from(vec![Some(1), None, Some(i64::MAX)]);
        RecordBatch::try_from_iter([
            ("customer_id", Arc::new(Int64Array::from(ids)) as ArrayRef),
            ("event_time", Arc::new(times.with_timezone("Europe/Prague"))),
            ("word", Arc::new(words)),
            ("list", Arc::new(lists)),
            ("exact", Arc::new(exact)),
            ("small", Arc::new(UInt16Array::from(vec![65_535, 0, 1]))),
            (
                "view",
                Arc::new(StringViewArray::from(vec![
                    "a longer text than twelve",
                    "",
                    "c",
                ])),
            ),
            (
                "text",
                Arc::new(StringArray::from(vec![Some("x"), None, Some("")])),
            ),
        ])
        .unwrap()
    };
    vec![part(10), part(4), part(7)]
}

fn whole() -> RecordBatch {
    let batches = batches();
    concat_batches(&batches[0].schema(), &batches).unwrap()
}

#[tokio::test]
async fn files_come_out_as_they_are() {
    let case = Case::new();
    let schema = whole().schema();
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(2))
        .build();
    let file = File::create(case.path("a.parquet")).unwrap();
    let mut parquet = ArrowWriter::try_new(file, schema.clone(), Some(properties)).unwrap();
    parquet.write(&whole()).unwrap();
    parquet.close().unwrap();
    let file = File::create(case.path("a.arrow")).unwrap();
    let mut arrow = FileWriter::try_new(file, &schema).unwrap();
    arrow.write(&whole()).unwrap();
    arrow.finish().unwrap();
    let file = File::create(case.path("a.arrows")).unwrap();
    let mut stream = StreamWriter::try_new(file, &schema).unwrap();
    batches()
        .iter()
        .for_each(|batch| stream.write(batch).unwrap());
    stream.finish().unwrap();
    for name in ["a.parquet", "a.arrow", "a.arrows"] {
        let read = case.read(&Spine::File(case.path(name))).await;
        assert_eq!(read.schema(), schema, "{name}");
        assert_eq!(read, whole(), "{name}");
    }
}

#[tokio::test]
async fn metadata_of_fields_stays() {
    let case = Case::new();
    let ids = Field::new("customer_id", DataType::Int64, false)
        .with_metadata([("unit".to_owned(), "person".to_owned())].into());
    let at = Field::new("event_time", DataType::Date32, true);
    let schema = Arc::new(Schema::new_with_metadata(
        vec![ids, at],
        [("made by".to_owned(), "a test".to_owned())].into(),
    ));
    let file = File::create(case.path("a.parquet")).unwrap();
    ArrowWriter::try_new(file, schema.clone(), None)
        .unwrap()
        .close()
        .unwrap();
    assert_eq!(
        case.read(&Spine::File(case.path("a.parquet")))
            .await
            .schema(),
        schema
    );
}

#[tokio::test]
async fn csv_keys_have_the_types_asked_for_and_others_those_that_fit() {
    let mut case = Case::new();
    case.keys.push(Column::new("phone", FeatureType::Varchar));
    let text = "\u{feff}customer_id,event_time,phone,label,score,zip,flag\n\
                3,2026-01-31,0601,1,0.5,01234,true\n\
                ,,,,,,\n\
                1,2026-01-31T10:00:00+02:00,0700,0,2,90210,False\n";
    let spine = case.file("a.csv", text);
    let read = case.read(&spine).await;
    let types: Vec<String> = read
        .schema()
        .fields()
        .iter()
        .map(|f| f.data_type().to_string())
        .collect();
    assert_eq!(
        types,
        [
            "Int64",
            "Timestamp(µs, \"UTC\")",
            "Utf8",
            "Int64",
            "Float64",
            "Utf8",
            "Boolean"
        ]
    );
    assert_eq!(read.num_rows(), 3);
    assert_eq!(json::value(read.column(2), 0), "0601");
    assert_eq!(json::value(read.column(5), 0), "01234");
    let expected = [
        Some("2026-01-31T00:00:00Z"),
        None,
        Some("2026-01-31T08:00:00Z"),
    ];
    assert_eq!(
        case.times(&spine).await,
        expected.map(|t| t.map(str::to_owned))
    );

    let mut zipped = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    zipped.write_all(text.as_bytes()).unwrap();
    let zipped = case.file("b.csv.gz", zipped.finish().unwrap());
    assert_eq!(case.read(&zipped).await, read);
    let tabs = case.file("c.tsv", text.replace(',', "\t"));
    assert_eq!(case.read(&tabs).await, read);
    let empty = case.file("d.csv", "customer_id,event_time,phone\n");
    assert_eq!(case.read(&empty).await.num_rows(), 0);
}

#[tokio::test]
async fn a_type_found_late_in_a_long_file_holds_for_all_of_it() {
    let case = Case::new();
    let mut text = String::from("customer_id,event_time,label\n");
    for row in 0..30_000 {
        text += &format!("{row},2026-01-31,{row}\n");
    }
    text += "1,2026-01-31,0.5\n";
    let read = case.read(&case.file("a.csv", text)).await;
    assert_eq!(*read.column(2).data_type(), DataType::Float64);
    let ids = read.column(0).as_primitive::<arrow::datatypes::Int64Type>();
    assert!((0..30_000).all(|row| ids.value(row) == row as i64));
}

#[tokio::test]
async fn queries_keep_their_order_and_text_is_read_as_times() {
    let case = Case::new();
    let sql =
        "SELECT * FROM (VALUES (3, '2026-01-31'), (1, NULL), (2, '2026-01-31T10:00:00-05:00'))
               AS v (customer_id, event_time) ORDER BY customer_id DESC";
    let spine = Spine::Sql(sql.into());
    let read = case.read(&spine).await;
    let ids: Vec<_> = (0..3).map(|row| json::value(read.column(0), row)).collect();
    assert_eq!(ids, [3, 2, 1]);
    assert!(is_text(read.column(1).data_type()), "{:?}", read.schema());
    let expected = [
        Some("2026-01-31T00:00:00Z"),
        Some("2026-01-31T15:00:00Z"),
        None,
    ];
    assert_eq!(
        case.times(&spine).await,
        expected.map(|t| t.map(str::to_owned))
    );
}

#[tokio::test]
async fn keys_of_any_integer_fit_and_nothing_else_converts() {
    let case = Case::new();
    for (key, refused) in [
        ("CAST(1 AS INT)", None),
        ("CAST(1 AS SMALLINT UNSIGNED)", None),
        ("NULL", None),
        (
            "'1'",
            Some("the spine: customer_id expects BIGINT, got VARCHAR"),
        ),
        (
            "1.0",
            Some("the spine: customer_id expects BIGINT, got DOUBLE"),
        ),
        (
            "CAST(1 AS BIGINT UNSIGNED)",
            Some("customer_id expects BIGINT, got DECIMAL(20, 0)"),
        ),
    ] {
        let sql = format!("SELECT {key} AS customer_id, DATE '2026-01-31' AS event_time");
        let opened = case.open(&Spine::Sql(sql)).await;
        match refused {
            None => assert!(opened.is_ok(), "{key}: {opened:?}"),
            Some(part) => {
                let error = opened.unwrap_err();
                assert!(error.contains(part), "{key}: {error}");
            }
        }
    }
}

/// A Parquet file without its last bytes.
fn cut_short(case: &Case) -> Spine {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, whole().schema(), None).unwrap();
    writer.write(&whole()).unwrap();
    writer.close().unwrap();
    bytes.truncate(bytes.len() - 100);
    case.file("short.parquet", bytes)
}

async fn check_refused(case: &Case, spine: &Spine, parts: &[&str]) {
    let error = case.refused(spine).await;
    for part in parts {
        assert!(error.contains(part), "no {part:?} in {error:?}");
    }
}

#[tokio::test]
async fn files_that_are_no_spine_are_told_by_name() {
    let case = Case::new();
    std::fs::create_dir(case.path("folder.parquet")).unwrap();
    std::fs::write(case.path("folder.parquet/a"), "x").unwrap();
    let none = Spine::File(case.path("none.parquet"));
    check_refused(&case, &none, &["none.parquet: no such file"]).await;
    let folder = Spine::File(case.path("folder.parquet"));
    check_refused(&case, &folder, &["folder.parquet: it is a folder"]).await;
    let short = cut_short(&case);
    check_refused(
        &case,
        &short,
        &["short.parquet: it is no whole PARQUET file"],
    )
    .await;
    for (name, content, expected) in [
        (
            "a.json",
            "{}",
            "a.json: unknown format; a name ends with .parquet",
        ),
        ("empty.csv", "", "empty.csv: is empty"),
        (
            "no.parquet",
            "hello, this is text",
            "no.parquet: it is no whole PARQUET file",
        ),
        (
            "no.arrow",
            "hello, this is text",
            "no.arrow: it is no whole ARROW file",
        ),
    ] {
        check_refused(&case, &case.file(name, content), &[expected]).await;
    }
}

#[tokio::test]
async fn rows_and_columns_of_csv_are_told_by_file_line_and_name() {
    let case = Case::new();
    for (text, expected) in [
        (
            "customer_id,event_tim\n1,2026-01-31\n",
            "no time column \"event_time\"; did you mean \"event_tim\"?",
        ),
        (
            "x,event_time\n1,2026-01-31\n",
            "no key column \"customer_id\"; it has x, event_time",
        ),
        (
            "customer_id,event_time\n1,2026-01-31\n2,31.1.2026\n",
            "line 3: event_time: \"31.1.2026\" is no time; write it as 2026-01-31",
        ),
        (
            "customer_id,event_time\n1,2026-01-31\n2,2026-02-01\n1.0,2026-02-01\n",
            "line 4: customer_id expects BIGINT, got \"1.0\"",
        ),
        (
            "customer_id,event_time\n1,2026-01-31\n2\n",
            "line 3: incorrect number of fields, expected 2 got 1",
        ),
        (
            "customer_id,event_time,a,a\n1,2026-01-31,1,2\n",
            "two columns are named \"a\"",
        ),
        (
            "customer_id,event_time,amount_30d\n1,2026-01-31,5\n",
            "it has a column \"amount_30d\"",
        ),
    ] {
        let spine = case.file("a.csv", text);
        check_refused(&case, &spine, &["a.csv: ", expected]).await;
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_query_is_told() {
    let case = Case::new();
    for (sql, expected) in [
        (
            "SELECT 1 AS customer_id, 2 AS event_time",
            "the time column event_time is BIGINT, not a TIMESTAMP or a DATE",
        ),
        (
            "SELECT 1 AS customer_id, v.t AS event_time
             FROM (VALUES ('2026-01-31'), ('2026-01-32')) AS v (t)",
            "row 2: event_time: \"2026-01-32\" is no time",
        ),
        ("SELECT nothing FROM nowhere", "nowhere"),
        ("CREATE TABLE t AS SELECT 1", "DDL not supported"),
    ] {
        let spine = Spine::Sql(sql.to_owned());
        check_refused(&case, &spine, &["the spine: ", expected]).await;
    }
}

#[tokio::test]
async fn columns_of_one_name_are_told_in_typed_files_too() {
    let case = Case::new();
    let field = |name: &str| Field::new(name, DataType::Int64, true);
    let fields = vec![field("customer_id"), field("a"), field("a")];
    let schema = Schema::new(fields);
    let file = File::create(case.path("a.parquet")).unwrap();
    ArrowWriter::try_new(file, Arc::new(schema.clone()), None)
        .unwrap()
        .close()
        .unwrap();
    let file = File::create(case.path("a.arrow")).unwrap();
    FileWriter::try_new(file, &schema)
        .unwrap()
        .finish()
        .unwrap();
    for name in ["a.parquet", "a.arrow"] {
        let error = case.refused(&Spine::File(case.path(name))).await;
        assert!(
            error.contains("two columns are named \"a\""),
            "{name}: {error}"
        );
    }
}
