//! Leases that keep two materialisations of one view apart.
//!
//! A claim spares two processes the same work; it does not decide what is
//! true: that is the transaction of the offline commit. It knows nothing of
//! what is done under it.
//!
//! # Format
//!
//! `claims/<view>/<20-digit number>.json` under the root, each a
//! [`ClaimRecord`]. The newest number is the truth. Taking, renewing and
//! releasing a claim all write the next number by conditional put, which every
//! object store can do (an update in place is more than a local folder can),
//! and then remove the older ones. A release is a record too, so that numbers
//! never start again: whoever acts on an old listing meets a greater number
//! and has lost.

mod process;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use granary_catalog::Catalog;
use granary_model::{Clock, UtcMicros};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions, PutPayload};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;
use tracing::instrument;
use uuid::Uuid;

use crate::error::IngestError;
pub use process::{Origin, ProcessId};

/// The format that this version writes.
pub const FORMAT: u32 = 1;

/// How often a put is tried of which nobody knows whether it was done.
const PUT_ATTEMPTS_MAX: u32 = 4;
const PUT_PAUSE: Duration = Duration::from_millis(50);
/// How often a claim that is waited for is looked at.
const WAIT_PAUSE: Duration = Duration::from_millis(250);

/// What to do when another materialisation of a view is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenClaimed {
    #[default]
    Refuse,
    Wait,
}

/// One object: who holds a view until when.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClaimRecord {
    pub format: u32,
    /// Random, one a claim.
    pub claim: Uuid,
    pub holder: ProcessId,
    /// Without a renewal the claim ends here.
    pub expires: UtcMicros,
    /// The holder is done.
    pub released: bool,
}

impl ClaimRecord {
    /// Whether somebody holds it: not released, not expired, and not by a
    /// process of this machine that is gone.
    fn is_held(&self, now: UtcMicros) -> bool {
        !self.released && self.expires > now && !self.holder.is_gone()
    }
}

/// The claims of one root.
#[derive(Debug, Clone)]
pub struct Claims {
    store: Arc<dyn ObjectStore>,
    root: Path,
    clock: Arc<dyn Clock>,
    lease: Duration,
}

impl Claims {
    /// In the catalog's root. `lease`: how long a claim holds that is not renewed.
    pub fn new(catalog: &Catalog, clock: Arc<dyn Clock>, lease: Duration) -> Self {
        Self {
            store: Arc::clone(catalog.object_store()),
            root: catalog.root().clone().join("claims"),
            clock,
            lease,
        }
    }

    /// Claims a view. `IngestError::Claimed` where another holds it and
    /// `when_claimed` says to refuse.
    #[instrument(skip(self), err)]
    pub async fn take(&self, view: &str, when_claimed: WhenClaimed) -> Result<Claim, IngestError> {
        let claim = Uuid::new_v4();
        let holder = ProcessId::this();
        loop {
            let newest = self.newest(view).await?;
            let held = newest
                .as_ref()
                .and_then(|(_, record)| record.as_ref())
                .filter(|record| record.is_held(self.clock.now()));
            match (held, when_claimed) {
                (Some(held), WhenClaimed::Refuse) => {
                    return Err(IngestError::Claimed {
                        view: view.to_owned(),
                        holder: held.holder.to_string(),
                        until: held.expires,
                    });
                }
                (Some(_), WhenClaimed::Wait) => tokio::time::sleep(WAIT_PAUSE).await,
                (None, _) => {
                    let number = newest.map_or(1, |(number, _)| number + 1);
                    let lease = Lease {
                        claims: self.clone(),
                        view: view.to_owned(),
                        claim,
                        holder: holder.clone(),
                        number,
                    };
                    if let Some(claim) = lease.open().await? {
                        return Ok(claim);
                    }
                }
            }
        }
    }

    fn folder(&self, view: &str) -> Path {
        self.root.clone().join(view)
    }

    /// The greatest number and its record; no record where it cannot be read
    /// as one, which nobody can hold.
    async fn newest(&self, view: &str) -> Result<Option<(u64, Option<ClaimRecord>)>, IngestError> {
        loop {
            let Some(number) = self.numbers(view).await?.into_iter().max() else {
                return Ok(None);
            };
            // A record that is gone again was followed by a newer one.
            if let Some(record) = self.read(view, number).await? {
                return Ok(Some((number, record.ok())));
            }
        }
    }

