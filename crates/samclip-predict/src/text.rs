//! Names to unit vectors in a model's text space.
//!
//! Two encoders: a text table (the papers' closed sets with cached text embeddings) and CLIP's text tower.

use samclip_models::clip::{TextTower, zero_shot};
use samclip_models::text_table::TextTable;

use crate::error::PredictError;
use crate::prompt::parse_text;
use crate::tensors::values;

/// Names to vectors.
pub trait TextEncoder {
    /// One unit vector per name.
    ///
    /// # Errors
    /// An empty name; a name that a table does not hold (the nearest ones are in the hint).
    fn encode(&self, names: &[String]) -> Result<Vec<Vec<f32>>, PredictError>;
}

impl TextEncoder for TextTable {
    fn encode(&self, names: &[String]) -> Result<Vec<Vec<f32>>, PredictError> {
        let one = |name: &String| Ok(self.vector(&parse_text(name)?)?.to_vec());
        names.iter().map(one).collect()
    }
}

impl TextEncoder for TextTower {
    fn encode(&self, names: &[String]) -> Result<Vec<Vec<f32>>, PredictError> {
        let names: Vec<String> = names.iter().map(|name| parse_text(name)).collect::<Result<_, _>>()?;
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let vectors = self.class_vectors(&names, &zero_shot::IMAGENET_TEMPLATES)?;
        let dim = vectors.dims()[1];
        Ok(values(vectors).chunks_exact(dim).map(<[f32]>::to_vec).collect())
    }
}

/// Cosines of unit vectors: `features` row-major [N, E], `vectors` [K][E] -> [N, K].
pub(crate) fn cosines(features: &[f32], vectors: &[Vec<f32>]) -> Vec<f32> {
    use rayon::prelude::*;
    let dim = vectors.first().map_or(1, Vec::len);
    let row = |feature: &[f32]| -> Vec<f32> {
        vectors.iter().map(|vector| feature.iter().zip(vector).map(|(a, b)| a * b).sum()).collect()
    };
    features.par_chunks_exact(dim).flat_map_iter(row).collect()
}

/// Softmax of a row in place.
pub(crate) fn softmax(row: &mut [f32]) {
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    row.iter_mut().for_each(|v| *v = (*v - max).exp());
    let sum: f32 = row.iter().sum();
    row.iter_mut().for_each(|v| *v /= sum);
}

/// CLIPpy's words for background (spec 8.2).
pub const BACKGROUND_WORDS: [&str; 40] = [
    "background", "bag", "bed", "bench", "book", "building", "cabinet", "ceiling", "cloth", "computer", "cup", "door",
    "fence", "floor", "flower", "food", "grass", "ground", "keyboard", "light", "mountain", "mouse", "curtain",
    "platform", "sign", "plate", "road", "rock", "shelves", "sidewalk", "sky", "snow", "bedclothes", "track", "tree",
    "truck", "wall", "water", "window", "wood",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosines_are_row_major() {
        let vectors = vec![vec![1.0, 0.0], vec![0.6, 0.8], vec![0.0, -1.0]];
        assert_eq!(cosines(&[0.0, 1.0, 1.0, 0.0], &vectors), [0.0, 0.8, -1.0, 1.0, 0.6, 0.0]);
    }

    #[test]
    fn softmax_sums_to_one() {
        let mut row = [1000.0, 1000.0, -1000.0];
        softmax(&mut row);
        assert_eq!(row, [0.5, 0.5, 0.0]);
    }

    #[test]
    fn tables_name_the_nearest() {
        let table = TextTable::new(vec!["dog".to_owned()], vec![1.0, 0.0], 2, &[]).unwrap();
        let error = table.encode(&["dgo".to_owned()]).unwrap_err();
        assert!(error.hint().unwrap().contains("dog"), "{error}");
        assert!(table.encode(&[" ".to_owned()]).unwrap_err().to_string().contains("empty text"));
    }
}
