//! A bundle: the rows of several views side by side, so that one look-up finds
//! all that is told of an entity.
//!
//! A read of an entity from five views looks for its key in five files, and each
//! time waits for lines of memory that lie by themselves; in a bundle they are
//! neighbours. A bundle is made of the bases of generations, and has rows of
//! those alone: it is never needed, and may be removed at any time. It says
//! nothing of a generation that changed since its base was written.
//!
//! Its file is one of rows (`base.rs`), in which a key has a *record* where a
//! base has a row:
//!
//! | part | bytes |
//! |---|---|
//! | lengths | 4 for each member: those of its row, or `FF FF FF FF` where it has none |
//! | rows | those that there are, in the order of the members |
//!
//! Numbers are little endian. Which generations the members are is not in the
//! file but in the manifest of the bundles (`listing.rs`).

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tracing::warn;

use super::EmbeddedSettings;
use super::base::{BaseFile, BaseWriter, Records};
use super::changes::{PLAIN_KEY_BYTES_MAX, stored_key};
use crate::error::StoreError;

pub(super) mod listing;

use listing::ListedBundle;

const LENGTH_BYTES: usize = 4;
/// Stands for the length of a row that is not there.
const ABSENT: u32 = u32::MAX;
/// Views of one entity in one bundle, at most: all their bases are read at the
/// same time when it is made.
pub(super) const MEMBERS_MAX: usize = 256;

/// An open bundle.
#[derive(Debug)]
pub(super) struct Bundle {
    /// No other bundle that this process opens has it.
    serial: u64,
    listed: ListedBundle,
    file: BaseFile,
    /// Where in a record the row of each member mostly begins, and the last ends.
    offsets: Vec<usize>,
    is_damaged: AtomicBool,
}

/// Which member of which bundle a generation is: the bundle's serial number, and
/// in the last 16 bits the member. 0: of none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Membership(u64);

impl Membership {
    pub(super) const NONE: Self = Self(0);

    #[inline]
    pub(super) fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline]
    pub(super) fn to_bits(self) -> u64 {
        self.0
    }

    #[inline]
    pub(super) fn serial(self) -> u64 {
        self.0 >> 16
    }

    #[inline]
    pub(super) fn member(self) -> usize {
        usize::from(self.0 as u16)
    }
}

static OPENED: AtomicU64 = AtomicU64::new(0);

impl Bundle {
    /// `None` where the file is not there any more.
    pub(super) fn open(
        path: &Path,
        listed: ListedBundle,
        settings: &EmbeddedSettings,
    ) -> Result<Option<Self>, StoreError> {
        let Some(file) = BaseFile::open(path, listed.bytes, settings)? else {
            return Ok(None);
        };
        let offsets = offsets(&listed, &file).ok_or_else(|| StoreError::Damaged {
            path: path.to_owned(),
            reason: "it is not what its manifest says".to_owned(),
        })?;
        Ok(Some(Self {
            serial: OPENED.fetch_add(1, Ordering::Relaxed) + 1,
            offsets,
            listed,
            file,
            is_damaged: AtomicBool::new(false),
        }))
    }

    #[inline]
    pub(super) fn serial(&self) -> u64 {
        self.serial
    }

    pub(super) fn listed(&self) -> &ListedBundle {
        &self.listed
    }

    #[inline]
    pub(super) fn file(&self) -> &BaseFile {
        &self.file
    }

    pub(super) fn membership(&self, member: usize) -> Membership {
        Membership(self.serial << 16 | member as u64)
    }

    /// Where in a record, counted from its beginning, a member's row mostly lies.
    #[inline]
    pub(super) fn usual(&self, member: usize) -> Range<usize> {
        self.offsets[member]..self.offsets[member + 1]
    }

    /// The rows of a record; `None` where it is damaged.
    #[inline]
    pub(super) fn rows<'r>(&self, record: &'r [u8]) -> Option<BundledRows<'r>> {
        BundledRows::of(record, self.listed.members.len())
    }

    /// Whether it was found to be damaged while it was read.
    #[inline]
    pub(super) fn is_damaged(&self) -> bool {
        self.is_damaged.load(Ordering::Relaxed)
    }

    /// From now on it is left alone.
    #[cold]
    pub(super) fn set_damaged(&self) {
        if !self.is_damaged.swap(true, Ordering::Relaxed) {
            let path = self.file.path().display();
            warn!(%path, "a damaged bundle is not used any more");
        }
    }
}

/// `None` where the file cannot be of such members.
fn offsets(listed: &ListedBundle, file: &BaseFile) -> Option<Vec<usize>> {
    let records = file.rows().max(1);
    let members = &listed.members;
    if members.is_empty() || members.len() > MEMBERS_MAX {
        return None;
    }
    let of_rows = members.iter().try_fold(0, |sum: u64, member| {
        // No sum of them overflows.
        sum.checked_add(member.row_bytes)
    })?;
    // What comes before the rows: the header, the key and the lengths.
    let before = file.records_bytes().checked_sub(of_rows)? / records;
    let mut at = before as usize;
    let ends = members.iter().map(|member| {
        at += (member.row_bytes / records) as usize;
        at
    });
    Some([before as usize].into_iter().chain(ends).collect())
}

