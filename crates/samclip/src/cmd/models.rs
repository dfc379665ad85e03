//! `samclip models`.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Arguments of `samclip models`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the verb models is not in this build")
}
