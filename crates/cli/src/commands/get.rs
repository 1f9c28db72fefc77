//! `granary get`: reads features of some entities, from the project in this
//! process or from a server.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::ValueEnum;
use granary_client::{Client, GetFeatures, Target};
use granary_engine::StreamSource;
use granary_model::definitions::{Column, RequestColumns};
use granary_model::{Caller, Definitions, ErrorKind, FeatureView, UtcMicros};
use granary_serving::{ReadRequest, ReadTarget};

use crate::environment;
use crate::events::{self, ProjectEvents};
use crate::failure::Outcome;
use crate::keys::{self, KeyArgument};
use crate::output::answer::{Answer, AnswerColumn};
use crate::output::{self, human};
use crate::project::Project;
use crate::request_event::{self, EventArgument};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum AnswerFormat {
    /// For people.
    #[default]
    Table,
    /// {"columns": [{"name", "values", "statuses", "event_times"}]}, keys first.
    Json,
    /// An Arrow IPC stream.
    Arrow,
}

#[derive(Debug, clap::Args)]
#[command(
    group(clap::ArgGroup::new("target").required(true).args(["service", "features"])),
    after_help = "\
Values of --key are separated by commas; quote those that hold one: --key name=\"'Smith, A.',Jones\".
NULL is NULL; a value of nothing is the empty string (of numbers and dates: NULL).
Several --key are zipped: --key a=1,2 --key b=x,y reads (1, x) and (2, y). An --input, for on-demand
views, has one value for all entities or one for each. A --request-event is a JSON object; columns that it
leaves out are NULL, and without an event time it is at the time of the read.

Examples:
  granary get --service risk_admission --key customer_id=1,2,3
  granary get --features customer_spend.amount_30d,customer_profile.* --key customer_id=7 --output json
  granary get --service risk_admission --key customer_id=7 --input requested_amount=1000
  granary get --service card_checks --key card_id=7 --request-event card_event='{\"card_id\": 7, \"amount\": 12.5}'
  granary get --service risk_admission --key customer_id=7 --endpoint http://127.0.0.1:7420"
)]
pub struct Args {
    /// The feature service to read
    #[arg(short, long, value_name = "NAME")]
    pub service: Option<String>,

    /// Features to read, each view.feature or view.*
    #[arg(short, long, value_name = "VIEW.FEATURE", value_delimiter = ',')]
    pub features: Vec<String>,

    /// Keys of the entities: name=value,value,..
    #[arg(
        short,
        long = "key",
        value_name = "NAME=VALUES",
        required_unless_present = "inputs"
    )]
    pub keys: Vec<KeyArgument>,

    /// Inputs of on-demand views: name=value for all entities, or name=value,value,..
    #[arg(short, long = "input", value_name = "NAME=VALUES")]
    pub inputs: Vec<KeyArgument>,

    /// A row of a stream that counts as already there for this one read: STREAM='{"column": value, ..}'
    #[arg(long = "request-event", value_name = "STREAM=ROW")]
    pub request_events: Vec<EventArgument>,

    /// The time of the read [default: now]
    #[arg(long, value_name = "TIME")]
    pub as_of: Option<UtcMicros>,

    /// Only stored events before the time of the read, not at it
    #[arg(long)]
    pub before: bool,

    /// Name features view__feature
    #[arg(long)]
    pub full_names: bool,

    /// Ask a server in place of the project in this folder
    #[arg(short, long, value_name = "URL")]
    pub endpoint: Option<String>,

    /// The name to ask a server under [default: the user]
    #[arg(long, value_name = "NAME", requires = "endpoint")]
    pub client: Option<String>,

    /// The form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    pub output: AnswerFormat,
}

impl Args {
    fn target(&self) -> ReadTarget {
        match &self.service {
            Some(service) => ReadTarget::Service(service.clone()),
            None => ReadTarget::Features(self.features.clone()),
        }
    }
}

