//! What came of a comparison, feature by feature.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use granary_model::{FeatureStatus, UtcMicros};

use super::compare::{difference, equal, same_status};
use super::served::{Served, ServedFeature};
use super::wrong;
use crate::error::ServingError;

/// Differences of a feature that are shown.
const EXAMPLES: usize = 3;

/// Counts of all that was compared.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Those that are compared, in the order of the service.
    pub features: Vec<FeatureReport>,
}

#[derive(Debug, Clone, Default)]
pub struct FeatureReport {
    pub name: String,
    pub compared: u64,
    pub equal: u64,
    /// Of those compared, the ones that were served a value.
    pub present: u64,
    pub different: u64,
    /// Rows of which it cannot be told any more what it had to be.
    pub left_out: u64,
    /// The greatest distance between two numbers.
    pub worst: Option<f64>,
    /// The first few.
    pub examples: Vec<Example>,
}

/// A value that is not what the training set says.
#[derive(Debug, Clone)]
pub struct Example {
    /// Keys and inputs, one row.
    pub request: RecordBatch,
    pub read_at: UtcMicros,
    /// Of the value.
    pub as_of: UtcMicros,
    /// One value each.
    pub online: (FeatureStatus, ArrayRef),
    pub training: (String, ArrayRef),
}

impl Report {
    /// Of features by name, nothing compared yet.
    pub fn of<'n>(features: impl IntoIterator<Item = &'n str>) -> Self {
        let features = features.into_iter().map(|name| FeatureReport {
            name: name.to_owned(),
            ..FeatureReport::default()
        });
        Self {
            features: features.collect(),
        }
    }

    pub fn different(&self) -> u64 {
        self.features.iter().map(|feature| feature.different).sum()
    }

    pub fn compared(&self) -> u64 {
        self.features.iter().map(|feature| feature.compared).sum()
    }

    /// Compares each feature that is reported with its value and status in
    /// `trained`. Gives the rows in which one differs, which are not counted
    /// unless there is an `other` training set: equal is what equals either.
    pub(super) fn compare(
        &mut self,
        served: &Served,
        trained: &RecordBatch,
        other: Option<&RecordBatch>,
    ) -> Result<Vec<u32>, ServingError> {
        let mut columns = Vec::new();
        for report in &self.features {
            let Some(place) = served.place(&report.name) else {
                columns.push(None);
                continue;
            };
            let then = Trained::of(trained, place)?;
            let now = other.map(|other| Trained::of(other, place)).transpose()?;
            columns.push(Some((&served.features[place], then, now)));
        }
        let mut different = Vec::new();
        for row in 0..served.rows() {
            let is_equal = |(online, then, now): &(&ServedFeature, Trained, Option<Trained>)| {
                !online.is_comparable(row)
                    || then.equals(online, row)
                    || now.as_ref().is_some_and(|now| now.equals(online, row))
            };
            if other.is_none() && !columns.iter().flatten().all(is_equal) {
                different.push(row as u32);
                continue;
            }
            for (report, compared) in self.features.iter_mut().zip(&columns) {
                if let Some(compared) = compared {
                    let (online, then, _) = compared;
                    report.count(served, (online, then, row), is_equal(compared));
                }
            }
        }
        Ok(different)
    }
}

impl FeatureReport {
    fn count(
        &mut self,
        served: &Served,
        (online, trained, row): (&ServedFeature, &Trained, usize),
        is_equal: bool,
    ) {
        if !online.is_comparable(row) {
            self.left_out += 1;
            return;
        }
        self.compared += 1;
        self.present += u64::from(online.statuses[row] == FeatureStatus::Present);
        if is_equal {
            self.equal += 1;
            return;
        }
        self.different += 1;
        let far = difference((&online.values, row), (&trained.values, row));
        if let Some(far) = far {
            self.worst = Some(self.worst.map_or(far, |worst| worst.max(far)));
        }
        if self.examples.len() < EXAMPLES {
            self.examples.push(Example {
                request: served.request.slice(row, 1),
                read_at: served.read_at[row],
                as_of: online.as_of[row],
                online: (online.statuses[row], online.values.slice(row, 1)),
                training: (
                    trained.statuses.value(row).to_owned(),
                    trained.values.slice(row, 1),
                ),
            });
        }
    }
}

/// A feature in a training set.
struct Trained {
    values: ArrayRef,
    statuses: StringArray,
}

impl Trained {
    /// Each feature has a value and, behind it, a status.
    fn of(trained: &RecordBatch, place: usize) -> Result<Self, ServingError> {
        let statuses = cast(trained.column(2 * place + 1), &DataType::Utf8);
        Ok(Self {
            values: Arc::clone(trained.column(2 * place)),
            statuses: statuses.map_err(|e| wrong(&e))?.as_string().clone(),
        })
    }

    fn equals(&self, online: &ServedFeature, row: usize) -> bool {
        same_status(online.statuses[row], self.statuses.value(row))
            && equal((&online.values, row), (&self.values, row))
    }
}
