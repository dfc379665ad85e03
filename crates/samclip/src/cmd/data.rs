//! `samclip data`: look at labelled photos before training on them.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Subcommand;
use samclip_data::labelled::{Check, check};
use samclip_data::set_check::{check_set, is_set, usual_split};

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
    #[command(after_help = "samclip data check PATH: your own labels. samclip data check NAME DIR: a benchmark in its \
published layout below DIR (ade20k, coco, coco_stuff, voc, context60, imagenetv2, ...), as `samclip eval --data DIR` wants it.")]
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
struct CheckArgs {
    /// COCO file, or folder with VOC's layout, masks and classes.txt, or LabelMe files; or a benchmark's name and the
    /// folder of the datasets
    #[arg(required = true, num_args = 1..=2, value_name = "PATH")]
    data: Vec<PathBuf>,
    /// VOC's list, the folder of a mask folder, or a benchmark's split (default: train; its validation split)
    #[arg(long)]
    split: Option<String>,
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
    let path = match args.data.as_slice() {
        [name, dir] => return benchmark(&name.to_string_lossy(), dir, &args),
        [path] => path,
        _ => bail!("expected a path, or a name and a folder"),
    };
    let (_, report) = check(path, args.split.as_deref().unwrap_or("train"), &args.classes)?;
    if args.json {
        out(&serde_json::to_string(&report)?);
    } else {
        summary(&report).iter().for_each(|line| out(line));
        findings(&report);
    }
    Ok(ExitCode::from(u8::from(!report.findings.is_empty())))
}

/// A benchmark below the folder of the datasets.
fn benchmark(name: &str, dir: &Path, args: &CheckArgs) -> Result<ExitCode> {
    if !is_set(name) {
        bail!("unknown set `{name}`, expected one of coco, lvis, {}", samclip_data::NAMES.join(", "));
    }
    let split = args.split.as_deref().unwrap_or_else(|| usual_split(name));
    let report = check_set(dir, name, split)?;
    if args.json {
        out(&serde_json::to_string(&report)?);
    } else {
        let published = report.published.map_or(String::new(), |n| format!(" ({n} published)"));
        let objects = report.objects.map_or(String::new(), |n| format!(", {n} objects"));
        let void = report.void_share.map_or(String::new(), |v| format!(", {:.1} % of pixels void", 100.0 * v));
        let sizes = report.sizes.map_or(String::new(), |[a, b]| format!(", {} x {} to {} x {} pixels", a.0, a.1, b.0, b.1));
        out(&format!("{name} {split}: {} photos{published}, {} usable{objects}{void}{sizes}", report.photos, report.usable));
        for class in report.classes.iter().filter(|c| c.photos > 0) {
            let share = class.share.map_or(String::new(), |s| format!("{:>8.2} % of pixels", 100.0 * s));
            out(&format!("{:<32}{:>7} photos{share}", class.class, class.photos));
        }
        for finding in &report.findings {
            eprintln!("wrong: {}: {}", finding.message, finding.file.display());
        }
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