pub async fn run(folder: Option<&Path>, args: Args) -> Outcome {
    let answer = match &args.endpoint {
        Some(endpoint) => ask(endpoint, &args).await?,
        None => {
            let project = Project::open(folder)?;
            // A live view is answered by whoever owns the events.
            match events::serving(&project).await? {
                Some(endpoint) => ask(&endpoint, &args).await?,
                None => read(&project, &args).await?,
            }
        }
    };
    let answer = answer.checked()?;
    match args.output {
        AnswerFormat::Table => {
            output::print(answer.table().to_string())?;
            let entities = human::count(answer.keys.num_rows() as u64);
            output::print(format!("({entities} × {} features)", answer.features.len()))?;
        }
        AnswerFormat::Json => answer.write_json(output::stdout())?,
        AnswerFormat::Arrow => answer.write_arrow(output::stdout())?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Whoever can read the project's files may read its features: a caller with
/// every role that a grant names.
pub(super) fn every_role(definitions: &Definitions) -> Caller {
    let roles = definitions.grants.iter().map(|g| g.role.clone());
    Caller {
        name: environment::user(),
        roles: roles.collect(),
    }
}

/// Reads in this process.
async fn read(project: &Project, args: &Args) -> anyhow::Result<Answer> {
    let events = Arc::new(ProjectEvents::new(project.clone()));
    let engine = project.engine_over(Arc::clone(&events) as Arc<dyn StreamSource>)?;
    let store = project.online_store()?;
    let snapshot = project.snapshot().await?;
    let streams = match snapshot
        .definitions
        .feature_views
        .values()
        .any(FeatureView::is_live)
    {
        true => events.opened().await?,
        false => Arc::default(),
    };
    let reader = project.reader(&engine, &store, &streams).await?;
    let definitions = &reader.snapshot().definitions;
    let target = args.target();
    let expected = reader.request_columns(&target).await?;
    let keys = keys::batch(&args.keys, &expected.keys)?;
    let inputs = keys::inputs(&args.inputs, &expected.inputs)?;
    let mut request_events = Vec::new();
    for stream in request_event::streams(&args.request_events) {
        let known = definitions.streams.get(stream);
        let columns = known.map_or(&[][..], |stream| &stream.columns);
        let rows = request_event::batch(&args.request_events, stream, columns)?;
        request_events.push((stream.to_owned(), rows));
    }
    let caller = every_role(definitions);
    let response = reader
        .read(ReadRequest {
            caller,
            target,
            keys: keys.clone(),
            inputs,
            request_events,
            as_of: args.as_of,
            strictly_before: args.before,
            full_names: args.full_names,
        })
        .await?;
    let keys = keys::of_entities(keys, response.entities)?;
    let features = response.features.into_iter().map(|feature| AnswerColumn {
        name: feature.name.to_string(),
        values: feature.values,
        statuses: feature.statuses,
        event_times: feature.event_times,
    });
    Ok(Answer {
        keys,
        features: features.collect(),
    })
}

/// Asks a server.
async fn ask(endpoint: &str, args: &Args) -> anyhow::Result<Answer> {
    let name = args.client.clone().unwrap_or_else(environment::user);
    let client = Client::connect(endpoint).await?.with_name(&name);
    let target = match &args.service {
        Some(service) => Target::Service(service.clone()),
        None => Target::Features(args.features.clone()),
    };
    let expected = expected_columns(&client, &target).await?;
    let keys = keys::batch(&args.keys, &expected.keys)?;
    let mut request = GetFeatures::new(target, keys.clone());
    request.inputs = keys::inputs(&args.inputs, &expected.inputs)?;
    for stream in request_event::streams(&args.request_events) {
        let columns = stream_columns(&client, stream).await?;
        let rows = request_event::batch(&args.request_events, stream, &columns)?;
        request.request_events.push((stream.to_owned(), rows));
    }
    request.as_of = args.as_of;
    request.strictly_before = args.before;
    request.full_names = args.full_names;
    request.event_times = true;
    let answer = client.get_features(&request).await?;
    let keys = keys::of_entities(keys, answer.entities)?;
    Ok(Answer::received(keys, answer))
}

/// The columns of a server's stream, as far as it describes them.
async fn stream_columns(client: &Client, stream: &str) -> anyhow::Result<Vec<Column>> {
    let described = match client.describe(stream).await {
        Ok(object) => object.columns,
        // The read says so, in the words of a read.
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let columns = described.into_iter().filter_map(|column| {
        let data_type = column.data_type.parse().ok()?;
        Some(Column::new(column.name, data_type))
    });
    Ok(columns.collect())
}

/// The columns that a server's target takes, as far as it describes them.
pub(super) async fn expected_columns(
    client: &Client,
    target: &Target,
) -> anyhow::Result<RequestColumns> {
    let described: Vec<&str> = match target {
        Target::Service(service) => vec![service],
        Target::Features(features) => {
            let views = features.iter().filter_map(|f| f.split_once('.'));
            let views: BTreeSet<&str> = views.map(|(view, _)| view).collect();
            views.into_iter().collect()
        }
    };
    let mut expected = RequestColumns::default();
    for name in described {
        let columns = match client.describe(name).await {
            Ok(object) => object.columns.into_iter(),
            // The read says so, in the words of a read.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error.into()),
        };
        for column in columns {
            let to = match column.role.as_str() {
                "key" => &mut expected.keys,
                "input" => &mut expected.inputs,
                _ => continue,
            };
            // A type of a later version is for the server to read.
            if let Ok(data_type) = column.data_type.parse() {
                to.push(Column::new(column.name, data_type));
            }
        }
    }
    Ok(expected)
}
