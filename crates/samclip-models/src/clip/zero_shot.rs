//! Class vectors from prompt templates.
//!
//! Paper: CLIP (arXiv:2103.00020) §3.1.4. Reference: open_clip/zero_shot_classifier.py,
//! `build_zero_shot_classifier`; CLIP Surgery's `encode_text_with_prompt_ensemble`.
//! Parity: tests/parity_clip.rs, max |Δ| <= 1e-5.

use burn::tensor::Tensor;

use super::{TextTower, normalize};
use crate::ModelError;

/// CLIP's 80 ImageNet templates; `{}` stands for the class.
pub const IMAGENET_TEMPLATES: [&str; 80] = [
    "a bad photo of a {}.",
    "a photo of many {}.",
    "a sculpture of a {}.",
    "a photo of the hard to see {}.",
    "a low resolution photo of the {}.",
    "a rendering of a {}.",
    "graffiti of a {}.",
    "a bad photo of the {}.",
    "a cropped photo of the {}.",
    "a tattoo of a {}.",
    "the embroidered {}.",
    "a photo of a hard to see {}.",
    "a bright photo of a {}.",
    "a photo of a clean {}.",
    "a photo of a dirty {}.",
    "a dark photo of the {}.",
    "a drawing of a {}.",
    "a photo of my {}.",
    "the plastic {}.",
    "a photo of the cool {}.",
    "a close-up photo of a {}.",
    "a black and white photo of the {}.",
    "a painting of the {}.",
    "a painting of a {}.",
    "a pixelated photo of the {}.",
    "a sculpture of the {}.",
    "a bright photo of the {}.",
    "a cropped photo of a {}.",
    "a plastic {}.",
    "a photo of the dirty {}.",
    "a jpeg corrupted photo of a {}.",
    "a blurry photo of the {}.",
    "a photo of the {}.",
    "a good photo of the {}.",
    "a rendering of the {}.",
    "a {} in a video game.",
    "a photo of one {}.",
    "a doodle of a {}.",
    "a close-up photo of the {}.",
    "a photo of a {}.",
    "the origami {}.",
    "the {} in a video game.",
    "a sketch of a {}.",
    "a doodle of the {}.",
    "a origami {}.",
    "a low resolution photo of a {}.",
    "the toy {}.",
    "a rendition of the {}.",
    "a photo of the clean {}.",
    "a photo of a large {}.",
    "a rendition of a {}.",
    "a photo of a nice {}.",
    "a photo of a weird {}.",
    "a blurry photo of a {}.",
    "a cartoon {}.",
    "art of a {}.",
    "a sketch of the {}.",
    "a embroidered {}.",
    "a pixelated photo of a {}.",
    "itap of the {}.",
    "a jpeg corrupted photo of the {}.",
    "a good photo of a {}.",
    "a plushie {}.",
    "a photo of the nice {}.",
    "a photo of the small {}.",
    "a photo of the weird {}.",
    "the cartoon {}.",
    "art of the {}.",
    "a drawing of the {}.",
    "a photo of the large {}.",
    "a black and white photo of a {}.",
    "the plushie {}.",
    "a dark photo of a {}.",
    "itap of a {}.",
    "graffiti of the {}.",
    "a toy {}.",
    "itap of my {}.",
    "a photo of a cool {}.",
    "a photo of a small {}.",
    "a tattoo of the {}.",
];

/// CLIP Surgery's 85 templates: the 80, then five about a scene.
pub fn surgery_templates() -> Vec<&'static str> {
    let scene = [
        "there is a {} in the scene.",
        "there is the {} in the scene.",
        "this is a {} in the scene.",
        "this is the {} in the scene.",
        "this is one {} in the scene.",
    ];
    IMAGENET_TEMPLATES.into_iter().chain(scene).collect()
}

impl TextTower {
    /// One unit vector a class: the normalised mean of its normalised prompts. -> [K, E].
    ///
    /// An empty name is allowed: CLIP Surgery's redundant feature is the vector of `""`.
    ///
    /// # Errors
    /// When there are no names or no templates.
    pub fn class_vectors<S: AsRef<str>>(&self, names: &[S], templates: &[&str]) -> Result<Tensor<2>, ModelError> {
        if names.is_empty() || templates.is_empty() {
            return Err(ModelError::Input("class vectors: expected at least one name and one template".into()));
        }
        let vectors = names.iter().map(|name| self.class_vector(name.as_ref(), templates));
        Ok(Tensor::cat(vectors.collect::<Result<_, _>>()?, 0))
    }

    fn class_vector(&self, name: &str, templates: &[&str]) -> Result<Tensor<2>, ModelError> {
        let prompts: Vec<String> = templates.iter().map(|template| template.replace("{}", name)).collect();
        let vectors = normalize(self.encode_unchecked(&prompts)?); // [templates, E]
        Ok(normalize(vectors.mean_dim(0))) //                         [1, E]
    }
}
