//! What the operators mean, written to be obviously right (DESIGN: rules 2, 4,
//! 5 and 7 of the as-of contract).

use std::cmp::Ordering;

use granary_model::{FeatureStatus, Interval, UtcMicros};

#[derive(Debug, Clone)]
pub struct Event {
    pub key: Option<i64>,
    pub at: Option<i64>,
    pub created: Option<i64>,
    pub x: Option<f64>,
    pub note: Option<String>,
}

#[derive(Debug, Clone)]
pub struct Asked {
    pub key: Option<i64>,
    pub at: Option<i64>,
}

#[derive(Debug, Clone, Copy)]
pub struct Rules {
    pub ttl: Option<Interval>,
    pub strictly_before: bool,
    pub known_at_the_time: bool,
}

impl Event {
    /// The created time, NULL being the event time.
    fn created(&self) -> Option<i64> {
        self.created.or(self.at)
    }
}

pub fn known(event: &Event, t: i64, rules: Rules) -> bool {
    let Some(at) = event.at else {
        return false;
    };
    let happened = if rules.strictly_before {
        at < t
    } else {
        at <= t
    };
    happened && (!rules.known_at_the_time || event.created().unwrap() <= t)
}

/// NULL lowest, NaN highest.
pub fn compare_floats(a: Option<f64>, b: Option<f64>) -> Ordering {
    let place = |x: Option<f64>| match x {
        None => (0, 0.0),
        Some(x) if x.is_nan() => (2, 0.0),
        Some(x) => (1, x),
    };
    let (a, b) = (place(a), place(b));
    a.0.cmp(&b.0).then(a.1.total_cmp(&b.1))
}

fn compare(a: &Event, b: &Event) -> Ordering {
    (a.at.cmp(&b.at))
        .then(a.created().cmp(&b.created()))
        .then(compare_floats(a.x, b.x))
        .then(a.note.cmp(&b.note))
}

/// The latest event of the key up to t, and the status of what is read.
pub fn latest<'a>(
    events: &'a [Event],
    asked: &Asked,
    rules: Rules,
) -> (Option<&'a Event>, FeatureStatus) {
    let (Some(key), Some(t)) = (asked.key, asked.at) else {
        return (None, FeatureStatus::NotFound);
    };
    let winner = events
        .iter()
        .filter(|event| event.key == Some(key) && known(event, t, rules))
        .max_by(|a, b| compare(a, b));
    fresh(winner, t, rules)
}

/// The row of the newest run up to t, if the key is in it. `runs`: T and commit.
pub fn of_run<'a>(
    events: &'a [Event],
    runs: &[(i64, i64)],
    asked: &Asked,
    rules: Rules,
) -> (Option<&'a Event>, FeatureStatus) {
    let (Some(key), Some(t)) = (asked.key, asked.at) else {
        return (None, FeatureStatus::NotFound);
    };
    let newest = runs
        .iter()
        .filter(|(as_of, _)| {
            if rules.strictly_before {
                *as_of < t
            } else {
                *as_of <= t
            }
        })
        .filter(|(_, committed)| !rules.known_at_the_time || *committed <= t)
        .max_by_key(|(as_of, _)| *as_of);
    let Some((as_of, _)) = newest else {
        return (None, FeatureStatus::NotFound);
    };
    let row = events
        .iter()
        .filter(|event| event.key == Some(key) && event.at == Some(*as_of))
        .max_by(|a, b| compare(a, b));
    fresh(row, t, rules)
}

fn fresh(event: Option<&Event>, t: i64, rules: Rules) -> (Option<&Event>, FeatureStatus) {
    match (event, rules.ttl) {
        (None, _) => (None, FeatureStatus::NotFound),
        (Some(old), Some(ttl)) if old.at < Some(ttl.before(UtcMicros(t)).0) => {
            (Some(old), FeatureStatus::OutsideMaxAge)
        }
        (found, _) => (found, FeatureStatus::Present),
    }
}
