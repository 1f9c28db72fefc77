//! Rows that were computed at request time: kept as long as `CACHE FOR` says,
//! and computed once for all readers that want them at the same moment.
//!
//! A reader *claims* the keys that are neither kept nor under way, computes
//! them in one go, and waits for the rest. Claims are by key, so that requests
//! which overlap in part share what they can. A reader that goes away in the
//! middle gives its claim up, and a waiting one takes it. Nothing here is
//! needed for a right answer: without `CACHE FOR` rows are handed to those who
//! wait and forgotten.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use granary_model::{Interval, UtcMicros};
use moka::Expiry;
use tokio::sync::{Semaphore, watch};

use crate::error::ServingError;

/// What a look-up found for one key; `row` is `None` where there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredRow {
    pub row: Option<Arc<[u8]>>,
    pub as_of: UtcMicros,
}

/// A row and how long it is good for.
#[derive(Debug, Clone)]
struct Kept {
    stored: StoredRow,
    computed: UtcMicros,
    keep: Duration,
}

/// Lets moka free what is too old to be used; validity itself is judged by
/// the readers' clock.
#[derive(Debug)]
struct KeepFor;

impl Expiry<CacheKey, Kept> for KeepFor {
    fn expire_after_create(&self, _: &CacheKey, kept: &Kept, _: Instant) -> Option<Duration> {
        Some(kept.keep)
    }

    fn expire_after_update(
        &self,
        _: &CacheKey,
        kept: &Kept,
        _: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(kept.keep)
    }
}

/// View, time and entity key: opaque here.
pub(crate) type CacheKey = Box<[u8]>;
type Computed = Result<Arc<HashMap<CacheKey, StoredRow>>, Arc<ServingError>>;
/// `None` while it is computed; closed without a value if its reader went away.
type Flight = watch::Receiver<Option<Computed>>;
type Flights = HashMap<CacheKey, Flight>;

/// Bytes of bookkeeping that an entry is counted with.
const ENTRY_BYTES: usize = 160;

#[derive(Debug)]
pub(crate) struct QueryCache {
    kept: moka::sync::Cache<CacheKey, Kept>,
    flights: Mutex<Flights>,
    permits: Semaphore,
    counts: Counts,
}

/// How keys of look-ups were answered since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub hits: AtomicU64,
    pub computed: AtomicU64,
    /// Waited for another reader's computation.
    pub shared: AtomicU64,
}

impl QueryCache {
    /// `bytes_max` bounds what is kept, `concurrency_max` the computations at a time.
    pub fn new(bytes_max: u64, concurrency_max: usize) -> Self {
        let weigh = |key: &CacheKey, kept: &Kept| {
            let row = kept.stored.row.as_ref().map_or(0, |row| row.len());
            u32::try_from(key.len() + row + ENTRY_BYTES).unwrap_or(u32::MAX)
        };
        Self {
            kept: moka::sync::Cache::builder()
                .max_capacity(bytes_max)
                .weigher(weigh)
                .expire_after(KeepFor)
                .build(),
            flights: Mutex::default(),
            permits: Semaphore::new(concurrency_max.max(1)),
            counts: Counts::default(),
        }
    }

    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// One row a key, in order. `compute` is called with positions in `keys`
    /// and gives their rows in that order; it may be called again for keys
    /// whose other reader went away.
    pub async fn rows<F, R>(
        &self,
        keys: &[CacheKey],
        now: UtcMicros,
        keep: Option<Interval>,
        compute: F,
    ) -> Result<Vec<StoredRow>, ServingError>
    where
        F: Fn(Vec<usize>) -> R,
        R: Future<Output = Result<Vec<StoredRow>, ServingError>>,
    {
        let mut rows: Vec<Option<StoredRow>> =
            keys.iter().map(|key| self.kept(key, now, keep)).collect();
        let mut pending: Vec<usize> = (0..keys.len()).filter(|i| rows[*i].is_none()).collect();
        let hits = (keys.len() - pending.len()) as u64;
        self.counts.hits.fetch_add(hits, Ordering::Relaxed);

        while !pending.is_empty() {
            let (claim, waits) = self.claim(keys, &pending, &mut rows, now, keep);
            if let Some(claim) = claim {
                let computing = compute(claim.positions.clone());
                let computed = self.fly(keys, claim, now, keep, computing).await?;
                for (at, stored) in computed {
                    rows[at] = Some(stored);
                }
            }
            pending.clear();
            for (at, mut flight) in waits {
                let landed = flight.wait_for(Option::is_some).await.map(|c| c.clone());
                match landed.ok().flatten() {
                    Some(Ok(computed)) => rows[at] = computed.get(&keys[at]).cloned(),
                    Some(Err(error)) => return Err(ServingError::Shared(error)),
                    None => pending.push(at),
                }
            }
        }
        Ok(rows
            .into_iter()
            .map(|row| {
                row.unwrap_or(StoredRow {
                    row: None,
                    as_of: now,
                })
            })
            .collect())
    }

