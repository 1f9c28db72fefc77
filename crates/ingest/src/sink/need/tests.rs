//! When a generation is filled, joined into, or left alone.

use granary_model::definitions::ServeMode;
use granary_model::{Interval, UtcMicros, ViewKind};
use granary_store::Coverage;

use super::*;

fn view(kind: ViewKind, ttl_days: Option<i32>) -> FeatureView {
    FeatureView {
        name: "v".into(),
        version: 1,
        fingerprint: Default::default(),
        kind,
        entities: vec![],
        keys: vec![],
        event_time: Some("at".into()),
        created_time: None,
        then_by: vec![],
        ttl: ttl(ttl_days),
        max_events: None,
        refresh_every: None,
        serve: ServeMode::Online,
        query: String::new(),
        features: vec![],
        depends_on: vec![],
        current_state: vec![],
        calls_as_of: false,
        live: false,
        windows: Vec::new(),
        annotations: Default::default(),
    }
}

fn ttl(days: Option<i32>) -> Option<Interval> {
    days.map(|days| Interval {
        days,
        ..Interval::ZERO
    })
}

fn run(mode: RunMode, as_of: i64) -> RunRecord {
    RunRecord {
        trimmed: Default::default(),
        view: "v".into(),
        version: 1,
        mode,
        from: None,
        as_of: UtcMicros(as_of),
        committed_at: UtcMicros(0),
        offline_version: 5,
        rows: 1,
        null_keys: 0,
        null_event_times: 0,
        future_event_times: 0,
        current_state: vec![],
        columns: vec![],
        later_than_event: vec![],
    }
}

/// What is online stands at offline version 4, as of 100, with a TTL of 30 days.
fn check(
    kind: ViewKind,
    ttl_now: Option<i32>,
    version: u64,
    missing: Option<&[RunRecord]>,
    expected: Need,
) {
    let online = Coverage {
        offline_version: 4,
        as_of: UtcMicros(100),
        ttl: ttl(Some(30)),
    };
    let offline = Offline {
        version,
        watermark: UtcMicros(200),
        missing,
    };
    let found = need(&view(kind, ttl_now), Some(&online), &offline);
    assert_eq!(
        found, expected,
        "{kind:?} {ttl_now:?} {version} {missing:?}"
    );
}

#[test]
fn what_is_not_there_is_written_whole() {
    let offline = Offline {
        version: 0,
        watermark: UtcMicros(0),
        missing: Some(&[]),
    };
    for kind in [ViewKind::Snapshot, ViewKind::Timestamped] {
        assert_eq!(need(&view(kind, None), None, &offline), Need::All);
    }
}

#[test]
fn timestamped_rows_are_added_unless_some_may_be_gone() {
    use RunMode::{Append, Replace};
    let kind = ViewKind::Timestamped;
    check(kind, Some(30), 4, Some(&[]), Need::Nothing);
    check(
        kind,
        Some(30),
        5,
        Some(&[run(Append, 200)]),
        Need::Added { since: 4 },
    );
    check(kind, Some(30), 5, Some(&[]), Need::Added { since: 4 });
    check(
        kind,
        Some(30),
        5,
        Some(&[run(Append, 200), run(Replace, 150)]),
        Need::All,
    );
    check(kind, Some(30), 5, None, Need::All);
    check(kind, Some(30), 3, Some(&[]), Need::All);
}

#[test]
fn a_longer_ttl_asks_for_rows_that_were_left_out() {
    let kind = ViewKind::Timestamped;
    check(kind, Some(31), 4, Some(&[]), Need::All);
    check(kind, None, 4, Some(&[]), Need::All);
    check(kind, Some(29), 4, Some(&[]), Need::Nothing);
}

#[test]
fn only_the_newest_snapshot_is_online() {
    use RunMode::{Append, Replace};
    let kind = ViewKind::Snapshot;
    check(kind, None, 4, Some(&[]), Need::Nothing);
    check(kind, None, 5, Some(&[run(Append, 200)]), Need::All);
    check(kind, None, 5, Some(&[run(Replace, 100)]), Need::All);
    check(
        kind,
        None,
        5,
        Some(&[run(Append, 50), run(Replace, 60)]),
        Need::Coverage,
    );
    check(kind, None, 5, Some(&[]), Need::Coverage);
    check(kind, None, 5, None, Need::All);
}
