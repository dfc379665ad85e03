//! Frozen teachers: any ONNX file, run by `rten` on the student's own crop.
//!
//! The two files of the development data take `pixel / 127.5 - 1`, RGB, NCHW.

use crate::error::TrainError;
use rten::{Model, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};
use samclip_data::loader::Batch;
use samclip_image::Normalization;
use std::path::{Path, PathBuf};

/// What the teachers of the development data take: `pixel / 127.5 - 1`.
pub const INPUT: Normalization = Normalization { mean: [127.5; 3], std: [127.5; 3], scale: 1.0 };

/// An output of a teacher: row-major values and their shape.
#[derive(Debug, Clone, PartialEq)]
pub struct Output {
    /// Row-major.
    pub values: Vec<f32>,
    /// Shape.
    pub shape: Vec<usize>,
}

/// An ONNX model.
pub struct Teacher {
    path: PathBuf,
    model: Model,
}

impl Teacher {
    /// Loads a file.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let model = Model::load_file(path)
            .map_err(|error| TrainError::Teacher { path: path.to_owned(), message: error.to_string() })?;
        Ok(Self { path: path.to_owned(), model })
    }

    /// SHA-256 of the file.
    pub fn sha256(&self) -> Result<String, TrainError> {
        let bytes = std::fs::read(&self.path).map_err(TrainError::io(&self.path))?;
        Ok(crate::export::sha256(&bytes))
    }

    /// Runs `pixels` [N, 3, H, W] and returns the named outputs.
    pub fn run(
        &self,
        pixels: Vec<f32>,
        shape: [usize; 4],
        outputs: &[&str],
    ) -> Result<Vec<Output>, TrainError> {
        let fail = |message: String| TrainError::Teacher { path: self.path.clone(), message };
        let input = NdTensor::from_data(shape, pixels);
        let id = *self.model.input_ids().first().ok_or_else(|| fail("no input".into()))?;
        let wanted = outputs
            .iter()
            .map(|name| self.model.node_id(name).map_err(|e| fail(e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let found = self
            .model
            .run(vec![(id, Value::from(input).into())], &wanted, None)
            .map_err(|e| fail(e.to_string()))?;
        found
            .into_iter()
            .map(|value| {
                let tensor: Tensor<f32> = value.try_into().map_err(|_| fail("output is not f32".into()))?;
                Ok(Output { shape: tensor.shape().to_vec(), values: tensor.to_vec() })
            })
            .collect()
    }

    /// [`Teacher::run`] on a batch of photos, normalised as the teachers want.
    pub fn on_batch(&self, batch: &Batch, outputs: &[&str]) -> Result<Vec<Output>, TrainError> {
        let pixels = batch.pixels(&INPUT);
        self.run(pixels, [batch.items.len(), 3, batch.side, batch.side], outputs)
    }
}
