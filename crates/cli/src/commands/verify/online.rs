//! Where served values come from: the project in this process, or a server.

use std::sync::Arc;

use anyhow::bail;
use arrow::array::{ArrayRef, RecordBatch};
use granary_client::{AsOf, Client, GetFeatures, ReadAnswer, Target};
use granary_engine::Engine;
use granary_model::{FeatureView, UtcMicros};
use granary_serving::verify::{Served, ServedFeature};
use granary_serving::{ReadRequest, ReadTarget, Reader};

use super::Args;
use crate::commands::get;
use crate::environment;
use crate::events::{self, ProjectEvents};
use crate::project::Project;

#[derive(Debug)]
pub enum Online {
    Project(Box<Reader>),
    Server(Client),
}

impl Online {
    /// A server that is named, or that owns the events of streams; else the project.
    pub async fn of(
        project: &Project,
        (engine, events): (&Engine, &ProjectEvents),
        args: &Args,
    ) -> anyhow::Result<Self> {
        let endpoint = match &args.endpoint {
            Some(endpoint) => Some(endpoint.clone()),
            None => events::serving(project).await?,
        };
        if let Some(endpoint) = endpoint {
            let name = args.client.clone().unwrap_or_else(environment::user);
            let client = Client::connect(&endpoint).await?.with_name(&name);
            return Ok(Self::Server(client));
        }
        let store = project.online_store()?;
        let snapshot = project.snapshot().await?;
        let mut views = snapshot.definitions.feature_views.values();
        let streams = match views.any(FeatureView::is_live) {
            true => events.opened().await?,
            false => Arc::default(),
        };
        let reader = project.reader(engine, &store, &streams).await?;
        Ok(Self::Project(Box::new(reader)))
    }

    /// Reads a service as of now. `asked`: the keys and inputs in one batch.
    pub async fn read(
        &self,
        service: &str,
        (keys, inputs): (RecordBatch, Vec<(String, ArrayRef)>),
        full_names: bool,
        asked: RecordBatch,
    ) -> anyhow::Result<Served> {
        match self {
            Self::Project(reader) => {
                let response = reader.read(ReadRequest {
                    caller: get::every_role(&reader.snapshot().definitions),
                    target: ReadTarget::Service(service.to_owned()),
                    keys,
                    inputs,
                    request_events: Vec::new(),
                    as_of: None,
                    strictly_before: false,
                    full_names,
                });
                Ok(Served::of(asked, response.await?))
            }
            Self::Server(client) => {
                let mut request = GetFeatures::new(Target::Service(service.to_owned()), keys);
                request.inputs = inputs;
                request.full_names = full_names;
                request.as_ofs = true;
                served(asked, client.get_features(&request).await?)
            }
        }
    }
}

fn served(request: RecordBatch, answer: ReadAnswer) -> anyhow::Result<Served> {
    let entities = answer.entities;
    if entities != request.num_rows() {
        bail!(
            "{entities} entities were answered of {}",
            request.num_rows()
        );
    }
    let features = answer.features.into_iter().map(|feature| ServedFeature {
        as_of: of_rows(&feature.as_of, entities, answer.as_of),
        name: feature.name,
        values: feature.values,
        statuses: feature.statuses.to_vec(),
        comparable: None,
    });
    let views = answer.views.into_iter().map(|(alias, as_of)| {
        let times = of_rows(&as_of, entities, answer.as_of);
        (alias, times)
    });
    Ok(Served {
        snapshot: answer.snapshot,
        read_at: vec![answer.as_of; entities],
        features: features.collect(),
        views: views.collect(),
        request,
    })
}

fn of_rows(as_of: &AsOf, entities: usize, read_at: UtcMicros) -> Vec<UtcMicros> {
    match as_of {
        AsOf::Unknown => vec![read_at; entities],
        AsOf::All(t) => vec![*t; entities],
        AsOf::Rows(times) => times.clone(),
    }
}
