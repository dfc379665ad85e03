//! Teachers that are models of ours: CLIP, SAM or SAM-CLIP from a checkpoint, frozen.
//!
//! The file says which model it is: a SAM-CLIP of this crate carries its sizes as metadata,
//! published checkpoints are told apart by their shapes.

use crate::error::TrainError;
use crate::teacher::Output;
use burn::tensor::{Device, Tensor, TensorData};
use samclip_image::Normalization;
use samclip_models::clip::{Clip, ClipConfig, TextConfig, VisionConfig, normalize};
use samclip_models::init::Init;
use samclip_models::sam::{ImageEncoder, MaskDecoder, MaskLogits, MaskOutput, PromptEncoder, PromptInput};
use samclip_models::sam::{Sam, SamConfig, decode, mobile_sam};
use samclip_models::sam_clip::{SamClip, SamClipConfig};
use samclip_models::state;
use samclip_weights::{DType, StateDict, detect_layout, infer_variant, to_canonical};
use std::path::Path;

/// A frozen model.
pub enum Native {
    /// Output `image_embedding` [N, E], unit length; takes CLIP's normalisation.
    Clip(Box<Clip>),
    /// Masks only.
    Sam(Box<Sam>),
    /// Outputs `pooled` [N, E] and `dense` [N, E, h, w], unit length; masks.
    SamClip(Box<SamClip>),
}

/// The parts that answer prompts.
pub struct SamParts<'a> {
    /// Pixels to image embedding.
    pub image_encoder: &'a ImageEncoder,
    prompt_encoder: &'a PromptEncoder,
    mask_decoder: &'a MaskDecoder,
}

impl SamParts<'_> {
    /// See [`decode`].
    pub fn decode(
        &self,
        image_embeddings: Tensor<4>,
        image_index: &[usize],
        prompts: &PromptInput,
        output: MaskOutput,
    ) -> MaskLogits {
        let heads = (self.prompt_encoder, self.mask_decoder);
        decode(heads, image_embeddings, image_index, prompts, (output, f32::NEG_INFINITY))
    }
}

