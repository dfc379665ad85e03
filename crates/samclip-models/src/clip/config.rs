//! Sizes of the CLIP models and the tensors that a checkpoint of each must hold.

use super::transformer::MLP_RATIO;
use super::{Clip, ImageTower, TextTower, tokenizer};
use crate::init::Init;
use crate::layers::Activation;

/// Sizes of an [`ImageTower`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisionConfig {
    /// Image side that the position table belongs to, in pixels.
    pub image_size: usize,
    /// Pixels per token side.
    pub patch_size: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

impl VisionConfig {
    /// Side of the native token grid.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

/// Sizes of a [`TextTower`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextConfig {
    /// Longest text in tokens.
    pub context_length: usize,
    /// Number of tokens that exist.
    pub vocab_size: usize,
    /// Width of the tokens.
    pub width: usize,
    /// Number of blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
}

/// Sizes of a [`Clip`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipConfig {
    /// Width E of the shared space.
    pub embed_dim: usize,
    /// Image side.
    pub vision: VisionConfig,
    /// Text side.
    pub text: TextConfig,
    /// Activation of both towers: a property of the checkpoint, not of the architecture.
    pub act: Activation,
}

impl ClipConfig {
    fn vit([width, layers, heads, patch_size]: [usize; 4], text_width: usize, act: Activation) -> Self {
        let vision = VisionConfig { image_size: 224, patch_size, width, layers, heads };
        let text = TextConfig {
            context_length: tokenizer::CONTEXT_LENGTH,
            vocab_size: tokenizer::VOCAB_SIZE,
            width: text_width,
            layers: 12,
            heads: text_width / 64,
        };
        Self { embed_dim: text_width, vision, text, act }
    }

    /// ViT-B/16 with exact GELU: the LAION and DataComp checkpoints.
    pub fn vit_b16() -> Self {
        Self::vit([768, 12, 12, 16], 512, Activation::Gelu)
    }

    /// ViT-L/14 with exact GELU: the LAION and DataComp checkpoints.
    pub fn vit_l14() -> Self {
        Self::vit([1024, 24, 16, 14], 768, Activation::Gelu)
    }

    /// ViT-B/16 with QuickGELU: OpenAI's checkpoint.
    pub fn vit_b16_quickgelu() -> Self {
        Self { act: Activation::QuickGelu, ..Self::vit_b16() }
    }

    /// ViT-L/14 with QuickGELU: OpenAI's checkpoint.
    pub fn vit_l14_quickgelu() -> Self {
        Self { act: Activation::QuickGelu, ..Self::vit_l14() }
    }

    /// The model with initial values from `init`.
    pub fn init(&self, init: &mut Init) -> Clip {
        Clip {
            visual: ImageTower::new(&self.vision, self.embed_dim, self.act, init),
            text: TextTower::new(&self.text, self.embed_dim, self.act, init),
            logit_scale: init.constant([1], (1.0f32 / 0.07).ln()),
        }
    }

    /// Name and shape of every tensor in a checkpoint, without building the model. `logit_scale` is
    /// `[1]`, as in the module; published files store a scalar.
    pub fn expected_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let VisionConfig { patch_size: p, width: d, layers, .. } = self.vision;
        let mut list: Vec<(String, Vec<usize>)> = Vec::new();
        let mut add = |name: &str, shape: &[usize]| list.push((name.to_owned(), shape.to_vec()));
        add("visual.conv1.weight", &[d, 3, p, p]);
        add("visual.class_embedding", &[d]);
        add("visual.positional_embedding", &[1 + self.vision.grid() * self.vision.grid(), d]);
        add_norm("visual.ln_pre", d, &mut add);
        add_blocks("visual.transformer", d, layers, &mut add);
        add_norm("visual.ln_post", d, &mut add);
        add("visual.proj", &[d, self.embed_dim]);
        let TextConfig { context_length, vocab_size, width, layers, .. } = self.text;
        add("token_embedding.weight", &[vocab_size, width]);
        add("positional_embedding", &[context_length, width]);
        add_blocks("transformer", width, layers, &mut add);
        add_norm("ln_final", width, &mut add);
        add("text_projection", &[width, self.embed_dim]);
        add("logit_scale", &[1]);
        list
    }
}

fn add_norm(name: &str, width: usize, add: &mut dyn FnMut(&str, &[usize])) {
    add(&format!("{name}.weight"), &[width]);
    add(&format!("{name}.bias"), &[width]);
}

fn add_linear(name: &str, inp: usize, out: usize, add: &mut dyn FnMut(&str, &[usize])) {
    add(&format!("{name}.weight"), &[out, inp]);
    add(&format!("{name}.bias"), &[out]);
}

fn add_blocks(prefix: &str, width: usize, layers: usize, add: &mut dyn FnMut(&str, &[usize])) {
    for i in 0..layers {
        let block = format!("{prefix}.resblocks.{i}");
        add_norm(&format!("{block}.ln_1"), width, add);
        add(&format!("{block}.attn.in_proj_weight"), &[3 * width, width]);
        add(&format!("{block}.attn.in_proj_bias"), &[3 * width]);
        add_linear(&format!("{block}.attn.out_proj"), width, width, add);
        add_norm(&format!("{block}.ln_2"), width, add);
        add_linear(&format!("{block}.mlp.c_fc"), width, MLP_RATIO * width, add);
        add_linear(&format!("{block}.mlp.c_proj"), MLP_RATIO * width, width, add);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::named_shapes;
    use burn::tensor::Device;

    fn count(config: &ClipConfig, keep: impl Fn(&str) -> bool) -> usize {
        let tensors = config.expected_tensors();
        tensors.iter().filter(|(name, _)| keep(name)).map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }

    #[test]
    fn parameter_counts_are_the_published_ones() {
        let visual = |name: &str| name.starts_with("visual.");
        for (config, image, total) in [
            (ClipConfig::vit_b16(), 86_192_640, 149_620_737),
            (ClipConfig::vit_l14(), 303_966_208, 427_616_513),
        ] {
            assert_eq!(count(&config, visual), image);
            assert_eq!(count(&config, |_| true), total);
        }
        let text = |name: &str| !visual(name) && name != "logit_scale";
        assert_eq!(count(&ClipConfig::vit_b16_quickgelu(), text), 63_428_096);
        assert_eq!(count(&ClipConfig::vit_l14_quickgelu(), text), 123_650_304);
    }

    #[test]
    fn a_built_model_has_the_expected_tensors() {
        let vision = VisionConfig { image_size: 32, patch_size: 8, width: 8, layers: 2, heads: 2 };
        let text = TextConfig { context_length: 5, vocab_size: 11, width: 4, layers: 3, heads: 2 };
        let config = ClipConfig { embed_dim: 6, vision, text, act: Activation::Gelu };
        let model = config.init(&mut Init::seeded(0, &Device::default()));
        assert_eq!(named_shapes(&model), config.expected_tensors());
    }
}
