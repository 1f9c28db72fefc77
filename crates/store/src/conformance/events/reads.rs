//! What a read gives.

use granary_model::UtcMicros;

use super::fixture::*;
use crate::events::{KeyRange, ScanOrder};

use ScanOrder::{NewestFirst, OldestFirst};

pub(super) async fn ranges_are_closed_at_both_ends(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [
        fact("a", 10, "ann"),
        fact("b", 20, "ann"),
        fact("c", 30, "ann"),
    ];
    append(&stream, &facts).await?;
    let snapshot = stream.snapshot().await?;
    for (from, to, expected) in [
        (10, 30, vec!["a", "b", "c"]),
        (10, 20, vec!["a", "b"]),
        (11, 29, vec!["b"]),
        (20, 20, vec!["b"]),
        (21, 29, vec![]),
        (30, 10, vec![]),
        (31, i64::MAX, vec![]),
        (i64::MIN, 9, vec![]),
    ] {
        for order in [OldestFirst, NewestFirst] {
            let mut found = ids(&snapshot, CUSTOMER, order, between("ann", from, to)).await?;
            if order == NewestFirst {
                found.reverse();
            }
            assert_eq!(found, expected, "[{from}, {to}] {order:?}");
        }
    }
    Ok(())
}

pub(super) async fn both_orders_are_mirrors(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    // Late ones, and equal times: there the sequence decides.
    let facts = [
        fact("a", 20, "ann"),
        fact("b", 10, "ann"),
        fact("c", 20, "ann"),
        fact("d", 5, "ann"),
        fact("e", 20, "ann"),
    ];
    append(&stream, &facts[..2]).await?;
    append(&stream, &facts[2..]).await?;
    let snapshot = stream.snapshot().await?;
    let oldest = ids(&snapshot, CUSTOMER, OldestFirst, all_of("ann")).await?;
    assert_eq!(oldest, ["d", "b", "a", "c", "e"]);
    let mut newest = ids(&snapshot, CUSTOMER, NewestFirst, all_of("ann")).await?;
    newest.reverse();
    assert_eq!(newest, oldest);
    Ok(())
}

pub(super) async fn limits_and_breaks_end_a_range(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let names: Vec<String> = (0..10).map(|n| format!("e{n}")).collect();
    let facts: Vec<_> = names
        .iter()
        .zip(0..)
        .map(|(id, at)| fact(id, at, if at % 2 == 0 { "ann" } else { "bob" }))
        .collect();
    append(&stream, &facts).await?;
    let snapshot = stream.snapshot().await?;
    let limited = |limit| KeyRange {
        limit,
        ..all_of("ann")
    };
    let newest = ids(&snapshot, CUSTOMER, NewestFirst, limited(2)).await?;
    assert_eq!(newest, ["e8", "e6"]);
    let none = ids(&snapshot, CUSTOMER, OldestFirst, limited(0)).await?;
    assert!(none.is_empty());

    let mut sink = Ids {
        break_after: Some(2),
        ..Ids::default()
    };
    let ranges = [all_of("ann"), all_of("bob")];
    snapshot
        .scan(CUSTOMER, OldestFirst, &ranges, &mut sink)
        .await?;
    assert_eq!(sink.found, [["e0", "e2"], ["e1", "e3"]]);
    let mut sink = Ids {
        break_after: Some(3),
        ..Ids::default()
    };
    snapshot.scan_log(2, usize::MAX, &mut sink).await?;
    assert_eq!(sink.found, [["e2", "e3", "e4"]]);
    Ok(())
}

pub(super) async fn many_keys_in_one_scan(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let names: Vec<String> = (0..200).map(|n| format!("k{n}")).collect();
    let facts: Vec<_> = names.iter().map(|name| fact(name, 10, name)).collect();
    append(&stream, &facts).await?;
    append(&stream, &[fact("again", 20, "k7")]).await?;
    let snapshot = stream.snapshot().await?;
    // Any order, a key twice with other ranges, and one that is not there.
    let mut ranges: Vec<_> = names.iter().rev().map(|name| all_of(name)).collect();
    ranges.push(all_of("nobody"));
    ranges.push(between("k7", 11, 30));
    let mut sink = Ids::default();
    snapshot
        .scan(CUSTOMER, OldestFirst, &ranges, &mut sink)
        .await?;
    assert_eq!(sink.found.len(), ranges.len());
    for (position, name) in names.iter().rev().enumerate() {
        let mut expected = vec![name.as_str()];
        expected.extend((name == "k7").then_some("again"));
        assert_eq!(sink.found[position], expected);
    }
    assert!(sink.found[200].is_empty());
    assert_eq!(sink.found[201], ["again"]);
    Ok(())
}

