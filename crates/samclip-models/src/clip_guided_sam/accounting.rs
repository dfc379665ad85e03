//! The paper's Table 1: how many parameters each part has and how many of them training changes.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) Table 1. Counted from the configuration, so that the
//! largest models need not be built; buffers (SAM's Fourier matrix) are not parameters.

use super::config::{AttentionAdapter, ClipGuidedConfig, GuideConfig, MlpAdapter};
use crate::clip::{ClipConfig, VisionConfig};
use crate::init::Init;
use crate::sam::{PromptEncoder, Stem, VitDetConfig};
use crate::state;

/// A row of the table.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Row {
    /// The part.
    pub part: &'static str,
    /// Parameters.
    pub total: usize,
    /// Those that training changes.
    pub trainable: usize,
}

/// Table 1 for a configuration. `text` counts CLIP's text tower and `logit_scale`, which a deployment
/// with cached class vectors does not need.
pub fn table(config: &ClipGuidedConfig, text: Option<&ClipConfig>) -> Vec<Row> {
    let sam = &config.sam;
    let row = |part, total, trainable| Row { part, total, trainable };
    let adapters = adapter_count(config);
    let encoder = vit_det_count(&sam.image_encoder);
    let decoder = decoder_count(config);
    let prompts = prompt_encoder_count(sam.mask_decoder.transformer_dim);
    let of = |on: bool, count: usize| if on { count } else { 0 };
    let train = &config.train;
    let tuned = of(train.mask_decoder, decoder) + of(train.prompt_encoder, prompts) + adapters;
    let overall = encoder + adapters + decoder + prompts;
    let (vision, attention) = (guide_count(&config.clip), attention_count(config));
    let mut rows = vec![
        row("SAM image encoder with adapters", encoder + adapters, adapters),
        row("SAM mask decoder", decoder, of(train.mask_decoder, decoder)),
        row("SAM prompt encoder", prompts, of(train.prompt_encoder, prompts)),
        row("SAM overall", overall, tuned),
        row("CLIP vision", vision, attention),
    ];
    let mut system = overall + vision;
    if let Some(text) = text {
        let tower = text_count(text);
        rows.push(row("CLIP text", tower, 0));
        rows.push(row("CLIP overall", vision + tower + 1, attention));
        system += tower + 1;
    }
    rows.push(row("full system", system, tuned + attention));
    rows.push(row("deployment, class vectors cached", overall + vision, tuned + attention));
    rows
}

fn linear(inp: usize, out: usize) -> usize {
    inp * out + out
}

/// What [`super::BlockAdapters::stack`] creates.
fn adapter_count(config: &ClipGuidedConfig) -> usize {
    let (a, dim) = (&config.adapters, config.sam.image_encoder.embed_dim);
    let bottleneck = linear(dim, a.bottleneck) + linear(a.bottleneck, dim);
    let projection = linear(config.clip.embed_dim(), dim);
    let mut block = 4 * a.lora_rank * dim;
    if a.attention != AttentionAdapter::None {
        block += bottleneck;
    }
    if a.mlp != MlpAdapter::None {
        block += bottleneck + projection * (usize::from(a.inject.map()) + usize::from(a.inject.text));
    }
    block * a.blocks
}

/// Attention and MLP of a block of width `dim` with its two norms, without position tables.
fn block_count(dim: usize, hidden: usize) -> usize {
    4 * dim + linear(dim, 3 * dim) + linear(dim, dim) + linear(dim, hidden) + linear(hidden, dim)
}

fn vit_det_count(c: &VitDetConfig) -> usize {
    let (dim, out, grid) = (c.embed_dim, c.out_chans, c.grid());
    let rel = |i: usize| {
        let side = if c.global_attn_indexes.contains(&i) { grid } else { c.window_size };
        2 * (2 * side - 1) * (dim / c.num_heads)
    };
    let blocks: usize = (0..c.depth).map(|i| block_count(dim, dim * c.mlp_ratio) + rel(i)).sum();
    let neck = dim * out + 2 * out + 9 * out * out + 2 * out;
    stem_count(&c.stem, dim) + grid * grid * dim + blocks + neck
}

fn stem_count(stem: &Stem, dim: usize) -> usize {
    match stem {
        Stem::Patch => linear(3 * 16 * 16, dim),
        other => {
            let mut init = Init::zeros(&Default::default());
            state::parameter_count(&crate::sam::PatchEmbed::new(other, dim, &mut init))
        }
    }
}

fn decoder_count(config: &ClipGuidedConfig) -> usize {
    let mut init = Init::zeros(&Default::default());
    state::parameter_count(&config.sam.mask_decoder.init(&mut init))
}

fn prompt_encoder_count(dim: usize) -> usize {
    let mut init = Init::zeros(&Default::default());
    state::parameter_count(&PromptEncoder::new(dim, &mut init)) - dim
}

