//! Reads that a server logged, to be compared once more.

use std::sync::Arc;

use anyhow::anyhow;
use futures::TryStreamExt;
use granary_catalog::Snapshot;
use granary_engine::{Engine, ReadLog};
use granary_model::UtcMicros;
use granary_serving::verify::{
    AskedFeature, AskedLive, LOGGED_READ_AT, LoggedService, Sampler, Served,
};

use super::Args;
use crate::events::ProjectEvents;

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
/// have no HISTORY, where events that they were made of may be gone.
pub async fn leave_out_what_is_gone(
    (snapshot, events): (&Snapshot, &ProjectEvents),
    features: &[AskedFeature],
    served: &mut [Served],
) -> anyhow::Result<()> {
    let streams = &snapshot.definitions.streams;
    let has_history = |name: &str| streams.get(name).is_some_and(|s| s.history.is_some());
    let mut read = features.iter().flat_map(|feature| &feature.live);
    if read.all(|live| live.streams().all(has_history)) {
        return Ok(());
    }
    let statuses = events.statuses().await?;
    let is_whole = |live: &AskedLive, t: UtcMicros| -> anyhow::Result<bool> {
        let needs = live.needs(t)?;
        let mut kept = statuses.iter().filter(|state| {
            !has_history(&state.name) && live.streams().any(|name| name == state.name)
        });
        Ok(kept.all(|state| needs.are_kept(state.trimmed_before, state.newest_event_time)))
    };
    for served in served {
        for (asked, feature) in features.iter().zip(&mut served.features) {
            if asked.live.is_empty() {
                continue;
            }
            let mut comparable = Vec::with_capacity(served.read_at.len());
            for t in &served.read_at {
                let mut whole = true;
                for live in &asked.live {
                    whole &= is_whole(live, *t)?;
                }
                comparable.push(whole);
            }
            feature.comparable = Some(comparable);
        }
    }
    Ok(())
}
