//! SAM's prompt encoder: points, boxes and masks to embeddings.
//!
//! Paper: SAM (arXiv 2304.02643) §3, §A. Reference: segment_anything/modeling/prompt_encoder.py,
//! `PromptEncoder`. Parity: tests/parity_sam.rs.

use std::sync::{Arc, Mutex, PoisonError};

use burn::module::{Module, Param};
use burn::tensor::{Tensor, TensorData};

use crate::init::Init;
use crate::layers::{Conv2d, Embedding, LayerNorm};
use crate::ops;

/// Prompts of one decoder call, in model-input pixels. All prompts have the same number of points;
/// fewer points are padded with label -1.
#[derive(Clone, Debug, Default)]
pub struct PromptInput {
    /// [P, N, 2] (x, y) and [P, N] labels: 1 foreground, 0 background, -1 padding.
    pub points: Option<(Tensor<3>, Tensor<2>)>,
    /// [P, 4]: x0, y0, x1, y1.
    pub boxes: Option<Tensor<2>>,
    /// [P, 1, 4h, 4w] logits.
    pub mask_input: Option<Tensor<4>>,
    /// P.
    pub count: usize,
}

/// The encoder.
#[derive(Module, Debug)]
pub struct PromptEncoder {
    /// Random Fourier features of coordinates.
    pub pe_layer: PositionEmbeddingRandom,
    /// Negative point, positive point, box top left, box bottom right.
    pub point_embeddings: Vec<Embedding>,
    /// Stands for a padding point.
    pub not_a_point_embed: Embedding,
    /// Mask logits to a dense embedding.
    pub mask_downscaling: MaskDownscaling,
    /// Dense embedding when there is no mask prompt.
    pub no_mask_embed: Embedding,
}

impl PromptEncoder {
    /// An encoder of this embedding width (256 in SAM).
    pub fn new(dim: usize, init: &mut Init) -> Self {
        Self {
            pe_layer: PositionEmbeddingRandom::new(init.normal([2, dim / 2], 1.0).set_require_grad(false)),
            point_embeddings: (0..4).map(|_| Embedding::new(1, dim, 1.0, init)).collect(),
            not_a_point_embed: Embedding::new(1, dim, 1.0, init),
            mask_downscaling: MaskDownscaling::new(dim, init),
            no_mask_embed: Embedding::new(1, dim, 1.0, init),
        }
    }

    /// Sparse embeddings [P, tokens, C] for an input of `size` (height, width) pixels. Without
    /// points and boxes there are no tokens.
    pub fn sparse(&self, prompts: &PromptInput, size: [usize; 2]) -> Option<Tensor<3>> {
        let points = prompts.points.as_ref().map(|(coords, labels)| {
            self.embed_points(coords.clone(), labels.clone(), prompts.boxes.is_none(), size)
        });
        let boxes = prompts.boxes.as_ref().map(|boxes| self.embed_boxes(boxes.clone(), size));
        match (points, boxes) {
            (Some(points), Some(boxes)) => Some(Tensor::cat(vec![points, boxes], 1)),
            (points, boxes) => points.or(boxes),
        }
    }

    /// `pad`: without a box the reference appends one padding point.
    fn embed_points(&self, coords: Tensor<3>, labels: Tensor<2>, pad: bool, size: [usize; 2]) -> Tensor<3> {
        let device = coords.device();
        let [p, n, _] = coords.dims();
        let mut coords = coords + 0.5;
        let mut labels = labels;
        if pad {
            coords = Tensor::cat(vec![coords, Tensor::zeros([p, 1, 2], &device)], 1);
            labels = Tensor::cat(vec![labels, Tensor::full([p, 1], -1.0, &device)], 1);
        }
        let n = if pad { n + 1 } else { n };
        let pe = self.pe_layer.at(coords, size); // [P, N, C]
        let c = pe.dims()[2];
        let is = |label: f32| labels.clone().equal_scalar(label).float().unsqueeze_dim::<3>(2);
        let row = |e: &Embedding| e.weight.val().unsqueeze_dim::<3>(0); // [1, 1, C]
        let padding = is(-1.0);
        pe * (padding.clone().neg() + 1.0).expand([p, n, c])
            + padding * row(&self.not_a_point_embed)
            + is(0.0) * row(&self.point_embeddings[0])
            + is(1.0) * row(&self.point_embeddings[1])
    }

    fn embed_boxes(&self, boxes: Tensor<2>, size: [usize; 2]) -> Tensor<3> {
        let p = boxes.dims()[0];
        let pe = self.pe_layer.at((boxes + 0.5).reshape([p, 2, 2]), size); // [P, 2, C]
        let corner = |i: usize| self.point_embeddings[i].weight.val();
        pe + Tensor::cat(vec![corner(2), corner(3)], 0).unsqueeze_dim::<3>(0)
    }

