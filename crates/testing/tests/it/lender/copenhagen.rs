//! The students' phones, by brute force: calls, messages, circles of contacts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use chrono::NaiveDate;

use super::expected::{Expected, Key, Reference, Row, Value, mean, stddev};
use super::raw::{DAY, date, instant, number, records};

/// What the adapter takes as the start of the study.
pub const START: &str = "2015-01-01T00:00:00Z";

/// A call or message as seen from one end.
#[derive(Debug)]
struct Event {
    other: String,
    at: i64,
    is_call: bool,
    is_outgoing: bool,
    is_missed: bool,
    seconds: Option<i64>,
}

/// What was known at T.
#[derive(Debug)]
pub struct Study {
    t: i64,
    all_users: BTreeSet<String>,
    events: BTreeMap<String, Vec<Event>>,
    friends: BTreeMap<String, BTreeSet<String>>,
}

impl Study {
    pub fn read(folder: &Path, t: i64) -> Self {
        let mut study = Self {
            t,
            all_users: BTreeSet::new(),
            events: BTreeMap::new(),
            friends: BTreeMap::new(),
        };
        let start = instant(START);
        let at = |seconds: &str| start + number::<i64>(seconds) * 1_000_000;
        for call in records(&folder.join("calls.csv.gz"), ',') {
            let seconds: i64 = number(&call[3]);
            study.add(
                &call[1],
                &call[2],
                at(&call[0]),
                true,
                (seconds != -1).then_some(seconds),
            );
        }
        let messages: BTreeSet<Vec<String>> = records(&folder.join("sms.csv.gz"), ',')
            .into_iter()
            .collect();
        for message in messages {
            study.add(&message[1], &message[2], at(&message[0]), false, None);
        }
        for edge in records(&folder.join("fb_friends.csv.gz"), ',') {
            for (a, b) in [(0, 1), (1, 0)] {
                study.all_users.insert(edge[a].clone());
                study
                    .friends
                    .entry(edge[a].clone())
                    .or_default()
                    .insert(edge[b].clone());
            }
        }
        study
    }

    fn add(&mut self, from: &str, to: &str, at: i64, is_call: bool, seconds: Option<i64>) {
        for (user, other, is_outgoing) in [(from, to, true), (to, from, false)] {
            self.all_users.insert(user.to_owned());
            if at <= self.t {
                let is_missed = is_call && seconds.is_none();
                let event = Event {
                    other: other.to_owned(),
                    at,
                    is_call,
                    is_outgoing,
                    is_missed,
                    seconds,
                };
                self.events.entry(user.to_owned()).or_default().push(event);
            }
        }
    }

