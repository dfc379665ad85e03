//! Convolutions on channels-last maps with PyTorch's weight layout.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::ops;

/// `torch.nn.Conv2d` in the two forms that the models use: kernel = stride, and 3x3 with padding 1.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// [out, in, k, k].
    pub weight: Param<Tensor<4>>,
    /// [out].
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    stride: usize,
}

impl Conv2d {
    /// torch's default initialisation. `stride` must be `kernel`, or `kernel` 3 with padding 1.
    pub fn new(inp: usize, out: usize, kernel: usize, stride: usize, bias: bool, init: &mut Init) -> Self {
        debug_assert!(kernel == stride || kernel == 3);
        let bound = ((inp * kernel * kernel) as f32).sqrt().recip();
        Self {
            weight: init.uniform([out, inp, kernel, kernel], bound),
            bias: bias.then(|| init.uniform([out], bound)),
            stride,
        }
    }

    /// `x` [B, H, W, I] -> [B, H/stride, W/stride, O].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let weight = self.weight.val();
        let bias = self.bias.as_ref().map(Param::val);
        if weight.dims()[2] == self.stride {
            ops::conv_patch(x, weight, bias)
        } else {
            ops::conv3x3(x, weight, bias, self.stride)
        }
    }
}

/// `torch.nn.ConvTranspose2d` with kernel = stride = 2.
#[derive(Module, Debug)]
pub struct ConvTranspose2d {
    /// [in, out, 2, 2].
    pub weight: Param<Tensor<4>>,
    /// [out].
    pub bias: Param<Tensor<1>>,
}

impl ConvTranspose2d {
    /// torch's default initialisation.
    pub fn new(inp: usize, out: usize, init: &mut Init) -> Self {
        let bound = ((out * 4) as f32).sqrt().recip();
        Self { weight: init.uniform([inp, out, 2, 2], bound), bias: init.uniform([out], bound) }
    }

    /// `x` [B, h, w, I] -> [B, 2h, 2w, O].
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        ops::conv_transpose_patch(x, self.weight.val(), self.bias.val())
    }
}
