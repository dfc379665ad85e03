//! Heads that probe a frozen backbone: linear, DeepLabV3, PSPNet.
//!
//! Paper: SAM-CLIP (arXiv 2310.15308) §4.3 "head probing evaluations", spec 5.7. Reference of the heads: DeepLabV3
//! (arXiv 1706.05587) in torchvision, `models/segmentation/deeplabv3.py`, `ASPP`; PSPNet (arXiv 1612.01105). Sizes are those
//! of the paper's code base (docs/papers/sam_clip.md). Parity: tests/parity_probe.rs, max |Δ| <= 1e-5, in inference and in
//! training form (batch statistics, gradients).
//!
//! Deviation: torchvision's DeepLabV3 has one more 3x3 layer behind the pyramid; the paper's code base does not.

use burn::module::Module;
use burn::tensor::activation::relu;
use burn::tensor::{Tensor, TensorData};

use crate::init::Init;
use crate::layers::{BatchNorm, Conv2d, ConvWeight};
use crate::ops;

const BN_EPS: f64 = 1e-5;

/// Which head, and its sizes.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum ProbeHeadConfig {
    /// A 1x1 convolution.
    Linear {},
    /// Atrous spatial pyramid pooling.
    DeeplabV3 {
        /// Width of every branch.
        channels: usize,
        /// Dilations of the three 3x3 branches, in tokens.
        rates: [usize; 3],
        /// Share of channels that training drops before the classifier.
        dropout: f32,
    },
    /// Pyramid pooling.
    PspNet {
        /// Width behind the pyramid.
        channels: usize,
        /// Width of every pooled branch.
        pool_channels: usize,
        /// Cells along a side of every pooled branch.
        pools: Vec<usize>,
        /// Share of channels that training drops before the classifier.
        dropout: f32,
    },
}

impl ProbeHeadConfig {
    /// The head on features of `width` channels with initial values from `init`.
    pub fn init(&self, width: usize, classes: usize, init: &mut Init) -> ProbeHead {
        let pyramid = match self {
            Self::Linear {} => None,
            Self::DeeplabV3 { channels, rates, .. } => Some(Pyramid::Aspp(Aspp::new(width, *channels, *rates, init))),
            Self::PspNet { channels, pool_channels, pools, .. } => {
                Some(Pyramid::Ppm(Ppm::new(width, *channels, *pool_channels, pools, init)))
            }
        };
        ProbeHead { pyramid, classifier: Conv2d::new(self.classifier_width(width), classes, 1, 1, true, init) }
    }

    /// Share of channels that training drops.
    pub fn dropout(&self) -> f32 {
        match self {
            Self::Linear {} => 0.0,
            Self::DeeplabV3 { dropout, .. } | Self::PspNet { dropout, .. } => *dropout,
        }
    }

    /// Width of what the classifier sees, for features of `width` channels.
    pub fn classifier_width(&self, width: usize) -> usize {
        match self {
            Self::Linear {} => width,
            Self::DeeplabV3 { channels, .. } | Self::PspNet { channels, .. } => *channels,
        }
    }

    /// What no head can have: zero sizes, a share that is none.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn check(&self) -> Result<(), String> {
        let positive = match self {
            Self::Linear {} => true,
            Self::DeeplabV3 { channels, rates, .. } => *channels > 0 && rates.iter().all(|r| *r > 0),
            Self::PspNet { channels, pool_channels, pools, .. } => {
                *channels > 0 && *pool_channels > 0 && !pools.is_empty() && pools.iter().all(|p| *p > 0)
            }
        };
        match positive && (0.0..1.0).contains(&self.dropout()) {
            true => Ok(()),
            false => Err("a head needs positive sizes and a dropout in [0, 1)".into()),
        }
    }
}

/// What a training pass needs besides the features, and what it leaves behind.
#[derive(Debug, Default)]
pub struct TrainPass {
    /// Dropout before the classifier: [B, 1, 1, C], zero or one over the share that is kept.
    pub keep: Option<Tensor<4>>,
    /// Mean and unbiased variance over the batch of every BatchNorm, in the order of the parameters.
    pub statistics: Vec<(Vec<f32>, Vec<f32>)>,
}

