//! `count(DISTINCT text)` of many groups, within the memory that it says it has.
//!
//! DataFusion 55 counts distinct texts by a hash table a group, each made for
//! 512 texts and left out of the accounts: five million customers took ten
//! gigabytes under a limit of 256 MB. The rule of this module puts an aggregate
//! in its place that holds one table of texts, and one of (group, text), for
//! all groups. Distinct counts of other types are left to DataFusion.

use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, ListArray, UInt32Array,
};
use datafusion::arrow::buffer::OffsetBuffer;
use datafusion::arrow::compute::{and, cast, filter, is_not_null, prep_null_mask_filter, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{HashSet, Result, ScalarValue};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::count::Count;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::format_state_name;
use datafusion::logical_expr::{
    Accumulator, Aggregate, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, ExprSchemable,
    GroupsAccumulator, LogicalPlan, Signature, Volatility,
};
use datafusion::optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule};
use datafusion::physical_expr_common::binary_map::OutputType;
use datafusion::physical_expr_common::binary_view_map::ArrowBytesViewMap;

/// What a value is held as; `None` for what is no text.
fn view_type(data_type: &DataType) -> Option<DataType> {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => Some(DataType::Utf8View),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            Some(DataType::BinaryView)
        }
        _ => None,
    }
}

/// Replaces `count(DISTINCT text)` where rows are grouped.
#[derive(Debug)]
pub(super) struct CountDistinctTexts;

impl OptimizerRule for CountDistinctTexts {
    fn name(&self) -> &str {
        "count_distinct_texts"
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        Some(ApplyOrder::BottomUp)
    }

