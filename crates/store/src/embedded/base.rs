//! The rows that a generation was made with: a file that is written once and
//! never changed.
//!
//! | part | bytes |
//! |---|---|
//! | header | 64: magic, format, rows, where the records end, buckets, slots |
//! | records | in order of their stored keys (`changes.rs`): length of the key (4), of the row (4), key, row |
//! | table | from the next multiple of 8: slots of 8, a key's [`TAG_BITS`] hash bits and its record's place, 0 for none |
//!
//! Numbers are little endian. A key's hash (XXH3) names the bucket from which
//! on slots are looked at, up to an empty one or the end; two slots in three are
//! taken. So a row costs two visits to memory, which
//! the reads of many keys have under way at the same time: see [`lookups`].
//!
//! Why not a B-tree: a search of one visits memory once a level, each visit
//! waiting for the one before it.
//!
//! [`lookups`]: super::lookups

use std::fs::File;
use std::io::{BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use memmap2::{Advice, Mmap};
use xxhash_rust::xxh3::xxh3_64;

use super::EmbeddedSettings;
use super::folder::io_error;
use crate::error::StoreError;

const MAGIC: [u8; 8] = *b"granrows";
/// The format that this version writes, and the newest that it reads.
const FORMAT: u64 = 1;
const HEADER_BYTES: usize = 64;
const RECORD_HEADER_BYTES: usize = 8;
const SLOT_BYTES: usize = 8;
const TAG_BITS: u32 = 16;
const PLACE_BITS: u32 = 64 - TAG_BITS;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// Slots of the table that are made at a time: 64 MiB.
const WINDOW_SLOTS: u64 = 8 << 20;
const WRITE_BYTES: usize = 1 << 20;

/// An open file.
#[derive(Debug)]
pub(super) struct BaseFile {
    path: PathBuf,
    map: Mmap,
    header: Header,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    rows: u64,
    records_end: u64,
    buckets: u64,
    slots: u64,
}

impl Header {
    fn table_at(&self) -> u64 {
        self.records_end.next_multiple_of(SLOT_BYTES as u64)
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let numbers = [
            FORMAT,
            self.rows,
            self.records_end,
            self.buckets,
            self.slots,
        ];
        let mut bytes = [0; HEADER_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        for (to, number) in bytes[8..].chunks_exact_mut(8).zip(numbers) {
            to.copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    /// `None` where it is not the header of a file of that length.
    fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let number = |at: usize| read_u64(bytes, at * 8);
        if bytes.get(..8)? != MAGIC || number(1)? != FORMAT {
            return None;
        }
        let header = Self {
            rows: number(2)?,
            records_end: number(3)?,
            buckets: number(4)?,
            slots: number(5)?,
        };
        let table = header.slots.checked_mul(SLOT_BYTES as u64)?;
        let end = header.table_at().checked_add(table)?;
        let whole = header.records_end >= HEADER_BYTES as u64
            && header.buckets == buckets_of(header.rows)
            && header.slots >= header.buckets
            && end == bytes.len() as u64;
        whole.then_some(header)
    }
}

/// Two slots in three are taken.
fn buckets_of(rows: u64) -> u64 {
    rows.saturating_add(rows / 2).saturating_add(1)
}

#[inline]
fn read_u64(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// What a key's slot is found by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct KeyHash(u64);

impl KeyHash {
    #[inline]
    pub(super) fn of(key: &[u8]) -> Self {
        Self(xxh3_64(key))
    }

    #[inline]
    fn bucket(self, buckets: u64) -> u64 {
        ((u128::from(self.0) * u128::from(buckets)) >> 64) as u64
    }

    /// Bits that the bucket hardly depends on, where a slot has them.
    #[inline]
    fn tag(self) -> u64 {
        self.0 << PLACE_BITS
    }
}

/// A record that may be a key's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    slot: u64,
    place: usize,
}

impl BaseFile {
    /// The file at a path, of which the manifest says how long it is; `None`
    /// where it is not there any more.
    pub(super) fn open(
        path: &Path,
        bytes: u64,
        settings: &EmbeddedSettings,
    ) -> Result<Option<Self>, StoreError> {
        let failed = |e| io_error(path, "the rows", e);
        let file = match File::open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let found = file.metadata().map_err(failed)?.len();
        let damaged = |reason| StoreError::Damaged {
            path: path.to_owned(),
            reason,
        };
        if found != bytes {
            return Err(damaged(format!("cut short: {found} of {bytes} bytes")));
        }
        let map = map(&file).map_err(failed)?;
        if !settings.read_ahead {
            map.advise(Advice::Random).map_err(failed)?;
        }
        let header = Header::from_bytes(&map);
        Ok(Some(Self {
            header: header.ok_or_else(|| damaged("not a file of rows".to_owned()))?,
            path: path.to_owned(),
            map,
        }))
    }

    pub(super) fn rows(&self) -> u64 {
        self.header.rows
    }

    /// Has the key's first slot on its way from memory.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        let bucket = hash.bucket(self.header.buckets);
        prefetch(&self.map, self.slot_at(bucket));
    }

    /// The first record that may be the key's, on its way from memory.
    #[inline]
    pub(super) fn candidate(&self, hash: KeyHash) -> Option<Candidate> {
        let found = self.candidate_from(hash, hash.bucket(self.header.buckets))?;
        prefetch(&self.map, found.place);
        prefetch(&self.map, found.place + CACHE_LINE_BYTES);
        Some(found)
    }

    /// The row of a key, from its first candidate on.
    #[inline]
    pub(super) fn row_from(
        &self,
        mut candidate: Candidate,
        hash: KeyHash,
        key: &[u8],
    ) -> Result<Option<&[u8]>, StoreError> {
        loop {
            let (found, row) = self.record(candidate.place)?;
            if found == key {
                return Ok(Some(row));
            }
            match self.candidate_from(hash, candidate.slot + 1) {
                Some(next) => candidate = next,
                None => return Ok(None),
            }
        }
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<&[u8]>, StoreError> {
        let hash = KeyHash::of(key);
        match self.candidate(hash) {
            Some(candidate) => self.row_from(candidate, hash, key),
            None => Ok(None),
        }
    }

    /// Keys and rows, in order of the stored keys.
    pub(super) fn records(&self) -> Records<'_> {
        Records {
            path: &self.path,
            bytes: &self.map[..self.header.records_end as usize],
            at: HEADER_BYTES,
        }
    }

    #[inline]
    fn slot_at(&self, slot: u64) -> usize {
        (self.header.table_at() + slot * SLOT_BYTES as u64) as usize
    }

    #[inline]
    fn candidate_from(&self, hash: KeyHash, from: u64) -> Option<Candidate> {
        let tag = hash.tag();
        for slot in from..self.header.slots {
            let taken = read_u64(&self.map, self.slot_at(slot))?;
            if taken == 0 {
                return None;
            }
            if taken & !PLACE_MASK == tag {
                let place = (taken & PLACE_MASK) as usize;
                return Some(Candidate { slot, place });
            }
        }
        None
    }

    #[inline]
    fn record(&self, place: usize) -> Result<(&[u8], &[u8]), StoreError> {
        let found = record(&self.map[..self.header.records_end as usize], place);
        found.ok_or_else(|| broken(&self.path, place))
    }
}

fn broken(path: &Path, place: usize) -> StoreError {
    StoreError::Damaged {
        path: path.to_owned(),
        reason: format!("no row at byte {place}"),
    }
}

/// The key and the row of the record at a place.
#[inline]
fn record(bytes: &[u8], place: usize) -> Option<(&[u8], &[u8])> {
    let lengths = read_u64(bytes, place)?;
    let (key, row) = (lengths as u32 as usize, (lengths >> 32) as usize);
    let rest = bytes.get(place + RECORD_HEADER_BYTES..)?;
    let (key, rest) = rest.split_at_checked(key)?;
    Some((key, rest.get(..row)?))
}

#[allow(unsafe_code, reason = "a file is mapped")]
fn map(file: &File) -> std::io::Result<Mmap> {
    // SAFETY: files of rows are written under names of their own, are not
    // changed once they are whole, and are removed, never made smaller.
    unsafe { Mmap::map(file) }
}

const CACHE_LINE_BYTES: usize = 64;

#[cfg(target_arch = "x86_64")]
#[inline]
#[allow(unsafe_code, reason = "std has no safe prefetch")]
fn prefetch(bytes: &[u8], at: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch of any address is harmless, and this one was computed
    // without leaving the allocation by pointer arithmetic.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(bytes.as_ptr().wrapping_add(at).cast()) }
}

/// Elsewhere the look-ups under way are those that the processor finds itself.
#[cfg(not(target_arch = "x86_64"))]
#[inline]
fn prefetch(_bytes: &[u8], _at: usize) {}

/// See [`BaseFile::records`].
#[derive(Debug)]
pub(super) struct Records<'f> {
    path: &'f Path,
    bytes: &'f [u8],
    at: usize,
}

impl<'f> Iterator for Records<'f> {
    type Item = Result<(&'f [u8], &'f [u8]), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.bytes.len() {
            return None;
        }
        let place = self.at;
        match record(self.bytes, place) {
            Some((key, row)) => {
                self.at += RECORD_HEADER_BYTES + key.len() + row.len();
                Some(Ok((key, row)))
            }
            None => {
                self.at = self.bytes.len();
                Some(Err(broken(self.path, place)))
            }
        }
    }
}

