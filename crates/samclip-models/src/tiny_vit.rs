//! MobileSAM's image encoder: TinyViT with SAM's neck.
//!
//! Paper: MobileSAM (arXiv 2306.14289) §3; TinyViT (arXiv 2207.10666) §3.2. Reference:
//! mobile_sam/modeling/tiny_vit_sam.py, `TinyViT`. Parity: tests/parity_tiny_vit.rs, max |Δ| <= 1e-5
//! at each block.
//!
//! Deviation: BatchNorm is always in its inference form, `(x - running_mean) / sqrt(running_var +
//! eps)`, so a batch never changes the answer and the statistics stay as loaded; the unused
//! classification head (`norm_head`, `head`) does not exist.

use burn::module::{Module, Param};
use burn::tensor::activation::softmax;
use burn::tensor::{Int, Tensor, TensorData};

use crate::init::Init;
use crate::layers::{Conv2dBn, Kernel, LayerNorm, Linear};
use crate::ops;
use crate::sam::{Neck, window_partition, window_unpartition};

const LN_EPS: f64 = 1e-5;

/// Sizes of a [`TinyVit`].
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TinyVitConfig {
    /// Width of each of the four layers.
    pub embed_dims: [usize; 4],
    /// Blocks of each layer.
    pub depths: [usize; 4],
    /// Attention heads of each layer; the first layer is convolutional and has none.
    pub num_heads: [usize; 4],
    /// Window side of each layer, in tokens; unused in the first layer.
    pub window_sizes: [usize; 4],
    /// Stride of the merge after layers 0, 1 and 2. The reference derives it from the width (1
    /// before 320 channels, so that the grid stays at 1/16).
    pub merge_strides: [usize; 3],
    /// Channels of the image embedding.
    pub out_chans: usize,
}

/// Hidden width over the block's width, in the MLPs and in the MBConvs.
const EXPAND: usize = 4;

impl TinyVitConfig {
    /// The encoder of `mobile_sam.pt` (TinyViT-5M).
    pub const MOBILE_SAM: Self = Self {
        embed_dims: [64, 128, 160, 320],
        depths: [2, 2, 6, 2],
        num_heads: [2, 4, 5, 10],
        window_sizes: [7, 7, 14, 7],
        merge_strides: [2, 2, 1],
        out_chans: 256,
    };

    /// The encoder with initial values from `init`.
    pub fn init(&self, init: &mut Init) -> TinyVit {
        let dims = self.embed_dims;
        let merge = |i: usize, init: &mut Init| {
            (i < 3).then(|| PatchMerging::new(dims[i], dims[i + 1], self.merge_strides[i], init))
        };
        let mut layers = vec![Layer::Conv(ConvLayer {
            blocks: (0..self.depths[0]).map(|_| MbConv::new(dims[0], init)).collect(),
            downsample: merge(0, init),
        })];
        for i in 1..4 {
            let block = |_| TinyVitBlock::new(dims[i], self.num_heads[i], self.window_sizes[i], init);
            let blocks = (0..self.depths[i]).map(block).collect();
            layers.push(Layer::Basic(BasicLayer { blocks, downsample: merge(i, init) }));
        }
        TinyVit {
            patch_embed: PatchEmbed::new(dims[0], init),
            layers,
            neck: Neck::new(dims[3], self.out_chans, init),
        }
    }
}

/// The encoder.
#[derive(Module, Debug)]
pub struct TinyVit {
    /// Pixels to a map at 1/4.
    pub patch_embed: PatchEmbed,
    /// One convolutional layer, then three of windowed attention.
    pub layers: Vec<Layer>,
    /// Tokens to image embedding.
    pub neck: Neck,
}

impl TinyVit {
    /// `pixels` [B, 3, H, W] -> [B, C, H/16, W/16].
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.neck.forward(self.tokens(pixels))
    }

    /// Output of the last layer: [B, h, w, D].
    pub fn tokens(&self, pixels: Tensor<4>) -> Tensor<4> {
        self.layers.iter().fold(self.patch_embed.forward(pixels), |x, layer| layer.forward(x))
    }
}

/// Two stride-2 convolutions: pixels [B, 3, H, W] to a map [B, H/4, W/4, D].
#[derive(Module, Debug)]
pub struct PatchEmbed {
    /// `seq.0` and `seq.2`, a GELU between them.
    pub seq: PatchEmbedSeq,
}

