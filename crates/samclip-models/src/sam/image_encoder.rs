//! SAM's image encoder: a plain ViT with windowed and global attention (ViTDet).
//!
//! Paper: ViTDet (arXiv 2203.16527) §3; SAM (arXiv 2304.02643) §A. Reference:
//! segment_anything/modeling/image_encoder.py, `ImageEncoderViT`. Parity: tests/parity_sam.rs,
//! max |Δ| <= 1e-5 at each seam (`embed`, `Block::forward`, `neck`).

use burn::module::{Module, Param};
use burn::tensor::{Int, Tensor, TensorData};

use crate::init::Init;
use crate::layers::{Activation, Conv2d, LayerNorm, Linear, MlpBlock};
use super::stem::{PatchEmbed, Stem};
use crate::ops::{self, BlockCache, BlockShape, BlockWeights, Interpolation, Packable};

/// Sizes of a [`VitDet`].
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VitDetConfig {
    /// Image side that the position tables belong to, in pixels; other sides interpolate them.
    pub img_size: usize,
    /// Width of the tokens.
    pub embed_dim: usize,
    /// Number of blocks.
    pub depth: usize,
    /// Attention heads.
    pub num_heads: usize,
    /// Hidden width of the MLP over `embed_dim`.
    pub mlp_ratio: usize,
    /// Channels of the image embedding.
    pub out_chans: usize,
    /// Window side of the windowed blocks, in tokens.
    pub window_size: usize,
    /// Blocks with global attention.
    pub global_attn_indexes: Vec<usize>,
    /// Pixels to tokens.
    pub stem: Stem,
}

/// Pixels per token side, the same in every model here.
pub const PATCH_SIZE: usize = 16;
pub(super) const EPS: f64 = 1e-6;

impl VitDetConfig {
    fn sam(embed_dim: usize, depth: usize, num_heads: usize, global_attn_indexes: [usize; 4]) -> Self {
        Self {
            img_size: 1024,
            embed_dim,
            depth,
            num_heads,
            mlp_ratio: 4,
            out_chans: 256,
            window_size: 14,
            global_attn_indexes: global_attn_indexes.to_vec(),
            stem: Stem::Patch,
        }
    }

    /// SAM ViT-B.
    pub fn vit_b() -> Self {
        Self::sam(768, 12, 12, [2, 5, 8, 11])
    }

    /// SAM ViT-L.
    pub fn vit_l() -> Self {
        Self::sam(1024, 24, 16, [5, 11, 17, 23])
    }

    /// SAM ViT-H.
    pub fn vit_h() -> Self {
        Self::sam(1280, 32, 16, [7, 15, 23, 31])
    }

    /// Side of the native token grid.
    pub fn grid(&self) -> usize {
        self.img_size / PATCH_SIZE
    }