/// Features to class logits.
#[derive(Module, Debug)]
pub struct ProbeHead {
    /// Context around every token; a linear head has none.
    pub pyramid: Option<Pyramid>,
    /// 1x1.
    pub classifier: Conv2d,
}

impl ProbeHead {
    /// `x` [B, h, w, D] -> [B, h, w, K], with the stored statistics.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.run(x, None)
    }

    /// The same in training: statistics of the batch, dropout.
    pub fn forward_train(&self, x: Tensor<4>, pass: &mut TrainPass) -> Tensor<4> {
        self.run(x, Some(pass))
    }

    fn run(&self, x: Tensor<4>, mut pass: Option<&mut TrainPass>) -> Tensor<4> {
        let x = match &self.pyramid {
            None => x,
            Some(Pyramid::Aspp(aspp)) => aspp.forward(x, pass.as_deref_mut()),
            Some(Pyramid::Ppm(ppm)) => ppm.forward(x, pass.as_deref_mut()),
        };
        let x = match pass.and_then(|pass| pass.keep.clone()) {
            Some(keep) => x * keep,
            None => x,
        };
        self.classifier.forward(x)
    }
}

/// What stands before the classifier.
#[derive(Module, Debug)]
pub enum Pyramid {
    /// DeepLabV3's.
    Aspp(Aspp),
    /// PSPNet's.
    Ppm(Ppm),
}

/// Convolution without bias, BatchNorm, ReLU.
#[derive(Module, Debug)]
pub struct ConvBnRelu {
    /// [out, in, k, k].
    pub conv: ConvWeight,
    /// Over the batch in training.
    pub bn: BatchNorm,
    #[module(skip)]
    rate: usize,
}

impl ConvBnRelu {
    /// A kernel of 1 or 3 with a dilation; torch's default weight, the norm is the identity.
    fn new(inp: usize, out: usize, kernel: usize, rate: usize, init: &mut Init) -> Self {
        let bound = ((inp * kernel * kernel) as f32).sqrt().recip();
        let bn = BatchNorm {
            weight: init.constant([out], 1.0),
            bias: init.constant([out], 0.0),
            running_mean: init.constant([out], 0.0).set_require_grad(false),
            running_var: init.constant([out], 1.0).set_require_grad(false),
        };
        Self { conv: ConvWeight { weight: init.uniform([out, inp, kernel, kernel], bound) }, bn, rate }
    }

    /// `x` [B, h, w, I] -> [B, h, w, O].
    fn forward(&self, x: Tensor<4>, pass: Option<&mut TrainPass>) -> Tensor<4> {
        let weight = self.conv.weight.val();
        let x = match (weight.dims()[2], self.rate) {
            (1, _) => ops::conv_patch(x, weight, None),
            (_, 1) => ops::conv3x3(x, weight, None, 1),
            (_, rate) => atrous3x3(x, weight, rate),
        };
        relu(batch_norm(x, &self.bn, pass))
    }
}

/// BatchNorm over all but the channels. `x` [B, h, w, C] -> [B, h, w, C].
fn batch_norm(x: Tensor<4>, bn: &BatchNorm, pass: Option<&mut TrainPass>) -> Tensor<4> {
    let [b, h, w, c] = x.dims();
    let n = b * h * w;
    let flat = x.reshape([n, c]); // [N, C]
    let (mean, var) = match pass {
        None => (bn.running_mean.val().reshape([1, c]), bn.running_var.val().reshape([1, c])),
        Some(pass) => {
            let mean = flat.clone().mean_dim(0); //                                [1, C]
            let var = (flat.clone() - mean.clone()).square().mean_dim(0); //       [1, C], biased
            let unbiased = n as f32 / (n as f32 - 1.0).max(1.0);
            pass.statistics.push((host(&mean), host(&var).into_iter().map(|v| v * unbiased).collect()));
            (mean, var)
        }
    };
    let scale = bn.weight.val().reshape([1, c]) / (var + BN_EPS).sqrt();
    ((flat - mean) * scale + bn.bias.val().reshape([1, c])).reshape([b, h, w, c])
}

