//! What intervals do on the calendar, and how they are written.

use proptest::prelude::*;

use super::*;

fn at(text: &str) -> UtcMicros {
    text.parse().expect("a time")
}

fn interval(text: &str) -> Interval {
    text.parse().unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn reads_what_sql_writes() {
    let i = |months, days, micros| Interval {
        months,
        days,
        micros,
    };
    for (text, expected) in [
        ("7 days", i(0, 7, 0)),
        ("7 DAY", i(0, 7, 0)),
        ("1 month 2 days", i(1, 2, 0)),
        ("1 mon 2 d", i(1, 2, 0)),
        ("  2   years  ", i(24, 0, 0)),
        ("1.5 years", i(18, 0, 0)),
        ("2 weeks", i(0, 14, 0)),
        ("1 quarter", i(3, 0, 0)),
        ("90 minutes", i(0, 0, 5_400_000_000)),
        ("1.5 days", i(0, 1, 43_200_000_000).regrouped()),
        ("36 hours", i(0, 0, 129_600_000_000)),
        ("01:30:00", i(0, 0, 5_400_000_000)),
        ("1 day 02:00", i(0, 1, 7_200_000_000)),
        ("-00:00:01.5", i(0, 0, -1_500_000)),
        ("100:00:00", i(0, 0, 360_000_000_000)),
        ("0.000001 seconds", i(0, 0, 1)),
        ("5 ms", i(0, 0, 5_000)),
        ("5 m", i(0, 0, 300_000_000)),
        ("7days", i(0, 7, 0)),
        ("1h30min", i(0, 0, 5_400_000_000)),
        ("-1 month +2 days", i(-1, 2, 0)),
        ("3 centuries", i(3_600, 0, 0)),
        ("0 days", Interval::ZERO),
    ] {
        assert_eq!(interval(text), expected, "{text}");
    }
}

impl Interval {
    /// A part of a day is microseconds.
    fn regrouped(self) -> Self {
        Self {
            months: self.months,
            days: 0,
            micros: i64::from(self.days) * MICROS_PER_DAY + self.micros,
        }
    }
}

#[test]
fn refuses_with_a_reason() {
    for (text, reason) in [
        ("", "it is empty"),
        ("7", "7 of what? a unit is missing, as in \"7 days\""),
        ("days", "a number is missing before \"days\""),
        ("7 dayz", "unknown unit \"dayz\"; did you mean days?"),
        ("7 parsecs", "unknown unit \"parsecs\""),
        ("x days", "\"x\" is no number of at most 18 digits"),
        ("1e3 days", "unknown unit \"e\""),
        (
            "1234567890123456789 us",
            "\"1234567890123456789\" is no number of at most",
        ),
        ("0.5 months", "a part of a month has no fixed length"),
        ("0.0000001 seconds", "it is finer than a microsecond"),
        ("1:60", "\"1:60\" is no time of hours:minutes:seconds"),
        ("1::", "\"1::\" is no time of hours:minutes:seconds"),
        ("9999999999 days", "it is longer than 292,000 years"),
        (
            "999999999999999999 hours",
            "it is longer than 292,000 years",
        ),
    ] {
        let error = text.parse::<Interval>().expect_err(text);
        assert!(error.reason.starts_with(reason), "{text}: {error}");
    }
}

#[test]
fn months_are_calendar_arithmetic() {
    for (t, text, before, after) in [
        ("2026-03-31", "1 month", "2026-02-28", "2026-04-30"),
        ("2024-03-31", "1 month", "2024-02-29", "2024-04-30"),
        ("2024-02-29", "1 year", "2023-02-28", "2025-02-28"),
        ("2026-01-31", "1 month 1 day", "2025-12-30", "2026-03-01"),
        ("1970-01-01", "2 days", "1969-12-30", "1970-01-03"),
        (
            "2026-03-01T00:00:00Z",
            "1 day 01:00:00.000001",
            "2026-02-27T22:59:59.999999Z",
            "2026-03-02T01:00:00.000001Z",
        ),
    ] {
        assert_eq!(interval(text).before(at(t)), at(before), "{t} - {text}");
        assert_eq!(interval(text).after(at(t)), at(after), "{t} + {text}");
    }
}

#[test]
fn saturates_at_the_ends_of_time() {
    let (min, max) = (UtcMicros::MIN, UtcMicros::MAX);
    let long = interval("270000 years");
    assert_eq!(long.before(at("2026-01-01")), min);
    assert_eq!(long.after(at("2026-01-01")), max);
    let days = Interval {
        months: 0,
        days: i32::MAX,
        micros: i64::MAX,
    };
    assert_eq!(days.before(at("2026-01-01")), min);
    assert_eq!(days.after(at("2026-01-01")), max);
    assert_eq!(interval("1 day").after(max), max);
    assert_eq!(interval("1 day").before(min), min);
    assert_eq!(
        interval("1 month").before(max),
        max,
        "outside of the calendar"
    );
    let least = Interval {
        months: i32::MIN,
        days: i32::MIN,
        micros: i64::MIN,
    };
    assert_eq!(least.after(at("2026-01-01")), min);
}

#[test]
fn positive_means_every_part() {
    for (text, expected) in [
        ("1 day", true),
        ("0 days", false),
        ("-1 day", false),
        ("1 month -1 day", false),
        ("1 us", true),
    ] {
        assert_eq!(interval(text).is_positive(), expected, "{text}");
    }
}

proptest! {
    #[test]
    fn display_reads_back(months: i32, days: i32, micros: i64) {
        let original = Interval { months, days, micros };
        prop_assert_eq!(original.to_string().parse::<Interval>(), Ok(original));
    }

    #[test]
    fn garbage_is_an_error_or_an_interval(text in "\\PC{0,24}") {
        let _ = text.parse::<Interval>();
    }

    #[test]
    fn almost_intervals_do_not_panic(text in "[-+0-9.: a-z]{0,40}") {
        let _ = text.parse::<Interval>();
    }

    /// Without months, an interval is a number of microseconds.
    #[test]
    fn days_are_24_hours(t in -10i64.pow(17)..10i64.pow(17), days in -10_000i32..10_000, micros in -10i64.pow(12)..10i64.pow(12)) {
        let i = Interval { months: 0, days, micros };
        let length = i64::from(days) * 86_400_000_000 + micros;
        prop_assert_eq!(i.after(UtcMicros(t)).0, t + length);
        prop_assert_eq!(i.before(UtcMicros(t)).0, t - length);
    }
}
