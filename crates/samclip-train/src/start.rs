//! Where the student's values come from: seeded, from a file, or copies of other tensors.
//!
//! Paper: SAM-CLIP (arXiv:2310.15308) §3: backbone and mask decoder from SAM, the CLIP head's
//! layers as copies of the backbone's last, norm and MLP fresh. Loading stays strict: what the
//! file does not give must be named by `model.fresh`.

use crate::error::TrainError;
use crate::glob;
use crate::parameters::AUX;
use crate::recipe::{Copy, Model};
use samclip_models::sam::fit_positions;
use samclip_models::sam_clip::SamClip;
use samclip_models::state;
use samclip_weights::{DType, StateDict, TensorData, detect_layout, to_canonical};

/// `model` holds seeded values; the result those that the recipe asks for.
pub fn start(model: SamClip, recipe: &Model, weights: Option<&StateDict>) -> Result<SamClip, TrainError> {
    let mut values = state::state_dict(&model);
    if let Some(weights) = weights {
        let known = match detect_layout(weights) {
            Some(layout) => to_canonical(weights.clone(), layout)?,
            None => weights.clone(),
        };
        let mut found: StateDict = known
            .into_iter()
            .filter(|(name, _)| !glob::any(&recipe.fresh, name) && !name.starts_with(AUX))
            .map(|(name, tensor)| (name, tensor.cast_float(DType::F32)))
            .collect();
        for (name, tensor) in values.iter().filter(|(name, _)| glob::any(&recipe.fresh, name)) {
            found.insert(name, tensor.clone());
        }
        if recipe.img_size.is_some() {
            fit_positions(&model, &mut found);
        }
        values = found;
    }
    for copy in &recipe.copies {
        copy_tensors(&mut values, copy)?;
    }
    Ok(state::load(model, &values)?)
}

fn copy_tensors(values: &mut StateDict, copy: &Copy) -> Result<(), TrainError> {
    let rest = |name: &str| Some(name.strip_prefix(copy.from.as_str())?.strip_prefix('.')?.to_owned());
    let pairs: Vec<(String, TensorData)> = values
        .iter()
        .filter_map(|(name, tensor)| Some((format!("{}.{}", copy.to, rest(name)?), tensor.clone())))
        .collect();
    let fail = |message: String| Err(TrainError::Invalid(format!("model.copy: {message}")));
    if pairs.is_empty() {
        return fail(format!("no tensor is below `{}`", copy.from));
    }
    for (to, tensor) in pairs {
        match values.get(&to).map(|t| t.shape() == tensor.shape()) {
            Some(true) => values.insert(to, tensor),
            Some(false) => return fail(format!("`{to}` has another shape than below `{}`", copy.from)),
            None => return fail(format!("the model has no `{to}`")),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use samclip_models::init::Init;
    use samclip_models::sam_clip::SamClipConfig;

    fn tiny(seed: u64) -> SamClip {
        tiny_at(seed, 64)
    }

    fn tiny_at(seed: u64, img_size: usize) -> SamClip {
        let mut config = SamClipConfig::nano();
        let encoder = &mut config.sam.image_encoder;
        (encoder.img_size, encoder.embed_dim, encoder.depth, encoder.num_heads) = (img_size, 16, 2, 2);
        (encoder.out_chans, encoder.window_size, encoder.stem) = (16, 2, samclip_models::sam::Stem::Patch);
        encoder.global_attn_indexes = vec![1];
        let decoder = &mut config.sam.mask_decoder;
        (decoder.transformer_dim, decoder.num_heads, decoder.mlp_dim) = (16, 2, 16);
        (config.clip_head.mlp_dim, config.clip_head.embed_dim) = (16, 8);
        config.init(&mut Init::seeded(seed, &Device::flex()))
    }

    fn model(fresh: &[&str], copies: &[(&str, &str)]) -> Model {
        Model {
            variant: "sam_clip_nano".into(),
            sizes: None,
            img_size: None,
            init: "x".into(),
            fresh: fresh.iter().map(|s| (*s).to_owned()).collect(),
            copies: copies.iter().map(|(a, b)| Copy { from: (*a).into(), to: (*b).into() }).collect(),
            trainable: vec![],
            text_table: None,
            logit_scale: 1.0,
            background_logit: None,
            asked_logit: 0.0,
            classify_tokens: None,
        }
    }

    fn values(model: &SamClip, name: &str) -> Vec<f32> {
        state::state_dict(model).get(name).unwrap().to_f32()
    }

    #[test]
    fn a_sam_file_gives_the_backbone_and_its_last_block_the_head() {
        let (file, seeded) = (tiny(1), tiny(2));
        let mut sam = state::state_dict(&file);
        let head: Vec<String> = sam.names().filter(|n| n.starts_with("clip_head.")).map(str::to_owned).collect();
        head.iter().for_each(|name| drop(sam.remove(name)));
        let rules = model(
            &["clip_head.*"],
            &[("image_encoder.blocks.1", "clip_head.blocks.0"), ("image_encoder.blocks.1", "clip_head.blocks.1")],
        );
        let started = start(seeded.clone(), &rules, Some(&sam)).unwrap();
        let qkv = values(&file, "image_encoder.blocks.1.attn.qkv.weight");
        for name in ["image_encoder.blocks.1", "clip_head.blocks.0", "clip_head.blocks.1"] {
            assert_eq!(values(&started, &format!("{name}.attn.qkv.weight")), qkv);
        }
        let mlp = "clip_head.mlp.layers.0.weight";
        assert_eq!(values(&started, mlp), values(&seeded, mlp));
        let error = start(seeded.clone(), &model(&[], &[]), Some(&sam)).unwrap_err().to_string();
        assert!(error.contains("clip_head."), "{error}");
    }

    #[test]
    fn tables_of_another_side_are_fitted_only_if_the_recipe_names_its_side() {
        let (file, mut rules) = (state::state_dict(&tiny(1)), model(&[], &[]));
        let error = start(tiny_at(2, 96), &rules, Some(&file)).unwrap_err().to_string();
        assert!(error.contains("pos"), "{error}");
        rules.img_size = Some(96);
        let started = start(tiny_at(2, 96), &rules, Some(&file)).unwrap();
        assert_eq!(state::state_dict(&started).get("image_encoder.pos_embed").unwrap().shape(), [1, 6, 6, 16]);
        let qkv = "image_encoder.blocks.0.attn.qkv.weight";
        assert_eq!(values(&started, qkv), file.get(qkv).unwrap().to_f32());
    }

    #[test]
    fn copies_that_cannot_be_are_refused() {
        for (from, to, part) in [
            ("image_encoder.blocks.7", "clip_head.blocks.0", "no tensor is below"),
            ("image_encoder.blocks.1", "clip_head.blocks.9", "the model has no"),
            ("image_encoder.blocks.0", "clip_head.blocks.0", "another shape"), // windowed into global
        ] {
            let error = start(tiny(1), &model(&[], &[(from, to)]), None).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
