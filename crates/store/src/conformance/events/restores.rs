//! Sequences set aside, and trimmed events put back.

use granary_model::UtcMicros;

use super::fixture::*;
use crate::error::StoreError;
use crate::events::{EventId, RestoredEvents, ScanOrder, StreamSpec, TrimPolicy};

/// Events under the sequences that they had, acknowledged at the clock of `open`.
fn back(facts: &[(u64, Fact<'_>)]) -> RestoredEvents {
    let event = |(sequence, fact): &(u64, Fact<'_>)| {
        let id = EventId {
            sequence: *sequence,
            created_time: UtcMicros(999 + *sequence as i64),
        };
        (id, fact.event())
    };
    RestoredEvents {
        events: facts.iter().map(event).collect(),
        whole_from: None,
        lost_before: None,
    }
}

pub(super) async fn sequences_set_aside_are_given_to_no_event(home: Home) -> Outcome {
    {
        let (_store, stream) = open(&home).await?;
        assert_eq!(stream.reserve(2).await?, 1);
        let first = append(&stream, &[fact("a", 10, "ann")]).await?;
        assert_eq!(first[0].id().sequence, 3);
        assert_eq!(stream.reserve(5).await?, 4);
        assert_eq!(stream.reserve(0).await?, 9);
    }
    let (_store, stream) = open(&home).await?;
    let second = append(&stream, &[fact("b", 20, "ann")]).await?;
    assert_eq!(second[0].id().sequence, 9);
    let snapshot = stream.snapshot().await?;
    assert_eq!(
        (snapshot.state().events, snapshot.state().last_sequence),
        (2, 9)
    );
    // What is set aside may be flushed like any other.
    stream.set_flushed(8).await?;
    assert_eq!(log_now(&stream).await?, ["a", "b"]);
    Ok(())
}

pub(super) async fn a_restored_event_is_as_it_was(home: Home) -> Outcome {
    let facts = [
        fact("a", 10, "ann"),
        fact("b", 20, "bob"),
        fact("c", 30, "ann"),
    ];
    let with_history = StreamSpec {
        history: true,
        ..spec()
    };
    {
        let (_store, stream) = open_as(&home, with_history.clone()).await?;
        append(&stream, &facts).await?;
        stream.set_flushed(3).await?;
        let before = stream.snapshot().await?;
        assert_eq!(trim(&stream, &older_than(25)).await?, 2);
        let mut events = back(&[(1, facts[0]), (2, facts[1])]);
        events.whole_from = Some(UtcMicros(5));
        assert_eq!(stream.restore(events).await?, 2);
        let now = stream.snapshot().await?;
        assert_eq!(now.state().trimmed_before, Some(UtcMicros(5)));
        let (mut was, mut is) = (*before.state(), *now.state());
        (was.trimmed_before, is.trimmed_before) = (None, None);
        (was.newest_from, is.newest_from) = (None, None);
        assert_eq!(was, is);
    }
    let (_store, stream) = open_as(&home, with_history).await?;
    let snapshot = stream.snapshot().await?;
    let (mut log, ranges) = (Ids::default(), [all_of("ann")]);
    snapshot.scan_log(0, usize::MAX, &mut log).await?;
    assert_eq!(log.found, [["a", "b", "c"]]);
    assert_eq!(log.created, [1_000, 1_001, 1_002].map(UtcMicros));
    let mut of_ann = Ids::default();
    let scanned = snapshot.scan(CUSTOMER, ScanOrder::OldestFirst, &ranges, &mut of_ann);
    scanned.await?;
    assert_eq!(
        (of_ann.found, of_ann.sequences),
        (vec![vec!["a".to_owned(), "c".to_owned()]], vec![1, 3])
    );
    let again = append(&stream, &[fact("b", 20, "bob")]).await?;
    assert!(!again[0].is_new(), "its dedup key is back");
    // It goes like any other.
    assert_eq!(trim(&stream, &older_than(25)).await?, 2);
    assert_eq!(log_now(&stream).await?, ["c"]);
    Ok(())
}

pub(super) async fn what_is_kept_of_each_key_is_known(home: Home) -> Outcome {
    let with_history = StreamSpec {
        history: true,
        ..spec()
    };
    let facts = [
        fact("a", 10, "ann"),
        fact("b", 20, "ann"),
        fact("c", 30, "ann"),
    ];
    let keeping = |older_than, newest: &[(usize, usize)]| TrimPolicy {
        older_than: UtcMicros(older_than),
        keep_newest: newest.to_vec(),
    };
    {
        let (_store, stream) = open_as(&home, with_history.clone()).await?;
        append(&stream, &facts).await?;
        stream.set_flushed(3).await?;
        let kept = async || {
            let snapshot = stream.snapshot().await?;
            let of = [CUSTOMER, DEVICE].map(|index| snapshot.newest_kept(index));
            Ok::<_, StoreError>((of, snapshot.state().trimmed_before))
        };
        let all = ([usize::MAX; 2], None);
        assert_eq!(kept().await?, all);
        trim(&stream, &keeping(25, &[(CUSTOMER, 2)])).await?;
        let two = ([2, 0], Some(UtcMicros(25)));
        assert_eq!(kept().await?, two);
        trim(&stream, &keeping(25, &[(CUSTOMER, 5), (DEVICE, 1)])).await?;
        assert_eq!(kept().await?, two, "what was not kept is not there");
        let mut events = back(&[(1, facts[0])]);
        events.whole_from = Some(UtcMicros(5));
        stream.restore(events).await?;
        assert_eq!(kept().await?, ([2, 0], Some(UtcMicros(5))));
        let whole = RestoredEvents {
            events: Vec::new(),
            whole_from: Some(UtcMicros::MIN),
            lost_before: None,
        };
        stream.restore(whole).await?;
        assert_eq!(kept().await?, all);
    }
    // Without a history what goes is lost.
    let (store, stream) = open(&home).await?;
    assert_eq!(trim(&stream, &keeping(25, &[(CUSTOMER, 3)])).await?, 0);
    let snapshot = stream.snapshot().await?;
    assert_eq!(snapshot.newest_kept(CUSTOMER), usize::MAX, "nothing went");
    assert_eq!(trim(&stream, &keeping(25, &[(CUSTOMER, 1)])).await?, 1);
    drop((snapshot, stream, store));
    let (_store, stream) = open_as(&home, with_history).await?;
    let whole = RestoredEvents {
        events: Vec::new(),
        whole_from: Some(UtcMicros::MIN),
        lost_before: None,
    };
    stream.restore(whole).await?;
    let snapshot = stream.snapshot().await?;
    assert_eq!(snapshot.newest_kept(CUSTOMER), 1);
    assert_eq!(snapshot.newest_kept(DEVICE), 0);
    let lost = Some(UtcMicros(11));
    assert_eq!(snapshot.state().lost_before, lost);
    assert_eq!(snapshot.state().trimmed_before, lost);
    Ok(())
}

pub(super) async fn a_restore_may_be_repeated(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [fact("a", 10, "ann"), fact("b", 20, "ann")];
    append(&stream, &facts).await?;
    stream.set_flushed(2).await?;
    trim(&stream, &older_than(15)).await?;
    let both = [(1, facts[0]), (2, facts[1]), (1, facts[0])];
    assert_eq!(stream.restore(back(&both)).await?, 1);
    let state = *stream.snapshot().await?.state();
    assert_eq!(stream.restore(back(&both)).await?, 0);
    assert_eq!(*stream.snapshot().await?.state(), state);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "b"]);
    // One that never was here: set aside for the history, and then put back.
    let set_aside = stream.reserve(1).await?;
    stream.set_flushed(set_aside).await?;
    assert_eq!(
        stream
            .restore(back(&[(set_aside, fact("z", 5, "ann"))]))
            .await?,
        1
    );
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["z", "a", "b"]);
    Ok(())
}

