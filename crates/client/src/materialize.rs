//! Starting materialisations and following them.

use futures::StreamExt;
use futures::stream::BoxStream;
use granary_model::UtcMicros;
use granary_proto as pb;
use granary_proto::materialize_event::Stage;
use tonic::Streaming;

use crate::client::Client;
use crate::error::ClientError;

#[derive(Debug, Clone, Default)]
pub struct MaterializeOptions {
    /// Empty: every view that is materialised.
    pub views: Vec<String>,
    /// Default: now.
    pub as_of: Option<UtcMicros>,
    pub force: bool,
    pub current_state: bool,
    /// How far before the watermark late rows are looked for.
    pub lookback_micros: Option<i64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MaterializeStage {
    Queued,
    Computing {
        rows: u64,
    },
    Committed {
        rows: u64,
    },
    Publishing {
        rows: u64,
    },
    Done {
        rows: u64,
    },
    Skipped {
        reason: String,
    },
    Failed {
        message: String,
    },
    /// Of the whole materialisation, always last; empty where all went well.
    Finished {
        message: String,
    },
    /// Of a server that is newer than this client.
    Other,
}

/// How far one run is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MaterializeEvent {
    /// With which it can be followed again.
    pub id: String,
    /// Empty for `Finished`.
    pub view: String,
    /// T of the run.
    pub as_of: UtcMicros,
    pub stage: MaterializeStage,
}

fn decode(event: pb::MaterializeEvent) -> MaterializeEvent {
    let rows = event.rows;
    let stage = event.stage();
    let message = event.message;
    MaterializeEvent {
        id: event.id,
        view: event.view,
        as_of: UtcMicros(event.as_of),
        stage: match stage {
            Stage::Unspecified => MaterializeStage::Other,
            Stage::Queued => MaterializeStage::Queued,
            Stage::Computing => MaterializeStage::Computing { rows },
            Stage::Committed => MaterializeStage::Committed { rows },
            Stage::Publishing => MaterializeStage::Publishing { rows },
            Stage::Done => MaterializeStage::Done { rows },
            Stage::Skipped => MaterializeStage::Skipped { reason: message },
            Stage::Failed => MaterializeStage::Failed { message },
            Stage::Finished => MaterializeStage::Finished { message },
        },
    }
}

/// Ends after `Finished`, or with an error of the connection.
pub type MaterializeEvents = BoxStream<'static, Result<MaterializeEvent, ClientError>>;

fn events(stream: Streaming<pb::MaterializeEvent>) -> MaterializeEvents {
    stream.map(|event| Ok(decode(event?))).boxed()
}

impl Client {
    /// Starts a materialisation and follows it to its end. It goes on if this
    /// client goes away.
    pub async fn materialize(
        &self,
        options: MaterializeOptions,
    ) -> Result<MaterializeEvents, ClientError> {
        let request = pb::MaterializeRequest {
            views: options.views,
            as_of: options.as_of.map(|t| t.0),
            force: options.force,
            current_state: options.current_state,
            lookback_micros: options.lookback_micros,
        };
        let mut client = self.materialization();
        let answer = client.materialize(self.named(request)).await?;
        Ok(events(answer.into_inner()))
    }

    /// Follows a materialisation that is under way, or ended lately.
    pub async fn follow_materialization(&self, id: &str) -> Result<MaterializeEvents, ClientError> {
        let request = pb::FollowMaterializationRequest { id: id.to_owned() };
        let mut client = self.materialization();
        let answer = client.follow_materialization(self.named(request)).await?;
        Ok(events(answer.into_inner()))
    }
}
