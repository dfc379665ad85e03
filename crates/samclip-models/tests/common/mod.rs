//! What the parity tests share: fixtures as tensors, and one comparison.
#![allow(dead_code, reason = "each test target uses its part")]

use std::path::PathBuf;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use samclip_models::init::Init;
use samclip_models::sam::{MaskDecoderConfig, Sam, SamConfig, Stem, VitDetConfig};
use samclip_models::state;
use samclip_weights::StateDict;

/// Ring 1's tolerance (design.md §5): f32 against the reference's f32.
pub const RING_1: f32 = 1e-5;

/// A fixture file: `weights.*` is the model, the rest are inputs and expected stages.
pub struct Fixture {
    pub state: StateDict,
    pub device: Device,
}

impl Fixture {
    /// `fixtures/NAME.safetensors`.
    pub fn open(name: &str) -> Self {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures").join(format!("{name}.safetensors"));
        let state = StateDict::open(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        Self { state, device: Device::default() }
    }

    /// The tensors below `prefix`, without it.
    pub fn below(&self, prefix: &str) -> StateDict {
        let mut out = StateDict::new();
        for (name, tensor) in self.state.iter() {
            if let Some(rest) = name.strip_prefix(prefix) {
                out.insert(rest, tensor.clone());
            }
        }
        out
    }

    /// `module` with the fixture's weights, strictly.
    pub fn load<M: Module>(&self, module: M) -> M {
        state::load(module, &self.below("weights.")).unwrap_or_else(|e| panic!("{e}"))
    }

    /// One tensor.
    pub fn get<const D: usize>(&self, name: &str) -> Tensor<D> {
        let stored = self.state.get(name).unwrap_or_else(|| panic!("fixture has no `{name}`"));
        Tensor::from_data(TensorData::new(stored.to_f32(), stored.shape().to_vec()), &self.device)
    }

    /// Compares a stage with the stored one.
    pub fn check<const D: usize>(&self, name: &str, got: Tensor<D>) {
        close(name, got, self.get(name), RING_1);
    }
}

/// The SAM of fixtures/sam/generate.py.
pub fn tiny_sam() -> SamConfig {
    SamConfig {
        image_encoder: VitDetConfig {
            img_size: 112,
            embed_dim: 32,
            depth: 4,
            num_heads: 2,
            mlp_ratio: 4,
            out_chans: 32,
            window_size: 3,
            global_attn_indexes: vec![1, 3],
            stem: Stem::Patch,
        },
        mask_decoder: MaskDecoderConfig {
            transformer_dim: 32,
            depth: 2,
            num_heads: 8,
            mlp_dim: 64,
            iou_head_hidden_dim: 32,
        },
    }
}

/// It with the fixture's weights.
pub fn sam(fixture: &Fixture) -> Sam {
    fixture.load(tiny_sam().init(&mut Init::zeros(&fixture.device)))
}

/// max |Δ| of two tensors of one shape.
pub fn max_delta<const D: usize>(got: Tensor<D>, want: Tensor<D>) -> f32 {
    assert_eq!(got.dims(), want.dims());
    let (got, want) = (values(got), values(want));
    assert!(got.iter().all(|x| x.is_finite()), "not finite");
    got.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

/// Fails when two tensors differ by more than `tolerance` anywhere; prints max |Δ| otherwise.
pub fn close<const D: usize>(name: &str, got: Tensor<D>, want: Tensor<D>, tolerance: f32) {
    assert_eq!(got.dims(), want.dims(), "{name}: shape");
    let delta = max_delta(got, want);
    println!("{name}: max |Δ| {delta:.2e}");
    assert!(delta <= tolerance, "{name}: max |Δ| {delta:e}, expected at most {tolerance:e}");
}

/// The values of a tensor.
pub fn values<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.try_into_vec_as::<f32>().expect("f32")
}