    async fn numbers(&self, view: &str) -> Result<Vec<u64>, IngestError> {
        let listed = self.store.list(Some(&self.folder(view)));
        let numbers = listed.try_filter_map(|meta| async move {
            let stem = meta
                .location
                .filename()
                .and_then(|n| n.strip_suffix(".json"));
            Ok(stem.and_then(|stem| stem.parse::<u64>().ok()))
        });
        Ok(numbers.try_collect().await?)
    }

    /// The record of a number, or why it is none; `None` where there is no object.
    async fn read(
        &self,
        view: &str,
        number: u64,
    ) -> Result<Option<Result<ClaimRecord, serde_json::Error>>, IngestError> {
        let path = self.path(view, number);
        let bytes = match self.store.get(&path).await {
            Ok(found) => found.bytes().await?,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        let record: Result<ClaimRecord, _> = serde_json::from_slice(&bytes);
        match &record {
            Ok(record) if record.format > FORMAT => Err(IngestError::Refused(format!(
                "{path}: written by a newer version of Granary (format {}, this one reads up to {FORMAT})",
                record.format
            ))),
            Ok(_) => Ok(Some(record)),
            Err(e) => {
                tracing::warn!(%path, error = %e, "not a claim, passed over");
                Ok(Some(record))
            }
        }
    }

    fn path(&self, view: &str, number: u64) -> Path {
        self.folder(view).join(format!("{number:020}.json"))
    }

    /// Removes the records before `number`. What stays is removed next time.
    async fn remove_before(&self, view: &str, numbers: &[u64], number: u64) {
        let older: Vec<_> = numbers
            .iter()
            .filter(|n| **n < number)
            .map(|n| Ok(self.path(view, *n)))
            .collect();
        let mut removed = self
            .store
            .delete_stream(futures::stream::iter(older).boxed());
        while let Some(result) = removed.next().await {
            match result {
                Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
                Err(error) => tracing::debug!(view, %error, "an old claim stays for now"),
            }
        }
    }
}

/// What a holder writes with.
#[derive(Debug, Clone)]
struct Lease {
    claims: Claims,
    view: String,
    claim: Uuid,
    holder: ProcessId,
    /// Of the newest record that is ours.
    number: u64,
}

impl Lease {
    /// Writes the first record; `None` if another holder's came first. Runs on
    /// when the caller is cancelled, so that a claim that nobody waits for any
    /// more is given back like every other that is dropped.
    async fn open(self) -> Result<Option<Claim>, IngestError> {
        let opened = tokio::spawn(async move {
            let won = self.write(self.number, false).await?;
            Ok(won.then(|| Claim::start(self)))
        });
        opened
            .await
            .map_err(|e| IngestError::Stopped(e.to_string()))?
    }

    /// Writes the record `number`; false if another holder's came first.
    async fn write(&self, number: u64, released: bool) -> Result<bool, IngestError> {
        let claims = &self.claims;
        let lease_micros = i64::try_from(claims.lease.as_micros()).unwrap_or(i64::MAX);
        let record = ClaimRecord {
            format: FORMAT,
            claim: self.claim,
            holder: self.holder.clone(),
            expires: UtcMicros(claims.clock.now().0.saturating_add(lease_micros)),
            released,
        };
        let body = serde_json::to_vec(&record).map_err(|e| IngestError::Refused(e.to_string()))?;
        if !self.put(number, body).await? {
            return Ok(false);
        }
        let numbers = claims.numbers(&self.view).await?;
        if numbers.iter().any(|n| *n > number) {
            // We acted on an old listing: a greater number holds the view.
            let _ = claims.store.delete(&claims.path(&self.view, number)).await;
            return Ok(false);
        }
        claims.remove_before(&self.view, &numbers, number).await;
        Ok(true)
    }

