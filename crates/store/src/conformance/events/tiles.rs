//! Tiles are of the snapshot that shows them.

use super::fixture::*;
use crate::error::StoreError;

pub(super) async fn tiles_are_read_as_they_were_put(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann"), fact("b", MINUTE, "ann")]).await?;
    let tiles = vec![
        tile("ann", 0, 0, "1"),
        tile("ann", 0, MINUTE, "1"),
        tile("ann", 0, -MINUTE, ""),
        tile("ann", 1, 0, "2"),
        tile("bob", 0, 0, "0"),
    ];
    assert_eq!(put(&stream, tiles).await?, 5);
    let minutes = owned(&[(-MINUTE, ""), (0, "1"), (MINUTE, "1")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, minutes);
    assert_eq!(tiles_now(&stream, "ann", 1).await?, owned(&[(0, "2")]));
    assert_eq!(tiles_now(&stream, "bob", 0).await?, owned(&[(0, "0")]));
    assert!(tiles_now(&stream, "bob", 1).await?.is_empty());
    // Put again, the last one holds.
    put(&stream, vec![tile("ann", 1, 0, "two")]).await?;
    assert_eq!(tiles_now(&stream, "ann", 1).await?, owned(&[(0, "two")]));
    Ok(())
}

/// Two minutes and their hour, of two customers.
async fn put_some(stream: &Stream) -> Outcome {
    let mut tiles = Vec::new();
    for key in ["ann", "bob"] {
        tiles.push(tile(key, 0, 0, "m0"));
        tiles.push(tile(key, 0, MINUTE, "m1"));
        tiles.push(tile(key, 1, 0, "h0"));
    }
    assert_eq!(put(stream, tiles).await?, 6);
    Ok(())
}

pub(super) async fn an_event_removes_the_tiles_over_it(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    put_some(&stream).await?;
    let before = stream.snapshot().await?;
    // The last microsecond of the first minute.
    append(&stream, &[fact("a", MINUTE - 1, "ann")]).await?;
    let minute = owned(&[(MINUTE, "m1")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, minute);
    assert!(tiles_now(&stream, "ann", 1).await?.is_empty());
    let both = owned(&[(0, "m0"), (MINUTE, "m1")]);
    assert_eq!(tiles_now(&stream, "bob", 0).await?, both);
    assert_eq!(before.point().sequence, 0);
    // A duplicate is not an event.
    append(&stream, &[fact("a", MINUTE, "bob")]).await?;
    assert_eq!(tiles_now(&stream, "bob", 0).await?, both);
    // Neither in the past of all tiles nor in their future.
    append(&stream, &[fact("b", -1, "bob"), fact("c", HOUR, "bob")]).await?;
    assert_eq!(tiles_now(&stream, "bob", 0).await?, both);
    assert_eq!(tiles_now(&stream, "bob", 1).await?, owned(&[(0, "h0")]));
    // The first microsecond of the second minute.
    append(&stream, &[fact("d", MINUTE, "bob")]).await?;
    assert_eq!(tiles_now(&stream, "bob", 0).await?, owned(&[(0, "m0")]));
    Ok(())
}

pub(super) async fn tiles_from_before_an_event_are_left_out(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    let point = stream.snapshot().await?.point();
    append(&stream, &[fact("b", 20, "ann"), fact("c", HOUR, "ann")]).await?;
    let tiles = vec![
        tile("ann", 0, 0, "old"),
        tile("ann", 1, 0, "old"),
        tile("ann", 0, MINUTE, "right"),
        tile("bob", 0, 0, "right"),
        tile("ann", 0, HOUR, "old"),
    ];
    assert_eq!(stream.put_tiles(SPEND, point, tiles).await?, 2);
    let right = owned(&[(MINUTE, "right")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, right);
    assert!(tiles_now(&stream, "ann", 1).await?.is_empty());
    assert_eq!(tiles_now(&stream, "bob", 0).await?, owned(&[(0, "right")]));
    Ok(())
}

pub(super) async fn a_trim_removes_the_tiles_over_it(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [
        fact("a", 10, "ann"),
        fact("b", MINUTE, "ann"),
        fact("c", MINUTE, "bob"),
    ];
    append(&stream, &facts).await?;
    put_some(&stream).await?;
    assert_eq!(trim(&stream, &older_than(20)).await?, 1);
    let minute = owned(&[(MINUTE, "m1")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, minute);
    assert!(tiles_now(&stream, "ann", 1).await?.is_empty());
    assert_eq!(tiles_now(&stream, "bob", 1).await?, owned(&[(0, "h0")]));
    Ok(())
}

pub(super) async fn tiles_from_before_a_trim_are_left_out(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann"), fact("b", MINUTE, "ann")]).await?;
    let point = stream.snapshot().await?.point();
    trim(&stream, &older_than(20)).await?;
    let tiles = vec![
        tile("ann", 0, 0, "old"),
        tile("ann", 1, 0, "old"),
        tile("ann", 0, MINUTE, "right"),
    ];
    assert_eq!(stream.put_tiles(SPEND, point, tiles).await?, 1);
    let right = owned(&[(MINUTE, "right")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, right);
    put(&stream, vec![tile("ann", 0, 0, "new")]).await?;
    let both = owned(&[(0, "new"), (MINUTE, "right")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, both);
    Ok(())
}

pub(super) async fn another_version_has_no_tiles(home: Home) -> Outcome {
    let (store, stream) = open(&home).await?;
    put_some(&stream).await?;
    let mut next = spec();
    next.tile_sets = vec![tile_set("spend", 2)];
    let newer = reopen(&store, next).await?;
    assert!(tiles_now(&newer, "ann", 0).await?.is_empty());
    let lost = tiles_now(&stream, "ann", 0).await;
    assert!(matches!(lost, Err(StoreError::StreamReopened { .. })));
    put(&newer, vec![tile("ann", 0, 0, "2")]).await?;
    trim(&newer, &older_than(i64::MIN)).await?;
    assert_eq!(tiles_now(&newer, "ann", 0).await?, owned(&[(0, "2")]));
    // The first one again, which begins empty.
    let again = reopen(&store, spec()).await?;
    assert!(tiles_now(&again, "ann", 0).await?.is_empty());
    Ok(())
}

pub(super) async fn dropped_tiles_can_be_put_again(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    put_some(&stream).await?;
    stream.drop_tiles(SPEND).await?;
    assert!(tiles_now(&stream, "ann", 0).await?.is_empty());
    assert!(tiles_now(&stream, "bob", 1).await?.is_empty());
    put_some(&stream).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    let minute = owned(&[(MINUTE, "m1")]);
    assert_eq!(tiles_now(&stream, "ann", 0).await?, minute);
    Ok(())
}

pub(super) async fn tiles_are_right_after_a_restart(home: Home) -> Outcome {
    {
        let (_store, stream) = open(&home).await?;
        put_some(&stream).await?;
    }
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann")]).await?;
    for (start, _) in tiles_now(&stream, "ann", 0).await? {
        assert_eq!(start, MINUTE);
    }
    assert!(tiles_now(&stream, "ann", 1).await?.is_empty());
    Ok(())
}
