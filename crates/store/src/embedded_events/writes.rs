//! What one batch of the database is made of, in the order that is fastest to
//! write.

use fjall::{OwnedWriteBatch as WriteBatch, Slice};

use super::shelf::Spaces;

/// A keyspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Space {
    Meta,
    Log,
    Times,
    Index,
    Dedup,
    Tiles,
}

/// Each key once at most: within a batch the database knows no order.
///
/// They are written keyspace by keyspace and by ascending key: what was looked
/// at to find one place in a memtable is then at hand for the next.
#[derive(Debug, Default)]
pub(super) struct Writes(Vec<(Space, Slice, Option<Slice>)>);

impl Writes {
    pub(super) fn insert(&mut self, space: Space, key: impl Into<Slice>, value: impl Into<Slice>) {
        self.0.push((space, key.into(), Some(value.into())));
    }

    pub(super) fn remove(&mut self, space: Space, key: impl Into<Slice>) {
        self.0.push((space, key.into(), None));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_batch(mut self, spaces: &Spaces) -> WriteBatch {
        self.0
            .sort_unstable_by(|(a, a_key, _), (b, b_key, _)| (a, a_key).cmp(&(b, b_key)));
        let mut batch = spaces.db.batch();
        for (space, key, value) in self.0 {
            let space = match space {
                Space::Meta => &spaces.meta,
                Space::Log => &spaces.log,
                Space::Times => &spaces.times,
                Space::Index => &spaces.index,
                Space::Dedup => &spaces.dedup,
                Space::Tiles => &spaces.tiles,
            };
            match value {
                Some(value) => batch.insert(space, key, value),
                None => batch.remove(space, key),
            }
        }
        batch
    }
}
