//! Changes that are many for their base become the base of a new generation.

use granary_model::UtcMicros;
use granary_store::{OnlineStore, WriteMode};

use super::facts::{
    Fact, UPSERT, VIEW, base, changes, coverage, fill, keys, merging, open, pinned, rows, times,
    writer,
};

fn facts(ids: std::ops::Range<i64>, at: i64) -> Vec<Fact> {
    ids.map(|id| (id, at)).collect()
}

#[tokio::test]
async fn few_changes_stay_and_many_are_merged() {
    let folder = tempfile::tempdir().unwrap();
    let store = merging(folder.path());
    fill(&store, WriteMode::Create, &facts(0..800, 1), 100, 1)
        .await
        .unwrap();
    let few = fill(&store, UPSERT, &facts(0..100, 2), 100, 2).await;
    assert_eq!(few.unwrap().id.number, 1);
    let first = pinned(&store).await.unwrap();

    // One that is stored already, one that is not, and others that are.
    let many = fill(&store, UPSERT, &facts(100..950, 3), 100, 3).await;
    let many = many.unwrap();
    assert_eq!((many.id.number, many.rows), (2, 950));
    assert_eq!(many.coverage, coverage(3));
    assert!(!base(folder.path(), 1).exists() && !changes(folder.path(), 1).exists());
    assert!(base(folder.path(), 2).exists() && changes(folder.path(), 2).exists());
    let second = pinned(&store).await.unwrap();
    let asked = [0, 99, 100, 799, 800, 949, 950];
    let found = [Some(2), Some(2), Some(3), Some(3), Some(3), Some(3), None];
    // Who has the first pinned saw those rows as they came.
    for generation in [&first, &second] {
        assert_eq!(times(&store, generation, &asked).await, found);
    }
    let later = open(folder.path());
    let reopened = pinned(&later).await.unwrap();
    assert_eq!(times(&later, &reopened, &asked).await, found);
    assert_eq!(reopened.state(), second.state());
}

#[tokio::test]
async fn what_was_swept_is_not_merged_and_may_come_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = merging(folder.path());
    let mut all = facts(0..100, 1);
    all.extend(facts(100..1_000, 5));
    fill(&store, WriteMode::Create, &all, 100, 1).await.unwrap();
    fill(&store, UPSERT, &facts(1_000..1_010, 1), 100, 2)
        .await
        .unwrap();
    let swept = store.sweep(VIEW, 1, UtcMicros(2)).await.unwrap();
    assert_eq!(swept, 110);
    let generation = pinned(&store).await.unwrap();
    assert_eq!(generation.state().rows, 900);
    let asked = [0, 99, 100, 999, 1_000];
    let found = [None, None, Some(5), Some(5), None];
    assert_eq!(times(&store, &generation, &asked).await, found);
    assert_eq!(store.sweep(VIEW, 1, UtcMicros(2)).await.unwrap(), 0);

    let came = fill(&store, UPSERT, &[(99, 1), (500, 6)], 100, 3).await;
    let came = came.unwrap();
    assert_eq!((came.id.number, came.rows), (1, 901));
    let merged = fill(&store, UPSERT, &facts(200..400, 7), 100, 4).await;
    let merged = merged.unwrap();
    assert_eq!((merged.id.number, merged.rows), (2, 901));
    let generation = pinned(&store).await.unwrap();
    let asked = [0, 99, 100, 200, 500, 1_000];
    let found = [None, Some(1), Some(5), Some(7), Some(6), None];
    assert_eq!(times(&store, &generation, &asked).await, found);
}

/// Rows of a killed upsert are in the next merge as they are among the changes.
#[tokio::test]
async fn a_merge_takes_what_was_never_published_along() {
    let folder = tempfile::tempdir().unwrap();
    let store = merging(folder.path());
    fill(&store, WriteMode::Create, &facts(0..10, 1), 100, 1)
        .await
        .unwrap();
    let mut killed = writer(
        &store,
        WriteMode::Upsert {
            up_to: UtcMicros(9),
        },
    )
    .await
    .unwrap();
    killed.write(&keys(&[3]), &rows(&[9])).await.unwrap();
    drop(killed);
    let merged = fill(&store, UPSERT, &facts(5..10, 2), 100, 2).await;
    assert_eq!(merged.unwrap().id.number, 2);
    let generation = pinned(&store).await.unwrap();
    assert_eq!(
        times(&store, &generation, &[3, 4, 5]).await,
        [Some(9), Some(1), Some(2)]
    );
    assert_eq!(generation.reaches(), UtcMicros(9));
}

/// Keys of more than 500 bytes are hashed among the changes, and whole in the base.
#[tokio::test]
async fn long_keys_keep_their_rows_through_merges() {
    use granary_store::{EntityKeys, RowDecoder, RowReader, RowSink};
    struct Found(RowReader);
    impl RowSink for Found {
        fn row(&mut self, _: usize, entity: usize, row: &[u8]) {
            self.0.push(entity, row).unwrap();
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let store = merging(folder.path());
    // In ascending order, as they are stored and as they are.
    let text = |n: usize| format!("{:03}{}", n, "x".repeat(n * 7));
    let long: Vec<String> = (0..200).map(text).collect();
    let encoded =
        |ids: &[usize]| -> EntityKeys { ids.iter().map(|n| Some(long[*n].as_bytes())).collect() };
    let all: Vec<usize> = (0..200).collect();
    for (version, mode, ids, at) in [
        (1, WriteMode::Create, &all[..100], 1),
        (2, UPSERT, &all[90..], 2),
        (3, UPSERT, &all[..50], 3),
        (4, UPSERT, &all[40..45], 4),
    ] {
        let mut writer = writer(&store, mode).await.unwrap();
        let rows = rows(&vec![at; ids.len()]);
        writer.write(&encoded(ids), &rows).await.unwrap();
        writer.publish(coverage(version)).await.unwrap();
    }
    let generation = pinned(&store).await.unwrap();
    assert_eq!(
        (generation.state().id.number, generation.state().rows),
        (3, 200)
    );
    let decoder = RowDecoder::new(generation.layout(), vec![0]);
    let mut found = Found(RowReader::new(&decoder, 200, None));
    store
        .read(&encoded(&all), &[generation], &mut found)
        .await
        .unwrap();
    let times = found.0.event_times().unwrap();
    for (n, time) in times.iter().enumerate() {
        let expected = match n {
            40..45 => 4,
            0..50 => 3,
            50..90 => 1,
            _ => 2,
        };
        assert_eq!(*time, Some(UtcMicros(expected)), "key {n}");
    }
}

/// What nobody needs is not kept: an upsert of everything, again and again.
#[tokio::test]
async fn files_do_not_grow_with_the_number_of_upserts() {
    let folder = tempfile::tempdir().unwrap();
    let store = merging(folder.path());
    fill(&store, WriteMode::Create, &facts(0..5_000, 1), 500, 1)
        .await
        .unwrap();
    let bytes = || -> u64 {
        let number = (1..100).find(|n| base(folder.path(), *n).exists()).unwrap();
        let files = [base(folder.path(), number), changes(folder.path(), number)];
        files.iter().map(|f| f.metadata().unwrap().len()).sum()
    };
    let first = bytes();
    for at in 2..12 {
        fill(&store, UPSERT, &facts(0..5_000, at), 500, at as u64)
            .await
            .unwrap();
    }
    assert_eq!(bytes(), first);
}
