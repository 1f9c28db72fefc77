//! Every key is found, no other is, and what is damaged is told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn write(path: &Path, rows: &Content, window_lines: u64) -> u64 {
    let mut writer = BaseWriter::create(path, None).unwrap();
    writer.window_lines = window_lines;
    for (key, row) in rows {
        writer.append(key, row).unwrap();
    }
    writer.finish().unwrap()
}

fn open(path: &Path, bytes: u64) -> Result<Option<BaseFile>, StoreError> {
    BaseFile::open(path, bytes, &EmbeddedSettings::default())
}

proptest! {
    /// Small windows, so that slots are carried from one to the next.
    #[test]
    fn every_key_has_its_row_and_no_other_has_one(
        rows in prop::collection::btree_map(
            prop::collection::vec(any::<u8>(), 1..12),
            prop::collection::vec(any::<u8>(), 0..40),
            0..200,
        ),
        others in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..12), 50),
        window_lines in 1_u64..20,
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("g1.rows");
        let bytes = write(&path, &rows, window_lines);
        let file = open(&path, bytes).unwrap().unwrap();
        prop_assert_eq!(file.rows(), rows.len() as u64);
        for key in rows.keys().chain(&others) {
            let expected = rows.get(key).map(Vec::as_slice);
            prop_assert_eq!(file.get(key).unwrap(), expected);
        }
        let read: Result<Content, _> = { file.records() }
            .map(|record| record.map(|(key, row)| (key.to_vec(), row.to_vec())))
            .collect();
        prop_assert_eq!(read.unwrap(), rows);
    }
}

/// Keys whose hashes have the same tag and neighbouring homes are told apart.
#[test]
fn keys_of_one_tag_are_compared() {
    let tag = |n: u64| KeyHash::of(&n.to_be_bytes()).tag();
    let alike: Vec<u64> = (0..4_000_000).filter(|n| tag(*n) == tag(0)).collect();
    assert!(alike.len() > 20, "{}", alike.len());
    let rows: Content = { alike.iter() }
        .map(|n| (n.to_be_bytes().to_vec(), n.to_le_bytes().to_vec()))
        .collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g1.rows");
    let bytes = write(&path, &rows, WINDOW_LINES);
    let file = open(&path, bytes).unwrap().unwrap();
    for (key, row) in &rows {
        assert_eq!(file.get(key).unwrap(), Some(row.as_slice()));
    }
}

#[test]
fn what_is_not_whole_is_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g1.rows");
    let rows: Content = (0..100_u8).map(|n| (vec![n, n], vec![n; 9])).collect();
    let bytes = write(&path, &rows, WINDOW_LINES);
    let whole = std::fs::read(&path).unwrap();
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        let refused = open(&path, bytes.len() as u64).unwrap_err();
        assert!(matches!(refused, StoreError::Damaged { .. }), "{refused}");
    };
    refused(&[]);
    refused(&whole[..whole.len() - 1]);
    for at in (0..48).step_by(8).flat_map(|number| [number, number + 7]) {
        let mut other = whole.clone();
        other[at] ^= 0x80;
        refused(&other);
    }
    let mut other = whole.clone();
    other[24..32].fill(0xFF);
    refused(&other);
    // Lengths that lead out of the file are found out by the reads that meet them.
    let mut other = whole.clone();
    other[HEADER_BYTES + 7] = 0xFF;
    std::fs::write(&path, other).unwrap();
    let file = open(&path, bytes).unwrap().unwrap();
    let failed = file.get(&[0, 0]).unwrap_err();
    assert!(matches!(failed, StoreError::Damaged { .. }), "{failed}");
    assert_eq!(file.get(&[1, 1]).unwrap(), Some(&[1; 9][..]));
    assert!(file.records().any(|record| record.is_err()));

    std::fs::remove_file(&path).unwrap();
    assert!(open(&path, bytes).unwrap().is_none());
}
