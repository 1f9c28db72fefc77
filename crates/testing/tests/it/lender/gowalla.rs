//! Check-ins, by brute force: movement and dwelling.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::expected::{Expected, Key, Reference, Row, Value};
use super::raw::{DAY, instant, lines, number};

#[derive(Debug)]
struct Sighting {
    at: i64,
    place: i64,
    latitude: f64,
    longitude: f64,
}

/// What was known at T.
#[derive(Debug)]
pub struct Checkins {
    t: i64,
    all_users: BTreeSet<i64>,
    /// In order of time, place and position.
    sightings: BTreeMap<i64, Vec<Sighting>>,
}

impl Checkins {
    pub fn read(folder: &Path, t: i64) -> Self {
        let mut checkins = Self {
            t,
            all_users: BTreeSet::new(),
            sightings: BTreeMap::new(),
        };
        for line in lines(&folder.join("gowalla_global_first10k.csv.gz")) {
            let fields: Vec<&str> = line.split('\t').collect();
            let user = number(fields[0]);
            checkins.all_users.insert(user);
            let at = instant(fields[1].trim_end_matches("+0000"));
            if at <= t {
                let sighting = Sighting {
                    at,
                    place: number(fields[4]),
                    latitude: number(fields[2]),
                    longitude: number(fields[3]),
                };
                checkins.sightings.entry(user).or_default().push(sighting);
            }
        }
        for of_user in checkins.sightings.values_mut() {
            of_user.sort_by(|a, b| {
                (a.at, a.place)
                    .cmp(&(b.at, b.place))
                    .then(a.latitude.total_cmp(&b.latitude))
                    .then(a.longitude.total_cmp(&b.longitude))
            });
        }
        checkins
    }

    pub fn customers(&self) -> Reference {
        let of_users = |row: &dyn Fn(&[Sighting]) -> Option<Row>| {
            self.sightings
                .iter()
                .filter_map(|(id, sightings)| Some((Key::Int(*id), row(sightings)?)))
                .collect()
        };
        Reference {
            key: "customer_id",
            keys: self
                .all_users
                .iter()
                .copied()
                .chain([-1])
                .map(Key::Int)
                .collect(),
            views: vec![
                Expected {
                    view: "customer_latest_place",
                    rows: of_users(&|sightings| self.latest(sightings)),
                },
                Expected {
                    view: "customer_movement",
                    rows: of_users(&|sightings| self.movement(sightings)),
                },
                Expected {
                    view: "customer_dwelling",
                    rows: of_users(&|sightings| self.dwelling(sightings)),
                },
            ],
        }
    }

    fn latest(&self, sightings: &[Sighting]) -> Option<Row> {
        let last = sightings.last().filter(|s| s.at >= self.t - 30 * DAY)?;
        Some(vec![
            ("place_id", Value::Int(last.place)),
            ("latitude", Value::float(last.latitude)),
            ("longitude", Value::float(last.longitude)),
        ])
    }

    /// The sightings of 90 days, each with the one before, of whatever time.
    fn steps<'a>(&self, sightings: &'a [Sighting]) -> Vec<(Option<&'a Sighting>, &'a Sighting)> {
        let before = std::iter::once(None).chain(sightings.iter().map(Some));
        before
            .zip(sightings)
            .filter(|(_, s)| s.at > self.t - 90 * DAY)
            .collect()
    }

    fn movement(&self, sightings: &[Sighting]) -> Option<Row> {
        let steps = self.steps(sightings);
        let last = steps.last()?.1;
        let places: BTreeSet<i64> = steps.iter().map(|s| s.1.place).collect();
        let moved: Vec<(f64, f64)> = steps
            .iter()
            .filter_map(|(from, to)| from.map(|from| (kilometres(from, to), hours(from, to))))
            .collect();
        let speeds = moved.iter().filter(|m| m.1 > 0.25).map(|m| m.0 / m.1);
        let corner = |pick: fn(f64, f64) -> f64| {
            let of = |value: fn(&Sighting) -> f64| {
                steps.iter().map(|s| value(s.1)).reduce(pick).unwrap()
            };
            Sighting {
                at: 0,
                place: 0,
                latitude: of(|s| s.latitude),
                longitude: of(|s| s.longitude),
            }
        };
        Some(vec![
            ("sightings_90d", Value::count(steps.len())),
            ("places_90d", Value::count(places.len())),
            (
                "travelled_km_90d",
                Value::float(moved.iter().map(|m| m.0).sum()),
            ),
            (
                "longest_step_km_90d",
                Value::or_null(moved.iter().map(|m| m.0).reduce(f64::max), Value::float),
            ),
            (
                "fastest_step_kmh_90d",
                Value::or_null(speeds.reduce(f64::max), Value::float),
            ),
            (
                "extent_km_90d",
                Value::float(kilometres(&corner(f64::min), &corner(f64::max))),
            ),
            ("days_since_sighting", Value::days_between(last.at, self.t)),
        ])
    }

    fn dwelling(&self, sightings: &[Sighting]) -> Option<Row> {
        let steps = self.steps(sightings);
        let mut places: BTreeMap<i64, (f64, i64)> = BTreeMap::new();
        for (from, to) in &steps {
            let stayed = from
                .filter(|from| from.place == to.place)
                .map_or(0.0, |from| hours(from, to).min(24.0));
            let (dwelt, count) = places.entry(to.place).or_default();
            *dwelt += stayed;
            *count += 1;
        }
        let all: f64 = places.values().map(|p| p.0).sum();
        let (place, (dwelt, count)) = places.into_iter().max_by(|a, b| {
            a.1.0
                .total_cmp(&b.1.0)
                .then(a.1.1.cmp(&b.1.1))
                .then(b.0.cmp(&a.0))
        })?;
        Some(vec![
            ("dwell_place_id", Value::Int(place)),
            ("dwell_hours_90d", Value::float(dwelt)),
            ("dwell_share_90d", Value::ratio(dwelt, all)),
            (
                "sighting_share_90d",
                Value::ratio(count as f64, steps.len() as f64),
            ),
        ])
    }
}

fn hours(from: &Sighting, to: &Sighting) -> f64 {
    (to.at - from.at) as f64 / (DAY / 24) as f64
}

/// The haversine formula.
fn kilometres(from: &Sighting, to: &Sighting) -> f64 {
    let (a, b) = (from.latitude.to_radians(), to.latitude.to_radians());
    let across = (to.longitude - from.longitude).to_radians();
    let h = ((b - a) / 2.0).sin().powi(2) + a.cos() * b.cos() * (across / 2.0).sin().powi(2);
    2.0 * 6371.0088 * h.sqrt().min(1.0).asin()
}
