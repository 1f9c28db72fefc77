//! The embedded store: one LMDB file a generation.

/// Settings of the embedded store.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct EmbeddedSettings {
    /// Address space of one generation's file; a bound, nothing is allocated.
    #[serde(with = "granary_model::bytes")]
    pub map_bytes_max: u64,
}

impl Default for EmbeddedSettings {
    fn default() -> Self {
        Self {
            map_bytes_max: 1 << 40,
        }
    }
}

#[derive(Debug)]
pub struct EmbeddedStore {}

impl EmbeddedStore {
    /// Opens, or makes, the store in a folder.
    pub fn open(
        _folder: &std::path::Path,
        _settings: EmbeddedSettings,
    ) -> Result<Self, crate::StoreError> {
        todo!()
    }
}