    fn kept(&self, key: &[u8], now: UtcMicros, keep: Option<Interval>) -> Option<StoredRow> {
        let keep = keep?;
        let kept = self.kept.get(key)?;
        (keep.after(kept.computed) >= now).then_some(kept.stored)
    }

    /// Shares out the keys that are not kept: those that this reader is to
    /// compute, and those that it is to wait for.
    fn claim(
        &self,
        keys: &[CacheKey],
        pending: &[usize],
        rows: &mut [Option<StoredRow>],
        now: UtcMicros,
        keep: Option<Interval>,
    ) -> (Option<Claim<'_>>, Vec<(usize, Flight)>) {
        let (sender, receiver) = watch::channel(None);
        let mut mine = Vec::new();
        let mut waits = Vec::new();
        let mut flights = self.flights();
        for &at in pending {
            if let Some(flight) = flights.get(&keys[at]) {
                waits.push((at, flight.clone()));
            } else if let Some(stored) = self.kept(&keys[at], now, keep) {
                // It landed between the first look and the lock.
                rows[at] = Some(stored);
            } else {
                flights.insert(keys[at].clone(), receiver.clone());
                mine.push(at);
            }
        }
        drop(flights);
        let shared = waits.len() as u64;
        self.counts.shared.fetch_add(shared, Ordering::Relaxed);
        let claim = (!mine.is_empty()).then(|| Claim {
            cache: self,
            keys: mine.iter().map(|at| keys[*at].clone()).collect(),
            positions: mine,
            sender,
        });
        (claim, waits)
    }

    /// Computes what was claimed, keeps it, and tells those who wait.
    async fn fly(
        &self,
        keys: &[CacheKey],
        claim: Claim<'_>,
        now: UtcMicros,
        keep: Option<Interval>,
        computing: impl Future<Output = Result<Vec<StoredRow>, ServingError>>,
    ) -> Result<Vec<(usize, StoredRow)>, ServingError> {
        let permit = self.permits.acquire().await;
        let computed = computing.await;
        drop(permit);
        let rows = match computed {
            Ok(rows) => rows,
            Err(error) => {
                let error = Arc::new(error);
                claim.sender.send_replace(Some(Err(Arc::clone(&error))));
                return Err(ServingError::Shared(error));
            }
        };
        let number = rows.len() as u64;
        self.counts.computed.fetch_add(number, Ordering::Relaxed);
        let rows: Vec<(usize, StoredRow)> = claim.positions.iter().copied().zip(rows).collect();
        if let Some(keep) = keep {
            let micros = keep.after(now).0.saturating_sub(now.0);
            let keep = Duration::from_micros(u64::try_from(micros).unwrap_or(0));
            for (at, stored) in &rows {
                let kept = Kept {
                    stored: stored.clone(),
                    computed: now,
                    keep,
                };
                self.kept.insert(keys[*at].clone(), kept);
            }
        }
        let shared = rows
            .iter()
            .map(|(at, row)| (keys[*at].clone(), row.clone()));
        let shared = Arc::new(shared.collect::<HashMap<_, _>>());
        claim.sender.send_replace(Some(Ok(shared)));
        Ok(rows)
    }

    fn flights(&self) -> MutexGuard<'_, Flights> {
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keys that one reader computes for all. Dropped, it gives them up.
#[derive(Debug)]
struct Claim<'a> {
    cache: &'a QueryCache,
    keys: Vec<CacheKey>,
    positions: Vec<usize>,
    sender: watch::Sender<Option<Computed>>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut flights = self.cache.flights();
        for key in &self.keys {
            flights.remove(key);
        }
    }
}

#[cfg(test)]
mod tests;
