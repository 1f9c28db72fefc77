//! The service `Materialization`: start runs and follow them.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use granary_ingest::{MaterializeRequest, Stage};
use granary_model::{ErrorKind, Interval, UtcMicros};
use granary_proto as pb;
use granary_proto::materialization_server::Materialization;
use granary_proto::materialize_event::Stage as WireStage;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use crate::items::OpenStream;
use crate::metrics::Metrics;
use crate::runs::{Ending, Materializations, Told, Tracked};
use crate::settings::ServerSettings;
use crate::status::status;

#[derive(Debug)]
pub(crate) struct MaterializationRpc {
    pub runs: Arc<Materializations>,
    pub metrics: Arc<Metrics>,
    pub settings: Arc<ServerSettings>,
    /// One an open stream.
    pub streams: Arc<Semaphore>,
    /// Told when the server shuts down: followers are let go.
    pub closing: CancellationToken,
}

type Events = BoxStream<'static, Result<pb::MaterializeEvent, Status>>;

#[tonic::async_trait]
impl Materialization for MaterializationRpc {
    type MaterializeStream = Events;
    type FollowMaterializationStream = Events;

    async fn materialize(
        &self,
        request: Request<pb::MaterializeRequest>,
    ) -> Result<Response<Events>, Status> {
        let open = self.open()?;
        let started = self
            .runs
            .start(decode(request.into_inner()))
            .ok_or_else(|| {
                let bound = self.settings.concurrent_materializations_max;
                let message =
                    format!("{bound} materialisations are under way; follow them or wait");
                status(ErrorKind::ResourceExhausted, message)
            })?;
        if let Some((kind, message)) = started.refused().await {
            return Err(status(kind, message));
        }
        Ok(Response::new(self.follow(started, open)))
    }

    async fn follow_materialization(
        &self,
        request: Request<pb::FollowMaterializationRequest>,
    ) -> Result<Response<Events>, Status> {
        let open = self.open()?;
        let id = request.into_inner().id;
        let found = self.runs.find(&id).ok_or_else(|| {
            let message = format!("no materialisation {id:?} is under way or remembered");
            status(ErrorKind::NotFound, message)
        })?;
        Ok(Response::new(self.follow(found, open)))
    }
}

impl MaterializationRpc {
    fn open(&self) -> Result<OpenStream, Status> {
        OpenStream::new(&self.streams, &self.metrics, &self.settings)
    }

    fn follow(&self, run: Arc<Tracked>, open: OpenStream) -> Events {
        let id = run.id.clone();
        let events = run.follow().map(move |told| {
            let _held = &open;
            Ok(encode(&id, told))
        });
        let closing = self.closing.clone();
        events.take_until(closing.cancelled_owned()).boxed()
    }
}

fn decode(request: pb::MaterializeRequest) -> MaterializeRequest {
    MaterializeRequest {
        views: request.views,
        as_of: request.as_of.map(UtcMicros),
        lookback: request.lookback_micros.map(Interval::from_micros),
        force: request.force,
        current_state: request.current_state,
        ..MaterializeRequest::default()
    }
}

fn encode(id: &str, told: Told) -> pb::MaterializeEvent {
    let mut event = pb::MaterializeEvent {
        id: id.to_owned(),
        ..pb::MaterializeEvent::default()
    };
    match told {
        Told::Ended(ending) => {
            event.set_stage(WireStage::Finished);
            event.message = match ending {
                Ending::Finished { failed: 0 } => String::new(),
                Ending::Finished { failed } => format!("{failed} runs failed or were not started"),
                Ending::Refused { message, .. } => message,
            };
        }
        Told::Stage { view, as_of, stage } => {
            let (wire, rows, message) = match stage {
                Stage::Queued => (WireStage::Queued, 0, String::new()),
                Stage::Computing { rows } => (WireStage::Computing, rows, String::new()),
                Stage::Committed { rows } => (WireStage::Committed, rows, String::new()),
                Stage::Publishing { rows } => (WireStage::Publishing, rows, String::new()),
                Stage::Done { rows } => (WireStage::Done, rows, String::new()),
                Stage::Skipped { reason } => (WireStage::Skipped, 0, reason),
                Stage::Failed { message } => (WireStage::Failed, 0, message),
            };
            event.view = view;
            event.as_of = as_of.0;
            event.rows = rows;
            event.message = message;
            event.set_stage(wire);
        }
    }
    event
}
