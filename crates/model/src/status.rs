//! The status of one feature value in a read.

use serde::{Deserialize, Serialize};

/// Why a value is there, or is not. A value that is not `Present` is NULL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[repr(u8)]
pub enum FeatureStatus {
    Present = 1,
    /// The key has a row, the feature in it is NULL.
    NullValue = 2,
    /// The key has no row, or the key is NULL.
    NotFound = 3,
    /// The row is older than the view's TTL.
    OutsideMaxAge = 4,
}

impl FeatureStatus {
    /// The name on the wire and in output: `PRESENT`, `NULL_VALUE`, ...
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "PRESENT",
            Self::NullValue => "NULL_VALUE",
            Self::NotFound => "NOT_FOUND",
            Self::OutsideMaxAge => "OUTSIDE_MAX_AGE",
        }
    }
}
