//! What an aggregate knows of some rows, to be put together with what it knows of
//! others: state in, state out.
//!
//! A partial is a value of each of a few columns. The aggregate of all rows is
//! finished from the merged one.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, new_empty_array};
use arrow::datatypes::{DataType, Field, Int64Type};
use datafusion::error::Result;
use datafusion::logical_expr::Accumulator;
use datafusion::logical_expr::function::StateFieldsArgs;
use datafusion::scalar::ScalarValue;

use super::accumulate::{accumulator, slice};
use super::selection::{Selection, kept_rows};
use super::{Call, Kind, RowRange, distinct, extremes, positions, sums};

/// Functions without a kernel here whose accumulators' states merge to what the
/// rows themselves would give. Those of `corr`, `covar` and `regr` do not: merged
/// means drift, and a constant is one no more.
const MERGED: [&str; 14] = [
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "entropy",
    "max",
    "median",
    "min",
    "sum",
    "top_k",
    "top_share",
];

/// What the columns of a partial are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// The distinct rows, a list an input.
    Distinct,
    Count,
    Sum,
    /// Sum and count.
    Average,
    /// Count, mean and sum of squared distances.
    Moments,
    /// The least or greatest value.
    Extreme {
        greatest: bool,
    },
    /// The first or last value, which may be NULL, and whether there is one.
    Edge {
        last: bool,
    },
    /// The state of DataFusion's accumulator.
    State,
}

impl Call {
    fn form(&self) -> Option<Form> {
        let name = self.function.name();
        if self.distinct && self.kind.minds_duplicates() {
            return (!self.minds_order()).then_some(Form::Distinct);
        }
        Some(match self.kind {
            Kind::Count => Form::Count,
            Kind::Sum => Form::Sum,
            Kind::Average => Form::Average,
            Kind::Spread { .. } => Form::Moments,
            Kind::Extreme { greatest } => Form::Extreme { greatest },
            Kind::First => Form::Edge { last: false },
            Kind::Last => Form::Edge { last: true },
            Kind::Decayed => Form::State,
            Kind::Accumulate if MERGED.contains(&name) => Form::State,
            Kind::Accumulate | Kind::Nth | Kind::List => return None,
        })
    }

    /// The types of a partial's columns; `None`: partials cannot be merged to
    /// what the rows themselves would give.
    pub(crate) fn partial_types(&self) -> Result<Option<Vec<DataType>>> {
        let Some(form) = self.form() else {
            return Ok(None);
        };
        let arguments = || self.argument_fields.iter().map(|f| f.data_type().clone());
        let first = || arguments().take(1);
        Ok(Some(match form {
            Form::Distinct => {
                let lists =
                    arguments().map(|t| DataType::List(Field::new_list_field(t, true).into()));
                lists.collect()
            }
            Form::Count => vec![DataType::Int64],
            Form::Sum => vec![self.return_field.data_type().clone()],
            Form::Average => first().chain([DataType::Int64]).collect(),
            Form::Moments => vec![DataType::Float64; 3],
            Form::Extreme { .. } => first().collect(),
            Form::Edge { .. } => first().chain([DataType::Boolean]).collect(),
            Form::State => {
                let fields = self.function.state_fields(StateFieldsArgs {
                    name: self.function.name(),
                    input_fields: &self.argument_fields,
                    return_field: self.return_field.clone(),
                    ordering_fields: &[],
                    is_distinct: false,
                })?;
                fields.iter().map(|f| f.data_type().clone()).collect()
            }
        }))
    }

    /// The partial of each range, a row each; see [`Self::evaluate`].
    pub(crate) fn partials(
        &self,
        inputs: &[ArrayRef],
        filter: Option<&BooleanArray>,
        ranges: &[RowRange],
    ) -> Result<Vec<ArrayRef>> {
        let Selection { inputs, ranges } = self.selected(inputs, filter, ranges)?;
        let Some(form) = self.form() else {
            return Ok(Vec::new());
        };
        Ok(match form {
            Form::Distinct => distinct::lists(&inputs, &ranges)?,
            Form::Count => vec![counts(&ranges)],
            Form::Sum => {
                vec![sums::sum(
                    &inputs[0],
                    &ranges,
                    self.return_field.data_type(),
                )?]
            }
            Form::Average => {
                let sum = sums::sum(&inputs[0], &ranges, inputs[0].data_type())?;
                vec![sum, counts(&ranges)]
            }
            Form::Moments => sums::moments(&inputs[0], &ranges),
            Form::Extreme { greatest } => vec![extremes::extreme(&inputs[0], &ranges, greatest)?],
            Form::Edge { last } => edges(&inputs[0], &ranges, last)?,
            Form::State => self.states(&ranges, |accumulator, range| {
                accumulator.update_batch(&slice(&inputs, range))
            })?,
        })
    }

