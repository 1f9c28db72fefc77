//! `granary completions`: a script that completes commands and options.

use std::io;
use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Outcome;
use crate::output;

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  granary completions bash > ~/.local/share/bash-completion/completions/granary\n  granary completions zsh > ~/.zfunc/_granary"
)]
pub struct Args {
    pub shell: Shell,
}

pub fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "granary", &mut script);
    io::Write::write_all(&mut output::stdout(), &script)?;
    Ok(ExitCode::SUCCESS)
}
