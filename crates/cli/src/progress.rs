//! How a materialisation is followed: bars on a terminal, lines elsewhere.
//! Both go to stderr.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use granary_ingest::{Progress, Stage};
use granary_model::UtcMicros;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::output::human;

const TICK: Duration = Duration::from_millis(120);

/// Bars where stderr is a terminal, else lines.
pub fn on_stderr() -> Arc<dyn Progress> {
    if std::io::stderr().is_terminal() {
        Arc::new(Bars::default())
    } else {
        Arc::new(Lines::default())
    }
}

/// How far one long job is: a spinner on a terminal, a line now and then elsewhere.
pub struct RowCount {
    what: &'static str,
    bar: Option<ProgressBar>,
    told: Mutex<Instant>,
}

/// How often a log is told.
const LINE_EVERY: Duration = Duration::from_secs(10);

impl RowCount {
    pub fn on_stderr(what: &'static str) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg} [{elapsed}]");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_message(what);
            bar.enable_steady_tick(TICK);
            bar
        });
        Self {
            what,
            bar,
            told: Mutex::new(Instant::now()),
        }
    }

    pub fn rows(&self, rows: u64) {
        let text = || format!("{}: {}", self.what, human::counted(rows, "row"));
        if let Some(bar) = &self.bar {
            bar.set_message(text());
            return;
        }
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= LINE_EVERY {
            *told = Instant::now();
            eprintln!("{}", text());
        }
    }

    pub fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// One line a step; rows under way are not told, a log has no use for them.
#[derive(Default)]
struct Lines {
    /// The last line of each run under way: a step may come twice.
    told: Mutex<HashMap<(String, UtcMicros), String>>,
}

impl Progress for Lines {
    fn stage(&self, view: &str, as_of: UtcMicros, stage: Stage) {
        let Some(text) = step(&stage) else {
            return;
        };
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let before = told.insert((view.to_owned(), as_of), text.clone());
        if before.as_ref() != Some(&text) {
            eprintln!("{view} as of {as_of}: {text}");
        }
    }
}

/// What a log says of a step.
fn step(stage: &Stage) -> Option<String> {
    let rows = |rows| human::counted(rows, "row");
    Some(match stage {
        Stage::Queued => return None,
        Stage::Computing { rows: 0 } => "computing".into(),
        Stage::Computing { .. } => return None,
        Stage::Committed { rows: n } => format!("committed {} offline", rows(*n)),
        Stage::Publishing { rows: 0 } => "publishing online".into(),
        Stage::Publishing { .. } => return None,
        Stage::Done { rows: n } => format!("done, {}", rows(*n)),
        Stage::Skipped { reason } => format!("skipped: {reason}"),
        // The summary tells why.
        Stage::Failed { .. } => "failed".into(),
    })
}

/// A spinner a run, while it runs.
struct Bars {
    screen: MultiProgress,
    running: Mutex<HashMap<(String, UtcMicros), ProgressBar>>,
}

impl Default for Bars {
    fn default() -> Self {
        Self {
            screen: MultiProgress::new(),
            running: Mutex::default(),
        }
    }
}

impl Bars {
    fn bar(&self, view: &str, as_of: UtcMicros) -> ProgressBar {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let bar = running.entry((view.to_owned(), as_of)).or_insert_with(|| {
            let bar = self.screen.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {prefix} {msg} [{elapsed}]");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(format!("{view} as of {as_of}:"));
            bar.enable_steady_tick(TICK);
            bar
        });
        bar.clone()
    }

    fn end(&self, view: &str, as_of: UtcMicros, text: &str) {
        let key = (view.to_owned(), as_of);
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bar) = running.remove(&key) {
            bar.finish_and_clear();
            self.screen.remove(&bar);
        }
        drop(running);
        // The line stays above the bars that still run.
        self.screen.suspend(|| eprintln!("{text}"));
    }
}

impl Progress for Bars {
    fn stage(&self, view: &str, as_of: UtcMicros, stage: Stage) {
        let rows = |rows| human::counted(rows, "row");
        match &stage {
            Stage::Queued => {}
            Stage::Computing { rows: n } => {
                self.bar(view, as_of)
                    .set_message(format!("computing, {}", rows(*n)));
            }
            Stage::Committed { rows: n } => {
                self.bar(view, as_of)
                    .set_message(format!("committed {} offline", rows(*n)));
            }
            Stage::Publishing { rows: n } => {
                self.bar(view, as_of)
                    .set_message(format!("publishing, {}", rows(*n)));
            }
            Stage::Done { .. } => self.end(view, as_of, &line('✓', view, as_of, &stage)),
            Stage::Skipped { .. } => self.end(view, as_of, &line('·', view, as_of, &stage)),
            Stage::Failed { .. } => self.end(view, as_of, &line('✗', view, as_of, &stage)),
        }
    }
}

fn line(mark: char, view: &str, as_of: UtcMicros, stage: &Stage) -> String {
    let text = step(stage).unwrap_or_default();
    format!("{mark} {view} as of {as_of}: {text}")
}
