//! Whether the streams that a training set reads still had the events that its
//! rows need.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt, stream};
use granary_model::{Definitions, ErrorKind, FeatureView, UtcMicros};

use super::chain::Asked;
use super::report::Counters;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::expression::Expanded;
use crate::live::LiveTime;
use crate::stream_table::{Lost, LostEvents};

/// How far back the views of a training set look.
#[derive(Debug, Clone)]
pub(super) struct Reach {
    engine: Engine,
    /// What streams are read by; `None`: there are none.
    definitions: Option<Arc<Definitions>>,
    /// Names of the views that are read, with the time that they are as of where
    /// that is not the rows'.
    views: Vec<(String, Option<UtcMicros>)>,
    /// Whether events at t itself are left out.
    strictly_before: bool,
    /// Whether rows of too few events are an error, or told.
    refuses: bool,
}

impl Reach {
    pub(super) fn of(
        engine: &Engine,
        definitions: &Definitions,
        expanded: &Expanded,
        asked: Asked<'_>,
    ) -> Self {
        let has_streams = !definitions.streams.is_empty();
        let views = expanded.from.iter().map(|bound| {
            let moment = asked.moments.get(&bound.alias);
            (bound.view.clone(), moment.and_then(|moment| moment.as_of))
        });
        Self {
            engine: engine.clone(),
            definitions: has_streams.then(|| Arc::new(definitions.clone())),
            views: views.collect(),
            strictly_before: asked.request.options.strictly_before,
            refuses: asked.refuses,
        }
    }

    /// The rows, and an error behind them where they are of too few events: what
    /// is gone is known once the streams were read.
    pub(super) fn check(
        &self,
        rows: SendableRecordBatchStream,
        counters: &Arc<Counters>,
        context: &Arc<TaskContext>,
    ) -> SendableRecordBatchStream {
        let Some(definitions) = self.definitions.clone() else {
            return rows;
        };
        let (reach, counters, context) = (self.clone(), counters.clone(), context.clone());
        let schema = rows.schema();
        let checked = async move {
            let lost = LostEvents::of(context.session_config());
            let first = counters.report().first_time;
            let first = first.filter(|_| !lost.is_empty())?;
            let lacking = reach.lacking(&definitions, &lost, first).await;
            let refused = match lacking {
                Ok(notes) => {
                    counters.note(notes);
                    None
                }
                Err(error @ EngineError::Events { .. }) if !reach.refuses => {
                    counters.note(vec![error.to_string()]);
                    None
                }
                Err(error) => Some(error),
            };
            refused.map(|error| Err(DataFusionError::External(Box::new(error))))
        };
        let end = stream::once(checked).filter_map(std::future::ready);
        Box::pin(RecordBatchStreamAdapter::new(schema, rows.chain(end)))
    }

    /// Gives what is to be said of streams that something else may read, of which
    /// nobody knows how far back.
    async fn lacking(
        &self,
        definitions: &Definitions,
        lost: &BTreeMap<String, Lost>,
        first: UtcMicros,
    ) -> Result<Vec<String>, EngineError> {
        let needs = self.engine.stream_needs(definitions).await?;
        let live = |view: &str| {
            definitions
                .feature_views
                .get(view)
                .is_some_and(FeatureView::is_live)
        };
        let are_all_live = self.views.iter().all(|(view, _)| live(view));
        let mut unknown = Vec::new();
        for (stream, lost) in lost {
            let needs = needs.get(stream);
            let read = self.views.iter().filter_map(|(view, as_of)| {
                let needs = needs?;
                Some((view, as_of, needs, needs.views.get(view)?))
            });
            let mut is_known = false;
            for (view, as_of, needs, needed) in read {
                is_known = true;
                let first = as_of.map_or(first, |as_of| as_of.min(first));
                let time = LiveTime {
                    as_of: first,
                    strictly_before: self.strictly_before,
                };
                if !lost.spares(needed, time) {
                    let needed = needs.in_words(needed);
                    return Err(EngineError::Events {
                        stream: stream.clone(),
                        kind: ErrorKind::OutOfRange,
                        reason: format!(
                            "{view} needs {needed} at {first}, and events before {} are gone, \
                             since the stream had no HISTORY: leave out the earliest rows",
                            lost.before
                        ),
                    });
                }
            }
            if !is_known || !are_all_live {
                unknown.push(format!(
                    "{stream} has lost events before {}: what reads further back, live views \
                     apart, is of what is left",
                    lost.before
                ));
            }
        }
        Ok(unknown)
    }
}
