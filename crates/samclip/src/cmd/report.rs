//! `samclip report`: the results page from run files.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, anyhow};
use samclip_eval::results_page::{page, read, replace};

use super::common::out;

/// Arguments of `samclip report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Replaces what stands between the two marks of the page, or appends it; the rest of the page is \
not touched. With --check nothing is written; exit code 1: the page is not what its run files give.")]
pub struct Args {
    /// Folders with report.json, as `samclip eval --out` writes them, or the files
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// The page
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Only compare
    #[arg(long)]
    check: bool,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let runs = read(&args.runs)?;
    let old = match args.out.exists() {
        true => std::fs::read_to_string(&args.out).with_context(|| format!("cannot read: {}", args.out.display()))?,
        false => String::new(),
    };
    let new = replace(&old, &page(&runs)).map_err(|e| anyhow!("{e}: {}", args.out.display()))?;
    if args.check {
        if new != old {
            eprintln!("wrong: the page is not what {} run files give: {}", runs.len(), args.out.display());
        }
        return Ok(ExitCode::from(u8::from(new != old)));
    }
    samclip_image::write_atomic(&args.out, new.as_bytes())?;
    out(&format!("{}: {} runs", args.out.display(), runs.len()));
    Ok(ExitCode::SUCCESS)
}
