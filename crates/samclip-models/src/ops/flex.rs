//! `samclip-kernels` on the CPU backend's tensors: forward and gradients.

use std::cell::Cell;
use std::sync::atomic::{AtomicBool, Ordering};

use burn::backend::flex::FlexTensor;
use burn::tensor::{Shape, TensorData};
use samclip_kernels as kernels;
use samclip_kernels::{
    AttentionGrads, AttentionShape, Conv3x3, Init, Layout, RelPos, RelTables, RowStrides, Saved, TableGrads,
};

pub use samclip_kernels::Precision;

static BF16: AtomicBool = AtomicBool::new(false);

/// Chooses how the CPU kernels multiply matrices, for the whole process. [`Precision::Bf16`] rounds
/// operands to bf16 where the processor multiplies them (AMX, AVX-512 BF16) and keeps f32 sums; elsewhere it is f32.
pub fn set_precision(precision: Precision) {
    BF16.store(precision == Precision::Bf16, Ordering::Relaxed);
}

/// The choice of [`set_precision`]; f32 at first.
pub fn precision() -> Precision {
    if BF16.load(Ordering::Relaxed) { Precision::Bf16 } else { Precision::F32 }
}

thread_local! {
    static IN_F32: Cell<bool> = const { Cell::new(false) };
}

/// What `work` returns; the products of tensors that it calls for on this thread are in f32 whatever [`precision`] says.
pub(crate) fn in_f32<T>(work: impl FnOnce() -> T) -> T {
    struct Before(bool);
    impl Drop for Before {
        fn drop(&mut self) {
            IN_F32.set(self.0);
        }
    }
    let _before = Before(IN_F32.replace(true));
    work()
}

/// Of a product of tensors that is called for now.
fn precision_here() -> Precision {
    if IN_F32.get() { Precision::F32 } else { precision() }
}

/// A tensor whose elements follow each other.
pub(super) fn dense(t: FlexTensor) -> FlexTensor {
    if t.as_slice::<f32>().is_some() { t } else { t.to_contiguous() }
}

/// Elements of a [`dense`] tensor.
pub(super) fn slice(t: &FlexTensor) -> &[f32] {
    t.as_slice::<f32>().expect("a dense f32 tensor")
}

pub(super) fn dims(t: &FlexTensor) -> Vec<usize> {
    t.layout().shape().iter().copied().collect()
}

pub(super) fn tensor(data: Vec<f32>, shape: impl Into<Shape>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(data, shape))
}

fn zeros_like(t: &FlexTensor) -> Vec<f32> {
    vec![0.0; t.layout().num_elements()]
}

/// (rows, last axis).
fn rows(t: &FlexTensor) -> (usize, usize) {
    let last = dims(t).last().copied().unwrap_or(1);
    (t.layout().num_elements().checked_div(last).unwrap_or(0), last)
}

/// Inputs of one linear map, kept for its gradients.
#[derive(Clone, Debug)]
pub(super) struct Linear {
    pub x: FlexTensor,
    pub weight: FlexTensor,
    pub precision: Precision,
}

impl Linear {
    pub(super) fn new(x: FlexTensor, weight: FlexTensor) -> Self {
        Self { x: dense(x), weight: dense(weight), precision: precision_here() }
    }

    pub(super) fn forward(&self, bias: Option<FlexTensor>) -> FlexTensor {
        let ((m, k), (n, _)) = (rows(&self.x), rows(&self.weight));
        let mut shape = dims(&self.x);
        *shape.last_mut().expect("at least one axis") = n;
        let mut y = vec![0.0; m * n];
        let bias = bias.map(dense);
        let init = bias.as_ref().map_or(Init::Zero, |b| Init::Bias(slice(b)));
        let (x, w) = (slice(&self.x), slice(&self.weight));
        kernels::gemm(self.precision, [m, n, k], (x, Layout::Normal), (w, Layout::Transposed), &mut y, init);
        tensor(y, shape)
    }

    pub(super) fn grad_x(&self, dy: &FlexTensor) -> FlexTensor {
        let ((m, k), (n, _)) = (rows(&self.x), rows(&self.weight));
        let mut dx = zeros_like(&self.x);
        let (dy, w) = (slice(dy), slice(&self.weight));
        kernels::gemm(self.precision, [m, k, n], (dy, Layout::Normal), (w, Layout::Normal), &mut dx, Init::Zero);
        tensor(dx, dims(&self.x))
    }

