//! The event path on a disk that lost, or tore, what was not synced.
//!
//! A store works in a folder. At a kill point its files are copied, but of the
//! journal everything that was written after the last sync is torn: page by
//! page, or from some byte on, by a seed. The copy is opened, and every event
//! that was acknowledged must be in it once, and no batch in part.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use granary_model::{ManualClock, UtcMicros};
use proptest::test_runner::{RngAlgorithm, TestRng};
use rand_core::Rng as _;

use super::*;
use crate::events::{EventRef, EventSink, IndexSpec, NewEvent};

const DISK_PAGE: usize = 512;

fn settings(sync: bool) -> EmbeddedEventSettings {
    EmbeddedEventSettings {
        sync,
        free_bytes_min: 0,
        ..EmbeddedEventSettings::default()
    }
}