    fn recent<'a>(&self, events: &'a [Event], days: i64) -> Vec<&'a Event> {
        events
            .iter()
            .filter(|e| e.at > self.t - days * DAY)
            .collect()
    }

    pub fn users(&self) -> Reference {
        let of_events = |row: &dyn Fn(&str, &[Event]) -> Option<Row>| {
            self.events
                .iter()
                .filter_map(|(user, events)| Some((Key::Text(user.clone()), row(user, events)?)))
                .collect()
        };
        Reference {
            key: "phone_number",
            keys: self
                .all_users
                .iter()
                .cloned()
                .chain(["nobody".to_owned()])
                .map(Key::Text)
                .collect(),
            views: vec![
                Expected {
                    view: "phone_latest_call",
                    rows: of_events(&|_, events| latest_call(events)),
                },
                Expected {
                    view: "phone_totals",
                    rows: of_events(&|_, events| Some(totals(events))),
                },
                Expected {
                    view: "phone_activity",
                    rows: of_events(&|_, events| self.activity(events)),
                },
                Expected {
                    view: "phone_circle",
                    rows: of_events(&|user, events| self.circle(user, events)),
                },
                Expected {
                    view: "phone_address_book",
                    rows: self
                        .friends
                        .keys()
                        .map(|user| (Key::Text(user.clone()), self.address_book(user)))
                        .collect(),
                },
            ],
        }
    }

    fn activity(&self, events: &[Event]) -> Option<Row> {
        let recent = self.recent(events, 28);
        let last = recent.iter().map(|e| e.at).max()?;
        let week = self.recent(events, 7);
        let count =
            |of: &[&Event], is: &dyn Fn(&Event) -> bool| of.iter().filter(|e| is(e)).count();
        let talked: Vec<i64> = recent.iter().filter_map(|e| e.seconds).collect();
        let lengths: Vec<f64> = talked.iter().map(|s| *s as f64).collect();
        let days: BTreeSet<NaiveDate> = recent.iter().map(|e| date(e.at)).collect();
        let is_night = |e: &Event| !(6..22).contains(&(e.at.rem_euclid(DAY) / (DAY / 24)));
        let (calls_in, calls_out) = (
            count(&recent, &|e| e.is_call && !e.is_outgoing),
            count(&recent, &|e| e.is_call && e.is_outgoing),
        );
        let all = recent.len() as f64;
        Some(vec![
            ("calls_out_28d", Value::count(calls_out)),
            ("calls_in_28d", Value::count(calls_in)),
            ("calls_7d", Value::count(count(&week, &|e| e.is_call))),
            (
                "messages_out_28d",
                Value::count(count(&recent, &|e| !e.is_call && e.is_outgoing)),
            ),
            (
                "messages_in_28d",
                Value::count(count(&recent, &|e| !e.is_call && !e.is_outgoing)),
            ),
            ("messages_7d", Value::count(count(&week, &|e| !e.is_call))),
            ("seconds_28d", Value::Int(talked.iter().sum())),
            ("seconds_mean_28d", mean(&lengths)),
            ("seconds_stddev_28d", stddev(&lengths)),
            (
                "seconds_max_28d",
                Value::or_null(talked.iter().max(), |s| Value::Int(*s)),
            ),
            (
                "missed_share_28d",
                Value::ratio(
                    count(&recent, &|e| !e.is_outgoing && e.is_missed) as f64,
                    calls_in as f64,
                ),
            ),
            (
                "unanswered_share_28d",
                Value::ratio(
                    count(&recent, &|e| e.is_outgoing && e.is_missed) as f64,
                    calls_out as f64,
                ),
            ),
            (
                "night_share_28d",
                Value::ratio(count(&recent, &is_night) as f64, all),
            ),
            (
                "outgoing_share_28d",
                Value::ratio(count(&recent, &|e| e.is_outgoing) as f64, all),
            ),
            ("active_days_28d", Value::count(days.len())),
            ("days_since_activity", Value::days_between(last, self.t)),
        ])
    }

    fn circle(&self, user: &str, events: &[Event]) -> Option<Row> {
        let mut pairs: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        for event in self.recent(events, 28) {
            let (outgoing, incoming) = pairs.entry(&event.other).or_default();
            *if event.is_outgoing {
                outgoing
            } else {
                incoming
            } += 1;
        }
        let all: usize = pairs.values().map(|p| p.0 + p.1).sum();
        let top = pairs.values().map(|p| p.0 + p.1).max()?;
        let shares = pairs.values().map(|p| (p.0 + p.1) as f64 / all as f64);
        let contacts = pairs.len() as f64;
        let count = |is: &dyn Fn(&(usize, usize)) -> bool| pairs.values().filter(|p| is(p)).count();
        let known = pairs
            .keys()
            .filter(|other| self.friends.get(user).is_some_and(|f| f.contains(**other)))
            .count();
        Some(vec![
            ("contacts_28d", Value::count(pairs.len())),
            ("contacts_in_28d", Value::count(count(&|p| p.1 > 0))),
            ("contacts_out_28d", Value::count(count(&|p| p.0 > 0))),
            (
                "reciprocity_28d",
                Value::ratio(count(&|p| p.0 > 0 && p.1 > 0) as f64, contacts),
            ),
            (
                "top_contact_share_28d",
                Value::ratio(top as f64, all as f64),
            ),
            (
                "contact_entropy_28d",
                Value::float(-shares.map(|p| p * p.ln()).sum::<f64>()),
            ),
            (
                "address_book_share_28d",
                Value::ratio(known as f64, contacts),
            ),
            ("is_never_called_28d", Value::Bool(count(&|p| p.1 > 0) == 0)),
        ])
    }

    fn address_book(&self, user: &str) -> Row {
        let friends = &self.friends[user];
        let mutual = friends
            .iter()
            .filter(|f| {
                self.friends
                    .get(*f)
                    .is_some_and(|theirs| theirs.contains(user))
            })
            .count();
        vec![
            ("contacts", Value::count(friends.len())),
            (
                "mutual_share",
                Value::ratio(mutual as f64, friends.len() as f64),
            ),
        ]
    }
}

fn latest_call(events: &[Event]) -> Option<Row> {
    let calls = events.iter().filter(|e| e.is_call);
    let latest = calls.max_by_key(|e| (e.at, &e.other, e.is_outgoing, e.is_missed, e.seconds))?;
    Some(vec![
        ("other_number", Value::text(&latest.other)),
        ("is_outgoing", Value::Bool(latest.is_outgoing)),
        ("is_missed", Value::Bool(latest.is_missed)),
        ("seconds", Value::or_null(latest.seconds, Value::Int)),
    ])
}

fn totals(events: &[Event]) -> Row {
    vec![
        (
            "calls_total",
            Value::count(events.iter().filter(|e| e.is_call).count()),
        ),
        (
            "messages_total",
            Value::count(events.iter().filter(|e| !e.is_call).count()),
        ),
        (
            "seconds_total",
            Value::Int(events.iter().filter_map(|e| e.seconds).sum()),
        ),
        (
            "first_seen_at",
            Value::Time(events.iter().map(|e| e.at).min().unwrap()),
        ),
    ]
}
