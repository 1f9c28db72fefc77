//! From statements to checked definitions.

use granary_model::statement::Statement;
use granary_model::{Definitions, Diagnostic, Diagnostics};

use crate::engine::Engine;

/// Definitions that hold together.
#[derive(Debug, Clone)]
pub struct Checked {
    /// Versions are 0: the catalog's plan gives the numbers.
    pub definitions: Definitions,
    /// What is right and not served by this version: `plan` shows it, `apply` refuses it.
    pub unserved: Vec<Diagnostic>,
}

impl Engine {
    /// Checks names, types, keys, times, kinds and cycles, and resolves all of it.
    /// Every error that can be told is told.
    pub async fn check(&self, _statements: &[Statement]) -> Result<Checked, Diagnostics> {
        todo!()
    }
}
