//! Cuts off what a failing machine left torn at the end of fjall's journal.
//!
//! Every write is one batch of the journal that is synced before the next one
//! is written, so at most the last batch can be torn. fjall itself cuts off one
//! that ends early, but refuses to open when pages in the middle of it are
//! missing. This reads the journal that was written to last, ends it after the
//! last whole batch, and refuses when a whole batch follows a damaged one: that
//! was not torn by a kill.
//!
//! Format (fjall 3, little endian): a batch is `1, items u32, seqno u64`, the
//! items, `3, xxh3 of the items u64, "FJL\x03"`; an item is `2, type u8,
//! compression u8, keyspace u64, key bytes u16, value bytes u32, stored bytes
//! u32, key, value`, or `4, keyspace u64`.

use std::fs::OpenOptions;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use crate::embedded::folder::io_error;
use crate::error::StoreError;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const MAGIC: &[u8] = b"FJL\x03";

/// To be called before fjall opens the folder.
pub(super) fn cut_torn_end(folder: &Path) -> Result<(), StoreError> {
    let Some(path) = newest_journal(folder)? else {
        return Ok(());
    };
    let journal = std::fs::read(&path).map_err(|e| io_error(&path, "the journal", e))?;
    let whole = whole_bytes(&journal);
    // Journals are as long as they may become from the start.
    let tail = &journal[whole..whole + used_bytes(&journal[whole..])];
    if tail.is_empty() {
        return Ok(());
    }
    if let Some(found) = (1..tail.len()).find(|at| batch_bytes(&tail[*at..]).is_some()) {
        return Err(StoreError::Damaged {
            path,
            reason: format!(
                "the batch at byte {whole} is damaged, and a whole one follows at {}",
                whole + found
            ),
        });
    }
    tracing::warn!(journal = %path.display(), at = whole, "cut off a torn batch that nobody was told of");
    let cut = OpenOptions::new().write(true).open(&path).and_then(|file| {
        file.set_len(whole as u64)?;
        file.sync_all()
    });
    cut.map_err(|e| io_error(&path, "the journal", e))
}

/// The journal with the greatest number; only that one is written to.
pub(super) fn newest_journal(folder: &Path) -> Result<Option<PathBuf>, StoreError> {
    if !folder.exists() {
        return Ok(None);
    }
    let entries = std::fs::read_dir(folder).map_err(|e| io_error(folder, "the journal", e))?;
    let mut newest = None;
    for entry in entries {
        let path = entry
            .map_err(|e| io_error(folder, "the journal", e))?
            .path();
        let number: Option<u64> = path
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".jnl")?.parse().ok());
        newest = newest.max(number.map(|number| (number, path)));
    }
    Ok(newest.map(|(_, path)| path))
}

/// Length of the whole batches that the journal begins with.
pub(super) fn whole_bytes(journal: &[u8]) -> usize {
    let mut at = 0;
    while let Some(bytes) = batch_bytes(&journal[at..]) {
        at += bytes;
    }
    at
}

/// Up to the last page that is not all zeros.
fn used_bytes(bytes: &[u8]) -> usize {
    const PAGE: usize = 1 << 12;
    let mut pages = bytes.chunks(PAGE);
    let last = pages.rposition(|page| *page != [0; PAGE][..page.len()]);
    last.map_or(0, |last| bytes.len().min((last + 1) * PAGE))
}

/// Length of the batch that these bytes begin with, if it is whole.
fn batch_bytes(bytes: &[u8]) -> Option<usize> {
    let (head, rest) = bytes.split_at_checked(13)?;
    if head[0] != START {
        return None;
    }
    let items = u32::from_le_bytes(head[1..5].try_into().ok()?);
    let mut length = 0;
    for _ in 0..items {
        length += item_bytes(rest.get(length..)?)?;
    }
    let (content, end) = rest.split_at_checked(length)?;
    let end = end.get(..9 + MAGIC.len())?;
    let checksum = u64::from_le_bytes(end[1..9].try_into().ok()?);
    let whole = end[0] == END && end[9..] == *MAGIC && checksum == xxh3_64(content);
    whole.then_some(13 + length + 9 + MAGIC.len())
}

fn item_bytes(bytes: &[u8]) -> Option<usize> {
    match *bytes.first()? {
        // Values are not compressed: the store opens fjall without.
        ITEM => {
            let key = u16::from_le_bytes(bytes.get(11..13)?.try_into().ok()?);
            let value = u32::from_le_bytes(bytes.get(17..21)?.try_into().ok()?);
            let length = 21 + usize::from(key) + value as usize;
            (length <= bytes.len()).then_some(length)
        }
        CLEAR => (bytes.len() >= 9).then_some(9),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A batch of one item with this value.
    fn batch(value: &[u8]) -> Vec<u8> {
        let length = (value.len() as u32).to_le_bytes();
        let key = b"key";
        let mut items = vec![ITEM, 0, 0];
        items.extend(1_u64.to_le_bytes());
        items.extend((key.len() as u16).to_le_bytes());
        items.extend([length, length].concat());
        items.extend([&key[..], value].concat());
        let mut batch = vec![START];
        batch.extend(1_u32.to_le_bytes());
        batch.extend(9_u64.to_le_bytes());
        batch.extend(&items);
        batch.push(END);
        batch.extend(xxh3_64(&items).to_le_bytes());
        batch.extend(MAGIC);
        batch
    }

    /// What is left of a journal, or why it is refused.
    fn cut(parts: &[&[u8]]) -> Result<Vec<u8>, StoreError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("3.jnl"), b"of earlier").unwrap();
        let path = folder.path().join("11.jnl");
        std::fs::write(&path, parts.concat()).unwrap();
        cut_torn_end(folder.path())?;
        Ok(std::fs::read(path).unwrap())
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let (a, b) = (batch(b"first"), batch(&[7; 10_000]));
        let zeros = [0; 9_000];
        let mut holed = b.clone();
        holed[4_096..8_192].fill(0);
        assert_eq!(
            cut(&[&a, &b, &zeros]).unwrap(),
            [&a, &b, &zeros[..]].concat()
        );
        assert_eq!(cut(&[&a, &holed, &zeros]).unwrap(), a);
        assert_eq!(cut(&[&a, &b[..5_000]]).unwrap(), a);
        assert_eq!(cut(&[&a, &b[..3]]).unwrap(), a);
        assert_eq!(cut(&[&holed]).unwrap(), b"");
        assert_eq!(cut(&[&a, &zeros, &holed[9_000..]]).unwrap(), a);
        assert_eq!(cut(&[]).unwrap(), b"");
    }

    #[test]
    fn damage_before_a_whole_batch_is_told() {
        let (a, b) = (batch(b"first"), batch(b"second"));
        let mut damaged = a.clone();
        damaged[40] ^= 1;
        let refused = cut(&[&a, &damaged, &b]).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    }
}