    /// What the partials of each range come to, in their order.
    pub(crate) fn merge(
        &self,
        partials: &[ArrayRef],
        ranges: &[RowRange],
    ) -> Result<Vec<ArrayRef>> {
        let Some(form) = self.form() else {
            return Ok(Vec::new());
        };
        // Partials of no rows have no value.
        let valued = |partial: &ArrayRef| match kept_rows(None, std::slice::from_ref(partial)) {
            Some(kept) => Selection::of(&[Arc::clone(partial)], &kept, ranges),
            None => Ok(Selection::all(std::slice::from_ref(partial), ranges)),
        };
        let summed = |partial: &ArrayRef| {
            let valued = valued(partial)?;
            sums::sum(&valued.inputs[0], &valued.ranges, partial.data_type())
        };
        Ok(match form {
            Form::Distinct => {
                let (values, ranges) = distinct::listed(partials, ranges);
                distinct::lists(&values, &ranges)?
            }
            Form::Count => vec![or_zero(&summed(&partials[0])?)],
            Form::Sum => vec![summed(&partials[0])?],
            Form::Average => vec![summed(&partials[0])?, or_zero(&summed(&partials[1])?)],
            Form::Moments => sums::merged_moments(partials, ranges),
            Form::Extreme { greatest } => {
                let valued = valued(&partials[0])?;
                vec![extremes::extreme(
                    &valued.inputs[0],
                    &valued.ranges,
                    greatest,
                )?]
            }
            Form::Edge { last } => {
                let there = kept_rows(Some(partials[1].as_boolean()), &[]);
                let there = there.unwrap_or_else(|| partials[1].as_boolean().clone());
                let there = Selection::of(&partials[..1], &there, ranges)?;
                edges(&there.inputs[0], &there.ranges, last)?
            }
            Form::State => self.states(ranges, |accumulator, range| {
                accumulator.merge_batch(&slice(partials, range))
            })?,
        })
    }

    /// The aggregate that each partial stands for.
    pub(crate) fn finish(&self, partials: &[ArrayRef]) -> Result<ArrayRef> {
        let result = self.return_field.data_type();
        match self.form() {
            Some(Form::Distinct) => {
                let rows = (0..partials[0].len() as u32).map(|row| row..row + 1);
                let rows: Vec<RowRange> = rows.collect();
                let (values, ranges) = distinct::listed(partials, &rows);
                self.evaluate_selected(&values, &ranges)
            }
            Some(Form::Average) => sums::quotient(&partials[0], &partials[1], result),
            Some(Form::Moments) => {
                let (sample, root) = match self.kind {
                    Kind::Spread { sample, root } => (sample, root),
                    _ => (false, false),
                };
                Ok(sums::spread(partials, sample, root))
            }
            Some(Form::State) => self.finish_states(partials),
            Some(Form::Count | Form::Sum | Form::Extreme { .. } | Form::Edge { .. }) | None => {
                Ok(Arc::clone(&partials[0]))
            }
        }
    }

    fn states(
        &self,
        ranges: &[RowRange],
        feed: impl Fn(&mut dyn Accumulator, &RowRange) -> Result<()>,
    ) -> Result<Vec<ArrayRef>> {
        let types = self.partial_types()?.unwrap_or_default();
        let mut columns: Vec<Vec<ScalarValue>> = vec![Vec::new(); types.len()];
        for range in ranges {
            let mut accumulator = accumulator(self, false)?;
            if !range.is_empty() {
                feed(accumulator.as_mut(), range)?;
            }
            for (column, value) in columns.iter_mut().zip(accumulator.state()?) {
                column.push(value);
            }
        }
        let columns = columns.into_iter().zip(types).map(|(values, data_type)| {
            if values.is_empty() {
                return Ok(new_empty_array(&data_type));
            }
            ScalarValue::iter_to_array(values)
        });
        columns.collect()
    }

    fn finish_states(&self, partials: &[ArrayRef]) -> Result<ArrayRef> {
        let rows = partials.first().map_or(0, Array::len);
        if rows == 0 {
            return Ok(new_empty_array(self.return_field.data_type()));
        }
        let values = (0..rows as u32).map(|row| {
            let mut accumulator = accumulator(self, false)?;
            accumulator.merge_batch(&slice(partials, &(row..row + 1)))?;
            accumulator.evaluate()
        });
        ScalarValue::iter_to_array(values.collect::<Result<Vec<_>>>()?)
    }
}

/// How many rows each range has.
pub(super) fn counts(ranges: &[RowRange]) -> ArrayRef {
    let counts = ranges
        .iter()
        .map(|range| i64::from(range.end - range.start));
    Arc::new(counts.collect::<Int64Array>())
}

fn or_zero(counts: &ArrayRef) -> ArrayRef {
    let counts = counts.as_primitive::<Int64Type>().iter();
    Arc::new(
        counts
            .map(|count| count.unwrap_or(0))
            .collect::<Int64Array>(),
    )
}

fn edges(input: &ArrayRef, ranges: &[RowRange], last: bool) -> Result<Vec<ArrayRef>> {
    let values = match last {
        true => positions::last(input, ranges)?,
        false => positions::first(input, ranges)?,
    };
    let there = ranges.iter().map(|range| Some(!range.is_empty()));
    Ok(vec![values, Arc::new(there.collect::<BooleanArray>())])
}
