//! Where the events of a project's streams are: in this process, or in the
//! server that owns them.
//!
//! One process owns the events of a folder. A command takes them for as long as
//! it runs, when it first needs them; where a server has them it asks the
//! server, and for another command it waits. Nothing is opened, made or locked
//! for a command that reads no stream.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::{StreamExt, TryStreamExt};
use granary_client::{Client, LostEvents, ScannedStream, StreamInfo};
use granary_engine::{Engine, EngineError, Lost, StreamEvents, StreamSource};
use granary_ingest::{IngestError, OpenEvents, StreamStatus, Streams};
use granary_model::definitions::Stream;
use granary_store::{EmbeddedEventStore, EventStore, EventsOwner, OpenStreams, StoreError};
use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::environment;
use crate::project::Project;

/// How long another command is waited for.
const PATIENCE: Duration = Duration::from_secs(10);
const BETWEEN_TRIES: Duration = Duration::from_millis(100);

/// How the events are reached.
#[derive(Debug)]
pub enum Access {
    /// This process owns them until it ends.
    Owned(Arc<Streams>),
    /// The server that does.
    Server(Client),
}

/// The events of a project, reached when they are first needed.
pub struct ProjectEvents {
    project: Project,
    access: OnceCell<Access>,
}

impl fmt::Debug for ProjectEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProjectEvents")
            .field("access", &self.access.get())
            .finish_non_exhaustive()
    }
}

impl ProjectEvents {
    pub fn new(project: Project) -> Self {
        Self {
            project,
            access: OnceCell::new(),
        }
    }

    /// Takes the events, or finds who has them.
    pub async fn access(&self) -> Result<&Access, IngestError> {
        self.access.get_or_try_init(|| self.reach()).await
    }

    /// What live views are answered from, owned by this process.
    pub async fn opened(&self) -> Result<Arc<OpenStreams>, IngestError> {
        match self.access().await? {
            Access::Owned(streams) => Ok(Arc::clone(streams.opened())),
            Access::Server(_) => Err(IngestError::Refused(
                "a server took the events meanwhile: ask again".into(),
            )),
        }
    }

    async fn reach(&self) -> Result<Access, IngestError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let reached = match owner(&self.project)?.and_then(|owner| owner.endpoint) {
                Some(endpoint) => connect(&endpoint).await.map(Access::Server),
                None => self.own().await.map(Access::Owned),
            };
            match reached {
                // A server that is just ending, or a command that will.
                Err(IngestError::Store(
                    StoreError::EventsOwned { .. } | StoreError::Backend(_),
                )) if Instant::now() < deadline => tokio::time::sleep(BETWEEN_TRIES).await,
                reached => return reached,
            }
        }
    }

    /// Opens the streams of what is applied, whatever this command works on.
    async fn own(&self) -> Result<Arc<Streams>, IngestError> {
        let catalog = self.project.catalog().map_err(refused)?;
        let snapshot = catalog.latest().await?.ok_or_else(|| {
            IngestError::Refused("nothing is applied yet: run `granary apply`".into())
        })?;
        let streams = streams(&self.project, None);
        // Views are compiled to know their keys, histories are written; no event
        // is read for that.
        let engine = self.project.engine_without_events().map_err(refused)?;
        match streams.follow(&engine, &snapshot.definitions).await {
            // Told to those who ask for that stream.
            Ok(()) | Err(IngestError::NotOpen { .. } | IngestError::NotRestored { .. }) => {
                Ok(Arc::new(streams))
            }
            Err(error) => Err(error),
        }
    }

    /// What is known of each stream, by name.
    pub async fn statuses(&self) -> Result<Vec<StreamInfo>, IngestError> {
        match self.access().await? {
            Access::Server(client) => {
                let listed = client.list_streams().await;
                listed.map_err(|error| unreachable(&error))
            }
            Access::Owned(streams) => {
                let statuses = streams.statuses().await?;
                Ok(statuses.into_iter().map(info).collect())
            }
        }
    }
}

/// As a server would tell it.
fn info(status: StreamStatus) -> StreamInfo {
    let state = status.state;
    StreamInfo {
        name: status.name,
        events: state.events,
        bytes: state.bytes,
        last_sequence: state.last_sequence,
        last_created_time: state.last_created_time,
        newest_event_time: state.newest_event_time,
        flushed: state.flushed,
        trimmed_before: state.trimmed_before,
        lost: status.lost.map(|lost| LostEvents {
            before: lost.before,
            newest_from: lost.newest_from,
            newest_kept: { lost.newest_kept.into_iter() }
                .map(|(index, n)| (index, n as u64))
                .collect(),
        }),
        retention: status.retention,
        needed_by: status.needed_by,
        history: status.history,
        not_open: status.not_open,
    }
}

#[async_trait]
impl StreamSource for ProjectEvents {
    async fn scan(
        &self,
        stream: &Stream,
        projection: &[usize],
    ) -> Result<StreamEvents, EngineError> {
        let name = stream.name.clone();
        let failed = |error: &IngestError| EngineError::Events {
            stream: name.clone(),
            kind: error.kind(),
            reason: error.to_string(),
        };
        match self.access().await.map_err(|error| failed(&error))? {
            Access::Owned(streams) if streams.opened().get(&name).is_none() => {
                let unopened = streams.check_open(&name);
                if let Err(error @ IngestError::NotOpen { .. }) = unopened {
                    return Err(failed(&error));
                }
                Err(EngineError::Refused(format!(
                    "{name}: the stream is not applied yet: run `granary apply`; events are kept from then on"
                )))
            }
            Access::Owned(streams) => {
                let open = OpenEvents(Arc::clone(streams.opened()));
                open.scan(stream, projection).await
            }
            Access::Server(client) => scan_server(client, stream, projection).await,
        }
    }
}