/// The parameters of [`PatchEmbed`].
#[derive(Module, Debug)]
pub struct PatchEmbedSeq {
    /// 3 -> D/2.
    pub _0: Conv2dBn,
    /// D/2 -> D.
    pub _2: Conv2dBn,
}

impl PatchEmbed {
    fn new(dim: usize, init: &mut Init) -> Self {
        let _0 = Conv2dBn::new(3, dim / 2, Kernel::Dense { stride: 2 }, init);
        let _2 = Conv2dBn::new(dim / 2, dim, Kernel::Dense { stride: 2 }, init);
        Self { seq: PatchEmbedSeq { _0, _2 } }
    }

    /// `pixels` [B, 3, H, W] -> [B, H/4, W/4, D].
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<4> {
        let x = pixels.permute([0, 2, 3, 1]); // [B, H, W, 3]
        self.seq._2.forward(ops::gelu(self.seq._0.forward(x)))
    }
}

/// A layer: blocks at one resolution, then a merge to the next.
#[derive(Module, Debug)]
pub enum Layer {
    /// Layer 0.
    Conv(ConvLayer),
    /// Layers 1 to 3.
    Basic(BasicLayer),
}

impl Layer {
    /// `x` [B, h, w, D] -> [B, h', w', D'].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (x, merge) = match self {
            Self::Conv(layer) => (layer.blocks.iter().fold(x, |x, b| b.forward(x)), &layer.downsample),
            Self::Basic(layer) => (layer.blocks.iter().fold(x, |x, b| b.forward(x)), &layer.downsample),
        };
        match merge {
            Some(merge) => merge.forward(x),
            None => x,
        }
    }
}

/// Layer of inverted bottlenecks.
#[derive(Module, Debug)]
pub struct ConvLayer {
    /// At one resolution.
    pub blocks: Vec<MbConv>,
    /// To the next layer.
    pub downsample: Option<PatchMerging>,
}

/// Layer of windowed attention.
#[derive(Module, Debug)]
pub struct BasicLayer {
    /// At one resolution.
    pub blocks: Vec<TinyVitBlock>,
    /// To the next layer; absent in the last.
    pub downsample: Option<PatchMerging>,
}

/// Inverted bottleneck: 1x1, depthwise 3x3, 1x1, residual, GELU.
#[derive(Module, Debug)]
pub struct MbConv {
    /// D -> 4D.
    pub conv1: Conv2dBn,
    /// Depthwise.
    pub conv2: Conv2dBn,
    /// 4D -> D.
    pub conv3: Conv2dBn,
}

impl MbConv {
    fn new(dim: usize, init: &mut Init) -> Self {
        let hidden = EXPAND * dim;
        Self {
            conv1: Conv2dBn::new(dim, hidden, Kernel::Point, init),
            conv2: Conv2dBn::new(hidden, hidden, Kernel::Depthwise { stride: 1 }, init),
            conv3: Conv2dBn::new(hidden, dim, Kernel::Point, init),
        }
    }

    /// `x` [B, h, w, D] -> [B, h, w, D].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let y = ops::gelu(self.conv1.forward(x.clone()));
        let y = ops::gelu(self.conv2.forward(y));
        ops::gelu(x + self.conv3.forward(y))
    }
}

/// Merge between layers: 1x1, GELU, depthwise 3x3, GELU, 1x1.
#[derive(Module, Debug)]
pub struct PatchMerging {
    /// D -> D'.
    pub conv1: Conv2dBn,
    /// Depthwise; carries the stride.
    pub conv2: Conv2dBn,
    /// D' -> D'.
    pub conv3: Conv2dBn,
}

impl PatchMerging {
    fn new(dim: usize, out: usize, stride: usize, init: &mut Init) -> Self {
        Self {
            conv1: Conv2dBn::new(dim, out, Kernel::Point, init),
            conv2: Conv2dBn::new(out, out, Kernel::Depthwise { stride }, init),
            conv3: Conv2dBn::new(out, out, Kernel::Point, init),
        }
    }

    /// `x` [B, h, w, D] -> [B, h/stride, w/stride, D'].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = ops::gelu(self.conv1.forward(x));
        self.conv3.forward(ops::gelu(self.conv2.forward(x)))
    }
}

