//! `samclip eval`: run a protocol and say whether its floors are reached.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use samclip_data::names::name_map;
use samclip_eval::{Protocol, Report, Subject, evaluate};
use samclip_predict::Model;

use super::common::{ModelArgs, bar, out};

/// Arguments of `samclip eval`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Prints a Markdown report. Exit code 1: a floor of the protocol is not reached.")]
pub struct Args {
    /// Protocol, a TOML file under protocols/
    #[arg(value_name = "PROTOCOL")]
    protocol: PathBuf,
    /// Folder with the datasets
    #[arg(long, value_name = "DIR", env = "SAMCLIP_DATA")]
    data: PathBuf,
    /// The first photos only; floors are not checked then
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Write the report as JSON as well
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Classify at this side instead of the model's, and measure nothing else; floors are not checked then
    #[arg(long, value_name = "N")]
    classify_side: Option<usize>,
    #[command(flatten)]
    model: ModelArgs,
}

/// A protocol on the data folder's photos; with `classify_side` classification alone, at that side.
pub fn measure(
    model: &mut Model,
    protocol: &Protocol,
    data: &Path,
    limit: Option<usize>,
    classify_side: Option<usize>,
) -> Result<Report> {
    let dataset = samclip_data::open(data, &protocol.dataset, &protocol.split)?;
    let names = name_map(dataset.as_ref(), &data.join("text"))?;
    if let Some(side) = classify_side {
        model.set_classify_side(side)?;
    }
    let subject = Subject {
        name: model.name.clone(),
        segmenter: model.prompt_segmenter().ok().filter(|_| classify_side.is_none()),
        classifier: model.classifier().ok(),
    };
    let line = bar(true, 0, "{wide_bar} {pos}/{len} photos, {eta} left");
    let mut progress = |done: usize, all: usize| {
        line.set_length(all as u64);
        line.set_position(done as u64);
    };
    let report = evaluate(protocol, dataset.as_ref(), &names, &subject, limit, &mut progress)?;
    line.finish_and_clear();
    Ok(report)
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let protocol = Protocol::open(&args.protocol)?;
    let mut model = args.model.load()?;
    let limit = args.limit.map(|n| n as usize);
    let mut report = measure(&mut model, &protocol, &args.data, limit, args.classify_side)?;
    if args.classify_side.is_some() {
        report.floors.clear();
    }
    if let Some(path) = &args.json {
        samclip_image::write_atomic(path, report.to_json().as_bytes())
            .with_context(|| format!("cannot write the report: {}", path.display()))?;
    }
    out(report.to_markdown().trim_end());
    Ok(ExitCode::from(if report.reached() { 0 } else { 1 }))
}
