//! `samclip pull NAME`: an official weight file, verified.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use samclip_weights::{MIRROR_VARIABLE, Verified, pull};

use super::common::{bar, out};

/// Arguments of `samclip pull`.
#[derive(Debug, clap::Args)]
#[command(after_help = "A mirror that serves the files under their own names: SAMCLIP_MIRROR=https://host/folder")]
pub struct Args {
    /// Name from `samclip models`
    name: String,
    /// Folder for the file
    #[arg(long, default_value = "weights", value_name = "DIR")]
    out: PathBuf,
}

/// Downloads (or verifies) the file and prints its path.
pub fn run(args: Args) -> Result<ExitCode> {
    let mirror = std::env::var(MIRROR_VARIABLE).ok();
    let bar = bar(true, 0, "{bar:30} {bytes}/{total_bytes} {bytes_per_sec} {eta}");
    let mut progress = |done: u64, total: Option<u64>| {
        total.into_iter().for_each(|total| bar.set_length(total));
        bar.set_position(done);
    };
    let pulled = pull(&args.name, &args.out, mirror.as_deref(), &mut progress);
    bar.finish_and_clear();
    let pulled = pulled?;
    match &pulled.verified {
        Verified::Registry => eprintln!("SHA-256 verified"),
        Verified::Hub => eprintln!("SHA-256 verified against the hub's statement"),
        Verified::Nothing(sha256) => eprintln!("note: nobody states a SHA-256 for this file; its own is {sha256}"),
    }
    out(&pulled.path.display().to_string());
    Ok(ExitCode::SUCCESS)
}
