//! `granary status`: how far every feature view is materialised, and what the
//! streams hold.

use std::process::ExitCode;

use granary_ingest::{ViewStatus, view_statuses};
use granary_model::definitions::ServeMode;
use granary_model::{FeatureView, UtcMicros};
use granary_store::GenerationState;
use serde::Serialize;

use super::materialize::RunRecordJson;
use crate::args::Listing;
use crate::failure::Outcome;
use crate::output::{self, human, table};
use crate::project::Project;
use crate::stream_status::{self, StreamJson};

#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  granary status\n  granary status --output json")]
pub struct Args {
    /// How many of the newest runs of each view, in JSON
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub runs: usize,

    /// The form of the list
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Listing,
}

#[derive(Serialize)]
struct StatusJson<'a> {
    snapshot: u64,
    views: Vec<ViewJson<'a>>,
    streams: Vec<StreamJson<'a>>,
}

#[derive(Serialize)]
struct ViewJson<'a> {
    view: &'a str,
    version: u32,
    kind: &'static str,
    /// `online`, `query`, `offline`
    serve: &'static str,
    watermark: Option<String>,
    online: Option<OnlineJson>,
    /// The older version that answers until this one is online.
    #[serde(skip_serializing_if = "Option::is_none")]
    older_online: Option<OnlineJson>,
    runs: Vec<RunRecordJson<'a>>,
}

#[derive(Serialize)]
struct OnlineJson {
    version: u32,
    generation: u64,
    as_of: String,
    rows: u64,
}

impl OnlineJson {
    fn new(state: &GenerationState) -> Self {
        Self {
            version: state.id.version,
            generation: state.id.number,
            as_of: state.coverage.as_of.to_string(),
            rows: state.rows,
        }
    }
}

pub async fn run(project: &Project, args: &Args) -> Outcome {
    let snapshot = project.snapshot().await?;
    let engine = project.engine()?;
    let store = project.online_store()?;
    let runs = args.runs.max(1);
    let catalog = project.catalog()?;
    let statuses = view_statuses(&engine, store.as_ref(), &catalog, &snapshot, runs).await?;
    let views = &snapshot.definitions.feature_views;
    let streams = stream_status::of_project(project, &snapshot).await;
    let listed = statuses.iter().filter_map(|status| {
        let view = views.get(&status.view)?;
        Some((status, view.kind.as_str(), serve_in_words(view)))
    });
    match args.output {
        Listing::Json => {
            let views = listed.map(|(status, kind, serve)| ViewJson {
                view: &status.view,
                version: status.version,
                kind,
                serve,
                watermark: status.watermark.map(|t| t.to_string()),
                online: status.online.as_ref().map(OnlineJson::new),
                older_online: status.older_online.as_ref().map(OnlineJson::new),
                runs: status
                    .runs
                    .iter()
                    .take(args.runs)
                    .map(RunRecordJson::new)
                    .collect(),
            });
            output::print_json(&StatusJson {
                snapshot: snapshot.number,
                views: views.collect(),
                streams: streams.iter().map(StreamJson::new).collect(),
            })?;
        }
        Listing::Table => {
            let now = project.clock.now();
            output::print(format!(
                "Snapshot {}, by {}, {} ago",
                snapshot.number,
                snapshot.committed_by,
                human::age(snapshot.committed_at, now)
            ))?;
            let mut shown = table::table([
                "view",
                "version",
                "kind",
                "serve",
                "watermark",
                "age",
                "online rows",
                "generation",
                "last run",
            ]);
            for (status, kind, serve) in listed {
                shown.add_row(row(status, kind, serve, now));
                if let Some(older) = &status.older_online {
                    shown.add_row(older_row(status, older, now));
                }
            }
            table::align_right(&mut shown, [1, 6, 7]);
            output::print(shown.to_string())?;
            if !streams.is_empty() {
                output::print(stream_status::in_table(&streams, now))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn row(status: &ViewStatus, kind: &str, serve: &str, now: UtcMicros) -> Vec<String> {
    let online = status.online.as_ref();
    vec![
        status.view.clone(),
        status.version.to_string(),
        kind.to_owned(),
        serve.to_owned(),
        match status.watermark {
            Some(watermark) => watermark.to_string(),
            None if [QUERY, LIVE].contains(&serve) => String::new(),
            None => "never run".into(),
        },
        status
            .watermark
            .map(|t| human::age(t, now))
            .unwrap_or_default(),
        online.map(|g| human::count(g.rows)).unwrap_or_default(),
        online.map(|g| g.id.number.to_string()).unwrap_or_default(),
        status.runs.first().map_or(String::new(), |run| {
            let rows = human::counted(run.rows, "row");
            format!("{rows}, {} ago", human::age(run.committed_at, now))
        }),
    ]
}

/// The older version that answers for a view.
fn older_row(status: &ViewStatus, older: &GenerationState, now: UtcMicros) -> Vec<String> {
    vec![
        String::new(),
        older.id.version.to_string(),
        String::new(),
        "online".to_owned(),
        older.coverage.as_of.to_string(),
        human::age(older.coverage.as_of, now),
        human::count(older.rows),
        older.id.number.to_string(),
        format!("answers until version {} has run", status.version),
    ]
}

/// Have no runs: they are computed when they are read.
const QUERY: &str = "query";
const LIVE: &str = "live";

fn serve_in_words(view: &FeatureView) -> &'static str {
    match view.serve {
        _ if view.is_live() => LIVE,
        ServeMode::Online => "online",
        ServeMode::Query { .. } => QUERY,
        ServeMode::Offline => "offline",
    }
}