/// Reads events through the server that owns them.
async fn scan_server(
    client: &Client,
    stream: &Stream,
    projection: &[usize],
) -> Result<StreamEvents, EngineError> {
    let name = stream.name.clone();
    let expected = stream.row_schema().project(projection);
    let expected = expected.map_err(|error| EngineError::Refused(error.to_string()))?;
    let columns = expected.fields().iter().map(|field| field.name().clone());
    let failed = move |error: granary_client::ClientError| EngineError::Events {
        stream: name.clone(),
        kind: error.kind(),
        reason: error.to_string(),
    };
    let scanned = client.scan_stream(&stream.name, columns.collect()).await;
    let ScannedStream {
        flushed,
        lost,
        kept,
    } = scanned.map_err(failed.clone())?;
    let batches = kept.map_err(failed);
    let name = stream.name.clone();
    let checked = batches.and_then(move |batch| {
        let given = batch.schema();
        let alike = given.fields().iter().zip(expected.fields());
        let alike = given.fields().len() == expected.fields().len() && { alike }
            .all(|(given, expected)| given.data_type() == expected.data_type());
        std::future::ready(match alike {
            true => Ok(batch),
            false => Err(EngineError::SchemaChanged {
                object: name.clone(),
                difference: "events are stored under other columns".to_owned(),
            }),
        })
    });
    Ok(StreamEvents {
        flushed,
        lost: lost.map(known_lost),
        kept: checked.boxed(),
    })
}

/// As the engine has it.
pub fn known_lost(lost: LostEvents) -> Lost {
    let kept = lost.newest_kept.into_iter();
    Lost {
        before: lost.before,
        newest_from: lost.newest_from,
        newest_kept: kept.map(|(index, n)| (index, n as usize)).collect(),
    }
}

/// Who owns the project's events now.
fn owner(project: &Project) -> Result<Option<EventsOwner>, IngestError> {
    let folder = project.events_folder().map_err(refused)?;
    Ok(EmbeddedEventStore::owner(&folder)?)
}

/// The server that owns the project's events, if its definitions have streams
/// and one does.
pub async fn serving(project: &Project) -> anyhow::Result<Option<String>> {
    let snapshot = project.catalog()?.latest().await?;
    match snapshot {
        Some(snapshot) if !snapshot.definitions.streams.is_empty() => {
            Ok(owner(project)?.and_then(|owner| owner.endpoint))
        }
        _ => Ok(None),
    }
}

/// The project's streams, to be owned by this process once the definitions have
/// some. `endpoint`: where it takes requests, if it does.
pub fn streams(project: &Project, endpoint: Option<String>) -> Streams {
    let config = &project.config.streams;
    let (events, settings) = (config.embedded.clone(), config.settings.clone());
    let (project, clock) = (project.clone(), Arc::clone(&project.clock));
    let open = move || {
        let folder = project.events_folder().map_err(refused)?;
        let clock = Arc::clone(&project.clock);
        let store = EmbeddedEventStore::open(&folder, events.clone(), clock)?;
        if let Some(endpoint) = &endpoint {
            store.register_endpoint(endpoint)?;
        }
        Ok(Arc::new(store) as Arc<dyn EventStore>)
    };
    Streams::when_needed(open, settings, clock)
}

/// Opens the streams of what is applied for a server, once a command that has
/// them ends; another server will not.
pub async fn open_for_server(
    project: &Project,
    engine: &Engine,
    streams: &Streams,
) -> anyhow::Result<()> {
    let Some(snapshot) = project.catalog()?.latest().await? else {
        return Ok(());
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match streams.follow(engine, &snapshot.definitions).await {
            Err(IngestError::Store(StoreError::EventsOwned { .. }))
                if Instant::now() < deadline
                    && owner(project)?.is_none_or(|owner| owner.endpoint.is_none()) =>
            {
                tokio::time::sleep(BETWEEN_TRIES).await;
            }
            // Tried again while the server runs.
            Err(error @ (IngestError::NotOpen { .. } | IngestError::NotRestored { .. })) => {
                eprintln!("error: {error}; the other streams are served");
                return Ok(());
            }
            followed => return Ok(followed?),
        }
    }
}

async fn connect(endpoint: &str) -> Result<Client, IngestError> {
    let client = Client::connect(endpoint).await;
    let client = client.map_err(|error| unreachable(&error))?;
    Ok(client.with_name(&environment::user()))
}

fn unreachable(error: &granary_client::ClientError) -> IngestError {
    let reason = format!("the server that owns the events: {error}");
    IngestError::Store(StoreError::Backend(reason))
}

#[allow(clippy::needless_pass_by_value, reason = "it stands in map_err")]
fn refused(error: anyhow::Error) -> IngestError {
    IngestError::Refused(crate::failure::with_causes(&error))
}
