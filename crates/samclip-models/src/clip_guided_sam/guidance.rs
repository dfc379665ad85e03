//! CLIP's side: patches P, text t, their similarity S, and what becomes of them: the map E that is
//! injected, the mask prompt M and the points.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) §3.2, eqs. 1-3; CLIP Surgery (arXiv 2304.05653).
//! Parity: tests/parity_clip_guided.rs. Gradients flow through P and S; M and points are constants.

use burn::module::Module;
use burn::tensor::{Int, Tensor, TensorData};

use super::config::{ClipGuidedConfig, GuideConfig, PromptRules};
use crate::ModelError;
use crate::clip::{ImageTower, normalize, surgery};
use crate::init::Init;
use crate::ops::{self, Interpolation};
use crate::sam::VitDet;
use crate::sam_clip::ClipHead;

/// CLIP's image side.
#[derive(Module, Debug)]
pub struct ClipGuide {
    /// The network.
    pub visual: ClipVisual,
}

/// The networks that give one vector per patch in the text space.
#[derive(Module, Debug)]
pub enum ClipVisual {
    /// CLIP's image tower.
    Tower(ImageTower),
    /// Backbone and CLIP head of a SAM-CLIP.
    SamClip(SamClipVisual),
}

/// Backbone and CLIP head of a SAM-CLIP.
#[derive(Module, Debug)]
pub struct SamClipVisual {
    /// The backbone; its neck is not used.
    pub image_encoder: VitDet,
    /// The head.
    pub clip_head: ClipHead,
}

/// CLIP's view of B images.
#[derive(Clone, Debug)]
pub struct Patches {
    /// P [B, N, E] as the network gives it.
    pub tokens: Tensor<3>,
    /// (h, w), N = h w.
    pub grid: [usize; 2],
}

/// What guides P pairs of image and class.
#[derive(Clone, Debug)]
pub struct Guidance {
    /// E [P, N, E], eq. 3; none where no map is injected.
    pub e: Option<Tensor<3>>,
    /// t [P, E], unit.
    pub text: Tensor<2>,
    /// S [P, N], eq. 1.
    pub similarity: Tensor<2>,
    /// (h, w), N = h w.
    pub grid: [usize; 2],
}

impl ClipGuide {
    pub(super) fn new(config: &GuideConfig, init: &mut Init) -> Self {
        let visual = match config {
            GuideConfig::Tower { vision, embed_dim, act, .. } => {
                ClipVisual::Tower(ImageTower::new(vision, *embed_dim, *act, init))
            }
            GuideConfig::SamClip { image_encoder, clip_head } => ClipVisual::SamClip(SamClipVisual {
                image_encoder: image_encoder.init(init),
                clip_head: ClipHead::new(clip_head, image_encoder, init),
            }),
        };
        Self { visual }
    }

    /// `pixels` [B, 3, H, W], normalised as the network wants it -> P.
    ///
    /// # Errors
    /// Sides that are not multiples of the patch size.
    pub fn patches(&self, pixels: Tensor<4>, config: &GuideConfig) -> Result<Patches, ModelError> {
        match (&self.visual, config) {
            (ClipVisual::Tower(tower), GuideConfig::Tower { surgery: true, .. }) => {
                let features = surgery::image_features(tower, pixels)?;
                Ok(without_class(features.tokens, features.grid))
            }
            (ClipVisual::Tower(tower), _) => {
                let (x, grid) = tower.embed(pixels, Interpolation::Bilinear)?;
                let x = tower.transformer.forward(tower.ln_pre.forward(x), false); // [B, 1+N, D]
                Ok(without_class(tower.project(x), grid))
            }
            (ClipVisual::SamClip(model), _) => {
                let tokens = model.image_encoder.tokens(pixels);
                let dense = model.clip_head.dense(model.clip_head.blocks(tokens)); // [B, h, w, E]
                let [b, h, w, e] = dense.dims();
                Ok(Patches { tokens: dense.reshape([b, h * w, e]), grid: [h, w] })
            }
        }
    }
}

fn without_class(tokens: Tensor<3>, grid: [usize; 2]) -> Patches {
    Patches { tokens: tokens.narrow(1, 1, grid[0] * grid[1]), grid }
}

