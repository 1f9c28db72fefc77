//! The vocabulary of Granary: definitions, names, types, times and errors.
//!
//! Everything here is plain data and pure functions. This crate knows nothing
//! of files, networks, tokio or DataFusion: whoever has SQL text gets parsed
//! statements and diagnostics; whoever has statements that were checked by
//! `granary-engine` gets [`Definitions`], which is what the catalog stores.

pub mod bytes;
pub mod caller;
pub mod clock;
pub mod definitions;
pub mod diagnostic;
pub mod error;
pub mod fingerprint;
pub mod interval;
pub mod json;
pub mod parse;
pub mod statement;
pub mod status;
pub mod suggest;
pub mod time;
pub mod types;

pub use caller::Caller;
pub use clock::{Clock, ManualClock, SystemClock};
pub use definitions::{Definitions, FeatureService, FeatureView, ViewKind};
pub use diagnostic::{Diagnostic, Diagnostics, Location, SourceFile, Span};
pub use error::ErrorKind;
pub use interval::Interval;
pub use parse::parse_file;
pub use status::FeatureStatus;
pub use suggest::{closest, did_you_mean, suggest};
pub use time::UtcMicros;
pub use types::FeatureType;
