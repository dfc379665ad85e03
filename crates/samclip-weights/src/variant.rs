//! Which of the published models a checkpoint is, from the shapes that tell them apart.

use crate::error::{Result, WeightsError};
use crate::state_dict::StateDict;

/// The variant of a canonical state dict (see [`crate::to_canonical`]).
///
/// The activation of CLIP leaves no trace in the tensors: `clip_vit_b16` also stands for
/// `clip_vit_b16_quickgelu`, and L/14 likewise.
pub fn infer_variant(state: &StateDict) -> Option<&'static str> {
    if state.has_prefix("clip_head.") {
        let width = state.get("image_encoder.pos_embed").and_then(|t| t.shape().last().copied());
        return Some(if width == Some(768) { "sam_clip_vit_b" } else { "sam_clip_nano" });
    }
    if state.has_prefix("image_encoder.patch_embed.seq.") {
        return Some("mobile_sam");
    }
    if let Some(pos_embed) = state.get("image_encoder.pos_embed") {
        return match (pos_embed.shape(), count(state, "image_encoder.blocks.")) {
            ([1, _, _, 768], 12) => Some("sam_vit_b"),
            ([1, _, _, 1024], 24) => Some("sam_vit_l"),
            ([1, _, _, 1280], 32) => Some("sam_vit_h"),
            _ => None,
        };
    }
    match (state.get("visual.conv1.weight")?.shape(), count(state, "visual.transformer.resblocks.")) {
        ([768, 3, 16, 16], 12) => Some("clip_vit_b16"),
        ([1024, 3, 14, 14], 24) => Some("clip_vit_l14"),
        _ => None,
    }
}

/// An error when the tensors are clearly another variant's; unknown shapes pass, the strict check decides.
pub fn check_variant(state: &StateDict, expected: &str) -> Result<()> {
    match infer_variant(state) {
        Some(found) if found != expected.trim_end_matches("_quickgelu") => {
            Err(WeightsError::WrongVariant { expected: expected.to_owned(), found: found.to_owned() })
        }
        _ => Ok(()),
    }
}

/// One more than the largest number that follows `prefix`.
fn count(state: &StateDict, prefix: &str) -> usize {
    let number = |name: &str| name.strip_prefix(prefix)?.split('.').next()?.parse::<usize>().ok();
    state.names().filter_map(number).max().map_or(0, |n| n.saturating_add(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorData;

    fn with(shape: &[usize], name: &str, blocks: usize, prefix: &str) -> StateDict {
        let mut state = StateDict::new();
        state.insert(name, TensorData::from_f32(shape, &vec![0.0; shape.iter().product()]));
        for i in 0..blocks {
            state.insert(format!("{prefix}{i}.x"), TensorData::from_f32(&[1], &[0.0]));
        }
        state
    }

    #[test]
    fn shapes_tell() {
        let sam = with(&[1, 2, 2, 1024], "image_encoder.pos_embed", 24, "image_encoder.blocks.");
        assert_eq!(infer_variant(&sam), Some("sam_vit_l"));
        let e = check_variant(&sam, "sam_vit_b").unwrap_err();
        assert_eq!(e.to_string(), "checkpoint looks like `sam_vit_l`, expected `sam_vit_b`");
        let clip = with(&[768, 3, 16, 16], "visual.conv1.weight", 12, "visual.transformer.resblocks.");
        check_variant(&clip, "clip_vit_b16").unwrap();
        check_variant(&clip, "clip_vit_b16_quickgelu").unwrap();
        assert!(check_variant(&clip, "clip_vit_l14").is_err());
        check_variant(&with(&[1], "anything", 0, ""), "sam_vit_b").unwrap();
    }
}