impl Native {
    /// Loads a checkpoint: safetensors or `.pth`, with the names of any library that samclip knows.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let fail = |message: String| TrainError::Teacher { path: path.to_owned(), message };
        let state = StateDict::open(path)?;
        Self::from_state(state).map_err(|error| match error {
            TrainError::Teacher { message, .. } => fail(message),
            other => fail(other.to_string()),
        })
    }

    /// The model that these tensors are.
    pub fn from_state(state: StateDict) -> Result<Self, TrainError> {
        let fail = |message: String| TrainError::Teacher { path: "<memory>".into(), message };
        let device = Device::flex();
        let mut init = Init::zeros(&device);
        let config = state.metadata.get("config").cloned();
        let layout = detect_layout(&state).ok_or_else(|| fail("not a CLIP, SAM or SAM-CLIP".to_owned()))?;
        let state = to_canonical(state, layout)?.cast_float(DType::F32);
        let variant = infer_variant(&state);
        if state.has_prefix("clip_head.") {
            let config = match (config, variant) {
                (Some(json), _) => serde_json::from_str(&json).map_err(|e| fail(format!("metadata `config`: {e}")))?,
                (None, Some("sam_clip_vit_b")) => SamClipConfig::vit_b(),
                (None, _) => SamClipConfig::nano(),
            };
            return Ok(Self::SamClip(Box::new(state::load(config.init(&mut init), &state)?)));
        }
        Ok(match variant {
            Some("mobile_sam") => Self::Sam(Box::new(state::load(mobile_sam(&mut init), &state)?)),
            Some("sam_vit_b") => Self::Sam(Box::new(state::load(SamConfig::vit_b().init(&mut init), &state)?)),
            Some("sam_vit_l") => Self::Sam(Box::new(state::load(SamConfig::vit_l().init(&mut init), &state)?)),
            Some("sam_vit_h") => Self::Sam(Box::new(state::load(SamConfig::vit_h().init(&mut init), &state)?)),
            Some("clip_vit_b16") => Self::Clip(Box::new(state::load(ClipConfig::vit_b16().init(&mut init), &state)?)),
            Some("clip_vit_l14") => Self::Clip(Box::new(state::load(ClipConfig::vit_l14().init(&mut init), &state)?)),
            _ => return Err(fail("a size that samclip does not know".to_owned())),
        })
    }

    /// A small CLIP with seeded values whose embedding has `embed_dim` numbers, for smoke runs.
    pub fn seeded_clip(embed_dim: usize, seed: u64) -> Self {
        let mut config = ClipConfig::vit_b16();
        config.embed_dim = embed_dim;
        config.vision = VisionConfig { image_size: 64, patch_size: 16, width: 16, layers: 1, heads: 2 };
        config.text = TextConfig { context_length: 4, vocab_size: 8, width: 8, layers: 1, heads: 2 };
        Self::Clip(Box::new(config.init(&mut Init::seeded(seed, &Device::flex()))))
    }

    /// The promptable part, if there is one.
    pub fn sam(&self) -> Option<SamParts<'_>> {
        match self {
            Self::Clip(_) => None,
            Self::Sam(m) => Some(SamParts {
                image_encoder: &m.image_encoder,
                prompt_encoder: &m.prompt_encoder,
                mask_decoder: &m.mask_decoder,
            }),
            Self::SamClip(m) => Some(SamParts {
                image_encoder: &m.image_encoder,
                prompt_encoder: &m.prompt_encoder,
                mask_decoder: &m.mask_decoder,
            }),
        }
    }

    /// Unit vectors of captions, `[n, E]`; texts that are too long are cut.
    ///
    /// # Errors
    /// When the model has no text tower; when a caption is empty.
    pub fn encode_captions(&self, captions: &[&str]) -> Result<Vec<f32>, TrainError> {
        let Self::Clip(clip) = self else {
            return Err(TrainError::Invalid("contrastive: the teacher reads no text: expected a CLIP".to_owned()));
        };
        Ok(crate::objectives::values(&normalize(clip.text.encode(captions)?)))
    }

    /// What its input is normalised with.
    pub fn normalization(&self) -> &'static Normalization {
        match self {
            Self::Clip(_) => &Normalization::CLIP,
            _ => &Normalization::SAM,
        }
    }

    /// Runs `pixels` [N, 3, H, W] and returns the named outputs.
    pub fn run(&self, pixels: Vec<f32>, shape: [usize; 4], outputs: &[&str]) -> Result<Vec<Output>, TrainError> {
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, shape.to_vec()), &Device::flex());
        let unknown = |name: &str| {
            let known = match self {
                Self::Clip(_) => "`image_embedding`",
                Self::Sam(_) => "none but masks (sam_distill)",
                Self::SamClip(_) => "`pooled` and `dense`",
            };
            TrainError::Invalid(format!("the teacher has no output `{name}`, it has {known}"))
        };
        match self {
            Self::Clip(clip) => {
                let wrong = outputs.iter().find(|o| **o != "image_embedding");
                if let Some(name) = wrong {
                    return Err(unknown(name));
                }
                let embedding = normalize(clip.encode_image(pixels)?);
                Ok(outputs.iter().map(|_| output(embedding.clone())).collect())
            }
            Self::Sam(_) => Err(unknown(outputs.first().copied().unwrap_or_default())),
            Self::SamClip(model) => {
                let x = model.clip_head.blocks(model.tokens(pixels)); // [N, h, w, D]
                let one = |name: &&str| match *name {
                    "pooled" => Ok(output(model.clip_head.pooled(x.clone()))),
                    "dense" => Ok(output(model.clip_head.dense(x.clone()).permute([0, 3, 1, 2]))),
                    name => Err(unknown(name)),
                };
                outputs.iter().map(one).collect()
            }
        }
    }
}

fn output<const D: usize>(tensor: Tensor<D>) -> Output {
    let shape = tensor.dims().to_vec();
    Output { values: crate::objectives::values(&tensor), shape }
}
