//! The operations that the models are written in, and the only door to `samclip-kernels`.
//!
//! Each function has a plain-tensor twin in [`plain`]; a backend without a kernel runs the twin.
//! Layout: channels last. Shapes use STYLE.md's letters.

pub mod interpolate;
pub mod plain;

mod block;
mod extension;
mod flex;
pub mod two_way;
#[cfg(test)]
mod tests;

use burn::backend::{Dispatch, DispatchDevice};
use burn::tensor::{DType, Tensor};

pub use block::{BlockActivation, BlockCache, BlockShape, Packable, PackedBytes, packed_layout};
use extension::{BlockTensors, KernelOps, Maybe};
pub(crate) use flex::in_f32;
pub use flex::{Precision, precision, set_precision};
pub use interpolate::{Interpolation, resize_2d, resize_rows};
pub use plain::RelPosBias;

/// True where the CPU kernels take the tensor: burn's Flex backend, with or without gradients, f32.
fn on_kernels<const D: usize>(x: &Tensor<D>) -> bool {
    fn flex(device: &DispatchDevice) -> bool {
        match device {
            DispatchDevice::Flex(_) => true,
            DispatchDevice::Autodiff(inner) => flex(inner),
            #[allow(unreachable_patterns)]
            _ => false,
        }
    }
    x.dtype() == DType::F32 && flex(x.device().as_dispatch())
}

/// Whether the tensor lives on a backend that records gradients, wanted or not.
pub fn tracks_gradients<const D: usize>(x: &Tensor<D>) -> bool {
    matches!(x.device().as_dispatch(), DispatchDevice::Autodiff(_))
}

/// Weights of a block as tensors: (weight, bias) of each layer.
pub struct BlockWeights {
    /// Before attention.
    pub norm1: (Tensor<1>, Tensor<1>),
    /// [3D, D].
    pub qkv: (Tensor<2>, Tensor<1>),
    /// [D, D].
    pub proj: (Tensor<2>, Tensor<1>),
    /// Before the MLP.
    pub norm2: (Tensor<1>, Tensor<1>),
    /// [hidden, D].
    pub fc1: (Tensor<2>, Tensor<1>),
    /// [D, hidden].
    pub fc2: (Tensor<2>, Tensor<1>),
}

/// A whole pre-norm block on a map [B, h, w, D] or a sequence [B, N, D], as one kernel; none where
/// there is no such kernel (gradients wanted, or another backend): the caller then takes its steps
/// one by one, which is the twin.
pub fn block<const D: usize>(
    x: &Tensor<D>,
    weights: impl FnOnce() -> BlockWeights,
    rel: impl FnOnce() -> Option<(Tensor<3>, Tensor<3>)>,
    shape: BlockShape,
    cache: &BlockCache,
) -> Option<Tensor<D>> {
    if x.dtype() != DType::F32 || !matches!(x.device().as_dispatch(), DispatchDevice::Flex(_)) {
        return None;
    }
    let w = weights();
    let weights = BlockTensors {
        norm1_weight: w.norm1.0.into_dispatch(),
        norm1_bias: w.norm1.1.into_dispatch(),
        qkv_weight: w.qkv.0.into_dispatch(),
        qkv_bias: w.qkv.1.into_dispatch(),
        proj_weight: w.proj.0.into_dispatch(),
        proj_bias: w.proj.1.into_dispatch(),
        norm2_weight: w.norm2.0.into_dispatch(),
        norm2_bias: w.norm2.1.into_dispatch(),
        fc1_weight: w.fc1.0.into_dispatch(),
        fc1_bias: w.fc1.1.into_dispatch(),
        fc2_weight: w.fc2.0.into_dispatch(),
        fc2_bias: w.fc2.1.into_dispatch(),
    };
    let (rows, cols) = rel().map(|(r, c)| (r.into_dispatch(), c.into_dispatch())).unzip();
    let (rows, cols) = (Maybe::of(rows), Maybe::of(cols));
    let x = x.clone().into_dispatch();
    Some(Tensor::from_dispatch(Dispatch::sc_block(x, weights, rows, cols, shape, cache.clone())))
}

/// `x W^T + b`. `x` [..., I], `weight` [O, I] (PyTorch layout), `bias` [O] -> [..., O].
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    if !on_kernels(&x) {
        return plain::linear(x, weight, bias);
    }
    let bias = Maybe::of(bias.map(Tensor::into_dispatch));
    Tensor::from_dispatch(Dispatch::sc_linear(x.into_dispatch(), weight.into_dispatch(), bias))
}

/// Layer normalisation over the last axis, biased variance.
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    if !on_kernels(&x) {
        return plain::layer_norm(x, weight, bias, eps);
    }
    let (weight, bias) = (weight.into_dispatch(), bias.into_dispatch());
    Tensor::from_dispatch(Dispatch::sc_layer_norm(x.into_dispatch(), weight, bias, eps))
}

/// Exact (erf) GELU.
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !on_kernels(&x) {
        return plain::gelu(x);
    }
    Tensor::from_dispatch(Dispatch::sc_pointwise(x.into_dispatch(), flex::Pointwise::Gelu))
}