/// The rows of a record, a member after the other.
#[derive(Debug, Clone, Default)]
pub(super) struct BundledRows<'r> {
    lengths: std::slice::Iter<'r, [u8; LENGTH_BYTES]>,
    rows: &'r [u8],
}

impl<'r> BundledRows<'r> {
    #[inline]
    fn of(record: &'r [u8], members: usize) -> Option<Self> {
        let (lengths, rows) = record.split_at_checked(members * LENGTH_BYTES)?;
        let lengths = lengths.as_chunks().0.iter();
        let bytes: usize = lengths.clone().map(|l| length(l).unwrap_or(0)).sum();
        (bytes == rows.len()).then_some(Self { lengths, rows })
    }
}

/// `None` where there is no row.
#[inline]
fn length(bytes: &[u8; LENGTH_BYTES]) -> Option<usize> {
    let length = u32::from_le_bytes(*bytes);
    (length != ABSENT).then_some(length as usize)
}

impl<'r> Iterator for BundledRows<'r> {
    type Item = Option<&'r [u8]>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let Some(length) = length(self.lengths.next()?) else {
            return Some(None);
        };
        let (row, rest) = self.rows.split_at_checked(length)?;
        self.rows = rest;
        Some(Some(row))
    }
}

/// What [`write`] made.
#[derive(Debug)]
pub(super) struct Written {
    /// Of the file.
    pub(super) bytes: u64,
    /// Of the rows of each member.
    pub(super) row_bytes: Vec<u64>,
}

/// Writes the rows of some bases side by side, in one pass over all of them.
pub(super) fn write(path: &Path, bases: &[&BaseFile]) -> Result<Written, StoreError> {
    let mut writer = BaseWriter::create(path, None)?;
    let heads = bases.iter().map(|base| Head::of(base));
    let mut heads = heads.collect::<Result<Vec<_>, _>>()?;
    let mut row_bytes = vec![0; bases.len()];
    let (mut next, mut record) = (Vec::new(), Vec::new());
    while let Some(least) = heads.iter().filter_map(Head::stored_key).min() {
        next.clear();
        next.extend_from_slice(least);
        record.clear();
        record.resize(bases.len() * LENGTH_BYTES, 0xFF);
        let mut key = None;
        for (member, head) in heads.iter_mut().enumerate() {
            let Some((found, row)) = head.take(&next)? else {
                continue;
            };
            if *key.get_or_insert(found) != found {
                // Stored keys of long ones are hashes.
                return Err(head.damaged("two keys are stored as one"));
            }
            row_bytes[member] += row.len() as u64;
            // A base has no longer ones.
            let length = (row.len() as u32).to_le_bytes();
            record[member * LENGTH_BYTES..][..LENGTH_BYTES].copy_from_slice(&length);
            record.extend_from_slice(row);
        }
        // The least one is some head's.
        writer.append(key.unwrap_or_default(), &record)?;
    }
    let bytes = writer.finish()?;
    Ok(Written { bytes, row_bytes })
}

/// A key and its row.
type Record<'b> = (&'b [u8], &'b [u8]);

/// The next record of a base that is merged.
struct Head<'b> {
    base: &'b BaseFile,
    records: Records<'b>,
    next: Option<Record<'b>>,
    hashed: Vec<u8>,
}

impl<'b> Head<'b> {
    fn of(base: &'b BaseFile) -> Result<Self, StoreError> {
        let mut head = Self {
            base,
            records: base.records(),
            next: None,
            hashed: Vec::new(),
        };
        head.advance()?;
        Ok(head)
    }

    fn advance(&mut self) -> Result<(), StoreError> {
        self.next = self.records.next().transpose()?;
        if let Some((key, _)) = self.next {
            stored_key(key, &mut self.hashed);
        }
        Ok(())
    }

    fn stored_key(&self) -> Option<&[u8]> {
        let (key, _) = self.next?;
        Some(match key.len() {
            ..=PLAIN_KEY_BYTES_MAX => key,
            _ => &self.hashed,
        })
    }

    fn damaged(&self, reason: &str) -> StoreError {
        StoreError::Damaged {
            path: self.base.path().to_owned(),
            reason: reason.to_owned(),
        }
    }

    /// The record, if it is of this stored key; then the next one is looked at.
    fn take(&mut self, stored: &[u8]) -> Result<Option<Record<'b>>, StoreError> {
        if self.stored_key() != Some(stored) {
            return Ok(None);
        }
        let taken = self.next;
        self.advance()?;
        if self.stored_key().is_some_and(|next| next <= stored) {
            return Err(self.damaged("its rows are not in the order of their keys"));
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests;