pub(super) async fn an_event_that_was_not_flushed_is_not_restored(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann"), fact("b", 20, "ann")]).await?;
    stream.set_flushed(1).await?;
    for sequence in [0, 2] {
        let events = back(&[(1, fact("a", 10, "ann")), (sequence, fact("c", 20, "ann"))]);
        let refused = stream.restore(events).await;
        assert!(matches!(refused, Err(StoreError::EventSequence { .. })));
    }
    let mut few = back(&[(1, fact("a", 10, "ann"))]);
    few.events[0].1.keys.pop();
    let refused = stream.restore(few).await;
    assert!(matches!(refused, Err(StoreError::EventKeys { .. })));
    assert_eq!(log_now(&stream).await?, ["a", "b"]);
    Ok(())
}

pub(super) async fn a_restored_event_leaves_its_dedup_key_to_another(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    stream.set_flushed(1).await?;
    trim(&stream, &older_than(20)).await?;
    let again = append(&stream, &[fact("a", 30, "ann")]).await?;
    assert_eq!(again[0].id().sequence, 2);
    assert_eq!(stream.restore(back(&[(1, fact("a", 10, "ann"))])).await?, 1);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "a"]);
    trim(&stream, &older_than(20)).await?;
    let third = append(&stream, &[fact("a", 40, "ann")]).await?;
    assert!(!third[0].is_new(), "the key of the other is still there");
    assert_eq!(third[0].id().sequence, 2);
    Ok(())
}

pub(super) async fn a_restore_removes_the_tiles_over_it(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann"), fact("b", HOUR, "ann")]).await?;
    stream.set_flushed(2).await?;
    trim(&stream, &older_than(20)).await?;
    let tiles = vec![
        tile("ann", 0, 0, "0"),
        tile("ann", 0, MINUTE, "0"),
        tile("bob", 0, 0, "0"),
    ];
    assert_eq!(put(&stream, tiles).await?, 3);
    stream.restore(back(&[(1, fact("a", 10, "ann"))])).await?;
    assert_eq!(tiles_now(&stream, "ann", 0).await?, owned(&[(MINUTE, "0")]));
    assert_eq!(tiles_now(&stream, "bob", 0).await?, owned(&[(0, "0")]));
    Ok(())
}

pub(super) async fn tiles_from_before_a_restore_are_left_out(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    stream.set_flushed(1).await?;
    trim(&stream, &older_than(20)).await?;
    let before = stream.snapshot().await?.point();
    let mut events = back(&[(1, fact("a", 10, "ann"))]);
    events.whole_from = Some(UtcMicros(0));
    stream.restore(events).await?;
    let stale = stream
        .put_tiles(SPEND, before, vec![tile("ann", 0, 0, "0")])
        .await?;
    assert_eq!(stale, 0);
    assert!(tiles_now(&stream, "ann", 0).await?.is_empty());
    assert_eq!(put(&stream, vec![tile("ann", 0, 0, "1")]).await?, 1);
    Ok(())
}
