//! The same aggregates over events that are in memory already, as a read has
//! them: no plan, no spilling.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, RecordBatch, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{filter_record_batch, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::error::Result;

use super::AsOfWindowSpec;
use super::bucket::{Piece, aggregate};
use super::program::Program;
use super::sorted::Sorted;
use crate::asof::keys::NO_GROUP;
use crate::asof::spine::Spine;
use crate::asof::time::micros;

/// A spec, compiled for events in memory.
#[derive(Debug)]
pub struct AsOfWindows {
    spec: Arc<AsOfWindowSpec>,
    pub(super) program: Program,
    /// Group, time, and the columns that the program keeps.
    pub(super) schema: SchemaRef,
}

/// Events with the group of each in a spine; `u32::MAX` for those of none.
#[derive(Debug, Clone)]
pub struct GroupedEvents {
    pub events: RecordBatch,
    pub groups: Vec<u32>,
}

impl AsOfWindows {
    /// `events`: their schema. Created times are not looked at.
    pub fn try_new(mut spec: AsOfWindowSpec, events: &Schema) -> Result<Self> {
        spec.created_time = None;
        spec.known_at_the_time = false;
        let program = Program::new(&spec, events)?;
        let mut fields = vec![
            Arc::new(Field::new("group", DataType::UInt32, false)),
            Arc::new(Field::new("time", DataType::Int64, false)),
        ];
        fields.extend(program.schema.fields().iter().cloned());
        Ok(Self {
            spec: Arc::new(spec),
            program,
            schema: Arc::new(Schema::new(fields)),
        })
    }

    pub fn spec(&self) -> &AsOfWindowSpec {
        &self.spec
    }

    /// The first event time that can be seen as of t; `None`: any.
    pub fn first_seen(&self, t: i64) -> Option<i64> {
        self.program.reach.as_ref()?;
        Some(self.program.reach(&[t]).0)
    }

    /// A column an aggregate, a row of the spine each; NULL where the spine has
    /// a NULL key.
    pub fn evaluate(&self, spine: &Spine, found: &[GroupedEvents]) -> Result<Vec<ArrayRef>> {
        let mut dealt = Vec::with_capacity(found.len().max(1));
        for grouped in found {
            dealt.push(self.dealt(spine, grouped)?);
        }
        if dealt.is_empty() {
            dealt.push(RecordBatch::new_empty(self.schema.clone()));
        }
        let groups = 0..spine.group_count() as u32;
        let outputs = match spine.position_count() {
            0 => self.program.of_nothing()?,
            positions => {
                let sorted = Sorted::new(&self.program, groups.clone(), dealt)?;
                let piece = Piece {
                    groups,
                    positions: 0..positions,
                };
                aggregate(&self.program, spine, &piece, &sorted)?
            }
        };
        let mut places: Vec<Option<u32>> = vec![None; spine.row_count()];
        for (position, row) in spine.rows().iter().enumerate() {
            places[*row as usize] = Some(position as u32);
        }
        let places = UInt32Array::from(places);
        let rows = outputs
            .iter()
            .map(|output| Ok(take(output, &places, None)?));
        rows.collect()
    }

    /// The event times, in microseconds.
    pub fn times(&self, events: &RecordBatch) -> Result<Int64Array> {
        let times = self.spec.event_time.evaluate(events)?;
        micros(&times.into_array(events.num_rows())?)
    }

    /// The events that matter, as [`Sorted`] takes them.
    pub(super) fn dealt(&self, spine: &Spine, grouped: &GroupedEvents) -> Result<RecordBatch> {
        let events = &grouped.events;
        let times = self.times(events)?;
        let (first, last) = self.program.reach(spine.times());
        let matters = |row: usize| {
            let time = times.value(row);
            grouped.groups[row] != NO_GROUP && times.is_valid(row) && first <= time && time <= last
        };
        let matters = BooleanBuffer::collect_bool(events.num_rows(), matters);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(grouped.groups.clone())),
            Arc::new(Int64Array::new(times.values().clone(), None)),
        ];
        let kept = self.program.kept.iter();
        columns.extend(kept.map(|at| events.column(*at).clone()));
        let dealt = RecordBatch::try_new(self.schema.clone(), columns)?;
        if matters.count_set_bits() == dealt.num_rows() {
            return Ok(dealt);
        }
        let matters = BooleanArray::new(matters, None);
        Ok(filter_record_batch(&dealt, &matters)?)
    }
}
