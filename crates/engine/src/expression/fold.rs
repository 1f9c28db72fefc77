//! An aggregate over the elements of a list: `sum(contact.applied_14d)` of a
//! view that is read for each element.
//!
//! The features of such a view are lists, one element for each of the list that
//! gave the keys. The aggregate is a scalar function of those lists, and of any
//! other column, which is the same for all elements of a row: so it is computed
//! where expressions are, in reads and in training sets.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, UInt64Array,
    new_empty_array,
};
use arrow::compute::{filter, take};
use arrow::datatypes::{DataType, Field, SchemaRef};
use datafusion::common::{DFSchema, exec_err, plan_err};
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use datafusion::scalar::ScalarValue;

use crate::engine::physical_expr;

/// An aggregate as a function of lists.
#[derive(Debug)]
pub(super) struct Fold {
    signature: Signature,
    /// As SQL writes it, with the names of its columns: what tells two apart.
    name: String,
    /// Of the elements: a field an argument.
    elements: SchemaRef,
    /// Which arguments are lists; the first always is.
    lists: Vec<bool>,
    aggregate: Arc<AggregateFunctionExpr>,
    filter: Option<Arc<dyn PhysicalExpr>>,
}

impl PartialEq for Fold {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Fold {}

impl Hash for Fold {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl Fold {
    /// The call of an aggregate, whose types are settled. `columns`: what it
    /// reads, those that are lists first; fields are of the elements.
    pub(super) fn call(
        state: &SessionState,
        aggregate: &AggregateFunction,
        columns: Vec<(datafusion::common::Column, Field, bool)>,
    ) -> Result<Expr> {
        let params = &aggregate.params;
        if !params.order_by.is_empty() {
            return plan_err!(
                "{}: an aggregate over EACH takes no ORDER BY: the list's elements come in its order",
                aggregate.func.name()
            );
        }
        let fields = columns
            .iter()
            .map(|(column, field, _)| (column.relation.clone(), Arc::new(field.clone())));
        let schema = DFSchema::new_with_metadata(fields.collect(), Default::default())?;
        let physical = |e: &Expr| physical_expr(state, e.clone(), &schema);
        let arguments = params.args.iter().map(physical).collect::<Result<_>>()?;
        let name = Expr::AggregateFunction(aggregate.clone()).to_string();
        let elements: SchemaRef = Arc::clone(schema.inner());
        let built = AggregateExprBuilder::new(Arc::clone(&aggregate.func), arguments)
            .schema(Arc::clone(&elements))
            .alias(name.clone())
            .with_distinct(params.distinct)
            .with_ignore_nulls(params.null_treatment == Some(NullTreatment::IgnoreNulls))
            .build()?;
        let fold = Self {
            signature: Signature::any(columns.len(), Volatility::Immutable),
            name,
            elements,
            lists: columns.iter().map(|(.., list)| *list).collect(),
            aggregate: Arc::new(built),
            filter: params.filter.as_deref().map(physical).transpose()?,
        };
        let columns = columns.into_iter().map(|(column, ..)| Expr::Column(column));
        Ok(ScalarUDF::from(fold).call(columns.collect()))
    }

    /// The elements of all rows as one batch, and how many each row has.
    fn elements(&self, given: &[ArrayRef], rows: usize) -> Result<(RecordBatch, Vec<usize>)> {
        let counts = match given.first().and_then(|first| first.as_list_opt::<i32>()) {
            Some(list) => (0..rows).map(|row| list.value_length(row) as usize),
            None => return exec_err!("{}: no list", self.name),
        };
        let counts: Vec<usize> = counts.collect();
        let total = counts.iter().sum();
        let rows_of = counts.iter().enumerate();
        let parents: UInt64Array = rows_of
            .flat_map(|(row, count)| std::iter::repeat_n(row as u64, *count))
            .collect();
        let columns = given.iter().zip(&self.lists).map(|(array, is_list)| {
            if !is_list {
                return Ok(take(array, &parents, None)?);
            }
            let list = array.as_list::<i32>();
            let start = list.value_offsets()[0] as usize;
            let end = list.value_offsets()[rows] as usize;
            if end - start != total {
                return exec_err!("{}: lists of several lengths", self.name);
            }
            Ok(list.values().slice(start, total))
        });
        let options = RecordBatchOptions::new().with_row_count(Some(total));
        let columns = columns.collect::<Result<_>>()?;
        let elements =
            RecordBatch::try_new_with_options(Arc::clone(&self.elements), columns, &options)?;
        Ok((elements, counts))
    }

    /// The aggregate of one row's elements.
    fn of_row(
        &self,
        arguments: &[ArrayRef],
        counted: Option<&BooleanArray>,
        range: std::ops::Range<usize>,
    ) -> Result<ScalarValue> {
        let (start, count) = (range.start, range.len());
        let mut accumulator = self.aggregate.create_accumulator()?;
        if count > 0 {
            let sliced = arguments.iter().map(|array| {
                let values = array.slice(start, count);
                match counted {
                    Some(counted) => Ok(filter(&values, &counted.slice(start, count))?),
                    None => Ok(values),
                }
            });
            accumulator.update_batch(&sliced.collect::<Result<Vec<_>>>()?)?;
        }
        accumulator.evaluate()
    }
}

impl ScalarUDFImpl for Fold {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(self.aggregate.field().data_type().clone())
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let given = args.args.iter().map(|value| value.to_array(rows));
        let (elements, counts) = self.elements(&given.collect::<Result<Vec<_>>>()?, rows)?;
        let evaluate =
            |e: &Arc<dyn PhysicalExpr>| e.evaluate(&elements)?.into_array(elements.num_rows());
        let arguments = self.aggregate.expressions();
        let arguments = arguments.iter().map(evaluate).collect::<Result<Vec<_>>>()?;
        let counted = self.filter.as_ref().map(evaluate).transpose()?;
        let counted = counted.as_ref().map(AsArray::as_boolean);
        let mut values = Vec::with_capacity(rows);
        let mut start = 0;
        for count in counts {
            values.push(self.of_row(&arguments, counted, start..start + count)?);
            start += count;
        }
        Ok(ColumnarValue::Array(match values.is_empty() {
            true => new_empty_array(self.aggregate.field().data_type()),
            false => ScalarValue::iter_to_array(values)?,
        }))
    }
}

/// The type of a feature that is a list for each row.
pub(super) fn list_field(field: &Field) -> Field {
    let element = Field::new("element", field.data_type().clone(), true);
    Field::new(field.name(), DataType::List(Arc::new(element)), true)
}