/// Makes a file; it is whole, and durable, when [`finish`](Self::finish) returns.
#[derive(Debug)]
pub(super) struct BaseWriter {
    path: PathBuf,
    file: BufWriter<File>,
    rows: u64,
    at: u64,
    window_slots: u64,
}

impl BaseWriter {
    pub(super) fn create(path: &Path) -> Result<Self, StoreError> {
        let mut options = File::options();
        let opened = options.read(true).write(true).create(true).truncate(true);
        let file = opened.open(path).and_then(|file| {
            let mut file = BufWriter::with_capacity(WRITE_BYTES, file);
            file.write_all(&[0; HEADER_BYTES])?;
            Ok(file)
        });
        Ok(Self {
            file: file.map_err(|e| io_error(path, "the rows", e))?,
            path: path.to_owned(),
            rows: 0,
            at: HEADER_BYTES as u64,
            window_slots: WINDOW_SLOTS,
        })
    }

    /// One more row, of a key whose stored key is greater than those before.
    pub(super) fn append(&mut self, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        let too_long = |_| StoreError::Codec("a key or a row of more than 4 GiB".to_owned());
        let lengths = [
            u32::try_from(key.len()).map_err(too_long)?,
            u32::try_from(row.len()).map_err(too_long)?,
        ];
        let parts = [
            &lengths[0].to_le_bytes()[..],
            &lengths[1].to_le_bytes(),
            key,
            row,
        ];
        for part in parts {
            self.file.write_all(part).map_err(|e| self.failed(e))?;
            self.at += part.len() as u64;
        }
        self.rows += 1;
        Ok(())
    }

