//! Views of a training set that are as of times of their own.
//!
//! A read at t is answered from what runs wrote, as of each run's T and of what
//! was known when it was made. A training set that is to say what such a read had
//! to answer takes those times for the views that were read from runs, and t for
//! all others. Ages (TTL) are counted up to t, as the read counts them.

use std::collections::BTreeMap;

use datafusion::execution::SessionState;
use datafusion::logical_expr::{lit, when};
use granary_model::UtcMicros;

use super::chain::{Chain, T, WORKING, Wanted, failed, name};
use crate::engine::{AsOf, Joins};
use crate::error::EngineError;
use crate::offline::read::time_scalar;

/// When a view is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moment {
    /// As of this time; `None`: of the row's t.
    pub as_of: Option<UtcMicros>,
    /// Without what was created after this time, runs that were committed later
    /// among it; `None`: as the options of the training set say.
    pub known_at: Option<UtcMicros>,
}

/// By the alias that FROM gives a view.
pub type Moments = BTreeMap<String, Moment>;

impl<'a> Chain<'a> {
    /// The column with the time that a view is as of, which is added where it is
    /// not t.
    pub(super) fn time_of(&mut self, wanted: &Wanted<'a>) -> Result<String, EngineError> {
        let Some(as_of) = wanted.moment.as_of else {
            return Ok(T.to_owned());
        };
        let column = format!("{WORKING}t of {}", wanted.alias);
        let moment = when(name(T).is_not_null(), lit(time_scalar(as_of))).end();
        let moment = moment.map_err(failed(&wanted.view.name))?;
        self.add(vec![(column.clone(), moment)])?;
        Ok(column)
    }

    /// Whether what was created after the very time that a view is as of is left out.
    pub(super) fn known_at_its_time(&self, wanted: &Wanted<'_>) -> bool {
        self.request.options.known_at_the_time && wanted.moment.known_at.is_none()
    }

    /// After which time nothing may have been created, of a view as of t.
    pub(super) fn known_by(&self, wanted: &Wanted<'_>, t: UtcMicros) -> Option<UtcMicros> {
        let at_its_time = self.known_at_its_time(wanted).then_some(t);
        wanted.moment.known_at.or(at_its_time)
    }

    /// Where a view's query is planned: all relations, or of each what was known
    /// at the view's moment.
    pub(super) async fn state_of(&self, wanted: &Wanted<'_>) -> Result<SessionState, EngineError> {
        let Some(known_at) = wanted.moment.known_at else {
            return Ok(self.state.clone());
        };
        let cut = AsOf {
            t: wanted.moment.as_of.unwrap_or(known_at),
            strictly_before: false,
            known_at: Some(known_at),
        };
        let session = self
            .engine
            .session_with(self.definitions, Some(cut), Joins::Spilling);
        Ok(session.await?.state())
    }
}
