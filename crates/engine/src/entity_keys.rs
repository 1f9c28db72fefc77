//! The keys that the sources of a view have: whom there is something to ask of.

use datafusion::logical_expr::{Expr, LogicalPlanBuilder, cast, lit};
use datafusion::prelude::{DataFrame, ident};
use futures::{StreamExt, TryStreamExt};
use granary_model::{Definitions, FeatureType, FeatureView, UtcMicros, ViewKind};
use tracing::instrument;

use crate::engine::{Engine, plan_sql};
use crate::error::EngineError;
use crate::offline::read::time_scalar;
use crate::stream_table::EventBatches;
use crate::windowed::WindowedQuery;

impl Engine {
    /// The view's key columns of everything that it is computed from now; of a
    /// view with an event time perhaps of what has one from `since` on. A key may
    /// come several times, and with NULL in it.
    #[instrument(skip_all, fields(view = view.name), err)]
    pub async fn keys_in_sources(
        &self,
        definitions: &Definitions,
        view: &FeatureView,
        since: Option<UtcMicros>,
    ) -> Result<EventBatches, EngineError> {
        let failed = |error| EngineError::from_query(&view.name, error);
        let state = self.session(definitions, None).await?.state();
        let (rows, keys, event_time) = if view.kind == ViewKind::Windowed {
            let query = WindowedQuery::of(&state, view).await.map_err(failed)?;
            (query.events, query.keys, Some(query.event_time))
        } else {
            let rows = plan_sql(&state, &view.query).await.map_err(failed)?;
            let keys = view.keys.iter().map(|key| ident(&key.name));
            (rows, keys.collect(), view.event_time.as_deref().map(ident))
        };
        let keys = keys.into_iter().zip(&view.keys);
        let keys = keys.map(|(key, column)| {
            cast(key.unalias(), column.data_type.to_arrow()).alias(&column.name)
        });
        let keys: Vec<Expr> = keys.collect();
        let recent = event_time.zip(since).map(|(event_time, since)| {
            let event_time = cast(event_time.unalias(), FeatureType::Timestamp.to_arrow());
            event_time.gt_eq(lit(time_scalar(since)))
        });
        let rows = LogicalPlanBuilder::from(rows);
        let rows = match recent {
            Some(recent) => rows.filter(recent).map_err(failed)?,
            None => rows,
        };
        let plan = rows.project(keys).and_then(LogicalPlanBuilder::build);
        let frame = DataFrame::new(state, plan.map_err(failed)?);
        let batches = frame.execute_stream().await.map_err(failed)?;
        let name = view.name.clone();
        let batches = batches.map_err(move |error| EngineError::from_query(&name, error));
        Ok(batches.boxed())
    }
}
