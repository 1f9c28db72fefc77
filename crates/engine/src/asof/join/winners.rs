//! The greatest event of each position of the spine.
//!
//! Events come in any order. An event belongs to the first position of its key
//! at which it is visible; that position's *slot* keeps the greatest one. Since
//! what is visible stays visible, a running maximum along a key's positions then
//! gives every position its winner. Batches with winners are held as they are
//! for a while, until most winners have lost again to later ones; then the rows
//! that still win are kept and the batches go: memory follows the spine, not the
//! events.

use std::borrow::Cow;
use std::cmp::Ordering;

use arrow::array::{Array, ArrayRef, Int64Array};
use arrow::compute::interleave;
use datafusion::common::HashMap;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::MemoryReservation;

use crate::asof::compact::{compact, row_bytes};
use crate::asof::keys::NO_GROUP;
use crate::asof::order::RowOrder;
use crate::asof::spine::Spine;

/// Bytes of batches that are held as they came.
pub(super) const HELD_BYTES: usize = 32 << 20;
/// Rows in a batch of kept rows after compaction.
const COMPACTED_ROWS: usize = 1 << 16;
/// Kept rows below which compaction is not worth it.
const SLACK_ROWS: usize = 1 << 16;
/// Comparators of pairs of kept batches that a merge holds on to.
const ORDERS_MAX: usize = 1024;

/// A kept event. `batch` is `NONE` where there is none.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) event_time: i64,
    created: i64,
    pub(super) batch: u32,
    pub(super) row: u32,
}

const NONE: u32 = u32::MAX;

const EMPTY: Slot = Slot {
    event_time: i64::MIN,
    created: i64::MIN,
    batch: NONE,
    row: 0,
};

impl Slot {
    pub(super) fn is_empty(&self) -> bool {
        self.batch == NONE
    }

    /// By event time, then created time; an empty slot is below all others.
    fn rank(&self) -> (bool, i64, i64) {
        (!self.is_empty(), self.event_time, self.created)
    }
}

/// When an event may be seen, and by which positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Visibility {
    /// From its event time on; `strictly` after it.
    From {
        strictly: bool,
        known_at_the_time: bool,
    },
    /// At positions of its very time: rows of a run.
    At,
}

/// A batch of events, evaluated.
#[derive(Debug)]
pub(super) struct Events<'a> {
    /// Group of the spine or `NO_GROUP`.
    pub(super) groups: Cow<'a, [u32]>,
    /// UTC microseconds; events without one are never seen.
    pub(super) event_times: Int64Array,
    /// NULL: the event time.
    pub(super) created: Option<Int64Array>,
    /// NULL: from the event time on.
    pub(super) seen_from: Option<Int64Array>,
    /// In the order in which they decide ties.
    pub(super) values: Vec<ArrayRef>,
}

impl Events<'_> {
    fn slot(&self, row: usize, batch: u32) -> Slot {
        let event_time = self.event_times.value(row);
        let created = self
            .created
            .as_ref()
            .filter(|created| created.is_valid(row));
        Slot {
            event_time,
            created: created.map_or(event_time, |created| created.value(row)),
            batch,
            row: row as u32,
        }
    }
}

impl Events<'_> {
    fn seen_from(&self, row: usize) -> Option<i64> {
        let seen_from = self.seen_from.as_ref()?;
        seen_from.is_valid(row).then(|| seen_from.value(row))
    }
}

impl Visibility {
    /// The position that an event belongs to, which is not seen before
    /// `seen_from`, whatever its event time.
    fn position(
        self,
        spine: &Spine,
        group: u32,
        event: &Slot,
        seen_from: Option<i64>,
    ) -> Option<usize> {
        match self {
            Self::At => spine
                .first_from(group, event.event_time)
                .filter(|position| spine.times()[*position] == event.event_time),
            Self::From {
                strictly,
                known_at_the_time,
            } => {
                let mut from = seen_from.map_or(event.event_time, |f| f.max(event.event_time));
                if strictly {
                    from = from.checked_add(1)?;
                }
                if known_at_the_time {
                    from = from.max(event.created);
                }
                spine.first_from(group, from)
            }
        }
    }
}

/// Winners among the events seen so far.
#[derive(Debug)]
pub(super) struct Winners {
    slots: Vec<Slot>,
    filled: usize,
    /// Rows that won, then batches as they came.
    kept: Vec<Vec<ArrayRef>>,
    kept_rows: usize,
    kept_bytes: usize,
    held: Held,
    reservation: MemoryReservation,
}

