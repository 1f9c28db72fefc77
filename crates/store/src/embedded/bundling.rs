//! Which bundles there are, when one is made, and when it is removed.
//!
//! One process bundles at a time (the lock); who finds it taken does nothing. A
//! bundle is written under a number that was never listed, synced, and then the
//! manifest that lists it takes the place of the one before, so a process that is
//! killed leaves the old bundles or the new ones, and maybe files that are not
//! listed, which the next one removes. Who has a removed bundle mapped reads on.
//!
//! This module knows nothing of what is in a file.

use std::io::ErrorKind;
use std::sync::Arc;

use arc_swap::ArcSwap;
use tracing::{info, warn};

use super::base::BaseFile;
use super::bundle::listing::{ListedBundle, Listing, Member};
use super::bundle::{self, Bundle, MEMBERS_MAX, Membership};
use super::folder::{BundleFolder, Stamp};
use super::generation::EmbeddedGeneration;
use super::{EmbeddedSettings, Shelf};
use crate::error::StoreError;

/// Views of fewer rows together are left alone: they are in the processor's
/// caches anyway, and small projects have no files that do nothing for them.
const ROWS_MIN: u64 = 1_000;

/// A bundle is made anew once it lacks at least one byte for so many that it
/// has: so for a byte of new rows three are written at most, and a small view that
/// runs often has no large ones written again.
const HELD_PER_LACK: u64 = 2;

/// The bundles that a store has open.
#[derive(Debug, Default)]
pub(super) struct Bundles(ArcSwap<OpenBundles>);

#[derive(Debug, Default)]
pub(super) struct OpenBundles {
    /// Of the manifest that lists them.
    stamp: Option<Stamp>,
    all: Vec<Arc<Bundle>>,
    /// Those that could not be opened this time, which says nothing of them.
    later: Vec<ListedBundle>,
    /// Whether the manifest could not be read this time.
    is_unread: bool,
}

impl Bundles {
    #[inline]
    pub(super) fn current(&self) -> Arc<OpenBundles> {
        self.0.load_full()
    }
}

impl OpenBundles {
    /// The listed ones, those that are open already as they are. What cannot be
    /// read is left out: a read does without.
    fn open(
        folder: &BundleFolder,
        stamp: Option<Stamp>,
        held: &Self,
        settings: &EmbeddedSettings,
    ) -> Self {
        let listing = match Listing::read(folder) {
            Ok(listing) => listing,
            Err(error) => {
                if !held.is_unread {
                    warn!(%error, "bundles are not used");
                }
                return Self {
                    stamp,
                    is_unread: is_for_later(&error),
                    ..Self::default()
                };
            }
        };
        let mut all = Vec::with_capacity(listing.bundles.len());
        let mut later = Vec::new();
        for listed in listing.bundles {
            if let Some(open) = held.all.iter().find(|open| *open.listed() == listed) {
                all.push(Arc::clone(open));
                continue;
            }
            let path = folder.file_path(listed.number);
            match Bundle::open(&path, listed.clone(), settings) {
                Ok(Some(opened)) => {
                    // Not at the start, which is to be soon over.
                    if !held.all.is_empty() {
                        opened.file().bring_in();
                    }
                    all.push(Arc::new(opened));
                }
                Ok(None) => {}
                Err(error) if is_for_later(&error) => {
                    if !held.later.contains(&listed) {
                        warn!(%error, "a bundle is not used before it can be opened");
                    }
                    later.push(listed);
                }
                Err(error) => warn!(%error, "a bundle is not used"),
            }
        }
        Self {
            stamp,
            all,
            later,
            is_unread: false,
        }
    }

    /// The bundle of a serial number, if it is open and whole.
    #[inline]
    pub(super) fn get(&self, serial: u64) -> Option<&Bundle> {
        let open = self.all.iter().find(|open| open.serial() == serial)?;
        (!open.is_damaged()).then_some(open)
    }

    /// Where the rows of a generation's base are.
    pub(super) fn membership(&self, generation: &EmbeddedGeneration) -> Membership {
        let found = self.all.iter().find_map(|open| {
            let member = open.listed().position(generation)?;
            Some(open.membership(member))
        });
        found.unwrap_or(Membership::NONE)
    }