fn guide_count(clip: &GuideConfig) -> usize {
    match clip {
        GuideConfig::Tower { vision, embed_dim, side, .. } => tower_count(vision, *embed_dim, *side),
        GuideConfig::SamClip { image_encoder, clip_head } => {
            let (dim, heads, grid) = (image_encoder.embed_dim, image_encoder.num_heads, image_encoder.grid());
            let rel = 2 * (2 * grid - 1) * (dim / heads);
            let layers = clip_head.depth * (block_count(dim, dim * image_encoder.mlp_ratio) + rel);
            let m = clip_head.mlp_dim;
            let mlp = linear(dim, m) + linear(m, m) + linear(m, clip_head.embed_dim);
            vit_det_count(image_encoder) + layers + 2 * dim + mlp
        }
    }
}

/// The position table counts at the size in use, as in the paper.
fn tower_count(v: &VisionConfig, embed_dim: usize, side: usize) -> usize {
    let (d, grid) = (v.width, side / v.patch_size);
    let patches = 3 * v.patch_size * v.patch_size * d;
    patches + d + (1 + grid * grid) * d + 4 * d + v.layers * block_count(d, 4 * d) + d * embed_dim
}

/// qkv and output projection of the blocks that train.
fn attention_count(config: &ClipGuidedConfig) -> usize {
    let d = match &config.clip {
        GuideConfig::Tower { vision, .. } => vision.width,
        GuideConfig::SamClip { image_encoder, .. } => image_encoder.embed_dim,
    };
    config.train.clip_blocks * (linear(d, 3 * d) + linear(d, d))
}

fn text_count(clip: &ClipConfig) -> usize {
    let tensors = clip.expected_tensors();
    let text = tensors.iter().filter(|(name, _)| !name.starts_with("visual.") && name != "logit_scale");
    text.map(|(_, shape)| shape.iter().product::<usize>()).sum()
}

/// The text tower that belongs to a variant of the paper.
pub fn text_tower(config: &ClipGuidedConfig) -> Option<ClipConfig> {
    match &config.clip {
        GuideConfig::Tower { vision, .. } if vision.width == 1024 => Some(ClipConfig::vit_l14_quickgelu()),
        GuideConfig::Tower { vision, .. } if vision.width == 768 => Some(ClipConfig::vit_b16_quickgelu()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip_guided_sam::{AdapterConfig, Inject};

    fn find(rows: &[Row], part: &str) -> (usize, usize) {
        let row = rows.iter().find(|r| r.part == part).expect(part);
        (row.total, row.trainable)
    }

    #[test]
    fn table_1_to_the_unit() {
        let config = ClipGuidedConfig::vit_b();
        let rows = table(&config, text_tower(&config).as_ref());
        for (part, expected) in [
            ("SAM image encoder with adapters", (106_227_456, 16_556_544)),
            ("SAM mask decoder", (4_058_340, 4_058_340)),
            ("SAM overall", (110_292_016, 20_621_104)),
            ("CLIP vision", (86_828_544, 28_348_416)),
            ("CLIP text", (63_428_096, 0)),
            ("CLIP overall", (150_256_641, 28_348_416)),
            ("full system", (260_548_657, 48_969_520)),
            ("deployment, class vectors cached", (197_120_560, 48_969_520)),
        ] {
            assert_eq!(find(&rows, part), expected, "{part}");
        }
    }

    #[test]
    fn the_variants_have_the_papers_totals() {
        for (config, total, trainable) in [
            (ClipGuidedConfig::vit_b_clip_l(), 543_413_553, 126_101_296),
            (ClipGuidedConfig::vit_h(), 809_076_529, 50_142_256),
        ] {
            let rows = table(&config, text_tower(&config).as_ref());
            assert_eq!(find(&rows, "full system"), (total, trainable));
        }
    }

    /// The formulas against the module itself, for both kinds of CLIP side and every kind of adapter.
    #[test]
    fn the_counts_are_those_of_a_built_model() {
        let mut configs = vec![ClipGuidedConfig::nano(), ClipGuidedConfig::nano_tower()];
        let mut other = ClipGuidedConfig::nano();
        other.train.clip_blocks = 3;
        other.train.mask_decoder = false;
        let inject = Inject { text: true, ..Inject::NONE };
        let paper = AdapterConfig::paper(3, 224);
        other.adapters = AdapterConfig { lora_rank: 4, attention: AttentionAdapter::None, inject, ..paper };
        configs.push(other);
        for config in configs {
            let model = config.init(&mut Init::zeros(&Default::default())).unwrap();
            let shapes = state::named_shapes(&model);
            let buffer = |name: &str| name.ends_with("gaussian_matrix");
            let count = |keep: &dyn Fn(&str) -> bool| -> usize {
                let kept = shapes.iter().filter(|(name, _)| keep(name));
                kept.map(|(_, shape)| shape.iter().product::<usize>()).sum()
            };
            let rows = table(&config, None);
            let built = (count(&|name| !buffer(name)), count(&|name| config.is_trainable(name)));
            assert_eq!(find(&rows, "full system"), built);
        }
    }
}
