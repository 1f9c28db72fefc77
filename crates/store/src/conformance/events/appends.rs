//! What an append promises.

use std::sync::Arc;

use granary_model::UtcMicros;

use super::fixture::*;
use crate::error::StoreError;
use crate::events::{Appended, ConsumerOffset, EventBatch, ScanOrder};

pub(super) async fn an_empty_stream_has_nothing(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    let snapshot = stream.snapshot().await?;
    assert_eq!(snapshot.state().events, 0);
    assert_eq!(snapshot.state().last_sequence, 0);
    assert_eq!(snapshot.state().last_created_time, None);
    assert_eq!(snapshot.duplicates(&[b"a"]).await?, vec![None]);
    assert_eq!(snapshot.consumer_offset("kafka").await?, None);
    assert!(ids_now(&stream, CUSTOMER, "ann").await?.is_empty());
    assert!(log_now(&stream).await?.is_empty());
    assert!(tiles_now(&stream, "ann", 0).await?.is_empty());
    assert_eq!(stream.append(EventBatch::default()).await?, vec![]);
    assert_eq!(trim(&stream, &older_than(i64::MAX)).await?, 0);
    let streams = store.streams().await?;
    assert_eq!(streams.len(), 1);
    assert_eq!(streams[0].0, spec());
    Ok(())
}

pub(super) async fn what_is_appended_is_read(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let both = Fact {
        device: "phone",
        ..fact("a", 30, "ann")
    };
    let appended = append(&stream, &[both, fact("b", 10, "ann"), fact("c", 20, "bob")]).await?;
    let sequences: Vec<u64> = appended.iter().map(|a| a.id().sequence).collect();
    assert_eq!(sequences, [1, 2, 3]);
    assert!(appended.iter().all(|appended| appended.is_new()));
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["b", "a"]);
    assert_eq!(ids_now(&stream, CUSTOMER, "bob").await?, ["c"]);
    assert_eq!(ids_now(&stream, DEVICE, "phone").await?, ["a"]);
    assert!(ids_now(&stream, DEVICE, "ann").await?.is_empty());
    assert!(ids_now(&stream, DEVICE, "").await?.is_empty());
    assert_eq!(log_now(&stream).await?, ["a", "b", "c"]);

    let snapshot = stream.snapshot().await?;
    let state = snapshot.state();
    assert_eq!((state.events, state.last_sequence), (3, 3));
    assert_eq!(state.newest_event_time, Some(UtcMicros(30)));
    let last = appended[2].id().created_time;
    assert_eq!(state.last_created_time, Some(last));
    assert_eq!(snapshot.point().sequence, 3);
    // "a|ann|phone", "b|ann|", "c|bob|" and their ids.
    assert_eq!(state.bytes, 11 + 6 + 6 + 3);

    let mut read = Ids::default();
    snapshot.scan_log(0, 10, &mut read).await?;
    assert_eq!(read.sequences, sequences);
    let created: Vec<UtcMicros> = appended.iter().map(|a| a.id().created_time).collect();
    assert_eq!(read.created, created);
    Ok(())
}

pub(super) async fn created_times_increase(home: Home) -> Outcome {
    let mut last = UtcMicros::MIN;
    let mut check = |appended: Vec<Appended>| {
        for appended in appended {
            assert!(appended.id().created_time > last, "{appended:?}");
            last = appended.id().created_time;
        }
    };
    {
        let now = clock(5_000);
        let store = home.open(Arc::clone(&now) as _)?;
        let stream = reopen(&store, spec()).await?;
        check(append(&stream, &[fact("a", 1, "ann"), fact("b", 1, "ann")]).await?);
        check(append(&stream, &[fact("c", 1, "ann")]).await?);
        now.set(UtcMicros(10));
        check(append(&stream, &[fact("d", 1, "ann")]).await?);
        now.set(UtcMicros(9_000));
        let later = append(&stream, &[fact("e", 1, "ann")]).await?;
        assert_eq!(later[0].id().created_time, UtcMicros(9_000));
        check(later);
    }
    let store = home.open(clock(100))?;
    let stream = reopen(&store, spec()).await?;
    check(append(&stream, &[fact("f", 1, "ann")]).await?);
    trim(&stream, &older_than(i64::MAX)).await?;
    drop((stream, store));
    let store = home.open(clock(100))?;
    let stream = reopen(&store, spec()).await?;
    check(append(&stream, &[fact("g", 1, "ann")]).await?);
    Ok(())
}

