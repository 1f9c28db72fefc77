//! A stream that is opened with another spec.

use std::sync::Arc;

use super::fixture::*;
use crate::error::StoreError;
use crate::events::{EventBatch, StreamSpec};

/// With the index `customer` alone.
fn narrow() -> StreamSpec {
    StreamSpec {
        indexes: vec![index("customer")],
        ..spec()
    }
}

async fn append_narrow(stream: &Stream, facts: &[Fact<'_>]) -> Outcome {
    let batch = EventBatch {
        events: facts.iter().map(|f| f.event_of(&["customer"])).collect(),
        offsets: Vec::new(),
    };
    stream.append(batch).await.map(drop)
}

fn on<'a>(id: &'a str, at: i64, device: &'a str) -> Fact<'a> {
    Fact {
        id,
        at,
        customer: "ann",
        device,
    }
}

pub(super) async fn other_columns_are_refused_while_events_are_stored(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    let other = |columns: &str| StreamSpec {
        columns: columns.to_owned(),
        ..spec()
    };
    let stream_of_others = reopen(&store, other("first")).await?;
    append(&stream_of_others, &[fact("a", 10, "ann")]).await?;
    drop(stream);
    match reopen(&store, other("second")).await {
        Err(StoreError::StreamColumns {
            stream,
            stored,
            given,
        }) => assert_eq!((&*stream, &*stored, &*given), (STREAM, "first", "second")),
        other => panic!("{other:?}"),
    }
    // The handle that was open goes on.
    append(&stream_of_others, &[fact("b", 10, "ann")]).await?;
    trim(&stream_of_others, &older_than(100)).await?;
    reopen(&store, other("second")).await?;
    Ok(())
}

pub(super) async fn an_index_that_is_added_later_is_filled(home: Home) -> Outcome {
    {
        let (_store, stream) = open_as(&home, narrow()).await?;
        let facts = [on("a", 30, "phone"), on("b", 10, ""), on("c", 20, "phone")];
        append_narrow(&stream, &facts).await?;
    }
    {
        let (_store, stream) = open(&home).await?;
        append(&stream, &[on("d", 15, "phone")]).await?;
        assert_eq!(ids_now(&stream, DEVICE, "phone").await?, ["d", "c", "a"]);
        let everything = ids_now(&stream, CUSTOMER, "ann").await?;
        assert_eq!(everything, ["b", "d", "c", "a"]);
    }
    let (_store, stream) = open(&home).await?;
    assert_eq!(ids_now(&stream, DEVICE, "phone").await?, ["d", "c", "a"]);
    // "a|ann|phone", "b|ann|" and so on, and ids.
    let bytes = 3 * (11 + 1) + (6 + 1);
    assert_eq!(stream.snapshot().await?.state().bytes, bytes);
    Ok(())
}

pub(super) async fn an_index_is_filled_beside_appends(home: Home) -> Outcome {
    let (store, stream) = open_as(&home, narrow()).await?;
    let first: Vec<String> = (0..50).map(|n| format!("e{n:03}")).collect();
    let facts: Vec<_> = first.iter().map(|id| on(id, 10, "phone")).collect();
    append_narrow(&stream, &facts).await?;
    let appends = tokio::spawn(async move {
        // Until the stream is another one.
        for n in 50_usize.. {
            let id = format!("e{n:03}");
            match append_narrow(&stream, &[on(&id, 10, "phone")]).await {
                Ok(()) => {}
                Err(StoreError::StreamReopened { .. }) => return Ok(n),
                Err(error) => return Err(error),
            }
        }
        Ok(0)
    });
    let stream = reopen(&store, spec()).await?;
    let appended = match appends.await {
        Ok(appended) => appended?,
        Err(error) => panic!("{error}"),
    };
    let expected: Vec<String> = (0..appended).map(|n| format!("e{n:03}")).collect();
    assert_eq!(log_now(&stream).await?, expected);
    assert_eq!(ids_now(&stream, DEVICE, "phone").await?, expected);
    Ok(())
}

pub(super) async fn a_dropped_index_comes_back_whole(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    append(&stream, &[on("a", 10, "phone"), on("b", 20, "phone")]).await?;
    put(&stream, vec![tile("ann", 0, 0, "2")]).await?;
    let narrow = reopen(&store, narrow()).await?;
    append_narrow(&narrow, &[on("c", 30, "phone")]).await?;
    assert_eq!(ids_now(&narrow, CUSTOMER, "ann").await?, ["a", "b", "c"]);
    // Reads of the handle that knew the index say that it is gone.
    let lost = ids_now(&stream, DEVICE, "phone").await;
    assert!(matches!(lost, Err(StoreError::StreamReopened { .. })));
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "b", "c"]);
    trim(&narrow, &older_than(15)).await?;
    let wide = reopen(&store, spec()).await?;
    assert_eq!(ids_now(&wide, DEVICE, "phone").await?, ["b", "c"]);
    assert_eq!(ids_now(&wide, CUSTOMER, "ann").await?, ["b", "c"]);
    Ok(())
}

