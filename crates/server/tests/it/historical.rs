//! Training sets over the wire: a spine goes up, its rows come down.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, DictionaryArray, Int64Array, RecordBatch, TimestampMicrosecondArray,
};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Float64Type, Int8Type, Int64Type, SchemaRef};
use futures::{StreamExt, TryStreamExt, stream};
use granary_client::{Client, ClientError, GetHistorical, HistoricalReport, Target};
use granary_engine::EngineSettings;
use granary_model::{ErrorKind, SystemClock};
use granary_proto as pb;
use granary_proto::get_historical_request::Part;
use granary_proto::historical_client::HistoricalClient;
use granary_proto::historical_options::Target as WireTarget;
use granary_server::ServerSettings;
use granary_serving::ServingSettings;
use granary_testing::TestProject;
use granary_testing::memory::DAY;
use tempfile::TempDir;

use crate::server::*;

const SQL: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE EXTERNAL TABLE payments (customer_id BIGINT, at TIMESTAMP, amount DOUBLE)
  STORED AS CSV LOCATION 'payments.csv' OPTIONS ('format.has_header' 'true');
EVENT TIME OF payments IS at;
CREATE FEATURE VIEW last_payment ENTITY customer EVENT TIME at
AS SELECT customer_id, at, amount FROM payments;
CREATE FEATURE VIEW totals ENTITY customer REFRESH EVERY INTERVAL '7 days'
AS SELECT customer_id, sum(amount) AS total FROM payments GROUP BY customer_id;
CREATE FEATURE SERVICE collections AS SELECT last_payment.amount FROM last_payment;
GRANT READ ON FEATURE SERVICE collections TO ROLE collector;
";

/// Payments of two customers: on day 1 and 3, and on day 2, of 1970.
const PAYMENTS: &str = "customer_id,at,amount
1,1970-01-02T00:00:00Z,10.0
1,1970-01-04T00:00:00Z,30.0
2,1970-01-03T00:00:00Z,20.0
";

struct Case {
    _folder: TempDir,
    server: TestServer,
    client: Client,
}

impl Case {
    async fn new() -> Self {
        Self::with(quick(), ServingSettings::default()).await
    }

    async fn with(settings: ServerSettings, serving: ServingSettings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("payments.csv"), PAYMENTS).unwrap();
        let clock = Arc::new(SystemClock);
        let project = TestProject::open(folder.path(), EngineSettings::default(), clock).unwrap();
        project.apply(&[("sql/all.sql", SQL)]).await.unwrap();
        let mut components = components_of(&project).await;
        components.reader = Arc::new(project.reader(serving).await.unwrap());
        let server = TestServer::start(components, settings).await;
        let client = server.client().await;
        Self {
            _folder: folder,
            server,
            client,
        }
    }

    async fn ask(
        &self,
        request: &GetHistorical,
        spine: Vec<RecordBatch>,
    ) -> Result<(RecordBatch, HistoricalReport), ClientError> {
        let schema = spine[0].schema();
        let spine = stream::iter(spine).map(Ok::<_, String>);
        let answer = self.client.get_historical(request, schema, spine).await?;
        let (reporter, schema) = (answer.reporter(), answer.schema.clone());
        let batches: Vec<_> = answer.rows.try_collect().await?;
        let report = reporter.report().cloned().unwrap();
        Ok((concat_batches(&schema, &batches).unwrap(), report))
    }
}

fn spine(rows: &[(Option<i64>, i64)]) -> RecordBatch {
    let ids: Int64Array = rows.iter().map(|row| row.0).collect();
    let times = TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1 * DAY));
    let words = rows
        .iter()
        .map(|row| if row.1 % 2 == 0 { "even" } else { "odd" });
    let words: DictionaryArray<Int8Type> = words.collect();
    RecordBatch::try_from_iter_with_nullable([
        ("customer_id", Arc::new(ids) as ArrayRef, true),
        ("event_time", Arc::new(times.with_timezone("+02:00")), true),
        ("word", Arc::new(words), true),
    ])
    .unwrap()
}

fn service() -> GetHistorical {
    GetHistorical::new(Target::Service("collections".into()))
}

