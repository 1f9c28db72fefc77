//! What writing a training set leaves behind: all of it, or nothing.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, AsArray, BinaryArray, DictionaryArray, Float64Array, Int64Array, ListArray,
    RecordBatch, TimestampMicrosecondArray, TimestampNanosecondArray, UInt64Array,
};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, Int8Type, Int32Type};
use arrow::ipc::reader::{FileReader, StreamReader};
use futures::stream;
use granary_engine::EngineError;
use granary_engine::Stores;
use granary_engine::training::output::{OutputFormat, OutputTarget, Written, write};
use object_store::ObjectStore;
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::project::{Project, lines};

struct Case {
    folder: tempfile::TempDir,
    stores: Stores,
}

impl Case {
    fn new() -> Self {
        let local: Arc<dyn ObjectStore> = Arc::new(LocalFileSystem::new());
        let remote: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
        Self {
            folder: tempfile::tempdir().unwrap(),
            stores: Stores::new(Arc::new(move |url| {
                Ok(if url.scheme() == "file" {
                    local.clone()
                } else {
                    remote.clone()
                })
            })),
        }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_string_lossy().into_owned()
    }

    async fn write(
        &self,
        name: &str,
        overwrite: bool,
        batches: Vec<RecordBatch>,
    ) -> Result<Written, String> {
        let rows = batches.into_iter().map(Ok).collect();
        self.write_rows(name, overwrite, rows).await
    }

    async fn write_rows(
        &self,
        name: &str,
        overwrite: bool,
        rows: Vec<Result<RecordBatch, EngineError>>,
    ) -> Result<Written, String> {
        let location = match name.contains("://") {
            true => name.to_owned(),
            false => self.path(name),
        };
        let schema = rows.iter().flatten().next().unwrap().schema();
        let told = |error: EngineError| error.to_string().replace(&self.path(""), "");
        let target = OutputTarget::new(&location, None, overwrite).map_err(told)?;
        let rows = stream::iter(rows);
        let written = write(&self.stores, schema, rows, &target, &|_| {}).await;
        written.map_err(told)
    }

    /// Every name in the folder.
    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<String> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn words(words: &[&str]) -> ArrayRef {
    Arc::new(words.iter().copied().collect::<DictionaryArray<Int8Type>>())
}

/// Each batch has a dictionary of its own.
fn batches() -> Vec<RecordBatch> {
    let part = |ids: [i64; 2], named: [&str; 2]| {
        let times = TimestampMicrosecondArray::from_iter_values(ids).with_timezone("UTC");
        let lists = [Some(vec![Some(1), None]), None];
        RecordBatch::try_from_iter_with_nullable([
            (
                "id",
                Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef,
                true,
            ),
            ("word", words(&named), true),
            ("at", Arc::new(times), true),
            (
                "list",
                Arc::new(ListArray::from_iter_primitive::<Int32Type, _, _>(lists)),
                true,
            ),
            (
                "bytes",
                Arc::new(BinaryArray::from_opt_vec(vec![Some(&[0, 255]), None])),
                true,
            ),
            (
                "big",
                Arc::new(UInt64Array::from(vec![Some(u64::MAX), None])),
                true,
            ),
        ])
        .unwrap()
    };
    vec![
        part([7, 3], ["b", "a"]),
        part([5, 1], ["a", "c"]),
        part([9, 2], ["c", "d"]),
    ]
}

fn whole(batches: &[RecordBatch]) -> RecordBatch {
    concat_batches(&batches[0].schema(), batches).unwrap()
}

/// Dictionaries as their values, which may be numbered otherwise.
fn plain(batch: &RecordBatch) -> Vec<ArrayRef> {
    let columns = batch
        .columns()
        .iter()
        .map(|column| match column.data_type() {
            DataType::Dictionary(_, values) => cast(column, values).unwrap(),
            _ => column.clone(),
        });
    columns.collect()
}

fn parquet(path: &str) -> RecordBatch {
    let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(path).unwrap()).unwrap();
    let schema = reader.schema().clone();
    let batches: Vec<_> = reader.build().unwrap().map(Result::unwrap).collect();
    concat_batches(&schema, &batches).unwrap()
}