    pub(super) fn grad_weight(&self, dy: &FlexTensor) -> FlexTensor {
        let ((m, k), (n, _)) = (rows(&self.x), rows(&self.weight));
        let mut dw = zeros_like(&self.weight);
        let (dy, x) = (slice(dy), slice(&self.x));
        kernels::gemm(self.precision, [n, k, m], (dy, Layout::Transposed), (x, Layout::Normal), &mut dw, Init::Zero);
        tensor(dw, [n, k])
    }
}

/// Sum over all axes but the last.
pub(super) fn grad_bias(dy: &FlexTensor) -> FlexTensor {
    let (_, n) = rows(dy);
    let mut db = vec![0.0; n];
    kernels::column_sums(slice(dy), &mut db);
    tensor(db, [n])
}

/// A function of one tensor, element by element.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pointwise {
    /// Exact GELU.
    Gelu,
    /// `x sigmoid(1.702 x)`.
    QuickGelu,
}

impl Pointwise {
    pub(super) fn forward(self, x: FlexTensor) -> FlexTensor {
        let x = dense(x);
        let mut y = zeros_like(&x);
        match self {
            Self::Gelu => kernels::gelu(slice(&x), &mut y),
            Self::QuickGelu => kernels::quick_gelu(slice(&x), &mut y),
        }
        tensor(y, dims(&x))
    }

    pub(super) fn backward(self, x: &FlexTensor, dy: FlexTensor) -> FlexTensor {
        let dy = dense(dy);
        let mut dx = zeros_like(x);
        match self {
            Self::Gelu => kernels::gelu_backward(slice(x), slice(&dy), &mut dx),
            Self::QuickGelu => kernels::quick_gelu_backward(slice(x), slice(&dy), &mut dx),
        }
        tensor(dx, dims(x))
    }
}

/// Inputs of one layer norm.
#[derive(Clone, Debug)]
pub(super) struct Norm {
    pub x: FlexTensor,
    pub weight: FlexTensor,
    pub eps: f64,
}

impl Norm {
    pub(super) fn forward(&self, bias: FlexTensor) -> FlexTensor {
        let mut y = zeros_like(&self.x);
        let bias = dense(bias);
        kernels::layer_norm(slice(&self.x), slice(&self.weight), slice(&bias), self.eps as f32, &mut y);
        tensor(y, dims(&self.x))
    }

    /// (x, weight, bias)
    pub(super) fn backward(&self, dy: FlexTensor) -> [FlexTensor; 3] {
        let dy = dense(dy);
        let (mut dx, mut dw) = (zeros_like(&self.x), zeros_like(&self.weight));
        let mut db = dw.clone();
        let (x, w) = (slice(&self.x), slice(&self.weight));
        kernels::layer_norm_backward(x, w, slice(&dy), self.eps as f32, &mut dx, &mut dw, &mut db);
        let n = dw.len();
        [tensor(dx, dims(&self.x)), tensor(dw, [n]), tensor(db, [n])]
    }
}

/// Inputs of one 3x3 convolution; the weight is `[O, 3, 3, I]`, dense.
#[derive(Clone, Debug)]
pub(super) struct Conv {
    pub x: FlexTensor,
    pub weight: FlexTensor,
    pub stride: usize,
    pub precision: Precision,
}

impl Conv {
    /// `weight` is PyTorch's `[O, I, 3, 3]`.
    pub(super) fn new(x: FlexTensor, weight: FlexTensor, stride: usize) -> Self {
        let weight = weight.permute(&[0, 2, 3, 1]).to_contiguous();
        Self { x: dense(x), weight, stride, precision: precision_here() }
    }

    fn sizes(&self) -> Conv3x3 {
        let d = dims(&self.x);
        Conv3x3 { batch: d[0], height: d[1], width: d[2], channels: d[3], stride: self.stride }
    }

    pub(super) fn forward(&self, bias: Option<FlexTensor>) -> FlexTensor {
        let c = self.sizes();
        let ((h, w), out) = (c.output(), dims(&self.weight)[0]);
        let mut y = vec![0.0; c.batch * h * w * out];
        let bias = bias.map(dense);
        kernels::conv3x3(self.precision, &c, slice(&self.x), slice(&self.weight), bias.as_ref().map(slice), &mut y);
        tensor(y, [c.batch, h, w, out])
    }

