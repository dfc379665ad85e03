//! Arguments that several verbs share, progress on stderr, and how errors are printed.

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use samclip_image::DecodeLimits;
use samclip_predict::record::{Document, Failure};
use samclip_predict::verbs::{Inputs, Observer, OutputSpec};
use samclip_predict::{Format, Model, ModelSpec, Precision, PredictError, inputs};

/// The model, where its weights are and how it runs.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Model variant (`samclip models` lists them); sam_clip_nano is built in
    #[arg(long, default_value = Self::STANDARD, value_name = "NAME")]
    pub model: String,
    /// Weight file: safetensors, .pth or .bin, with Meta's, OpenAI's or Hugging Face's names
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Names and their vectors for a SAM-CLIP model other than the built-in one
    #[arg(long, value_name = "FILE")]
    pub text_table: Option<PathBuf>,
    /// Number format of the matrix products
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub precision: PrecisionArg,
    /// Worker threads (default: all cores); the result does not depend on it
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// Where to compute; this build offers cpu
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Keep image embeddings in this folder, so that the next prompt on the same image is fast
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Adapter over the model (`samclip adapt` and `samclip train` write one)
    #[arg(long, value_name = "FILE")]
    pub adapter: Option<PathBuf>,
    /// CLIP's weight file, for an adapter that was trained with a CLIP of its own
    #[arg(long, value_name = "FILE", requires = "adapter")]
    pub clip_weights: Option<PathBuf>,
}

impl ModelArgs {
    /// The model that is built in.
    pub const STANDARD: &'static str = "sam_clip_nano";

    /// Sets the number of threads and loads the model.
    pub fn load(&self) -> Result<Model> {
        self.set_threads()?;
        Ok(Model::load(&self.spec())?)
    }

    /// What to load.
    pub fn spec(&self) -> ModelSpec {
        ModelSpec {
            variant: self.model.clone(),
            weights: self.weights.clone(),
            text_table: self.text_table.clone(),
            precision: self.precision.into(),
            device: self.device.clone(),
            cache: self.cache.clone(),
            adapter: self.adapter.clone(),
            clip_weights: self.clip_weights.clone(),
        }
    }

    /// `--threads`: the size of the thread pool. Threads change speed, never results.
    pub fn set_threads(&self) -> Result<()> {
        let Some(threads) = self.threads else { return Ok(()) };
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        pool.build_global().context("cannot start the threads")
    }
}

/// `--precision`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PrecisionArg {
    /// bf16 where the processor multiplies it natively, f32 elsewhere
    Auto,
    /// 32-bit floating point everywhere
    F32,
    /// bf16 products with f32 sums
    Bf16,
}

impl From<PrecisionArg> for Precision {
    fn from(precision: PrecisionArg) -> Self {
        match precision {
            PrecisionArg::Auto => Self::Auto,
            PrecisionArg::F32 => Self::F32,
            PrecisionArg::Bf16 => Self::Bf16,
        }
    }
}

/// The images.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// Images, folders of images or patterns such as 'photos/*.jpg'
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<PathBuf>,
    /// Refuse images with more pixels than this, before decoding them
    #[arg(long, default_value_t = DecodeLimits::default().max_pixels, value_name = "N")]
    pub max_pixels: u64,
}

impl ImageArgs {
    /// The list of files.
    pub fn inputs(&self) -> Result<Inputs> {
        let limits = DecodeLimits { max_pixels: self.max_pixels };
        Ok(Inputs { files: inputs::expand(&self.images)?, limits })
    }
}

/// Where masks go, and in which formats.
#[derive(Debug, clap::Args)]
pub struct MaskOutputArgs {
    /// Folder for the files (default: out; with --json nothing is written unless this is given)
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// File format, several times for several (default: png and overlay)
    #[arg(long, value_enum, value_name = "FORMAT")]
    pub format: Vec<FormatArg>,
    /// Print one JSON document on stdout
    #[arg(long)]
    pub json: bool,
}

impl MaskOutputArgs {
    /// The folder and formats, if files are wanted.
    pub fn spec(&self) -> Option<OutputSpec> {
        let wanted = self.out.is_some() || !self.format.is_empty() || !self.json;
        let formats = if self.format.is_empty() {
            vec![Format::Png, Format::Overlay]
        } else {
            self.format.iter().map(|format| (*format).into()).collect()
        };
        wanted.then(|| OutputSpec { folder: self.out.clone().unwrap_or_else(|| PathBuf::from("out")), formats })
    }
}

