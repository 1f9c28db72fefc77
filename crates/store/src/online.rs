//! The online store's contract.
//!
//! Data is kept in *generations*: the online rows of one version of one view.
//! A generation is written, then published; publication is a pointer that a
//! reader pins ([`OnlineStore::generation`]), so a reader that began on one
//! generation ends on it. How a generation is laid out is the store's own
//! business. Every implementation passes [`crate::conformance`].
//!
//! Writes are joins: of the row that is stored and the row that is written the
//! greatest by (event time, created time, values) stays, see
//! [`RowLayout::join`](crate::RowLayout). Repeating or reordering writes
//! changes nothing.
//!
//! A generation may have a *default row*, which answers every key that has no
//! row of its own: what is told of somebody of whom nothing happened.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use granary_model::{Interval, UtcMicros};
use serde::{Deserialize, Serialize};

use crate::codec::{RowLayout, RowOrder};
use crate::error::StoreError;
use crate::keys::EntityKeys;
use crate::rows::EncodedRows;

/// Names a generation.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct GenerationId {
    pub view: String,
    pub version: u32,
    /// 1, 2, ... within (view, version).
    pub number: u64,
}

/// Up to where a generation holds the offline table, as the writer left it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// The offline table's version (Delta) that the rows come from.
    pub offline_version: u64,
    /// T of the newest run whose rows are all in: the `as_of` of every value,
    /// but see [`Generation::reaches`].
    pub as_of: UtcMicros,
    /// Rows older than this may be missing, left out or swept; `None`: none are.
    /// A view whose TTL grew beyond it needs its generation written anew.
    #[serde(default)]
    pub ttl: Option<Interval>,
}

/// What is known of a published generation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GenerationState {
    pub id: GenerationId,
    pub coverage: Coverage,
    /// Rows in it (keys), expired ones that were not swept yet included, the
    /// default row not.
    pub rows: u64,
    /// Raised by every write that changed a row of this generation; part of
    /// cache keys.
    pub write_counter: u64,
}

/// A published generation, pinned: its data stays readable while this lives.
pub trait Generation: Debug + Send + Sync {
    /// As of when it was pinned or last refreshed.
    fn state(&self) -> GenerationState;
    fn layout(&self) -> &Arc<RowLayout>;
    /// T of the newest run of which rows may be in: the coverage's `as_of`, or
    /// a later one from the first row of an upsert until its publication, and
    /// for as long as that does not come because the writer was killed. Asked
    /// after a read it holds for every row that the read gave.
    fn reaches(&self) -> UtcMicros;
    /// For the store that made it.
    fn as_any(&self) -> &dyn std::any::Any;
}

/// Receives the rows of a read, in any order, each pair at most once.
pub trait RowSink: Send {
    /// `generation` and `entity` are positions in the read's arguments; `row`
    /// is in the generation's layout. Pairs without a row are not reported; in a
    /// generation with a default row only NULL keys are without one.
    fn row(&mut self, generation: usize, entity: usize, row: &[u8]);
}

