//! What must be said of the made-up village of `village.sql`, by hand: the
//! subjects that no public data set has.

use super::expected::{Expected, Key, Reference, Row, Value};
use super::raw::instant;

pub const AS_OF: &str = "2026-01-31T00:00:00Z";

fn reference(key: &'static str, keys: Vec<Key>, views: Vec<Expected>) -> Reference {
    Reference { key, keys, views }
}

fn view(view: &'static str, rows: Vec<(Key, Row)>) -> Expected {
    Expected {
        view,
        rows: rows.into_iter().collect(),
    }
}

fn ids(ids: &[i64]) -> Vec<Key> {
    ids.iter().copied().map(Key::Int).collect()
}

fn names(names: &[&str]) -> Vec<Key> {
    names
        .iter()
        .map(|name| Key::Text((*name).to_owned()))
        .collect()
}

fn id(id: i64) -> Key {
    Key::Int(id)
}

fn name(name: &str) -> Key {
    Key::Text(name.to_owned())
}

fn money(units: i128) -> Value {
    Value::Money(units * 100)
}

/// Every view of the village that has rows.
pub fn references() -> Vec<Reference> {
    vec![
        reference(
            "customer_id",
            ids(&[1, 2, 3, 4, 5, 9]),
            vec![
                latest_application(),
                applications(),
                latest_loan(),
                debt(),
                repayment(),
                guarantees(),
            ],
        ),
        reference("loan_id", ids(&[10, 30, 31]), vec![loan_repayment()]),
        reference("place_id", ids(&[7, 8, 9]), vec![heat()]),
        reference(
            "device_id",
            names(&["d1", "d2", "d3"]),
            vec![latest_user(), sharing()],
        ),
        reference(
            "phone_number",
            names(&["p1", "p2", "p3", "p4", "p5"]),
            vec![handsets()],
        ),
    ]
}

/// Of 5 it is older than the TTL, of 4 not handed in yet.
fn latest_application() -> Expected {
    let row = |amount, term, application, guarantor: Option<i64>, phone, device| {
        vec![
            ("amount", money(amount)),
            ("term_months", Value::Int(term)),
            ("application_id", Value::Int(application)),
            ("guarantor_id", Value::or_null(guarantor, Value::Int)),
            ("phone_number", Value::text(phone)),
            ("device_id", Value::text(device)),
            ("place_id", Value::Int(7)),
        ]
    };
    view(
        "customer_latest_application",
        vec![
            (id(1), row(1000, 12, 1, Some(2), "p1", "d1")),
            (id(2), row(2000, 12, 2, Some(1), "p2", "d1")),
            (id(3), row(1500, 6, 3, None, "p3", "d2")),
        ],
    )
}

fn applications() -> Expected {
    let row = |month, year, most: Option<i128>, granted, days: f64| {
        vec![
            ("applications_30d", Value::Int(month)),
            ("applications_365d", Value::Int(year)),
            // Each came from a device and a number of its own.
            ("application_devices_365d", Value::Int(year)),
            ("application_phones_365d", Value::Int(year)),
            ("amount_asked_max_365d", Value::or_null(most, money)),
            ("granted_share", Value::float(granted)),
            ("days_since_application", Value::float(days)),
        ]
    };
    view(
        "customer_applications",
        vec![
            (id(1), row(1, 2, Some(1000), 0.5, 21.0)),
            (id(2), row(1, 1, Some(2000), 0.0, 3.0)),
            (id(3), row(0, 1, Some(1500), 1.0, 61.0)),
            (id(5), row(0, 0, None, 0.0, 609.0)),
        ],
    )
}

fn latest_loan() -> Expected {
    let row = |amount, instalment, loan| {
        vec![
            ("amount", money(amount)),
            ("term_months", Value::Int(6)),
            ("instalment", money(instalment)),
            ("loan_id", Value::Int(loan)),
            ("guarantor_id", Value::Int(9)),
        ]
    };
    view(
        "customer_latest_loan",
        vec![(id(1), row(500, 100, 10)), (id(3), row(1500, 300, 30))],
    )
}

fn debt() -> Expected {
    let row = |amount, outstanding, instalment, days: f64| {
        vec![
            ("loans", Value::Int(1)),
            ("loans_open", Value::Int(1)),
            ("borrowed_total", money(amount)),
            ("outstanding", money(outstanding)),
            ("instalments_monthly", money(instalment)),
            ("days_since_loan", Value::float(days)),
        ]
    };
    view(
        "customer_debt",
        vec![
            (id(1), row(500, 500, 100, 71.0)),
            (id(3), row(1500, 1400, 300, 60.0)),
        ],
    )
}

