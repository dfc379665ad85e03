//! `samclip classify`.

use std::process::ExitCode;

use anyhow::{Result, bail};

/// Arguments of `samclip classify`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Runs the verb.
pub fn run(_args: Args) -> Result<ExitCode> {
    bail!("the verb classify is not in this build")
}