pub(super) async fn keys_that_begin_alike_stay_apart(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let mut events = Vec::new();
    let keys: [&[u8]; 8] = [
        b"",
        b"a",
        b"ab",
        b"a\0",
        b"a\0\0",
        b"\0",
        b"\xff",
        b"\xff\xff",
    ];
    for (n, key) in keys.iter().enumerate() {
        let mut event = fact(&format!("e{n}"), 10, "").event();
        event.keys[CUSTOMER] = vec![bytes::Bytes::copy_from_slice(key)];
        events.push(event);
    }
    let batch = crate::events::EventBatch {
        events,
        offsets: Vec::new(),
    };
    stream.append(batch).await?;
    let snapshot = stream.snapshot().await?;
    for (n, key) in keys.iter().enumerate() {
        let range = KeyRange { key, ..all_of("") };
        let found = ids(&snapshot, CUSTOMER, OldestFirst, range).await?;
        assert_eq!(found, [format!("e{n}")], "{key:?}");
    }
    Ok(())
}

pub(super) async fn long_keys_are_whole(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let long = "x".repeat(100_000);
    let (left, right) = (format!("{long}l"), format!("{long}r"));
    append(&stream, &[fact(&left, 10, &left), fact(&right, 20, &right)]).await?;
    assert_eq!(ids_now(&stream, CUSTOMER, &left).await?, [left.as_str()]);
    assert_eq!(ids_now(&stream, CUSTOMER, &right).await?, [right.as_str()]);
    assert!(ids_now(&stream, CUSTOMER, &long).await?.is_empty());
    let again = append(&stream, &[fact(&left, 10, &left), fact(&long, 10, "a")]).await?;
    assert!(!again[0].is_new() && again[1].is_new());
    assert_eq!(trim(&stream, &older_than(15)).await?, 2);
    assert!(ids_now(&stream, CUSTOMER, &left).await?.is_empty());
    Ok(())
}

pub(super) async fn times_before_1970_and_the_extremes(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [
        fact("zero", 0, "ann"),
        fact("before", -1, "ann"),
        fact("last", i64::MAX, "ann"),
        fact("first", i64::MIN, "ann"),
        fact("after", 1, "ann"),
    ];
    append(&stream, &facts).await?;
    let expected = ["first", "before", "zero", "after", "last"];
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, expected);
    let snapshot = stream.snapshot().await?;
    let found = ids(&snapshot, CUSTOMER, NewestFirst, between("ann", -1, 0)).await?;
    assert_eq!(found, ["zero", "before"]);
    assert_eq!(trim(&stream, &older_than(i64::MAX)).await?, 4);
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["last"]);
    Ok(())
}

pub(super) async fn the_log_is_read_by_sequence(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let facts = [
        fact("a", 30, "ann"),
        fact("b", 20, ""),
        fact("c", 10, "bob"),
        fact("d", 40, "ann"),
    ];
    append(&stream, &facts).await?;
    let snapshot = stream.snapshot().await?;
    for (after, limit, expected) in [
        (0, 10, vec!["a", "b", "c", "d"]),
        (0, 2, vec!["a", "b"]),
        (2, 1, vec!["c"]),
        (3, 10, vec!["d"]),
        (4, 10, vec![]),
        (u64::MAX, 10, vec![]),
        (0, 0, vec![]),
    ] {
        let mut sink = Ids::default();
        snapshot.scan_log(after, limit, &mut sink).await?;
        assert_eq!(sink.found.pop().unwrap_or_default(), expected);
    }
    Ok(())
}

pub(super) async fn a_snapshot_stays_as_it_was(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    append(&stream, &[fact("a", 10, "ann"), fact("b", 20, "ann")]).await?;
    let before = stream.snapshot().await?;
    append(&stream, &[fact("c", 15, "ann")]).await?;
    trim(&stream, &older_than(12)).await?;
    let mut log = Ids::default();
    before.scan_log(0, 10, &mut log).await?;
    assert_eq!(log.found, [["a", "b"]]);
    let found = ids(&before, CUSTOMER, OldestFirst, all_of("ann")).await?;
    assert_eq!(found, ["a", "b"]);
    assert_eq!(before.state().events, 2);
    assert_eq!(before.state().trimmed_before, None);
    assert!(before.duplicates(&[b"a"]).await?[0].is_some());
    assert_eq!(ids_now(&stream, CUSTOMER, "ann").await?, ["c", "b"]);
    assert_ne!(before.point(), stream.snapshot().await?.point());
    Ok(())
}

pub(super) async fn stored_dedup_keys_are_found(home: Home) -> Outcome {
    let (_store, stream) = open(&home).await?;
    let appended = append(&stream, &[fact("a", 10, "ann"), fact("b", 20, "")]).await?;
    let snapshot = stream.snapshot().await?;
    let found = snapshot.duplicates(&[b"b", b"nobody", b"a", b"b"]).await?;
    let a = Some((appended[0].id(), UtcMicros(10)));
    let b = Some((appended[1].id(), UtcMicros(20)));
    assert_eq!(found, [b, None, a, b]);
    Ok(())
}