/// How a generation is filled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// A new generation, empty at first, unseen until it is published.
    Create,
    /// Into the published generation; each bounded transaction is seen as it commits.
    Upsert {
        /// T of the newest run whose rows will be written. Before the first row
        /// is, the generation durably [reaches](Generation::reaches) this.
        up_to: UtcMicros,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UpsertSummary {
    /// Rows whose key was new.
    pub inserted: u64,
    /// Rows that took the place of a lesser row.
    pub replaced: u64,
    /// Rows that were not greater than the stored one.
    pub kept: u64,
}

impl UpsertSummary {
    /// Whether any row is another than before.
    pub fn changed(&self) -> bool {
        self.inserted + self.replaced > 0
    }

    pub fn rows(&self) -> u64 {
        self.inserted + self.replaced + self.kept
    }
}

impl std::ops::AddAssign for UpsertSummary {
    fn add_assign(&mut self, more: Self) {
        self.inserted += more.inserted;
        self.replaced += more.replaced;
        self.kept += more.kept;
    }
}

/// What every writer checks of a batch before it writes any of it: a row for
/// each key, no NULL key, rows of the layout.
pub fn check_batch(
    order: &RowOrder,
    keys: &EntityKeys,
    rows: &EncodedRows,
) -> Result<(), StoreError> {
    if keys.len() != rows.len() {
        return Err(StoreError::Codec(format!(
            "{} keys and {} rows in one batch",
            keys.len(),
            rows.len()
        )));
    }
    if let Some(row) = keys.first_null() {
        return Err(StoreError::NullKey { row });
    }
    rows.iter().try_for_each(|row| order.check(row))
}

/// What every writer checks of a default row before it takes it.
pub fn check_default(order: &RowOrder, mode: WriteMode, row: &[u8]) -> Result<(), StoreError> {
    if mode != WriteMode::Create {
        return Err(StoreError::Codec(
            "a default row is set where its generation is made, not by an upsert".to_owned(),
        ));
    }
    order.check(row)
}

/// Fills one generation. Dropped without [`publish`](Self::publish), a created
/// generation leaves nothing behind.
#[async_trait]
pub trait GenerationWriter: Send {
    /// Joins rows in. Row i belongs to key i; a NULL key is an error, and then
    /// nothing of the batch is written.
    /// Rows in ascending key order are fastest, any order is right; a key may
    /// come more than once. After any other error some rows of the batch may
    /// be in; the writer then refuses to publish, and all is to be written again.
    async fn write(
        &mut self,
        keys: &EntityKeys,
        rows: &EncodedRows,
    ) -> Result<UpsertSummary, StoreError>;

    /// Sets the row that answers every key without one of its own; the last
    /// call holds. It belongs to the generation: `Create` alone sets it, an
    /// upsert keeps it and may not change it. A row of another layout is an
    /// error.
    async fn write_default(&mut self, row: &[u8]) -> Result<(), StoreError>;

    /// Makes the rows durable and visible, in the place of the generation of
    /// this view and version that was published before. An upsert goes on in the
    /// same generation, or, where the store writes all of its rows anew, ends in
    /// one of a greater number.
    async fn publish(self: Box<Self>, coverage: Coverage) -> Result<GenerationState, StoreError>;
}

/// Online rows of entities, by generation.
#[async_trait]
pub trait OnlineStore: Debug + Send + Sync {
    /// Pins what is published for a version of a view; `None` where nothing is.
    async fn generation(
        &self,
        view: &str,
        version: u32,
    ) -> Result<Option<Arc<dyn Generation>>, StoreError>;

    /// Every published generation.
    async fn generations(&self) -> Result<Vec<GenerationState>, StoreError>;

    /// Reads the rows of some entities from several generations, all of them
    /// keyed by `keys`. A NULL key has no row, a key without a row of its own
    /// the generation's default row, where it has one.
    async fn read(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError>;

    /// Opens a writer. One writer a (view, version) at a time: a second one is
    /// `StoreError::Busy`. `Upsert` into what was never published is
    /// `StoreError::NotPublished`, into a published layout other than `layout`
    /// `StoreError::LayoutChanged`; `Create` may change the layout.
    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Box<dyn GenerationWriter>, StoreError>;

    /// Removes rows whose event time lies before `older_than`; gives their
    /// number. 0 where nothing is published or rows have no event time;
    /// `StoreError::Busy` beside a writer.
    async fn sweep(
        &self,
        view: &str,
        version: u32,
        older_than: UtcMicros,
    ) -> Result<u64, StoreError>;

    /// Unpublishes a version of a view and frees its space once no reader pins
    /// it. Nothing published is fine; `StoreError::Busy` beside a writer.
    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError>;

    /// Lays the rows of these views and versions, all keyed alike, together where
    /// that makes reads of several of them faster; what they read is the same.
    /// True if it did. Views that are not published are left out. For whoever
    /// published them, after it did.
    async fn bundle(&self, _views: &[(String, u32)]) -> Result<bool, StoreError> {
        Ok(false)
    }

    /// Takes notice of what was published, written or dropped, by this process
    /// or another; true if there was something since the last call on this
    /// store. Cheap enough to be called several times a second.
    async fn refresh(&self) -> Result<bool, StoreError>;
}

#[async_trait]
impl<S: OnlineStore + ?Sized> OnlineStore for Arc<S> {
    async fn generation(
        &self,
        view: &str,
        version: u32,
    ) -> Result<Option<Arc<dyn Generation>>, StoreError> {
        (**self).generation(view, version).await
    }

    async fn generations(&self) -> Result<Vec<GenerationState>, StoreError> {
        (**self).generations().await
    }

    async fn read(
        &self,
        keys: &EntityKeys,
        generations: &[Arc<dyn Generation>],
        sink: &mut dyn RowSink,
    ) -> Result<(), StoreError> {
        (**self).read(keys, generations, sink).await
    }

    async fn writer(
        &self,
        view: &str,
        version: u32,
        layout: Arc<RowLayout>,
        mode: WriteMode,
    ) -> Result<Box<dyn GenerationWriter>, StoreError> {
        (**self).writer(view, version, layout, mode).await
    }

    async fn sweep(
        &self,
        view: &str,
        version: u32,
        older_than: UtcMicros,
    ) -> Result<u64, StoreError> {
        (**self).sweep(view, version, older_than).await
    }

    async fn drop_version(&self, view: &str, version: u32) -> Result<(), StoreError> {
        (**self).drop_version(view, version).await
    }

    async fn bundle(&self, views: &[(String, u32)]) -> Result<bool, StoreError> {
        (**self).bundle(views).await
    }

    async fn refresh(&self) -> Result<bool, StoreError> {
        (**self).refresh().await
    }
}
