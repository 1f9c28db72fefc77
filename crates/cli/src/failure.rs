//! How a command ends: exit codes, and errors as people read them.
//!
//! Exit codes: 0 done, 1 refused or failed, 2 usage, 3 changes pending
//! (`plan --exit-code`), 4 lost a race.

use std::fmt;
use std::io;
use std::process::ExitCode;

use arrow::error::ArrowError;
use granary_catalog::CatalogError;
use granary_client::ClientError;
use granary_engine::EngineError;
use granary_ingest::IngestError;
use granary_model::ErrorKind;
use granary_serving::ServingError;

/// Refused or failed.
pub const FAILED: u8 = 1;
/// The command line was wrong.
pub const USAGE: u8 = 2;
/// `plan --exit-code` found changes.
pub const PENDING: u8 = 3;
/// Another one came first; try again.
pub const LOST: u8 = 4;

/// What a command gives: an exit code, or the error that ended it.
pub type Outcome = anyhow::Result<ExitCode>;

/// What was written on the command line cannot be meant so.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// An error to end with exit code 2.
pub fn usage(message: impl Into<String>) -> anyhow::Error {
    Usage(message.into()).into()
}

/// Prints an error with its causes and gives the exit code that it means.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_broken_pipe(error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", with_causes(error));
    ExitCode::from(code(error))
}

/// The message and, below it, each cause that says something new: errors often
/// show their source in their own message too.
pub fn with_causes(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1) {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            text.push_str("\n  caused by: ");
            text.push_str(&cause);
        }
    }
    text
}

fn code(error: &anyhow::Error) -> u8 {
    let is_usage = |e: &(dyn std::error::Error + 'static)| e.is::<Usage>();
    if error.chain().any(is_usage) {
        return USAGE;
    }
    match kind(error) {
        Some(ErrorKind::Conflict) => LOST,
        _ => FAILED,
    }
}

fn kind(error: &anyhow::Error) -> Option<ErrorKind> {
    error.chain().find_map(|e| {
        None.or_else(|| e.downcast_ref::<CatalogError>().map(CatalogError::kind))
            .or_else(|| e.downcast_ref::<IngestError>().map(IngestError::kind))
            .or_else(|| e.downcast_ref::<EngineError>().map(EngineError::kind))
            .or_else(|| e.downcast_ref::<ServingError>().map(ServingError::kind))
            .or_else(|| e.downcast_ref::<ClientError>().map(ClientError::kind))
    })
}

/// Whoever read our output went away (`granary .. | head`): no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        let io = match e.downcast_ref::<ArrowError>() {
            Some(ArrowError::IoError(_, io)) => Some(io),
            _ => e.downcast_ref::<io::Error>(),
        };
        io.is_some_and(|io| io.kind() == io::ErrorKind::BrokenPipe)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_apply_is_told_from_a_failure() {
        let lost = anyhow::Error::from(CatalogError::Lost { base: 1, now: 2 });
        assert_eq!(code(&lost.context("apply")), LOST);
        assert_eq!(code(&usage("no")), USAGE);
        assert_eq!(code(&anyhow::anyhow!("no")), FAILED);
    }

    #[test]
    fn causes_that_are_told_already_are_left_out() {
        let inner = anyhow::anyhow!("no such file");
        let error = inner.context("cannot read a.sql: no such file");
        assert_eq!(with_causes(&error), "cannot read a.sql: no such file");
        let error = error.context("plan");
        assert_eq!(
            with_causes(&error),
            "plan\n  caused by: cannot read a.sql: no such file"
        );
    }
}
