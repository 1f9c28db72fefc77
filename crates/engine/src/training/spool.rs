//! A spine that comes in batches from afar, kept on disk until it is read.
//!
//! Batches go into a file of the spill folder as they come, as one Arrow IPC
//! stream, so that a spine of any length holds no memory; the file goes when
//! the spine does. The spill folder's own bound is kept; whoever fills a spool
//! bounds its bytes.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, SpillFile, SpillWriter, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::{StreamExt, TryStreamExt, stream};

use super::spine::Spine;
use crate::engine::Engine;
use crate::error::EngineError;

/// Takes in the batches of a spine.
pub struct Spool {
    schema: SchemaRef,
    file: Arc<dyn SpillFile>,
    writer: StreamWriter<Box<dyn SpillWriter>>,
}

impl fmt::Debug for Spool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spool")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl Engine {
    /// An empty spool for batches of a schema.
    pub fn spool(&self, schema: SchemaRef) -> Result<Spool, EngineError> {
        let disk = &self.runtime().disk_manager;
        let file = disk.create_tmp_file("keeping a spine").map_err(failed)?;
        let writer = file.open_writer().map_err(failed)?;
        let writer = StreamWriter::try_new(writer, &schema).map_err(|e| failed(e.into()))?;
        Ok(Spool {
            schema,
            file,
            writer,
        })
    }
}

impl Spool {
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), EngineError> {
        self.writer.write(batch).map_err(|e| failed(e.into()))
    }

    /// The batches as a spine, in their order.
    pub fn finish(self) -> Result<Spine, EngineError> {
        let ended = self.writer.into_inner();
        let mut writer = ended.map_err(|e| failed(e.into()))?;
        writer.finish().map_err(failed)?;
        let schema = self.schema.clone();
        let spooled = Spooled {
            schema: self.schema,
            file: self.file,
        };
        let table = StreamingTable::try_new(schema, vec![Arc::new(spooled)]).map_err(failed)?;
        Ok(Spine::Table(Arc::new(table)))
    }
}

fn failed(error: DataFusionError) -> EngineError {
    EngineError::from_query("the spine", error)
}

/// A spool that is full; read as often as it is asked for.
struct Spooled {
    schema: SchemaRef,
    file: Arc<dyn SpillFile>,
}

impl fmt::Debug for Spooled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Spooled")
            .field("schema", &self.schema)
            .finish_non_exhaustive()
    }
}

impl PartitionStream for Spooled {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _context: Arc<TaskContext>) -> SendableRecordBatchStream {
        // The file lives as long as whoever reads it.
        let file = self.file.clone();
        let batches = stream::once(async move {
            let parts = file.read_stream()?;
            let state = (parts, Buffer::default(), StreamDecoder::new(), file);
            Ok::<_, DataFusionError>(stream::try_unfold(state, async |state| {
                let (mut parts, mut rest, mut decoder, file) = state;
                loop {
                    if let Some(batch) = decoder.decode(&mut rest)? {
                        return Ok(Some((batch, (parts, rest, decoder, file))));
                    }
                    match parts.next().await.transpose()? {
                        Some(part) => rest = part.into(),
                        None => {
                            decoder.finish()?;
                            return Ok::<_, DataFusionError>(None);
                        }
                    }
                }
            }))
        });
        let batches = batches.try_flatten();
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{DictionaryArray, Int64Array};
    use arrow::datatypes::Int8Type;

    use super::*;
    use crate::engine::Joins;
    use crate::training::spine::tests::engine;

    fn batch(ids: [i64; 2], words: [&str; 2]) -> RecordBatch {
        let words: DictionaryArray<Int8Type> = words.into_iter().collect();
        RecordBatch::try_from_iter([
            ("id", Arc::new(Int64Array::from(ids.to_vec())) as _),
            ("word", Arc::new(words) as _),
        ])
        .unwrap()
    }

    async fn read(engine: &Engine, spine: &Spine) -> Vec<RecordBatch> {
        let Spine::Table(table) = spine else {
            panic!("a table was expected");
        };
        let context = engine.context(None, Joins::default());
        let frame = context.read_table(table.clone()).unwrap();
        frame.collect().await.unwrap()
    }

    #[tokio::test]
    async fn batches_come_back_as_often_as_they_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path());
        let given = [batch([3, 1], ["a", "b"]), batch([2, 9], ["c", "a"])];
        let mut spool = engine.spool(given[0].schema()).unwrap();
        for batch in &given {
            spool.write(batch).unwrap();
        }
        let spine = spool.finish().unwrap();
        for _ in 0..2 {
            assert_eq!(read(&engine, &spine).await, given);
        }
    }

    #[tokio::test]
    async fn an_empty_spool_has_no_rows() {
        let folder = tempfile::tempdir().unwrap();
        let engine = engine(folder.path());
        let schema = batch([1, 2], ["a", "b"]).schema();
        let spine = engine.spool(schema).unwrap().finish().unwrap();
        assert_eq!(read(&engine, &spine).await, []);
    }
}
