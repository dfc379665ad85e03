//! Sizes and switches of a CLIP-Guided SAM, and which tensors its training may change.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) §3, Tables 6-9. No public code exists; what the paper
//! leaves open and what we take is listed in docs/papers/clip_guided_sam.md.

use serde::{Deserialize, Serialize};

use crate::ModelError;
use crate::clip::{ClipConfig, VisionConfig};
use crate::layers::Activation;
use crate::sam::{SamConfig, VitDetConfig};
use crate::sam_clip::{ClipHeadConfig, SamClipConfig};

/// Everything that decides the model's tensors and its answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipGuidedConfig {
    /// The segmenter whose encoder is guided.
    pub sam: SamConfig,
    /// The image side of CLIP.
    pub clip: GuideConfig,
    /// What is inserted into the encoder's blocks.
    pub adapters: AdapterConfig,
    /// How the similarity map becomes prompts.
    pub prompts: PromptRules,
    /// What training changes.
    pub train: TrainableConfig,
}

/// The image side of CLIP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum GuideConfig {
    /// CLIP's image tower.
    Tower {
        /// Sizes of the tower.
        vision: VisionConfig,
        /// Width E of the shared space.
        embed_dim: usize,
        /// Activation of the checkpoint.
        act: Activation,
        /// Side of the square input in pixels.
        side: usize,
        /// CLIP Surgery's second path; without it the patches are those of plain CLIP.
        surgery: bool,
    },
    /// Backbone and CLIP head of a SAM-CLIP: its dense features take the place of CLIP Surgery's.
    SamClip {
        /// The backbone.
        image_encoder: VitDetConfig,
        /// The head.
        clip_head: ClipHeadConfig,
    },
}

impl GuideConfig {
    /// OpenAI's CLIP ViT-B/16 at 512 px.
    pub fn clip_b16() -> Self {
        Self::tower(ClipConfig::vit_b16_quickgelu(), 512)
    }

    /// OpenAI's CLIP ViT-L/14 at 448 px.
    pub fn clip_l14() -> Self {
        Self::tower(ClipConfig::vit_l14_quickgelu(), 448)
    }

    /// The small tower of the nano-scale tables: 256 px, text space of CLIP ViT-B/32.
    pub fn clip_nano() -> Self {
        let vision = VisionConfig { image_size: 256, patch_size: 16, width: 192, layers: 8, heads: 3 };
        Self::Tower { vision, embed_dim: 512, act: Activation::Gelu, side: 256, surgery: true }
    }

    /// Backbone and head of a SAM-CLIP.
    pub fn sam_clip(config: SamClipConfig) -> Self {
        Self::SamClip { image_encoder: config.sam.image_encoder, clip_head: config.clip_head }
    }

    fn tower(clip: ClipConfig, side: usize) -> Self {
        Self::Tower { vision: clip.vision, embed_dim: clip.embed_dim, act: clip.act, side, surgery: true }
    }

    /// Width E of the text space.
    pub fn embed_dim(&self) -> usize {
        match self {
            Self::Tower { embed_dim, .. } => *embed_dim,
            Self::SamClip { clip_head, .. } => clip_head.embed_dim,
        }
    }

    /// Side of the square input in pixels.
    pub fn side(&self) -> usize {
        match self {
            Self::Tower { side, .. } => *side,
            Self::SamClip { image_encoder, .. } => image_encoder.img_size,
        }
    }

    /// Blocks with attention, the SAM-CLIP head's included.
    pub fn depth(&self) -> usize {
        match self {
            Self::Tower { vision, .. } => vision.layers,
            Self::SamClip { image_encoder, clip_head } => image_encoder.depth + clip_head.depth,
        }
    }

    /// Prefix of the attention tensors of block `index`.
    fn attention(&self, index: usize) -> String {
        match self {
            Self::Tower { .. } => format!("clip.visual.transformer.resblocks.{index}.attn."),
            Self::SamClip { image_encoder, .. } if index < image_encoder.depth => {
                format!("clip.visual.image_encoder.blocks.{index}.attn.")
            }
            Self::SamClip { image_encoder, .. } => {
                format!("clip.visual.clip_head.blocks.{}.attn.", index - image_encoder.depth)
            }
        }
    }
}

