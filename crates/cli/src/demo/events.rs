//! The applications that are pushed while the demo serves: those of the last
//! days, which are in the tables too, and today's, which are not yet.
//!
//! Today's are told backwards from now, each well inside one of the windows of
//! the features: what is counted depends on the seed, not on when it is read.

use std::sync::Arc;

use anyhow::Result;
use arrow::array::{
    ArrayRef, Decimal128Array, Float64Array, Int32Array, Int64Array, ListBuilder, RecordBatch,
    StringArray, StringBuilder, TimestampMicrosecondArray,
};
use granary_model::UtcMicros;
use granary_model::types::UTC;
use rand::Rng;
use rand::rngs::StdRng;

use super::facts::circle;
use super::people::{DAY, HOUR, Kind, Person, World, centre, phone};

/// The stream of `sql/streams.sql`.
pub(crate) const STREAM: &str = "application_event";

/// Within 7 days of any time of the day that the year ends on.
const PUSHED_DAYS: i64 = 6;
const MINUTE: i64 = HOUR / 60;

/// One event of the stream.
struct Event {
    application: i64,
    person: Person,
    contacts: Vec<String>,
    /// In degrees, where it is known.
    place: Option<(f64, f64)>,
    /// In cents.
    amount: i64,
    months: i64,
    at: i64,
}

/// Everyone's applications of the last days, up to now.
pub(crate) fn recent(world: &World, now: UtcMicros) -> Result<RecordBatch> {
    let mut events = Vec::new();
    for person in world.people() {
        let mut random = world.random(12, person.id);
        for told in person.applications(world) {
            if told.at > world.end - PUSHED_DAYS * DAY {
                let mut event = event(world, &person, &mut random, told.at);
                event.application = told.id;
                event.amount = told.amount;
                event.months = told.months;
                events.push(event);
            }
        }
        for (no, age) in (5..).zip(today(&person, &mut random)) {
            let mut event = event(world, &person, &mut random, now.0 - age);
            event.application += no;
            events.push(event);
        }
    }
    columns(&events)
}

/// An application that this person hands in now.
pub(crate) fn handed_in(world: &World, person: &Person, now: UtcMicros) -> Result<RecordBatch> {
    let mut event = event(world, person, &mut world.random(13, person.id), now.0);
    event.application += 9;
    columns(&[event])
}

/// How long ago the person applied, of what the tables do not hold yet.
fn today(person: &Person, random: &mut StdRng) -> Vec<i64> {
    match person.kind {
        Kind::Ordinary if random.random_bool(0.999) => vec![],
        Kind::Ordinary | Kind::Village => vec![random.random_range(2 * HOUR..20 * HOUR)],
        // A program: every number again and again, just now all at once.
        Kind::Farm => vec![
            random.random_range(5 * HOUR..20 * HOUR),
            random.random_range(MINUTE / 2..4 * MINUTE),
        ],
    }
}

/// Where a person applies, in degrees: at home, but an emulator is nowhere.
pub(crate) fn place(person: &Person) -> Option<(f64, f64)> {
    (person.kind != Kind::Farm).then(|| centre(person.place))
}

fn event(world: &World, person: &Person, random: &mut StdRng, at: i64) -> Event {
    // The farm names a few numbers of its own, others name whom they know.
    let mut contacts = match person.kind {
        Kind::Farm => (0..3).map(|no| world.first_of(Kind::Farm) + no).collect(),
        Kind::Ordinary | Kind::Village => circle(world, person),
    };
    contacts.retain(|other| *other != person.id);
    contacts.sort_unstable();
    contacts.dedup();
    let near = |degrees: f64, random: &mut StdRng| degrees + random.random_range(-0.01..0.01);
    Event {
        // Beside those of the tables, which end in 0 and 1.
        application: person.id * 10,
        person: person.clone(),
        contacts: contacts.into_iter().map(phone).collect(),
        place: place(person).map(|(lat, lon)| (near(lat, random), near(lon, random))),
        amount: random.random_range(5..80) * 10_000,
        months: random.random_range(1..=4) * 6,
        at,
    }
}

fn columns(events: &[Event]) -> Result<RecordBatch> {
    let mut contacts = ListBuilder::new(StringBuilder::new());
    for event in events {
        contacts.append_value(event.contacts.iter().map(Some));
    }
    let ints = |of: fn(&Event) -> i64| Arc::new(events.iter().map(of).collect::<Int64Array>());
    let reals =
        |of: fn(&Event) -> Option<f64>| Arc::new(events.iter().map(of).collect::<Float64Array>());
    let texts =
        |of: fn(&Event) -> &str| Arc::new(StringArray::from_iter_values(events.iter().map(of)));
    let amounts: Decimal128Array = events.iter().map(|e| Some(i128::from(e.amount))).collect();
    let months: Int32Array = events
        .iter()
        .map(|e| i32::try_from(e.months).ok())
        .collect();
    let times: TimestampMicrosecondArray = events.iter().map(|e| Some(e.at)).collect();
    let columns: [(&str, ArrayRef); 10] = [
        ("application_id", ints(|e| e.application)),
        ("customer_id", ints(|e| e.person.id)),
        ("device_id", texts(|e| &e.person.device)),
        ("phone_number", texts(|e| &e.person.phone)),
        ("contact_numbers", Arc::new(contacts.finish())),
        ("latitude", reals(|e| Some(e.place?.0))),
        ("longitude", reals(|e| Some(e.place?.1))),
        ("amount", Arc::new(amounts.with_precision_and_scale(14, 2)?)),
        ("term_months", Arc::new(months)),
        ("at", Arc::new(times.with_timezone(UTC))),
    ];
    let nullable = columns.map(|(name, column)| (name, column, true));
    Ok(RecordBatch::try_from_iter_with_nullable(nullable)?)
}
