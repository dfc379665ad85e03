//! `samclip version`: the version, and what this machine offers.

use std::process::ExitCode;

use anyhow::Result;

/// Arguments of `samclip version`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON document
    #[arg(long)]
    pub json: bool,
}

/// Prints the version, the target and the number of threads.
pub fn run(args: Args) -> Result<ExitCode> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let version = env!("CARGO_PKG_VERSION");
    // The best tier that the processor has; SAMCLIP_ISA lowers it.
    let isa = format!("{:?}", samclip_kernels::isa::current()).to_lowercase();
    let emulated = samclip_kernels::isa::emulated();
    let target = format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS);
    if args.json {
        let document = serde_json::json!({
            "version": version, "target": target, "threads": threads, "isa": isa, "emulated": emulated,
        });
        println!("{document}");
    } else {
        let emulated = if emulated { ", emulated" } else { "" };
        println!("samclip {version} ({target}, {threads} threads, {isa}{emulated})");
    }
    Ok(ExitCode::SUCCESS)
}
