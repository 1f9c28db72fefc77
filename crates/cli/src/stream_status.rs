//! What is known of streams, as `granary status` and `describe` show it.

use std::collections::BTreeMap;

use granary_catalog::Snapshot;
use granary_client::StreamInfo;
use granary_model::UtcMicros;
use serde::Serialize;

use crate::events::ProjectEvents;
use crate::output::{human, table};
use crate::project::Project;

#[derive(Serialize)]
pub struct StreamJson<'a> {
    stream: &'a str,
    events: u64,
    bytes: u64,
    last_sequence: u64,
    last_acknowledged: Option<String>,
    newest_event_time: Option<String>,
    history: Option<&'a str>,
    flushed: u64,
    trimmed_before: Option<String>,
    retention: &'a str,
    /// Why it takes no events.
    not_open: Option<&'a str>,
    /// What each live view needs of that.
    needed_by: &'a BTreeMap<String, String>,
}

impl<'a> StreamJson<'a> {
    pub fn new(state: &'a StreamInfo) -> Self {
        Self {
            stream: &state.name,
            events: state.events,
            bytes: state.bytes,
            last_sequence: state.last_sequence,
            last_acknowledged: state.last_created_time.map(|t| t.to_string()),
            newest_event_time: state.newest_event_time.map(|t| t.to_string()),
            history: state.history.as_deref(),
            flushed: state.flushed,
            trimmed_before: state.trimmed_before.map(|t| t.to_string()),
            retention: &state.retention,
            not_open: state.not_open.as_deref(),
            needed_by: &state.needed_by,
        }
    }
}

/// What is known of the streams of the definitions; other things are shown all
/// the same where nobody can tell.
pub async fn of_project(project: &Project, snapshot: &Snapshot) -> Vec<StreamInfo> {
    let defined = &snapshot.definitions.streams;
    if defined.is_empty() {
        return Vec::new();
    }
    match ProjectEvents::new(project.clone()).statuses().await {
        Ok(mut streams) => {
            streams.retain(|stream| defined.contains_key(&stream.name));
            streams
        }
        Err(error) => {
            eprintln!("note: streams cannot be looked at: {error}");
            Vec::new()
        }
    }
}

/// A stream a line.
pub fn in_table(streams: &[StreamInfo], now: UtcMicros) -> String {
    let mut shown = table::table([
        "stream",
        "events",
        "bytes",
        "newest event",
        "last acknowledged",
        "age",
        "flushed",
        "kept",
    ]);
    let time = |t: Option<UtcMicros>| t.map(|t| t.to_string()).unwrap_or_default();
    for state in streams {
        let last = state.last_created_time;
        shown.add_row([
            state.name.clone(),
            human::count(state.events),
            human::count(state.bytes),
            time(state.newest_event_time),
            time(last),
            last.map(|t| human::age(t, now)).unwrap_or_default(),
            match &state.history {
                Some(_) => flushed(state),
                None => String::new(),
            },
            match &state.not_open {
                Some(reason) => format!("not open: {reason}"),
                None => state.retention.clone(),
            },
        ]);
    }
    table::align_right(&mut shown, [1, 2]);
    shown.to_string()
}

/// A stream in full, a line for each thing that is known.
pub fn in_words(state: &StreamInfo) -> String {
    let time = |t: Option<UtcMicros>| t.map_or("none".to_owned(), |t| t.to_string());
    let (events, bytes) = (human::counted(state.events, "event"), state.bytes);
    let mut lines = Vec::new();
    lines.extend(state.not_open.clone().map(|reason| ("not open", reason)));
    lines.extend([
        ("kept", format!("{events}, {} bytes", human::count(bytes))),
        ("newest event", time(state.newest_event_time)),
    ]);
    if state.last_created_time.is_some() {
        lines.push(("acknowledged", time(state.last_created_time)));
    }
    lines.push(match &state.history {
        Some(history) => (
            "flushed",
            format!("{}, by their numbers, into {history}", flushed(state)),
        ),
        None => ("flushed", "the stream has no HISTORY".to_owned()),
    });
    lines.push(("trimmed before", time(state.trimmed_before)));
    lines.push(("retention", state.retention.clone()));
    lines.extend(state.needed_by.iter().map(|(view, need)| {
        let need = format!("{view}: {need}");
        ("needed by", need)
    }));
    if state.needed_by.is_empty() {
        lines.push(("needed by", "no live view".to_owned()));
    }
    let lines = lines.iter();
    let lines = lines.map(|(name, value)| format!("  {name:<15} {value}"));
    format!("events:\n{}", lines.collect::<Vec<_>>().join("\n"))
}

/// How far the history has the events, by their numbers, of which some may have
/// been given to no event.
fn flushed(state: &StreamInfo) -> String {
    let (flushed, last) = (state.flushed, state.last_sequence);
    format!("{} of {}", human::count(flushed), human::count(last))
}