/// The adapter beside or behind the attention of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttentionAdapter {
    /// None.
    None,
    /// y = attn(z) + s A(z), z the normalised input: the paper's "parallel to attention".
    Parallel,
    /// y = attn(z), then y + s (y + A(y)): what SU-SAM's file for the parallel form does.
    SusamParallel,
    /// y = attn(z), then y + A(y): SU-SAM's series form, Med-SA's space adapter.
    Series,
}

/// The adapter beside or behind the MLP of a block; only the parallel one can be semantic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MlpAdapter {
    /// None.
    None,
    /// x + MLP(z) + s A(z').
    Parallel,
    /// x + s A(MLP(z)): SU-SAM's series form.
    Series,
}

/// What enters the semantic adapters (the paper's Table 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inject {
    /// The class's text vector.
    pub text: bool,
    /// CLIP's patches.
    pub vision: bool,
    /// Their similarity with the text.
    pub similarity: bool,
}

impl Inject {
    /// All three: the paper's model.
    pub const ALL: Self = Self { text: true, vision: true, similarity: true };
    /// Plain adapters.
    pub const NONE: Self = Self { text: false, vision: false, similarity: false };

    /// Whether a map of the image is injected.
    pub fn map(self) -> bool {
        self.vision || self.similarity
    }

    /// Whether anything is injected.
    pub fn any(self) -> bool {
        self.map() || self.text
    }
}

/// What is inserted into the encoder's blocks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdapterConfig {
    /// K_s: the last so many blocks carry adapters.
    pub blocks: usize,
    /// Hidden width of an adapter (0.25 D in SU-SAM's code, and by Table 1).
    pub bottleneck: usize,
    /// At the attention.
    pub attention: AttentionAdapter,
    /// At the MLP.
    pub mlp: MlpAdapter,
    /// Rank of a low-rank update of queries and values; 0 is none.
    pub lora_rank: usize,
    /// What enters the adapter at the MLP.
    pub inject: Inject,
    /// Factor on a parallel adapter's output (SU-SAM: 0.5).
    pub scale: f64,
    /// Whether the patches are unit vectors before the similarity is added.
    pub p_norm: bool,
    /// Whether the projected text passes a GELU.
    pub text_act: bool,
    /// Adapters start at zero output; otherwise at torch's default.
    pub zero_init: bool,
}

impl AdapterConfig {
    /// The paper's, for an encoder of `blocks` adapted blocks of width `dim`.
    pub fn paper(blocks: usize, dim: usize) -> Self {
        Self {
            blocks,
            bottleneck: dim / 4,
            attention: AttentionAdapter::Parallel,
            mlp: MlpAdapter::Parallel,
            lora_rank: 0,
            inject: Inject::ALL,
            scale: 0.5,
            p_norm: true,
            text_act: true,
            zero_init: true,
        }
    }
}

/// How the similarity map becomes prompts (spec 6.1 eq. 2, 6.5).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromptRules {
    /// Whether the thresholded map is given as mask prompt.
    pub dense: bool,
    /// The mask prompt's values outside and inside.
    pub mask_values: [f32; 2],
    /// Threshold of the mask prompt on the min-max map.
    pub tau_mask: f32,
    /// Threshold of the points on the min-max map.
    pub tau_point: f32,
    /// Points drawn from the map; 0 is none.
    pub points: usize,
}

impl PromptRules {
    /// What the paper states or leaves open, as docs/papers/clip_guided_sam.md lists it.
    pub const PAPER: Self = Self { dense: true, mask_values: [0.0, 1.0], tau_mask: 0.5, tau_point: 0.5, points: 3 };
}

/// What training changes; adapters always.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainableConfig {
    /// K_c: the attention of CLIP's last so many blocks; 0 freezes CLIP.
    pub clip_blocks: usize,
    /// SAM's prompt encoder.
    pub prompt_encoder: bool,
    /// SAM's mask decoder.
    pub mask_decoder: bool,
}

impl ClipGuidedConfig {
    /// The paper's model: SAM ViT-B, CLIP ViT-B/16.
    pub fn vit_b() -> Self {
        Self::paper(SamConfig::vit_b(), GuideConfig::clip_b16(), 12)
    }

    /// SAM ViT-B with CLIP ViT-L/14 (Table 4's variant).
    pub fn vit_b_clip_l() -> Self {
        Self::paper(SamConfig::vit_b(), GuideConfig::clip_l14(), 12)
    }

    /// SAM ViT-H with CLIP ViT-B/16, adapters in the last six blocks (Table 4's variant).
    pub fn vit_h() -> Self {
        Self::paper(SamConfig::vit_h(), GuideConfig::clip_b16(), 6)
    }