    /// Dense embeddings [P, h, w, C], or [1, 1, 1, C] when there is no mask prompt.
    pub fn dense(&self, prompts: &PromptInput, _grid: [usize; 2]) -> Tensor<4> {
        match &prompts.mask_input {
            Some(mask) => self.mask_downscaling.forward(mask.clone().permute([0, 2, 3, 1])),
            None => self.no_mask_embed.weight.val().unsqueeze::<4>(),
        }
    }

    /// Position embedding of the token centres: [1, h, w, C].
    pub fn dense_pe(&self, grid: [usize; 2]) -> Tensor<4> {
        self.pe_layer.grid(grid)
    }
}

/// Random Fourier features (`PositionEmbeddingRandom`).
#[derive(Module, Debug)]
pub struct PositionEmbeddingRandom {
    /// [2, C/2], a buffer: never trained.
    pub positional_encoding_gaussian_matrix: Param<Tensor<2>>,
    #[module(skip)]
    cache: GridCache,
}

/// The embedding of the last grid, with the matrix that it was made from.
#[derive(Clone, Debug, Default)]
struct GridCache(Arc<Mutex<Option<(Tensor<2>, Tensor<4>)>>>);

impl PositionEmbeddingRandom {
    fn new(matrix: Param<Tensor<2>>) -> Self {
        Self { positional_encoding_gaussian_matrix: matrix, cache: GridCache::default() }
    }

    /// Centres of the cells of a grid (h, w): [1, h, w, C]. A click would otherwise compute
    /// the sines of a million angles again, so the last grid is kept.
    fn grid(&self, [h, w]: [usize; 2]) -> Tensor<4> {
        let matrix = self.positional_encoding_gaussian_matrix.val();
        let mut cache = self.cache.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = |(of, pe): &&(Tensor<2>, Tensor<4>)| {
            // Devices are equal with and without gradients, tensors of the two do not mix.
            let device = of.device() == matrix.device() && ops::tracks_gradients(of) == ops::tracks_gradients(&matrix);
            pe.dims()[1..3] == [h, w] && device && of.to_data() == matrix.to_data()
        };
        if let Some((_, pe)) = cache.as_ref().filter(same) {
            return pe.clone();
        }
        let centre = |i: usize, n: usize| (i as f32 + 0.5) / n as f32;
        let cell = |i: usize| [centre(i % w, w), centre(i / w, h)];
        let centres = TensorData::new((0..h * w).flat_map(cell).collect(), [1, h * w, 2]);
        let pe = self.forward(Tensor::<3>::from_data(centres, &matrix.device()));
        let c = pe.dims()[2];
        let pe = pe.reshape([1, h, w, c]);
        *cache = Some((matrix, pe.clone()));
        pe
    }

    /// Pixels (x, y) of an input of `size` (height, width) -> [P, N, C].
    fn at(&self, coords: Tensor<3>, [height, width]: [usize; 2]) -> Tensor<3> {
        let device = coords.device();
        let size = Tensor::<1>::from_floats([width as f32, height as f32], &device);
        self.forward(coords / size.unsqueeze::<3>())
    }

    /// Coordinates in [0, 1] (x, y): [P, N, 2] -> [P, N, C].
    pub fn forward(&self, coords: Tensor<3>) -> Tensor<3> {
        let [p, n, _] = coords.dims();
        let matrix = self.positional_encoding_gaussian_matrix.val();
        let half = matrix.dims()[1];
        let angles = ((coords * 2.0 - 1.0).reshape([p * n, 2]).matmul(matrix) * std::f64::consts::TAU)
            .reshape([p, n, half]);
        Tensor::cat(vec![angles.clone().sin(), angles.cos()], 2)
    }
}

/// Mask prompt to dense embedding: two stride-2 convolutions and a projection.
#[derive(Module, Debug)]
pub struct MaskDownscaling {
    /// 1 -> 4, 2x2.
    pub _0: Conv2d,
    /// Over 4 channels.
    pub _1: LayerNorm,
    /// 4 -> 16, 2x2.
    pub _3: Conv2d,
    /// Over 16 channels.
    pub _4: LayerNorm,
    /// 16 -> C, 1x1.
    pub _6: Conv2d,
}

impl MaskDownscaling {
    fn new(dim: usize, init: &mut Init) -> Self {
        Self {
            _0: Conv2d::new(1, 4, 2, 2, true, init),
            _1: LayerNorm::new(4, 1e-6, init),
            _3: Conv2d::new(4, 16, 2, 2, true, init),
            _4: LayerNorm::new(16, 1e-6, init),
            _6: Conv2d::new(16, dim, 1, 1, true, init),
        }
    }

    /// `x` [P, 4h, 4w, 1] -> [P, h, w, C].
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = ops::gelu(self._1.forward(self._0.forward(x)));
        let x = ops::gelu(self._4.forward(self._3.forward(x)));
        self._6.forward(x)
    }
}
