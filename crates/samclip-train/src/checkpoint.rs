//! Checkpoints: one safetensors file with values, moments, position and recipe.
//!
//! Written beside and renamed, so a run that is killed at any moment finds the last
//! complete one. Nothing else is state: prompts and augmentation are drawn from
//! generators seeded by (seed, step).

use crate::error::TrainError;
use crate::parameters::Parameters;
use samclip_data::loader::Position;
use samclip_weights::{StateDict, TensorData, write_safetensors};
use std::path::{Path, PathBuf};

/// Version of the file form.
const FORMAT: &str = "samclip-checkpoint-2";

/// What a checkpoint holds beside the tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Progress {
    /// Steps done.
    pub step: usize,
    /// Where each task's loader stands.
    pub positions: Vec<Position>,
    /// Seconds of training so far, over all its sessions.
    pub seconds: f64,
    /// The recipe's text.
    pub recipe: String,
    /// Version of the code or recipe, as the caller knows it.
    pub revision: String,
}

/// The checkpoint of a run directory.
pub fn path(run: &Path) -> PathBuf {
    run.join("checkpoint.safetensors")
}

/// Writes a checkpoint.
pub fn save(path: &Path, parameters: &Parameters, progress: &Progress) -> Result<(), TrainError> {
    let mut state = StateDict::new();
    for t in parameters.tensors() {
        let mut put = |kind: &str, values: &[f32]| {
            if !values.is_empty() {
                state.insert(format!("{kind}/{}", t.name), TensorData::from_f32(&t.shape, values));
            }
        };
        put("value", &t.value);
        put("mean", &t.mean);
        put("square", &t.square);
        put("ema", &t.ema);
    }
    let updates: Vec<usize> = parameters.tensors().iter().map(|t| t.updates).collect();
    let positions = serde_json::to_string(&progress.positions).unwrap_or_default();
    for (key, value) in [
        ("format", FORMAT.to_owned()),
        ("step", progress.step.to_string()),
        ("seconds", progress.seconds.to_string()),
        ("positions", positions),
        ("recipe", progress.recipe.clone()),
        ("revision", progress.revision.clone()),
        ("updates", serde_json::to_string(&updates).unwrap_or_default()),
    ] {
        state.metadata.insert(key.to_owned(), value);
    }
    write_safetensors(path, &state)
        .map_err(|error| TrainError::Save { step: progress.step, message: error.to_string() })
}

/// What `model.init` reads: of a checkpoint its values, auxiliary ones too, under their own names; another file as it is.
pub fn values(state: StateDict) -> StateDict {
    if state.metadata.get("format").map(String::as_str) != Some(FORMAT) {
        return state;
    }
    let value = |(name, tensor): (String, TensorData)| Some((name.strip_prefix("value/")?.to_owned(), tensor));
    state.into_iter().filter_map(value).collect()
}

/// Reads a checkpoint into `parameters`, which must have exactly its tensors.
pub fn load(path: &Path, parameters: &mut Parameters) -> Result<Progress, TrainError> {
    let mut state = StateDict::open(path)?;
    let fail = |message: String| TrainError::Checkpoint { path: path.to_owned(), message };
    let text = |key: &str| {
        let found = state.metadata.get(key).cloned();
        found.ok_or_else(|| fail(format!("`{key}` is missing")))
    };
    if text("format")? != FORMAT {
        return Err(fail(format!("expected format {FORMAT}, found {}", text("format")?)));
    }
    let number = |key: &str| text(key)?.parse::<f64>().map_err(|e| fail(format!("`{key}`: {e}")));
    let progress = Progress {
        step: number("step")? as usize,
        seconds: number("seconds")?,
        positions: serde_json::from_str(&text("positions")?)
            .map_err(|e| fail(format!("`positions`: {e}")))?,
        recipe: text("recipe")?,
        revision: text("revision")?,
    };
    let updates: Vec<usize> =
        serde_json::from_str(&text("updates")?).map_err(|e| fail(format!("`updates`: {e}")))?;
    if updates.len() != parameters.tensors().len() {
        return Err(fail(format!("expected {} tensors, found {}", parameters.tensors().len(), updates.len())));
    }
    for (t, updates) in parameters.tensors_mut().iter_mut().zip(updates) {
        t.updates = updates;
        let (name, shape) = (t.name.clone(), t.shape.clone());
        let mut take = |kind: &str, into: &mut Vec<f32>| {
            if into.is_empty() {
                return Ok(());
            }
            let name = format!("{kind}/{name}");
            let found = state.remove(&name).ok_or_else(|| fail(format!("tensor {name} is missing")))?;
            if found.shape() != shape {
                return Err(fail(format!("{name}: expected {shape:?}, found {:?}", found.shape())));
            }
            *into = found.to_f32();
            Ok(())
        };
        take("value", &mut t.value)?;
        take("mean", &mut t.mean)?;
        take("square", &mut t.square)?;
        take("ema", &mut t.ema)?;
    }
    match state.names().next() {
        Some(name) => Err(fail(format!("unexpected tensor {name}"))),
        None => Ok(progress),
    }
}