pub(super) async fn duplicates_in_a_batch_are_one(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [
        fact("a", 10, "ann"),
        fact("b", 10, "ann"),
        // The first one counts, whatever the others say.
        fact("a", 20, "bob"),
        fact("a", 10, "ann"),
    ];
    let appended = append(&stream, &facts).await?;
    let first = appended[0].id();
    assert_eq!(appended[2], Appended::Duplicate(first));
    assert_eq!(appended[3], Appended::Duplicate(first));
    assert_eq!(log_now(&stream).await?, ["a", "b"]);
    assert!(ids_now(&stream, CUSTOMER, "bob").await?.is_empty());
    assert_eq!(stream.snapshot().await?.state().events, 2);
    Ok(())
}

pub(super) async fn duplicates_of_earlier_batches_are_told(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let first = append(&stream, &[fact("a", 10, "ann")]).await?[0].id();
    let again = append(&stream, &[fact("b", 10, "ann"), fact("a", 10, "ann")]).await?;
    assert!(again[0].is_new());
    assert_eq!(again[1], Appended::Duplicate(first));
    assert_eq!(log_now(&stream).await?, ["a", "b"]);
    Ok(())
}

pub(super) async fn duplicates_are_known_after_a_restart(home: Home) -> Outcome {
    let first = {
        let (_store, stream) = open(&home).await?;
        append(&stream, &[fact("a", 10, "ann")]).await?[0].id()
    };
    let (_store, stream) = open(&home).await?;
    let again = append(&stream, &[fact("a", 10, "ann"), fact("b", 10, "ann")]).await?;
    assert_eq!(again[0], Appended::Duplicate(first));
    assert_eq!(again[1].id().sequence, 2);
    assert_eq!(log_now(&stream).await?, ["a", "b"]);
    Ok(())
}

