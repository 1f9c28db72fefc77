//! Aggregates over many ranges of one set of sorted arrays: data in, one value a
//! range out, no IO.
//!
//! Rows that an aggregate does not see (a FILTER that is not true, NULLs that
//! it skips) are taken out first and the ranges moved accordingly, so that a
//! kernel knows neither. Ranges of one key ascend at both ends when frames do.
//!
//! Integers, decimals, counts and multisets may be retracted; floats never are,
//! since one NaN, ±∞ or 1e17 would stay for ever: they are summed in a tree of
//! blocks ([`tree`]). What has no kernel of its own runs on DataFusion's
//! accumulators, which are fed in event order and never merged.

mod accumulate;
mod decayed;
mod distinct;
mod extremes;
mod partial;
mod positions;
pub(super) mod selection;
mod sums;
pub(super) mod tree;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt32Array, new_empty_array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::error::Result;
use datafusion::logical_expr::{Accumulator, AggregateUDF};
use datafusion::physical_expr::PhysicalExpr;

pub(crate) use decayed::Decayed;
use selection::{Selection, kept_rows};

/// Rows `start..end` of sorted arrays.
pub type RowRange = Range<u32>;

/// One aggregate function with its arguments, types settled.
#[derive(Debug, Clone)]
pub struct Call {
    pub function: Arc<AggregateUDF>,
    pub arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub distinct: bool,
    pub ignore_nulls: bool,
    /// Of the rows that the arguments are over.
    schema: SchemaRef,
    argument_fields: Vec<FieldRef>,
    return_field: FieldRef,
    kind: Kind,
}

/// Functions without a kernel here whose result does not depend on the order of
/// rows. What DataFusion says of itself will not do: its default is an order,
/// and `any_value` is said to need none.
const ORDER_FREE: [&str; 31] = [
    "approx_distinct",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "corr",
    "covar_pop",
    "covar_samp",
    "entropy",
    "max",
    "median",
    "min",
    "percentile_cont",
    "regr_avgx",
    "regr_avgy",
    "regr_count",
    "regr_intercept",
    "regr_r2",
    "regr_slope",
    "regr_sxx",
    "regr_sxy",
    "regr_syy",
    "stddev",
    "stddev_pop",
    "sum",
    "top_k",
    "top_share",
    "var",
    "var_pop",
];

/// How a call is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Count,
    Sum,
    Average,
    /// Of a sample or of a population; with or without the root.
    Spread {
        sample: bool,
        root: bool,
    },
    Extreme {
        greatest: bool,
    },
    First,
    Last,
    Nth,
    List,
    /// A decayed sum as of the newest row.
    Decayed,
    /// By DataFusion's accumulator.
    Accumulate,
}

impl Kind {
    fn of(name: &str, arguments: &[DataType], result: &DataType) -> Self {
        let first = arguments.first().unwrap_or(&DataType::Null);
        let float = *first == DataType::Float64 && *result == DataType::Float64;
        let decimal =
            matches!(first, DataType::Decimal128(..)) && matches!(result, DataType::Decimal128(..));
        let integer = matches!(first, DataType::Int64 | DataType::UInt64) && first == result;
        let spread = |sample, root| match float {
            true => Self::Spread { sample, root },
            false => Self::Accumulate,
        };
        let extreme = |greatest| match extremes::is_ordered(first) && first == result {
            true => Self::Extreme { greatest },
            false => Self::Accumulate,
        };
        match name {
            "count" => Self::Count,
            "sum" if float || decimal || integer => Self::Sum,
            "avg" if float || decimal => Self::Average,
            "var" => spread(true, false),
            "var_pop" => spread(false, false),
            "stddev" => spread(true, true),
            "stddev_pop" => spread(false, true),
            "min" => extreme(false),
            "max" => extreme(true),
            "first_value" => Self::First,
            "last_value" => Self::Last,
            "nth_value" if arguments.len() == 2 => Self::Nth,
            "array_agg" => Self::List,
            "decayed_latest" => Self::Decayed,
            _ => Self::Accumulate,
        }
    }

    fn skips_nulls(self, ignore_nulls: bool) -> bool {
        match self {
            Self::Count
            | Self::Sum
            | Self::Average
            | Self::Spread { .. }
            | Self::Extreme { .. }
            | Self::Decayed => true,
            Self::First | Self::Last | Self::Nth | Self::List => ignore_nulls,
            Self::Accumulate => false,
        }
    }

    /// Whether the order of rows can change the result by more than rounding.
    fn minds_order(self, name: &str) -> bool {
        match self {
            Self::First | Self::Last | Self::Nth | Self::List => true,
            Self::Accumulate => !ORDER_FREE.contains(&name),
            _ => false,
        }
    }

    /// Whether equal values, counted once, could change the result.
    fn minds_duplicates(self) -> bool {
        !matches!(self, Self::Extreme { .. } | Self::First | Self::Last)
    }
}

impl Call {
    /// `arguments` are over `schema` and have the types that the function takes.
    pub fn try_new(
        function: Arc<AggregateUDF>,
        arguments: Vec<Arc<dyn PhysicalExpr>>,
        schema: SchemaRef,
    ) -> Result<Self> {
        let fields = arguments
            .iter()
            .map(|argument| argument.return_field(&schema));
        let argument_fields = fields.collect::<Result<Vec<_>>>()?;
        let return_field = function.return_field(&argument_fields)?;
        let types: Vec<DataType> = argument_fields
            .iter()
            .map(|field| field.data_type().clone())
            .collect();
        let kind = Kind::of(function.name(), &types, return_field.data_type());
        Ok(Self {
            function,
            arguments,
            distinct: false,
            ignore_nulls: false,
            schema,
            argument_fields,
            return_field,
            kind,
        })
    }

