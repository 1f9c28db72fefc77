//! Generations that were written before there were bases.

use std::path::Path;

use granary_model::{FeatureType, UtcMicros, definitions::Column};

use super::super::changes::stored_value;
use super::super::folder::Folder;
use super::super::manifest::Manifest;
use super::super::{EmbeddedSettings, EmbeddedStore};
use super::*;
use crate::codec::RowLayout;
use crate::keys::EntityKeys;
use crate::online::{Coverage, OnlineStore, RowSink, WriteMode};
use crate::rows::EncodedRows;

fn layout() -> RowLayout {
    RowLayout {
        event_time: true,
        created_time: false,
        features: vec![Column::new("n", FeatureType::SmallInt)],
    }
}

/// Format, event time, bitmap and value.
fn row(at: i64) -> Vec<u8> {
    [&[1][..], &at.to_le_bytes(), &[1], &[7, 0]].concat()
}

/// As format 1 of the manifest had it: rows in LMDB, and nothing else.
fn write_format_1(root: &Path, keys: &[Vec<u8>]) {
    let settings = EmbeddedSettings::default();
    let folder = Folder::open(root).unwrap().version("spend", 1);
    folder.create().unwrap();
    let changes = ChangesFile::open(&folder.changes_path(1), &settings).unwrap();
    let mut txn = changes.write().unwrap();
    let (mut hashed, mut long) = (Vec::new(), Vec::new());
    for key in keys {
        let row = row(5);
        let value = stored_value(key, &row, &mut long);
        { changes.table() }
            .put(&mut txn, stored_key(key, &mut hashed), value)
            .unwrap();
    }
    txn.commit().unwrap();
    let published = Published {
        number: 1,
        base: None,
        coverage: Coverage::default(),
        upserting_to: None,
        layout: layout(),
        default_row: None,
        rows: keys.len() as u64,
        write_counter: changes.write_counter(),
        file_bytes: changes.file_bytes().unwrap(),
    };
    let manifest = Manifest::new(&folder, 1, Some(published));
    let mut json = serde_json::to_value(manifest).unwrap();
    json["format"] = 1.into();
    std::fs::write(folder.manifest_path(), json.to_string()).unwrap();
}

struct Times(Vec<Option<i64>>);

impl RowSink for Times {
    fn row(&mut self, _: usize, entity: usize, row: &[u8]) {
        let time = row[1..9].first_chunk().unwrap();
        self.0[entity] = Some(i64::from_le_bytes(*time));
    }
}

#[tokio::test]
async fn a_store_of_format_1_is_read_written_swept_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<Vec<u8>> = vec![b"a".repeat(2), b"b".repeat(9), b"c".repeat(700)];
    write_format_1(folder.path(), &keys);
    let settings = EmbeddedSettings {
        changes_rows_min: 3,
        ..EmbeddedSettings::default()
    };
    let store = EmbeddedStore::open(folder.path(), settings).unwrap();
    let asked: EntityKeys = { keys.iter() }
        .map(|key| Some(key.as_slice()))
        .chain([Some(&b"dd"[..])])
        .collect();
    let look = async || {
        let generation = store.generation("spend", 1).await.unwrap().unwrap();
        let state = generation.state();
        let mut times = Times(vec![None; asked.len()]);
        store.read(&asked, &[generation], &mut times).await.unwrap();
        (state.id.number, state.rows, times.0)
    };
    assert_eq!(look().await, (1, 3, vec![Some(5), Some(5), Some(5), None]));

    let upsert = async |key: &[u8], at| {
        let mode = WriteMode::Upsert {
            up_to: UtcMicros(9),
        };
        let writer = store.writer("spend", 1, layout().into(), mode);
        let mut writer = writer.await.unwrap();
        let keys: EntityKeys = [Some(key)].into_iter().collect();
        let rows: EncodedRows = [row(at)].iter().collect();
        writer.write(&keys, &rows).await.unwrap();
        writer.publish(Coverage::default()).await.unwrap();
    };
    upsert(&keys[1], 8).await;
    assert_eq!(look().await, (1, 3, vec![Some(5), Some(8), Some(5), None]));
    let swept = store.sweep("spend", 1, UtcMicros(6)).await.unwrap();
    assert_eq!(swept, 2);
    assert_eq!(look().await, (1, 1, vec![None, Some(8), None, None]));
    for (key, at) in [(&keys[0], 7), (&keys[2], 6), (&b"dd".to_vec(), 9)] {
        upsert(key, at).await;
    }
    let all = vec![Some(7), Some(8), Some(6), Some(9)];
    assert_eq!(look().await, (2, 4, all), "merged into a base");
}
