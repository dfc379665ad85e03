//! Reading fixtures/clip and comparing with it.
#![allow(dead_code)] // each test binary uses its part

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Int, Tensor, TensorData};
use samclip_weights::StateDict;

/// Largest difference that parity allows, in f32.
pub const TOLERANCE: f32 = 1e-5;

/// Path of a file in fixtures/clip.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/clip").join(name)
}

/// A fixture file with its three parts: `w.*`, `in.*`, `out.*`.
pub struct Fixture {
    state: StateDict,
    /// Where tensors are made.
    pub device: Device,
}

impl Fixture {
    /// Reads fixtures/clip/`name`.safetensors.
    pub fn open(name: &str, device: Device) -> Self {
        Self::at(&path(&format!("{name}.safetensors")), device)
    }

    /// Reads any safetensors file.
    pub fn at(path: &Path, device: Device) -> Self {
        Self { state: StateDict::open(path).expect("fixture is readable"), device }
    }

    /// The tensors under `w.`, without the prefix.
    pub fn weights(&self) -> StateDict {
        let mut weights = StateDict::new();
        for (name, tensor) in self.state.iter() {
            if let Some(name) = name.strip_prefix("w.") {
                weights.insert(name, tensor.clone());
            }
        }
        weights
    }

    /// A float tensor by its full name.
    pub fn tensor<const D: usize>(&self, name: &str) -> Tensor<D> {
        let stored = self.state.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture"));
        Tensor::from_data(TensorData::new(stored.to_f32(), stored.shape().to_vec()), &self.device)
    }

    /// An integer tensor by its full name.
    pub fn ints<const D: usize>(&self, name: &str) -> Tensor<D, Int> {
        let stored = self.state.get(name).unwrap_or_else(|| panic!("no `{name}` in the fixture"));
        let values = stored.to_i64().expect("integers");
        Tensor::from_data(TensorData::new(values, stored.shape().to_vec()), &self.device)
    }

    /// Asserts that `actual` equals the stored tensor within `tolerance`, and prints the difference.
    pub fn check<const D: usize>(&self, name: &str, actual: Tensor<D>, tolerance: f32) {
        let expected = self.tensor::<D>(name);
        assert_eq!(actual.dims(), expected.dims(), "{name}");
        let delta = max_delta(&values(actual), &values(expected));
        println!("{name:<40} max |Δ| = {delta:.2e}");
        assert!(delta <= tolerance, "{name}: max |Δ| = {delta:e} > {tolerance:e}");
    }
}

/// Row-major values.
pub fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("f32")
}

/// Largest absolute difference; NaN counts as infinite.
pub fn max_delta(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |max, d| if d.is_nan() { f32::INFINITY } else { max.max(d) })
}