    /// The rows appended so far.
    pub(super) fn written(&mut self) -> Result<WrittenRows, StoreError> {
        self.file.flush().map_err(|e| self.failed(e))?;
        Ok(WrittenRows {
            path: self.path.clone(),
            map: map(self.file.get_ref()).map_err(|e| self.failed(e))?,
        })
    }

    /// Writes the table; gives the file's length.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        let mut header = Header {
            rows: self.rows,
            records_end: self.at,
            buckets: buckets_of(self.rows),
            slots: 0,
        };
        let records = self.written()?;
        let padding = (header.table_at() - self.at) as usize;
        self.put(&[0; SLOT_BYTES][..padding])?;
        header.slots = self.write_table(&records, header.buckets)?;
        self.file
            .seek(SeekFrom::Start(0))
            .map_err(|e| self.failed(e))?;
        self.put(&header.to_bytes())?;
        self.file.flush().map_err(|e| self.failed(e))?;
        let file = self.file.get_ref();
        file.sync_all().map_err(|e| self.failed(e))?;
        Ok(header.table_at() + header.slots * SLOT_BYTES as u64)
    }

    /// A window of slots after another, each filled in one pass over the
    /// records, so that the memory that this takes is bounded.
    fn write_table(&mut self, records: &WrittenRows, buckets: u64) -> Result<u64, StoreError> {
        let mut slots = 0;
        // Those that found no room in the windows before.
        let mut carried: Vec<u64> = Vec::new();
        while slots < buckets {
            let end = (slots + self.window_slots).min(buckets);
            let mut window = vec![0; (end - slots) as usize];
            let mut place_at = HEADER_BYTES as u64;
            let mut left: Vec<u64> = Vec::new();
            let mut put = |slot: u64, from: u64| {
                let free = window[from as usize..]
                    .iter_mut()
                    .find(|taken| **taken == 0);
                match free {
                    Some(free) => *free = slot,
                    None => left.push(slot),
                }
            };
            carried.drain(..).for_each(|slot| put(slot, 0));
            for record in records.records() {
                let (key, row) = record?;
                let hash = KeyHash::of(key);
                let bucket = hash.bucket(buckets);
                if (slots..end).contains(&bucket) {
                    put(hash.tag() | place_at, bucket - slots);
                }
                place_at += (RECORD_HEADER_BYTES + key.len() + row.len()) as u64;
            }
            self.put_slots(&window)?;
            carried = left;
            slots = end;
        }
        self.put_slots(&carried)?;
        Ok(slots + carried.len() as u64)
    }

    fn put_slots(&mut self, slots: &[u64]) -> Result<(), StoreError> {
        slots
            .iter()
            .try_for_each(|slot| self.put(&slot.to_le_bytes()))
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.file.write_all(bytes).map_err(|e| self.failed(e))
    }

    fn failed(&self, error: std::io::Error) -> StoreError {
        io_error(&self.path, "the rows", error)
    }
}

/// The rows of a file that is not finished.
#[derive(Debug)]
pub(super) struct WrittenRows {
    path: PathBuf,
    map: Mmap,
}

impl WrittenRows {
    pub(super) fn records(&self) -> Records<'_> {
        Records {
            path: &self.path,
            bytes: &self.map,
            at: HEADER_BYTES,
        }
    }
}

#[cfg(test)]
mod tests;
