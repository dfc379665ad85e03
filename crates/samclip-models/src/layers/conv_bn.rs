//! Convolution and BatchNorm as TinyViT pairs them.
//!
//! Reference: mobile_sam/modeling/tiny_vit_sam.py, `Conv2d_BN`. Parity: tests/parity_tiny_vit.rs.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::init::Init;
use crate::ops;

const BN_EPS: f64 = 1e-5;

/// Shape of a [`Conv2dBn`].
#[derive(Clone, Copy, Debug)]
pub enum Kernel {
    /// 1x1.
    Point,
    /// 3x3, padding 1.
    Dense {
        /// 1 or 2.
        stride: usize,
    },
    /// 3x3 per channel, padding 1.
    Depthwise {
        /// 1 or 2.
        stride: usize,
    },
}

/// Convolution without bias, then BatchNorm in its inference form.
#[derive(Module, Debug)]
pub struct Conv2dBn {
    /// The convolution.
    pub c: ConvWeight,
    /// The norm.
    pub bn: BatchNorm,
    #[module(skip)]
    kernel: Kernel,
}

/// Weight of a convolution, [out, in / groups, k, k].
#[derive(Module, Debug)]
pub struct ConvWeight {
    /// [out, in / groups, k, k].
    pub weight: Param<Tensor<4>>,
}

/// `torch.nn.BatchNorm2d` with fixed statistics.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// [C].
    pub weight: Param<Tensor<1>>,
    /// [C].
    pub bias: Param<Tensor<1>>,
    /// [C], a buffer: never trained.
    pub running_mean: Param<Tensor<1>>,
    /// [C], a buffer: never trained.
    pub running_var: Param<Tensor<1>>,
}

impl Conv2dBn {
    /// torch's default weight; the norm is the identity.
    pub fn new(inp: usize, out: usize, kernel: Kernel, init: &mut Init) -> Self {
        let (inp, k) = match kernel {
            Kernel::Point => (inp, 1),
            Kernel::Dense { .. } => (inp, 3),
            Kernel::Depthwise { .. } => (1, 3),
        };
        let bound = ((inp * k * k) as f32).sqrt().recip();
        let bn = BatchNorm {
            weight: init.constant([out], 1.0),
            bias: init.constant([out], 0.0),
            running_mean: init.constant([out], 0.0).set_require_grad(false),
            running_var: init.constant([out], 1.0).set_require_grad(false),
        };
        Self { c: ConvWeight { weight: init.uniform([out, inp, k, k], bound) }, bn, kernel }
    }

    /// `x` [B, h, w, I] -> [B, h/stride, w/stride, O]. The norm is folded into the convolution:
    /// with s = weight / sqrt(var + eps), y = conv(x; s W) + (bias - mean s).
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let scale = self.bn.weight.val() / (self.bn.running_var.val() + BN_EPS).sqrt(); // [O]
        let shift = self.bn.bias.val() - self.bn.running_mean.val() * scale.clone(); //    [O]
        let out = scale.dims()[0];
        let weight = self.c.weight.val() * scale.reshape([out, 1, 1, 1]);
        match self.kernel {
            Kernel::Point => ops::conv_patch(x, weight, Some(shift)),
            Kernel::Dense { stride } => ops::conv3x3(x, weight, Some(shift), stride),
            Kernel::Depthwise { stride } => ops::depthwise_conv3x3(x, weight, Some(shift), stride),
        }
    }
}
