//! The order of two rows of one key.
//!
//! Ties of the as-of contract: greatest event time, then greatest created time
//! (NULL was stored as the event time), then the greatest values column by
//! column, NULL lowest, NaN highest. Lists go item by item, a list that is a
//! prefix of another below it.

use std::cmp::Ordering;

use super::fixed::{Fixed, with_native};
use super::list::StoredList;
use super::shape::{Cell, Native, Scalar, Shape, Slot, damaged};
use crate::error::StoreError;

pub(super) fn compare(shape: &Shape, a: &[u8], b: &[u8]) -> Result<Ordering, StoreError> {
    shape.check(a)?;
    shape.check(b)?;
    let times = shape
        .event_time(a)
        .cmp(&shape.event_time(b))
        .then_with(|| shape.created_time(a).cmp(&shape.created_time(b)));
    if times.is_ne() || a == b {
        return Ok(times);
    }
    for slot in &shape.slots {
        let order = compare_slot(shape, slot, a, b)?;
        if order.is_ne() {
            return Ok(order);
        }
    }
    // All values alike, the bytes not: two NaNs, or damage (a bit in a NULL's
    // slot). The bytes keep the order total.
    Ok(a.cmp(b))
}

fn compare_slot(shape: &Shape, slot: &Slot, a: &[u8], b: &[u8]) -> Result<Ordering, StoreError> {
    match (slot.is_valid(a), slot.is_valid(b)) {
        (true, true) => {}
        (a_valid, b_valid) => return Ok(a_valid.cmp(&b_valid)),
    }
    match slot.cell {
        Cell::Scalar(Scalar::Fixed(native)) => {
            Ok(compare_fixed(native, &a[slot.at..], &b[slot.at..]))
        }
        Cell::Scalar(Scalar::Bytes) => Ok(shape.var(a, slot)?.cmp(shape.var(b, slot)?)),
        Cell::List(item) => compare_lists(
            item,
            StoredList::of(item, shape.var(a, slot)?)?,
            StoredList::of(item, shape.var(b, slot)?)?,
        ),
        Cell::Refused => Err(damaged(format_args!("a type that no row holds"))),
    }
}

fn compare_fixed(native: Native, a: &[u8], b: &[u8]) -> Ordering {
    with_native!(native, T => match (T::read(a), T::read(b)) {
        (Some(a), Some(b)) => a.order(b),
        // The row was checked to hold its slots.
        _ => Ordering::Equal,
    })
}

fn compare_lists(
    item: Scalar,
    a: StoredList<'_>,
    b: StoredList<'_>,
) -> Result<Ordering, StoreError> {
    for index in 0..a.count.min(b.count) {
        let order = match (a.is_valid(index), b.is_valid(index)) {
            (true, true) => match item {
                Scalar::Fixed(native) => {
                    with_native!(native, T => a.fixed::<T>(index).order(b.fixed::<T>(index)))
                }
                Scalar::Bytes => a.bytes(index)?.cmp(b.bytes(index)?),
            },
            (a_valid, b_valid) => a_valid.cmp(&b_valid),
        };
        if order.is_ne() {
            return Ok(order);
        }
    }
    Ok(a.count.cmp(&b.count))
}
