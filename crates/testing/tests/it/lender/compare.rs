//! Answers against references: every key, every feature.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef};
use granary_model::FeatureStatus;

use super::expected::{Expected, Key, Reference, Value, difference};

/// One feature as answered, a row a key of the reference.
#[derive(Debug)]
pub struct Answer {
    pub values: ArrayRef,
    pub statuses: Vec<FeatureStatus>,
}

/// What was compared, so that a test can tell that something was.
#[derive(Debug, Default)]
pub struct Counts {
    pub keys: usize,
    pub features: usize,
    /// Values that were neither NULL nor missing.
    pub present: usize,
    /// Keys without a row, over all views.
    pub not_found: usize,
    pub differences: Vec<String>,
}

impl Counts {
    /// Compares the answers of one view, by feature.
    pub fn compare(
        &mut self,
        reference: &Reference,
        expected: &Expected,
        answers: &BTreeMap<String, Answer>,
    ) {
        let Some(features) = expected.rows.values().next() else {
            self.differences
                .push(format!("{}: the reference has no rows", expected.view));
            return;
        };
        for (position, (feature, _)) in features.iter().enumerate() {
            let name = format!("{}.{feature}", expected.view);
            let Some(answer) = answers.get(*feature) else {
                self.differences.push(format!("{name} was not answered"));
                continue;
            };
            self.compare_feature(&name, position, reference, expected, answer);
        }
        assert_eq!(
            answers.len(),
            features.len(),
            "{}: features without a reference",
            expected.view
        );
    }

    fn compare_feature(
        &mut self,
        name: &str,
        position: usize,
        reference: &Reference,
        expected: &Expected,
        answer: &Answer,
    ) {
        assert_eq!(
            answer.values.len(),
            reference.keys.len(),
            "{name}: one row a key"
        );
        assert_eq!(
            answer.statuses.len(),
            reference.keys.len(),
            "{name}: one status a key"
        );
        for (row, key) in reference.keys.iter().enumerate() {
            let value = expected.rows.get(key).map(|row| &row[position].1);
            if let Some(found) = disagreement(value, answer, row) {
                self.differences.push(format!(
                    "{name} of {}: expected {value:?}, found {found}",
                    shown(key)
                ));
            }
            self.present += usize::from(answer.statuses[row] == FeatureStatus::Present);
            self.not_found += usize::from(value.is_none());
        }
        self.features += 1;
    }
}

/// What was found, if it is not what was expected; `None` expects no row.
fn disagreement(expected: Option<&Value>, answer: &Answer, row: usize) -> Option<String> {
    let status = answer.statuses[row];
    let is_right = match expected {
        // A row beyond the TTL is swept at some time: both words are right.
        None => matches!(
            status,
            FeatureStatus::NotFound | FeatureStatus::OutsideMaxAge
        ),
        Some(Value::Null) => status == FeatureStatus::NullValue,
        Some(_) => status == FeatureStatus::Present,
    };
    if !is_right {
        return Some(status.as_str().to_owned());
    }
    difference(expected.unwrap_or(&Value::Null), &answer.values, row)
}

fn shown(key: &Key) -> String {
    match key {
        Key::Int(id) => id.to_string(),
        Key::Text(id) => id.clone(),
    }
}
