//! `samclip data`: look at labelled photos before training on them.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use samclip_data::labelled::{Check, check};

use super::common::out;

/// Arguments of `samclip data`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Read every photo and label once; exit code 1 if something is wrong
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// COCO file, or folder with VOC's layout, masks and classes.txt, or LabelMe files
    #[arg(value_name = "PATH")]
    data: PathBuf,
    /// VOC's list, or the folder of a mask folder
    #[arg(long, default_value = "train")]
    split: String,
    /// The classes that matter, several with commas (default: all)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    classes: Vec<String>,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let Action::Check(args) = args.action;
    let (_, report) = check(&args.data, &args.split, &args.classes)?;
    if args.json {
        out(&serde_json::to_string(&report)?);
    } else {
        summary(&report).iter().for_each(|line| out(line));
        findings(&report);
    }
    Ok(ExitCode::from(u8::from(!report.findings.is_empty())))
}

/// Counts, a line each.
pub(super) fn summary(report: &Check) -> Vec<String> {
    let mut lines = vec![format!(
        "{}: {} photos, {} usable, {:.1} % of pixels unlabelled",
        report.form,
        report.photos,
        report.usable,
        100.0 * report.ignore_share
    )];
    let class = |c: &samclip_data::labelled::ClassCount| {
        format!("{:<24}{:>7} photos{:>8.2} % of pixels", c.class, c.photos, 100.0 * c.share)
    };
    lines.extend(report.classes.iter().map(class));
    lines
}

/// What is wrong, on stderr: message first, file last.
pub(super) fn findings(report: &Check) {
    for finding in &report.findings {
        eprintln!("wrong: {}: {}", finding.message, finding.file.display());
    }
}