pub(super) async fn appenders_side_by_side_store_each_event_once(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let ids: Vec<String> = (0..60).map(|n| format!("e{n:02}")).collect();
    let mut tasks = Vec::new();
    for appender in 0..8 {
        let (stream, ids) = (Arc::clone(&stream), ids.clone());
        tasks.push(tokio::spawn(async move {
            let mut new = 0;
            for chunk in 0..ids.len() / 5 {
                // Each begins elsewhere, so that they meet in all ways.
                let begin = (chunk + appender) * 5 % ids.len();
                let facts: Vec<_> = ids[begin..begin + 5]
                    .iter()
                    .map(|id| fact(id, 10, "ann"))
                    .collect();
                let appended = append(&stream, &facts).await?;
                // Read your own writes.
                let snapshot = stream.snapshot().await?;
                let keys: Vec<&[u8]> = ids[begin..begin + 5].iter().map(String::as_bytes).collect();
                for (told, found) in appended.iter().zip(snapshot.duplicates(&keys).await?) {
                    assert_eq!(found, Some((told.id(), UtcMicros(10))));
                    new += usize::from(told.is_new());
                }
            }
            Ok::<_, StoreError>(new)
        }));
    }
    let mut new = 0;
    for task in tasks {
        match task.await {
            Ok(counted) => new += counted?,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(new, ids.len());
    let mut stored = log_now(&stream).await?;
    stored.sort();
    assert_eq!(stored, ids);
    Ok(())
}

pub(super) async fn events_without_a_dedup_key_are_all_stored(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let mut event = fact("a", 10, "ann").event();
    event.dedup_key = None;
    let events = vec![event.clone(), event];
    let batch = EventBatch {
        events,
        offsets: Vec::new(),
    };
    stream.append(batch.clone()).await?;
    assert!(stream.append(batch).await?.iter().all(|a| a.is_new()));
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a"; 4]);
    Ok(())
}

pub(super) async fn a_batch_with_a_key_too_few_is_refused_whole(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let mut batch = batch(&[fact("a", 10, "ann"), fact("b", 10, "ann")]);
    batch.events[1].keys.pop();
    let refused = stream.append(batch).await;
    assert!(
        matches!(
            refused,
            Err(StoreError::EventKeys {
                event: 1,
                expected: 2,
                given: 1,
                ..
            })
        ),
        "{refused:?}"
    );
    assert!(log_now(&stream).await?.is_empty());
    Ok(())
}

fn at(consumer: &str, previous: Option<&str>, offset: &str) -> ConsumerOffset {
    ConsumerOffset {
        consumer: consumer.to_owned(),
        previous: previous.map(bytes),
        offset: bytes(offset),
    }
}

pub(super) async fn offsets_move_with_their_events(home: Home) -> Outcome {
    let consumed = |id, previous, offset| EventBatch {
        events: vec![fact(id, 10, "ann").event()],
        offsets: vec![at("kafka/0", previous, offset)],
    };
    {
        let (_store, stream) = open(&home).await?;
        stream.append(consumed("a", None, "7")).await?;
        stream.append(consumed("b", Some("7"), "8")).await?;
        // Once more, as if the answer had been lost; and by one that lags.
        for (id, previous) in [("c", None), ("c", Some("7")), ("c", Some("9"))] {
            let refused = stream.append(consumed(id, previous, "10")).await;
            assert!(matches!(refused, Err(StoreError::OffsetMoved { .. })));
        }
        // One offset of several is enough to refuse all.
        let mut batch = consumed("c", Some("8"), "9");
        batch.offsets.push(at("kafka/1", Some("1"), "2"));
        assert!(stream.append(batch).await.is_err());
        // Offsets without events.
        let batch = EventBatch {
            events: Vec::new(),
            offsets: vec![at("kafka/0", Some("8"), "12"), at("kafka/1", None, "1")],
        };
        stream.append(batch).await?;
    }
    let (_store, stream) = open(&home).await?;
    let snapshot = stream.snapshot().await?;
    assert_eq!(
        snapshot.consumer_offset("kafka/0").await?,
        Some(bytes("12"))
    );
    assert_eq!(snapshot.consumer_offset("kafka/1").await?, Some(bytes("1")));
    assert_eq!(snapshot.consumer_offset("kafka").await?, None);
    assert_eq!(log_now(&stream).await?, ["a", "b"]);
    Ok(())
}

pub(super) async fn offsets_and_streams_stay_apart(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    let mut other = spec();
    other.name = "loan_event".to_owned();
    let other = reopen(&store, other).await?;
    let batch = EventBatch {
        events: vec![fact("a", 10, "ann").event()],
        offsets: vec![at("kafka", None, "7")],
    };
    stream.append(batch.clone()).await?;
    let appended = other.append(batch).await?;
    assert!(appended[0].is_new());
    assert_eq!(appended[0].id().sequence, 1);
    append(&other, &[fact("b", 20, "ann")]).await?;
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a"]);
    assert_eq!(ids_now(&other, CUSTOMER, "ann").await?, ["a", "b"]);
    trim(&other, &older_than(100)).await?;
    assert_eq!(log_now(&stream).await?, ["a"]);
    let snapshot = stream.snapshot().await?;
    let newest = ids(&snapshot, CUSTOMER, ScanOrder::NewestFirst, all_of("ann"));
    assert_eq!(newest.await?, ["a"]);
    Ok(())
}
