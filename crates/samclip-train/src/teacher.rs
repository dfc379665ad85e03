//! Frozen teachers: any ONNX file, run by `rten`, or a model of ours (`native.rs`).
//!
//! The two ONNX files of the development data take `pixel / 127.5 - 1`, RGB, NCHW.

use crate::error::TrainError;
use crate::native::Native;
use rten::{Model, Value};
use rten_tensor::prelude::*;
use rten_tensor::{NdTensor, Tensor};
use samclip_data::loader::Batch;
use samclip_image::Normalization;
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// A frozen model.
pub struct Teacher {
    path: PathBuf,
    kind: Kind,
}

enum Kind {
    Onnx(Model),
    Native(Arc<Native>),
}

impl Teacher {
    /// Loads an ONNX file.
    pub fn open(path: &Path) -> Result<Self, TrainError> {
        let model = Model::load_file(path)
            .map_err(|error| TrainError::Teacher { path: path.to_owned(), message: error.to_string() })?;
        Ok(Self { path: path.to_owned(), kind: Kind::Onnx(model) })
    }

    /// A model of ours; `path` is the file that it is from.
    pub fn native(path: &Path, native: Arc<Native>) -> Self {
        Self { path: path.to_owned(), kind: Kind::Native(native) }
    }

    /// Whether the file is an ONNX model; anything else is a checkpoint.
    pub fn is_onnx(path: &Path) -> bool {
        path.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"))
    }

    /// What its input is normalised with.
    pub fn normalization(&self) -> &Normalization {
        match &self.kind {
            Kind::Onnx(_) => &INPUT,
            Kind::Native(native) => native.normalization(),
        }
    }

    /// Whether it wants the photo on a square (a model with positions) instead of a canvas that
    /// fits.
    pub fn wants_square(&self) -> bool {
        matches!(self.kind, Kind::Native(_))
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
        let model = match &self.kind {
            Kind::Onnx(model) => model,
            Kind::Native(native) => return native.run(pixels, shape, outputs).map_err(|e| fail(e.to_string())),
        };
        let input = NdTensor::from_data(shape, pixels);
        let id = *model.input_ids().first().ok_or_else(|| fail("no input".into()))?;
        let wanted = outputs
            .iter()
            .map(|name| model.node_id(name).map_err(|e| fail(e.to_string())))
            .collect::<Result<Vec<_>, _>>()?;
        let found = model
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

    /// [`Teacher::run`] on a batch of photos, normalised as the teacher wants.
    pub fn on_batch(&self, batch: &Batch, outputs: &[&str]) -> Result<Vec<Output>, TrainError> {
        let (pixels, side) = batch.view(self.normalization());
        self.run(pixels, [batch.items.len(), 3, side, side], outputs)
    }
}