/// `x * sigmoid(1.702 x)` (OpenAI CLIP).
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    if !on_kernels(&x) {
        return plain::quick_gelu(x);
    }
    Tensor::from_dispatch(Dispatch::sc_pointwise(x.into_dispatch(), flex::Pointwise::QuickGelu))
}

/// `softmax(scale * q k^T + bias) v` per head. `q` [B, heads, N, C], `k`, `v` [B, heads, M, C] ->
/// [B, heads, N, C]. `causal` masks keys after the query (text towers).
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    scale: f64,
    bias: Option<RelPosBias>,
    causal: bool,
) -> Tensor<4> {
    // The kernel aligns a causal mask to the last key; the twin to the first.
    if !on_kernels(&q) || (causal && q.dims()[2] != k.dims()[2]) {
        return plain::attention(q, k, v, scale, bias, causal);
    }
    let (rel_h, rel_w) = bias.map(|b| (b.rel_h.into_dispatch(), b.rel_w.into_dispatch())).unzip();
    let (rel_h, rel_w) = (Maybe::of(rel_h), Maybe::of(rel_w));
    let (q, k, v) = (q.into_dispatch(), k.into_dispatch(), v.into_dispatch());
    Tensor::from_dispatch(Dispatch::sc_attention(q, k, v, rel_h, rel_w, scale, causal))
}

/// Self-attention of the packed projection: `qkv` [B, N, 3·heads·C] (q, k, v side by side, heads
/// inside each) -> [B, N, heads·C]. `rel` holds the relative-position vectors of a grid of h·w = N
/// tokens, [h, h, C] by row and [w, w, C] by column; they meet the unscaled queries.
pub fn self_attention(
    qkv: Tensor<3>,
    heads: usize,
    scale: f64,
    rel: Option<(Tensor<3>, Tensor<3>)>,
    causal: bool,
) -> Tensor<3> {
    if !on_kernels(&qkv) {
        return plain::self_attention(qkv, heads, scale, rel, causal);
    }
    let (rows, cols) = rel.map(|(r, c)| (r.into_dispatch(), c.into_dispatch())).unzip();
    let (rows, cols) = (Maybe::of(rows), Maybe::of(cols));
    Tensor::from_dispatch(Dispatch::sc_self_attention(qkv.into_dispatch(), rows, cols, heads, scale, causal))
}

/// 3x3 convolution, padding 1. `x` [B, H, W, I], `weight` [O, I, 3, 3] -> [B, H/stride, W/stride, O]
/// (rounded up).
pub fn conv3x3(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize) -> Tensor<4> {
    if !on_kernels(&x) {
        return plain::conv3x3(x, weight, bias, stride);
    }
    let bias = Maybe::of(bias.map(Tensor::into_dispatch));
    Tensor::from_dispatch(Dispatch::sc_conv3x3(x.into_dispatch(), weight.into_dispatch(), bias, stride))
}

/// 3x3 convolution of each channel by itself, padding 1. `x` [B, H, W, C], `weight` [C, 1, 3, 3] ->
/// [B, H/stride, W/stride, C] (rounded up).
pub fn depthwise_conv3x3(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize) -> Tensor<4> {
    plain::depthwise_conv3x3(x, weight, bias, stride)
}

/// Convolution whose stride equals its kernel (patch embedding, mask downscaling).
/// `x` [B, H, W, I], `weight` [O, I, k, k] -> [B, H/k, W/k, O].
pub fn conv_patch(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>) -> Tensor<4> {
    let [out, inp, kh, kw] = weight.dims();
    let [batch, height, width, _] = x.dims();
    let (h, w) = (height / kh, width / kw);
    let x = if kh == 1 && kw == 1 {
        x.reshape([batch, h, w, inp])
    } else {
        x.reshape([batch * h, kh, w, kw * inp]) //   [B·h, k, w, k·I]
            .swap_dims(1, 2) //                       [B·h, w, k, k·I]
            .reshape([batch, h, w, kh * kw * inp])
    };
    let weight = weight.permute([0, 2, 3, 1]).reshape([out, kh * kw * inp]);
    linear(x, weight, bias)
}

/// Transposed convolution whose stride equals its kernel (mask upscaling).
/// `x` [B, h, w, I], `weight` [I, O, k, k] -> [B, h·k, w·k, O].
pub fn conv_transpose_patch(x: Tensor<4>, weight: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [batch, h, w, _] = x.dims();
    let [inp, out, kh, kw] = weight.dims();
    let weight = weight.permute([2, 3, 1, 0]).reshape([kh * kw * out, inp]); // [k·k·O, I]
    let bias = bias.unsqueeze_dim::<2>(0).repeat_dim(0, kh * kw).reshape([kh * kw * out]);
    linear(x, weight, Some(bias)) //                         [B, h, w, k·k·O]
        .reshape([batch * h, w, kh, kw * out])
        .swap_dims(1, 2) //                                  [B·h, k, w, k·O]
        .reshape([batch, h * kh, w * kw, out])
}
