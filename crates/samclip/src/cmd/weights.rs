//! `samclip weights`: look into, convert and check weight files.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Result;
use clap::{Subcommand, ValueEnum};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, accounting};
use samclip_models::variant::Variant;
use samclip_predict::check;
use samclip_weights::{Conversion, DType, StateDict, convert, detect_layout, infer_variant, non_finite, to_canonical};

use super::common::{PrecisionArg, out};

/// Arguments of `samclip weights`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// List the tensors of a file
    Inspect(Inspect),
    /// Rename, check and write as safetensors
    Convert(Convert),
    /// Run a checkpoint on stored inputs and compare with stored outputs
    Check(Check),
    /// Write a checkpoint that holds its weights as this processor reads them, for a faster start
    Pack(super::weights_pack::Args),
    /// Between two checkpoints: (1 - alpha) A + alpha B (Wise-FT)
    Interpolate(super::weights_merge::Interpolate),
    /// The SAM part of a SAM-CLIP with Meta's names, and a text table of chosen names
    Export(super::weights_merge::Export),
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// safetensors, .pth, .bin or TorchScript archive
    #[arg(required_unless_present = "model")]
    file: Option<PathBuf>,
    /// Instead of a file: the parameters of a CLIP-Guided SAM by part, and how many of them train
    #[arg(long, value_name = "NAME", conflicts_with = "file")]
    model: Option<String>,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Convert {
    /// safetensors, .pth, .bin or TorchScript archive
    file: PathBuf,
    /// Where to write
    #[arg(long, value_name = "OUT.safetensors")]
    to: PathBuf,
    /// Model variant that the file must hold, tensor by tensor
    #[arg(long = "as", value_name = "NAME")]
    variant: String,
    /// Number format of the written file (default: as it is)
    #[arg(long, value_enum)]
    dtype: Option<DTypeArg>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum DTypeArg {
    F32,
    F16,
    Bf16,
}

#[derive(Debug, clap::Args)]
struct Check {
    /// safetensors, .pth, .bin or TorchScript archive
    file: PathBuf,
    /// Model variant
    #[arg(long, value_name = "NAME")]
    model: String,
    /// Stored inputs; coordinates are model-input pixels
    #[arg(long, value_name = "IN.safetensors")]
    inputs: PathBuf,
    /// Stored outputs; only what is in there is compared
    #[arg(long, value_name = "OUT.safetensors")]
    expected: PathBuf,
    /// Largest absolute difference that passes
    #[arg(long, default_value_t = 1e-4, value_name = "TOLERANCE")]
    atol: f32,
    /// Number format of the matrix products
    #[arg(long, value_enum, default_value_t = PrecisionArg::F32)]
    precision: PrecisionArg,
    /// Worker threads (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Print one JSON document on stdout
    #[arg(long)]
    json: bool,
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.action {
        Action::Inspect(args) => inspect(&args),
        Action::Convert(args) => convert_file(&args),
        Action::Check(args) => check_file(&args),
        Action::Pack(args) => super::weights_pack::run(&args),
        Action::Interpolate(args) => super::weights_merge::interpolate(&args),
        Action::Export(args) => super::weights_merge::export(&args),
    }
}

/// The paper's Table 1 for a variant.
fn parameters(model: &str, json: bool) -> Result<ExitCode> {
    let config = ClipGuidedConfig::named(model)?;
    let rows = accounting::table(&config, accounting::text_tower(&config).as_ref());
    if json {
        out(&serde_json::json!({ "model": model, "parts": rows }).to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for row in rows {
        out(&format!("{:<34}{:>13}{:>13} trainable", row.part, row.total, row.trainable));
    }
    Ok(ExitCode::SUCCESS)
}

fn inspect(args: &Inspect) -> Result<ExitCode> {
    if let Some(model) = &args.model {
        return parameters(model, args.json);
    }
    let file = args.file.as_deref().unwrap_or(Path::new(""));
    let (state, format) = StateDict::open_with_format(file)?;
    let layout = detect_layout(&state);
    let bad = non_finite(&state).len();
    let (tensors, parameters) = (state.len(), state.parameter_count());
    let list: Vec<(String, Vec<usize>, &'static str)> =
        state.iter().map(|(name, t)| (name.to_owned(), t.shape().to_vec(), t.dtype().name())).collect();
    let metadata = state.metadata.clone();
    let variant = layout.and_then(|layout| to_canonical(state, layout).ok()).and_then(|state| infer_variant(&state));
    if args.json {
        let item = |(name, shape, dtype): &(String, Vec<usize>, &str)| serde_json::json!({ "name": name, "shape": shape, "dtype": dtype });
        let document = serde_json::json!({
            "file": file, "format": format!("{format:?}"), "layout": layout.map(|l| l.name()), "variant": variant,
            "tensors": list.iter().map(item).collect::<Vec<_>>(), "parameters": parameters,
            "non_finite_tensors": bad, "metadata": metadata,
        });
        out(&document.to_string());
        return Ok(ExitCode::SUCCESS);
    }
    for (name, shape, dtype) in &list {
        out(&format!("{name}\t{dtype}\t{shape:?}"));
    }
    eprintln!(
        "{tensors} tensors, {parameters} values, format {format:?}, names of {}, looks like {}",
        layout.map_or("an unknown library", |layout| layout.name()),
        variant.unwrap_or("no model that samclip knows")
    );
    if bad > 0 {
        eprintln!("note: {bad} tensors hold values that are not finite");
    }
    Ok(ExitCode::SUCCESS)
}

fn convert_file(args: &Convert) -> Result<ExitCode> {
    let variant: Variant = args.variant.parse()?;
    let source = StateDict::open(&args.file)?;
    let expected = samclip_predict::model::expected_tensors(variant, &source)?;
    drop(source);
    let dtype = args.dtype.map(|dtype| match dtype {
        DTypeArg::F32 => DType::F32,
        DTypeArg::F16 => DType::F16,
        DTypeArg::Bf16 => DType::BF16,
    });
    let conversion = Conversion { variant: variant.name(), expected: Some(&expected), dtype };
    let done = convert(&args.file, &args.to, &conversion)
        .map_err(|error| samclip_predict::PredictError::from(error).in_file(&args.file))?;
    for dropped in &done.dropped {
        eprintln!("note: left out {} ({})", dropped.name, dropped.reason);
    }
    eprintln!("{} tensors, {} values, from {:?} with names of {}", done.tensors, done.parameters, done.format, done.layout.name());
    out(&args.to.display().to_string());
    Ok(ExitCode::SUCCESS)
}

fn check_file(args: &Check) -> Result<ExitCode> {
    let variant: Variant = args.model.parse()?;
    if let Some(threads) = args.threads {
        rayon::ThreadPoolBuilder::new().num_threads(threads.into()).build_global()?;
    }
    samclip_predict::Precision::from(args.precision).apply()?;
    let open = |path: &Path| StateDict::open(path);
    let results = check::check(variant, &args.file, &open(&args.inputs)?, &open(&args.expected)?)?;
    let passed = !results.is_empty() && results.iter().all(|r| r.max_difference <= args.atol);
    if args.json {
        let item = |r: &check::Comparison| {
            serde_json::json!({
                "name": r.name, "shape": r.shape, "max_difference": r.max_difference,
                "max_expected": r.max_expected, "relative_l2": r.relative_l2, "mask_iou": r.mask_iou, "ok": r.max_difference <= args.atol,
            })
        };
        let tensors: Vec<_> = results.iter().map(item).collect();
        out(&serde_json::json!({ "model": args.model, "atol": args.atol, "ok": passed, "tensors": tensors }).to_string());
    } else {
        for r in &results {
            let verdict = if r.max_difference <= args.atol { "ok" } else { "differs" };
            let iou = r.mask_iou.map_or_else(String::new, |iou| format!("\tmask IoU {iou:.6}"));
            let figures =
                format!("max |Δ| {:.3e}\tof {:.3e}\trelative {:.3e}{iou}", r.max_difference, r.max_expected, r.relative_l2);
            out(&format!("{}\t{:?}\t{figures}\t{verdict}", r.name, r.shape));
        }
    }
    if results.is_empty() {
        eprintln!("note: nothing to compare: {}", args.expected.display());
    }
    Ok(ExitCode::from(u8::from(!passed)))
}
