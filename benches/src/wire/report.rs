//! What was measured, as a Markdown table.

use std::fmt::Write as _;

use crate::process::median;

/// Of alternating rounds: ours by the peer's.
#[derive(Debug, Clone, Copy)]
pub struct Ratio {
    pub median: f64,
    pub least: f64,
    pub greatest: f64,
}

impl Ratio {
    pub fn of(ours: &[f64], peer: &[f64]) -> Self {
        let ratios: Vec<f64> = ours.iter().zip(peer).map(|(a, b)| a / b).collect();
        Self {
            median: median(&ratios),
            least: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            greatest: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

/// What a ratio, or another figure, should be.
#[derive(Debug, Clone, Copy)]
pub enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

impl Aim {
    pub fn is_met(self, figure: f64) -> bool {
        match self {
            Self::AtLeast(least) => figure >= least,
            Self::AtMost(most) => figure <= most,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtLeast(least) => format!("at least {least}"),
            Self::AtMost(most) => format!("at most {most}"),
        }
    }
}

/// A row of the table.
#[derive(Debug, Clone, Default)]
pub struct Row {
    what: String,
    granary: String,
    peer: String,
    ratio: Option<Ratio>,
    aim: String,
    met: Option<bool>,
}

impl Row {
    /// A row that only states.
    pub fn new(what: impl Into<String>, granary: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            granary: granary.into(),
            aim: "stated".to_owned(),
            ..Self::default()
        }
    }

    /// Two sides, round by round, each shown as its median.
    pub fn sides(what: impl Into<String>, unit: &str, ours: &[f64], peer: &[f64]) -> Self {
        let shown = |values: &[f64]| format!("{} {unit}", figure(median(values)));
        Self {
            peer: shown(peer),
            ratio: Some(Ratio::of(ours, peer)),
            ..Self::new(what, shown(ours))
        }
    }

    pub fn peer(mut self, peer: impl Into<String>) -> Self {
        self.peer = peer.into();
        self
    }

    /// Held against the ratio's median.
    pub fn aim(mut self, aim: Aim) -> Self {
        self.met = self.ratio.map(|ratio| aim.is_met(ratio.median));
        self.aim = aim.text();
        self
    }

    pub fn condition(mut self, aim: impl Into<String>, is_met: bool) -> Self {
        self.aim = aim.into();
        self.met = Some(is_met);
        self
    }

    fn markdown(&self) -> String {
        let (ratio, spread) = match self.ratio {
            Some(ratio) => (
                format!("{:.2}", ratio.median),
                format!("{:.2} to {:.2}", ratio.least, ratio.greatest),
            ),
            None => (String::new(), String::new()),
        };
        let met = match self.met {
            Some(true) => "met",
            Some(false) => "**missed**",
            None => "",
        };
        let (what, granary, peer, aim) = (&self.what, &self.granary, &self.peer, &self.aim);
        format!("| {what} | {granary} | {peer} | {ratio} | {spread} | {aim} | {met} |")
    }
}

/// Three digits of what is small, none behind the point of what is not.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// Rows so far, and what is to be said beside them.
#[derive(Debug, Default)]
pub struct Report {
    rows: Vec<Row>,
    notes: Vec<String>,
}

impl Report {
    pub fn row(&mut self, row: Row) {
        // Whoever waits sees how far it is.
        eprintln!("{}", row.markdown());
        self.rows.push(row);
    }

    /// Said once, however often.
    pub fn note(&mut self, note: impl Into<String>) {
        let note = note.into();
        if !self.notes.contains(&note) {
            eprintln!("{note}");
            self.notes.push(note);
        }
    }

    /// `head`: what was run, and on what.
    pub fn markdown(&self, head: &str) -> String {
        let mut text = format!(
            "{head}\n\n| what | Granary | peer | ratio | spread | aim | |\n|---|---|---|---|---|---|---|\n"
        );
        for row in &self.rows {
            // Writing to a String does not fail.
            let _ = writeln!(text, "{}", row.markdown());
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            let _ = writeln!(text, "- {note}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_held_against_its_median_ratio() {
        let row = |aim| Row::sides("x", "ms", &[1.0, 4.0, 3.0], &[2.0, 2.0, 2.0]).aim(aim);
        assert_eq!(
            row(Aim::AtLeast(1.5)).markdown(),
            "| x | 3.00 ms | 2.00 ms | 1.50 | 0.50 to 2.00 | at least 1.5 | met |"
        );
        assert_eq!(
            row(Aim::AtMost(1.4)).markdown(),
            "| x | 3.00 ms | 2.00 ms | 1.50 | 0.50 to 2.00 | at most 1.4 | **missed** |"
        );
    }

    #[test]
    fn a_figure_that_was_not_taken_is_not_met() {
        let row = Row::sides("x", "ms", &[f64::NAN], &[0.0]).aim(Aim::AtMost(1.5));
        assert!(row.markdown().ends_with("| **missed** |"));
    }

    #[test]
    fn notes_are_said_once() {
        let mut report = Report::default();
        report.row(Row::new("x", "1"));
        report.note("busy");
        report.note("busy");
        let text = report.markdown("head");
        assert!(text.contains("| x | 1 |  |  |  | stated |  |"));
        assert_eq!(text.matches("- busy").count(), 1);
    }
}