/// `--format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FormatArg {
    /// One black and white PNG per mask
    Png,
    /// The photo with coloured masks
    Overlay,
    /// coco.json for all images
    Coco,
    /// SA-1B's JSON per image
    Sa1b,
    /// LabelMe's JSON per image
    Labelme,
    /// YOLO's segmentation text per image
    Yolo,
    /// The columns of SAM's amg.py per image
    Csv,
}

impl From<FormatArg> for Format {
    fn from(format: FormatArg) -> Self {
        match format {
            FormatArg::Png => Self::Png,
            FormatArg::Overlay => Self::Overlay,
            FormatArg::Coco => Self::Coco,
            FormatArg::Sa1b => Self::Sa1b,
            FormatArg::Labelme => Self::Labelme,
            FormatArg::Yolo => Self::Yolo,
            FormatArg::Csv => Self::Csv,
        }
    }
}

/// A progress bar on stderr, only on a terminal and for more than one image; failures as they happen; written files
/// on stdout unless stdout carries the JSON document.
pub struct Progress {
    bar: ProgressBar,
    list_files: bool,
}

impl Progress {
    /// For this many images.
    pub fn new(images: usize, json: bool) -> Self {
        Self { bar: bar(images > 1, images as u64, "{bar:30} {pos}/{len} {wide_msg} {eta}"), list_files: !json }
    }

    fn advance(&self, file: &Path) {
        self.bar.set_message(file.display().to_string());
        self.bar.inc(1);
    }
}

impl Observer for Progress {
    fn done(&mut self, file: &Path, written: &[PathBuf]) {
        if self.list_files {
            self.bar.suspend(|| written.iter().for_each(|path| out(&path.display().to_string())));
        }
        if !file.as_os_str().is_empty() {
            self.advance(file);
        }
    }

    fn failed(&mut self, failure: &Failure) {
        self.bar.suspend(|| print_failure(&failure.error, failure.hint.as_deref()));
        self.advance(&failure.file);
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}

/// A bar that shows nothing unless `wanted` and stderr is a terminal.
pub fn bar(wanted: bool, length: u64, template: &str) -> ProgressBar {
    if !wanted || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(length).with_style(style)
}

/// Prints the document if asked and says by the exit code whether every image was answered.
pub fn finish<T: serde::Serialize>(document: &Document<T>, json: bool) -> Result<ExitCode> {
    if json {
        out(&serde_json::to_string(document)?);
    }
    Ok(ExitCode::from(if document.errors.is_empty() { 0 } else { 2 }))
}

/// One line of data on stdout. A closed pipe ends the output, not the program.
pub fn out(line: &str) {
    use std::io::Write;
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints an error and its causes as one line, and the advice below it.
pub fn print_error(error: &anyhow::Error) {
    let hint = error.chain().find_map(|cause| {
        let predict = cause.downcast_ref::<PredictError>().and_then(PredictError::hint);
        let weights = || cause.downcast_ref::<samclip_weights::WeightsError>().and_then(|e| e.hint());
        let image = || cause.downcast_ref::<samclip_image::ImageError>().and_then(|e| e.hint());
        let train = || cause.downcast_ref::<samclip_train::TrainError>().and_then(|e| e.hint());
        let data = || cause.downcast_ref::<samclip_data::DataError>().and_then(|e| e.hint());
        let eval = || cause.downcast_ref::<samclip_eval::EvalError>().and_then(|e| e.hint());
        let serve = || cause.downcast_ref::<samclip_server::settings::ConfigError>().and_then(|e| e.hint());
        let api = || cause.downcast_ref::<samclip_server::ApiError>().and_then(|e| e.hint.clone());
        predict.or_else(api).or_else(serve).or_else(weights).or_else(image).or_else(train).or_else(data).or_else(eval)
    });
    // Our own messages quote their cause already.
    let mut message = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !message.contains(&cause) {
            message = format!("{message}: {cause}");
        }
    }
    print_failure(&message, hint.as_deref());
}

fn print_failure(error: &str, hint: Option<&str>) {
    eprintln!("error: {error}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
}
