//! Raw files of the public data sets, read without DataFusion: where they lie
//! and how a line becomes fields.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Datelike, NaiveDate};
use flate2::read::GzDecoder;

pub const DAY: i64 = 86_400_000_000;

/// The folder of a data set: `shared/data/<name>` beside the workspace or
/// beside one of its parents. `None`, with a word, where it is absent.
pub fn folder(name: &str) -> Option<PathBuf> {
    let found = Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .map(|above| above.join("shared/data").join(name))
        .find(|folder| folder.is_dir());
    if found.is_none() {
        // Not by a macro: what those print is captured, and a test that passes
        // without its data shall be seen to.
        let mut seen = std::io::stderr();
        let _ = writeln!(
            seen,
            "skipped: there is no shared/data/{name} beside the workspace"
        );
    }
    found
}

/// The lines of a gzip file, without line ends.
pub fn lines(path: &Path) -> Vec<String> {
    let file = File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    BufReader::new(GzDecoder::new(file))
        .lines()
        .map(|line| line.unwrap().trim_end_matches('\r').to_owned())
        .collect()
}

/// The records below the header. No field of these files holds a delimiter or
/// a quote, so quotes are only stripped.
pub fn records(path: &Path, delimiter: char) -> Vec<Vec<String>> {
    lines(path)
        .iter()
        .skip(1)
        .map(|line| {
            line.split(delimiter)
                .map(|field| field.trim_matches('"').to_owned())
                .collect()
        })
        .collect()
}

pub fn number<T: std::str::FromStr>(field: &str) -> T {
    field
        .parse()
        .unwrap_or_else(|_| panic!("{field:?} is not a number"))
}

/// `700.00` or `-3.5` as hundredths.
pub fn cents(field: &str) -> i128 {
    let (whole, fraction) = field.split_once('.').unwrap_or((field, ""));
    let hundredths: i128 = number(&format!("{fraction:0<2}"));
    let sign = if field.starts_with('-') { -1 } else { 1 };
    number::<i128>(whole) * 100 + sign * hundredths
}

/// Days since 1970-01-01.
pub fn days(year: i32, month: u32, day: u32) -> i32 {
    let date = NaiveDate::from_ymd_opt(year, month, day).unwrap();
    date.num_days_from_ce()
        - NaiveDate::from_ymd_opt(1970, 1, 1)
            .unwrap()
            .num_days_from_ce()
}

/// The calendar date of an instant.
pub fn date(micros: i64) -> NaiveDate {
    DateTime::from_timestamp_micros(micros)
        .unwrap()
        .date_naive()
}

/// Of `text`, a time as `2010-12-01 07:45:00`, UTC.
pub fn instant(text: &str) -> i64 {
    text.parse::<granary_model::UtcMicros>().unwrap().0
}
