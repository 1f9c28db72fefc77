//! A bundle has the rows of its bases and no others, and damaged records are told.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::super::base::KeyHash;
use super::*;

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// A base of rows, in the order of their stored keys.
fn base(path: &Path, rows: &Content) -> BaseFile {
    let mut hashed = Vec::new();
    let mut sorted: Vec<_> = { rows.iter() }
        .map(|(key, row)| (stored_key(key, &mut hashed).to_vec(), key, row))
        .collect();
    sorted.sort();
    let mut writer = BaseWriter::create(path, None).unwrap();
    for (_, key, row) in sorted {
        writer.append(key, row).unwrap();
    }
    let bytes = writer.finish().unwrap();
    open(path, bytes)
}

fn open(path: &Path, bytes: u64) -> BaseFile {
    let opened = BaseFile::open(path, bytes, &EmbeddedSettings::default());
    opened.unwrap().unwrap()
}

/// Short keys, and long ones that are stored hashed and share what is not.
fn key() -> impl Strategy<Value = Vec<u8>> {
    let long = any::<u8>().prop_map(|last| [&[7; 600][..], &[last]].concat());
    prop_oneof![4 => prop::collection::vec(any::<u8>(), 1..3), 1 => long]
}

fn content() -> impl Strategy<Value = Content> {
    prop::collection::btree_map(key(), prop::collection::vec(any::<u8>(), 1..40), 0..150)
}

proptest! {
    #[test]
    fn every_key_has_the_rows_of_all_members(
        members in prop::collection::vec(content(), 1..5),
        others in prop::collection::vec(key(), 50),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let bases: Vec<BaseFile> = { members.iter().enumerate() }
            .map(|(n, rows)| base(&folder.path().join(format!("g{n}.rows")), rows))
            .collect();
        let path = folder.path().join("b1.rows");
        let written = write(&path, &bases.iter().collect::<Vec<_>>()).unwrap();
        let bundle = open(&path, written.bytes);
        let keys: std::collections::BTreeSet<_> = members.iter().flat_map(|m| m.keys()).collect();
        prop_assert_eq!(bundle.rows(), keys.len() as u64);
        for key in keys.into_iter().chain(&others) {
            let expected: Vec<_> = members.iter().map(|m| m.get(key).map(Vec::as_slice)).collect();
            let found = match bundle.get(key).unwrap() {
                Some(record) => BundledRows::of(record, members.len()).unwrap().collect(),
                None => vec![None; members.len()],
            };
            prop_assert_eq!(found, expected);
        }
        for (member, bytes) in members.iter().zip(written.row_bytes) {
            prop_assert_eq!(member.values().map(Vec::len).sum::<usize>() as u64, bytes);
        }
    }

    /// Whatever the bytes are: rows within them, or none.
    #[test]
    fn records_of_any_bytes_are_no_panic(
        record in prop::collection::vec(prop_oneof![Just(0_u8), Just(2), any::<u8>()], 0..40),
        members in 1_usize..5,
    ) {
        if let Some(rows) = BundledRows::of(&record, members) {
            let bytes: usize = rows.clone().flatten().map(<[u8]>::len).sum();
            prop_assert_eq!(bytes + members * LENGTH_BYTES, record.len());
            prop_assert_eq!(rows.count(), members);
        }
    }
}

#[test]
fn a_record_whose_lengths_are_not_those_of_its_rows_is_damaged() {
    let record = [&[1, 0, 0, 0][..], &[0xFF; 4], &[2, 0, 0, 0], b"abb"].concat();
    let rows: Vec<_> = BundledRows::of(&record, 3).unwrap().collect();
    assert_eq!(rows, [Some(&b"a"[..]), None, Some(b"bb")]);
    for (at, byte) in [(0, 2), (3, 1), (4, 0xFE), (8, 1), (11, 0x80)] {
        let mut other = record.clone();
        other[at] = byte;
        assert!(BundledRows::of(&other, 3).is_none(), "byte {at}");
    }
    assert!(BundledRows::of(&record[..record.len() - 1], 3).is_none());
    assert!(BundledRows::of(&record[..7], 3).is_none());
}

#[test]
fn bases_that_are_out_of_order_are_not_bundled() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("g1.rows");
    let mut writer = BaseWriter::create(&path, None).unwrap();
    for key in [b"a", b"c", b"b"] {
        writer.append(key, b"row").unwrap();
    }
    let bytes = writer.finish().unwrap();
    let base = open(&path, bytes);
    let refused = write(&folder.path().join("b1.rows"), &[&base, &base]).unwrap_err();
    assert!(refused.to_string().contains("order"), "{refused}");
}

#[test]
fn bases_of_other_rows_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let made = |rows: &[(&[u8], &[u8])]| {
        let rows = rows.iter().map(|(k, r)| (k.to_vec(), r.to_vec()));
        base(&folder.path().join("g1.rows"), &rows.collect()).content()
    };
    let first = made(&[(b"a", b"1"), (b"b", b"2")]);
    assert_eq!(first, made(&[(b"a", b"1"), (b"b", b"2")]));
    assert_ne!(first, 0);
    for other in [
        &[(&b"a"[..], &b"2"[..]), (b"b", b"1")][..],
        &[(b"a", b"1")],
        &[(b"a", b"1b"), (b"b", b"2")],
        &[],
    ] {
        assert_ne!(first, made(other), "{other:?}");
    }
}

#[test]
fn rows_of_usual_lengths_lie_where_they_usually_do() {
    let folder = tempfile::tempdir().unwrap();
    let lengths = [50, 300, 1, 120];
    let bases: Vec<BaseFile> = { lengths.iter().enumerate() }
        .map(|(member, bytes)| {
            let keys = (0..500_u64).map(|n| n.to_be_bytes().to_vec());
            let rows = keys.map(|key| (key, vec![member as u8; *bytes]));
            base(
                &folder.path().join(format!("g{member}.rows")),
                &rows.collect(),
            )
        })
        .collect();
    let path = folder.path().join("b1.rows");
    let written = write(&path, &bases.iter().collect::<Vec<_>>()).unwrap();
    let members = (0..).zip(&written.row_bytes);
    let listed = serde_json::json!({
        "number": 1,
        "bytes": written.bytes,
        "members": members.map(|(member, bytes)| serde_json::json!({
            "view": format!("v{member}"), "version": 1, "number": 1,
            "base_bytes": 0, "base_content": 0, "row_bytes": bytes,
        })).collect::<Vec<_>>(),
    });
    let listed = serde_json::from_value(listed).unwrap();
    let bundle = Bundle::open(&path, listed, &EmbeddedSettings::default());
    let bundle = bundle.unwrap().unwrap();
    let key = 77_u64.to_be_bytes();
    assert!(bundle.file().candidate(KeyHash::of(&key)).is_some());
    let record = bundle.file().get(&key).unwrap().unwrap();
    let record_at = record.as_ptr() as usize - 16;
    for (member, row) in bundle.rows(record).unwrap().enumerate() {
        let row = row.unwrap().as_ptr_range();
        let [start, end] = [row.start, row.end].map(|at| at as usize - record_at);
        assert_eq!(bundle.usual(member), start..end);
    }
}