/// Eqs. 1 and 3 for P pairs: `image_index[p]` names the image of pair p, `text` [P, E] its class.
pub fn guide(config: &ClipGuidedConfig, patches: &Patches, image_index: &[usize], text: Tensor<2>) -> Guidance {
    let adapters = &config.adapters;
    let raw = select(patches.tokens.clone(), image_index); //                [P, N, E]
    let unit = normalize(raw.clone());
    let text = normalize(text);
    let similarity = (unit.clone() * text.clone().unsqueeze_dim::<3>(1)).sum_dim(2); // [P, N, 1]
    let p = if adapters.p_norm { unit } else { raw };
    let [pairs, n, width] = p.dims();
    let e = match (adapters.inject.vision, adapters.inject.similarity) {
        (true, true) => Some(p + similarity.clone()),
        (true, false) => Some(p),
        (false, true) => Some(similarity.clone().expand([pairs, n, width])),
        (false, false) => None,
    };
    Guidance { e, text, similarity: similarity.reshape([pairs, n]), grid: patches.grid }
}

/// Rows of a batch by index; a batch of one serves all.
pub(super) fn select<const D: usize>(x: Tensor<D>, index: &[usize]) -> Tensor<D> {
    let b = x.dims()[0];
    if index.iter().copied().eq(0..b) {
        return x;
    }
    let device = x.device();
    let count = index.len();
    let index: Vec<i64> = index.iter().map(|&i| i as i64).collect();
    x.select(0, Tensor::<1, Int>::from_data(TensorData::new(index, [count]), &device))
}

/// The prompts that one similarity map gives.
#[derive(Clone, Debug, PartialEq)]
pub struct MapPrompts {
    /// Eq. 2: the map at `side` x `side`, min-max to 0..1.
    pub map: Vec<f32>,
    /// M, `side` x `side`; none where the rules want no mask prompt.
    pub mask: Option<Vec<f32>>,
    /// Cells at or above the threshold of the points, ascending.
    pub cells: Vec<usize>,
    /// Cells along a side.
    pub side: usize,
}

impl MapPrompts {
    /// Points for the decoder in model-input pixels, one per number of 0..1 in `draws`: the number
    /// picks among the cells, evenly. None where no cell is above the threshold.
    pub fn points(&self, draws: &[f64]) -> Vec<[f32; 2]> {
        let pick = |u: &f64| self.cells.get(((u * self.cells.len() as f64) as usize).min(self.cells.len().max(1) - 1));
        draws.iter().filter_map(pick).map(|&cell| cell_centre(cell, self.side)).collect()
    }
}

/// The centre of a cell of the low-resolution map in model-input pixels: a cell is 4 x 4 of them.
pub fn cell_centre(cell: usize, side: usize) -> [f32; 2] {
    [((cell % side) as f32 + 0.5) * 4.0, ((cell / side) as f32 + 0.5) * 4.0]
}

/// Eq. 2 for every pair, at the decoder's resolution `side`.
///
/// Deviation: a constant map gives 0 everywhere, not NaN.
pub fn map_prompts(guidance: &Guidance, rules: &PromptRules, side: usize) -> Vec<MapPrompts> {
    let [pairs, _] = guidance.similarity.dims();
    let [h, w] = guidance.grid;
    let map = guidance.similarity.clone().detach().reshape([pairs, 1, h, w]);
    let maps = ops::resize_2d(map, [side, side], Interpolation::Bilinear);
    let values: Vec<f32> = maps.into_data().convert::<f32>().try_into_vec().expect("converted to f32");
    values.chunks_exact(side * side).map(|map| prompts_of(map, rules, side)).collect()
}

fn prompts_of(map: &[f32], rules: &PromptRules, side: usize) -> MapPrompts {
    let (min, max) = map.iter().fold((f32::MAX, f32::MIN), |(lo, hi), v| (lo.min(*v), hi.max(*v)));
    let range = (max - min).max(f32::MIN_POSITIVE);
    let map: Vec<f32> = map.iter().map(|v| (v - min) / range).collect();
    let value = |v: &f32| rules.mask_values[usize::from(*v >= rules.tau_mask)];
    let mask = rules.dense.then(|| map.iter().map(value).collect());
    let cells = (0..map.len()).filter(|&i| map[i] >= rules.tau_point && max > min).collect();
    MapPrompts { map, mask, cells, side }
}
