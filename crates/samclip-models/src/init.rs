//! Parameter initialisation: the only place of this crate that draws random numbers.
//!
//! Seeded ChaCha, so a model built twice from one seed is bit-equal on every machine. Loading a
//! checkpoint starts from [`Init::zeros`], which draws nothing.

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Source of initial values for one model.
pub struct Init {
    rng: Option<ChaCha8Rng>,
    /// Where the parameters live.
    pub device: Device,
}

impl Init {
    /// Draws from a generator with this seed.
    pub fn seeded(seed: u64, device: &Device) -> Self {
        Self { rng: Some(ChaCha8Rng::seed_from_u64(seed)), device: device.clone() }
    }

    /// Zeros everywhere: for a model whose values are loaded next.
    pub fn zeros(device: &Device) -> Self {
        Self { rng: None, device: device.clone() }
    }

    /// U(-bound, bound).
    pub fn uniform<const D: usize>(&mut self, shape: [usize; D], bound: f32) -> Param<Tensor<D>> {
        self.fill(shape, |rng| rng.random_range(-1.0f32..1.0) * bound)
    }

    /// N(0, std).
    pub fn normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Param<Tensor<D>> {
        self.fill(shape, |rng| standard_normal(rng) * std)
    }

    /// N(0, std) cut at two standard deviations (timm's `trunc_normal_` default).
    pub fn trunc_normal<const D: usize>(&mut self, shape: [usize; D], std: f32) -> Param<Tensor<D>> {
        self.fill(shape, |rng| loop {
            let x = standard_normal(rng);
            if x.abs() <= 2.0 {
                return x * std;
            }
        })
    }

    /// One value everywhere (norm weights, biases).
    pub fn constant<const D: usize>(&mut self, shape: [usize; D], value: f32) -> Param<Tensor<D>> {
        let drawn = || Tensor::full(shape, value, &self.device);
        Param::from_tensor(if self.rng.is_some() { drawn() } else { self.one_zero(shape) })
    }

    /// A single zero that stands everywhere: what is loaded next takes its place, and memory with it.
    fn one_zero<const D: usize>(&self, shape: [usize; D]) -> Tensor<D> {
        Tensor::<D>::zeros([1; D], &self.device).expand(shape)
    }

    fn fill<const D: usize>(
        &mut self,
        shape: [usize; D],
        mut draw: impl FnMut(&mut ChaCha8Rng) -> f32,
    ) -> Param<Tensor<D>> {
        let Some(rng) = &mut self.rng else { return Param::from_tensor(self.one_zero(shape)) };
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| draw(rng)).collect();
        Param::from_tensor(Tensor::from_data(TensorData::new(values, shape.to_vec()), &self.device))
    }
}

/// One draw of N(0, 1) by Box-Muller: two uniforms per draw keep the stream position simple.
fn standard_normal(rng: &mut ChaCha8Rng) -> f32 {
    let u: f64 = 1.0 - rng.random::<f64>();
    let v: f64 = rng.random();
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}