    fn rewrite(
        &self,
        plan: LogicalPlan,
        _config: &dyn OptimizerConfig,
    ) -> Result<Transformed<LogicalPlan>> {
        let LogicalPlan::Aggregate(aggregate) = plan else {
            return Ok(Transformed::no(plan));
        };
        if aggregate.group_expr.is_empty() {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        let mut replaced = false;
        let mut expressions = Vec::with_capacity(aggregate.aggr_expr.len());
        for expression in &aggregate.aggr_expr {
            let other = replacement(expression, &aggregate)?;
            replaced |= other.is_some();
            expressions.push(other.unwrap_or_else(|| expression.clone()));
        }
        if !replaced {
            return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
        }
        let Aggregate {
            input,
            group_expr,
            schema,
            ..
        } = aggregate;
        let aggregate = Aggregate::try_new_with_schema(input, group_expr, expressions, schema)?;
        Ok(Transformed::yes(LogicalPlan::Aggregate(aggregate)))
    }
}

/// The same count by our own aggregate, under the same name.
fn replacement(expression: &Expr, aggregate: &Aggregate) -> Result<Option<Expr>> {
    let mut call = expression;
    while let Expr::Alias(alias) = call {
        call = &alias.expr;
    }
    let Expr::AggregateFunction(AggregateFunction { func, params }) = call else {
        return Ok(None);
    };
    let [text] = params.args.as_slice() else {
        return Ok(None);
    };
    let is_plain = params.order_by.is_empty() && params.null_treatment.is_none();
    if !(func.inner().is::<Count>() && params.distinct && is_plain) {
        return Ok(None);
    }
    if view_type(&text.get_type(aggregate.input.schema())?).is_none() {
        return Ok(None);
    }
    let own = AggregateFunction::new_udf(
        Arc::new(AggregateUDF::from(CountTexts::new())),
        params.args.clone(),
        false,
        params.filter.clone(),
        Vec::new(),
        None,
    );
    let name = expression.schema_name().to_string();
    Ok(Some(Expr::AggregateFunction(own).alias(name)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct CountTexts {
    signature: Signature,
}

impl CountTexts {
    pub(super) fn new() -> Self {
        Self {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

fn texts_of(args: &AccumulatorArgs<'_>) -> Result<Texts> {
    let field = args.expr_fields.first();
    let view = field.and_then(|field| view_type(field.data_type()));
    let view = view.ok_or_else(|| {
        DataFusionError::Plan("_count_distinct_texts counts VARCHAR and VARBINARY".into())
    })?;
    Ok(Texts::new(view))
}

impl AggregateUDFImpl for CountTexts {
    fn name(&self) -> &str {
        "_count_distinct_texts"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(DataType::Int64)
    }

    fn is_nullable(&self) -> bool {
        false
    }

    fn default_value(&self, _data_type: &DataType) -> Result<ScalarValue> {
        Ok(ScalarValue::Int64(Some(0)))
    }

    fn accumulator(&self, args: AccumulatorArgs<'_>) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(OneGroup(texts_of(&args)?)))
    }

    fn state_fields(&self, args: StateFieldsArgs<'_>) -> Result<Vec<FieldRef>> {
        let text = args.input_fields.first().map(|field| field.data_type());
        let view = text.and_then(view_type).unwrap_or(DataType::Utf8View);
        let element = Field::new_list_field(view, true);
        let name = format_state_name(args.name, "count distinct");
        Ok(vec![Arc::new(Field::new_list(name, element, false))])
    }

    fn groups_accumulator_supported(&self, _args: AccumulatorArgs<'_>) -> bool {
        true
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs<'_>,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(texts_of(&args)?))
    }
}

/// The distinct texts of all groups.
#[derive(Debug)]
struct Texts {
    view: DataType,
    /// The number of each text, in order of first sight.
    known: ArrowBytesViewMap<u32>,
    /// Group in the upper half, number of the text in the lower.
    seen: HashSet<u64>,
    /// Distinct texts by group.
    counts: Vec<i64>,
}

fn pair(group: usize, text: u32) -> u64 {
    ((group as u64) << 32) | u64::from(text)
}

fn unpair(pair: u64) -> (usize, u32) {
    ((pair >> 32) as usize, pair as u32)
}

impl Texts {
    fn new(view: DataType) -> Self {
        Self {
            known: known(&view),
            view,
            seen: HashSet::default(),
            counts: Vec::new(),
        }
    }

    /// `texts`: of the view type, without NULLs; a group each.
    fn add(&mut self, texts: &ArrayRef, groups: impl Iterator<Item = usize>) -> Result<()> {
        let mut next = u32::try_from(self.known.len()).ok();
        let mut numbers = Vec::with_capacity(texts.len());
        self.known.insert_if_new(
            texts,
            |_| {
                let number = next.unwrap_or(u32::MAX);
                next = number.checked_add(1);
                number
            },
            |number| numbers.push(number),
        );
        if next.is_none() {
            let message = "count(DISTINCT ..): more than 2^32 texts";
            return Err(DataFusionError::ResourcesExhausted(message.into()));
        }
        for (number, group) in numbers.into_iter().zip(groups) {
            if self.seen.insert(pair(group, number)) {
                self.counts[group] += 1;
            }
        }
        Ok(())
    }

    fn resize(&mut self, groups: usize) {
        self.counts.resize(groups.max(self.counts.len()), 0);
    }

    /// Takes the first groups out: their counts, their (group, text) in order,
    /// and the texts by number. The rest moves down, and its texts are numbered
    /// anew, so that what was taken is held no longer.
    fn take(&mut self, emit_to: EmitTo) -> Result<(Vec<i64>, Vec<u64>, ArrayRef)> {
        let counts = emit_to.take_needed(&mut self.counts);
        let all = std::mem::take(&mut self.seen);
        let texts = std::mem::replace(&mut self.known, known(&self.view)).into_state();
        let (mut taken, rest): (Vec<u64>, Vec<u64>) = all
            .into_iter()
            .partition(|pair| unpair(*pair).0 < counts.len());
        taken.sort_unstable();
        if !rest.is_empty() {
            let numbers = rest.iter().map(|pair| unpair(*pair).1);
            let kept = take(&texts, &UInt32Array::from_iter_values(numbers), None)?;
            // They are counted already.
            let counted = std::mem::take(&mut self.counts);
            self.counts = vec![0; counted.len()];
            let groups = rest.iter().map(|pair| unpair(*pair).0 - counts.len());
            self.add(&kept, groups)?;
            debug_assert_eq!(self.counts, counted);
        }
        Ok((counts, taken, texts))
    }
}

fn known(view: &DataType) -> ArrowBytesViewMap<u32> {
    ArrowBytesViewMap::new(match view {
        DataType::BinaryView => OutputType::BinaryView,
        _ => OutputType::Utf8View,
    })
}

/// The texts as views, and which rows count: neither NULL nor filtered out.
fn counted(
    view: &DataType,
    texts: &ArrayRef,
    chosen: Option<&BooleanArray>,
) -> Result<(ArrayRef, BooleanArray)> {
    let texts = cast(texts, view)?;
    let there = is_not_null(&texts)?;
    let there = match chosen {
        Some(chosen) if chosen.null_count() > 0 => and(&there, &prep_null_mask_filter(chosen))?,
        Some(chosen) => and(&there, chosen)?,
        None => there,
    };
    Ok((texts, there))
}

impl GroupsAccumulator for Texts {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        opt_filter: Option<&BooleanArray>,
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        let (texts, there) = counted(&self.view, &values[0], opt_filter)?;
        if there.true_count() == texts.len() {
            return self.add(&texts, group_indices.iter().copied());
        }
        let kept = filter(&texts, &there)?;
        let rows = there.values().set_indices();
        self.add(&kept, rows.map(|row| group_indices[row]))
    }

    fn evaluate(&mut self, emit_to: EmitTo) -> Result<ArrayRef> {
        let (counts, ..) = self.take(emit_to)?;
        Ok(Arc::new(Int64Array::from(counts)))
    }

    fn state(&mut self, emit_to: EmitTo) -> Result<Vec<ArrayRef>> {
        let (counts, taken, texts) = self.take(emit_to)?;
        let numbers = taken.iter().map(|pair| unpair(*pair).1);
        let texts = take(&texts, &UInt32Array::from_iter_values(numbers), None)?;
        let lengths = counts.iter().map(|count| *count as usize);
        Ok(vec![list(&self.view, lengths, texts)])
    }

    fn merge_batch(
        &mut self,
        values: &[ArrayRef],
        group_indices: &[usize],
        total_num_groups: usize,
    ) -> Result<()> {
        self.resize(total_num_groups);
        let lists = values[0].as_list::<i32>();
        let (first, last) = (lists.value_offsets()[0], lists.value_offsets()[lists.len()]);
        let texts = lists
            .values()
            .slice(first as usize, (last - first) as usize);
        let groups = (0..lists.len()).flat_map(|row| {
            let length = lists.value_length(row) as usize;
            std::iter::repeat_n(group_indices[row], length)
        });
        self.add(&texts, groups)
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        opt_filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let (texts, there) = counted(&self.view, &values[0], opt_filter)?;
        let lengths = there.values().iter().map(usize::from);
        Ok(vec![list(&self.view, lengths, filter(&texts, &there)?)])
    }

    fn size(&self) -> usize {
        // A slot and a byte of control, at seven eighths of the slots at most.
        let seen = self.seen.capacity() * (size_of::<u64>() + 1) * 8 / 7;
        self.known.size() + seen + self.counts.capacity() * size_of::<i64>()
    }
}

fn list(view: &DataType, lengths: impl Iterator<Item = usize>, texts: ArrayRef) -> ArrayRef {
    let element = Arc::new(Field::new_list_field(view.clone(), true));
    let offsets = OffsetBuffer::from_lengths(lengths);
    Arc::new(ListArray::new(element, offsets, texts, None))
}

/// The texts of all rows as one group.
#[derive(Debug)]
struct OneGroup(Texts);

impl Accumulator for OneGroup {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; values[0].len()];
        self.0.update_batch(values, &groups, None, 1)
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let count = self.0.counts.first().copied();
        Ok(ScalarValue::Int64(Some(count.unwrap_or(0))))
    }

    fn size(&self) -> usize {
        GroupsAccumulator::size(&self.0)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        self.0.resize(1);
        let states = GroupsAccumulator::state(&mut self.0, EmitTo::All)?;
        states
            .iter()
            .map(|state| ScalarValue::try_from_array(state, 0))
            .collect()
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let groups = vec![0; states[0].len()];
        GroupsAccumulator::merge_batch(&mut self.0, states, &groups, 1)
    }
}
