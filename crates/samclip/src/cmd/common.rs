//! Arguments that several verbs share, and how errors are printed.

use std::path::PathBuf;

use clap::ValueEnum;

/// The model, where its weights are and how it runs.
#[derive(Debug, clap::Args)]
pub struct ModelArgs {
    /// Model variant (`samclip models` lists them); sam_clip_nano is built in
    #[arg(long, default_value = "sam_clip_nano", value_name = "NAME")]
    pub model: String,
    /// Weight file: safetensors, .pth or .bin, with Meta's, OpenAI's or Hugging Face's names
    #[arg(long, value_name = "FILE")]
    pub weights: Option<PathBuf>,
    /// Number format of the matrix products
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub precision: PrecisionArg,
    /// Worker threads (default: all cores); the result does not depend on it
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// Where to compute; this build offers cpu
    #[arg(long, default_value = "cpu", value_name = "DEVICE")]
    pub device: String,
    /// Keep image embeddings in this folder, so that the next prompt on the same image is fast
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// Refuse images with more pixels than this, before decoding them
    #[arg(long, default_value_t = 100_000_000, value_name = "N")]
    pub max_pixels: u64,
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

/// Prints an error and its causes as one lower-case line, and the advice below it.
pub fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error:#}");
}
