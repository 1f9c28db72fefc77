//! The rows that a generation was made with: a file that is written once and
//! never changed.
//!
//! | part | bytes |
//! |---|---|
//! | header | 64: magic, format, rows, where the records end, homes, lines, hash of the records (0: not known), the oldest event time in UTC microseconds (0: not known) |
//! | records | in order of their stored keys (`changes.rs`): length of the key (4), of the row (4), key, row |
//! | table | from the next multiple of 64: lines of eight slots, each 16 bits of a key's hash and 48 of its record's place, or 0 |
//!
//! Numbers are little endian. A key's hash (XXH3) names its home, the line from
//! which on lines are looked at up to one that has an empty slot; two slots in
//! three are taken, each as near to its key's home as there was room. A line is
//! one of the cache, and is looked at as a whole, without a branch a slot. So a
//! row costs two visits to memory, which the reads of many keys have under way at
//! the same time: see [`lookups`].
//!
//! Why not a B-tree: a search of one visits memory once a level, each visit
//! waiting for the one before it.
//!
//! [`lookups`]: super::lookups

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};

use granary_model::UtcMicros;
use memmap2::{Advice, Mmap};
use tracing::warn;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::EmbeddedSettings;
use super::folder::io_error;
use crate::codec::RowOrder;
use crate::error::StoreError;

const MAGIC: [u8; 8] = *b"granrows";
/// The format that this version writes, and the newest that it reads.
const FORMAT: u64 = 1;
const HEADER_BYTES: usize = 64;
const RECORD_HEADER_BYTES: usize = 8;
const SLOT_BYTES: usize = 8;
const LINE_SLOTS: usize = 8;
pub(super) const LINE_BYTES: usize = LINE_SLOTS * SLOT_BYTES;
const PLACE_BITS: u32 = 48;
/// In the place of an oldest event time; one that is the same counts as not known.
const NOT_KNOWN: i64 = 0;
const PLACE_MASK: u64 = (1 << PLACE_BITS) - 1;
/// Lines of the table that are made at a time: 64 MiB.
const WINDOW_LINES: u64 = 1 << 20;
/// Bytes of a record that are on their way before it is looked at, at most.
const ASKED_BYTES_MAX: usize = 8 * LINE_BYTES;
/// Writes end at multiples of it: so a system with large pages has the file in
/// such, where a visit to memory has the shorter way.
const CHUNK_BYTES: usize = 4 << 20;

/// An open file.
#[derive(Debug)]
pub(super) struct BaseFile {
    path: PathBuf,
    map: Mmap,
    /// Whether pages stay in memory.
    is_locked: bool,
    header: Header,
    /// Bytes that a record mostly takes.
    usual_bytes: usize,
    /// As in the header at first; sweeps set it.
    oldest: AtomicI64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    rows: u64,
    records_end: u64,
    /// Lines that are somebody's home.
    homes: u64,
    /// These, and behind them those for which there was no room.
    lines: u64,
    /// 0 in files that were written before it was kept.
    content: u64,
    /// [`NOT_KNOWN`] in those, and where rows have no event time or there are none.
    oldest: i64,
}

impl Header {
    fn table_at(&self) -> u64 {
        self.records_end.next_multiple_of(LINE_BYTES as u64)
    }

    fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let numbers = [
            FORMAT,
            self.rows,
            self.records_end,
            self.homes,
            self.lines,
            self.content,
            self.oldest.cast_unsigned(),
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
            homes: number(4)?,
            lines: number(5)?,
            content: number(6)?,
            oldest: number(7)?.cast_signed(),
        };
        let table = header.lines.checked_mul(LINE_BYTES as u64)?;
        let at = header
            .records_end
            .checked_next_multiple_of(LINE_BYTES as u64)?;
        let end = at.checked_add(table)?;
        let whole = header.records_end >= HEADER_BYTES as u64
            && header.homes == homes_of(header.rows)
            && header.lines >= header.homes
            && end == bytes.len() as u64;
        whole.then_some(header)
    }
}