    /// Whether it is gone, or is not what it should be.
    fn is_lost(&self, listed: &ListedBundle) -> bool {
        match self.all.iter().find(|open| open.listed() == listed) {
            Some(open) => open.is_damaged(),
            None => !self.is_unread && !self.later.contains(listed),
        }
    }

    fn is_whole(&self) -> bool {
        self.later.is_empty() && !self.is_unread
    }
}

/// Whether a file could not be opened for want of descriptors or memory, which says
/// nothing of the file.
fn is_for_later(error: &StoreError) -> bool {
    let StoreError::Io { source, .. } = error else {
        return false;
    };
    !matches!(
        source.kind(),
        ErrorKind::PermissionDenied | ErrorKind::IsADirectory | ErrorKind::NotADirectory
    )
}

/// What was published of a view, and of it only what can be bundled.
type Published = Vec<Arc<EmbeddedGeneration>>;

impl Shelf {
    /// Opens the bundles that are listed now, if these are others than before.
    pub(super) fn look_at_bundles(&self) -> Arc<OpenBundles> {
        if !self.settings.bundles {
            return Arc::default();
        }
        let folder = self.folder.bundles();
        let held = self.bundles.current();
        if held.is_whole() && folder.stamp().unwrap_or_default() == held.stamp {
            return held;
        }
        let _turn = self.turn();
        let held = self.bundles.current();
        // The stamp first: what is listed after it makes the next look differ.
        let stamp = folder.stamp().unwrap_or_default();
        let open = Arc::new(OpenBundles::open(&folder, stamp, &held, &self.settings));
        self.bundles.0.store(Arc::clone(&open));
        for generation in self.all() {
            generation.set_membership(open.membership(&generation));
        }
        open
    }

    /// See [`OnlineStore::bundle`](crate::OnlineStore::bundle).
    pub(super) fn bundle(&self, views: &[(String, u32)]) -> Result<bool, StoreError> {
        let folder = self.folder.bundles();
        let published = match self.settings.bundles {
            true => self.unchanged(views)?,
            false => Published::new(),
        };
        let rows: u64 = published.iter().map(|g| base_rows(g)).sum();
        let is_enough = published.len() >= 2 && rows >= ROWS_MIN;
        if !is_enough && !folder.exists() {
            return Ok(false);
        }
        folder.create()?;
        let Some(_lock) = folder.lock()? else {
            return Ok(false);
        };
        let listing = self.tidy(&folder)?;
        if !is_enough || !self.is_due(&listing, &published) {
            return Ok(false);
        }
        self.make(&folder, listing, &published)?;
        Ok(true)
    }

    /// Removes bundles that a dropped version has left without use.
    pub(super) fn tidy_bundles(&self) {
        let folder = self.folder.bundles();
        if !folder.exists() {
            return;
        }
        let tidied = folder.lock().and_then(|lock| match lock {
            Some(_lock) => self.tidy(&folder).map(drop),
            // Who has it tidies.
            None => Ok(()),
        });
        if let Err(error) = tidied {
            warn!(%error, "bundles without use stay until views are bundled again");
        }
    }

    /// The generations of views that their bases alone answer, each once.
    fn unchanged(&self, views: &[(String, u32)]) -> Result<Published, StoreError> {
        let mut found = Published::new();
        for (view, version) in views {
            let Some(generation) = self.load(view, *version)? else {
                continue;
            };
            let is_new = found.iter().all(|held| held.id() != generation.id());
            if is_new && generation.unchanged().is_some() && found.len() < MEMBERS_MAX {
                found.push(generation);
            }
        }
        Ok(found)
    }

