//! From text to statements.

use std::sync::Arc;

use crate::diagnostic::{Diagnostics, SourceFile};
use crate::statement::Statement;

/// Parses a file. After a syntax error parsing goes on at the next top-level
/// `;`, so that one call tells of every error there is.
pub fn parse_file(_file: &Arc<SourceFile>) -> (Vec<Statement>, Diagnostics) {
    todo!()
}
