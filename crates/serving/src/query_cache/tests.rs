//! Single flight, keeping and giving up, with a made-up computation.

use std::sync::atomic::AtomicUsize;

use super::*;

fn key(n: u8) -> Box<[u8]> {
    vec![n].into()
}

fn keys(numbers: &[u8]) -> Vec<Box<[u8]>> {
    numbers.iter().copied().map(key).collect()
}

/// The row of key n is [n], as of the time that it is computed; key 0 has none.
fn row(n: u8, as_of: UtcMicros) -> StoredRow {
    StoredRow {
        row: (n > 0).then(|| vec![n].into()),
        as_of,
    }
}

/// Counts how often each key is computed, and waits until it is let go.
#[derive(Debug)]
struct Source {
    computed: Mutex<Vec<u8>>,
    gate: Semaphore,
    started: AtomicUsize,
}

impl Source {
    fn open() -> Self {
        Self::with_permits(Semaphore::MAX_PERMITS)
    }

    fn with_permits(permits: usize) -> Self {
        Self {
            computed: Mutex::default(),
            gate: Semaphore::new(permits),
            started: AtomicUsize::new(0),
        }
    }

    async fn rows(
        &self,
        cache: &QueryCache,
        asked: &[u8],
        now: i64,
        keep: Option<Interval>,
    ) -> Result<Vec<StoredRow>, ServingError> {
        let now = UtcMicros(now);
        cache
            .rows(&keys(asked), now, keep, async |claimed: Vec<usize>| {
                self.started.fetch_add(1, Ordering::SeqCst);
                self.gate.acquire().await.unwrap().forget();
                let numbers = claimed.iter().map(|at| asked[*at]);
                self.computed.lock().unwrap().extend(numbers.clone());
                if numbers.clone().any(|n| n == 99) {
                    return Err(ServingError::Invalid("no 99".into()));
                }
                Ok(numbers.map(|n| row(n, now)).collect())
            })
            .await
    }

    fn computed(&self) -> Vec<u8> {
        let mut computed = self.computed.lock().unwrap().clone();
        computed.sort_unstable();
        computed
    }
}

fn cache() -> QueryCache {
    QueryCache::new(1 << 20, 4)
}

fn expected(numbers: &[u8], as_of: i64) -> Vec<StoredRow> {
    let rows = numbers.iter().map(|n| row(*n, UtcMicros(as_of)));
    rows.collect()
}

#[tokio::test]
async fn rows_are_kept_as_long_as_cache_for_says_and_no_row_is_kept_too() {
    let (cache, source) = (cache(), Source::open());
    let keep = Some(Interval::from_micros(10_000_000));
    let first = source.rows(&cache, &[1, 0], 1_000, keep).await.unwrap();
    assert_eq!(first, expected(&[1, 0], 1_000));
    let again = source.rows(&cache, &[0, 1], 10_001_000, keep).await;
    assert_eq!(again.unwrap(), expected(&[0, 1], 1_000));
    assert_eq!(source.computed(), [0, 1]);
    let later = source.rows(&cache, &[1], 10_001_001, keep).await.unwrap();
    assert_eq!(later, expected(&[1], 10_001_001));
    assert_eq!(source.computed(), [0, 1, 1]);
}

#[tokio::test]
async fn without_cache_for_nothing_is_kept() {
    let (cache, source) = (cache(), Source::open());
    for _ in 0..2 {
        source.rows(&cache, &[1], 5, None).await.unwrap();
    }
    assert_eq!(source.computed(), [1, 1]);
}

#[tokio::test]
async fn requests_that_overlap_compute_each_key_once() {
    let (cache, source) = (cache(), Source::with_permits(0));
    let first = source.rows(&cache, &[1, 2, 3], 5, None);
    let second = source.rows(&cache, &[2, 3, 4], 6, None);
    let third = source.rows(&cache, &[4, 1], 7, None);
    let open = async {
        while source.started.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        source.gate.add_permits(10);
    };
    let (first, second, third, ()) = tokio::join!(first, second, third, open);
    assert_eq!(source.computed(), [1, 2, 3, 4]);
    assert_eq!(first.unwrap(), expected(&[1, 2, 3], 5));
    let second = second.unwrap();
    assert_eq!(second[..2], expected(&[2, 3], 5));
    assert_eq!(second[2..], expected(&[4], 6));
    assert_eq!(third.unwrap()[1], row(1, UtcMicros(5)));
    assert!(cache.flights().is_empty());
}

#[tokio::test]
async fn a_reader_that_goes_away_hands_its_keys_to_one_that_waits() {
    let (cache, source) = (cache(), Source::with_permits(0));
    let mut gone = Box::pin(source.rows(&cache, &[1, 2], 5, None));
    assert!(futures::poll!(&mut gone).is_pending());
    let mut waiting = Box::pin(source.rows(&cache, &[2], 6, None));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert_eq!(source.started.load(Ordering::SeqCst), 1);
    drop(gone);
    source.gate.add_permits(1);
    assert_eq!(waiting.await.unwrap(), expected(&[2], 6));
    assert_eq!(source.computed(), [2]);
    assert!(cache.flights().is_empty());
}

#[tokio::test]
async fn a_failure_is_told_to_all_who_wait_and_kept_for_none() {
    let (cache, source) = (cache(), Source::with_permits(0));
    let keep = Some(Interval::from_micros(1_000_000));
    let first = source.rows(&cache, &[99], 5, keep);
    let second = source.rows(&cache, &[99], 5, keep);
    let open = async { source.gate.add_permits(10) };
    let (first, second, ()) = tokio::join!(first, second, open);
    for failed in [first, second] {
        assert_eq!(failed.unwrap_err().to_string(), "no 99");
    }
    assert_eq!(source.computed(), [99]);
    assert!(source.rows(&cache, &[99], 6, keep).await.is_err());
    assert_eq!(source.computed(), [99, 99]);
}
