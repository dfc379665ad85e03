//! `samclip adapter`: look into, merge and list adapters.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use samclip_predict::adapter::{self, Listed};

use super::common::{ModelArgs, out};

/// Arguments of `samclip adapter`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// What an adapter was trained for, on which bases, with which settings
    Inspect(Inspect),
    /// Write adapter and bases into one file that needs no others
    Merge(Merge),
    /// The adapters of a folder, one a line
    List(List),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// The adapter
    file: PathBuf,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Merge {
    /// Where to write
    #[arg(long, value_name = "OUT.safetensors")]
    to: PathBuf,
    #[command(flatten)]
    model: ModelArgs,
}

#[derive(Debug, clap::Args)]
struct List {
    /// The folder
    #[arg(default_value = ".")]
    folder: PathBuf,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Inspect(args) => inspect(&args),
        Action::Merge(args) => merge(&args),
        Action::List(args) => {
            for listed in adapter::list(&args.folder)? {
                out(&line(&listed));
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn inspect(args: &Inspect) -> Result<ExitCode> {
    let listed = adapter::inspect(&args.file)?;
    if args.json {
        out(&serde_json::to_string(&listed)?);
        return Ok(ExitCode::SUCCESS);
    }
    let about = &listed.about;
    let base = |b: &samclip_models::clip_guided_sam::artefact::Base| format!("{} (sha256 {:.16}…)", b.name, b.sha256);
    out(&format!("name      {}", about.name));
    out(&format!("classes   {}", about.classes.join(", ")));
    out(&format!("sam       {}", base(&about.sam)));
    out(&format!("clip      {}", base(&about.clip)));
    out(&format!("steps     {}", about.steps));
    out(&format!("values    {} in {:.1} MB{}", listed.parameters, listed.bytes as f64 / 1e6, if listed.merged { ", bases included" } else { "" }));
    if !about.note.is_empty() {
        out(&format!("note      {}", about.note));
    }
    out(&format!("adapters  {}", serde_json::to_string(&about.config.adapters)?));
    out(&format!("prompts   {}", serde_json::to_string(&about.config.prompts)?));
    out(&format!("train     {}", serde_json::to_string(&about.config.train)?));
    Ok(ExitCode::SUCCESS)
}

fn merge(args: &Merge) -> Result<ExitCode> {
    let Some(file) = &args.model.adapter else { anyhow::bail!("merge needs --adapter FILE") };
    adapter::merge(&args.model.spec(), file, &args.to)?;
    out(&args.to.display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn line(listed: &Listed) -> String {
    let about = &listed.about;
    let megabytes = listed.bytes as f64 / 1e6;
    format!("{}\t{}\t{:.1} MB\t{}\t{}", listed.file.display(), about.name, megabytes, about.sam.name, about.classes.join(", "))
}
