//! The conformance suite over every implementation.

mod memory {
    use std::sync::Arc;

    use granary_store::{MemoryStore, OnlineStore};

    granary_store::online_store_conformance!((
        Arc::new(MemoryStore::new()) as Arc<dyn OnlineStore>,
        ()
    ));
}

mod embedded {
    use std::sync::Arc;

    use granary_store::{EmbeddedSettings, EmbeddedStore, OnlineStore};

    fn empty(settings: EmbeddedSettings) -> (Arc<dyn OnlineStore>, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(&folder.path().join("online"), settings).unwrap();
        (Arc::new(store), folder)
    }

    granary_store::online_store_conformance!(empty(EmbeddedSettings::default()));

    /// Changes hardly ever stay beside their base.
    mod merging {
        use super::*;

        granary_store::online_store_conformance!(empty(EmbeddedSettings {
            changes_rows_min: 0,
            ..EmbeddedSettings::default()
        }));
    }

    /// Pages stay in memory, as far as whoever runs this may lock any.
    mod locked {
        use super::*;

        granary_store::online_store_conformance!(empty(EmbeddedSettings {
            memory_lock: true,
            ..EmbeddedSettings::default()
        }));
    }

    /// Every batch in several transactions, every read away from the async threads.
    mod small_bounds {
        use super::*;

        granary_store::online_store_conformance!(empty(EmbeddedSettings {
            transaction_rows_max: 7,
            transaction_bytes_max: 500,
            blocking_reads_min: 0,
            ..EmbeddedSettings::default()
        }));
    }
}

mod cached {
    use std::sync::Arc;

    use granary_store::{CachedStore, MemoryStore, OnlineStore, RowCacheSettings};

    fn over_memory(bytes_max: u64) -> (Arc<dyn OnlineStore>, ()) {
        let settings = RowCacheSettings {
            bytes_max,
            ..RowCacheSettings::default()
        };
        (
            Arc::new(CachedStore::new(MemoryStore::new(), &settings)),
            (),
        )
    }

    granary_store::online_store_conformance!(over_memory(64 << 20));

    /// Nearly nothing stays.
    mod tiny {
        use super::*;

        granary_store::online_store_conformance!(over_memory(500));
    }

    mod over_embedded {
        use granary_store::{EmbeddedSettings, EmbeddedStore};

        use super::*;

        fn empty() -> (Arc<dyn OnlineStore>, tempfile::TempDir) {
            let folder = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(folder.path(), EmbeddedSettings::default()).unwrap();
            let cached = CachedStore::new(store, &RowCacheSettings::default());
            (Arc::new(cached), folder)
        }

        granary_store::online_store_conformance!(empty());
    }
}
