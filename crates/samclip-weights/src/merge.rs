//! Between two checkpoints, and parts of one.
//!
//! Wise-FT (arXiv:2109.01903): `(1 - alpha) a + alpha b` over the tensors that both have; in
//! SAM-CLIP's comparison (spec 5.8) the CLIP head stays the fine-tuned model's.

use crate::error::{Result, WeightsError};
use crate::state_dict::StateDict;
use crate::tensor::TensorData;

/// The prefixes of SAM's own tensors, in Meta's names.
const SAM: [&str; 3] = ["image_encoder.", "prompt_encoder.", "mask_decoder."];

/// `(1 - alpha) a + alpha b` over the tensors that both have, computed in f32, stored as `b`'s.
/// Tensors that only `b` has, and those below one of the prefixes `keep`, are `b`'s.
///
/// # Errors
/// No tensor in common, or one of different shapes.
pub fn interpolate(a: &StateDict, b: &StateDict, alpha: f32, keep: &[String]) -> Result<StateDict> {
    let mut out = StateDict::new();
    out.metadata = b.metadata.clone();
    let mut shared = 0;
    for (name, to) in b.iter() {
        let from = a.get(name).filter(|_| !keep.iter().any(|k| name.starts_with(k.as_str())));
        let Some(from) = from else {
            out.insert(name, to.clone());
            continue;
        };
        if from.shape() != to.shape() {
            let reason = format!("has shape {:?} in the first file and {:?} in the second", from.shape(), to.shape());
            return Err(WeightsError::tensor(name, reason));
        }
        shared += 1;
        out.insert(name, between(from, to, alpha));
    }
    if shared == 0 {
        let name = b.names().next().unwrap_or("*").to_owned();
        return Err(WeightsError::tensor(&name, "and all others: the two files share no tensor"));
    }
    out.metadata.insert("interpolated".into(), alpha.to_string());
    Ok(out)
}

/// At the ends the bits of the one or the other: `0 * inf` and rounding play no part.
fn between(from: &TensorData, to: &TensorData, alpha: f32) -> TensorData {
    if !to.dtype().is_float() || alpha == 1.0 {
        return to.clone();
    }
    if alpha == 0.0 {
        return from.cast_float(to.dtype());
    }
    let mix = |(a, b): (f32, f32)| (1.0 - alpha) * a + alpha * b;
    let values: Vec<f32> = from.to_f32().into_iter().zip(to.to_f32()).map(mix).collect();
    TensorData::from_f32_as(to.dtype(), to.shape(), &values)
}

/// SAM's tensors of a SAM-CLIP (or SAM) in f32 with Meta's names: what `segment_anything` loads.
///
/// # Errors
/// A file without an image encoder or a mask decoder.
pub fn sam_part(state: &StateDict) -> Result<StateDict> {
    for prefix in SAM {
        if !state.has_prefix(prefix) {
            return Err(WeightsError::tensor(&format!("{prefix}*"), "is missing: not a SAM or SAM-CLIP"));
        }
    }
    let ours = |name: &str| SAM.iter().any(|prefix| name.starts_with(prefix));
    let tensors = state.iter().filter(|(name, _)| ours(name));
    let mut out: StateDict = tensors.map(|(n, t)| (n.to_owned(), t.cast_float(crate::DType::F32))).collect();
    out.metadata.insert("format".into(), "pt".into());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::DType;

    fn state(values: &[(&str, &[f32])]) -> StateDict {
        values.iter().map(|(n, v)| ((*n).to_owned(), TensorData::from_f32(&[v.len()], v))).collect()
    }

    #[test]
    fn shared_tensors_lie_between_and_the_head_stays() {
        let a = state(&[("x", &[0.0, 8.0]), ("clip_head.x", &[1.0]), ("only_a", &[5.0])]);
        let b = state(&[("x", &[4.0, 0.0]), ("clip_head.x", &[3.0]), ("only_b", &[7.0])]);
        let keep = ["clip_head.".to_owned()];
        let found = interpolate(&a, &b, 0.25, &keep).unwrap();
        let get = |name: &str| found.get(name).map(TensorData::to_f32);
        assert_eq!((get("x"), get("clip_head.x")), (Some(vec![1.0, 6.0]), Some(vec![3.0])));
        assert_eq!((get("only_b"), get("only_a")), (Some(vec![7.0]), None));
        assert_eq!(interpolate(&a, &b, 0.0, &keep).unwrap().get("x"), a.get("x"));
        assert_eq!(interpolate(&a, &b, 1.0, &keep).unwrap().get("x"), b.get("x"));
    }

    #[test]
    fn the_result_has_the_second_files_numbers() {
        let a = state(&[("x", &[0.0])]);
        let mut b = StateDict::new();
        b.insert("x", TensorData::from_f32_as(DType::F16, &[1], &[1.0]));
        for alpha in [0.0, 0.5, 1.0] {
            assert_eq!(interpolate(&a, &b, alpha, &[]).unwrap().get("x").unwrap().dtype(), DType::F16);
        }
    }

    #[test]
    fn files_that_do_not_fit_are_refused() {
        let error = |a: &StateDict, b: &StateDict| interpolate(a, b, 0.5, &[]).unwrap_err().to_string();
        let e = error(&state(&[("x", &[0.0])]), &state(&[("x", &[0.0, 1.0])]));
        assert!(e.contains("`x`") && e.contains("[1]") && e.contains("[2]"), "{e}");
        assert!(error(&state(&[("x", &[0.0])]), &state(&[("y", &[0.0])])).contains("share no tensor"));
        assert!(sam_part(&state(&[("visual.x", &[1.0])])).unwrap_err().to_string().contains("image_encoder."));
    }

    #[test]
    fn the_sam_part_is_sams() {
        let s = state(&[
            ("image_encoder.x", &[1.0]),
            ("prompt_encoder.x", &[2.0]),
            ("mask_decoder.x", &[3.0]),
            ("clip_head.x", &[4.0]),
        ]);
        let found = sam_part(&s).unwrap();
        assert_eq!(found.names().collect::<Vec<_>>(), ["image_encoder.x", "mask_decoder.x", "prompt_encoder.x"]);
    }
}