#[tokio::test]
async fn typed_files_hold_the_rows_as_they_were() {
    let case = Case::new();
    let expected = whole(&batches());
    for name in ["a.parquet", "a.arrow", "a.arrows"] {
        let written = case.write(name, false, batches()).await.unwrap();
        let bytes = std::fs::metadata(case.path(name)).unwrap().len();
        assert_eq!((written.rows, written.bytes), (6, bytes), "{name}");
        let open = || File::open(case.path(name)).unwrap();
        let read = match name {
            "a.parquet" => parquet(&case.path(name)),
            "a.arrow" => {
                let reader = FileReader::try_new(open(), None).unwrap();
                whole(&reader.map(Result::unwrap).collect::<Vec<_>>())
            }
            _ => {
                let reader = StreamReader::try_new(open(), None).unwrap();
                whole(&reader.map(Result::unwrap).collect::<Vec<_>>())
            }
        };
        assert_eq!(read.schema(), expected.schema(), "{name}");
        assert_eq!(plain(&read), plain(&expected), "{name}");
    }
    assert_eq!(case.names(), ["a.arrow", "a.arrows", "a.parquet"]);
}

#[tokio::test]
async fn csv_writes_lists_as_json_and_bytes_as_base64() {
    let case = Case::new();
    case.write("a.csv", false, batches()[..1].to_vec())
        .await
        .unwrap();
    assert_eq!(
        std::fs::read_to_string(case.path("a.csv")).unwrap(),
        "id,word,at,list,bytes,big\n\
         7,b,1970-01-01T00:00:00.000007Z,\"[1,null]\",AP8=,18446744073709551615\n\
         3,a,1970-01-01T00:00:00.000003Z,,,\n"
    );
    let empty = RecordBatch::new_empty(batches()[0].schema());
    case.write("b.csv", false, vec![empty]).await.unwrap();
    let header = std::fs::read_to_string(case.path("b.csv")).unwrap();
    assert_eq!(header, "id,word,at,list,bytes,big\n");
}

#[tokio::test]
async fn many_row_groups_and_nested_columns_keep_their_order() {
    let case = Case::new();
    let batch = |start: i64| {
        let ids: Vec<i64> = (start..start + 10_000).collect();
        let lists = ids
            .iter()
            .map(|i| (i % 3 != 0).then(|| vec![Some(*i as i32), None]));
        let lists = ListArray::from_iter_primitive::<Int32Type, _, _>(lists);
        let doubles: Float64Array = ids
            .iter()
            .map(|i| (i % 7 != 0).then_some(*i as f64))
            .collect();
        RecordBatch::try_from_iter_with_nullable([
            ("lists", Arc::new(lists) as ArrayRef, true),
            ("id", Arc::new(Int64Array::from(ids)), true),
            ("x", Arc::new(doubles), true),
        ])
        .unwrap()
    };
    let given: Vec<_> = (0..40).map(|i| batch(i * 10_000)).collect();
    case.write("a.parquet", false, given.clone()).await.unwrap();
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(case.path("a.parquet")).unwrap());
    assert!(reader.unwrap().metadata().num_row_groups() > 2);
    assert_eq!(parquet(&case.path("a.parquet")), whole(&given));
}

