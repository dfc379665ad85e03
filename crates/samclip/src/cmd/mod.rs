//! One module per verb: `Args` (clap) and `run(args) -> exit code`.

pub mod adapt;
mod adapt_watch;
pub mod adapter;
pub mod bench;
pub mod classify;
pub mod common;
pub mod completions;
pub mod data;
pub mod eval;
mod eval_merge;
mod eval_probe;
pub mod everything;
pub mod label;
pub mod locate;
pub mod models;
pub mod pull;
pub mod remote;
pub mod report;
pub mod segment;
pub mod serve;
pub mod sweep;
pub mod sweep_table;
pub mod teach;
pub mod train;
pub mod version;
pub mod weights;
pub mod weights_merge;
