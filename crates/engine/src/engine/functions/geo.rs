//! `great_circle_distance(lat1, lon1, lat2, lon2)`: metres along the surface
//! between two places, in degrees, on a sphere of the Earth's mean radius
//! (6,371,008.8 m, IUGG), by the haversine formula. A place that is none, with a
//! latitude beyond 90 or a longitude beyond 180 degrees, gives NULL.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, Float64Array};
use datafusion::arrow::datatypes::{DataType, Float64Type};
use datafusion::common::utils::take_function_args;
use datafusion::error::Result;
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDFImpl, Signature, Volatility,
};

const RADIUS_METRES: f64 = 6_371_008.8;

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct GreatCircleDistance {
    signature: Signature,
}

impl GreatCircleDistance {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::exact(vec![DataType::Float64; 4], Volatility::Immutable),
        }
    }
}

/// Whether it is a place.
pub(super) fn is_place(lat: f64, lon: f64) -> bool {
    lat.abs() <= 90.0 && lon.abs() <= 180.0
}

fn distance(from: (f64, f64), to: (f64, f64)) -> f64 {
    let half = |degrees: f64| (degrees.to_radians() / 2.0).sin().powi(2);
    let cosines = from.0.to_radians().cos() * to.0.to_radians().cos();
    let a = half(to.0 - from.0) + cosines * half(to.1 - from.1);
    2.0 * RADIUS_METRES * a.clamp(0.0, 1.0).sqrt().asin()
}

impl ScalarUDFImpl for GreatCircleDistance {
    fn name(&self) -> &str {
        "great_circle_distance"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [lat1, lon1, lat2, lon2] = take_function_args(self.name(), &args.args)?;
        let array = |value: &ColumnarValue| -> Result<ArrayRef> { value.to_array(rows) };
        let given = [array(lat1)?, array(lon1)?, array(lat2)?, array(lon2)?];
        let [lat1, lon1, lat2, lon2] = given.each_ref().map(AsArray::as_primitive::<Float64Type>);
        let both = lat1.iter().zip(lon1).zip(lat2.iter().zip(lon2));
        let distances = both.map(|((lat1, lon1), (lat2, lon2))| {
            let (from, to) = ((lat1?, lon1?), (lat2?, lon2?));
            (is_place(from.0, from.1) && is_place(to.0, to.1)).then(|| distance(from, to))
        });
        Ok(ColumnarValue::Array(Arc::new(
            distances.collect::<Float64Array>(),
        )))
    }
}