    /// (x where asked for, weight, bias)
    pub(super) fn backward(&self, dy: FlexTensor, want_x: bool) -> (Option<FlexTensor>, FlexTensor, FlexTensor) {
        let (c, dy) = (self.sizes(), dense(dy));
        let mut dx = want_x.then(|| zeros_like(&self.x));
        let mut dw = zeros_like(&self.weight);
        let mut db = vec![0.0; dims(&self.weight)[0]];
        let (x, w) = (slice(&self.x), slice(&self.weight));
        kernels::conv3x3_backward(self.precision, &c, x, w, slice(&dy), dx.as_deref_mut(), &mut dw, Some(&mut db));
        let dw = tensor(dw, dims(&self.weight)).permute(&[0, 3, 1, 2]);
        let n = db.len();
        (dx.map(|dx| tensor(dx, dims(&self.x))), dw, tensor(db, [n]))
    }
}

/// Inputs of one attention call, all `[B, heads, N, C]` with any outer strides.
#[derive(Clone, Debug)]
pub(super) struct Attention {
    pub qkv: [FlexTensor; 3],
    pub rel: Option<[FlexTensor; 2]>,
    pub scale: f64,
    pub causal: bool,
    pub precision: Precision,
}

/// Rows that the kernels can read: the last axis dense.
fn with_rows(t: FlexTensor) -> FlexTensor {
    let s = t.layout().strides();
    let fits = s[3] == 1 && s.iter().all(|&s| s >= 0);
    if fits { t } else { t.to_contiguous() }
}

fn view(t: &FlexTensor) -> (&[f32], RowStrides) {
    let (layout, s) = (t.layout(), t.layout().strides());
    let strides = RowStrides { batch: s[0] as usize, head: s[1] as usize, row: s[2] as usize };
    (&t.storage::<f32>()[layout.start_offset()..], strides)
}

/// `[B, N, heads, C]` in memory, seen as `[B, heads, N, C]`: what the layers around attention want.
struct TokenMajor {
    data: Vec<f32>,
    shape: [usize; 4],
    strides: RowStrides,
}

impl TokenMajor {
    fn new(t: &FlexTensor) -> Self {
        let d = dims(t);
        let strides = RowStrides::token_major(d[2], d[1] * d[3], d[3]);
        Self { data: vec![0.0; t.layout().num_elements()], shape: [d[0], d[2], d[1], d[3]], strides }
    }
    fn finish(self) -> FlexTensor {
        tensor(self.data, self.shape).permute(&[0, 2, 1, 3])
    }
}

impl Attention {
    pub(super) fn new(qkv: [FlexTensor; 3], rel: Option<[FlexTensor; 2]>, scale: f64, causal: bool) -> Self {
        let (qkv, rel) = (qkv.map(with_rows), rel.map(|r| r.map(dense)));
        Self { qkv, rel, scale, causal, precision: precision_here() }
    }

    fn shape(&self) -> AttentionShape {
        let (q, k) = (dims(&self.qkv[0]), dims(&self.qkv[1]));
        AttentionShape {
            batch: q[0],
            heads: q[1],
            queries: q[2],
            keys: k[2],
            head_dim: q[3],
            scale: self.scale as f32,
            causal: self.causal,
        }
    }

