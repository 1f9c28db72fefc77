//! The operator: what it needs of its input and what it keeps of it.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::{FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexRequirement, OrderingRequirements, PhysicalExpr,
    PhysicalSortExpr, PhysicalSortRequirement,
};
use datafusion::physical_plan::execution_plan::{
    CardinalityEffect, ReplaceChildrenOptions, apply_expression_roots,
};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties,
    InputDistributionRequirements, PlanProperties,
};

use super::answers::Windows;
use super::frame::Frame;
use super::stream;
use crate::asof::kernels::Call;

/// One aggregate over one frame.
#[derive(Debug, Clone)]
pub struct Window {
    pub call: Call,
    /// FILTER (WHERE ..), BOOLEAN.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub frame: Frame,
    /// The output column.
    pub field: FieldRef,
}

/// What [`PrecedingWindowsExec`] computes; all expressions are over its input.
#[derive(Debug, Clone)]
pub struct PrecedingWindowsSpec {
    pub partition_by: Vec<Arc<dyn PhysicalExpr>>,
    pub order_by: Vec<PhysicalSortExpr>,
    pub windows: Vec<Window>,
}

impl PrecedingWindowsSpec {
    fn expressions(&self) -> impl Iterator<Item = &Arc<dyn PhysicalExpr>> {
        let sorts = self.order_by.iter().map(|sort| &sort.expr);
        let windows = self.windows.iter();
        let of_windows = windows.flat_map(|w| w.call.arguments.iter().chain(&w.filter));
        self.partition_by.iter().chain(sorts).chain(of_windows)
    }

    fn output(&self, input: &Schema) -> SchemaRef {
        let fields = input.fields().iter().cloned();
        let windows = self.windows.iter().map(|window| window.field.clone());
        let fields: Vec<FieldRef> = fields.chain(windows).collect();
        Arc::new(Schema::new_with_metadata(fields, input.metadata().clone()))
    }

    /// Partitions need only lie together, rows within one must be in order.
    fn ordering(&self) -> Option<OrderingRequirements> {
        let mut requirements: Vec<PhysicalSortRequirement> = Vec::new();
        let partitions = self
            .partition_by
            .iter()
            .map(|expression| (expression, None));
        let sorts = self
            .order_by
            .iter()
            .map(|sort| (&sort.expr, Some(sort.options)));
        for (expression, options) in partitions.chain(sorts) {
            if !requirements.iter().any(|known| known.expr.eq(expression)) {
                requirements.push(PhysicalSortRequirement::new(expression.clone(), options));
            }
        }
        LexRequirement::new(requirements).map(OrderingRequirements::from)
    }
}

/// Adds the columns of [`PrecedingWindowsSpec`] to the rows of its input, which
/// come partitioned by PARTITION BY and sorted by it and ORDER BY.
#[derive(Debug)]
pub struct PrecedingWindowsExec {
    input: Arc<dyn ExecutionPlan>,
    spec: Arc<PrecedingWindowsSpec>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl PrecedingWindowsExec {
    pub fn try_new(input: Arc<dyn ExecutionPlan>, spec: Arc<PrecedingWindowsSpec>) -> Result<Self> {
        let schema = spec.output(&input.schema());
        let equivalences =
            EquivalenceProperties::new(schema).extend(input.equivalence_properties().clone())?;
        let properties = PlanProperties::new(
            equivalences,
            input.output_partitioning().clone(),
            input.pipeline_behavior(),
            input.boundedness(),
        );
        Ok(Self {
            input,
            spec,
            properties: Arc::new(properties),
            metrics: ExecutionPlanMetricsSet::new(),
        })
    }

    pub fn spec(&self) -> &Arc<PrecedingWindowsSpec> {
        &self.spec
    }
}

impl DisplayAs for PrecedingWindowsExec {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let spec = &self.spec;
        let words = |words: Vec<String>| words.join(", ");
        let partition_by = spec.partition_by.iter().map(ToString::to_string);
        let order_by = spec.order_by.iter().map(ToString::to_string);
        let windows = spec.windows.iter().map(|window| {
            let filter = window.filter.as_ref();
            let filter = filter.map_or_else(String::new, |filter| format!(" FILTER {filter}"));
            format!("{}{filter} {}", window.call, window.frame)
        });
        write!(
            f,
            "PrecedingWindowsExec: partition_by=[{}], order_by=[{}], windows=[{}]",
            words(partition_by.collect()),
            words(order_by.collect()),
            words(windows.collect()),
        )
    }
}

impl ExecutionPlan for PrecedingWindowsExec {
    fn name(&self) -> &'static str {
        "PrecedingWindowsExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        let distribution = match self.spec.partition_by.as_slice() {
            [] => Distribution::SinglePartition,
            keys => Distribution::KeyPartitioned(keys.to_vec()),
        };
        InputDistributionRequirements::new(vec![distribution])
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        vec![self.spec.ordering()]
    }

    /// It does, but DataFusion would then sort below it by an order that is
    /// asked for above it, although that is not the order needed here.
    fn maintains_input_order(&self) -> Vec<bool> {
        vec![false]
    }

    fn cardinality_effect(&self) -> CardinalityEffect {
        CardinalityEffect::Equal
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        apply_expression_roots(self.spec.expressions(), f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let [input]: [_; 1] = children
            .try_into()
            .map_err(|_| DataFusionError::Internal("PrecedingWindowsExec has one input".into()))?;
        Ok(Arc::new(Self::try_new(input, self.spec.clone())?))
    }

    fn with_new_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let mode = ChildrenPropertiesMode::Recompute;
        self.replace_children(children, ReplaceChildrenOptions::new(mode))
    }

    fn execute(
        &self,
        partition: usize,
        context: Arc<TaskContext>,
    ) -> Result<SendableRecordBatchStream> {
        let windows = Windows::new(self.spec.clone(), &self.input.schema(), self.schema())?;
        let baseline = BaselineMetrics::new(&self.metrics, partition);
        let input = self.input.execute(partition, context.clone())?;
        Ok(stream::run(input, windows, partition, &context, baseline))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}
