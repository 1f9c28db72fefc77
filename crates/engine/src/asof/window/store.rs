//! Dealt events until their bucket's turn comes: in memory, or on disk where
//! there is not enough of it.
//!
//! A spill file is a short Arrow IPC stream a bucket (schema, dictionaries, one
//! batch), whose places are kept in memory, so that a bucket is read alone.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::buffer::Buffer;
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::disk_manager::DiskManager;
use datafusion::execution::memory_pool::MemoryReservation;
use datafusion::execution::spill_file::SpillFile;
use datafusion::physical_plan::metrics::SpillMetrics;

use super::dealer::Chunk;
use crate::asof::compact::compact;

const WRITE_BUFFER_BYTES: usize = 1 << 20;

/// Dealt events.
pub(super) struct Store {
    schema: SchemaRef,
    bucket_count: usize,
    chunks: Vec<Chunk>,
    files: Vec<Spilled>,
    /// Bytes in memory at most, whatever the pool would give.
    held_bytes_max: usize,
    reservation: MemoryReservation,
    disk: Arc<DiskManager>,
    metrics: SpillMetrics,
    rows: usize,
    bytes: usize,
}

struct Spilled {
    file: File,
    /// Keeps the file from being deleted.
    _spill: Arc<dyn SpillFile>,
    buckets: Vec<Place>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    offset: u64,
    bytes: usize,
    rows: usize,
}

impl Store {
    pub(super) fn new(
        schema: SchemaRef,
        bucket_count: usize,
        held_bytes_max: usize,
        reservation: MemoryReservation,
        disk: Arc<DiskManager>,
        metrics: SpillMetrics,
    ) -> Self {
        Self {
            schema,
            bucket_count,
            chunks: Vec::new(),
            files: Vec::new(),
            held_bytes_max,
            reservation,
            disk,
            metrics,
            rows: 0,
            bytes: 0,
        }
    }

    /// Takes in a chunk. All that is in memory is written out where it does not
    /// fit any more.
    pub(super) fn push(&mut self, chunk: Chunk) -> Result<()> {
        let bytes = chunk.events.get_array_memory_size();
        self.rows += chunk.events.num_rows();
        self.bytes += bytes;
        self.chunks.push(chunk);
        let held = self.reservation.size() + bytes;
        if held > self.held_bytes_max || self.reservation.try_grow(bytes).is_err() {
            self.spill()?;
        }
        Ok(())
    }

    fn spill(&mut self) -> Result<()> {
        let chunks = std::mem::take(&mut self.chunks);
        let spill = self.disk.create_tmp_file("AsOfWindowExec")?;
        let path = spill.path().ok_or_else(|| {
            DataFusionError::NotImplemented("windows spill to local files only".into())
        })?;
        let file = File::open(path)?;
        let writer = BufWriter::with_capacity(WRITE_BUFFER_BYTES, spill.open_writer()?);
        let mut writer = Counted { writer, bytes: 0 };
        let mut buckets = Vec::with_capacity(self.bucket_count);
        for bucket in 0..self.bucket_count {
            let slices = chunks.iter().filter(|chunk| chunk.rows(bucket) > 0);
            let slices: Vec<RecordBatch> = slices.map(|chunk| chunk.slice(bucket)).collect();
            let offset = writer.bytes;
            let mut rows = 0;
            if !slices.is_empty() {
                let events = whole(&concat_batches(&self.schema, &slices)?)?;
                rows = events.num_rows();
                let mut stream = StreamWriter::try_new(&mut writer, &self.schema)?;
                stream.write(&events)?;
                stream.finish()?;
            }
            buckets.push(Place {
                offset,
                bytes: (writer.bytes - offset) as usize,
                rows,
            });
        }
        writer.flush()?;
        self.metrics.spill_file_count.add(1);
        self.metrics.spilled_bytes.add(writer.bytes as usize);
        let rows = buckets.iter().map(|place| place.rows).sum();
        self.metrics.spilled_rows.add(rows);
        self.files.push(Spilled {
            file,
            _spill: spill,
            buckets,
        });
        self.reservation.free();
        Ok(())
    }

    /// Events of a bucket.
    pub(super) fn rows(&self, bucket: usize) -> usize {
        let held = self.chunks.iter().map(|chunk| chunk.rows(bucket));
        let files = self.files.iter().map(|file| file.buckets[bucket].rows);
        held.sum::<usize>() + files.sum::<usize>()
    }

    /// What an event takes on average.
    pub(super) fn row_bytes(&self) -> usize {
        self.bytes / self.rows.max(1)
    }

    /// The events of a bucket, a batch at a time.
    pub(super) fn batches(&self, bucket: usize) -> impl Iterator<Item = Result<RecordBatch>> {
        let files = self
            .files
            .iter()
            .filter(move |f| f.buckets[bucket].rows > 0);
        let held = self.chunks.iter().filter(move |c| c.rows(bucket) > 0);
        files
            .map(move |file| file.read(bucket))
            .chain(held.map(move |chunk| Ok(chunk.slice(bucket))))
    }
}

impl Spilled {
    fn read(&self, bucket: usize) -> Result<RecordBatch> {
        let place = self.buckets[bucket];
        let mut bytes = vec![0; place.bytes];
        self.file.read_exact_at(&mut bytes, place.offset)?;
        let mut buffer = Buffer::from_vec(bytes);
        let mut decoder = StreamDecoder::new();
        let batch = decoder.decode(&mut buffer)?;
        batch.ok_or_else(|| DataFusionError::Internal("a spill file ends early".into()))
    }
}

/// The batch with no buffers but of its own rows.
fn whole(batch: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().cloned().map(compact).collect();
    Ok(RecordBatch::try_new(batch.schema(), columns)?)
}

/// Knows where in a file it is.
struct Counted<W> {
    writer: W,
    bytes: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.writer.write(bytes)?;
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}
