//! CLIP Surgery: maps of where a text is, from an unmodified CLIP.
//!
//! Paper: CLIP Surgery (arXiv:2304.05653) §3.2 (architecture), §3.3 (feature).
//! Reference: CLIP_Surgery/clip/clip_surgery_model.py (`Attention`, `ResidualAttentionBlock`,
//! `VisionTransformer`) and clip/clip.py (`clip_feature_surgery`, `get_similarity_map`,
//! `similarity_map_to_points`). Parity: tests/parity_surgery.rs, max |Δ| <= 1e-5, gradients too.
//!
//! Deviation: the reference swaps modules and writes its position table in place under `no_grad`;
//! here the second path is computed from the tower as it is, so gradients flow and CLIP stays CLIP.

use burn::tensor::Tensor;
use burn::tensor::activation::softmax;

use super::transformer::ResidualAttentionBlock;
use super::{ImageTower, normalize};
use crate::ModelError;
use crate::ops::{self, Interpolation};

/// The last blocks that get a second path, whatever the depth.
pub const SURGERY_BLOCKS: usize = 6;

/// Token features after architecture surgery: the class token's first, then one a patch.
#[derive(Clone, Debug)]
pub struct SurgeryFeatures {
    /// [B, 1 + h·w, E], not normalised.
    pub tokens: Tensor<3>,
    /// (h, w).
    pub grid: [usize; 2],
}

impl SurgeryFeatures {
    /// Each token as a unit vector: [B, 1 + h·w, E].
    pub fn unit(&self) -> Tensor<3> {
        normalize(self.tokens.clone())
    }
}

/// Runs the image tower with two paths in its last six blocks.
/// `pixels` [B, 3, H, W], CLIP's normalisation, squashed to any multiple of the patch size.
///
/// # Errors
/// When a side is not a multiple of the patch size.
pub fn image_features(tower: &ImageTower, pixels: Tensor<4>) -> Result<SurgeryFeatures, ModelError> {
    let (x, grid) = tower.embed(pixels, Interpolation::Bilinear)?;
    let blocks = &tower.transformer.resblocks;
    let (plain, surgery) = blocks.split_at(blocks.len().saturating_sub(SURGERY_BLOCKS));
    let x = plain.iter().fold(tower.ln_pre.forward(x), |x, block| block.forward(x, false));
    let paths = surgery.iter().fold((x.clone(), x), two_paths);
    Ok(SurgeryFeatures { tokens: tower.project(join(paths)), grid })
}

/// One block: the original path, and the new one that gains value-value attention and no MLP.
/// Both read queries, keys and values of the original. Each [B, 1+N, D].
fn two_paths((original, new): (Tensor<3>, Tensor<3>), block: &ResidualAttentionBlock) -> (Tensor<3>, Tensor<3>) {
    let [q, k, v] = block.attn.qkv(block.ln_1.forward(original.clone()));
    let new = new + block.attn.attend(v.clone(), v.clone(), v.clone(), false);
    let original = original + block.attn.attend(q, k, v, false);
    (block.feed_forward(original), new)
}

/// The class token of the original path, the patches of the new one.
fn join((original, new): (Tensor<3>, Tensor<3>)) -> Tensor<3> {
    let n = new.dims()[1] - 1;
    Tensor::cat(vec![original.narrow(1, 0, 1), new.narrow(1, 1, n)], 1)
}

/// Similarity of every token with one or more texts, each on its own: `F (t - t_empty)`.
/// `features` [B, 1+N, E] unit; `text` [K, E] unit; `empty` [1, E], the vector of `""`
/// -> [B, 1+N, K].
pub fn feature_surgery_single(features: Tensor<3>, text: Tensor<2>, empty: Tensor<2>) -> Tensor<3> {
    ops::linear(features, text - empty, None)
}

/// Similarity of every token with a set of classes, less what all classes share.
/// `features` [B, 1+N, E] unit, `text` [K, E] unit -> [B, 1+N, K].
///
/// The reference builds the [B, 1+N, K, E] products, subtracts their mean over K and sums over E;
/// the sum is linear, so it is taken first.
/// Deviation: class weights are per image; the reference's broadcast only fits a batch of one.
pub fn feature_surgery(features: Tensor<3>, text: Tensor<2>) -> Tensor<3> {
    let similarity = ops::linear(features, text, None); //                [B, 1+N, K]
    let prob = softmax(similarity.clone().narrow(1, 0, 1) * 2.0, 2); //   [B, 1, K]
    let weight = prob.clone() / prob.mean_dim(2);
    let weighted = similarity * weight;
    weighted.clone() - weighted.mean_dim(2)
}

