//! `samclip weights pack`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use samclip_predict::ModelSpec;

use super::common::{PrecisionArg, out};

/// Arguments of `samclip weights pack`.
#[derive(Debug, clap::Args)]
#[command(after_help = "The file is half as large again as an f32 checkpoint, and takes its place everywhere: other \
processors and precisions read the weights that are in it as well.")]
pub struct Args {
    /// safetensors, .pth, .bin or TorchScript archive
    file: PathBuf,
    /// Model variant
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Where to write
    #[arg(long, value_name = "OUT.safetensors")]
    to: PathBuf,
    /// Number format of the matrix products that the packed weights are for
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    precision: PrecisionArg,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Writes the packed checkpoint.
pub fn run(args: &Args) -> Result<ExitCode> {
    let mut spec = ModelSpec::new(&args.model);
    (spec.weights, spec.precision) = (Some(args.file.clone()), args.precision.into());
    let done = samclip_predict::pack_weights(&spec, &args.to)?;
    if args.json {
        out(&serde_json::to_string(&done)?);
    } else {
        eprintln!("{} weights packed for {}, {:.1} MB", done.weights, done.layout, done.bytes as f64 / 1e6);
        out(&args.to.display().to_string());
    }
    Ok(ExitCode::SUCCESS)
}
