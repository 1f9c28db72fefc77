//! The manifest of the bundles: which there are, and what each was made of.
//!
//! One small JSON file for all of them, replaced as a whole by rename, so that
//! a bundle takes the place of others in one step. Formats are handled as in
//! [`manifest`](super::super::manifest).
//!
//! A member is named by the number of its generation, and by the length of its
//! base and the hash of what is in it: numbers begin anew where somebody removes
//! a view's folder by hand.

use serde::{Deserialize, Serialize};

use super::super::folder::BundleFolder;
use super::super::generation::EmbeddedGeneration;
use super::super::manifest::{read_manifest, write_manifest};
use crate::error::StoreError;

const LISTING_FORMAT: u32 = 1;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Listing {
    format: u32,
    /// The greatest number given so far.
    pub(in super::super) last_number: u64,
    pub(in super::super) bundles: Vec<ListedBundle>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct ListedBundle {
    /// Bundle `n` is in `b<n>.rows`.
    pub(in super::super) number: u64,
    /// Of the file.
    pub(in super::super) bytes: u64,
    /// In the order of their rows.
    pub(in super::super) members: Vec<Member>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in super::super) struct Member {
    pub(in super::super) view: String,
    pub(in super::super) version: u32,
    /// Of the generation.
    number: u64,
    base_bytes: u64,
    base_content: u64,
    /// Of all its rows.
    pub(in super::super) row_bytes: u64,
}

impl Member {
    /// `None` where a generation has no base.
    pub(in super::super) fn new(generation: &EmbeddedGeneration, row_bytes: u64) -> Option<Self> {
        let base = generation.files().base()?;
        let id = generation.id();
        Some(Self {
            view: id.view.clone(),
            version: id.version,
            number: id.number,
            base_bytes: base.bytes(),
            base_content: base.content(),
            row_bytes,
        })
    }

    /// Whether it was made of the base of this generation.
    pub(in super::super) fn is_of(&self, generation: &EmbeddedGeneration) -> bool {
        let id = generation.id();
        let same = (self.number, self.version, self.view.as_str());
        let base = (self.base_bytes, self.base_content);
        same == (id.number, id.version, id.view.as_str()) && { generation.files().base() }
            .is_some_and(|b| base == (b.bytes(), b.content()))
    }
}

impl ListedBundle {
    /// Which member a generation is.
    pub(in super::super) fn position(&self, generation: &EmbeddedGeneration) -> Option<usize> {
        self.members.iter().position(|m| m.is_of(generation))
    }
}

impl Listing {
    pub(in super::super) fn empty() -> Self {
        Self {
            format: LISTING_FORMAT,
            last_number: 0,
            bundles: Vec::new(),
        }
    }

    /// Nothing where nothing was ever bundled.
    pub(in super::super) fn read(folder: &BundleFolder) -> Result<Self, StoreError> {
        let listing = read_manifest(&folder.manifest_path(), LISTING_FORMAT)?;
        Ok(listing.unwrap_or_else(Self::empty))
    }

    pub(in super::super) fn write(&self, folder: &BundleFolder) -> Result<(), StoreError> {
        write_manifest(self, &folder.manifest_path(), || folder.sync())
    }

    pub(in super::super) fn numbers(&self) -> Vec<u64> {
        self.bundles.iter().map(|bundle| bundle.number).collect()
    }
}
