//! A stream without HISTORY that lost events: what asks for them is told.

use arrow::array::RecordBatch;
use arrow::json::LineDelimitedWriter;
use futures::TryStreamExt;
use granary_engine::query::Query;
use granary_engine::{EngineError, Moments, Spine, TrainingOptions, TrainingRequest, TrainingSet};
use granary_ingest::{MaterializeRequest, RunOutcome};
use granary_model::ErrorKind;

use super::*;

const TAPS: &str = "
CREATE ENTITY customer KEY (customer_id BIGINT);
CREATE STREAM tap (customer_id BIGINT, at TIMESTAMP) EVENT TIME at;
CREATE FEATURE VIEW taps ENTITY customer EVENT TIME at AS
  SELECT customer_id, count(*) OVER day AS n FROM tap
  WINDOW day AS (PARTITION BY customer_id ORDER BY at RANGE INTERVAL '1 day' PRECEDING);
CREATE FEATURE VIEW all_taps ENTITY customer AS
  SELECT customer_id, count(*) AS ever FROM tap GROUP BY customer_id;
CREATE FEATURE SERVICE check AS SELECT taps.n FROM taps;
";

const EVENTS: [&str; 4] = [
    r#"{"customer_id":1,"at":"2026-03-01T10:00:00Z"}"#,
    r#"{"customer_id":1,"at":"2026-03-01T20:00:00Z"}"#,
    r#"{"customer_id":1,"at":"2026-03-08T12:00:00Z"}"#,
    r#"{"customer_id":1,"at":"2026-03-09T12:00:00Z"}"#,
];

async fn request(project: &TestProject, times: &[&str]) -> TrainingRequest {
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let service = &snapshot.definitions.services["check"];
    let rows = times.iter().map(|t| format!("(1, TIMESTAMP '{t}')"));
    let rows: Vec<String> = rows.collect();
    let spine = format!(
        "SELECT column1 AS customer_id, column2 AS event_time FROM (VALUES {})",
        rows.join(", ")
    );
    TrainingRequest {
        spine: Spine::Sql(spine),
        time: "event_time".into(),
        from: service.from.clone(),
        features: service.features.clone(),
        options: TrainingOptions::default(),
        request_events: Vec::new(),
    }
}

async fn planned(project: &TestProject, times: &[&str], moments: &Moments) -> TrainingSet {
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let request = request(project, times).await;
    let set = { &project.engine }.training_set_at(&snapshot.definitions, request, moments);
    set.await.unwrap()
}

async fn train(project: &TestProject, times: &[&str]) -> Result<String, EngineError> {
    let snapshot = project.catalog.latest().await.unwrap().unwrap();
    let request = request(project, times).await;
    let set = project.engine.training_set(&snapshot.definitions, request);
    let rows = set.await?.execute()?.try_collect().await;
    let rows: Vec<RecordBatch> = rows.map_err(|e| EngineError::from_query("training set", e))?;
    let columns = rows.iter().map(|batch| batch.project(&[2]).unwrap());
    let mut text = LineDelimitedWriter::new(Vec::new());
    for batch in columns {
        text.write(&batch).unwrap();
    }
    Ok(String::from_utf8(text.into_inner()).unwrap())
}

#[tokio::test]
async fn what_needs_events_that_are_gone_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), at("2026-03-09T12:30:00Z"));
    let snapshot = project.apply(&[("taps.sql", TAPS)]).await.unwrap();
    let stream = &snapshot.definitions.streams["tap"];
    let events = rows(stream, &EVENTS);
    let pushed = project.streams.push("tap", &events).await.unwrap();
    assert_eq!(pushed.len(), EVENTS.len());
    let times = ["2026-03-01 20:00:00", "2026-03-09 12:00:00"];
    let whole = "{\"n\":2}\n{\"n\":2}\n";
    assert_eq!(train(&project, &times).await.unwrap(), whole);
    // A day behind the newest event, and as much as one may lie ahead.
    assert_eq!(project.streams.trim("tap").await.unwrap(), 2);
    let error = train(&project, &times).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
    assert_eq!(
        error.to_string(),
        "tap: taps needs 1 day behind the newest event at 2026-03-01T20:00:00Z, and events \
         before 2026-03-01T20:00:00.000001Z are gone, since the stream had no HISTORY: leave out \
         the earliest rows"
    );
    // Who knows which rows those are is told, and has the others.
    let set = planned(&project, &times, &Moments::new()).await;
    let all: Vec<RecordBatch> = set.execute().unwrap().try_collect().await.unwrap();
    assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), 2);
    assert_eq!(set.notes(), [error.to_string()]);
    // Between what is gone and what is kept there was nothing.
    let later = ["2026-03-02 20:00:01", "2026-03-09 12:00:00"];
    assert_eq!(
        train(&project, &later).await.unwrap(),
        "{\"n\":0}\n{\"n\":2}\n"
    );
    assert_eq!(
        read(
            &project,
            "taps.n",
            ("customer_id", &customers(&[Some(1)])),
            Some(at("2026-03-03T00:00:00Z"))
        )
        .await,
        [Some("0".to_owned())]
    );

    let run = project.materialize(MaterializeRequest::default()).await;
    let run = run.unwrap();
    let [RunOutcome::Committed(run)] = &run[..] else {
        panic!("{run:?}");
    };
    let lost = [("tap".to_owned(), at("2026-03-01T20:00:00.000001Z"))];
    assert_eq!(run.trimmed, lost.clone().into());
    let session = project.engine.query_session(&snapshot.definitions, None);
    let session = session.await.unwrap();
    assert_eq!(session.trimmed(), [].into());
    let queries = session.queries("SELECT count(*) FROM tap").await.unwrap();
    for query in queries {
        let rows = Query::rows(query).await.unwrap();
        rows.try_collect::<Vec<_>>().await.unwrap();
    }
    assert_eq!(session.trimmed(), lost.into());
}