    fn rel_pos(&self) -> Option<RelPos<'_>> {
        let last = |t: &FlexTensor| dims(t)[3];
        self.rel.as_ref().map(|[h, w]| RelPos { h: slice(h), w: slice(w), grid: (last(h), last(w)) })
    }

    /// Output `[B, heads, N, C]` and log-sum-exp.
    pub(super) fn forward(&self) -> (FlexTensor, Vec<f32>) {
        let shape = self.shape();
        let [q, k, v] = &self.qkv;
        let mut out = TokenMajor::new(q);
        let mut lse = vec![0.0; shape.batch * shape.heads * shape.queries];
        let target = (&mut out.data[..], out.strides);
        kernels::attention_forward(self.precision, &shape, view(q), view(k), view(v), self.rel_pos(), target, &mut lse);
        (out.finish(), lse)
    }

    /// Gradients of q, k, v and of the relative positions.
    pub(super) fn backward(&self, out: &FlexTensor, lse: &[f32], dy: FlexTensor) -> ([FlexTensor; 3], Option<[FlexTensor; 2]>) {
        let shape = self.shape();
        let [q, k, v] = self.qkv.clone().map(|t| t.to_contiguous());
        // The output's memory is token-major; its gradient must lie the same way.
        let dy = dy.permute(&[0, 2, 1, 3]).to_contiguous();
        let strides = view(out).1;
        let [mut dq, mut dk, mut dv] = [zeros_like(&q), zeros_like(&k), zeros_like(&v)];
        let mut rel = self.rel.as_ref().map(|r| r.each_ref().map(zeros_like));
        let grads = AttentionGrads {
            q: &mut dq,
            k: &mut dk,
            v: &mut dv,
            rel: rel.as_mut().map(|[h, w]| (&mut h[..], &mut w[..])),
        };
        let (o, g) = ((view(out).0, strides), slice(&dy));
        let (pos, p) = (self.rel_pos(), self.precision);
        kernels::attention_backward(p, &shape, view(&q), view(&k), view(&v), pos, o, lse, g, grads);
        let qkv = [tensor(dq, dims(&q)), tensor(dk, dims(&k)), tensor(dv, dims(&v))];
        let rel = rel.zip(self.rel.as_ref()).map(|([h, w], [th, tw])| [tensor(h, dims(th)), tensor(w, dims(tw))]);
        (qkv, rel)
    }
}

/// Inputs of self-attention on the packed projection `[B, N, 3 D]`.
#[derive(Clone, Debug)]
pub(super) struct SelfAttention {
    pub qkv: FlexTensor,
    /// Rows `[h, h, C]` and columns `[w, w, C]` of relative positions.
    pub rel: Option<[FlexTensor; 2]>,
    pub heads: usize,
    pub scale: f64,
    pub causal: bool,
    pub precision: Precision,
}

impl SelfAttention {
    pub(super) fn new(qkv: FlexTensor, rel: Option<[FlexTensor; 2]>, heads: usize, scale: f64, causal: bool) -> Self {
        let (qkv, rel) = (dense(qkv), rel.map(|r| r.map(dense)));
        Self { qkv, rel, heads, scale, causal, precision: precision_here() }
    }

    fn shape(&self) -> AttentionShape {
        let d = dims(&self.qkv);
        AttentionShape {
            batch: d[0],
            heads: self.heads,
            queries: d[1],
            keys: d[1],
            head_dim: d[2] / 3 / self.heads,
            scale: self.scale as f32,
            causal: self.causal,
        }
    }

    fn tables(&self) -> Option<RelTables<'_>> {
        let side = |t: &FlexTensor| dims(t)[0];
        self.rel.as_ref().map(|[r, c]| RelTables { rows: slice(r), cols: slice(c), grid: (side(r), side(c)) })
    }

    pub(super) fn forward(&self) -> (FlexTensor, Saved) {
        let s = self.shape();
        let width = s.heads * s.head_dim;
        let mut out = vec![0.0; s.batch * s.queries * width];
        let saved = kernels::self_attention(self.precision, &s, slice(&self.qkv), self.tables(), &mut out);
        (tensor(out, [s.batch, s.queries, width]), saved)
    }

    /// Gradients of qkv and of the relative positions.
    pub(super) fn backward(&self, out: &FlexTensor, saved: &Saved, dy: FlexTensor) -> (FlexTensor, Option<[FlexTensor; 2]>) {
        let (s, dy) = (self.shape(), dense(dy));
        let mut dqkv = zeros_like(&self.qkv);
        let mut rel = self.rel.as_ref().map(|r| r.each_ref().map(zeros_like));
        let grads = rel.as_mut().map(|[rows, cols]| TableGrads { rows, cols });
        let (qkv, tables) = (slice(&self.qkv), self.tables());
        kernels::self_attention_backward(self.precision, &s, qkv, tables, saved, slice(out), slice(&dy), &mut dqkv, grads);
        let rel = rel.zip(self.rel.as_ref()).map(|([r, c], [tr, tc])| [tensor(r, dims(tr)), tensor(c, dims(tc))]);
        (tensor(dqkv, dims(&self.qkv)), rel)
    }
}
