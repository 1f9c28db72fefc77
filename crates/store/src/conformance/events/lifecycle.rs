//! Restarts, flushes, trims and drops.

use std::sync::Arc;

use granary_model::UtcMicros;

use super::fixture::*;
use crate::error::StoreError;
use crate::events::TrimPolicy;

pub(super) async fn a_restart_keeps_everything(home: Home) -> Outcome {
    let state = {
        let (_store, stream) = open(&home).await?;
        append(&stream, &[fact("a", 10, "ann"), fact("b", 20, "bob")]).await?;
        append(&stream, &[fact("c", 30, "ann")]).await?;
        stream.set_flushed(2).await?;
        trim(&stream, &older_than(5)).await?;
        *stream.snapshot().await?.state()
    };
    let (store, stream) = open(&home).await?;
    assert_eq!(*stream.snapshot().await?.state(), state);
    assert_eq!(store.streams().await?, [(spec(), state)]);
    assert_eq!(state.trimmed_before, None, "nothing was removed");
    assert_eq!(log_now(&stream).await?, ["a", "b", "c"]);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "c"]);
    let appended = append(&stream, &[fact("d", 40, "ann")]).await?;
    assert_eq!(appended[0].id().sequence, 4);
    Ok(())
}

pub(super) async fn the_flushed_mark_only_rises(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann"), fact("b", 20, "ann")]).await?;
    for (set, expected) in [(0, 0), (2, 2), (1, 2), (2, 2)] {
        stream.set_flushed(set).await?;
        assert_eq!(stream.snapshot().await?.state().flushed, expected);
    }
    let beyond = stream.set_flushed(3).await;
    assert!(matches!(
        beyond,
        Err(StoreError::EventSequence {
            sequence: 3,
            last: 2,
            ..
        })
    ));
    Ok(())
}

pub(super) async fn a_trim_removes_what_is_old(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let names: Vec<String> = (0..20).map(|n| format!("e{n:02}")).collect();
    let facts: Vec<_> = names
        .iter()
        .zip(0..)
        // Not in the order of their times.
        .map(|(id, n)| fact(id, n * 7 % 20, "ann"))
        .collect();
    append(&stream, &facts).await?;
    assert_eq!(trim(&stream, &older_than(8)).await?, 8);
    let expected: Vec<&str> = facts.iter().filter(|f| f.at >= 8).map(|f| f.id).collect();
    assert_eq!(log_now(&stream).await?, expected);
    let mut by_key = ids_now(&stream, CUSTOMER, "ann").await?;
    by_key.sort();
    assert_eq!(by_key, expected);
    let snapshot = stream.snapshot().await?;
    for fact in &facts {
        let found = snapshot.duplicates(&[fact.id.as_bytes()]).await?;
        assert_eq!(found[0].is_some(), fact.at >= 8, "{fact:?}");
    }
    let state = snapshot.state();
    assert_eq!((state.events, state.last_sequence), (12, 20));
    assert_eq!(state.trimmed_before, Some(UtcMicros(8)));
    // Once more, and less far: nothing is left to do.
    assert_eq!(trim(&stream, &older_than(8)).await?, 0);
    assert_eq!(trim(&stream, &older_than(3)).await?, 0);
    let snapshot = stream.snapshot().await?;
    assert_eq!(snapshot.state().trimmed_before, Some(UtcMicros(8)));
    assert_eq!(trim(&stream, &older_than(100)).await?, 12);
    let snapshot = stream.snapshot().await?;
    assert_eq!(snapshot.state().trimmed_before, Some(UtcMicros(20)));
    assert_eq!((snapshot.state().events, snapshot.state().bytes), (0, 0));
    assert_eq!(snapshot.state().newest_event_time, Some(UtcMicros(19)));
    Ok(())
}

pub(super) async fn trimmed_events_may_come_again(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    trim(&stream, &older_than(20)).await?;
    let again = append(&stream, &[fact("a", 30, "ann")]).await?;
    assert!(again[0].is_new());
    assert_eq!(again[0].id().sequence, 2);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a"]);
    Ok(())
}

