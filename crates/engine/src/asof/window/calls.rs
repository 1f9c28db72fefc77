//! Aggregates over one set of columns, with what they share computed once:
//! equal expressions, and the same aggregate over several frames.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use datafusion::error::Result;
use datafusion::physical_expr::PhysicalExpr;

use super::WindowAggregate;
use crate::asof::kernels::{Call, RowRange};

/// Aggregates, and the distinct expressions that they are over.
#[derive(Debug, Default)]
pub(super) struct Calls {
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    calls: Vec<SharedCall>,
}

/// One aggregate, over any number of frames.
#[derive(Debug)]
pub(super) struct SharedCall {
    pub(super) call: Call,
    /// Places in the expressions.
    inputs: Vec<usize>,
    filter: Option<usize>,
    pub(super) windows: Vec<Window>,
}

#[derive(Debug, Clone)]
pub(super) struct Window {
    /// Place in the frames of whoever evaluates.
    pub(super) frame: usize,
    /// The output columns that want it.
    pub(super) outputs: Vec<usize>,
}

/// The expressions over some events, each computed when it is first wanted.
struct Columns<'a> {
    expressions: &'a [Arc<dyn PhysicalExpr>],
    events: &'a RecordBatch,
    computed: Vec<Option<ArrayRef>>,
}

impl Calls {
    pub(super) fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    pub(super) fn expressions(&self) -> &[Arc<dyn PhysicalExpr>] {
        &self.expressions
    }

    /// Moves the expressions to other columns.
    pub(super) fn moved(
        mut self,
        moved: impl Fn(&Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>>,
    ) -> Result<Self> {
        self.expressions = self.expressions.iter().map(moved).collect::<Result<_>>()?;
        Ok(self)
    }

    /// Adds an aggregate over a frame; `output`: the column that it becomes.
    pub(super) fn add(&mut self, aggregate: &WindowAggregate, frame: usize, output: usize) {
        let arguments = aggregate.call.arguments.iter();
        let inputs: Vec<usize> = arguments.map(|argument| self.place(argument)).collect();
        let filter = aggregate.filter.as_ref().map(|filter| self.place(filter));
        let known = self
            .calls
            .iter_mut()
            .find(|call| call.filter == filter && call.call == aggregate.call);
        let call = match known {
            Some(call) => call,
            None => {
                self.calls.push(SharedCall {
                    call: aggregate.call.clone(),
                    inputs,
                    filter,
                    windows: Vec::new(),
                });
                let last = self.calls.len() - 1;
                &mut self.calls[last]
            }
        };
        match call.windows.iter_mut().find(|window| window.frame == frame) {
            Some(window) => window.outputs.push(output),
            None => call.windows.push(Window {
                frame,
                outputs: vec![output],
            }),
        }
    }

    fn place(&mut self, expression: &Arc<dyn PhysicalExpr>) -> usize {
        let known = self.expressions.iter().position(|e| e == expression);
        known.unwrap_or_else(|| {
            self.expressions.push(expression.clone());
            self.expressions.len() - 1
        })
    }

    /// All aggregates over `events`. `ranges`: of each frame, all of one length;
    /// `put` is given each result and the output columns that want it.
    pub(super) fn evaluate(
        &self,
        events: &RecordBatch,
        ranges: &[Vec<RowRange>],
        mut put: impl FnMut(&[usize], ArrayRef),
    ) -> Result<()> {
        let mut columns = self.columns(events);
        for call in &self.calls {
            let (inputs, filter) = columns.of(call)?;
            let filter = filter.as_ref().map(AsArray::as_boolean);
            call.evaluate(&inputs, filter, ranges, &mut put)?;
        }
        Ok(())
    }

    pub(super) fn shared(&self) -> &[SharedCall] {
        &self.calls
    }

    /// The partials of the calls at these places, columns side by side, over
    /// ranges of `events`.
    pub(super) fn partials(
        &self,
        calls: impl Iterator<Item = usize>,
        events: &RecordBatch,
        ranges: &[RowRange],
    ) -> Result<Vec<ArrayRef>> {
        let mut columns = self.columns(events);
        let mut partials = Vec::new();
        for call in calls {
            let call = &self.calls[call];
            let (inputs, filter) = columns.of(call)?;
            let filter = filter.as_ref().map(AsArray::as_boolean);
            partials.extend(call.call.partials(&inputs, filter, ranges)?);
        }
        Ok(partials)
    }

    fn columns<'a>(&'a self, events: &'a RecordBatch) -> Columns<'a> {
        Columns {
            expressions: &self.expressions,
            events,
            computed: vec![None; self.expressions.len()],
        }
    }

    /// The aggregates of no events, a value each.
    pub(super) fn of_nothing(&self, mut put: impl FnMut(&[usize], ArrayRef)) -> Result<()> {
        for call in &self.calls {
            let value = call.call.of_nothing()?;
            for window in &call.windows {
                put(&window.outputs, value.clone());
            }
        }
        Ok(())
    }
}

impl Columns<'_> {
    /// The inputs of a call, and its FILTER.
    fn of(&mut self, call: &SharedCall) -> Result<(Vec<ArrayRef>, Option<ArrayRef>)> {
        let filter = call.filter.map(|place| self.column(place)).transpose()?;
        let inputs = call.inputs.iter().map(|place| self.column(*place));
        Ok((inputs.collect::<Result<_>>()?, filter))
    }

    fn column(&mut self, place: usize) -> Result<ArrayRef> {
        if let Some(column) = &self.computed[place] {
            return Ok(Arc::clone(column));
        }
        let column = self.expressions[place].evaluate(self.events)?;
        let column = column.into_array(self.events.num_rows())?;
        self.computed[place] = Some(Arc::clone(&column));
        Ok(column)
    }
}

impl SharedCall {
    /// One evaluation over the ranges of all frames: what a kernel builds over
    /// the rows, it builds once.
    fn evaluate(
        &self,
        inputs: &[ArrayRef],
        filter: Option<&BooleanArray>,
        ranges: &[Vec<RowRange>],
        put: &mut impl FnMut(&[usize], ArrayRef),
    ) -> Result<()> {
        if let [window] = self.windows.as_slice() {
            let values = self.call.evaluate(inputs, filter, &ranges[window.frame])?;
            put(&window.outputs, values);
            return Ok(());
        }
        let frames = self.windows.iter().map(|window| &ranges[window.frame][..]);
        let all: Vec<RowRange> = frames.collect::<Vec<_>>().concat();
        let values = self.call.evaluate(inputs, filter, &all)?;
        let mut start = 0;
        for window in &self.windows {
            let length = ranges[window.frame].len();
            put(&window.outputs, values.slice(start, length));
            start += length;
        }
        Ok(())
    }
}