#[tokio::test]
async fn what_is_there_is_replaced_only_when_that_was_said() {
    let case = Case::new();
    let first = batches()[..1].to_vec();
    for name in [
        "a.parquet",
        "s3://bucket/a.parquet",
        "table/",
        "s3://bucket/table/",
    ] {
        case.write(name, false, batches()).await.unwrap();
        let error = case.write(name, false, first.clone()).await.unwrap_err();
        assert!(
            error.contains("exists already; --overwrite replaces it"),
            "{error}"
        );
        let written = case.write(name, true, first.clone()).await.unwrap();
        assert_eq!(written.rows, 2, "{name}");
    }
    assert_eq!(parquet(&case.path("a.parquet")).num_rows(), 2);
    assert_eq!(case.names(), ["a.parquet", "table"]);
    std::fs::create_dir(case.path("folder.csv")).unwrap();
    let error = case.write("folder.csv", true, first).await.unwrap_err();
    assert!(error.contains("folder.csv: it is a folder"), "{error}");
}

#[tokio::test]
async fn an_error_of_the_rows_leaves_nothing() {
    let case = Case::new();
    for name in [
        "a.parquet",
        "a.csv",
        "a.arrow",
        "table/",
        "s3://bucket/a.parquet",
    ] {
        let mut rows: Vec<_> = batches().into_iter().map(Ok).collect();
        rows.push(Err(EngineError::Refused("broken off".into())));
        let error = case.write_rows(name, false, rows).await.unwrap_err();
        assert_eq!(error, "broken off");
        // Nothing stands in the way of the next one.
        if name.contains("://") {
            case.write(name, false, batches()).await.unwrap();
        }
    }
    let left: Vec<_> = case.names().into_iter().filter(|n| n != "table").collect();
    assert_eq!(left, [""; 0]);
    let in_table = std::fs::read_dir(case.path("table")).map_or(0, Iterator::count);
    assert_eq!(in_table, 0);
}

#[tokio::test]
async fn rows_that_are_dropped_leave_nothing_that_looks_finished() {
    let case = Case::new();
    let target = OutputTarget::new(&case.path("a.parquet"), None, false).unwrap();
    let endless = stream::iter(batches().into_iter().map(Ok::<_, EngineError>));
    let endless = futures::StreamExt::chain(endless, stream::pending());
    let schema = batches()[0].schema();
    let writing = write(&case.stores, schema, endless, &target, &|_| {});
    let broken_off = tokio::time::timeout(std::time::Duration::from_millis(50), writing).await;
    assert!(broken_off.is_err());
    assert!(!Path::new(&case.path("a.parquet")).exists());
}

#[tokio::test]
async fn a_delta_table_is_replaced_in_one_commit_and_read_by_others() {
    let case = Case::new();
    case.write("table/", false, batches()).await.unwrap();
    let project = Project::new();
    let read = async |sql: &str| {
        let context = project
            .engine
            .session(&project.definitions, None)
            .await
            .unwrap();
        let table = format!(
            "CREATE EXTERNAL TABLE t STORED AS DELTATABLE LOCATION '{}'",
            case.path("table")
        );
        context.sql(&table).await.unwrap().collect().await.unwrap();
        lines(&context.sql(sql).await.unwrap().collect().await.unwrap())
    };
    let all = "SELECT id, word, at, big FROM t ORDER BY id";
    let before = read(all).await;
    assert_eq!(before.len(), 6);
    assert_eq!(before[0], "1|c|1970-01-01T00:00:00.000001Z|NULL");
    assert_eq!(
        before[4],
        "7|b|1970-01-01T00:00:00.000007Z|18446744073709551615"
    );

    // Other columns, some of them times without a zone.
    let other = RecordBatch::try_from_iter([
        ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
        (
            "local",
            Arc::new(TimestampNanosecondArray::from(vec![1_000])),
        ),
    ])
    .unwrap();
    case.write("table/", true, vec![other]).await.unwrap();
    assert_eq!(
        read("SELECT * FROM t").await,
        ["1|1970-01-01T00:00:00.000001Z"]
    );
    let log = Path::new(&case.path("table")).join("_delta_log");
    assert_eq!(std::fs::read_dir(log).unwrap().count(), 2);
}

