//! The tensors that CLIP-Guided SAM adds to a block: regular and semantic adapters, LoRA.
//!
//! Paper: CLIP-Guided SAM (arXiv 2605.24807) §3.3, eqs. 4-7; SU-SAM (Adapter, `D_fc1`, `D_fc2`);
//! LoRA (arXiv 2106.09685). Widths follow from Table 1: full-width projections per block, bottleneck
//! 0.25 D. Parity: tests/parity_clip_guided.rs against a PyTorch implementation written for the test.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::config::{AdapterConfig, AttentionAdapter, MlpAdapter};
use super::guidance::Guidance;
use crate::init::Init;
use crate::layers::Linear;
use crate::ops::{self, Interpolation};

/// Bottleneck: `W_up GELU(W_down x)`.
#[derive(Module, Debug)]
pub struct Adapter {
    /// [bottleneck, D].
    pub w_down: Linear,
    /// [D, bottleneck].
    pub w_up: Linear,
}

impl Adapter {
    fn new(dim: usize, config: &AdapterConfig, init: &mut Init) -> Self {
        let hidden = config.bottleneck;
        let w_down = Linear::new(dim, hidden, init);
        let w_up = match config.zero_init {
            true => Linear { weight: init.constant([dim, hidden], 0.0), bias: Some(init.constant([dim], 0.0)) },
            false => Linear::new(hidden, dim, init),
        };
        Self { w_down, w_up }
    }

    /// `x` [..., D] -> [..., D].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.w_up.forward(ops::gelu(self.w_down.forward(x)))
    }
}

/// An adapter at the MLP that may see CLIP's patches and the class's text.
#[derive(Module, Debug)]
pub struct SemanticAdapter {
    /// Patches plus similarity to the block's width, [D, E]; none where no map is injected.
    pub w_v: Option<Linear>,
    /// Text to the block's width, [D, E]; none where no text is injected.
    pub w_t: Option<Linear>,
    /// The bottleneck.
    pub adapter: Adapter,
    #[module(skip)]
    text_act: bool,
}

impl SemanticAdapter {
    fn new(dim: usize, embed_dim: usize, config: &AdapterConfig, init: &mut Init) -> Self {
        let inject = config.inject;
        Self {
            w_v: inject.map().then(|| Linear::new(embed_dim, dim, init)),
            w_t: inject.text.then(|| Linear::new(embed_dim, dim, init)),
            adapter: Adapter::new(dim, config, init),
            text_act: config.text_act,
        }
    }

    /// Eqs. 4-7: `x` [P, h, w, D], the map that enters the block's MLP -> A [P, h, w, D].
    pub fn forward(&self, x: Tensor<4>, guidance: Option<&Guidance>) -> Tensor<4> {
        let Some(guidance) = guidance else { return self.adapter.forward(x) };
        let [_, h, w, _] = x.dims();
        let mut x = x;
        if let (Some(w_v), Some(e)) = (&self.w_v, &guidance.e) {
            x = x + visual(w_v.forward(e.clone()), guidance.grid, [h, w]);
        }
        if let Some(w_t) = &self.w_t {
            x = x + self.text(w_t, guidance.text.clone());
        }
        self.adapter.forward(x)
    }

    /// Eq. 5: `text` [P, E] -> T [P, 1, 1, D].
    fn text(&self, w_t: &Linear, text: Tensor<2>) -> Tensor<4> {
        let t = w_t.forward(text); // [P, D]
        let t = if self.text_act { ops::gelu(t) } else { t };
        let [p, d] = t.dims();
        t.reshape([p, 1, 1, d])
    }
}

/// Eq. 4 after the projection: `v` [P, N, D] on CLIP's grid -> V [P, h, w, D] on SAM's. The
/// projection comes first: both are linear, and CLIP's grid is the smaller one.
fn visual(v: Tensor<3>, [gh, gw]: [usize; 2], size: [usize; 2]) -> Tensor<4> {
    let [p, _, d] = v.dims();
    let v = v.reshape([p, gh, gw, d]);
    if [gh, gw] == size {
        return v;
    }
    let v = ops::resize_2d(v.permute([0, 3, 1, 2]), size, Interpolation::Bilinear); // [P, D, h, w]
    v.permute([0, 2, 3, 1])
}

/// Low-rank updates of queries and values: `q += B_q A_q x`, `v += B_v A_v x` (spec 7).
#[derive(Module, Debug)]
pub struct Lora {
    /// [r, D].
    pub a_q: Param<Tensor<2>>,
    /// [D, r], zero at the start.
    pub b_q: Param<Tensor<2>>,
    /// [r, D].
    pub a_v: Param<Tensor<2>>,
    /// [D, r], zero at the start.
    pub b_v: Param<Tensor<2>>,
}

impl Lora {
    fn new(dim: usize, rank: usize, init: &mut Init) -> Self {
        let bound = (dim as f32).sqrt().recip();
        Self {
            a_q: init.uniform([rank, dim], bound),
            b_q: init.constant([dim, rank], 0.0),
            a_v: init.uniform([rank, dim], bound),
            b_v: init.constant([dim, rank], 0.0),
        }
    }

    /// The joint projection with the updates: `qkv` [3D, D] -> [3D, D].
    pub fn apply(&self, qkv: Tensor<2>) -> Tensor<2> {
        let q = self.b_q.val().matmul(self.a_q.val()); // [D, D]
        let v = self.b_v.val().matmul(self.a_v.val());
        let k = Tensor::zeros(q.dims(), &q.device());
        qkv + Tensor::cat(vec![q, k, v], 0)
    }
}

/// What one block carries.
#[derive(Module, Debug)]
pub struct BlockAdapters {
    /// At the attention.
    pub regular: Option<Adapter>,
    /// At the MLP.
    pub semantic: Option<SemanticAdapter>,
    /// Inside the attention.
    pub lora: Option<Lora>,
}

impl BlockAdapters {
    /// The adapters of an encoder of `depth` blocks of width `dim`; the first ones are empty.
    pub fn stack(config: &AdapterConfig, [depth, dim, embed_dim]: [usize; 3], init: &mut Init) -> Vec<Self> {
        let first = depth.saturating_sub(config.blocks);
        (0..depth).map(|i| Self::new(config, i >= first, dim, embed_dim, init)).collect()
    }

    fn new(config: &AdapterConfig, carries: bool, dim: usize, embed_dim: usize, init: &mut Init) -> Self {
        let regular = carries && config.attention != AttentionAdapter::None;
        let semantic = carries && config.mlp != MlpAdapter::None;
        Self {
            regular: regular.then(|| Adapter::new(dim, config, init)),
            semantic: semantic.then(|| SemanticAdapter::new(dim, embed_dim, config, init)),
            lora: (carries && config.lora_rank > 0).then(|| Lora::new(dim, config.lora_rank, init)),
        }
    }

    /// Whether the block is SAM's own.
    pub fn is_empty(&self) -> bool {
        self.regular.is_none() && self.semantic.is_none() && self.lora.is_none()
    }
}
