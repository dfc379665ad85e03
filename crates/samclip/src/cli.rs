//! The command line: one variant per verb, its arguments in `cmd/<verb>.rs`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::cmd;

/// Segment images by text, click, box or everything.
#[derive(Debug, Parser)]
#[command(name = "samclip", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Say more on stderr (-v: progress of the work, -vv: details); RUST_LOG overrides
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
    #[command(subcommand)]
    pub command: Command,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Cut objects out by text, point, box or mask
    Segment(cmd::segment::Args),
    /// Masks for everything in the image (SAM's automatic mask generator)
    Everything(cmd::everything::Args),
    /// Which of these names is in the image
    Classify(cmd::classify::Args),
    /// Where in the image a name is: heat map, points, masks
    Locate(cmd::locate::Args),
    /// A semantic map over a list of classes
    Label(cmd::label::Args),
    /// Inspect, convert and check weight files
    Weights(cmd::weights::Args),
    /// List the model variants and the official weight files
    Models(cmd::models::Args),
    /// Download an official weight file and verify it
    Pull(cmd::pull::Args),
    /// Train a model from a recipe
    Train(cmd::train::Args),
    /// Run a folder of recipes one after the other and tabulate them
    Sweep(cmd::sweep::Args),
    /// Store what a recipe's teachers say as WebDataset shards
    Teach(cmd::teach::Args),
    /// Train an adapter on your own labelled photos
    Adapt(cmd::adapt::Args),
    /// Look into, merge and list adapters
    Adapter(cmd::adapter::Args),
    /// Check labelled photos before training on them
    Data(cmd::data::Args),
    /// Measure a model with a protocol
    Eval(cmd::eval::Args),
    /// Time a part of the work on this machine
    Bench(cmd::bench::Args),
    /// Serve masks over HTTP: the page, JSON, and what labelling tools speak
    Serve(Box<cmd::serve::Args>),
    /// Print the version, the engine and what this machine offers
    Version(cmd::version::Args),
    /// Print a completion script for a shell
    Completions(cmd::completions::Args),
}

impl Command {
    /// Runs the verb and returns the exit code: 0 ok, 1 negative finding, 2 error.
    pub fn run(self, verbose: u8) -> Result<ExitCode> {
        match self {
            Self::Segment(args) => cmd::segment::run(args),
            Self::Everything(args) => cmd::everything::run(args),
            Self::Classify(args) => cmd::classify::run(args),
            Self::Locate(args) => cmd::locate::run(args),
            Self::Label(args) => cmd::label::run(args),
            Self::Weights(args) => cmd::weights::run(args),
            Self::Models(args) => cmd::models::run(args),
            Self::Pull(args) => cmd::pull::run(args),
            Self::Train(args) => cmd::train::run(args),
            Self::Sweep(args) => cmd::sweep::run(args),
            Self::Teach(args) => cmd::teach::run(args),
            Self::Adapt(args) => cmd::adapt::run(args),
            Self::Adapter(args) => cmd::adapter::run(args),
            Self::Data(args) => cmd::data::run(args),
            Self::Eval(args) => cmd::eval::run(args),
            Self::Bench(args) => cmd::bench::run(args),
            Self::Serve(args) => cmd::serve::run(*args, verbose),
            Self::Version(args) => cmd::version::run(args),
            Self::Completions(args) => cmd::completions::run(args),
        }
    }
}

/// The server's log: a line per request at the first level already, as JSON if asked.
pub fn init_serve_tracing(verbose: u8, json: bool) {
    use tracing_subscriber::EnvFilter;
    let level = if verbose == 0 { "info" } else { "debug" };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let _ = if json { log.json().flatten_event(true).try_init() } else { log.try_init() };
}

/// Log lines go to stderr; `RUST_LOG` overrides the level.
pub fn init_tracing(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).try_init();
}
