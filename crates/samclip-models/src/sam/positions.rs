//! Position tables of another native side, made once instead of in every pass.
//!
//! Source: spec 2.3 (absolute tables bicubic, as detectron2's `get_abs_pos`; relative ones linear, as SAM's
//! `get_rel_pos`): what the encoder does in a pass at another side. Parity: the test below.

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use samclip_weights::{StateDict, TensorData as StoredTensor};

use crate::ops::{self, Interpolation};
use crate::state;

/// Interpolates the position tables of `state` whose size is another than `model`'s to that size; everything else stays.
pub fn fit_positions<M: Module>(model: &M, state: &mut StateDict) {
    for (name, shape) in state::named_shapes(model) {
        let other = state.get(&name).filter(|table| table.shape() != shape);
        let fitted = other.and_then(|table| fit(&name, table, &shape));
        if let Some(fitted) = fitted {
            state.insert(name, fitted);
        }
    }
}

fn fit(name: &str, table: &StoredTensor, wanted: &[usize]) -> Option<StoredTensor> {
    let device = Device::flex();
    let values = || TensorData::new(table.to_f32(), table.shape().to_vec());
    let fitted = match (name.rsplit('.').next()?, table.shape(), wanted) {
        ("pos_embed", &[1, _, _, d], &[1, h, w, wanted_d]) if d == wanted_d => {
            let table = Tensor::<4>::from_data(values(), &device).permute([0, 3, 1, 2]);
            ops::resize_2d(table, [h, w], Interpolation::Bicubic).permute([0, 2, 3, 1]).into_data()
        }
        ("rel_pos_h" | "rel_pos_w", &[_, c], &[length, wanted_c]) if c == wanted_c => {
            ops::resize_rows(Tensor::<2>::from_data(values(), &device), length, Interpolation::Bilinear).into_data()
        }
        _ => return None,
    };
    Some(StoredTensor::from_f32_as(table.dtype(), wanted, &fitted.try_to_vec::<f32>().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::init::Init;
    use crate::sam::{Stem, VitDetConfig};

    fn config(img_size: usize) -> VitDetConfig {
        VitDetConfig {
            img_size,
            embed_dim: 16,
            depth: 2,
            num_heads: 2,
            mlp_ratio: 1,
            out_chans: 8,
            window_size: 2,
            global_attn_indexes: vec![1],
            stem: Stem::Patch,
        }
    }

    fn largest_difference(a: Tensor<4>, b: Tensor<4>) -> f32 {
        (a - b).abs().max().into_scalar()
    }

    #[test]
    fn a_fitted_model_says_what_the_other_says_at_its_side() {
        let device = Device::flex();
        let drawn = |seed, shape: &[usize]| {
            let mut init = Init::seeded(seed, &device);
            let shape: [usize; 4] = std::array::from_fn(|i| shape.get(i).copied().unwrap_or(1));
            init.trunc_normal::<4>(shape, 0.5).val().into_data().try_to_vec::<f32>().unwrap()
        };
        let small = config(64).init(&mut Init::seeded(1, &device));
        let mut values = state::state_dict(&small);
        for (i, (name, shape)) in state::named_shapes(&small).into_iter().enumerate() {
            if name.contains("pos") {
                values.insert(name, StoredTensor::from_f32(&shape, &drawn(i as u64, &shape)));
            }
        }
        let small = state::load(small, &values).unwrap();
        let large = config(96).init(&mut Init::seeded(2, &device));
        assert!(state::load(large.clone(), &values).is_err(), "without fitting the tables have another shape");
        fit_positions(&large, &mut values);
        let large = state::load(large, &values).unwrap();
        let pixels = Tensor::from_data(TensorData::new(drawn(99, &[1, 3, 96, 96]), [1, 3, 96, 96]), &device);
        let difference = largest_difference(small.forward(pixels.clone()), large.forward(pixels));
        assert!(difference < 1e-5, "{difference}");
    }
}
