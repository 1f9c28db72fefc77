//! Events of several keys in one index.

use granary_model::UtcMicros;

use super::fixture::*;
use crate::events::{EventBatch, StreamSpec, TrimPolicy};

pub(super) async fn an_event_is_found_under_each_of_its_keys(home: Home) -> Outcome {
    {
        let (_store, stream) = open(&home).await?;
        let facts = [
            fact("a", 10, "ann,bob"),
            fact("b", 20, "bob"),
            fact("c", 5, "cid,bob,ann"),
        ];
        append(&stream, &facts).await?;
        let again = append(&stream, &[fact("a", 30, "dan")]).await?;
        assert!(!again[0].is_new());
    }
    let (_store, stream) = open(&home).await?;
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["c", "a"]);
    assert_eq!(ids_now(&stream, CUSTOMER, "bob").await?, ["c", "a", "b"]);
    assert_eq!(ids_now(&stream, CUSTOMER, "cid").await?, ["c"]);
    assert!(ids_now(&stream, CUSTOMER, "ann,bob").await?.is_empty());
    assert!(ids_now(&stream, CUSTOMER, "dan").await?.is_empty());
    // In the log, and in what is counted, they are once.
    assert_eq!(log_now(&stream).await?, ["a", "b", "c"]);
    let state = *stream.snapshot().await?.state();
    // "a|ann,bob|", "b|bob|", "c|cid,bob,ann|" and ids.
    assert_eq!((state.events, state.bytes), (3, 10 + 6 + 14 + 3));
    Ok(())
}

pub(super) async fn a_key_that_is_given_twice_counts_once(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann,bob,ann,ann")]).await?;
    append(&stream, &[fact("b", 20, "ann")]).await?;
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "b"]);
    let newest_two = TrimPolicy {
        keep_newest: vec![(CUSTOMER, 2)],
        ..older_than(100)
    };
    assert_eq!(trim(&stream, &newest_two).await?, 0);
    assert_eq!(trim(&stream, &older_than(15)).await?, 1);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["b"]);
    assert!(ids_now(&stream, CUSTOMER, "bob").await?.is_empty());
    Ok(())
}

async fn put_a_minute_of_each(stream: &Stream) -> Outcome {
    let tiles = ["ann", "bob", "cid"].map(|key| tile(key, 0, 0, "m"));
    assert_eq!(put(stream, tiles.to_vec()).await?, 3);
    Ok(())
}

/// Which of them are there.
async fn minutes(stream: &Stream) -> Result<Vec<&'static str>, crate::error::StoreError> {
    let mut there = Vec::new();
    for key in ["ann", "bob", "cid"] {
        if !tiles_now(stream, key, 0).await?.is_empty() {
            there.push(key);
        }
    }
    Ok(there)
}

pub(super) async fn an_event_of_several_keys_removes_the_tiles_of_each(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    put_a_minute_of_each(&stream).await?;
    append(&stream, &[fact("later", MINUTE, "ann,bob,cid")]).await?;
    assert_eq!(minutes(&stream).await?, ["ann", "bob", "cid"]);
    append(&stream, &[fact("a", 10, "ann,cid")]).await?;
    assert_eq!(minutes(&stream).await?, ["bob"]);
    put_a_minute_of_each(&stream).await?;
    assert_eq!(trim(&stream, &older_than(20)).await?, 1);
    assert_eq!(minutes(&stream).await?, ["bob"]);
    Ok(())
}

pub(super) async fn tiles_of_each_key_from_before_an_event_are_left_out(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let point = stream.snapshot().await?.point();
    append(&stream, &[fact("a", 10, "ann,cid")]).await?;
    let tiles = ["ann", "bob", "cid"].map(|key| tile(key, 0, 0, "m"));
    let kept = stream.put_tiles(SPEND, point, tiles.to_vec()).await?;
    assert_eq!(kept, 1);
    assert_eq!(minutes(&stream).await?, ["bob"]);
    Ok(())
}

pub(super) async fn a_trim_removes_every_key_of_an_event(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [fact("a", 10, "ann,bob,cid"), fact("b", 20, "bob,ann")];
    append(&stream, &facts).await?;
    assert_eq!(trim(&stream, &older_than(15)).await?, 1);
    for (key, left) in [("ann", 1), ("bob", 1), ("cid", 0)] {
        let found = ids_now(&stream, CUSTOMER, key).await?;
        assert_eq!(found, ["b"][..left], "{key}");
    }
    assert_eq!(trim(&stream, &older_than(25)).await?, 1);
    assert!(ids_now(&stream, CUSTOMER, "ann").await?.is_empty());
    let state = *stream.snapshot().await?.state();
    assert_eq!((state.events, state.bytes), (0, 0));
    Ok(())
}

pub(super) async fn a_trim_keeps_what_is_new_to_one_key(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [
        fact("a", 10, "ann,bob"),
        fact("b", 20, "ann,cid"),
        fact("c", 30, "ann"),
        fact("d", 15, "cid"),
    ];
    append(&stream, &facts).await?;
    let newest = TrimPolicy {
        older_than: UtcMicros(100),
        keep_newest: vec![(CUSTOMER, 1)],
    };
    // Of ann the newest is c, of bob a, of cid b.
    assert_eq!(trim(&stream, &newest).await?, 1);
    assert_eq!(log_now(&stream).await?, ["a", "b", "c"]);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["a", "b", "c"]);
    Ok(())
}

pub(super) async fn an_added_index_is_filled_under_each_key(home: Home) -> Outcome {
    let on = |id, device| Fact {
        device,
        ..fact(id, 10, "ann")
    };
    let (store, stream) = {
        let narrow = StreamSpec {
            indexes: vec![index("customer")],
            ..spec()
        };
        open_as(&home, narrow).await?
    };
    let facts = [on("a", "phone,pc,phone"), on("b", ""), on("c", "pc")];
    let batch = EventBatch {
        events: facts.iter().map(|f| f.event_of(&["customer"])).collect(),
        offsets: Vec::new(),
    };
    stream.append(batch).await?;
    let stream = reopen(&store, spec()).await?;
    append(&stream, &[on("d", "phone,pc")]).await?;
    assert_eq!(ids_now(&stream, DEVICE, "phone").await?, ["a", "d"]);
    assert_eq!(ids_now(&stream, DEVICE, "pc").await?, ["a", "c", "d"]);
    assert_eq!(trim(&stream, &older_than(20)).await?, 4);
    assert!(ids_now(&stream, DEVICE, "pc").await?.is_empty());
    Ok(())
}
