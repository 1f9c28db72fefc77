//! Whether two servers answer the same, value by value.

use granary_proto::{FeatureColumn, GetFeaturesResponse};

use super::stored::is_valid;

/// What differs first, if anything does. Snapshots and times of the reads may.
pub fn difference(left: &GetFeaturesResponse, right: &GetFeaturesResponse) -> Option<String> {
    if left.entities != right.entities {
        return Some(format!("{} and {} entities", left.entities, right.entities));
    }
    if left.features.len() != right.features.len() {
        let (left, right) = (left.features.len(), right.features.len());
        return Some(format!("{left} and {right} features"));
    }
    let rows = left.entities as usize;
    let mut pairs = left.features.iter().zip(&right.features);
    pairs.find_map(|(left, right)| column_difference(left, right, rows))
}

fn column_difference(left: &FeatureColumn, right: &FeatureColumn, rows: usize) -> Option<String> {
    let name = &left.name;
    let heading = |column: &FeatureColumn| {
        let view = (column.view.clone(), column.view_version);
        (column.name.clone(), column.r#type.clone(), view)
    };
    if heading(left) != heading(right) {
        return Some(format!("{:?} and {:?}", heading(left), heading(right)));
    }
    let (Some(a), Some(b)) = (&left.values, &right.values) else {
        return Some(format!("{name}: no values"));
    };
    if a.values != b.values {
        return Some(format!("{name}: {:?} and {:?}", a.values, b.values));
    }
    (0..rows).find_map(|row| {
        let of = |column: &FeatureColumn, values| (status(column, row), is_valid(values, row));
        let (a, b) = (of(left, a), of(right, b));
        (a != b).then(|| format!("{name}, row {row}: status and validity {a:?} and {b:?}"))
    })
}

/// One byte is the status of every row.
fn status(column: &FeatureColumn, row: usize) -> Option<u8> {
    match &column.statuses[..] {
        [alike] => Some(*alike),
        each => each.get(row).copied(),
    }
}
