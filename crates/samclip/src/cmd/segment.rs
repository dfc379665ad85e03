//! `samclip segment`: cut objects out by text, point, box or mask.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::ValueEnum;
use samclip_image::Mask;
use samclip_predict::verbs::{SegmentRequest, mask_files, segment_files};
use samclip_predict::{SegmentOptions, TextMode, prompt};

use super::common::{ImageArgs, MaskOutputArgs, ModelArgs, Progress, finish};
use super::remote::{Remote, ServerArgs};

/// Arguments of `samclip segment`.
#[derive(Debug, clap::Args)]
#[command(after_help = "One point, box or text gives one mask; several points and a box together describe one object; \
                        every --text gives a mask of its own.")]
pub struct Args {
    #[command(flatten)]
    images: ImageArgs,
    /// Name of the object, several times for several objects
    #[arg(long, value_name = "NAME")]
    text: Vec<String>,
    /// Click in pixels: X,Y or X,Y,1 on the object, X,Y,0 beside it
    #[arg(long, value_name = "X,Y[,LABEL]", allow_hyphen_values = true)]
    point: Vec<String>,
    /// Box in pixels
    #[arg(long = "box", value_name = "X0,Y0,X1,Y1", allow_hyphen_values = true)]
    bbox: Vec<String>,
    /// Rough mask of the image's size: white is the object
    #[arg(long, value_name = "FILE.png")]
    mask: Option<PathBuf>,
    /// Three masks per prompt, best first
    #[arg(long)]
    multimask: bool,
    /// How a text becomes a mask
    #[arg(long, value_enum, default_value_t = TextModeArg::BothHeads)]
    text_mode: TextModeArg,
    /// Probability above which a part of the image belongs to a text
    #[arg(long, default_value_t = SegmentOptions::STANDARD.text_threshold, value_name = "P")]
    text_threshold: f32,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    output: MaskOutputArgs,
}

/// `--text-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum TextModeArg {
    /// The CLIP head finds, the SAM head cuts out
    BothHeads,
    /// The CLIP head's map alone
    ClipHead,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    let text_mode = match args.text_mode {
        TextModeArg::BothHeads => TextMode::BothHeads,
        TextModeArg::ClipHead => TextMode::ClipHead,
    };
    let request = SegmentRequest {
        texts: args.text.iter().map(|text| prompt::parse_text(text)).collect::<Result<_, _>>()?,
        points: args.point.iter().map(|text| prompt::parse_point(text)).collect::<Result<_, _>>()?,
        boxes: args.bbox.iter().map(|text| prompt::parse_box(text)).collect::<Result<_, _>>()?,
        mask: args.mask,
        options: SegmentOptions { multimask: args.multimask, text_threshold: args.text_threshold, text_mode },
    };
    request.validate()?;
    let inputs = args.images.inputs()?;
    let mut progress = Progress::new(inputs.files.len(), args.output.json);
    let output = args.output.spec();
    let document = match Remote::new(&args.server, &args.model)? {
        None => segment_files(&args.model.load()?, &inputs, &request, output.as_ref(), &mut progress)?,
        Some(remote) => {
            let mask = request.mask.as_deref().map(Mask::open).transpose()?;
            mask_files(remote.about()?, &inputs, output.as_ref(), &mut progress, |file, image| {
                remote.segment(file, image, &request, mask.as_ref())
            })?
        }
    };
    drop(progress);
    for image in &document.images {
        for text in image.masks.iter().filter(|m| m.area == 0).filter_map(|m| m.text.as_ref()) {
            eprintln!("note: no {text} found: {}", image.file.display());
        }
    }
    finish(&document, args.output.json)
}