/// 1 paid the first instalment a day early and owes the second for 10 days;
/// 3 was 36 days late with the first and owes two thirds of the second for 11.
fn repayment() -> Expected {
    let row = |arrears, past_due, worst, late, rolls: [Option<f64>; 2], settled: f64| {
        let [to_30, to_60] = rolls.map(|share| Value::or_null(share, Value::float));
        vec![
            ("loans_due", Value::Int(1)),
            ("instalments_due", Value::Int(2)),
            ("arrears", money(arrears)),
            ("days_past_due", Value::Int(past_due)),
            ("days_late_max", Value::Int(worst)),
            ("days_late_max_180d", Value::Int(worst)),
            ("late_share", Value::float(late)),
            ("roll_rate_1_to_30", to_30),
            ("roll_rate_30_to_60", to_60),
            ("roll_rate_60_to_90", Value::Null),
            ("days_since_settlement", Value::float(settled)),
        ]
    };
    view(
        "customer_repayment",
        vec![
            (id(1), row(100, 10, 10, 0.5, [Some(0.0), None], 42.0)),
            (id(3), row(200, 11, 36, 1.0, [Some(0.5), Some(0.0)], 6.0)),
        ],
    )
}

fn guarantees() -> Expected {
    let row = vec![
        ("guaranteed_loans", Value::Int(2)),
        ("guaranteed_borrowers", Value::Int(2)),
        ("guaranteed_amount", money(2000)),
        ("guaranteed_arrears", money(300)),
        ("guaranteed_days_past_due", Value::Int(11)),
    ];
    view("customer_guarantees", vec![(id(9), row)])
}

fn loan_repayment() -> Expected {
    let row = |late, arrears, past_due, worst, mean, paid| {
        vec![
            ("instalments_due", Value::Int(2)),
            ("instalments_late", Value::Int(late)),
            ("arrears", money(arrears)),
            ("days_past_due", Value::Int(past_due)),
            ("days_late_max", Value::Int(worst)),
            ("days_late_mean", Value::float(mean)),
            ("paid_share", Value::float(paid)),
        ]
    };
    view(
        "loan_repayment",
        vec![
            (id(10), row(1, 100, 10, 10, 5.0, 0.5)),
            (id(30), row(2, 200, 11, 36, 23.5, 4.0 / 6.0)),
        ],
    )
}

fn heat() -> Expected {
    let row =
        |counts: [i64; 5], surge: Option<f64>, borrowers, overdue: [Option<f64>; 2], fellow| {
            let [week, month, quarter, applicants, devices] = counts.map(Value::Int);
            let [overdue, overdue_30] = overdue.map(|share| Value::or_null(share, Value::float));
            vec![
                ("applications_7d", week),
                ("applications_30d", month),
                ("applications_90d", quarter),
                ("applicants_90d", applicants),
                ("application_devices_90d", devices),
                ("application_surge", Value::or_null(surge, Value::float)),
                ("borrowers", Value::Int(borrowers)),
                ("overdue_share", overdue),
                ("overdue_30_share", overdue_30),
                ("fellow_guarantor_share", Value::float(fellow)),
            ]
        };
    view(
        "place_heat",
        vec![
            (
                id(7),
                row([1, 2, 4, 3, 3], Some(1.5), 2, [Some(1.0), Some(0.0)], 0.5),
            ),
            (id(8), row([0; 5], None, 0, [None, None], 0.0)),
        ],
    )
}

/// Of the two last sightings of d1, at one time, the one that names somebody.
fn latest_user() -> Expected {
    let row = vec![
        ("customer_id", Value::Int(1)),
        ("phone_number", Value::text("p1")),
        ("platform", Value::text("android")),
    ];
    view("device_latest_user", vec![(name("d1"), row)])
}

fn sharing() -> Expected {
    let row = |counts: [i64; 4], is_emulator, days: f64| {
        let [week, quarter, numbers, sightings] = counts.map(Value::Int);
        vec![
            ("customers_7d", week),
            ("customers_90d", quarter),
            ("numbers_90d", numbers),
            ("sightings_90d", sightings),
            ("is_emulator", Value::Bool(is_emulator)),
            ("age_days", Value::float(days)),
        ]
    };
    view(
        "device_sharing",
        vec![
            (name("d1"), row([2, 3, 4, 5], false, 47.0)),
            (name("d2"), row([0; 4], true, 395.0)),
        ],
    )
}

fn handsets() -> Expected {
    let row = || {
        vec![
            ("devices_90d", Value::Int(1)),
            ("numbers_on_same_device_90d", Value::Int(3)),
        ]
    };
    let of_d1 = ["p1", "p2", "p3", "p4"].map(|phone| (name(phone), row()));
    view("phone_handsets", of_d1.into())
}

/// The village's T in UTC microseconds.
pub fn as_of() -> i64 {
    instant(AS_OF)
}