fn list(features: &[&str]) -> GetHistorical {
    let features = features.iter().map(|f| (*f).to_owned()).collect();
    GetHistorical::new(Target::Features(features))
}

fn amounts(batch: &RecordBatch) -> Vec<Option<f64>> {
    let amounts = batch.column_by_name("amount").unwrap();
    amounts.as_primitive::<Float64Type>().iter().collect()
}

#[tokio::test]
async fn rows_come_back_in_order_with_their_types_and_features() {
    let case = Case::new().await;
    let parts = vec![
        spine(&[(Some(2), 3), (Some(1), 1)]),
        spine(&[(Some(1), 0), (None, 9)]),
        spine(&[(Some(1), 9)]),
    ];
    let given = concat_batches(&parts[0].schema(), &parts).unwrap();
    let (rows, report) = case.ask(&service(), parts).await.unwrap();
    for (place, field) in given.schema().fields().iter().enumerate() {
        assert_eq!(rows.schema().field(place), field.as_ref());
    }
    assert_eq!(rows.columns()[..2], given.columns()[..2]);
    let words = |batch: &RecordBatch| arrow::compute::cast(batch.column(2), &DataType::Utf8);
    assert_eq!(&words(&rows).unwrap(), &words(&given).unwrap());
    assert_eq!(
        amounts(&rows),
        [Some(20.0), Some(10.0), None, None, Some(30.0)]
    );
    assert_eq!((report.rows, report.null_times), (5, 0));
    assert_eq!(report.null_keys, [("customer_id".to_owned(), 1)]);
    assert_eq!(report.without_run, []);
    assert!(report.snapshot > 0);
    let (_, metrics) = case.server.get("/metrics").await;
    assert!(
        metrics.contains("granary_training_rows_total 5"),
        "{metrics}"
    );
}

#[tokio::test]
async fn options_go_over_the_wire() {
    let case = Case::new().await;
    let mut request = service();
    request.strictly_before = true;
    request.statuses = true;
    request.full_names = true;
    let given = spine(&[(Some(1), 1), (Some(1), 3)]);
    let (rows, _) = case.ask(&request, vec![given]).await.unwrap();
    let amounts = rows.column_by_name("last_payment__amount").unwrap();
    let amounts: Vec<_> = amounts.as_primitive::<Float64Type>().iter().collect();
    assert_eq!(amounts, [None, Some(10.0)]);
    assert_eq!(rows.num_columns(), 5);
}

#[tokio::test]
async fn a_view_without_runs_is_reported_with_what_would_fill_it() {
    let case = Case::new().await;
    let given = spine(&[(Some(1), 9), (Some(2), 20)]);
    let (_, report) = case
        .ask(&list(&["totals.total"]), vec![given])
        .await
        .unwrap();
    let [without] = &report.without_run[..] else {
        panic!("one view has no run: {report:?}");
    };
    assert_eq!((without.view.as_str(), without.rows), ("totals", 2));
    let expected = "granary materialize totals --from 1970-01-08T00:00:00Z \
                    --to 1970-01-21T00:00:00Z --every '7 days'";
    assert_eq!(without.backfill, expected);
}

#[tokio::test]
async fn a_long_spine_comes_back_whole() {
    let case = Case::new().await;
    let parts: Vec<_> = (0..50)
        .map(|part| {
            let rows: Vec<_> = (0..8_000)
                .map(|row| (Some(part * 8_000 + row), row % 9))
                .collect();
            spine(&rows)
        })
        .collect();
    let (rows, report) = case.ask(&service(), parts).await.unwrap();
    assert_eq!(report.rows, 400_000);
    let ids = rows.column(0).as_primitive::<Int64Type>();
    assert!(ids.values().iter().copied().eq(0..400_000));
    let found: BTreeMap<i64, usize> = (0..400_000)
        .filter(|row| amounts(&rows.slice(*row as usize, 1))[0].is_some())
        .take(3)
        .map(|row| (row, 1))
        .collect();
    assert_eq!(found.keys().copied().collect::<Vec<_>>(), [1, 2]);
}

