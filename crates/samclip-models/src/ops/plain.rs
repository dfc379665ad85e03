//! Plain-tensor twins of [`super`]: correct on every backend, the measure of the kernels.

use burn::tensor::activation::{sigmoid, softmax};
use burn::tensor::ops::ConvOptions;
use burn::tensor::{Bool, Tensor, module};

/// Decomposed relative-position bias of one attention call (MViTv2, arXiv 2112.01526 §4.1):
/// the logit of query i and key (y, x) gains `rel_h[i, y] + rel_w[i, x]`.
#[derive(Clone, Debug)]
pub struct RelPosBias {
    /// [B, heads, N, key height].
    pub rel_h: Tensor<4>,
    /// [B, heads, N, key width].
    pub rel_w: Tensor<4>,
}

/// See [`super::linear`].
pub fn linear<const D: usize>(x: Tensor<D>, weight: Tensor<2>, bias: Option<Tensor<1>>) -> Tensor<D> {
    let mut shape = x.dims();
    let [out, inp] = weight.dims();
    let rows = shape[..D - 1].iter().product();
    let y = x.reshape([rows, inp]).matmul(weight.transpose());
    shape[D - 1] = out;
    let y = match bias {
        Some(bias) => y + bias.unsqueeze_dim::<2>(0),
        None => y,
    };
    y.reshape(shape)
}

/// See [`super::layer_norm`].
pub fn layer_norm<const D: usize>(x: Tensor<D>, weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Tensor<D> {
    let mean = x.clone().mean_dim(D - 1);
    let x = x - mean;
    let var = x.clone().square().mean_dim(D - 1);
    x / (var + eps).sqrt() * weight.unsqueeze() + bias.unsqueeze()
}

/// See [`super::gelu`].
pub fn gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    (x.clone() * std::f64::consts::FRAC_1_SQRT_2).erf().add_scalar(1.0) * x * 0.5
}

/// See [`super::quick_gelu`].
pub fn quick_gelu<const D: usize>(x: Tensor<D>) -> Tensor<D> {
    x.clone() * sigmoid(x * 1.702)
}

/// See [`super::attention`].
pub fn attention(
    q: Tensor<4>,
    k: Tensor<4>,
    v: Tensor<4>,
    scale: f64,
    bias: Option<RelPosBias>,
    causal: bool,
) -> Tensor<4> {
    let [b, heads, n, _] = q.dims();
    let m = k.dims()[2];
    let mut logits = (q * scale).matmul(k.swap_dims(2, 3)); // [B, heads, N, M]
    if let Some(RelPosBias { rel_h, rel_w }) = bias {
        let (kh, kw) = (rel_h.dims()[3], rel_w.dims()[3]);
        let grid = rel_h.unsqueeze_dim::<5>(4) + rel_w.unsqueeze_dim::<5>(3); // [B, heads, N, kh, kw]
        logits = logits + grid.reshape([b, heads, n, kh * kw]);
    }
    if causal {
        let mask = Tensor::<2, Bool>::tril_mask([n, m], 0, &logits.device());
        logits = logits.mask_fill(mask.unsqueeze::<4>().expand([b, heads, n, m]), f32::NEG_INFINITY);
    }
    softmax(logits, 3).matmul(v)
}

/// See [`super::self_attention`].
pub fn self_attention(
    qkv: Tensor<3>,
    heads: usize,
    scale: f64,
    rel: Option<(Tensor<3>, Tensor<3>)>,
    causal: bool,
) -> Tensor<3> {
    let [b, n, width] = qkv.dims();
    let c = width / 3 / heads;
    let qkv = qkv.reshape([b, n, 3, heads, c]).permute([2, 0, 3, 1, 4]);
    let part = |i| qkv.clone().slice([i..i + 1]).reshape([b, heads, n, c]);
    let (q, k, v) = (part(0), part(1), part(2)); // [B, heads, N, C]
    let bias = rel.map(|(rows, cols)| rel_pos(q.clone(), rows, cols));
    attention(q, k, v, scale, bias, causal).swap_dims(1, 2).reshape([b, n, heads * c])
}

/// Bias terms from the unscaled queries (reference: `add_decomposed_rel_pos`).
fn rel_pos(q: Tensor<4>, rows: Tensor<3>, cols: Tensor<3>) -> RelPosBias {
    let [b, heads, n, c] = q.dims();
    let (h, w) = (rows.dims()[0], cols.dims()[0]);
    let q = q.reshape([b * heads, h, w, c]);
    let by_row = q.clone().swap_dims(0, 1).reshape([h, b * heads * w, c]);
    let rel_h = by_row
        .matmul(rows.swap_dims(1, 2)) //                 [h, B·heads·w, h']
        .reshape([h, b * heads, w, h])
        .swap_dims(0, 1)
        .reshape([b, heads, n, h]);
    let by_col = q.permute([2, 0, 1, 3]).reshape([w, b * heads * h, c]);
    let rel_w = by_col
        .matmul(cols.swap_dims(1, 2)) //                 [w, B·heads·h, w']
        .reshape([w, b * heads, h, w])
        .permute([1, 2, 0, 3])
        .reshape([b, heads, n, w]);
    RelPosBias { rel_h, rel_w }
}

/// See [`super::conv3x3`].
pub fn conv3x3(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize) -> Tensor<4> {
    let x = x.permute([0, 3, 1, 2]); // [B, I, H, W]
    let options = ConvOptions::new([stride, stride], [1, 1], [1, 1], 1);
    module::conv2d(x, weight, bias, options).permute([0, 2, 3, 1]) // [B, h, w, O]
}

/// See [`super::depthwise_conv3x3`].
pub fn depthwise_conv3x3(x: Tensor<4>, weight: Tensor<4>, bias: Option<Tensor<1>>, stride: usize) -> Tensor<4> {
    let x = x.permute([0, 3, 1, 2]); // [B, C, H, W]
    let options = ConvOptions::new([stride, stride], [1, 1], [1, 1], x.dims()[1]);
    module::conv2d(x, weight, bias, options).permute([0, 2, 3, 1]) // [B, h, w, C]
}
