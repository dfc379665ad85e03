//! Linear maps, embeddings and the two feed-forward shapes of SAM.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use super::Activation;
use crate::init::Init;
use crate::ops;

/// `torch.nn.Linear`.
#[derive(Module, Debug)]
pub struct Linear {
    /// [out, in].
    pub weight: Param<Tensor<2>>,
    /// [out].
    pub bias: Option<Param<Tensor<1>>>,
}

impl Linear {
    /// torch's default: both U(±1/sqrt(in)).
    pub fn new(inp: usize, out: usize, init: &mut Init) -> Self {
        let bound = (inp as f32).sqrt().recip();
        Self { weight: init.uniform([out, inp], bound), bias: Some(init.uniform([out], bound)) }
    }

    /// Truncated normal weight, zero bias (transformer blocks trained from scratch).
    pub fn trunc_normal(inp: usize, out: usize, std: f32, init: &mut Init) -> Self {
        Self { weight: init.trunc_normal([out, inp], std), bias: Some(init.constant([out], 0.0)) }
    }

    /// Weight and bias; a bias of zeros where there is none.
    pub fn parts(&self) -> (Tensor<2>, Tensor<1>) {
        let weight = self.weight.val();
        let bias = self.bias.as_ref().map(Param::val);
        let bias = bias.unwrap_or_else(|| Tensor::zeros([weight.dims()[0]], &weight.device()));
        (weight, bias)
    }

    /// `x` [..., in] -> [..., out].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::linear(x, self.weight.val(), self.bias.as_ref().map(Param::val))
    }
}

/// `torch.nn.Embedding`: a table whose rows are read by index.
#[derive(Module, Debug)]
pub struct Embedding {
    /// [rows, width].
    pub weight: Param<Tensor<2>>,
}

impl Embedding {
    /// torch's default: N(0, 1), scaled by `std`.
    pub fn new(rows: usize, width: usize, std: f32, init: &mut Init) -> Self {
        Self { weight: init.normal([rows, width], std) }
    }
}

/// SAM's `MLPBlock`: lin1, activation, lin2.
#[derive(Module, Debug)]
pub struct MlpBlock {
    /// [hidden, width].
    pub lin1: Linear,
    /// [width, hidden].
    pub lin2: Linear,
    #[module(skip)]
    act: Activation,
}

impl MlpBlock {
    /// Truncated normal weights, zero biases.
    pub fn new(width: usize, hidden: usize, act: Activation, init: &mut Init) -> Self {
        Self {
            lin1: Linear::trunc_normal(width, hidden, 0.02, init),
            lin2: Linear::trunc_normal(hidden, width, 0.02, init),
            act,
        }
    }

    /// Between the two maps.
    pub fn activation(&self) -> Activation {
        self.act
    }

    /// `x` [..., width] -> [..., width].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        self.lin2.forward(self.act.forward(self.lin1.forward(x)))
    }
}

/// SAM decoder's `MLP`: `layers.{i}` with an activation between them.
#[derive(Module, Debug)]
pub struct Mlp {
    /// The linear maps in order.
    pub layers: Vec<Linear>,
    #[module(skip)]
    act: Activation,
}

impl Mlp {
    /// A chain through `widths`, e.g. `[256, 256, 256, 32]`.
    pub fn new(widths: &[usize], act: Activation, init: &mut Init) -> Self {
        let layers = widths.windows(2).map(|w| Linear::new(w[0], w[1], init)).collect();
        Self { layers, act }
    }

    /// `x` [..., first] -> [..., last].
    pub fn forward<const D: usize>(&self, mut x: Tensor<D>) -> Tensor<D> {
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if i + 1 < self.layers.len() {
                x = self.act.forward(x);
            }
        }
        x
    }
}
