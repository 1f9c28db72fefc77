//! How times are read and written.

use proptest::prelude::*;

use super::*;

#[test]
fn reads_the_usual_forms() {
    for (text, expected) in [
        ("1970-01-01", 0),
        ("1970-01-01T00:00:00Z", 0),
        (" 1970-01-01 00:00:00 ", 0),
        ("1970-01-01T00:00", 0),
        ("1970-01-01T00:01Z", 60_000_000),
        ("1970-01-01T02:00:00+02:00", 0),
        ("1970-01-01 02:00:00+0200", 0),
        ("1970-01-01 02:00:00+02", 0),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01 00:00:00.000001", 1),
        ("1969-12-31T23:59:59.999999Z", -1),
        // Finer than a microsecond is cut off, towards the past.
        ("1970-01-01T00:00:00.0000019Z", 1),
        ("1969-12-31T23:59:59.9999999Z", -1),
        ("2024-02-29T23:59:59Z", 1_709_251_199_000_000),
    ] {
        assert_eq!(text.parse(), Ok(UtcMicros(expected)), "{text}");
    }
}

#[test]
fn refuses_what_is_no_time() {
    for text in [
        "",
        "now",
        "2026-02-29",
        "2026-13-01",
        "2026-01-31T25:00:00Z",
        "31.01.2026",
        "01/31/2026",
        "1700000000",
        "2026-01-31T00:00:00X",
        "2026-01-31Z",
        "2026-01",
    ] {
        let error = text.parse::<UtcMicros>().expect_err(text);
        assert!(
            error.to_string().contains("is not a time; write it as"),
            "{error}"
        );
    }
}

#[test]
fn shows_as_many_digits_as_it_needs() {
    for (micros, expected) in [
        (0, "1970-01-01T00:00:00Z"),
        (1_000, "1970-01-01T00:00:00.001Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
        (i64::MAX, "9223372036854775807us"),
    ] {
        assert_eq!(UtcMicros(micros).to_string(), expected);
    }
}

proptest! {
    /// Every instant of the calendar's years 0 to 9999 reads back.
    #[test]
    fn display_reads_back(micros in -62_167_219_200_000_000i64..253_402_300_800_000_000) {
        let time = UtcMicros(micros);
        prop_assert_eq!(time.to_string().parse::<UtcMicros>(), Ok(time));
    }

    #[test]
    fn garbage_does_not_panic(text in "\\PC{0,32}") {
        let _ = text.parse::<UtcMicros>();
    }

    #[test]
    fn almost_times_do_not_panic(text in "[0-9TZ:+. -]{0,32}") {
        let _ = text.parse::<UtcMicros>();
    }
}
