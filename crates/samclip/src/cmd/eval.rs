//! `samclip eval`.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Arguments of `samclip eval`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the verb eval is not in this build")
}
