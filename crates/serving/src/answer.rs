//! An answer: the plan's columns, in its order, over what was fetched.
//!
//! Rows of the store stay as they are until somebody wants them in a form:
//! whoever writes answers to a wire reads them where they lie, everybody else
//! has arrays ([`Answer::into_response`]).

use std::any::Any;
use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::ArrayRef;
use granary_model::{FeatureStatus, UtcMicros};
use granary_store::RowColumn;

use crate::error::ServingError;
use crate::fetch::{Columns, Fetched};
use crate::plan::{PlannedColumn, ReadPlan};
use crate::read::{AsOf, FeatureColumn, ReadResponse, ViewAsOf};

/// What a read found.
#[derive(Debug, Clone)]
pub struct Answer {
    pub(crate) plan: Arc<ReadPlan>,
    pub(crate) fetched: Vec<Fetched>,
    /// The time of the read.
    pub as_of: UtcMicros,
    pub entities: usize,
    /// Whether features are named `view__feature`.
    pub full_names: bool,
}

/// One feature for all entities.
#[derive(Debug, Clone, Copy)]
pub struct AnswerColumn<'a> {
    pub planned: &'a PlannedColumn,
    pub values: ColumnValues<'a>,
    pub as_of: &'a AsOf,
    columns: &'a Columns,
}

impl<'a> AnswerColumn<'a> {
    /// Of each entity's row, of timestamped views.
    pub fn event_times(&self) -> Option<Cow<'a, [Option<UtcMicros>]>> {
        match self.columns {
            Columns::Rows(rows) => rows.event_times().map(Cow::Owned),
            Columns::Arrays(arrays) => arrays.event_times.as_deref().map(Cow::Borrowed),
        }
    }
}

/// The values of a column and their statuses.
#[derive(Debug, Clone, Copy)]
pub enum ColumnValues<'a> {
    Rows(RowColumn<'a>),
    Array {
        values: &'a ArrayRef,
        statuses: &'a [FeatureStatus],
    },
}

impl Answer {
    /// The catalog snapshot that answered.
    pub fn snapshot(&self) -> u64 {
        self.plan.snapshot
    }

    /// How many columns there are.
    pub fn width(&self) -> usize {
        self.plan.columns.len()
    }

    /// In the order of the service's SELECT or of the request's list.
    pub fn columns(&self) -> impl ExactSizeIterator<Item = AnswerColumn<'_>> {
        self.plan.columns.iter().map(|planned| {
            let Fetched { columns, as_of } = &self.fetched[planned.fetch];
            let at = planned.position;
            let values = match columns {
                Columns::Rows(rows) => ColumnValues::Rows(rows.column(at)),
                Columns::Arrays(arrays) => ColumnValues::Array {
                    values: &arrays.values[at],
                    statuses: &arrays.statuses[at],
                },
            };
            AnswerColumn {
                planned,
                values,
                as_of,
                columns,
            }
        })
    }

    /// Of every view that is not live.
    pub fn views(&self) -> impl ExactSizeIterator<Item = ViewAsOf> {
        let views = self.plan.views.iter();
        views.map(|(alias, fetch)| ViewAsOf {
            alias: Arc::clone(alias),
            as_of: self.fetched[*fetch].as_of.clone(),
        })
    }

    /// What is made once for all answers of this one's plan; `None` where
    /// something of another type was.
    pub fn kept<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Option<&T> {
        self.plan.kept.get_or_make(make)
    }

    /// As arrays. Fails for a value that is not what its type says.
    pub fn into_response(self) -> Result<ReadResponse, ServingError> {
        let views = self.views().collect();
        let mut fetched = Vec::with_capacity(self.fetched.len());
        for one in self.fetched {
            let as_of = one.as_of.clone();
            let mut arrays = one.into_arrays()?;
            let times = arrays.event_times.take().map(Arc::new);
            fetched.push((arrays, times, as_of));
        }
        let columns = self.plan.columns.iter().map(|column| {
            let (arrays, event_times, as_of) = &fetched[column.fetch];
            FeatureColumn {
                name: Arc::clone(column.answered_as(self.full_names)),
                view: Arc::clone(&column.view),
                view_version: column.view_version,
                data_type: column.data_type.clone(),
                values: Arc::clone(&arrays.values[column.position]),
                statuses: Arc::clone(&arrays.statuses[column.position]),
                event_times: event_times.clone(),
                as_of: as_of.clone(),
            }
        });
        Ok(ReadResponse {
            snapshot: self.plan.snapshot,
            as_of: self.as_of,
            entities: self.entities,
            features: columns.collect(),
            views,
        })
    }
}
