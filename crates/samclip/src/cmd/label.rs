//! `samclip label`: a semantic map over a list of classes.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use samclip_predict::verbs::{LabelFiles, label_files};
use samclip_predict::{Background, inputs};

use super::common::{ImageArgs, ModelArgs, Progress, finish};

/// Arguments of `samclip label`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Names, one a line
    #[arg(long, value_name = "FILE")]
    classes: PathBuf,
    /// What is background: none, word ("background" is a class), extended (39 more words for stuff), thresh (the
    /// model's background channel), thresh=P (probability below P). Default: thresh where the model has a
    /// background channel, else extended
    #[arg(long, value_name = "MODE")]
    background: Option<String>,
    #[command(flatten)]
    model: ModelArgs,
    /// Folder for the files (default: out; with --json nothing is written unless this is given)
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// File format, several times for several (default: png and overlay)
    #[arg(long, value_enum, value_name = "FORMAT")]
    format: Vec<LabelFormat>,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// `--format` of `label`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LabelFormat {
    /// Palette PNG: 0 is background, class i is i + 1 (without background class i is i)
    Png,
    /// The photo with the classes' colours
    Overlay,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let asked = args.background.as_deref().map(Background::parse).transpose()?;
    let classes = inputs::read_names(&args.classes)?;
    let inputs = args.images.inputs()?;
    let model = args.model.load()?;
    let standard = if model.has_background_channel() { Background::Thresh(None) } else { Background::Extended };
    let all = args.format.is_empty();
    let files = LabelFiles {
        palette: all || args.format.contains(&LabelFormat::Png),
        overlay: all || args.format.contains(&LabelFormat::Overlay),
    };
    let wanted = args.out.is_some() || !all || !args.json;
    let folder = args.out.unwrap_or_else(|| PathBuf::from("out"));
    let output = wanted.then_some((folder.as_path(), files));
    let mut progress = Progress::new(inputs.files.len(), args.json);
    let document = label_files(&model, &inputs, &classes, &asked.unwrap_or(standard), output, &mut progress)?;
    drop(progress);
    finish(&document, args.json)
}
