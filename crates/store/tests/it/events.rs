//! Event stores: the conformance suite over every implementation, kills, and
//! random work against the in-memory store.

use std::path::PathBuf;
use std::sync::Arc;

use granary_model::Clock;
use granary_store::conformance::events::EventHome;
use granary_store::{
    EmbeddedEventSettings, EmbeddedEventStore, EventStore, MemoryEventStore, StoreError,
};

mod full;
mod kill;
mod owner;
mod random;

/// The embedded store's folder.
pub struct Folder {
    pub path: PathBuf,
    pub settings: EmbeddedEventSettings,
}

impl EventHome for Folder {
    fn open(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn EventStore>, StoreError> {
        let store = EmbeddedEventStore::open(&self.path, self.settings.clone(), clock)?;
        Ok(Arc::new(store))
    }
}

/// As [`Folder`], with bounds so small that all is done in steps.
pub fn small_bounds() -> EmbeddedEventSettings {
    EmbeddedEventSettings {
        group_bytes_max: 1,
        queue_requests_max: 1,
        step_events_max: 3,
        blocking_reads_min: 0,
        ..EmbeddedEventSettings::default()
    }
}

fn folder(settings: EmbeddedEventSettings) -> (Arc<dyn EventHome>, tempfile::TempDir) {
    let kept = tempfile::tempdir().unwrap();
    let path = kept.path().join("events");
    (Arc::new(Folder { path, settings }), kept)
}

struct Memory(MemoryEventStore);

impl EventHome for Memory {
    fn open(&self, clock: Arc<dyn Clock>) -> Result<Arc<dyn EventStore>, StoreError> {
        Ok(Arc::new(self.0.with_clock(clock)))
    }
}

mod memory {
    use super::*;

    granary_store::event_store_conformance!((
        Arc::new(Memory(MemoryEventStore::default())) as Arc<dyn EventHome>,
        ()
    ));
}

mod embedded {
    use super::*;

    granary_store::event_store_conformance!(folder(EmbeddedEventSettings::default()));

    mod in_small_bounds {
        use super::*;

        granary_store::event_store_conformance!(folder(small_bounds()));
    }
}
