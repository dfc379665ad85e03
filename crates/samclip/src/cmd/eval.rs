//! `samclip eval`: run a protocol and say whether its floors are reached.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use samclip_data::names::name_map;
use samclip_eval::boxes::Boxes;
use samclip_eval::{Protocol, Report, Subject, evaluate};
use samclip_predict::sam_plus_clip::SamPlusClip;
use samclip_predict::{EverythingOptions, Model, PromptSegmenter};

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
    #[arg(long, value_name = "N", conflicts_with_all = ["boxes", "sam_plus_clip", "adapter"])]
    classify_side: Option<usize>,
    /// Ask names as a detector's boxes: JSON list of photo, label, box, score
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sam_plus_clip", "adapter"])]
    boxes: Option<PathBuf>,
    /// Ask names of the baseline that segments everything and then classifies each mask
    #[arg(long, conflicts_with = "adapter")]
    sam_plus_clip: bool,
    #[command(flatten)]
    model: ModelArgs,
}

/// How a protocol is put to a model.
#[derive(Debug, Default)]
pub struct Asked<'a> {
    /// The first photos only.
    pub limit: Option<usize>,
    /// Classification alone, at this side.
    pub classify_side: Option<usize>,
    /// Names as a detector's boxes.
    pub boxes: Option<&'a Path>,
    /// Names by segmenting everything, then classifying.
    pub sam_plus_clip: bool,
}

/// A protocol on the data folder's photos.
pub fn measure(model: &mut Model, protocol: &Protocol, data: &Path, asked: &Asked) -> Result<Report> {
    let dataset = samclip_data::open(data, &protocol.dataset, &protocol.split)?;
    let names = name_map(dataset.as_ref(), &data.join("text"))?;
    if let Some(side) = asked.classify_side {
        model.set_classify_side(side)?;
    }
    let model = &*model;
    let boxes = asked.boxes.map(Boxes::open).transpose()?;
    let baseline = match asked.sam_plus_clip {
        true => Some(SamPlusClip::new(model, model, EverythingOptions::STANDARD)?),
        false => None,
    };
    let kind = match (&boxes, &baseline) {
        (Some(_), _) => " with a detector's boxes",
        (_, Some(_)) => ", everything then classified",
        _ => "",
    };
    let segmenter = baseline.as_ref().map(|b| b as &dyn PromptSegmenter).or(model.prompt_segmenter().ok());
    let subject = Subject {
        name: format!("{}{kind}", model.name),
        segmenter: segmenter.filter(|_| asked.classify_side.is_none()),
        classifier: model.classifier().ok(),
        boxes: boxes.as_ref(),
    };
    let line = bar(true, 0, "{wide_bar} {pos}/{len} photos, {eta} left");
    let mut progress = |done: usize, all: usize| {
        line.set_length(all as u64);
        line.set_position(done as u64);
    };
    let report = evaluate(protocol, dataset.as_ref(), &names, &subject, asked.limit, &mut progress)?;
    line.finish_and_clear();
    Ok(report)
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let protocol = Protocol::open(&args.protocol)?;
    let mut model = args.model.load()?;
    let asked = Asked {
        limit: args.limit.map(|n| n as usize),
        classify_side: args.classify_side,
        boxes: args.boxes.as_deref(),
        sam_plus_clip: args.sam_plus_clip,
    };
    let mut report = measure(&mut model, &protocol, &args.data, &asked)?;
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
