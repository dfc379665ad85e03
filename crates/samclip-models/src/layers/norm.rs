//! Layer normalisation over channels.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::ops;

/// `torch.nn.LayerNorm` over the last axis. SAM's `LayerNorm2d` is the same function with channels
/// last, which is how this crate keeps its maps.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// [C].
    pub weight: Param<Tensor<1>>,
    /// [C].
    pub bias: Param<Tensor<1>>,
    #[module(skip)]
    eps: f64,
}

impl LayerNorm {
    /// Weight 1, bias 0.
    pub fn new(width: usize, eps: f64, init: &mut Init) -> Self {
        Self { weight: init.constant([width], 1.0), bias: init.constant([width], 0.0), eps }
    }

    /// Weight and bias.
    pub fn parts(&self) -> (Tensor<1>, Tensor<1>) {
        (self.weight.val(), self.bias.val())
    }

    /// Added to the variance.
    pub fn eps(&self) -> f64 {
        self.eps
    }

    /// `x` [..., C] -> [..., C].
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        ops::layer_norm(x, self.weight.val(), self.bias.val(), self.eps)
    }
}