/// Windowed attention, a depthwise convolution across windows, and an MLP.
#[derive(Module, Debug)]
pub struct TinyVitBlock {
    /// Within windows.
    pub attn: WindowAttention,
    /// Feed-forward part.
    pub mlp: NormMlp,
    /// Depthwise 3x3 between the two.
    pub local_conv: Conv2dBn,
    #[module(skip)]
    window_size: usize,
}

impl TinyVitBlock {
    fn new(dim: usize, num_heads: usize, window_size: usize, init: &mut Init) -> Self {
        Self {
            attn: WindowAttention::new(dim, num_heads, window_size, init),
            mlp: NormMlp::new(dim, init),
            local_conv: Conv2dBn::new(dim, dim, Kernel::Depthwise { stride: 1 }, init),
            window_size,
        }
    }

    /// `x` [B, h, w, D] -> [B, h, w, D]. Padding comes before the attention's own norm, so padded
    /// tokens are that norm's bias, unlike in SAM's ViT; they are not masked.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let [_, h, w, d] = x.dims();
        let windows = window_partition(x.clone(), self.window_size);
        let [n, size, _, _] = windows.dims();
        let y = self.attn.forward(windows.reshape([n, size * size, d])).reshape([n, size, size, d]);
        let x = x + window_unpartition(y, self.window_size, [h, w]);
        let x = self.local_conv.forward(x);
        x.clone() + self.mlp.forward(x)
    }
}

/// Norm, linear, GELU, linear.
#[derive(Module, Debug)]
pub struct NormMlp {
    /// Before the first linear map.
    pub norm: LayerNorm,
    /// [4D, D].
    pub fc1: Linear,
    /// [D, 4D].
    pub fc2: Linear,
}

impl NormMlp {
    fn new(dim: usize, init: &mut Init) -> Self {
        Self {
            norm: LayerNorm::new(dim, LN_EPS, init),
            fc1: Linear::trunc_normal(dim, EXPAND * dim, 0.02, init),
            fc2: Linear::trunc_normal(EXPAND * dim, dim, 0.02, init),
        }
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.fc2.forward(ops::gelu(self.fc1.forward(self.norm.forward(x))))
    }
}

/// Attention over the tokens of one window with a learned bias per distance (|dy|, |dx|).
#[derive(Module, Debug)]
pub struct WindowAttention {
    /// [heads, size²]: column `|dy| * size + |dx|`.
    pub attention_biases: Param<Tensor<2>>,
    /// Before `qkv`.
    pub norm: LayerNorm,
    /// [3D, D]: per head q, k, v.
    pub qkv: Linear,
    /// [D, D].
    pub proj: Linear,
    #[module(skip)]
    size: usize,
}

impl WindowAttention {
    fn new(dim: usize, num_heads: usize, size: usize, init: &mut Init) -> Self {
        Self {
            attention_biases: init.constant([num_heads, size * size], 0.0),
            norm: LayerNorm::new(dim, LN_EPS, init),
            qkv: Linear::trunc_normal(dim, 3 * dim, 0.02, init),
            proj: Linear::trunc_normal(dim, dim, 0.02, init),
            size,
        }
    }

    /// `x` [windows, N, D] -> [windows, N, D].
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [b, n, d] = x.dims();
        let bias = self.bias(); //                                             [heads, N, N]
        let heads = bias.dims()[0];
        let c = d / heads;
        let qkv = self.qkv.forward(self.norm.forward(x)).reshape([b, n, heads, 3 * c]);
        let part = |i: usize| qkv.clone().narrow(3, i * c, c).swap_dims(1, 2); // [B, heads, N, C]
        let logits = part(0).matmul(part(1).swap_dims(2, 3)) * (c as f64).powf(-0.5);
        let y = softmax(logits + bias.unsqueeze::<4>(), 3).matmul(part(2));
        self.proj.forward(y.swap_dims(1, 2).reshape([b, n, d]))
    }

    /// The bias of each (query, key) pair of a window: [heads, N, N].
    fn bias(&self) -> Tensor<3> {
        let (size, table) = (self.size, self.attention_biases.val());
        let n = size * size;
        let distance = |q: usize, k: usize| {
            (q / size).abs_diff(k / size) * size + (q % size).abs_diff(k % size)
        };
        let index: Vec<i64> = (0..n * n).map(|i| distance(i / n, i % n) as i64).collect();
        let index = Tensor::<1, Int>::from_data(TensorData::new(index, [n * n]), &table.device());
        let heads = table.dims()[0];
        table.select(1, index).reshape([heads, n, n])
    }
}
