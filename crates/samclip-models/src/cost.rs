//! Multiply-adds of the models, counted from their sizes: what a speed in GFLOP/s refers to.
//!
//! Counted as the reference code computes them, with the padding of windows: linear layers,
//! convolutions, the two products of attention and those of relative positions. Not counted: norms,
//! activations, softmax, biases, residual sums, resampling, and the Fourier features of prompts
//! (together below 1 % of any model here). A multiply-add is two floating-point operations. An
//! engine that computes less for the same answer does not change the count.

use crate::clip::VisionConfig;
use crate::sam::{MaskDecoderConfig, Stem, VitDetConfig};
use crate::tiny_vit::TinyVitConfig;

/// Pixels per token side of SAM's encoders.
const PATCH_SIZE: usize = 16;
/// Mask tokens of SAM's decoder.
const NUM_MASK_TOKENS: usize = 4;

/// How tokens lie: `windows` of `h` x `w`.
struct Grid {
    windows: usize,
    h: usize,
    w: usize,
}

impl Grid {
    /// Windows of `size` that cover h x w tokens; 0 is one window over all.
    fn cut([h, w]: [usize; 2], size: usize) -> Self {
        match size {
            0 => Self { windows: 1, h, w },
            _ => Self { windows: h.div_ceil(size) * w.div_ceil(size), h: size, w: size },
        }
    }

    fn tokens(&self) -> usize {
        self.windows * self.h * self.w
    }

    /// `qkv`, queries with keys, weights with values, `proj`.
    fn self_attention(&self, width: usize) -> usize {
        let rows = self.tokens();
        4 * rows * width * width + 2 * rows * self.h * self.w * width
    }

    /// Queries with the vectors of their rows and columns.
    fn rel_pos(&self, width: usize) -> usize {
        self.tokens() * (self.h + self.w) * width
    }
}

/// SAM's image encoder with its neck on one image of `height` x `width` pixels.
pub fn vit_det(config: &VitDetConfig, [height, width]: [usize; 2]) -> u64 {
    let grid = [height / PATCH_SIZE, width / PATCH_SIZE];
    let blocks = (0..config.depth).map(|i| {
        let global = config.global_attn_indexes.contains(&i);
        vit_det_block(config, grid, if global { 0 } else { config.window_size })
    });
    let (n, d, out) = (grid[0] * grid[1], config.embed_dim, config.out_chans);
    (stem(config, [height, width]) + blocks.sum::<usize>() + neck(n, d, out)) as u64
}

/// One global block of SAM's image encoder on a grid of tokens.
pub fn vit_det_global_block(config: &VitDetConfig, grid: [usize; 2]) -> u64 {
    vit_det_block(config, grid, 0) as u64
}

fn vit_det_block(config: &VitDetConfig, grid: [usize; 2], window: usize) -> usize {
    let d = config.embed_dim;
    let cut = Grid::cut(grid, window);
    cut.self_attention(d) + cut.rel_pos(d) + 2 * config.mlp_ratio * grid[0] * grid[1] * d * d
}

/// Pixels to tokens.
fn stem(config: &VitDetConfig, [height, width]: [usize; 2]) -> usize {
    let stages: Vec<(usize, usize)> = match &config.stem {
        Stem::Patch => return height * width * 3 * config.embed_dim,
        Stem::Conv(widths) => widths.iter().map(|&width| (width, 0)).collect(),
        Stem::Residual(stages) => stages.iter().map(|s| (s.width, s.blocks)).collect(),
    };
    let (mut inp, mut pixels, mut sum) = (3, height * width, 0);
    for (out, blocks) in stages {
        pixels /= 4;
        sum += 9 * pixels * (inp * out + 2 * blocks * out * out);
        inp = out;
    }
    sum + pixels * inp * config.embed_dim
}

/// 1x1, then 3x3.
fn neck(tokens: usize, width: usize, out: usize) -> usize {
    tokens * out * (width + 9 * out)
}