pub(super) async fn a_trim_keeps_what_is_not_flushed(home: Home) -> Outcome {
    let mut with_history = spec();
    with_history.history = true;
    let (_store, stream) = open_as(&home, with_history).await?;
    let facts = [
        fact("a", 10, "ann"),
        fact("b", 11, "ann"),
        fact("c", 12, "ann"),
        fact("d", 90, "ann"),
    ];
    append(&stream, &facts).await?;
    assert_eq!(trim(&stream, &older_than(50)).await?, 0);
    let state = *stream.snapshot().await?.state();
    assert_eq!(state.trimmed_before, Some(UtcMicros(50)));
    stream.set_flushed(2).await?;
    assert_eq!(trim(&stream, &older_than(50)).await?, 2);
    assert_eq!(log_now(&stream).await?, ["c", "d"]);
    stream.set_flushed(4).await?;
    assert_eq!(trim(&stream, &older_than(50)).await?, 1);
    assert_eq!(log_now(&stream).await?, ["d"]);
    Ok(())
}

pub(super) async fn a_trim_keeps_the_newest_of_each_key(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let on = |id, at, customer, device| Fact {
        id,
        at,
        customer,
        device,
    };
    let facts = [
        on("a1", 1, "ann", "phone"),
        on("a2", 2, "ann", ""),
        // As old as the second newest: which counts first is not known here.
        on("a3", 3, "ann", ""),
        on("a4", 3, "ann", ""),
        on("a5", 4, "ann", ""),
        on("b1", 1, "bob", ""),
        on("c1", 1, "", "phone"),
        on("n1", 1, "", ""),
    ];
    append(&stream, &facts).await?;
    let policy = |keep_newest: &[(usize, usize)]| TrimPolicy {
        older_than: UtcMicros(100),
        keep_newest: keep_newest.to_vec(),
    };
    let both = policy(&[(CUSTOMER, 2), (DEVICE, 1)]);
    assert_eq!(trim(&stream, &both).await?, 2);
    let left = log_now(&stream).await?;
    assert_eq!(left, ["a1", "a3", "a4", "a5", "b1", "c1"]);
    // Events that are newer than the bound do not count: who looks from a time
    // before them finds the same.
    append(&stream, &[fact("b2", 200, "bob")]).await?;
    assert_eq!(trim(&stream, &policy(&[(CUSTOMER, 1)])).await?, 4);
    assert_eq!(log_now(&stream).await?, ["a5", "b1", "b2"]);
    let state = *stream.snapshot().await?.state();
    assert_eq!(state.newest_from, Some(UtcMicros(100)));
    assert_eq!(trim(&stream, &policy(&[(CUSTOMER, 0)])).await?, 2);
    assert_eq!(log_now(&stream).await?, ["b2"]);
    Ok(())
}

pub(super) async fn a_trim_beside_appends(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let appending = Arc::clone(&stream);
    let appends = tokio::spawn(async move {
        for n in 0..60_i64 {
            let id = format!("e{n:02}");
            append(&appending, &[fact(&id, n, "ann")]).await?;
        }
        Ok::<_, StoreError>(())
    });
    let mut removed = 0;
    while !appends.is_finished() {
        removed += trim(&stream, &older_than(40)).await?;
        tokio::task::yield_now().await;
    }
    match appends.await {
        Ok(outcome) => outcome?,
        Err(error) => panic!("{error}"),
    }
    removed += trim(&stream, &older_than(40)).await?;
    assert_eq!(removed, 40);
    let expected: Vec<String> = (40..60).map(|n| format!("e{n}")).collect();
    assert_eq!(log_now(&stream).await?, expected);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, expected);
    assert_eq!(stream.snapshot().await?.state().events, 20);
    Ok(())
}

pub(super) async fn a_dropped_stream_is_gone(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    put(&stream, vec![tile("ann", 0, 0, "1")]).await?;
    store.drop_stream(STREAM).await?;
    store.drop_stream(STREAM).await?;
    assert!(store.streams().await?.is_empty());
    let refused = append(&stream, &[fact("b", 10, "ann")]).await;
    assert!(matches!(refused, Err(StoreError::StreamReopened { .. })));
    drop(stream);

    let mut other = spec();
    other.columns = "of another kind".to_owned();
    let stream = reopen(&store, other.clone()).await?;
    assert!(log_now(&stream).await?.is_empty());
    assert!(ids_now(&stream, CUSTOMER, "ann").await?.is_empty());
    assert!(tiles_now(&stream, "ann", 0).await?.is_empty());
    let appended = append(&stream, &[fact("a", 10, "ann")]).await?;
    assert!(appended[0].is_new());
    assert_eq!(appended[0].id().sequence, 1);
    // Clears what the first one left, and nothing of this.
    trim(&stream, &older_than(i64::MIN)).await?;
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a"]);
    drop((stream, store));
    let (_store, stream) = open_as(&home, other).await?;
    assert_eq!(log_now(&stream).await?, ["a"]);
    Ok(())
}