fn host<const D: usize>(x: &Tensor<D>) -> Vec<f32> {
    x.clone().detach().into_data().convert::<f32>().try_into_vec().expect("values were converted to f32")
}

/// 3x3 convolution with dilation and padding `rate`. `x` [B, h, w, I], `weight` [O, I, 3, 3] -> [B, h, w, O].
fn atrous3x3(x: Tensor<4>, weight: Tensor<4>, rate: usize) -> Tensor<4> {
    let [b, h, w, inp] = x.dims();
    let out = weight.dims()[0];
    let padded = Tensor::<4>::zeros([b, h + 2 * rate, w + 2 * rate, inp], &x.device());
    let padded = padded.slice_assign([0..b, rate..rate + h, rate..rate + w, 0..inp], x);
    // taps that only ever see padding add nothing
    let taps: Vec<[usize; 2]> = (0..9).map(|i| [i / 3, i % 3]).filter(|[y, x]| (*y == 1 || rate < h) && (*x == 1 || rate < w)).collect();
    let window = |[y, x]: &[usize; 2]| padded.clone().slice([0..b, y * rate..y * rate + h, x * rate..x * rate + w, 0..inp]);
    let kernel = |[y, x]: &[usize; 2]| weight.clone().slice([0..out, 0..inp, *y..y + 1, *x..x + 1]).reshape([out, inp]);
    let windows = Tensor::cat(taps.iter().map(window).collect(), 3); //  [B, h, w, taps·I]
    let kernels = Tensor::cat(taps.iter().map(kernel).collect(), 1); //  [O, taps·I]
    ops::linear(windows, kernels, None)
}

/// Rows and columns mixed by matrices [out, in], row by row. `x` [B, h, w, C] -> [B, H, W, C].
fn separable(x: Tensor<4>, rows: &[Vec<f32>], columns: &[Vec<f32>]) -> Tensor<4> {
    let [b, h, w, c] = x.dims();
    let (out_h, out_w) = (rows.len(), columns.len());
    let device = x.device();
    let matrix = |m: &[Vec<f32>], n: usize| Tensor::<2>::from_data(TensorData::new(m.concat(), vec![m.len(), n]), &device);
    let x = x.permute([0, 2, 3, 1]).reshape([b * w * c, h]); //                    [B·w·C, h]
    let x = x.matmul(matrix(rows, h).transpose()); //                              [B·w·C, H]
    let x = x.reshape([b, w, c, out_h]).permute([0, 3, 2, 1]).reshape([b * out_h * c, w]); // [B·H·C, w]
    let x = x.matmul(matrix(columns, w).transpose()); //                           [B·H·C, W]
    x.reshape([b, out_h, c, out_w]).permute([0, 1, 3, 2]) //                       [B, H, W, C]
}

/// torch's `adaptive_avg_pool` along one axis, as a matrix [out, in].
fn pool_matrix(size: usize, out: usize) -> Vec<Vec<f32>> {
    let row = |i: usize| {
        let (start, end) = (i * size / out, ((i + 1) * size).div_ceil(out));
        (0..size).map(|k| if (start..end).contains(&k) { 1.0 / (end - start) as f32 } else { 0.0 }).collect()
    };
    (0..out).map(row).collect()
}

/// torch's bilinear `interpolate` with aligned corners along one axis, as a matrix [out, in].
fn aligned_matrix(size: usize, out: usize) -> Vec<Vec<f32>> {
    let scale = if out > 1 { (size - 1) as f32 / (out - 1) as f32 } else { 0.0 };
    let row = |i: usize| {
        let at = i as f32 * scale;
        let low = (at as usize).min(size - 1);
        let mut row = vec![0.0; size];
        row[low] += 1.0 - (at - low as f32);
        row[(low + 1).min(size - 1)] += at - low as f32;
        row
    };
    (0..out).map(row).collect()
}