/// MobileSAM's image encoder with its neck on one image of `height` x `width` pixels.
pub fn tiny_vit(config: &TinyVitConfig, [height, width]: [usize; 2]) -> u64 {
    const MLP_RATIO: usize = 4;
    let dims = config.embed_dims;
    let mut grid = [height / 4, width / 4];
    let area = |grid: [usize; 2]| grid[0] * grid[1];
    let mut sum = 9 * (height / 2 * (width / 2) * 3 * (dims[0] / 2) + area(grid) * dims[0] / 2 * dims[0]);
    for (i, &d) in dims.iter().enumerate() {
        let n = area(grid);
        let hidden = MLP_RATIO * d;
        sum += config.depths[i]
            * match i {
                0 => n * hidden * (2 * d + 9),
                _ => Grid::cut(grid, config.window_sizes[i]).self_attention(d) + n * d * (9 + 2 * hidden),
            };
        if i < 3 {
            let (out, stride) = (dims[i + 1], config.merge_strides[i]);
            grid = grid.map(|side| side.div_ceil(stride));
            sum += n * d * out + area(grid) * out * (9 + out);
        }
    }
    (sum + neck(area(grid), dims[3], config.out_chans)) as u64
}

/// The mask decoder on `prompts` prompts of `points` tokens each (a click is two: itself and
/// padding), three masks a prompt, on a grid of image tokens.
pub fn mask_decoder(config: &MaskDecoderConfig, [h, w]: [usize; 2], prompts: usize, points: usize) -> u64 {
    let (d, n) = (config.transformer_dim, h * w);
    let (t, masks) = (1 + NUM_MASK_TOKENS + points, NUM_MASK_TOKENS - 1);
    let attention = |q: usize, k: usize, inner: usize| 2 * d * inner * (q + k) + 2 * q * k * inner;
    let mlp = 2 * t * d * config.mlp_dim;
    let layer = attention(t, t, d) + attention(t, n, d / 2) + mlp + attention(n, t, d / 2);
    let upscaling = n * d * d + 4 * n * (d / 4) * (d / 2);
    let hyper = masks * (2 * d * d + d * (d / 8));
    let hidden = config.iou_head_hidden_dim;
    let iou = d * hidden + hidden * hidden + hidden * NUM_MASK_TOKENS;
    let product = masks * 16 * n * (d / 8);
    let one = config.depth * layer + attention(t, n, d / 2) + upscaling + hyper + iou + product;
    (prompts * one) as u64
}

/// CLIP's image tower on one image of `height` x `width` pixels; `embed_dim` is the shared space's.
pub fn clip_image(config: &VisionConfig, embed_dim: usize, [height, width]: [usize; 2]) -> u64 {
    let (d, p) = (config.width, config.patch_size);
    let n = (height / p) * (width / p);
    let embed = n * 3 * p * p * d;
    embed as u64 + config.layers as u64 * clip_block(d, n + 1) + (d * embed_dim) as u64
}

/// One block of a CLIP tower on `tokens` tokens.
pub fn clip_block(width: usize, tokens: usize) -> u64 {
    const MLP_RATIO: usize = 4;
    let attention = Grid { windows: 1, h: 1, w: tokens }.self_attention(width);
    (attention + 2 * MLP_RATIO * tokens * width * width) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clip::ClipConfig;

    /// Within 1 % of a published count, in units of 1e9.
    fn close(found: u64, published: f64) {
        let found = found as f64 / 1e9;
        assert!((found / published - 1.0).abs() < 0.01, "found {found}, published {published}");
    }

    #[test]
    fn clip_towers_cost_what_is_published() {
        // timm's table of ViTs at 224 px: B/16 17.58, L/14 81.08.
        for (config, published) in [(ClipConfig::vit_b16(), 17.58), (ClipConfig::vit_l14(), 81.08)] {
            close(clip_image(&config.vision, config.embed_dim, [224, 224]), published);
        }
    }

    #[test]
    fn a_block_of_sam_by_hand() {
        let (n, d) = (64 * 64, 768);
        let by_hand = n * d * 3 * d + 2 * n * n * d + n * (64 + 64) * d + n * d * d + 2 * n * d * 4 * d;
        assert_eq!(vit_det_global_block(&VitDetConfig::vit_b(), [64, 64]), by_hand as u64);
        // Windows of 14 cover 70 x 70 tokens, but the MLP runs on 64 x 64.
        let rows = 70 * 70;
        let by_hand =
            rows * d * 3 * d + 2 * rows * 196 * d + rows * 28 * d + rows * d * d + 2 * n * d * 4 * d;
        assert_eq!(vit_det_block(&VitDetConfig::vit_b(), [64, 64], 14), by_hand);
    }
}
