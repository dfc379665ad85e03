//! CLIP-Guided SAM: CLIP Surgery guides adapters inside SAM's encoder, and prompts its decoder.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) §3. No public code exists; what the paper leaves open
//! is listed in docs/papers/clip_guided_sam.md. Parity: tests/parity_clip_guided.rs, against a
//! PyTorch implementation written for the test, stage by stage, max |Δ| <= 1e-5.
//!
//! Reader's path: [`ClipGuidedSam::look`] once per image -> [`ClipGuidedSam::guide`] per class ->
//! [`ClipGuidedSam::embed`] -> [`ClipGuidedSam::decode`].

pub mod accounting;
mod adapters;
pub mod artefact;
mod config;
mod encoder;
mod guidance;

use burn::module::Module;
use burn::tensor::Tensor;

pub use adapters::{Adapter, BlockAdapters, Lora, SemanticAdapter};
pub use config::{
    AdapterConfig, AttentionAdapter, ClipGuidedConfig, GuideConfig, Inject, MlpAdapter, PromptRules, TrainableConfig,
    VARIANTS,
};
pub use encoder::GuidedVitDet;
pub use guidance::{ClipGuide, ClipVisual, Guidance, MapPrompts, Patches, SamClipVisual, cell_centre, map_prompts};

use crate::ModelError;
use crate::init::Init;
use crate::sam::{self, MaskDecoder, MaskLogits, MaskOutput, PromptEncoder, PromptInput, VitDet};

/// The model. Tensor names of SAM's part are SAM's; CLIP's are below `clip.`, what the method adds
/// is below `adapters.`.
#[derive(Module, Debug)]
pub struct ClipGuidedSam {
    /// SAM's, frozen.
    pub image_encoder: VitDet,
    /// SAM's.
    pub prompt_encoder: PromptEncoder,
    /// SAM's.
    pub mask_decoder: MaskDecoder,
    /// One entry per block of the encoder.
    pub adapters: Vec<BlockAdapters>,
    /// CLIP's image side.
    pub clip: ClipGuide,
    #[module(skip)]
    config: ClipGuidedConfig,
}

/// What the classes of B images share.
#[derive(Clone, Debug)]
pub struct Look {
    /// [B, h, w, D]: see [`GuidedVitDet::shared`].
    pub shared: Tensor<4>,
    /// CLIP's patches.
    pub patches: Patches,
}

impl ClipGuidedConfig {
    /// The model with initial values from `init`.
    ///
    /// # Errors
    /// See [`ClipGuidedConfig::check`].
    pub fn init(&self, init: &mut Init) -> Result<ClipGuidedSam, ModelError> {
        self.check()?;
        let sam = &self.sam;
        let sizes = [sam.image_encoder.depth, sam.image_encoder.embed_dim, self.clip.embed_dim()];
        Ok(ClipGuidedSam {
            image_encoder: sam.image_encoder.init(init),
            prompt_encoder: PromptEncoder::new(sam.mask_decoder.transformer_dim, init),
            mask_decoder: sam.mask_decoder.init(init),
            adapters: BlockAdapters::stack(&self.adapters, sizes, init),
            clip: ClipGuide::new(&self.clip, init),
            config: self.clone(),
        })
    }
}

impl ClipGuidedSam {
    /// Sizes and switches.
    pub fn config(&self) -> &ClipGuidedConfig {
        &self.config
    }

    /// The encoder with its adapters.
    pub fn encoder(&self) -> GuidedVitDet<'_> {
        GuidedVitDet { vit: &self.image_encoder, adapters: &self.adapters, config: &self.config.adapters }
    }

    /// Side of the decoder's maps for the native input.
    pub fn low_res_side(&self) -> usize {
        self.config.sam.image_encoder.grid() * 4
    }

    /// Both networks on B images: `pixels` [B, 3, H, W] for SAM, `clip_pixels` [B, 3, H', W'] of the
    /// same images for CLIP.
    ///
    /// # Errors
    /// Sides that are not multiples of CLIP's patch size.
    pub fn look(&self, pixels: Tensor<4>, clip_pixels: Tensor<4>) -> Result<Look, ModelError> {
        let patches = self.clip.patches(clip_pixels, &self.config.clip)?;
        Ok(Look { shared: self.encoder().shared(pixels), patches })
    }

    /// Similarity and injected map of P pairs: `image_index[p]` names the image of pair p,
    /// `text` [P, E] its class.
    pub fn guide(&self, patches: &Patches, image_index: &[usize], text: Tensor<2>) -> Guidance {
        guidance::guide(&self.config, patches, image_index, text)
    }

    /// Image embeddings of P pairs: [P, C, h, w].
    pub fn embed(&self, look: &Look, image_index: &[usize], guidance: &Guidance) -> Tensor<4> {
        let shared = guidance::select(look.shared.clone(), image_index); // [P, h, w, D]
        let tokens = self.encoder().guided(shared, Some(guidance));
        self.image_encoder.neck.forward(tokens)
    }

    /// Masks of P pairs: `embeddings` [P, C, h, w], one prompt each.
    pub fn decode(&self, embeddings: Tensor<4>, prompts: &PromptInput, output: MaskOutput) -> MaskLogits {
        let index: Vec<usize> = (0..prompts.count).collect();
        sam::decode((&self.prompt_encoder, &self.mask_decoder), embeddings, &index, prompts, (output, f32::NEG_INFINITY))
    }
}
