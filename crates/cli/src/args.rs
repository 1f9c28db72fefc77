//! The command line: global options and the list of commands. What a command
//! takes stands beside the command.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};

use crate::commands::{
    apply, completions, demo, describe, get, get_historical, history, init, materialize, plan,
    push, serve, sql, status, verify,
};

/// The feature store of a consumer lender: features defined in SQL,
/// materialised in batch, served in well under a millisecond.
#[derive(Debug, Parser)]
#[command(
    name = "granary",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Start with `granary init my-features`, or see a whole lender with `granary demo`.\n\
                  Exit codes: 0 done, 1 refused or failed, 2 usage, 3 changes pending (plan --exit-code), 4 lost a race."
)]
pub struct Cli {
    /// The project folder, with granary.toml in it [default: this folder or the nearest one above]
    #[arg(short = 'C', long = "project", value_name = "DIR", global = true)]
    pub project: Option<PathBuf>,

    /// Log more to stderr: -v, -vv, -vvv (or GRANARY_LOG=filter)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    pub verbose: u8,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a lender's data, materialise, serve and read it
    Demo(demo::Args),
    /// Make a project that works at once
    Init(init::Args),
    /// Show what apply would change, and what that costs
    Plan(plan::Args),
    /// Commit the project's definitions to the catalog
    Apply(apply::Args),
    /// Compute feature views: offline table first, then the online store
    Materialize(materialize::Args),
    /// Append the rows of a file, or of stdin, to a stream
    Push(push::Args),
    /// Read features of some entities
    Get(get::Args),
    /// Build a training set: features as of each row's own time
    GetHistorical(get_historical::Args),
    /// Run SQL over sources, views and offline feature tables
    Sql(sql::Args),
    /// List the objects, or show one in full
    Describe(describe::Args),
    /// Show how far every feature view is materialised, and what streams hold
    Status(status::Args),
    /// List the catalog's snapshots: who changed what, and when
    History(history::Args),
    /// Compare what a service serves with what a training set says
    Verify(verify::Args),
    /// Serve features over gRPC, with metrics and health over HTTP
    Serve(serve::Args),
    /// Print a completion script for a shell
    Completions(completions::Args),
}

/// How a listing is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Listing {
    /// For people.
    #[default]
    Table,
    /// For programs.
    Json,
}