/// torch's bilinear `interpolate` with aligned corners. `x` [B, h, w, C] -> [B, H, W, C].
pub fn upsample_aligned(x: Tensor<4>, [out_h, out_w]: [usize; 2]) -> Tensor<4> {
    let [_, h, w, _] = x.dims();
    if [h, w] == [out_h, out_w] {
        return x;
    }
    separable(x, &aligned_matrix(h, out_h), &aligned_matrix(w, out_w))
}

/// DeepLabV3's atrous spatial pyramid pooling.
#[derive(Module, Debug)]
pub struct Aspp {
    /// 1x1, then a 3x3 for every rate.
    pub convs: Vec<ConvBnRelu>,
    /// 1x1 on the mean of the map.
    pub pool: ConvBnRelu,
    /// 1x1 over all five.
    pub project: ConvBnRelu,
}

impl Aspp {
    fn new(width: usize, channels: usize, rates: [usize; 3], init: &mut Init) -> Self {
        let mut convs = vec![ConvBnRelu::new(width, channels, 1, 1, init)];
        convs.extend(rates.map(|rate| ConvBnRelu::new(width, channels, 3, rate, init)));
        let pool = ConvBnRelu::new(width, channels, 1, 1, init);
        Self { convs, pool, project: ConvBnRelu::new(5 * channels, channels, 1, 1, init) }
    }

    /// [B, h, w, D] -> [B, h, w, C].
    fn forward(&self, x: Tensor<4>, mut pass: Option<&mut TrainPass>) -> Tensor<4> {
        let [b, h, w, d] = x.dims();
        let mut parts: Vec<Tensor<4>> = self.convs.iter().map(|conv| conv.forward(x.clone(), pass.as_deref_mut())).collect();
        let mean = x.reshape([b, h * w, d]).mean_dim(1).reshape([b, 1, 1, d]); // [B, 1, 1, D]
        let pooled = self.pool.forward(mean, pass.as_deref_mut()); //               [B, 1, 1, C]
        let channels = pooled.dims()[3];
        parts.push(pooled.expand([b, h, w, channels])); // one cell, resized
        self.project.forward(Tensor::cat(parts, 3), pass)
    }
}

/// PSPNet's pyramid pooling.
#[derive(Module, Debug)]
pub struct Ppm {
    /// 1x1 on the map pooled to each size.
    pub branches: Vec<ConvBnRelu>,
    /// 3x3 over the map and its branches.
    pub fuse: ConvBnRelu,
    #[module(skip)]
    pools: Vec<usize>,
}

impl Ppm {
    fn new(width: usize, channels: usize, pool_channels: usize, pools: &[usize], init: &mut Init) -> Self {
        let branches = pools.iter().map(|_| ConvBnRelu::new(width, pool_channels, 1, 1, init)).collect();
        let fuse = ConvBnRelu::new(width + pools.len() * pool_channels, channels, 3, 1, init);
        Self { branches, fuse, pools: pools.to_vec() }
    }

    /// [B, h, w, D] -> [B, h, w, C].
    fn forward(&self, x: Tensor<4>, mut pass: Option<&mut TrainPass>) -> Tensor<4> {
        let [_, h, w, _] = x.dims();
        let mut parts = vec![x.clone()];
        for (branch, &size) in self.branches.iter().zip(&self.pools) {
            let pooled = separable(x.clone(), &pool_matrix(h, size), &pool_matrix(w, size)); // [B, s, s, D]
            let pooled = branch.forward(pooled, pass.as_deref_mut()); //                        [B, s, s, P]
            parts.push(upsample_aligned(pooled, [h, w])); //                                    [B, h, w, P]
        }
        self.fuse.forward(Tensor::cat(parts, 3), pass)
    }
}

/// The running statistics after one more batch: torch's momentum of 0.1.
pub fn update_running(running: &mut [f32], batch: &[f32]) {
    running.iter_mut().zip(batch).for_each(|(old, new)| *old += 0.1 * (new - *old));
}

/// Names of the tensors that a head's optimiser must leave alone.
pub fn is_statistic(name: &str) -> bool {
    name.ends_with("running_mean") || name.ends_with("running_var")
}