/// Patch similarities as pictures in 0..1: min-max over the patches, then bilinear.
/// `similarity` [B, 1+h·w, K] (the class token is dropped) -> [B, K, H, W] for `out` = (H, W).
///
/// Deviation: a constant map gives 0, not NaN.
pub fn similarity_map(similarity: Tensor<3>, [h, w]: [usize; 2], out: [usize; 2]) -> Tensor<4> {
    let [batch, _, classes] = similarity.dims();
    let map = similarity.narrow(1, 1, h * w).swap_dims(1, 2); // [B, K, h·w]
    let min = map.clone().min_dim(2);
    let range = map.clone().max_dim(2) - min.clone();
    let map = (map - min) / range.clamp_min(f32::MIN_POSITIVE);
    ops::resize_2d(map.reshape([batch, classes, h, w]), out, Interpolation::Bilinear)
}

/// A point prompt in pixels of the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Point {
    /// Column.
    pub x: usize,
    /// Row.
    pub y: usize,
    /// On the object, or on what is not.
    pub positive: bool,
}

/// Point prompts from one class's patch similarities: up to half of the smoothed cells as positives
/// (those at or above `threshold` after min-max, weakest first) and as many of the lowest as
/// negatives. `map` holds h·w values row by row, `image` is (height, width).
/// Reference defaults: `threshold` 0.8, `down_sample` 2.
///
/// # Errors
/// When the grid does not fit the map or vanishes under `down_sample`.
pub fn similarity_map_to_points(
    map: &[f32],
    [h, w]: [usize; 2],
    image: [usize; 2],
    threshold: f32,
    down_sample: usize,
) -> Result<Vec<Point>, ModelError> {
    let (small_h, small_w) = (h / down_sample.max(1), w / down_sample.max(1));
    if map.len() != h * w || small_h == 0 || small_w == 0 {
        return Err(ModelError::Input(format!("similarity map: {} values for a grid of {h}x{w}", map.len())));
    }
    let mut cells = shrink(map, [h, w], [small_h, small_w]);
    let (min, max) = cells.iter().fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    cells.iter_mut().for_each(|v| *v = (*v - min) / (max - min));
    let mut rank: Vec<usize> = (0..cells.len()).collect();
    rank.sort_by(|a, b| cells[*a].total_cmp(&cells[*b]));
    let num = cells.iter().filter(|v| **v >= threshold).count().min(cells.len() / 2);
    let center = |index: usize, count: usize, pixels: usize| {
        let x = (index as f32 + 0.5) * (pixels as f64 / count as f64) as f32;
        x.min(pixels as f32 - 1.0) as usize
    };
    let point = |cell: usize, positive| Point {
        x: center(cell % small_w, small_w, image[1]),
        y: center(cell / small_w, small_h, image[0]),
        positive,
    };
    let positives = rank[rank.len() - num..].iter().map(|cell| point(*cell, true));
    Ok(positives.chain(rank[..num].iter().map(|cell| point(*cell, false))).collect())
}

/// Bilinear resize of one map, `interpolate(mode="bilinear")`.
fn shrink(map: &[f32], [h, w]: [usize; 2], [out_h, out_w]: [usize; 2]) -> Vec<f32> {
    let rows = ops::interpolate::weights(h, out_h, Interpolation::Bilinear); // [out_h, h]
    let columns = ops::interpolate::weights(w, out_w, Interpolation::Bilinear); // [out_w, w]
    let dot = |a: &[f32], b: &mut dyn Iterator<Item = f32>| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let mut out = Vec::with_capacity(out_h * out_w);
    for row in rows.chunks_exact(h) {
        let line: Vec<f32> = (0..w).map(|x| dot(row, &mut (0..h).map(|y| map[y * w + x]))).collect();
        out.extend(columns.chunks_exact(w).map(|column| dot(column, &mut line.iter().copied())));
    }
    out
}
