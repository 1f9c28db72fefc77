//! How results are written: tables for people, JSON, CSV and Arrow for programs.
//!
//! Only results go to stdout.

pub mod answer;
pub mod human;
pub mod rows;
pub mod table;

use std::io::{self, BufWriter, Write};

use serde::Serialize;

/// Standard output, buffered; flush before the program ends.
pub fn stdout() -> BufWriter<io::Stdout> {
    BufWriter::new(io::stdout())
}

/// Prints one line or paragraph of a result.
pub fn print(text: impl AsRef<str>) -> io::Result<()> {
    let mut out = stdout();
    writeln!(out, "{}", text.as_ref())?;
    out.flush()
}

/// Prints one JSON document.
pub fn print_json(document: &impl Serialize) -> anyhow::Result<()> {
    let mut out = stdout();
    serde_json::to_writer_pretty(&mut out, document).map_err(io::Error::from)?;
    writeln!(out)?;
    out.flush()?;
    Ok(())
}