    /// The encoder with initial values from `init`.
    pub fn init(&self, init: &mut Init) -> VitDet {
        let (grid, dim) = (self.grid(), self.embed_dim);
        let patch_embed = PatchEmbed::new(&self.stem, dim, init);
        VitDet {
            patch_embed,
            pos_embed: init.trunc_normal([1, grid, grid, dim], 0.02),
            blocks: (0..self.depth).map(|i| Block::new(self, i, init)).collect(),
            neck: Neck::new(dim, self.out_chans, init),
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct VitDet {
    /// Pixels to tokens.
    pub patch_embed: PatchEmbed,
    /// [1, grid, grid, D]: the table at the native size; other sizes interpolate it.
    pub pos_embed: Param<Tensor<4>>,
    /// Transformer blocks.
    pub blocks: Vec<Block>,
    /// Tokens to image embedding.
    pub neck: Neck,
}

impl VitDet {
    /// `pixels` [B, 3, H, W] -> [B, C, H/16, W/16].
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.neck.forward(self.tokens(pixels))
    }

    /// Output of the last block: [B, h, w, D].
    pub fn tokens(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.blocks.iter().fold(self.embed(pixels), |x, block| block.forward(x))
    }

    /// Patch embedding plus position: [B, h, w, D].
    ///
    /// Deviation: the reference has no other size than the native one; here the table is
    /// interpolated (bicubic, as detectron2's `get_abs_pos`), see docs/papers/sam_clip.md A4.
    pub fn embed(&self, pixels: Tensor<4>) -> Tensor<4> {
        let x = self.patch_embed.forward(pixels);
        let [_, h, w, _] = x.dims();
        let pos = self.pos_embed.val();
        let [_, gh, gw, _] = pos.dims();
        if (gh, gw) == (h, w) {
            return x + pos;
        }
        let pos = ops::resize_2d(pos.permute([0, 3, 1, 2]), [h, w], Interpolation::Bicubic);
        x + pos.permute([0, 2, 3, 1])
    }
}

/// Transformer block with windowed or global attention.
#[derive(Module, Debug)]
pub struct Block {
    /// Before attention.
    pub norm1: LayerNorm,
    /// Self-attention over the grid.
    pub attn: Attention,
    /// Before the MLP.
    pub norm2: LayerNorm,
    /// Feed-forward part.
    pub mlp: MlpBlock,
    #[module(skip)]
    window_size: usize,
    #[module(skip)]
    cache: BlockCache,
}

impl Block {
    fn new(config: &VitDetConfig, index: usize, init: &mut Init) -> Self {
        let global = config.global_attn_indexes.contains(&index);
        let window_size = if global { 0 } else { config.window_size };
        let table = if global { config.grid() } else { config.window_size };
        let dim = config.embed_dim;
        Self {
            norm1: LayerNorm::new(dim, EPS, init),
            attn: Attention::new(dim, config.num_heads, table, init),
            norm2: LayerNorm::new(dim, EPS, init),
            mlp: MlpBlock::new(dim, dim * config.mlp_ratio, Activation::Gelu, init),
            window_size,
            cache: BlockCache::default(),
        }
    }

    /// A global block of the same widths: the CLIP head's layers.
    pub fn new_global(dim: usize, num_heads: usize, mlp_ratio: usize, grid: usize, init: &mut Init) -> Self {
        Self {
            norm1: LayerNorm::new(dim, EPS, init),
            attn: Attention::new(dim, num_heads, grid, init),
            norm2: LayerNorm::new(dim, EPS, init),
            mlp: MlpBlock::new(dim, dim * mlp_ratio, Activation::Gelu, init),
            window_size: 0,
            cache: BlockCache::default(),
        }
    }

    /// Window side in tokens; 0 means global attention.
    pub fn window_size(&self) -> usize {
        self.window_size
    }

    /// `x` [B, h, w, D] -> [B, h, w, D].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        if let Some(y) = self.fused(&x) {
            return y;
        }
        let x = x.clone() + self.attention(self.norm1.forward(x));
        x.clone() + self.mlp.forward(self.norm2.forward(x))
    }

    fn shape(&self) -> Option<BlockShape> {
        Some(BlockShape {
            heads: self.attn.num_heads,
            window: self.window_size,
            causal: false,
            activation: self.mlp.activation().of_block()?,
            eps: self.norm1.eps(),
        })
    }

    fn weights(&self) -> BlockWeights {
        BlockWeights {
            norm1: self.norm1.parts(),
            qkv: self.attn.qkv.parts(),
            proj: self.attn.proj.parts(),
            norm2: self.norm2.parts(),
            fc1: self.mlp.lin1.parts(),
            fc2: self.mlp.lin2.parts(),
        }
    }

    /// What can be packed of the block with this name.
    pub fn packable(&self, name: &str) -> Option<Packable> {
        let names = ["attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"].map(|layer| format!("{name}.{layer}.weight"));
        Some(Packable { names, weights: self.weights(), shape: self.shape()?, cache: self.cache.clone() })
    }

    /// [`Self::forward`] as one kernel, where there is one.
    fn fused(&self, x: &Tensor<4>) -> Option<Tensor<4>> {
        let shape = self.shape()?;
        let [_, h, w, _] = x.dims();
        let [h, w] = if self.window_size > 0 { [self.window_size; 2] } else { [h, w] };
        let rel = || Some((rel_pos_rows(self.attn.rel_pos_h.val(), h), rel_pos_rows(self.attn.rel_pos_w.val(), w)));
        ops::block(x, || self.weights(), rel, shape, &self.cache)
    }

    /// Attention of a normalised map, in windows where the block has them. Padding comes after the
    /// norm, so padded tokens are zeros before `qkv`, and they are not masked (reference:
    /// `window_partition`).
    pub fn attention(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, h, w, _] = x.dims();
        if self.window_size == 0 {
            return self.attn.forward(x);
        }
        let windows = window_partition(x, self.window_size);
        window_unpartition(self.attn.forward(windows), self.window_size, [h, w])
    }
}

/// Zero-pads bottom and right to multiples of `size` and cuts windows:
/// [B, h, w, D] -> [B·windows, size, size, D].
pub(crate) fn window_partition(x: Tensor<4>, size: usize) -> Tensor<4> {
    let [b, h, w, d] = x.dims();
    let (rows, cols) = (h.div_ceil(size), w.div_ceil(size));
    let x = pad(x, [rows * size, cols * size]);
    x.reshape([b * rows, size, cols, size * d])
        .swap_dims(1, 2) //                              [B·rows, cols, size, size·D]
        .reshape([b * rows * cols, size, size, d])
}

