//! `samclip classify`: which of these names is in the image.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use samclip_predict::inputs;
use samclip_predict::verbs::classify_files;

use super::common::{ImageArgs, ModelArgs, Progress, finish, out};

/// Arguments of `samclip classify`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("names").required(true).multiple(true))]
pub struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Names, one a line
    #[arg(long, value_name = "FILE", group = "names")]
    classes: Option<PathBuf>,
    /// A name, several times for several
    #[arg(long, value_name = "NAME", group = "names")]
    text: Vec<String>,
    /// How many of the best names
    #[arg(long, default_value_t = 5, value_name = "N")]
    top: usize,
    #[command(flatten)]
    model: ModelArgs,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let mut classes = match &args.classes {
        Some(path) => inputs::read_names(path)?,
        None => Vec::new(),
    };
    classes.extend(args.text);
    let inputs = args.images.inputs()?;
    let model = args.model.load()?;
    let mut progress = Progress::new(inputs.files.len(), args.json);
    let document = classify_files(&model, &inputs, &classes, args.top, &mut progress)?;
    drop(progress);
    if !args.json {
        for image in &document.images {
            for class in &image.classes {
                out(&format!("{}\t{:.4}\t{}", image.file.display(), class.score, class.name));
            }
        }
    }
    finish(&document, args.json)
}
