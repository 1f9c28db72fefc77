//! Reads that a server logged, to be compared once more.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use futures::TryStreamExt;
use granary_catalog::Snapshot;
use granary_engine::{Engine, Lost, ReadLog};
use granary_serving::verify::{AskedFeature, LOGGED_READ_AT, LoggedService, Sampler, Served};

use super::Args;
use crate::events::{ProjectEvents, known_lost};

/// A sample of the logged reads of a service as it is now.
pub async fn served(
    engine: &Engine,
    snapshot: &Snapshot,
    args: &Args,
) -> anyhow::Result<Vec<Served>> {
    let service = &args.service;
    let logged = LoggedService::of(engine, snapshot, service).await?;
    let log = ReadLog::of(engine, service, Arc::clone(logged.schema()))?;
    let none = || {
        anyhow!(
            "{service}: no reads of it as it is now are logged; `granary serve --log-reads 0.01` logs some"
        )
    };
    let rows = log.read((LOGGED_READ_AT, args.since)).await?;
    let mut rows = rows.ok_or_else(none)?;
    let keys = logged.keys().to_vec();
    let sampler = Sampler::of_rows(Arc::clone(logged.schema()), keys, args.sample);
    let mut sampler = sampler.with_seed(args.seed);
    while let Some(batch) = rows.try_next().await? {
        sampler.offer(&batch)?;
    }
    let sample = sampler.finish()?;
    match sample.num_rows() {
        0 => Err(none()),
        _ => Ok(logged.served(&sample)?),
    }
}

/// Marks what cannot be told any more: values of live views over streams that
/// lost the events that they may have been made of.
pub async fn leave_out_what_is_gone(
    events: &ProjectEvents,
    features: &[AskedFeature],
    served: &mut [Served],
) -> anyhow::Result<()> {
    if features.iter().all(|feature| feature.live.is_empty()) {
        return Ok(());
    }
    let statuses = events.statuses().await?.into_iter();
    let lost = statuses.filter_map(|status| Some((status.name, known_lost(status.lost?))));
    let lost: BTreeMap<String, Lost> = lost.collect();
    for served in served {
        for (asked, feature) in features.iter().zip(&mut served.features) {
            if asked.live.is_empty() {
                continue;
            }
            let read_at = served.read_at.iter();
            let comparable = read_at.map(|t| {
                let mut live = asked.live.iter();
                live.all(|live| live.is_computable(&lost, *t))
            });
            feature.comparable = Some(comparable.collect());
        }
    }
    Ok(())
}
