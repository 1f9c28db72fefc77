//! Who holds a view, and until when.

use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::TryStreamExt;
use granary_catalog::{Catalog, DurableLocal};
use granary_ingest::claim::{ClaimRecord, Origin, ProcessId};
use granary_ingest::{Claims, IngestError, WhenClaimed};
use granary_model::{ErrorKind, ManualClock, SystemClock, UtcMicros};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use uuid::Uuid;

const LEASE: Duration = Duration::from_secs(30);
const NOW: UtcMicros = UtcMicros(1_750_000_000_000_000);

struct Bench {
    store: Arc<dyn ObjectStore>,
    clock: Arc<ManualClock>,
    claims: Claims,
}

fn bench() -> Bench {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let clock = Arc::new(ManualClock::new(NOW));
    let catalog = Catalog::new(Arc::clone(&store), Path::from("root"), clock.clone());
    Bench {
        claims: Claims::new(&catalog, clock.clone(), LEASE),
        store,
        clock,
    }
}

impl Bench {
    async fn objects(&self) -> Vec<String> {
        let listed = self.store.list(Some(&Path::from("root/claims")));
        let mut names: Vec<String> = listed
            .map_ok(|meta| meta.location.to_string())
            .try_collect()
            .await
            .unwrap();
        names.sort();
        names
    }

    /// Writes a claim of somebody else.
    async fn held_by(&self, holder: ProcessId, expires: UtcMicros, released: bool) {
        let record = ClaimRecord {
            format: 1,
            claim: Uuid::new_v4(),
            holder,
            expires,
            released,
        };
        let body = serde_json::to_vec(&record).unwrap();
        let path = Path::from(format!("root/claims/v/{:020}.json", 7));
        self.store.put(&path, body.into()).await.unwrap();
    }
}

fn stranger() -> ProcessId {
    ProcessId {
        host: "db1".into(),
        pid: 4711,
        origin: None,
    }
}

#[tokio::test]
async fn a_claimed_view_is_refused_until_it_is_released() {
    let bench = bench();
    let held = bench.claims.take("v", WhenClaimed::Refuse).await.unwrap();
    let refused = bench
        .claims
        .take("v", WhenClaimed::Refuse)
        .await
        .unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let message = refused.to_string();
    let holder = format!("process {}", std::process::id());
    assert!(message.contains("v is being materialised by"), "{message}");
    assert!(message.contains(&holder), "{message}");
    let other = bench.claims.take("w", WhenClaimed::Refuse).await.unwrap();
    held.release().await;
    let again = bench.claims.take("v", WhenClaimed::Refuse).await.unwrap();
    again.release().await;
    other.release().await;
    // One record a view stays, so that numbers never start again.
    assert_eq!(
        bench.objects().await,
        [
            "root/claims/v/00000000000000000004.json",
            "root/claims/w/00000000000000000002.json"
        ]
    );
}

#[tokio::test]
async fn a_dropped_claim_is_released_too() {
    let bench = bench();
    drop(bench.claims.take("v", WhenClaimed::Refuse).await.unwrap());
    let again = bench.claims.take("v", WhenClaimed::Wait).await.unwrap();
    again.release().await;
}

#[tokio::test]
async fn whoever_waits_gets_it_after_the_release() {
    let bench = bench();
    let held = bench.claims.take("v", WhenClaimed::Refuse).await.unwrap();
    let claims = bench.claims.clone();
    let released = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&released);
    let waiter = tokio::spawn(async move {
        let claim = claims.take("v", WhenClaimed::Wait).await.unwrap();
        assert!(seen.load(Ordering::SeqCst), "taken while it was held");
        claim.release().await;
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    released.store(true, Ordering::SeqCst);
    held.release().await;
    waiter.await.unwrap();
}

#[tokio::test]
async fn a_claim_that_is_not_renewed_expires() {
    let bench = bench();
    bench.held_by(stranger(), UtcMicros(NOW.0 + 1), false).await;
    let refused = bench
        .claims
        .take("v", WhenClaimed::Refuse)
        .await
        .unwrap_err();
    assert!(
        refused.to_string().contains("process 4711 on db1"),
        "{refused}"
    );
    bench.clock.set(UtcMicros(NOW.0 + 1));
    let taken = bench.claims.take("v", WhenClaimed::Refuse).await.unwrap();
    taken.release().await;
}

#[tokio::test]
async fn what_is_released_or_no_claim_at_all_holds_nothing() {
    let bench = bench();
    bench.held_by(stranger(), UtcMicros::MAX, true).await;
    bench
        .claims
        .take("v", WhenClaimed::Refuse)
        .await
        .unwrap()
        .release()
        .await;
    let path = Path::from(format!("root/claims/v/{:020}.json", 99));
    bench.store.put(&path, "garbage".into()).await.unwrap();
    bench
        .claims
        .take("v", WhenClaimed::Refuse)
        .await
        .unwrap()
        .release()
        .await;
    assert_eq!(
        bench.objects().await,
        ["root/claims/v/00000000000000000101.json"]
    );
}

#[tokio::test]
async fn a_newer_format_is_told() {
    let bench = bench();
    bench.held_by(stranger(), UtcMicros::MAX, true).await;
    let path = Path::from(format!("root/claims/v/{:020}.json", 7));
    let body = bench.store.get(&path).await.unwrap().bytes().await.unwrap();
    let body = String::from_utf8(body.to_vec()).unwrap();
    let newer = body.replace("\"format\":1", "\"format\":2");
    bench.store.put(&path, newer.into()).await.unwrap();
    let refused = bench
        .claims
        .take("v", WhenClaimed::Refuse)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("newer version"), "{refused}");
}

