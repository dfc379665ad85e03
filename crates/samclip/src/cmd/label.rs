//! `samclip label`.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Arguments of `samclip label`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the verb label is not in this build")
}