const LATER: &str = "
CREATE FEATURE VIEW last_taps ENTITY customer EVENT TIME at AS
  SELECT customer_id, count(*) OVER two AS n FROM tap
  WINDOW two AS (PARTITION BY customer_id ORDER BY at ROWS 1 PRECEDING);
CREATE FEATURE VIEW last_tap ENTITY customer EVENT TIME at AS
  SELECT customer_id, at, 1 AS one FROM tap;
";

/// The newest of each key are known only where they were kept from the beginning.
#[tokio::test]
async fn a_view_of_the_newest_that_came_too_late_is_out_of_range() {
    let folder = tempfile::tempdir().unwrap();
    let project = project(folder.path(), at("2026-03-09T12:30:00Z"));
    let last_taps = LATER.split("CREATE FEATURE VIEW last_tap ").next().unwrap();
    let early = format!("{TAPS}{last_taps}");
    let snapshot = project.apply(&[("taps.sql", &early)]).await.unwrap();
    let stream = &snapshot.definitions.streams["tap"];
    let first = r#"{"customer_id":1,"at":"2026-03-01T05:00:00Z"}"#;
    for events in [&[first][..], &EVENTS] {
        let events = rows(stream, events);
        project.streams.push("tap", &events).await.unwrap();
    }
    assert_eq!(project.streams.trim("tap").await.unwrap(), 1);
    let read_at = async |feature, t| {
        let customer = customers(&[Some(1)]);
        try_read(&project, feature, ("customer_id", &customer), Some(at(t))).await
    };
    let now = "2026-03-09T12:30:00Z";
    let two = Ok(vec![Some("2".to_owned())]);
    assert_eq!(read_at("last_taps.n", now).await, two);
    // An event ahead of the clock pushes out nothing that is needed now.
    let ahead = rows(
        stream,
        &[r#"{"customer_id":1,"at":"2026-03-09T13:15:00Z"}"#],
    );
    project.streams.push("tap", &ahead).await.unwrap();
    assert_eq!(project.streams.trim("tap").await.unwrap(), 1);
    assert_eq!(read_at("last_taps.n", now).await, two);

    // The newest one was kept with the newest two, as an older index has it.
    let late = TAPS.to_owned() + LATER;
    project.apply(&[("taps.sql", &late)]).await.unwrap();
    assert_eq!(read_at("last_taps.n", now).await, two);
    let one = Ok(vec![Some("1".to_owned())]);
    assert_eq!(read_at("last_tap.one", now).await, one);

    // Dropped, and back after more went.
    project.apply(&[("taps.sql", TAPS)]).await.unwrap();
    assert_eq!(project.streams.trim("tap").await.unwrap(), 2);
    let with_history = late.replace("EVENT TIME at;", "EVENT TIME at HISTORY taps_history;");
    for (definitions, why, flushed) in [
        (&late, "the stream has no HISTORY", 0),
        (
            &with_history,
            "they went before the stream had a HISTORY",
            2,
        ),
    ] {
        project.apply(&[("taps.sql", definitions)]).await.unwrap();
        for feature in ["last_taps.n", "last_tap.one"] {
            let view = feature.split('.').next().unwrap();
            let expected = format!(
                "{view}: events of tap before 2026-03-08T12:00:00.000001Z are no longer kept for \
                 reads; {why}"
            );
            assert_eq!(read_at(feature, now).await, Err(expected));
        }
        assert_eq!(read_at("taps.n", now).await, one);
        // A RANGE needs what is gone as well.
        let lost = read_at("taps.n", "2026-03-02T12:00:00Z").await;
        assert!(lost.is_err(), "{lost:?}");
        let error = train(&project, &["2026-03-01 20:00:00"]).await;
        assert_eq!(error.unwrap_err().kind(), ErrorKind::OutOfRange);
        assert_eq!(project.streams.flush("tap").await.unwrap(), flushed);
        assert_eq!(project.streams.trim("tap").await.unwrap(), 0);
        assert_eq!(project.streams.restore("tap").await.unwrap(), 0);
    }
    let of_last = with_history.replace("taps.n FROM taps;", "last_taps.n FROM last_taps;");
    project.apply(&[("taps.sql", &of_last)]).await.unwrap();
    let error = train(&project, &["2026-03-09 12:30:00"]).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "tap: last_taps needs the newest 2 a key of customer_id at 2026-03-09T12:30:00Z, and \
         events before 2026-03-08T12:00:00.000001Z are gone, since the stream had no HISTORY: leave \
         out the earliest rows"
    );
}
