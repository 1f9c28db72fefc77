//! The results of all pieces, and from them output columns in the order of the
//! spine.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::compute::interleave;
use arrow::datatypes::SchemaRef;
use datafusion::error::Result;

use super::bucket::Piece;
use super::program::Program;
use super::work::Taken;
use crate::asof::spine::Spine;

/// The outputs of a piece, a row a position.
pub(super) type Results = (Piece, Vec<ArrayRef>);

/// What a part of the spine found.
pub(super) struct Answers {
    /// By piece, a column an output; the last is that of no events, one row.
    columns: Vec<Vec<ArrayRef>>,
    /// Piece and place of each row of the part.
    sources: Vec<(u32, u32)>,
    _memory: Arc<Taken>,
}

impl Answers {
    /// `results` cover some of the positions, each once.
    pub(super) fn new(
        program: &Program,
        spine: &Spine,
        results: Vec<Results>,
        memory: Arc<Taken>,
    ) -> Result<Self> {
        let nothing = results.len() as u32;
        let mut sources = vec![(nothing, 0); spine.row_count()];
        let mut columns = Vec::with_capacity(results.len() + 1);
        for (number, (piece, outputs)) in results.into_iter().enumerate() {
            for (place, row) in spine.rows()[piece.positions].iter().enumerate() {
                sources[*row as usize] = (number as u32, place as u32);
            }
            columns.push(outputs);
        }
        columns.push(program.of_nothing()?);
        Ok(Self {
            columns,
            sources,
            _memory: memory,
        })
    }

    /// The output for one batch of the spine, whose rows these are in the part.
    pub(super) fn batch(
        &self,
        schema: &SchemaRef,
        batch: &RecordBatch,
        rows: Range<usize>,
    ) -> Result<RecordBatch> {
        let sources = self.sources[rows].iter();
        let sources: Vec<(usize, usize)> = sources
            .map(|(piece, place)| (*piece as usize, *place as usize))
            .collect();
        let mut columns = batch.columns().to_vec();
        let outputs = schema.fields().len() - columns.len();
        for output in 0..outputs {
            let pieces: Vec<&dyn Array> = self.columns.iter().map(|p| p[output].as_ref()).collect();
            columns.push(interleave(&pieces, &sources)?);
        }
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}