/// Batches at the end of what is kept that nothing was dropped of yet.
#[derive(Debug, Default)]
struct Held {
    /// The first of them.
    from: usize,
    rows: usize,
    bytes: usize,
    bytes_max: usize,
    /// Positions that they won, some of them several times.
    won: Vec<u32>,
}

impl Winners {
    /// Batches of up to `held_bytes` are held. Fails where the memory for the
    /// slots is not to be had.
    pub(super) fn new(
        spine: &Spine,
        held_bytes: usize,
        reservation: MemoryReservation,
    ) -> Result<Self> {
        reservation.try_grow(spine.position_count() * size_of::<Slot>())?;
        Ok(Self {
            slots: vec![EMPTY; spine.position_count()],
            filled: 0,
            kept: Vec::new(),
            kept_rows: 0,
            kept_bytes: 0,
            held: Held {
                bytes_max: held_bytes,
                ..Held::default()
            },
            reservation,
        })
    }

    pub(super) fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Kept rows, a batch each; slots point into them.
    pub(super) fn kept(&self) -> &[Vec<ArrayRef>] {
        &self.kept
    }

    /// Takes in a batch of events.
    pub(super) fn offer(
        &mut self,
        spine: &Spine,
        visibility: Visibility,
        events: &Events<'_>,
    ) -> Result<()> {
        let batch = self.kept.len() as u32;
        let nulls = events.event_times.nulls();
        let mut orders: HashMap<u32, RowOrder> = HashMap::default();
        let won_before = self.held.won.len();
        for (row, group) in events.groups.iter().enumerate() {
            if *group == NO_GROUP || nulls.is_some_and(|nulls| nulls.is_null(row)) {
                continue;
            }
            let event = events.slot(row, batch);
            let seen_from = events.seen_from(row);
            let Some(position) = visibility.position(spine, *group, &event, seen_from) else {
                continue;
            };
            let slot = self.slots[position];
            let greater = match event.rank().cmp(&slot.rank()) {
                Ordering::Equal => {
                    let order = match orders.get(&slot.batch) {
                        Some(order) => order,
                        None => {
                            let held = self.kept.get(slot.batch as usize);
                            let order =
                                RowOrder::new(&events.values, held.unwrap_or(&events.values))?;
                            orders.entry(slot.batch).or_insert(order)
                        }
                    };
                    order.compare(row, slot.row as usize)
                }
                other => other,
            };
            if greater.is_gt() {
                self.filled += usize::from(slot.is_empty());
                self.slots[position] = event;
                self.held.won.push(position as u32);
            }
        }
        match self.held.won.len() > won_before {
            true => self.hold(events),
            false => Ok(()),
        }
    }

    /// Holds a batch with winners.
    fn hold(&mut self, events: &Events<'_>) -> Result<()> {
        self.held.rows += events.groups.len();
        self.held.bytes += events.values.iter().map(row_bytes).sum::<usize>();
        self.kept.push(events.values.clone());
        if self.held.bytes > self.held.bytes_max {
            self.settle_held()?;
        }
        self.reserve()
    }

    /// Keeps of the held batches the rows that still win.
    fn settle_held(&mut self) -> Result<()> {
        let from = self.held.from;
        let batches = self.kept.split_off(from);
        let mut won = std::mem::take(&mut self.held.won);
        won.sort_unstable();
        won.dedup();
        self.keep(&batches, from, &won)?;
        won.clear();
        self.held = Held {
            from: self.kept.len(),
            bytes_max: self.held.bytes_max,
            won,
            ..Held::default()
        };
        if self.kept_rows > 2 * self.filled + SLACK_ROWS {
            self.compact()?;
        }
        Ok(())
    }

