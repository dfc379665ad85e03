//! Photos and sentences as unit vectors of one space: what retrieval compares.
//!
//! CLIP embeds any sentence, without a template. A model with a text table embeds the names in it and nothing else.

use samclip_image::{Image, prepare_clip};

use crate::clip::ClipPredictor;
use crate::error::PredictError;
use crate::sam_clip::SamClipPredictor;
use crate::tensors::{pixels, values};
use crate::text::TextEncoder;

/// Vectors of photos and sentences.
pub trait Embedder {
    /// The photo's unit vector.
    ///
    /// # Errors
    /// A cache that cannot be written.
    fn embed_image(&self, image: &Image) -> Result<Vec<f32>, PredictError>;

    /// One unit vector per sentence.
    ///
    /// # Errors
    /// A sentence that the model's table does not hold.
    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, PredictError>;
}

impl Embedder for ClipPredictor {
    fn embed_image(&self, image: &Image) -> Result<Vec<f32>, PredictError> {
        crate::passes::count(1);
        let features = self.clip.encode_image(pixels(&prepare_clip(image, self.side), &self.device))?;
        Ok(values(samclip_models::clip::normalize(features)))
    }

    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, PredictError> {
        if texts.is_empty() {
            return Ok(Vec::new());
        }
        let vectors = self.clip.text.class_vectors(texts, &["{}"])?;
        let dim = vectors.dims()[1];
        Ok(values(vectors).chunks_exact(dim).map(<[f32]>::to_vec).collect())
    }
}

impl Embedder for SamClipPredictor {
    fn embed_image(&self, image: &Image) -> Result<Vec<f32>, PredictError> {
        self.pooled(image)
    }

    fn embed_texts(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, PredictError> {
        self.table()?.encode(texts)
    }
}
