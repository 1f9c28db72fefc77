//! H3 cells: places as hexagons of one size, by the library h3o. A cell is a
//! BIGINT, as H3 numbers them, and so a key.
//!
//! | function | is |
//! |---|---|
//! | `h3_cell(lat, lon, resolution)` | the cell that a place in degrees lies in; resolutions are 0 (1,100 km) to 15 (60 cm) |
//! | `h3_parent(cell, resolution)` | the larger cell that it lies in |
//! | `h3_ring(cell, k)` | a list of the cell and all within k steps of it, ascending; k is 50 at most |
//! | `h3_distance(a, b)` | how many steps a is from b |
//!
//! What is no place, no cell or no resolution gives NULL, and so do cells of two
//! resolutions, or too far apart for H3 to count steps.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array, Int64Builder, ListBuilder};
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Int64Type};
use datafusion::error::{DataFusionError, Result};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};
use h3o::{CellIndex, LatLng, Resolution};

use super::geo::is_place;

/// Steps of `h3_ring`: 7,651 cells.
const STEPS_MAX: i64 = 50;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Cell,
    Parent,
    Ring,
    Distance,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct H3 {
    kind: Kind,
    signature: Signature,
}

impl H3 {
    pub(super) fn all() -> [Self; 4] {
        let (int, double) = (DataType::Int64, DataType::Float64);
        [
            (Kind::Cell, vec![double.clone(), double, int.clone()]),
            (Kind::Parent, vec![int.clone(), int.clone()]),
            (Kind::Ring, vec![int.clone(), int.clone()]),
            (Kind::Distance, vec![int.clone(), int]),
        ]
        .map(|(kind, arguments)| Self {
            kind,
            signature: Signature::exact(arguments, Volatility::Immutable),
        })
    }
}

fn resolution(number: i64) -> Option<Resolution> {
    Resolution::try_from(u8::try_from(number).ok()?).ok()
}

fn cell(number: i64) -> Option<CellIndex> {
    CellIndex::try_from(u64::try_from(number).ok()?).ok()
}

fn number(cell: CellIndex) -> Option<i64> {
    i64::try_from(u64::from(cell)).ok()
}

fn cell_of(lat: f64, lon: f64, at: i64) -> Option<i64> {
    let place = LatLng::new(lat, lon).ok().filter(|_| is_place(lat, lon))?;
    number(place.to_cell(resolution(at)?))
}

fn parent(of: i64, at: i64) -> Option<i64> {
    number(cell(of)?.parent(resolution(at)?)?)
}

fn distance(a: i64, b: i64) -> Option<i64> {
    let (a, b) = (cell(a)?, cell(b)?);
    let alike = a.resolution() == b.resolution();
    alike
        .then(|| a.grid_distance(b).ok())
        .flatten()
        .map(i64::from)
}

/// The cells within k steps; an error where they are too many.
fn ring(of: i64, k: i64) -> Result<Option<Vec<i64>>> {
    if !(0..=STEPS_MAX).contains(&k) {
        let message = format!("h3_ring takes 0 to {STEPS_MAX} steps, got {k}");
        return Err(DataFusionError::Execution(message));
    }
    let Some(cell) = cell(of) else {
        return Ok(None);
    };
    let cells: Vec<CellIndex> = cell.grid_disk(u32::try_from(k).unwrap_or_default());
    let mut numbers: Vec<i64> = cells.into_iter().filter_map(number).collect();
    numbers.sort_unstable();
    Ok(Some(numbers))
}

fn element() -> Arc<Field> {
    Arc::new(Field::new("element", DataType::Int64, true))
}

fn rings(cells: &Int64Array, steps: &Int64Array) -> Result<ArrayRef> {
    let mut lists = ListBuilder::new(Int64Builder::new()).with_field(element());
    for both in cells.iter().zip(steps) {
        let found = match both {
            (Some(cell), Some(k)) => ring(cell, k)?,
            _ => None,
        };
        match found {
            Some(cells) => lists.append_value(cells.into_iter().map(Some)),
            None => lists.append_null(),
        }
    }
    Ok(Arc::new(lists.finish()))
}

impl ScalarUDFImpl for H3 {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Cell => "h3_cell",
            Kind::Parent => "h3_parent",
            Kind::Ring => "h3_ring",
            Kind::Distance => "h3_distance",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(match self.kind {
            Kind::Ring => DataType::List(element()),
            _ => DataType::Int64,
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let arrays = ColumnarValue::values_to_arrays(&args.args)?;
        let ints = |at: usize| arrays[at].as_primitive::<Int64Type>();
        let of_two = |of: fn(i64, i64) -> Option<i64>| -> Int64Array {
            let both = ints(0).iter().zip(ints(1));
            both.map(|(a, b)| of(a?, b?)).collect()
        };
        let values: ArrayRef = match self.kind {
            Kind::Cell => {
                let doubles = |at: usize| arrays[at].as_primitive::<Float64Type>().iter();
                let places = doubles(0).zip(doubles(1)).zip(ints(2));
                let cells = places.map(|((lat, lon), at)| cell_of(lat?, lon?, at?));
                Arc::new(cells.collect::<Int64Array>())
            }
            Kind::Parent => Arc::new(of_two(parent)),
            Kind::Distance => Arc::new(of_two(distance)),
            Kind::Ring => rings(ints(0), ints(1))?,
        };
        debug_assert!(values.len() <= args.number_rows);
        Ok(match values.len() == args.number_rows {
            true => ColumnarValue::Array(values),
            // Constants alone.
            false => {
                ColumnarValue::Scalar(datafusion::scalar::ScalarValue::try_from_array(&values, 0)?)
            }
        })
    }
}
