//! The image side of SAM's decoder as kernels, for inference on the CPU.

use burn::backend::flex::FlexTensor;
use burn::backend::{DispatchDevice, DispatchTensorKind};
use burn::tensor::{DType, Tensor};
use samclip_kernels as kernels;
use samclip_kernels::{Norm, PackedLinear};

use super::flex::{dense, dims, precision, slice, tensor};

/// True where the kernels of this module take the tensor: the CPU backend, no gradients, f32.
pub fn available<const D: usize>(x: &Tensor<D>) -> bool {
    x.dtype() == DType::F32 && matches!(x.device().as_dispatch(), DispatchDevice::Flex(_))
}

/// Elements of a tensor that is [`available`].
fn cpu<const D: usize>(x: Tensor<D>) -> FlexTensor {
    assert!(available(&x), "two-way decoder: a tensor elsewhere than on the CPU, or with gradients");
    match x.into_dispatch().kind {
        DispatchTensorKind::Flex(t) => dense(t.float()),
        #[allow(unreachable_patterns)]
        _ => unreachable!("the device is Flex"),
    }
}

fn from_cpu<const D: usize>(data: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
    use burn::backend::{BackendTensor, DispatchTensor};
    let kind = DispatchTensorKind::Flex(BackendTensor::Float(tensor(data, shape)));
    Tensor::from_dispatch(DispatchTensor { kind, autodiff: Default::default() })
}

fn norm(weight: Tensor<1>, bias: Tensor<1>, eps: f64) -> Norm {
    let values = |t: Tensor<1>| slice(&cpu(t)).to_vec();
    Norm { weight: values(weight), bias: values(bias), eps: eps as f32 }
}

/// Tokens of one image and their position embedding, both [N, C].
pub struct ImageTokens {
    image: FlexTensor,
    pe: FlexTensor,
}

impl ImageTokens {
    /// Where they are [`available`]; elsewhere the caller takes the modules one by one, the twin.
    pub fn new(image: Tensor<2>, pe: Tensor<2>) -> Self {
        Self { image: cpu(image), pe: cpu(pe) }
    }

    /// The image side of `prompts` prompts.
    pub fn side(&self, prompts: usize) -> ImageSide<'_> {
        let width = dims(&self.image)[1];
        ImageSide(kernels::ImageSide::new(precision(), prompts, slice(&self.image), slice(&self.pe), width))
    }
}

/// See [`samclip_kernels::Update`].
pub struct Update {
    /// [P, T, heads, C], scaled.
    pub keys: Tensor<4>,
    /// [P, T, heads], scaled.
    pub key_bias: Tensor<3>,
    /// [P, T, heads, C].
    pub values: Tensor<4>,
    /// [C].
    pub shift: Tensor<1>,
    /// Weight, bias and epsilon.
    pub norm: (Tensor<1>, Tensor<1>, f64),
}

/// Image tokens of several prompts.
pub struct ImageSide<'a>(kernels::ImageSide<'a>);

impl ImageSide<'_> {
    /// Updates the image tokens, if asked, then lets the prompt tokens read them: `queries`
    /// [P, T, heads, C], folded and scaled -> [P, T, heads, C].
    pub fn pass(&mut self, update: Option<Update>, queries: Tensor<4>) -> Tensor<4> {
        let shape = queries.dims();
        let queries = cpu(queries);
        let read = |side: &mut kernels::ImageSide, update: Option<&kernels::Update>| {
            from_cpu(side.pass(shape[2], update, slice(&queries)), shape)
        };
        let Some(u) = update else { return read(&mut self.0, None) };
        let (keys, key_bias, values, shift) = (cpu(u.keys), cpu(u.key_bias), cpu(u.values), cpu(u.shift));
        let norm = norm(u.norm.0, u.norm.1, u.norm.2);
        let update = kernels::Update {
            keys: slice(&keys),
            key_bias: slice(&key_bias),
            values: slice(&values),
            shift: slice(&shift),
            norm: &norm,
        };
        read(&mut self.0, Some(&update))
    }

    /// Mask logits of the grid (h, w) with `hyper` [P, M, C/8] as the maps of the prompts from
    /// `first` on; prompts that `keep` leaves out stay zero.
    pub fn masks(&self, upscaling: &Upscaling, hyper: Tensor<3>, keep: &[bool], first: usize, maps: &mut MaskMaps) {
        let [_, m, h, w] = maps.shape;
        let one = m * h * w;
        let to = &mut maps.data[first * one..(first + keep.len()) * one];
        upscaling.0.masks(&self.0, (h / 4, w / 4), slice(&cpu(hyper)), keep, to);
    }
}

/// Mask logits [P, M, 4h, 4w] that groups of prompts fill.
pub struct MaskMaps {
    data: Vec<f32>,
    shape: [usize; 4],
}

impl MaskMaps {
    /// Zeros.
    pub fn new(shape: [usize; 4]) -> Self {
        Self { data: vec![0.0; shape.iter().product()], shape }
    }

    /// As a tensor.
    pub fn finish(self) -> Tensor<4> {
        from_cpu(self.data, self.shape)
    }
}

/// The two transposed convolutions, packed.
pub struct Upscaling(kernels::Upscaling);

impl Upscaling {
    /// Weights [in, out, 2, 2] and biases [out] of both, and the norm between them.
    pub fn new(
        first: (Tensor<4>, Tensor<1>),
        (weight, bias, eps): (Tensor<1>, Tensor<1>, f64),
        second: (Tensor<4>, Tensor<1>),
    ) -> Self {
        let pack = |(weight, bias): (Tensor<4>, Tensor<1>)| {
            let [inp, ..] = weight.dims();
            let weight = cpu(weight.permute([2, 3, 1, 0])); // [2, 2, out, in]
            let bias = slice(&cpu(bias)).repeat(4);
            PackedLinear::new(kernels::Precision::F32, slice(&weight), inp, &bias)
        };
        Self(kernels::Upscaling { first: pack(first), norm: norm(weight, bias, eps), second: pack(second) })
    }
}