#[tokio::test]
async fn an_empty_spine_has_an_empty_training_set() {
    let case = Case::new().await;
    let empty = RecordBatch::new_empty(spine(&[(Some(1), 1)]).schema());
    let (rows, report) = case.ask(&service(), vec![empty]).await.unwrap();
    assert_eq!((rows.num_rows(), report.rows), (0, 0));
    assert_eq!(rows.num_columns(), 4);
}

#[tokio::test]
async fn what_is_wrong_is_refused_in_words() {
    let case = Case::new().await;
    let given = || spine(&[(Some(1), 1)]);
    let mut other_time = service();
    other_time.time = "event_tim".into();
    let unkeyed = given().project(&[1, 2]).unwrap();
    for (request, spine, kind, part) in [
        (
            GetHistorical::new(Target::Service("collection".into())),
            given(),
            ErrorKind::NotFound,
            "unknown feature service \"collection\"; did you mean \"collections\"?",
        ),
        (
            list(&["last_payment.amoun"]),
            given(),
            ErrorKind::NotFound,
            "did you mean \"amount\"?",
        ),
        (
            list(&[]),
            given(),
            ErrorKind::InvalidArgument,
            "name a feature service",
        ),
        (
            other_time,
            given(),
            ErrorKind::InvalidArgument,
            "no time column \"event_tim\"; did you mean \"event_time\"?",
        ),
        (
            service(),
            unkeyed,
            ErrorKind::InvalidArgument,
            "no key column \"customer_id\"; it has event_time, word",
        ),
    ] {
        let error = case.ask(&request, vec![spine]).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(part), "no {part:?} in {error}");
    }
}

#[tokio::test]
async fn grants_bind_training_sets_too() {
    let mut settings = quick();
    settings.roles = BTreeMap::from([("caller".to_owned(), vec!["collector".to_owned()])]);
    let serving = ServingSettings {
        enforce_grants: true,
        ..ServingSettings::default()
    };
    let mut case = Case::with(settings, serving).await;
    let given = || vec![spine(&[(Some(1), 1)])];
    let denied = case.ask(&service(), given()).await.unwrap_err();
    assert_eq!(denied.kind(), ErrorKind::PermissionDenied);
    case.client = case.client.with_name("caller");
    case.ask(&service(), given()).await.unwrap();
    let denied = case
        .ask(&list(&["last_payment.amount"]), given())
        .await
        .unwrap_err();
    assert!(
        denied.to_string().contains("may not read last_payment"),
        "{denied}"
    );
}

#[tokio::test]
async fn spines_and_training_sets_have_bounds() {
    let mut settings = quick();
    settings.spine_bytes_max = 10_000;
    settings.concurrent_training_sets_max = 1;
    let case = Case::with(settings, ServingSettings::default()).await;
    let rows: Vec<_> = (0..10_000).map(|row| (Some(row), 1)).collect();
    let error = case.ask(&service(), vec![spine(&rows)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceExhausted);
    assert!(
        error.to_string().contains("over the bound of 10000 bytes"),
        "{error}"
    );

    // One that waits for its spine holds the only place.
    let (request, client) = (service(), case.client.clone());
    let held = tokio::spawn(async move {
        // The one before gives its place back when it is gone.
        loop {
            let waiting = stream::pending::<Result<RecordBatch, String>>();
            let schema = spine(&[]).schema();
            let asked = client.get_historical(&request, schema, waiting).await;
            assert_eq!(asked.unwrap_err().kind(), ErrorKind::ResourceExhausted);
        }
    });
    let given = || vec![spine(&[(Some(1), 1)])];
    let full = |error: ClientError| error.to_string().contains("1 training sets are under way");
    eventually(async || case.ask(&service(), given()).await.is_err_and(full)).await;
    // Whoever goes away gives it back.
    held.abort();
    eventually(async || case.ask(&service(), given()).await.is_ok()).await;
}

#[tokio::test]
async fn a_spine_that_breaks_off_is_its_own_error() {
    let case = Case::new().await;
    let given = spine(&[(Some(1), 1)]);
    let rows = stream::iter([Ok(given.clone()), Err("the disk is on fire".to_owned())]);
    let asked = case
        .client
        .get_historical(&service(), given.schema(), rows)
        .await;
    let error = asked.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::InvalidArgument);
    assert!(error.to_string().contains("the disk is on fire"), "{error}");
    // Nobody computes what nobody waits for.
    eventually(async || {
        let (_, metrics) = case.server.get("/metrics").await;
        metrics.contains("granary_streams_open 0")
    })
    .await;
}