pub(super) async fn events_of_an_added_index_are_trimmed(home: Home) -> Outcome {
    let (store, stream) = open_as(&home, narrow()).await?;
    append_narrow(&stream, &[on("a", 10, "phone"), on("b", 20, "phone")]).await?;
    let stream = reopen(&store, spec()).await?;
    trim(&stream, &older_than(15)).await?;
    assert_eq!(ids_now(&stream, DEVICE, "phone").await?, ["b"]);
    trim(&stream, &older_than(25)).await?;
    assert!(ids_now(&stream, DEVICE, "phone").await?.is_empty());
    assert_eq!(stream.snapshot().await?.state().bytes, 0);
    Ok(())
}

pub(super) async fn handles_of_another_spec_are_refused(home: Home) -> Outcome {
    let (store, old) = open(&home).await?;
    append(&old, &[fact("a", 10, "ann")]).await?;
    let point = old.snapshot().await?.point();
    let new = reopen(&store, narrow()).await?;
    let refusals = [
        append(&old, &[fact("b", 10, "ann")]).await.map(drop),
        old.set_flushed(1).await,
        trim(&old, &older_than(100)).await.map(drop),
        old.drop_tiles(SPEND).await,
        old.put_tiles(SPEND, point, vec![tile("ann", 0, 0, "1")])
            .await
            .map(drop),
    ];
    for refused in refusals {
        assert!(
            matches!(refused, Err(StoreError::StreamReopened { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(ids_now(&new, CUSTOMER, "ann").await?, ["a"]);
    Ok(())
}

pub(super) async fn the_same_spec_keeps_handles(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    let again = reopen(&store, spec()).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    append(&again, &[fact("b", 20, "ann")]).await?;
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "b"]);
    assert_eq!(**stream.spec(), spec());
    let _: Arc<StreamSpec> = Arc::clone(again.spec());
    Ok(())
}

pub(super) async fn contradicting_specs_are_refused(home: Home) -> Outcome {
    let (store, _stream) = open(&home).await?;
    let mut twice = spec();
    twice.indexes.push(index("device"));
    let mut tiles_twice = spec();
    tiles_twice.tile_sets.push(tile_set("spend", 1));
    let mut nowhere = spec();
    nowhere.tile_sets[0].index = "place".to_owned();
    let mut flat = spec();
    flat.tile_sets[0].spans[1] = 0;
    for refused in [twice, tiles_twice, nowhere, flat] {
        let outcome = reopen(&store, refused).await;
        assert!(
            matches!(outcome, Err(StoreError::StreamSpec { .. })),
            "{outcome:?}"
        );
    }
    assert_eq!(store.streams().await?[0].0, spec());
    Ok(())
}

pub(super) async fn positions_that_are_not_there_are_refused(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let snapshot = stream.snapshot().await?;
    let mut sink = Ids::default();
    let order = crate::events::ScanOrder::OldestFirst;
    let keep = crate::events::TrimPolicy {
        keep_newest: vec![(2, 1)],
        ..older_than(10)
    };
    let point = snapshot.point();
    let put = |set, tile| stream.put_tiles(set, point, vec![tile]);
    let refusals = [
        snapshot.scan(2, order, &[all_of("ann")], &mut sink).await,
        stream.trim(&keep, None).await.map(drop),
        stream.drop_tiles(1).await,
        put(1, tile("ann", 0, 0, "")).await.map(drop),
        put(SPEND, tile("ann", 2, 0, "")).await.map(drop),
        put(SPEND, tile("ann", 0, 1, "")).await.map(drop),
    ];
    for refused in refusals {
        assert!(
            matches!(refused, Err(StoreError::StreamSpec { .. })),
            "{refused:?}"
        );
    }
    append(&stream, &[fact("a", 10, "ann")]).await.map(drop)
}
