//! `samclip locate`: where in the image a name is.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use samclip_predict::verbs::locate_files;
use samclip_predict::{Model, ModelSpec};

use super::common::{ImageArgs, MaskOutputArgs, ModelArgs, Progress, finish};

/// Arguments of `samclip locate`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Name of what to find, several times for several
    #[arg(long, value_name = "NAME", required = true)]
    text: Vec<String>,
    /// Model that turns the clicks into masks, where the locating model has no mask decoder
    #[arg(long, value_name = "NAME")]
    mask_model: Option<String>,
    /// Its weight file
    #[arg(long, value_name = "FILE", requires = "mask_model")]
    mask_weights: Option<PathBuf>,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    output: MaskOutputArgs,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let inputs = args.images.inputs()?;
    let model = args.model.load()?;
    let segmenter = match &args.mask_model {
        None => None,
        Some(variant) => {
            let spec = args.model.spec();
            Some(Model::load(&ModelSpec { variant: variant.clone(), weights: args.mask_weights, ..spec })?)
        }
    };
    let mut progress = Progress::new(inputs.files.len(), args.output.json);
    let output = args.output.spec();
    let document = locate_files(&model, segmenter.as_ref(), &inputs, &args.text, output.as_ref(), &mut progress)?;
    drop(progress);
    finish(&document, args.output.json)
}
