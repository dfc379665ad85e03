//! `samclip weights interpolate` and `samclip weights export`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use samclip_models::variant::Variant;
use samclip_predict::ModelSpec;
use samclip_predict::model::read_table;
use samclip_weights::{DType, StateDict, TensorData, infer_variant, require_layout, to_canonical, write_safetensors};

use super::common::out;

/// Arguments of `samclip weights interpolate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Writes OUT/alpha_0.30.safetensors and so on: at 0 the tensors of A, at 1 those of B.")]
pub struct Interpolate {
    /// The model before fine-tuning
    a: PathBuf,
    /// The model after it; tensors that only it has are taken as they are
    b: PathBuf,
    /// Where between them, from 0 to 1; several separated by commas
    #[arg(long, value_name = "ALPHA", value_delimiter = ',', required = true)]
    alpha: Vec<f32>,
    /// Tensors that are taken from B as they are, by prefix; several times for several
    #[arg(long, value_name = "PREFIX", default_value = "clip_head.")]
    keep: Vec<String>,
    /// Folder for the results
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// A file with the reference's names.
fn open(path: &Path) -> Result<StateDict> {
    let state = StateDict::open(path)?;
    let layout = require_layout(&state).with_context(|| path.display().to_string())?;
    let metadata = state.metadata.clone();
    let mut state = to_canonical(state, layout)?;
    state.metadata = metadata;
    Ok(state)
}

/// Writes a file for each alpha.
pub fn interpolate(args: &Interpolate) -> Result<ExitCode> {
    for alpha in &args.alpha {
        ensure!((0.0..=1.0).contains(alpha), "--alpha {alpha}: expected a number from 0 to 1");
    }
    let (a, b) = (open(&args.a)?, open(&args.b)?);
    std::fs::create_dir_all(&args.out).with_context(|| args.out.display().to_string())?;
    for alpha in &args.alpha {
        let state = samclip_weights::interpolate(&a, &b, *alpha, &args.keep)
            .with_context(|| format!("{} and {}", args.a.display(), args.b.display()))?;
        let path = args.out.join(format!("alpha_{alpha:.2}.safetensors"));
        write_safetensors(&path, &state)?;
        out(&path.display().to_string());
    }
    Ok(ExitCode::SUCCESS)
}

/// Arguments of `samclip weights export`.
#[derive(Debug, clap::Args)]
pub struct Export {
    /// A SAM-CLIP (or SAM) checkpoint; the built-in sam_clip_nano where there is none
    file: Option<PathBuf>,
    /// Write SAM's tensors with Meta's names in f32, as segment_anything loads them
    #[arg(long, value_name = "OUT.safetensors")]
    sam: Option<PathBuf>,
    /// Write a text table of the names given by --name
    #[arg(long, value_name = "OUT.safetensors", requires = "name")]
    text_table: Option<PathBuf>,
    /// A name for the table; several times for several
    #[arg(long, value_name = "NAME", requires = "text_table")]
    name: Vec<String>,
    /// The table that the vectors come from (default: the built-in one)
    #[arg(long, value_name = "FILE", requires = "text_table")]
    from: Option<PathBuf>,
}

/// Writes what is asked for.
pub fn export(args: &Export) -> Result<ExitCode> {
    ensure!(args.sam.is_some() || args.text_table.is_some(), "nothing to write: give --sam or --text-table");
    if let Some(path) = &args.sam {
        let state = match &args.file {
            Some(file) => open(file)?,
            None => samclip_predict::model::read_weights(Variant::SamClipNano, None)?,
        };
        let mut sam = samclip_weights::sam_part(&state)
            .with_context(|| args.file.as_ref().map_or_else(String::new, |f| f.display().to_string()))?;
        let variant = infer_variant(&sam);
        sam.metadata.insert("variant".into(), variant.unwrap_or("sam").into());
        write_safetensors(path, &sam)?;
        eprintln!(
            "{} tensors, {} values{}",
            sam.len(),
            sam.parameter_count(),
            variant.map_or("; not one of Meta's sizes".to_owned(), |v| format!(", loads as {v}"))
        );
        out(&path.display().to_string());
    }
    if let Some(path) = &args.text_table {
        write_table(args, path)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_table(args: &Export, path: &Path) -> Result<()> {
    let mut spec = ModelSpec::new(Variant::SamClipNano.name());
    spec.text_table.clone_from(&args.from);
    let table = read_table(Variant::SamClipNano, &spec)?.context("no text table")?;
    let mut values = Vec::new();
    for name in &args.name {
        values.extend_from_slice(table.vector(name)?);
    }
    let mut state = StateDict::new();
    let shape = [args.name.len(), table.dim()];
    state.insert("embeddings", TensorData::from_f32_as(DType::F16, &shape, &values));
    state.metadata.insert("names".into(), serde_json::to_string(&args.name)?);
    write_safetensors(path, &state)?;
    out(&path.display().to_string());
    Ok(())
}