    /// Copies the rows that slots at these positions point to out of batches
    /// whose numbers begin with `first`.
    fn keep(&mut self, batches: &[Vec<ArrayRef>], first: usize, positions: &[u32]) -> Result<()> {
        let width = batches.first().map_or(0, Vec::len);
        for positions in positions.chunks(COMPACTED_ROWS) {
            let rows: Vec<(usize, usize)> = positions
                .iter()
                .map(|position| self.slots[*position as usize])
                .map(|slot| (slot.batch as usize - first, slot.row as usize))
                .collect();
            let columns = (0..width)
                .map(|column| gather(batches, column, None, &rows).map(compact))
                .collect::<Result<Vec<_>>>()?;
            let batch = self.kept.len() as u32;
            for (row, position) in positions.iter().enumerate() {
                let slot = &mut self.slots[*position as usize];
                slot.batch = batch;
                slot.row = row as u32;
            }
            for column in &columns {
                self.kept_bytes += column.get_array_memory_size();
            }
            self.kept_rows += positions.len();
            self.kept.push(columns);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        let slots = self.slots.len() * size_of::<Slot>();
        let won = self.held.won.capacity() * size_of::<u32>();
        slots + won + self.kept_bytes + self.held.bytes
    }

    fn reserve(&mut self) -> Result<()> {
        if self.reservation.try_resize(self.bytes()).is_err() {
            self.settle_held()?;
            self.compact()?;
            self.reservation.try_resize(self.bytes())?;
        }
        Ok(())
    }

    /// Drops kept rows that no slot points to; no batch is held.
    fn compact(&mut self) -> Result<()> {
        let positions = 0..self.slots.len() as u32;
        let live: Vec<u32> = positions
            .filter(|position| !self.slots[*position as usize].is_empty())
            .collect();
        let old = std::mem::take(&mut self.kept);
        self.kept_rows = 0;
        self.kept_bytes = 0;
        self.keep(&old, 0, &live)?;
        self.held.from = self.kept.len();
        Ok(())
    }

    /// Takes in the winners among other events, for the same spine.
    pub(super) fn merge(&mut self, mut other: Self) -> Result<()> {
        self.settle_held()?;
        other.settle_held()?;
        let offset = self.kept.len() as u32;
        let mut orders: HashMap<(u32, u32), RowOrder> = HashMap::default();
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            let greater = match theirs.rank().cmp(&mine.rank()) {
                Ordering::Equal if mine.is_empty() => Ordering::Equal,
                Ordering::Equal => {
                    let pair = (theirs.batch, mine.batch);
                    if !orders.contains_key(&pair) {
                        if orders.len() == ORDERS_MAX {
                            orders.clear();
                        }
                        let held = match mine.batch.checked_sub(offset) {
                            Some(taken) => &other.kept[taken as usize],
                            None => &self.kept[mine.batch as usize],
                        };
                        let order = RowOrder::new(&other.kept[theirs.batch as usize], held)?;
                        orders.insert(pair, order);
                    }
                    orders[&pair].compare(theirs.row as usize, mine.row as usize)
                }
                greater => greater,
            };
            if greater.is_gt() {
                self.filled += usize::from(mine.is_empty());
                *mine = Slot {
                    batch: theirs.batch + offset,
                    ..*theirs
                };
            }
        }
        self.kept.extend(other.kept);
        self.kept_rows += other.kept_rows;
        self.kept_bytes += other.kept_bytes;
        self.held.from = self.kept.len();
        // The other slots go, their rows stay.
        drop(other.slots);
        drop(other.reservation);
        self.reserve()
    }

    /// Gives every position its winner.
    pub(super) fn settle(&mut self, spine: &Spine, visibility: Visibility) {
        for group in 0..spine.group_count() {
            let mut best = EMPTY;
            let mut best_time = None;
            for position in spine.positions(group as u32) {
                let time = spine.times()[position];
                if visibility == Visibility::At && best_time.is_some_and(|best| best != time) {
                    best = EMPTY;
                }
                best_time = Some(time);
                let slot = &mut self.slots[position];
                // Events of equal rank are visible at the same position, where
                // their values were compared.
                if slot.rank() > best.rank() {
                    best = *slot;
                } else {
                    *slot = best;
                }
            }
        }
    }
}

/// One column of kept rows, by (batch, row); the batch after the last is `last`.
pub(super) fn gather(
    kept: &[Vec<ArrayRef>],
    column: usize,
    last: Option<&ArrayRef>,
    rows: &[(usize, usize)],
) -> Result<ArrayRef> {
    let arrays: Vec<&dyn Array> = kept
        .iter()
        .map(|batch| batch[column].as_ref())
        .chain(last.map(AsRef::as_ref))
        .collect();
    if arrays.is_empty() {
        return Err(DataFusionError::Internal("no rows to gather from".into()));
    }
    Ok(interleave(&arrays, rows)?)
}
