//! The only place that reads environment variables (credentials of object
//! stores apart, which their builders read themselves).

use std::path::PathBuf;

#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place of the binary that reads the environment"
)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// `GRANARY_LOG`: a filter in the form of tracing-subscriber's `EnvFilter`.
pub fn log_filter() -> Option<String> {
    variable("GRANARY_LOG")
}

/// `GRANARY_SALT`: what `keyed_hash` is keyed with.
pub fn salt() -> Option<String> {
    variable("GRANARY_SALT")
}

/// `GRANARY_NATS_TOKEN`: what consumers show to NATS.
#[cfg(feature = "nats")]
pub fn nats_token() -> Option<String> {
    variable("GRANARY_NATS_TOKEN")
}

/// `GRANARY_NATS_USER` and `GRANARY_NATS_PASSWORD`, where both are there.
#[cfg(feature = "nats")]
pub fn nats_user_and_password() -> Option<(String, String)> {
    variable("GRANARY_NATS_USER").zip(variable("GRANARY_NATS_PASSWORD"))
}

/// `GRANARY_NATS_CREDENTIALS`: the path of a credentials file.
#[cfg(feature = "nats")]
pub fn nats_credentials() -> Option<PathBuf> {
    variable("GRANARY_NATS_CREDENTIALS").map(PathBuf::from)
}

/// Who runs this, as the system tells: the name that commits are signed with.
pub fn user() -> String {
    variable("USER")
        .or_else(|| variable("LOGNAME"))
        .or_else(|| variable("USERNAME"))
        .unwrap_or_else(|| "unknown".to_owned())
}

/// Where the prompt keeps its history: `GRANARY_HISTORY`, else a file in the
/// home folder; nowhere without either.
pub fn history_file() -> Option<PathBuf> {
    if let Some(path) = variable("GRANARY_HISTORY") {
        return Some(path.into());
    }
    variable("HOME").map(|home| PathBuf::from(home).join(".granary_history"))
}
