//! The text side of a run: the frozen vectors of every class of every data set.

use crate::error::TrainError;
use crate::export::sha256;
use samclip_data::Dataset;
use samclip_data::names::{VOC, imagenet1k, name_map};
use samclip_weights::StateDict;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Names of the run and their vectors; a name is a column of the class logits.
#[derive(Debug, Clone, Default)]
pub struct Vocabulary {
    /// Names, in the order of their first use.
    pub names: Vec<String>,
    /// Unit vectors, `[names, dim]`.
    pub vectors: Vec<f32>,
    /// Width of the text space.
    pub dim: usize,
    columns: BTreeMap<String, usize>,
}

/// How the classes of one data set read in text.
#[derive(Debug, Clone, Default)]
pub struct Classes {
    /// Class -> column, none where the class has no text.
    pub columns: Vec<Option<usize>>,
    /// The class that means "none of the others".
    pub background: Option<usize>,
    /// The columns that occur, ascending and unique: the contrast of this data set.
    pub contrast: Vec<usize>,
}

impl Classes {
    fn new(columns: Vec<Option<usize>>, background: Option<usize>) -> Self {
        let mut contrast: Vec<usize> = columns.iter().flatten().copied().collect();
        contrast.sort_unstable();
        contrast.dedup();
        Self { columns, background, contrast }
    }

    /// Position of a class within `contrast`.
    pub fn local(&self, class: usize) -> Option<usize> {
        let column = (*self.columns.get(class)?)?;
        self.contrast.binary_search(&column).ok()
    }
}

/// The whole text table of the development data.
pub struct TextSource {
    rows: BTreeMap<String, usize>,
    vectors: Vec<f32>,
    dim: usize,
    folder: std::path::PathBuf,
    names_hash: String,
    none: bool,
}

impl TextSource {
    /// No names at all: every class is without text.
    pub fn none(dim: usize) -> Self {
        Self { none: true, ..Self::from_vectors(&[], Vec::new(), dim) }
    }

    /// Whether there are no names.
    pub fn is_none(&self) -> bool {
        self.none
    }

    /// Reads `<table>.safetensors` (`embeddings` [K, E]) and the names: its metadata, or
    /// `names.txt` beside it.
    pub fn open(table: &Path) -> Result<Self, TrainError> {
        let state = StateDict::open(table)?;
        let tensor = state.require("embeddings")?;
        let [count, dim] = *tensor.shape() else {
            return Err(TrainError::Invalid(format!(
                "embeddings: expected [K, E], found {:?}",
                tensor.shape()
            )));
        };
        let folder = table.parent().unwrap_or(Path::new(".")).to_owned();
        let names: Vec<String> = match state.metadata.get("names").and_then(|n| serde_json::from_str(n).ok())
        {
            Some(names) => names,
            None => {
                let path = folder.join("names.txt");
                let text = std::fs::read_to_string(&path).map_err(TrainError::io(&path))?;
                text.lines().map(str::to_owned).collect()
            }
        };
        if names.len() != count {
            return Err(TrainError::Invalid(format!("text table: {count} vectors, {} names", names.len())));
        }
        let names_hash = sha256(names.join("\n").as_bytes());
        let rows = names.into_iter().enumerate().map(|(row, name)| (name, row)).collect();
        Ok(Self { rows, vectors: tensor.to_f32(), dim, folder, names_hash, none: false })
    }

    /// An own table, for tests: unit vectors `[names, dim]`.
    pub fn from_vectors(names: &[&str], vectors: Vec<f32>, dim: usize) -> Self {
        let rows = names.iter().enumerate().map(|(row, name)| ((*name).to_owned(), row)).collect();
        let names_hash = sha256(names.join("\n").as_bytes());
        Self { rows, vectors, dim, folder: std::path::PathBuf::new(), names_hash, none: false }
    }

    /// SHA-256 of the names, one a line.
    pub fn names_hash(&self) -> String {
        self.names_hash.clone()
    }

    /// An empty vocabulary of this text space.
    pub fn vocabulary(&self) -> Vocabulary {
        Vocabulary { dim: self.dim, ..Vocabulary::default() }
    }

    /// Adds the classes of a data set.
    pub fn add(
        &self,
        vocabulary: &mut Vocabulary,
        dataset: &Arc<dyn Dataset>,
    ) -> Result<Classes, TrainError> {
        if self.none {
            return Ok(Classes::new(vec![None; dataset.class_names().len()], dataset.background()));
        }
        let names = name_map(dataset.as_ref(), &self.folder)?;
        let columns = self.columns(vocabulary, &names)?;
        Ok(Classes::new(columns, dataset.background()))
    }

    /// Adds VOC's 21 classes, which the segmentation teacher speaks.
    pub fn add_voc(&self, vocabulary: &mut Vocabulary) -> Result<Classes, TrainError> {
        let names: Vec<_> = VOC.iter().map(|entry| entry.1.map(str::to_owned)).collect();
        let columns = self.columns(vocabulary, &names)?;
        Ok(Classes::new(columns, Some(0)))
    }

    /// Vectors of ImageNet's 1,000 classes, `[1000, dim]`, and which of them have a name.
    pub fn imagenet(&self) -> Result<(Vec<f32>, Vec<bool>), TrainError> {
        let names = imagenet1k(&self.folder.join("imagenet1k_to_name.tsv"))?;
        let mut vectors = vec![0.0; names.len() * self.dim];
        let mut known = vec![false; names.len()];
        for (i, name) in names.iter().enumerate() {
            if let Some(name) = name {
                let row = self.row(name)?;
                vectors[i * self.dim..][..self.dim].copy_from_slice(row);
                known[i] = true;
            }
        }
        Ok((vectors, known))
    }

    fn row(&self, name: &str) -> Result<&[f32], TrainError> {
        let row = self.rows.get(name);
        let row = row.ok_or_else(|| TrainError::Invalid(format!("`{name}` is not in the text table")))?;
        Ok(&self.vectors[row * self.dim..][..self.dim])
    }

    fn columns(
        &self,
        vocabulary: &mut Vocabulary,
        names: &[Option<String>],
    ) -> Result<Vec<Option<usize>>, TrainError> {
        let mut out = Vec::with_capacity(names.len());
        for name in names {
            let Some(name) = name else {
                out.push(None);
                continue;
            };
            let column = match vocabulary.columns.get(name) {
                Some(&column) => column,
                None => {
                    vocabulary.vectors.extend_from_slice(self.row(name)?);
                    vocabulary.names.push(name.clone());
                    vocabulary.columns.insert(name.clone(), vocabulary.names.len() - 1);
                    vocabulary.names.len() - 1
                }
            };
            out.push(Some(column));
        }
        Ok(out)
    }
}
