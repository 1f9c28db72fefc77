//! `granary sql`: queries over sources, views and offline feature tables.

mod prompt;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, bail};
use futures::StreamExt;
use granary_engine::Engine;
use granary_engine::query::{Query, Session};
use granary_ingest::OlderVersion;
use granary_model::UtcMicros;

use crate::failure::{Outcome, usage};
use crate::output;
use crate::output::rows::{RowFormat, RowWriter};
use crate::project::Project;

#[derive(Debug, clap::Args)]
#[command(after_help = "\
The name of a feature view is its offline table. Without a statement, on a terminal, this is a prompt:
statements may go over several lines and end with ;. Otherwise statements are read from stdin.
The definitions are those that were applied; before the first apply, and with --files, those of the files.

Examples:
  granary sql \"SELECT count(*) FROM customer_spend\"
  granary sql \"SELECT * FROM transactions LIMIT 10\" --output json
  granary sql --as-of 2026-01-31 \"SELECT max(at) FROM transactions\"
  granary sql -f report.sql --output csv > report.csv")]
pub struct Args {
    /// SELECT, or any other statement that only reads
    pub statement: Option<String>,

    /// Read statements from a file
    #[arg(short, long, value_name = "FILE", conflicts_with = "statement")]
    pub file: Option<PathBuf>,

    /// See nothing later than this, where there is an event time
    #[arg(long, value_name = "TIME")]
    pub as_of: Option<UtcMicros>,

    /// Use the definitions of the files in place of those that were applied
    #[arg(long)]
    pub files: bool,

    /// The form of the result
    #[arg(short, long, value_enum, default_value_t)]
    pub output: RowFormat,

    /// How many rows a table shows
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub rows: usize,
}

/// What statements are run on, and how their rows are shown.
struct Runner {
    session: Session,
    format: RowFormat,
    rows_max: usize,
    /// What was said of streams that lost events.
    told: Mutex<BTreeMap<String, UtcMicros>>,
}

pub async fn run(project: &Project, args: Args) -> Outcome {
    let text = statement_text(&args)?;
    let engine = project.engine()?;
    let (definitions, older) = if args.files {
        (project.file_definitions(&engine).await?, Vec::new())
    } else {
        project.definitions(&engine).await?
    };
    for view in &older {
        let OlderVersion {
            view,
            version,
            newest,
        } = view;
        eprintln!(
            "note: {view} is version {version} here: version {newest} was never materialised"
        );
    }
    let runner = Runner {
        session: Engine::query_session(&engine, &definitions, args.as_of).await?,
        format: args.output,
        rows_max: args.rows,
        told: Mutex::default(),
    };
    match text {
        Some(text) => runner.run(&text).await?,
        None => prompt::run(&runner, &definitions).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What to run; `None`: ask at the prompt.
fn statement_text(args: &Args) -> anyhow::Result<Option<String>> {
    if let Some(statement) = &args.statement {
        return Ok(Some(statement.clone()));
    }
    let (name, bytes) = if let Some(file) = &args.file {
        let name = file.display().to_string();
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
        (name, bytes)
    } else if io::stdin().is_terminal() {
        return Ok(None);
    } else {
        let mut bytes = Vec::new();
        io::stdin().read_to_end(&mut bytes)?;
        ("stdin".to_owned(), bytes)
    };
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8"))?;
    Ok(Some(text))
}

impl Runner {
    /// Runs statements one after another and prints what they give.
    async fn run(&self, text: &str) -> anyhow::Result<()> {
        let queries = self.session.queries(text).await?;
        if queries.is_empty() {
            bail!(usage("there is no statement to run"));
        }
        if queries.len() > 1 && self.format == RowFormat::Arrow {
            bail!(usage(
                "an Arrow stream holds the rows of one statement only"
            ));
        }
        for query in queries {
            self.print(query).await?;
        }
        Ok(())
    }

    async fn print(&self, query: Query) -> anyhow::Result<()> {
        let mut rows = query.rows().await?;
        let schema = rows.schema();
        let mut writer = RowWriter::new(self.format, schema, self.rows_max, output::stdout())?;
        while let Some(batch) = rows.next().await {
            if !writer.write(&batch?)? {
                break;
            }
        }
        writer.finish()?;
        let trimmed = self.session.trimmed();
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, before) in &trimmed {
            if told.get(stream) == Some(before) {
                continue;
            }
            eprintln!(
                "note: {stream} has lost events before {before}: the rows are of what is left"
            );
        }
        *told = trimmed;
        Ok(())
    }
}
