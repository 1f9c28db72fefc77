//! Values that a service answered, a row a read of an entity.

use arrow::array::{Array, ArrayRef, RecordBatch, UInt32Array};
use arrow::compute::{concat, concat_batches, take, take_record_batch};
use granary_model::{FeatureStatus, UtcMicros};

use super::wrong;
use crate::error::ServingError;
use crate::read::{AsOf, ReadResponse};

/// What was served at one snapshot of the catalog.
#[derive(Debug, Clone)]
pub struct Served {
    pub snapshot: u64,
    /// Keys and inputs by name, each in exactly its type.
    pub request: RecordBatch,
    pub read_at: Vec<UtcMicros>,
    /// All of the service, in its order.
    pub features: Vec<ServedFeature>,
    /// What each view that is not live was as of, by its alias.
    pub views: Vec<(String, Vec<UtcMicros>)>,
}

#[derive(Debug, Clone)]
pub struct ServedFeature {
    pub name: String,
    /// NULL where the status is not `Present`.
    pub values: ArrayRef,
    pub statuses: Vec<FeatureStatus>,
    pub as_of: Vec<UtcMicros>,
    /// Whether it can still be told what it had to be; `None`: of every row.
    pub comparable: Option<Vec<bool>>,
}

impl ServedFeature {
    pub(super) fn is_comparable(&self, row: usize) -> bool {
        self.comparable.as_ref().is_none_or(|rows| rows[row])
    }
}

impl Served {
    /// The answer to a request.
    pub fn of(request: RecordBatch, response: ReadResponse) -> Self {
        let entities = response.entities;
        let features = response.features.into_iter().map(|feature| ServedFeature {
            name: feature.name.to_string(),
            as_of: of_rows(&feature.as_of, entities),
            values: feature.values,
            statuses: feature.statuses.to_vec(),
            comparable: None,
        });
        let views = response.views.iter();
        let views = views.map(|view| (view.alias.to_string(), of_rows(&view.as_of, entities)));
        Self {
            snapshot: response.snapshot,
            request,
            read_at: vec![response.as_of; entities],
            features: features.collect(),
            views: views.collect(),
        }
    }

    pub fn rows(&self) -> usize {
        self.read_at.len()
    }

    pub(super) fn place(&self, feature: &str) -> Option<usize> {
        self.features.iter().position(|known| known.name == feature)
    }

    /// Puts rows of the same service and snapshot behind these.
    pub fn append(&mut self, other: Self) -> Result<(), ServingError> {
        let both = [&self.request, &other.request];
        self.request = concat_batches(&self.request.schema(), both).map_err(|e| wrong(&e))?;
        self.read_at.extend(other.read_at);
        for (feature, more) in self.features.iter_mut().zip(other.features) {
            let values: [&dyn Array; 2] = [&feature.values, &more.values];
            feature.values = concat(&values).map_err(|e| wrong(&e))?;
            feature.statuses.extend(more.statuses);
            feature.as_of.extend(more.as_of);
            // What is read just now is.
            feature.comparable = None;
        }
        for ((_, times), (_, more)) in self.views.iter_mut().zip(other.views) {
            times.extend(more);
        }
        Ok(())
    }

    pub(super) fn take(&self, rows: &UInt32Array) -> Result<Self, ServingError> {
        let picked = |times: &[UtcMicros]| -> Vec<UtcMicros> {
            rows.values()
                .iter()
                .map(|row| times[*row as usize])
                .collect()
        };
        let features = self.features.iter().map(|feature| {
            let statuses = rows.values().iter();
            Ok(ServedFeature {
                name: feature.name.clone(),
                values: take(&feature.values, rows, None)?,
                statuses: statuses
                    .map(|row| feature.statuses[*row as usize])
                    .collect(),
                as_of: picked(&feature.as_of),
                comparable: { feature.comparable.as_ref() }.map(|known| {
                    rows.values()
                        .iter()
                        .map(|row| known[*row as usize])
                        .collect()
                }),
            })
        });
        let features: Result<Vec<_>, arrow::error::ArrowError> = features.collect();
        let views = self.views.iter();
        Ok(Self {
            snapshot: self.snapshot,
            request: take_record_batch(&self.request, rows).map_err(|e| wrong(&e))?,
            read_at: picked(&self.read_at),
            features: features.map_err(|e| wrong(&e))?,
            views: views
                .map(|(alias, times)| (alias.clone(), picked(times)))
                .collect(),
        })
    }
}

fn of_rows(as_of: &AsOf, rows: usize) -> Vec<UtcMicros> {
    (0..rows).map(|row| as_of.of_row(row)).collect()
}
