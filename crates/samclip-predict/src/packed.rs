//! Weights that are packed in their file: read with it, and written by `samclip weights pack`.
//!
//! A packed file (`samclip_weights::Packed`) is a checkpoint that holds, beside its weights, the words that the block
//! kernels read (`samclip_kernels::PackedLinear`) on one processor tier at one precision. On another tier they are left
//! where they are. The weights stay in the file because adapters, training and other tiers need them; as the file is
//! mapped, they cost nothing until somebody reads them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use samclip_models::ops::{Packable, PackedBytes, packed_layout};
use samclip_models::state::load_known;
use samclip_models::variant::Variant;
use samclip_weights::{Packed, StateDict, TensorData, write_safetensors};

use crate::error::PredictError;
use crate::files::open_weights;
use crate::model::{Kind, Model, ModelSpec};

/// Packed words by the names of their weights; empty where there are none for the tier in use.
#[derive(Debug, Default)]
pub(crate) struct PackedWords(BTreeMap<String, TensorData>);

impl PackedWords {
    /// Those that this processor can read.
    pub(crate) fn of_file(packed: Option<Packed>) -> Self {
        let (Some(packed), wanted) = (packed, packed_layout()) else { return Self::default() };
        if packed.layout == wanted {
            return Self(packed.words);
        }
        tracing::warn!("the file is packed for {}, this processor and precision read {wanted}: packing again", packed.layout);
        Self::default()
    }

    fn of(&self, names: &[String; 4]) -> Option<[PackedBytes; 4]> {
        let words = |name: &String| self.0.get(name).map(|t| Arc::new(t.shared_bytes()) as PackedBytes);
        let words: Option<Vec<_>> = names.iter().map(words).collect();
        words.and_then(|words| words.try_into().ok())
    }

    /// A module with the values of a checkpoint that it fits exactly; those of `blocks` that are packed in the file are
    /// ready, and their values, which were checked when it was written, are not read.
    ///
    /// # Errors
    /// See [`samclip_models::state::load`]; packed words of another length than their weight.
    pub(crate) fn load<M: Module>(
        &self, module: M, state: &StateDict, blocks: impl Fn(&M) -> Vec<Packable>,
    ) -> Result<M, PredictError> {
        let module = load_known(module, state, |name| self.0.contains_key(name))?;
        for block in blocks(&module) {
            if let Some(words) = self.of(&block.names) {
                block.pack(Some(words))?;
            }
        }
        Ok(module)
    }
}

/// What [`pack_weights`] wrote.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct PackedFile {
    /// Order of the words: processor tier and precision.
    pub layout: String,
    /// Weights that were packed.
    pub weights: usize,
    /// Their bytes.
    pub bytes: usize,
}

/// Writes the checkpoint of `spec` with its block weights packed for this processor and precision.
///
/// # Errors
/// See [`Model::load`]; a model without blocks that can be packed, a file that cannot be written.
pub fn pack_weights(spec: &ModelSpec, to: &Path) -> Result<PackedFile, PredictError> {
    let model = Model::load(spec)?;
    let variant: Variant = spec.variant.parse()?;
    let (state, _) = open_weights(variant, spec.weights.as_deref())?;
    model.packable().into_iter().filter(|block| block.words().is_none()).try_for_each(|block| block.pack(None))?;
    let mut packed = Packed { layout: packed_layout(), ..Packed::default() };
    for block in model.packable() {
        for (name, words) in block.names.iter().zip(block.words().into_iter().flatten()) {
            packed.insert(name, words).map_err(PredictError::Check)?;
        }
    }
    let (weights, bytes) = (packed.words.len(), packed.words.values().map(|words| words.bytes().len()).sum());
    if weights == 0 {
        return Err(PredictError::Check(format!("{} has no blocks that are packed", variant.name())));
    }
    let layout = packed.layout.clone();
    write_safetensors(to, &state.with_packed(packed))?;
    Ok(PackedFile { layout, weights, bytes })
}

impl Model {
    /// What can be packed of the model.
    pub(crate) fn packable(&self) -> Vec<Packable> {
        match &self.kind {
            Kind::Sam(model) => model.sam.packable(),
            Kind::SamClip(model) => model.model.packable(),
            Kind::Clip(model) => model.clip.packable(),
            Kind::Guided(_) => vec![],
        }
    }
}
