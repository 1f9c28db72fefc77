//! One verb a file: what each command takes and does.

pub mod apply;
pub mod completions;
pub mod demo;
pub mod describe;
pub mod get;
pub mod get_historical;
pub mod history;
pub mod init;
pub mod materialize;
pub mod plan;
pub mod push;
pub mod serve;
pub mod sql;
pub mod status;
pub mod verify;

use crate::args::{Cli, Command};
use crate::failure::Outcome;
use crate::project::Project;

/// Runs what the command line says.
pub async fn run(cli: Cli) -> Outcome {
    let folder = cli.project.as_deref();
    let project = || Project::open(folder);
    match cli.command {
        Command::Demo(args) => demo::run(args).await,
        Command::Init(args) => init::run(folder, &args),
        Command::Completions(args) => completions::run(&args),
        Command::Plan(args) => plan::run(&project()?, &args).await,
        Command::Apply(args) => apply::run(&project()?, &args).await,
        Command::Materialize(args) => materialize::run(project()?, args).await,
        Command::Push(args) => push::run(folder, args).await,
        Command::Get(args) => get::run(folder, args).await,
        Command::GetHistorical(args) => get_historical::run(folder, args).await,
        Command::Sql(args) => sql::run(&project()?, args).await,
        Command::Describe(args) => describe::run(&project()?, &args).await,
        Command::Status(args) => status::run(&project()?, &args).await,
        Command::History(args) => history::run(&project()?, &args).await,
        Command::Verify(args) => verify::run(folder, &args).await,
        Command::Serve(args) => serve::run(project()?, args).await,
    }
}