    /// The built-in model in both parts: its encoder is guided by a second copy of itself.
    pub fn nano() -> Self {
        let model = SamClipConfig::nano();
        let blocks = model.sam.image_encoder.depth;
        Self::paper(model.sam.clone(), GuideConfig::sam_clip(model), blocks)
    }

    /// The built-in model's encoder, guided by the small CLIP tower.
    pub fn nano_tower() -> Self {
        let sam = SamClipConfig::nano().sam;
        let blocks = sam.image_encoder.depth;
        Self::paper(sam, GuideConfig::clip_nano(), blocks)
    }

    fn paper(sam: SamConfig, clip: GuideConfig, blocks: usize) -> Self {
        Self {
            adapters: AdapterConfig::paper(blocks, sam.image_encoder.embed_dim),
            prompts: PromptRules::PAPER,
            train: TrainableConfig { clip_blocks: clip.depth(), prompt_encoder: true, mask_decoder: true },
            sam,
            clip,
        }
    }

    /// The configuration of a name that users type.
    ///
    /// # Errors
    /// An unknown name.
    pub fn named(name: &str) -> Result<Self, ModelError> {
        let known = VARIANTS.iter().find(|(n, _)| *n == name);
        known.map(|(_, config)| config()).ok_or_else(|| ModelError::UnknownVariant {
            name: name.to_owned(),
            known: VARIANTS.map(|(n, _)| n).join(", "),
        })
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// More adapted or trained blocks than there are, an injection without an adapter that takes
    /// it, a threshold outside 0..1, a map that no patch grid gives.
    pub fn check(&self) -> Result<(), ModelError> {
        let fail = |message: String| Err(ModelError::Input(message));
        let (depth, a) = (self.sam.image_encoder.depth, &self.adapters);
        if a.blocks > depth {
            return fail(format!("adapters.blocks is {}, the encoder has {depth} blocks", a.blocks));
        }
        if self.train.clip_blocks > self.clip.depth() {
            let (found, depth) = (self.train.clip_blocks, self.clip.depth());
            return fail(format!("train.clip_blocks is {found}, CLIP has {depth} blocks"));
        }
        if a.inject.any() && a.blocks > 0 && a.mlp != MlpAdapter::Parallel {
            return fail("adapters.inject needs adapters.mlp = \"parallel\"".to_owned());
        }
        if a.blocks > 0 && a.bottleneck == 0 {
            return fail("adapters.bottleneck must be at least 1".to_owned());
        }
        let tau = [self.prompts.tau_mask, self.prompts.tau_point];
        if tau.iter().any(|t| !(0.0..=1.0).contains(t)) {
            return fail(format!("prompts.tau_mask and tau_point must lie in 0..1, found {tau:?}"));
        }
        if let GuideConfig::Tower { vision, side, .. } = &self.clip
            && (vision.patch_size == 0 || side % vision.patch_size != 0)
        {
            return fail(format!("clip.side {side} is not a multiple of the patch size {}", vision.patch_size));
        }
        Ok(())
    }

    /// Whether training may change the tensor of this name (spec 6.3). SAM's random Fourier matrix
    /// is a buffer.
    pub fn is_trainable(&self, name: &str) -> bool {
        if name.starts_with("adapters.") {
            return true;
        }
        let decoder = self.train.mask_decoder && name.starts_with("mask_decoder.");
        let prompts = self.train.prompt_encoder && name.starts_with("prompt_encoder.");
        if prompts || decoder {
            return !name.ends_with("positional_encoding_gaussian_matrix");
        }
        let depth = self.clip.depth();
        (depth - self.train.clip_blocks..depth).any(|i| {
            let parts = name.strip_prefix(&self.clip.attention(i));
            parts.is_some_and(|part| !part.starts_with("rel_pos"))
        })
    }
}

/// Names that users type, with their configurations.
pub const VARIANTS: [(&str, fn() -> ClipGuidedConfig); 5] = [
    ("clip_guided_sam_b", ClipGuidedConfig::vit_b),
    ("clip_guided_sam_b_clip_l", ClipGuidedConfig::vit_b_clip_l),
    ("clip_guided_sam_h", ClipGuidedConfig::vit_h),
    ("clip_guided_sam_nano", ClipGuidedConfig::nano),
    ("clip_guided_sam_nano_tower", ClipGuidedConfig::nano_tower),
];