    /// A conditional put whose answer may get lost: read back after a failure.
    async fn put(&self, number: u64, body: Vec<u8>) -> Result<bool, IngestError> {
        let path = self.claims.path(&self.view, number);
        let body = PutPayload::from(body);
        let mut attempt = 1;
        loop {
            let options = PutOptions::from(PutMode::Create);
            let done = self.claims.store.put_opts(&path, body.clone(), options);
            let Err(failure) = done.await else {
                return Ok(true);
            };
            match self.claims.read(&self.view, number).await {
                Ok(Some(Ok(there))) => return Ok(there.claim == self.claim),
                Ok(Some(Err(_))) => return Ok(false),
                // Taken, and followed by a greater number since.
                Ok(None) if matches!(failure, object_store::Error::AlreadyExists { .. }) => {
                    return Ok(false);
                }
                _ if attempt == PUT_ATTEMPTS_MAX => return Err(failure.into()),
                _ => tokio::time::sleep(PUT_PAUSE * attempt).await,
            }
            attempt += 1;
        }
    }

    /// Renews at a third of the lease until the claim is lost or given back;
    /// ends with the number of the newest record.
    async fn keep(
        mut self,
        mut done: watch::Receiver<bool>,
        lost: watch::Sender<Option<String>>,
    ) -> Self {
        let every = self.claims.lease / 3;
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                _ = done.wait_for(|done| *done) => return self,
                () = tokio::time::sleep(every) => {}
            }
            let at = Instant::now();
            let why = match self.write(self.number + 1, false).await {
                Ok(true) => {
                    self.number += 1;
                    renewed = at;
                    continue;
                }
                Ok(false) => match self.claims.newest(&self.view).await {
                    Ok(Some((_, Some(record)))) => record.holder.to_string(),
                    _ => "another process".to_owned(),
                },
                Err(error) if renewed.elapsed() < self.claims.lease => {
                    tracing::warn!(view = self.view, %error, "a claim could not be renewed, trying again");
                    continue;
                }
                Err(error) => format!("nobody known: it could not be renewed ({error})"),
            };
            lost.send_replace(Some(why));
            return self;
        }
    }
}

/// A held claim, renewed in the background until it is released or dropped.
pub struct Claim {
    view: String,
    lost: watch::Receiver<Option<String>>,
    done: watch::Sender<bool>,
    renewal: Option<AbortOnDropHandle<Lease>>,
}

impl fmt::Debug for Claim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claim")
            .field("view", &self.view)
            .finish_non_exhaustive()
    }
}

impl Claim {
    fn start(lease: Lease) -> Self {
        let (done, done_seen) = watch::channel(false);
        let (lost_told, lost) = watch::channel(None);
        Self {
            view: lease.view.clone(),
            lost,
            done,
            renewal: Some(AbortOnDropHandle::new(tokio::spawn(
                lease.keep(done_seen, lost_told),
            ))),
        }
    }

    /// Ends when the claim is lost, with the error that says to whom; never if it is not.
    pub async fn lost(&self) -> IngestError {
        let mut lost = self.lost.clone();
        let told = lost.wait_for(Option::is_some).await;
        let told = told.map(|holder| holder.clone().unwrap_or_default());
        let Ok(holder) = told else {
            // The renewal ended without losing it: we are giving it back.
            return std::future::pending().await;
        };
        IngestError::ClaimLost {
            view: self.view.clone(),
            holder,
        }
    }

    /// Gives the claim back, even if the caller is cancelled. Where that fails
    /// it expires by itself.
    pub async fn release(mut self) {
        if let Some(giving_back) = self.give_back() {
            let _ = giving_back.await;
        }
    }

    fn give_back(&mut self) -> Option<JoinHandle<()>> {
        let renewal = self.renewal.take()?;
        let runtime = tokio::runtime::Handle::try_current().ok()?;
        self.done.send_replace(true);
        Some(runtime.spawn(give_back(renewal, self.lost.clone())))
    }
}

async fn give_back(renewal: AbortOnDropHandle<Lease>, lost: watch::Receiver<Option<String>>) {
    let Ok(lease) = renewal.await else {
        return;
    };
    if lost.borrow().is_some() {
        return;
    }
    if let Err(error) = lease.write(lease.number + 1, true).await {
        tracing::warn!(view = lease.view, %error, "a claim could not be released, it expires");
    }
}

/// A materialisation that is cancelled gives its claims back as well.
impl Drop for Claim {
    fn drop(&mut self) {
        drop(self.give_back());
    }
}
