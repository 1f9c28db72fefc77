//! The service `Features`: reads, one by one and as a stream.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::BoxStream;
use granary_model::{Caller, ErrorKind};
use granary_proto as pb;
use granary_proto::features_server::Features;
use granary_proto::stream_features_response::Answer;
use granary_serving::Reader;
use tonic::{Request, Response, Status, Streaming};

use crate::items::Items;
use crate::read_log::ReadLogger;
use crate::status::{IntoStatus, status};
use crate::wire;

#[derive(Debug, Clone)]
pub(crate) struct FeaturesRpc {
    pub reader: Arc<Reader>,
    pub items: Items,
    /// Where answers are logged, if they are.
    pub log: Option<ReadLogger>,
}

#[tonic::async_trait]
impl Features for FeaturesRpc {
    async fn get_features(
        &self,
        request: Request<pb::GetFeaturesRequest>,
    ) -> Result<Response<pb::GetFeaturesResponse>, Status> {
        let caller = caller(&request)?;
        let answer = self.read(request.into_inner(), caller).await?;
        Ok(Response::new(answer))
    }

    type StreamFeaturesStream = BoxStream<'static, Result<pb::StreamFeaturesResponse, Status>>;

    async fn stream_features(
        &self,
        request: Request<Streaming<pb::GetFeaturesRequest>>,
    ) -> Result<Response<Self::StreamFeaturesStream>, Status> {
        let caller = caller(&request)?;
        let open = self.items.open()?;
        let rpc = self.clone();
        let answer = move |request| rpc.clone().answer(request, caller.clone());
        let answers = self.items.clone().answers(request.into_inner(), answer);
        let answers = answers.inspect(move |_| {
            let _held = &open;
        });
        Ok(Response::new(answers.boxed()))
    }
}

impl FeaturesRpc {
    async fn read(
        &self,
        request: pb::GetFeaturesRequest,
        caller: Caller,
    ) -> Result<pb::GetFeaturesResponse, Status> {
        let (read, form) = wire::decode(request, caller)?;
        let logged = { self.log.as_ref() }.and_then(|log| Some((log, log.keep(&read)?)));
        let response = self
            .reader
            .read(read)
            .await
            .map_err(IntoStatus::into_status)?;
        self.items.metrics.read(&response);
        if let Some((log, read)) = logged {
            log.offer(read, &response);
        }
        wire::encode(&response, &form)
    }

    async fn answer(
        self,
        request: pb::GetFeaturesRequest,
        caller: Caller,
    ) -> pb::StreamFeaturesResponse {
        let answer = match self.items.item(self.read(request, caller)).await {
            Ok(response) => Answer::Response(response),
            Err(error) => Answer::Error(error),
        };
        pb::StreamFeaturesResponse {
            answer: Some(answer),
        }
    }
}

/// Who asks, as the edge made it.
pub(crate) fn caller<T>(request: &Request<T>) -> Result<Caller, Status> {
    request
        .extensions()
        .get::<Caller>()
        .cloned()
        .ok_or_else(|| {
            let message = "the request did not come through the edge";
            status(ErrorKind::Internal, message.to_owned())
        })
}
