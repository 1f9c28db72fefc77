//! The one binary `granary`: reads the command line, picks the implementations
//! and calls the crates that do the work.
//!
//! Results go to stdout, everything else to stderr. Nothing here knows how a
//! feature is computed, stored or served.

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command line talks to its terminal"
)]

mod args;
mod commands;
mod config;
mod consumers;
mod definitions;
mod demo;
mod environment;
mod events;
mod failure;
mod keys;
mod logging;
mod output;
mod progress;
mod project;
mod request_event;
mod stream_status;

use std::process::ExitCode;

use args::{Cli, Command};
use clap::Parser;
use mimalloc::MiMalloc;

/// Rows and events are many small allocations.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Planning deep queries recurses deeply.
const STACK_BYTES: usize = 8 << 20;

fn main() -> ExitCode {
    granary_engine::memory::bound_arenas();
    // Fails only if one is installed already, and then there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let cli = Cli::parse();
    logging::start(&cli);
    if let Command::Serve(_) = cli.command {
        granary_server::answer_soon();
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start: {error}");
            return ExitCode::from(failure::FAILED);
        }
    };
    // On a worker of the runtime, which has the larger stack.
    let task = runtime.spawn(commands::run(cli));
    let code = match runtime.block_on(task) {
        Ok(Ok(code)) => code,
        Ok(Err(error)) => failure::report(&error),
        Err(panic) => {
            eprintln!("error: a bug in Granary: {panic}");
            ExitCode::from(failure::FAILED)
        }
    };
    // A query that was broken off may still compute; nobody waits for it.
    runtime.shutdown_background();
    code
}