    /// Removes what is not listed, or of no use to any read; gives the rest. Under
    /// the lock.
    fn tidy(&self, folder: &BundleFolder) -> Result<Listing, StoreError> {
        let (mut listing, mut is_other) = match Listing::read(folder) {
            Err(error @ StoreError::Damaged { .. }) => {
                warn!(%error, "all bundles are removed");
                (Listing::empty(), true)
            }
            listed => (listed?, false),
        };
        let open = self.look_at_bundles();
        listing.bundles.retain(|bundle| {
            let is_of_use = !open.is_lost(bundle) && self.is_of_use(bundle);
            is_other |= !is_of_use;
            is_of_use
        });
        if is_other {
            listing.write(folder)?;
            self.look_at_bundles();
        }
        folder.remove_files_but(&listing.numbers())?;
        Ok(listing)
    }

    /// Whether reads may look into a bundle. One that is left with one member
    /// stays, so that it is not made anew each time that a small view has run; but
    /// not for the rows of a version that was dropped.
    fn is_of_use(&self, bundle: &ListedBundle) -> bool {
        let members = bundle.members.iter();
        let held = members.filter(|m| self.answers_for(m)).count();
        held >= 2 || held == 1 && !bundle.members.iter().any(|m| self.is_dropped(m))
    }

    /// Whether a member has the rows that its view has now.
    fn answers_for(&self, member: &Member) -> bool {
        match self.load(&member.view, member.version) {
            Ok(None) => false,
            Ok(Some(generation)) => member.is_of(&generation) && generation.unchanged().is_some(),
            // Nobody knows: the bundle is not removed for it.
            Err(_) => true,
        }
    }

    fn is_dropped(&self, member: &Member) -> bool {
        matches!(self.load(&member.view, member.version), Ok(None))
    }

    /// Whether a new bundle is worth its writing.
    fn is_due(&self, listing: &Listing, published: &Published) -> bool {
        let held = |bundle: &&ListedBundle| -> u64 {
            let held = published.iter().filter(|g| bundle.position(g).is_some());
            held.map(|g| base_bytes(g)).sum()
        };
        let Some(nearest) = listing.bundles.iter().max_by_key(held) else {
            return true;
        };
        let held = held(&nearest);
        let all: u64 = published.iter().map(|g| base_bytes(g)).sum();
        let lack = all - held;
        // Rows of a version that was dropped are not kept for the others.
        lack > 0 && lack.saturating_mul(HELD_PER_LACK) >= held
            || nearest.members.iter().any(|m| self.is_dropped(m))
    }

    /// Writes a bundle that takes the place of those that its members were in.
    fn make(
        &self,
        folder: &BundleFolder,
        mut listing: Listing,
        published: &Published,
    ) -> Result<(), StoreError> {
        let before = listing.numbers();
        let number = listing.last_number + 1;
        let bases: Vec<_> = published.iter().filter_map(|g| g.files().base()).collect();
        let made = bundle::write(&folder.file_path(number), &bases).and_then(|written| {
            let bytes = written.row_bytes.into_iter();
            let members = published.iter().zip(bytes);
            let members: Vec<_> = { members }
                .filter_map(|(generation, bytes)| Member::new(generation, bytes))
                .collect();
            listing.bundles.retain(|old| {
                let mut views = old.members.iter().map(|m| (&m.view, m.version));
                !views.any(|view| members.iter().any(|m| (&m.view, m.version) == view))
            });
            listing.bundles.push(ListedBundle {
                number,
                bytes: written.bytes,
                members,
            });
            listing.last_number = number;
            listing.write(folder)?;
            Ok(written.bytes)
        });
        let kept = match &made {
            Ok(bytes) => {
                info!(views = published.len(), bytes, "bundled");
                listing.numbers()
            }
            // Should it be listed by now, it is a file that is not there.
            Err(_) => before,
        };
        if let Err(error) = folder.remove_files_but(&kept) {
            warn!(%error, "files of bundles stay until views are bundled again");
        }
        self.look_at_bundles();
        made.map(drop)
    }
}

fn base_rows(generation: &EmbeddedGeneration) -> u64 {
    let base = generation.files().base();
    base.map_or(0, BaseFile::rows)
}

fn base_bytes(generation: &EmbeddedGeneration) -> u64 {
    let base = generation.files().base();
    base.map_or(0, BaseFile::bytes)
}
