//! Logs, to stderr: quiet unless asked for, since results and progress are
//! what a person at the terminal wants to see.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::args::{Cli, Command};
use crate::environment;

/// Starts logging as `-v` and `GRANARY_LOG` say.
pub fn start(cli: &Cli) {
    let serves = matches!(cli.command, Command::Serve(_));
    let default = match (cli.verbose, serves) {
        (0, false) => "off",
        (0, true) => "warn,granary=info",
        (1, _) => "warn,granary=info",
        (2, _) => "info,granary=debug",
        _ => "debug,granary=trace",
    };
    let asked = environment::log_filter();
    let filter = match asked.as_deref().map(EnvFilter::try_new) {
        Some(Ok(filter)) => filter,
        Some(Err(error)) => {
            eprintln!("warning: GRANARY_LOG is not a filter ({error}); using {default:?}");
            EnvFilter::new(default)
        }
        None => EnvFilter::new(default),
    };
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
}