#[tokio::test]
async fn what_a_format_has_no_form_for_is_refused_by_its_column() {
    let case = Case::new();
    let nanos = RecordBatch::try_from_iter([(
        "exact",
        Arc::new(TimestampNanosecondArray::from(vec![1])) as ArrayRef,
    )]);
    let spaced = RecordBatch::try_from_iter([("a b", Arc::new(Int64Array::from(vec![1])) as _)]);
    let nothing = Arc::new(arrow::array::NullArray::new(1)) as ArrayRef;
    let nothing = RecordBatch::try_from_iter_with_nullable([("nothing", nothing, true)]);
    let union = arrow::array::UnionArray::try_new(
        [(
            0,
            Arc::new(arrow::datatypes::Field::new("a", DataType::Int32, true)),
        )]
        .into_iter()
        .collect(),
        vec![0_i8].into(),
        None,
        vec![Arc::new(arrow::array::Int32Array::from(vec![1])) as ArrayRef],
    )
    .unwrap();
    let union = RecordBatch::try_from_iter([("either", Arc::new(union) as ArrayRef)]);
    for (name, batch, expected) in [
        (
            "t/",
            nanos,
            "t/: column exact: it has nanoseconds that are no whole microseconds",
        ),
        ("t/", spaced, "t/: a Delta table has no column \"a b\""),
        (
            "t/",
            nothing,
            "t/: column nothing is Null, which Delta Lake has no form for",
        ),
        ("a.parquet", union, "column either is Union"),
    ] {
        let error = case
            .write(name, false, vec![batch.unwrap()])
            .await
            .unwrap_err();
        assert!(error.contains(expected), "no {expected:?} in {error:?}");
    }
    let location = case.path("other");
    std::fs::create_dir(&location).unwrap();
    std::fs::write(case.path("other/notes.txt"), "x").unwrap();
    let target = OutputTarget::new(&location, Some(OutputFormat::Delta), true).unwrap();
    let error = target.check(&case.stores).await.unwrap_err().to_string();
    assert!(
        error.contains("holds other files (notes.txt) and no Delta table"),
        "{error}"
    );
    let error = OutputTarget::new("a.xlsx", None, false)
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("a.xlsx: the name tells no format"),
        "{error}"
    );
}

#[tokio::test]
async fn a_dictionary_that_grows_too_big_is_told() {
    let case = Case::new();
    let batch = |start: usize| {
        let texts: Vec<String> = (start..start + 100).map(|i| i.to_string()).collect();
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        RecordBatch::try_from_iter([("word", words(&texts))]).unwrap()
    };
    let given = vec![batch(0), batch(100)];
    let error = case
        .write("a.arrow", false, given.clone())
        .await
        .unwrap_err();
    assert!(error.contains("column word has 200 values"), "{error}");
    case.write("a.arrows", false, given).await.unwrap();
}

#[tokio::test]
async fn progress_tells_rows() {
    let case = Case::new();
    let told = std::sync::Mutex::new(Vec::new());
    let target = OutputTarget::new(&case.path("a.csv"), None, false).unwrap();
    let rows = stream::iter(batches().into_iter().map(Ok::<_, EngineError>));
    let note = |rows| told.lock().unwrap().push(rows);
    write(&case.stores, batches()[0].schema(), rows, &target, &note)
        .await
        .unwrap();
    assert_eq!(*told.lock().unwrap(), [2, 4, 6]);
}

/// Values that text loses easily.
#[tokio::test]
async fn floats_keep_their_bits() {
    let case = Case::new();
    let values = [f64::NAN, -0.0, f64::INFINITY, 1e17, 1e-3, f64::MIN_POSITIVE];
    let batch =
        RecordBatch::try_from_iter([("x", Arc::new(Float64Array::from(values.to_vec())) as _)]);
    case.write("a.parquet", false, vec![batch.unwrap()])
        .await
        .unwrap();
    let read = parquet(&case.path("a.parquet"));
    let read = read.column(0).as_primitive::<Float64Type>();
    let bits: Vec<u64> = read.values().iter().map(|v| v.to_bits()).collect();
    assert_eq!(bits, values.map(f64::to_bits));
}