/// Undoes [`window_partition`] for a map of h x w tokens.
pub(crate) fn window_unpartition(x: Tensor<4>, size: usize, [h, w]: [usize; 2]) -> Tensor<4> {
    let [n, _, _, d] = x.dims();
    let (rows, cols) = (h.div_ceil(size), w.div_ceil(size));
    let b = n / (rows * cols);
    let x = x
        .reshape([b * rows, cols, size, size * d])
        .swap_dims(1, 2) //                              [B·rows, size, cols, size·D]
        .reshape([b, rows * size, cols * size, d]);
    if (rows * size, cols * size) == (h, w) { x } else { x.slice([0..b, 0..h, 0..w, 0..d]) }
}

fn pad(x: Tensor<4>, [height, width]: [usize; 2]) -> Tensor<4> {
    let [b, h, w, d] = x.dims();
    let device = x.device();
    let mut x = x;
    if width > w {
        x = Tensor::cat(vec![x, Tensor::zeros([b, h, width - w, d], &device)], 2);
    }
    if height > h {
        x = Tensor::cat(vec![x, Tensor::zeros([b, height - h, width, d], &device)], 1);
    }
    x
}

/// Self-attention over a 2-D grid with decomposed relative position bias.
#[derive(Module, Debug)]
pub struct Attention {
    /// [3D, D]: q, k, v.
    pub qkv: Linear,
    /// [D, D].
    pub proj: Linear,
    /// [2·side - 1, head width].
    pub rel_pos_h: Param<Tensor<2>>,
    /// [2·side - 1, head width].
    pub rel_pos_w: Param<Tensor<2>>,
    #[module(skip)]
    num_heads: usize,
}

impl Attention {
    fn new(dim: usize, num_heads: usize, table: usize, init: &mut Init) -> Self {
        let shape = [2 * table - 1, dim / num_heads];
        Self {
            qkv: Linear::trunc_normal(dim, 3 * dim, 0.02, init),
            proj: Linear::trunc_normal(dim, dim, 0.02, init),
            rel_pos_h: init.constant(shape, 0.0),
            rel_pos_w: init.constant(shape, 0.0),
            num_heads,
        }
    }

    /// `x` [B, h, w, D] -> [B, h, w, D].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [b, h, w, dim] = x.dims();
        let (n, c) = (h * w, dim / self.num_heads);
        let qkv = self.qkv.forward(x.reshape([b, n, dim])); // [B, N, 3D]
        let rel = (rel_pos_rows(self.rel_pos_h.val(), h), rel_pos_rows(self.rel_pos_w.val(), w));
        let y = ops::self_attention(qkv, self.num_heads, (c as f64).powf(-0.5), Some(rel), false);
        self.proj.forward(y.reshape([b, h, w, dim]))
    }
}

/// Relative positions of a side of `n` tokens: table [L, C] -> [n queries, n keys, C]. A table of
/// another length is interpolated linearly (reference: `get_rel_pos`).
pub fn rel_pos_rows(table: Tensor<2>, n: usize) -> Tensor<3> {
    let c = table.dims()[1];
    let device = table.device();
    let table = ops::resize_rows(table, 2 * n - 1, Interpolation::Bilinear);
    let index: Vec<i64> = (0..n).flat_map(|q| (0..n).map(move |k| (q + n - 1 - k) as i64)).collect();
    let index = Tensor::<1, Int>::from_data(TensorData::new(index, [n * n]), &device);
    table.select(0, index).reshape([n, n, c])
}

/// 1x1 convolution, norm, 3x3 convolution, norm: [B, h, w, D] -> [B, C, h, w].
#[derive(Module, Debug)]
pub struct Neck {
    /// 1x1, no bias.
    pub _0: Conv2d,
    /// Over channels.
    pub _1: LayerNorm,
    /// 3x3, no bias.
    pub _2: Conv2d,
    /// Over channels.
    pub _3: LayerNorm,
}

impl Neck {
    /// A neck between these widths.
    pub fn new(dim: usize, out: usize, init: &mut Init) -> Self {
        Self {
            _0: Conv2d::new(dim, out, 1, 1, false, init),
            _1: LayerNorm::new(out, EPS, init),
            _2: Conv2d::new(out, out, 3, 1, false, init),
            _3: LayerNorm::new(out, EPS, init),
        }
    }

    /// `x` [B, h, w, D] -> [B, C, h, w].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self._1.forward(self._0.forward(x));
        self._3.forward(self._2.forward(x)).permute([0, 3, 1, 2])
    }
}