    pub fn distinct(mut self, distinct: bool) -> Self {
        self.distinct = distinct;
        self
    }

    /// IGNORE NULLS; of functions that skip NULLs anyway it says nothing.
    pub fn ignore_nulls(mut self, ignore_nulls: bool) -> Self {
        self.ignore_nulls = ignore_nulls;
        self
    }

    /// Whether the order of rows can change the result by more than rounding.
    pub fn minds_order(&self) -> bool {
        self.kind.minds_order(self.function.name())
    }

    /// The result under a name; nullable unless the function counts.
    pub fn field(&self, name: &str) -> Field {
        let nullable = self.kind != Kind::Count;
        Field::new(name, self.return_field.data_type().clone(), nullable)
    }

    /// The aggregate of each range. `inputs`: the arguments, of one length;
    /// `filter`: rows that are not true in it are left out. With no rows count
    /// is 0, most others are NULL.
    pub fn evaluate(
        &self,
        inputs: &[ArrayRef],
        filter: Option<&BooleanArray>,
        ranges: &[RowRange],
    ) -> Result<ArrayRef> {
        let selection = self.selected(inputs, filter, ranges)?;
        // Rows of the spine without a new event between them share a range.
        let (ranges, repeats) = without_repeats(&selection.ranges);
        let values = self.evaluate_selected(&selection.inputs, &ranges)?;
        match repeats {
            Some(repeats) => Ok(take(&values, &repeats, None)?),
            None => Ok(values),
        }
    }

    /// The rows that the aggregate sees.
    fn selected(
        &self,
        inputs: &[ArrayRef],
        filter: Option<&BooleanArray>,
        ranges: &[RowRange],
    ) -> Result<Selection> {
        let skipping = match (self.kind, self.kind.skips_nulls(self.ignore_nulls)) {
            (_, false) => &[][..],
            // The n of nth_value decides nothing.
            (Kind::Nth, true) => &inputs[..1],
            (_, true) => inputs,
        };
        match kept_rows(filter, skipping) {
            Some(kept) => Selection::of(inputs, &kept, ranges),
            None => Ok(Selection::all(inputs, ranges)),
        }
    }

    /// The aggregate of no rows, one value.
    pub fn of_nothing(&self) -> Result<ArrayRef> {
        let none = self.argument_fields.iter();
        let none: Vec<ArrayRef> = none.map(|f| new_empty_array(f.data_type())).collect();
        let nothing = 0..0;
        self.evaluate(&none, None, &[nothing])
    }

    /// DataFusion's accumulator, to be fed in event order; it knows no DISTINCT.
    pub(crate) fn accumulator(&self) -> Result<Box<dyn Accumulator>> {
        accumulate::accumulator(self, false)
    }

    fn evaluate_selected(&self, inputs: &[ArrayRef], ranges: &[RowRange]) -> Result<ArrayRef> {
        match (self.distinct && self.kind.minds_duplicates(), self.kind) {
            (true, Kind::Count) => distinct::count(inputs, ranges),
            (true, _) => distinct::evaluate(inputs, ranges, |inputs, ranges| {
                self.evaluate_plain(inputs, ranges)
            }),
            (false, _) => self.evaluate_plain(inputs, ranges),
        }
    }

    fn evaluate_plain(&self, inputs: &[ArrayRef], ranges: &[RowRange]) -> Result<ArrayRef> {
        let result = self.return_field.data_type();
        match self.kind {
            Kind::Count => Ok(partial::counts(ranges)),
            Kind::Sum => sums::sum(&inputs[0], ranges, result),
            Kind::Average => {
                let sums = sums::sum(&inputs[0], ranges, inputs[0].data_type())?;
                sums::quotient(&sums, &partial::counts(ranges), result)
            }
            Kind::Spread { sample, root } => {
                let moments = sums::moments(&inputs[0], ranges);
                Ok(sums::spread(&moments, sample, root))
            }
            Kind::Extreme { greatest } => extremes::extreme(&inputs[0], ranges, greatest),
            Kind::First => positions::first(&inputs[0], ranges),
            Kind::Last => positions::last(&inputs[0], ranges),
            Kind::Nth => positions::nth(&inputs[0], &inputs[1], ranges),
            Kind::List => positions::list(&inputs[0], ranges, result),
            Kind::Decayed => decayed::latest(inputs, ranges, result),
            Kind::Accumulate => accumulate::accumulate(self, inputs, ranges),
        }
    }
}

/// The same aggregate, whatever schema its arguments stand in.
impl PartialEq for Call {
    fn eq(&self, other: &Self) -> bool {
        self.function == other.function
            && self.arguments == other.arguments
            && self.distinct == other.distinct
            && self.ignore_nulls == other.ignore_nulls
    }
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let arguments: Vec<String> = self.arguments.iter().map(ToString::to_string).collect();
        let distinct = if self.distinct { "DISTINCT " } else { "" };
        write!(
            f,
            "{}({distinct}{})",
            self.function.name(),
            arguments.join(", ")
        )?;
        match self.ignore_nulls {
            true => f.write_str(" IGNORE NULLS"),
            false => Ok(()),
        }
    }
}

/// Ranges without those that equal the one before, and which one each was.
fn without_repeats(ranges: &[RowRange]) -> (Vec<RowRange>, Option<UInt32Array>) {
    let mut unique: Vec<RowRange> = Vec::with_capacity(ranges.len());
    let mut index = Vec::with_capacity(ranges.len());
    for range in ranges {
        if unique.last() != Some(range) {
            unique.push(range.clone());
        }
        index.push(unique.len() as u32 - 1);
    }
    let repeats = (unique.len() < ranges.len()).then(|| UInt32Array::from(index));
    (unique, repeats)
}