/// Sends messages as they are; the words of the refusal.
async fn bare(case: &Case, parts: Vec<Part>) -> tonic::Status {
    let mut client = HistoricalClient::new(case.server.channel().await);
    let parts = parts.into_iter();
    let messages = parts.map(|part| pb::GetHistoricalRequest { part: Some(part) });
    match client
        .get_historical(stream::iter(messages.collect::<Vec<_>>()))
        .await
    {
        Err(status) => status,
        Ok(answer) => {
            let mut answer = answer.into_inner();
            loop {
                match answer.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("it was answered"),
                    Err(status) => return status,
                }
            }
        }
    }
}

fn ipc(schema: &SchemaRef, batches: &[RecordBatch]) -> Vec<u8> {
    let mut writer = arrow::ipc::writer::StreamWriter::try_new(Vec::new(), schema).unwrap();
    batches
        .iter()
        .for_each(|batch| writer.write(batch).unwrap());
    writer.into_inner().unwrap()
}

#[tokio::test]
async fn messages_out_of_order_are_refused() {
    let case = Case::new().await;
    let given = spine(&[(Some(1), 1)]);
    let bytes = ipc(&given.schema(), std::slice::from_ref(&given));
    let options = pb::HistoricalOptions {
        target: Some(WireTarget::Service("collections".into())),
        ..pb::HistoricalOptions::default()
    };
    let mut events = options.clone();
    events.request_events.push(pb::SpineEvents::default());
    let half = bytes[..bytes.len() / 2].to_vec();
    for (parts, code, told) in [
        (
            vec![],
            tonic::Code::InvalidArgument,
            "the first message must hold the options",
        ),
        (
            vec![Part::Spine(bytes.clone().into())],
            tonic::Code::InvalidArgument,
            "the first message must hold the options",
        ),
        (
            vec![Part::Options(options.clone())],
            tonic::Code::InvalidArgument,
            "the spine is missing",
        ),
        (
            vec![
                Part::Options(options.clone()),
                Part::Options(options.clone()),
            ],
            tonic::Code::InvalidArgument,
            "only parts of the spine may follow",
        ),
        (
            vec![
                Part::Options(options.clone()),
                Part::Spine("no stream".into()),
            ],
            tonic::Code::InvalidArgument,
            "the spine is no Arrow stream",
        ),
        (
            vec![Part::Options(options.clone()), Part::Spine(half.into())],
            tonic::Code::InvalidArgument,
            "the spine is no Arrow stream: Ipc error: Unexpected End of Stream",
        ),
        (
            vec![Part::Options(events), Part::Spine(bytes.clone().into())],
            tonic::Code::InvalidArgument,
            "request events of : there is no such stream",
        ),
    ] {
        let status = bare(&case, parts).await;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().contains(told), "no {told:?} in {status:?}");
    }
}

#[tokio::test]
async fn a_shutdown_ends_training_sets() {
    let mut case = Case::new().await;
    let given = spine(&[(Some(1), 1)]);
    let endless = stream::iter([Ok::<_, String>(given.clone())]).chain(stream::pending());
    let client = case.client.clone();
    let (request, schema) = (service(), given.schema());
    let asked = tokio::spawn(async move { client.get_historical(&request, schema, endless).await });
    eventually(async || {
        let (_, metrics) = case.server.get("/metrics").await;
        metrics.contains("granary_streams_open 1")
    })
    .await;
    case.server.begin_shutdown();
    let asked = tokio::time::timeout(Duration::from_secs(20), asked).await;
    let error = asked.unwrap().unwrap().err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    case.server.ended.await.unwrap();
}