fn running() -> (Child, ProcessId) {
    let child = Command::new("sleep").arg("60").spawn().unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
    let started = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19);
    let holder = ProcessId {
        pid: child.id(),
        origin: ProcessId::this().origin.map(|origin| Origin {
            started: started.unwrap().parse().unwrap(),
            ..origin
        }),
        ..ProcessId::this()
    };
    (child, holder)
}

#[tokio::test]
#[cfg(target_os = "linux")]
async fn a_killed_holder_on_this_machine_holds_nothing() {
    let bench = bench();
    let (mut child, holder) = running();
    bench.held_by(holder, UtcMicros::MAX, false).await;
    let refused = bench.claims.take("v", WhenClaimed::Refuse).await;
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(matches!(refused, Err(IngestError::Claimed { .. })));
    let taken = bench.claims.take("v", WhenClaimed::Refuse).await.unwrap();
    taken.release().await;
}

#[tokio::test]
async fn a_claim_is_renewed_while_it_is_held_and_lost_to_a_greater_number() {
    let store: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let catalog = Catalog::new(
        Arc::clone(&store),
        Path::from("root"),
        Arc::new(SystemClock),
    );
    let lease = Duration::from_millis(60);
    let claims = Claims::new(&catalog, Arc::new(SystemClock), lease);
    let held = claims.take("v", WhenClaimed::Refuse).await.unwrap();
    let newest = || async {
        let listed = store.list(Some(&Path::from("root/claims/v")));
        let all: Vec<_> = listed.try_collect().await.unwrap();
        all.into_iter().map(|meta| meta.location).max().unwrap()
    };
    let first = newest().await;
    while newest().await == first {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // Somebody who thinks that it has expired takes it over.
    let stolen = Path::from(format!("root/claims/v/{:020}.json", 1_000_000));
    let record = ClaimRecord {
        format: 1,
        claim: Uuid::new_v4(),
        holder: stranger(),
        expires: UtcMicros::MAX,
        released: false,
    };
    let body = serde_json::to_vec(&record).unwrap();
    store.put(&stolen, body.into()).await.unwrap();
    let lost = held.lost().await;
    assert!(lost.to_string().contains("process 4711 on db1"), "{lost}");
    held.release().await;
    assert_eq!(newest().await, stolen, "a lost claim is not given back");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_many_takers_one_holds_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let stores: [Arc<dyn ObjectStore>; 2] = [
        Arc::new(InMemory::new()),
        Arc::new(DurableLocal::new_with_prefix(folder.path()).unwrap()),
    ];
    for store in stores {
        let clock = Arc::new(ManualClock::new(NOW));
        let catalog = Catalog::new(store, Path::from("root"), clock.clone());
        let claims = Claims::new(&catalog, clock, LEASE);
        let (inside, taken) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut takers = tokio::task::JoinSet::new();
        for _ in 0..6 {
            let (claims, inside, taken) = (claims.clone(), Arc::clone(&inside), Arc::clone(&taken));
            takers.spawn(async move {
                let mut times = 0;
                while times < 3 {
                    match claims.take("v", WhenClaimed::Refuse).await {
                        Ok(claim) => {
                            assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                            tokio::task::yield_now().await;
                            inside.fetch_sub(1, Ordering::SeqCst);
                            taken.fetch_add(1, Ordering::SeqCst);
                            claim.release().await;
                            times += 1;
                        }
                        Err(IngestError::Claimed { .. }) => tokio::task::yield_now().await,
                        Err(e) => panic!("{e}"),
                    }
                }
            });
        }
        takers.join_all().await;
        assert_eq!(taken.load(Ordering::SeqCst), 18);
    }
}
