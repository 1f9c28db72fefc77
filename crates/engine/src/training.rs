//! Training sets: the features of a service as of each row of a spine.
//!
//! A training set is one physical plan: the spine, and behind it an operator
//! for each view ([`crate::asof`]), which puts the view's values beside the
//! spine's rows. Keys that come from features make it a chain, in which on-demand
//! views are projections ([`crate::expression`]). Timestamped and
//! windowed views are computed from their sources, uncut, since the operators
//! look at nothing after t; snapshot views are read from their runs. A view
//! whose rows may change with what comes later is computed once for each
//! distinct t instead ([`availability`] tells).
//!
//! Nothing here knows of the online store or of how a caller writes the rows.

mod availability;
mod chain;
mod computed;
mod each_time;
mod elements;
pub mod explain;
mod latest;
pub(crate) mod location;
mod moment;
pub mod output;
mod reach;
mod report;
mod requests;
mod rows_exec;
mod runs;
pub(crate) mod spine;
mod spool;
mod time;
pub(crate) mod unchanged;
mod views;

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use granary_model::Definitions;
use granary_model::definitions::{BoundView, ServiceFeature};
use tracing::instrument;

use crate::engine::Engine;
use crate::error::EngineError;
use chain::{Asked, Chain};
use reach::Reach;
use report::Counters;
use unchanged::{ScannedFiles, unchanged};

pub use each_time::TIMES_MAX;
pub use moment::{Moment, Moments};
pub use report::{TrainingReport, WithoutRun};
pub use requests::SpineEvents;
pub use spine::Spine;
pub use spool::Spool;

/// What to compute.
#[derive(Debug, Clone)]
pub struct TrainingRequest {
    pub spine: Spine,
    /// The spine's column with t.
    pub time: String,
    pub from: Vec<BoundView>,
    pub features: Vec<ServiceFeature>,
    pub options: TrainingOptions,
    /// Rows of the spine that count as events, each for itself. With any, other
    /// events are taken strictly before t.
    pub request_events: Vec<SpineEvents>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TrainingOptions {
    /// Event time < t instead of <= t.
    pub strictly_before: bool,
    /// Leaves out what was created after t.
    pub known_at_the_time: bool,
    /// Values as of the refresh that a service would have answered from at t.
    pub as_served: bool,
    /// A column more a feature, VARCHAR: its status.
    pub statuses: bool,
    /// `view__feature` instead of the short names.
    pub full_names: bool,
}

/// A training set that was planned and not computed.
#[derive(Debug)]
pub struct TrainingSet {
    plan: Arc<dyn ExecutionPlan>,
    /// Columns of the plan that belong to the training set; counters follow.
    columns: usize,
    counters: Arc<Counters>,
    notes: Vec<String>,
    /// As they were when the plan was made.
    files: ScannedFiles,
    context: Arc<TaskContext>,
    reach: Reach,
}

impl Engine {
    /// Plans the training set.
    ///
    /// # Errors
    ///
    /// `EngineError::Refused` for a spine or request that does not fit (a key
    /// or time that is missing or of another type, names that clash), what the
    /// sources and the spine fail with otherwise.
    pub async fn training_set(
        &self,
        definitions: &Definitions,
        request: TrainingRequest,
    ) -> Result<TrainingSet, EngineError> {
        self.planned(definitions, request, (&Moments::new(), true))
            .await
    }

    /// [`Self::training_set`] in which some views are as of times of their own:
    /// what a read at t was answered from. Whoever knows those knows which rows need
    /// events that are gone: they are told by a note.
    #[instrument(skip_all, err)]
    pub async fn training_set_at(
        &self,
        definitions: &Definitions,
        request: TrainingRequest,
        moments: &Moments,
    ) -> Result<TrainingSet, EngineError> {
        self.planned(definitions, request, (moments, false)).await
    }

    async fn planned(
        &self,
        definitions: &Definitions,
        mut request: TrainingRequest,
        (moments, refuses): (&Moments, bool),
    ) -> Result<TrainingSet, EngineError> {
        request.options.strictly_before |= !request.request_events.is_empty();
        if request.options.as_served && request.options.strictly_before {
            return Err(EngineError::Refused(
                "a service answers from runs, which see what happened at their time: leave out \
                 either what is served or what is strictly before"
                    .into(),
            ));
        }
        let expanded = self.expand(definitions, &request.from, &request.features, false);
        let expanded = expanded.await?;
        let asked = Asked {
            request: &request,
            moments,
            refuses,
        };
        let mut chain = Chain::begin(self, definitions, asked, &expanded).await?;
        chain.join_views().await?;
        chain.check_requests()?;
        chain.finish()
    }
}

impl TrainingSet {
    /// The spine's columns as they were, then the features.
    pub fn schema(&self) -> SchemaRef {
        let all = self.plan.schema();
        let fields = all.fields()[..self.columns].to_vec();
        Arc::new(arrow::datatypes::Schema::new_with_metadata(
            fields,
            all.metadata().clone(),
        ))
    }

    /// What should be known of the values, a sentence each: sources that are
    /// read as they are now, snapshot views that were never run, views that are
    /// computed for each time by itself; once the rows were read, streams that
    /// lost events.
    pub fn notes(&self) -> Vec<String> {
        let mut notes = self.notes.clone();
        notes.extend(self.counters.notes());
        notes
    }

    /// For EXPLAIN, and its metrics once the rows were read.
    pub fn plan(&self) -> &Arc<dyn ExecutionPlan> {
        &self.plan
    }

    /// The rows, in the order of the spine. One execution a training set: the
    /// report counts its rows. Ends with `EngineError::Events` (OUT_OF_RANGE)
    /// where rows need events that a stream lost.
    pub fn execute(&self) -> Result<SendableRecordBatchStream, EngineError> {
        let failed = |e| EngineError::from_query("training set", e);
        let rows = self.plan.execute(0, self.context.clone()).map_err(failed)?;
        let rows = unchanged(rows, self.files.clone(), self.context.runtime_env());
        let rows = self.counters.count(rows, self.schema());
        Ok(self.reach.check(rows, &self.counters, &self.context))
    }

    /// What the rows read so far were like.
    pub fn report(&self) -> TrainingReport {
        self.counters.report()
    }
}
