//! A text encoder that is a table: names and their vectors, computed once by a CLIP text tower.
//!
//! The papers deploy closed sets this way (cached text embeddings). File form: a state dict with
//! `embeddings` [K, E] (unit rows) and the metadata `names` (JSON list) and `aliases` (JSON object,
//! alias -> name).

use std::collections::BTreeMap;

use samclip_weights::{StateDict, TensorData};

use crate::ModelError;

/// Names with their vectors.
#[derive(Clone, Debug)]
pub struct TextTable {
    names: Vec<String>,
    index: BTreeMap<String, usize>,
    vectors: Vec<f32>,
    dim: usize,
}

impl TextTable {
    /// A table of unit vectors, row-major [names, dim]. `aliases` are pairs (alias, name).
    pub fn new(
        names: Vec<String>,
        vectors: Vec<f32>,
        dim: usize,
        aliases: &[(String, String)],
    ) -> Result<Self, ModelError> {
        if dim == 0 || vectors.len() != names.len() * dim {
            return Err(ModelError::TextTable(format!(
                "expected {} x {dim} values, found {}",
                names.len(),
                vectors.len()
            )));
        }
        let mut index = BTreeMap::new();
        for (i, name) in names.iter().enumerate() {
            index.insert(normal(name), i);
        }
        // A gloss is optional: `car` finds `car (automobile)` unless `car` is a name of its own.
        for (i, name) in names.iter().enumerate() {
            if let Some((bare, _)) = name.split_once('(') {
                index.entry(normal(bare)).or_insert(i);
            }
        }
        for (alias, name) in aliases {
            if let Some(&i) = index.get(&normal(name)) {
                index.entry(normal(alias)).or_insert(i);
            }
        }
        Ok(Self { names, index, vectors, dim })
    }

    /// Reads the file form.
    pub fn from_state(state: &StateDict) -> Result<Self, ModelError> {
        let missing = |what: &str| ModelError::TextTable(format!("`{what}` is missing"));
        let tensor: &TensorData = state.get("embeddings").ok_or_else(|| missing("embeddings"))?;
        let [rows, dim] = tensor.shape() else {
            return Err(ModelError::TextTable(format!("`embeddings` is not a matrix: {:?}", tensor.shape())));
        };
        let metadata = &state.metadata;
        let names = metadata.get("names").ok_or_else(|| missing("names"))?;
        let names: Vec<String> =
            serde_json::from_str(names).map_err(|e| ModelError::TextTable(format!("`names`: {e}")))?;
        if names.len() != *rows {
            return Err(ModelError::TextTable(format!("{} names for {rows} rows", names.len())));
        }
        let aliases: BTreeMap<String, String> = match metadata.get("aliases") {
            Some(json) => serde_json::from_str(json).map_err(|e| ModelError::TextTable(format!("`aliases`: {e}")))?,
            None => BTreeMap::new(),
        };
        let aliases: Vec<_> = aliases.into_iter().collect();
        Self::new(names, tensor.to_f32(), *dim, &aliases)
    }

    /// The names in row order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Width of the text space.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Row of a name, alias or gloss-free name.
    pub fn resolve(&self, name: &str) -> Result<usize, ModelError> {
        let key = normal(name);
        if key.is_empty() {
            return Err(ModelError::EmptyText);
        }
        self.index
            .get(&key)
            .copied()
            .ok_or_else(|| ModelError::UnknownName { name: name.to_string(), nearest: self.nearest(&key) })
    }

    /// The unit vector of a name.
    pub fn vector(&self, name: &str) -> Result<&[f32], ModelError> {
        self.resolve(name).map(|row| self.row(row))
    }

    /// The unit vector of a row.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.vectors[row * self.dim..(row + 1) * self.dim]
    }

    fn nearest(&self, key: &str) -> Vec<String> {
        let mut scored: Vec<(f64, &String)> =
            self.index.iter().map(|(name, &row)| (strsim::jaro_winkler(key, name), &self.names[row])).collect();
        scored.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(b.1)));
        let mut nearest: Vec<String> = vec![];
        for (_, name) in scored {
            if !nearest.contains(name) {
                nearest.push(name.clone());
            }
            if nearest.len() == 3 {
                break;
            }
        }
        nearest
    }
}

/// Lower case, underscores as spaces, single spaces.
fn normal(name: &str) -> String {
    name.to_lowercase().replace('_', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> TextTable {
        let names = ["dog", "car (automobile)", "television set"].map(String::from).to_vec();
        let aliases = [("TV".to_string(), "television set".to_string())];
        TextTable::new(names, vec![1.0, 0.0, 0.0, 1.0, 0.6, 0.8], 2, &aliases).unwrap()
    }

    #[test]
    fn finds_names_glosses_and_aliases() {
        let table = table();
        assert_eq!(table.resolve(" Dog ").unwrap(), 0);
        assert_eq!(table.resolve("car").unwrap(), 1);
        assert_eq!(table.resolve("television_set").unwrap(), 2);
        assert_eq!(table.vector("tv").unwrap(), [0.6, 0.8]);
    }

    #[test]
    fn unknown_and_empty_are_errors_with_neighbours() {
        let error = table().resolve("dogg").unwrap_err();
        assert!(error.hint().unwrap().starts_with("did you mean dog"), "{error:?}");
        assert!(matches!(table().resolve("  "), Err(ModelError::EmptyText)));
    }
}
