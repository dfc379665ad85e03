//! `samclip completions SHELL`: a completion script on stdout.

use std::process::ExitCode;

use anyhow::Result;
use clap::CommandFactory;

/// Arguments of `samclip completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell to write for
    #[arg(value_enum)]
    pub shell: clap_complete::Shell,
}

/// Writes the script to stdout.
pub fn run(args: Args) -> Result<ExitCode> {
    let mut command = crate::cli::Cli::command();
    clap_complete::generate(args.shell, &mut command, "samclip", &mut std::io::stdout());
    Ok(ExitCode::SUCCESS)
}