fn homes_of(rows: u64) -> u64 {
    let slots = rows.saturating_add(rows / 2);
    slots / LINE_SLOTS as u64 + 1
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
    fn home(self, homes: u64) -> u64 {
        ((u128::from(self.0) * u128::from(homes)) >> 64) as u64
    }

    /// Bits that the home hardly depends on, where a slot has them. Never 0, as
    /// an empty slot is.
    #[inline]
    fn tag(self) -> u64 {
        (self.0 | 1) << PLACE_BITS
    }
}

/// A record that may be a key's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Candidate {
    line: u64,
    slot: u32,
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
        match settings.read_ahead {
            // A system without large pages refuses.
            #[cfg(target_os = "linux")]
            true => map.advise(Advice::HugePage).unwrap_or_default(),
            #[cfg(not(target_os = "linux"))]
            true => {}
            false => map.advise(Advice::Random).map_err(failed)?,
        }
        let is_locked = settings.memory_lock && is_locked(&map, path);
        let header = Header::from_bytes(&map);
        let header = header.ok_or_else(|| damaged("not a file of rows".to_owned()))?;
        let usual_bytes = header.records_end / header.rows.max(1);
        Ok(Some(Self {
            header,
            usual_bytes: usual_bytes as usize,
            oldest: AtomicI64::new(header.oldest),
            path: path.to_owned(),
            map,
            is_locked,
        }))
    }

    /// Brings what is to stay in memory there before it is read: else the first reads of
    /// a file that takes another's place would, each page by page.
    pub(super) fn bring_in(&self) {
        #[cfg(target_os = "linux")]
        if self.is_locked {
            for at in (0..self.map.len()).step_by(CHUNK_BYTES) {
                let bytes = CHUNK_BYTES.min(self.map.len() - at);
                // A system that is too old for it leaves it to the reads.
                if self
                    .map
                    .advise_range(Advice::PopulateRead, at, bytes)
                    .is_err()
                {
                    break;
                }
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn rows(&self) -> u64 {
        self.header.rows
    }

    pub(super) fn bytes(&self) -> u64 {
        self.map.len() as u64
    }

    /// A hash of keys and rows: that of other rows is another.
    pub(super) fn content(&self) -> u64 {
        self.header.content
    }

    /// A time that no row's event time is before, but for rows that a sweep removed
    /// since; `None` where it is not known.
    pub(super) fn oldest(&self) -> Option<UtcMicros> {
        let oldest = self.oldest.load(Ordering::Relaxed);
        (oldest != NOT_KNOWN).then_some(UtcMicros(oldest))
    }

    /// A sweep looked at all rows.
    pub(super) fn set_oldest(&self, oldest: UtcMicros) {
        self.oldest.store(oldest.0, Ordering::Relaxed);
    }

    /// Bytes of all records together.
    pub(super) fn records_bytes(&self) -> u64 {
        self.header.records_end - HEADER_BYTES as u64
    }

    /// Bytes that are worth asking for before a record is looked at.
    #[inline]
    pub(super) fn usual_bytes(&self) -> usize {
        self.usual_bytes.min(ASKED_BYTES_MAX)
    }

    /// Has the key's home on its way from memory.
    #[inline]
    pub(super) fn prefetch(&self, hash: KeyHash) {
        let home = hash.home(self.header.homes);
        prefetch(&self.map, self.line_at(home));
    }

    /// The first record that may be the key's.
    #[inline]
    pub(super) fn candidate(&self, hash: KeyHash) -> Option<Candidate> {
        self.candidate_from(hash, hash.home(self.header.homes), 0)
    }

    /// Has bytes of a record, counted from its beginning, on their way from
    /// memory.
    #[inline]
    pub(super) fn prefetch_record(&self, found: Candidate, bytes: Range<usize>) {
        if bytes.is_empty() {
            return;
        }
        let first = (found.place + bytes.start) & !(LINE_BYTES - 1);
        for line in (first..found.place + bytes.end).step_by(LINE_BYTES) {
            prefetch(&self.map, line);
        }
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
            match self.candidate_from(hash, candidate.line, candidate.slot + 1) {
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
    fn line_at(&self, line: u64) -> usize {
        (self.header.table_at() + line * LINE_BYTES as u64) as usize
    }

    /// From a slot of a line on.
    #[inline]
    fn candidate_from(&self, hash: KeyHash, from: u64, slot: u32) -> Option<Candidate> {
        let tag = hash.tag();
        let mut looked_at = (1 << slot) - 1;
        for line in from..self.header.lines {
            let slots = self.map.get(self.line_at(line)..)?;
            let slots: &[u8; LINE_BYTES] = slots.first_chunk()?;
            let (mut found, mut is_full) = (0_u32, true);
            for (at, slot) in slots.as_chunks().0.iter().enumerate() {
                let slot = u64::from_le_bytes(*slot);
                found |= u32::from((slot ^ tag) & !PLACE_MASK == 0) << at;
                is_full &= slot != 0;
            }
            found &= !looked_at;
            if found != 0 {
                let slot = found.trailing_zeros();
                let place = read_u64(slots, slot as usize * SLOT_BYTES)? & PLACE_MASK;
                return Some(Candidate {
                    line,
                    slot,
                    place: place as usize,
                });
            }
            if !is_full {
                return None;
            }
            looked_at = 0;
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

/// Whether it could be locked.
fn is_locked(map: &Mmap, path: &Path) -> bool {
    let locked = lock(map);
    if let Err(error) = &locked {
        let path = path.display();
        warn!(%path, %error, "memory_lock is without effect: see `ulimit -l`");
    }
    locked.is_ok()
}

/// Keeps pages of a file in memory from when they are first looked at.
#[cfg(target_os = "linux")]
#[allow(unsafe_code, reason = "a call of the system with a pointer")]
fn lock(map: &Mmap) -> std::io::Result<()> {
    // SAFETY: the range is the map's own, and a lock changes nothing of it. It ends
    // with the map.
    match unsafe { libc::mlock2(map.as_ptr().cast(), map.len(), libc::MLOCK_ONFAULT) } {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error()),
    }
}

/// Elsewhere there is no lock that does not read the whole file first.
#[cfg(not(target_os = "linux"))]
fn lock(_: &Mmap) -> std::io::Result<()> {
    Err(std::io::ErrorKind::Unsupported.into())
}

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
    file: File,
    /// What is not written yet: less than a chunk.
    waiting: Vec<u8>,
    written: usize,
    rows: u64,
    content: u64,
    /// What tells the event times of rows, and the oldest so far.
    order: Option<RowOrder>,
    oldest: Option<UtcMicros>,
    /// Where the next record goes.
    at: u64,
    window_lines: u64,
}

impl BaseWriter {
    /// With an order, of rows whose event times it tells.
    pub(super) fn create(path: &Path, order: Option<&RowOrder>) -> Result<Self, StoreError> {
        let failed = |e| io_error(path, "the rows", e);
        // What a killed writer left is not written over, but unlinked.
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let mut options = File::options();
        let made = options.read(true).write(true).create_new(true).open(path);
        Ok(Self {
            file: made.map_err(failed)?,
            waiting: vec![0; HEADER_BYTES],
            written: 0,
            path: path.to_owned(),
            rows: 0,
            content: 0,
            order: order.cloned(),
            oldest: None,
            at: HEADER_BYTES as u64,
            window_lines: WINDOW_LINES,
        })
    }

    /// One more row, of a key whose stored key is greater than those before.
    pub(super) fn append(&mut self, key: &[u8], row: &[u8]) -> Result<(), StoreError> {
        let too_long = |_| StoreError::Codec("a key or a row of more than 4 GiB".to_owned());
        let lengths = [
            u32::try_from(key.len()).map_err(too_long)?,
            u32::try_from(row.len()).map_err(too_long)?,
        ];
        match self.order.as_ref().map(|order| order.event_time(row)) {
            Some(Ok(time)) => self.oldest = [self.oldest, time].into_iter().flatten().min(),
            // Whoever reads the row is told; its time nobody knows.
            Some(Err(_)) => (self.order, self.oldest) = (None, None),
            None => {}
        }
        let parts = [
            &lengths[0].to_le_bytes()[..],
            &lengths[1].to_le_bytes(),
            key,
            row,
        ];
        for part in parts {
            self.waiting.extend_from_slice(part);
            self.at += part.len() as u64;
        }
        self.rows += 1;
        self.content = xxh3_64_with_seed(row, xxh3_64_with_seed(key, self.content));
        self.write_chunks()
    }

    /// The rows appended so far.
    pub(super) fn written(&mut self) -> Result<WrittenRows, StoreError> {
        self.write_waiting()?;
        Ok(WrittenRows {
            path: self.path.clone(),
            map: map(&self.file).map_err(|e| self.failed(e))?,
        })
    }

    /// Writes the table; gives the file's length.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        let mut header = Header {
            rows: self.rows,
            records_end: self.at,
            homes: homes_of(self.rows),
            lines: 0,
            content: self.content,
            oldest: self.oldest.map_or(NOT_KNOWN, |oldest| oldest.0),
        };
        let records = self.written()?;
        let padding = (header.table_at() - self.at) as usize;
        self.waiting.resize(self.waiting.len() + padding, 0);
        header.lines = self.write_table(&records, header.homes)?;
        self.write_waiting()?;
        let headed = { self.file.seek(SeekFrom::Start(0)) }
            .and_then(|_| self.file.write_all(&header.to_bytes()))
            .and_then(|()| self.file.sync_all());
        headed.map_err(|e| self.failed(e))?;
        Ok(header.table_at() + header.lines * LINE_BYTES as u64)
    }

    /// A window of lines after another, each filled in one pass over the
    /// records, so that the memory that this takes is bounded. Gives the number
    /// of lines.
    fn write_table(&mut self, records: &WrittenRows, homes: u64) -> Result<u64, StoreError> {
        let mut lines = 0;
        // Slots that found no room in the windows before.
        let mut carried: Vec<u64> = Vec::new();
        while lines < homes {
            let end = (lines + self.window_lines).min(homes);
            let mut window = vec![0; (end - lines) as usize * LINE_SLOTS];
            let mut place = HEADER_BYTES as u64;
            let mut left: Vec<u64> = Vec::new();
            let mut put = |slot: u64, line: u64| {
                let mut room = window[line as usize * LINE_SLOTS..].iter_mut();
                match room.find(|taken| **taken == 0) {
                    Some(free) => *free = slot,
                    None => left.push(slot),
                }
            };
            carried.drain(..).for_each(|slot| put(slot, 0));
            for record in records.records() {
                let (key, row) = record?;
                let hash = KeyHash::of(key);
                let home = hash.home(homes);
                if (lines..end).contains(&home) {
                    put(hash.tag() | place, home - lines);
                }
                place += (RECORD_HEADER_BYTES + key.len() + row.len()) as u64;
            }
            self.put_slots(&window)?;
            carried = left;
            lines = end;
        }
        // The last line has an empty slot.
        carried.resize((carried.len() + 1).next_multiple_of(LINE_SLOTS), 0);
        self.put_slots(&carried)?;
        Ok(lines + (carried.len() / LINE_SLOTS) as u64)
    }

    fn put_slots(&mut self, slots: &[u64]) -> Result<(), StoreError> {
        for slots in slots.chunks(CHUNK_BYTES / SLOT_BYTES) {
            let bytes = slots.iter().flat_map(|slot| slot.to_le_bytes());
            self.waiting.extend(bytes);
            self.write_chunks()?;
        }
        Ok(())
    }

    fn write_chunks(&mut self) -> Result<(), StoreError> {
        loop {
            let room = CHUNK_BYTES - self.written % CHUNK_BYTES;
            if self.waiting.len() < room {
                return Ok(());
            }
            let chunk = self.file.write_all(&self.waiting[..room]);
            chunk.map_err(|e| self.failed(e))?;
            self.waiting.drain(..room);
            self.written += room;
        }
    }

    fn write_waiting(&mut self) -> Result<(), StoreError> {
        let written = self.file.write_all(&self.waiting);
        self.written += self.waiting.len();
        self.waiting.clear();
        written.map_err(|e| self.failed(e))
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
