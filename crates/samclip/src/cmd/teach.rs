//! `samclip teach`: what a recipe's teachers say, stored once for many runs.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use samclip_train::teach::{TeachOptions, teach};

use super::common::{bar, out};
use super::train::stop_on_signals;

/// Arguments of `samclip teach`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Training reads the folder with `samclip train --teacher-cache DIR`.")]
pub struct Args {
    /// The recipe, one TOML file
    recipe: PathBuf,
    /// The task whose teachers are asked; each must see whole photos (`photo_side`)
    #[arg(long, value_name = "NAME")]
    task: String,
    /// The cache: WebDataset shards and a manifest per teacher
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The data folder
    #[arg(long, value_name = "DIR", env = "SAMCLIP_DATA", default_value = "../shared/data")]
    data: PathBuf,
    /// This part of so many, from 0: 0/4 to 3/4 on four machines
    #[arg(long, value_name = "I/N", default_value = "0/1", value_parser = part)]
    shard: (usize, usize),
    /// Photos in a shard
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    per_shard: u32,
}

fn part(text: &str) -> Result<(usize, usize), String> {
    let numbers = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
    match numbers {
        Some((i, n)) if i < n => Ok((i, n)),
        _ => Err("expected I/N with I below N, such as 0/4".to_owned()),
    }
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let stop = stop_on_signals()?;
    let options = TeachOptions {
        task: args.task,
        data: args.data,
        out: args.out.clone(),
        part: args.shard,
        per_shard: args.per_shard as usize,
    };
    let line = bar(true, 0, "{wide_bar} {pos}/{len} photos, {eta} left");
    let mut progress = |done: usize, all: usize| {
        line.set_length(all as u64);
        line.set_position(done as u64);
    };
    let done = teach(&args.recipe, &options, &mut progress, &stop)?;
    line.finish_and_clear();
    match done.complete {
        true => eprintln!("{} photos stored, {} shards were there", done.photos, done.kept),
        false => eprintln!("stopped after {} photos; the same command continues", done.photos),
    }
    out(&args.out.display().to_string());
    Ok(ExitCode::SUCCESS)
}
