//! Fixture files: named tensors and JSON made by fixtures/image/generate.py.
#![allow(dead_code)] // every test file uses a part of it

use std::collections::BTreeMap;
use std::path::PathBuf;

use safetensors::{Dtype, SafeTensors};

pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/image").join(name)
}

pub fn json<T: serde::de::DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&std::fs::read(path(name)).unwrap()).unwrap()
}

/// One tensor of bytes or floats.
pub struct Array {
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    pub floats: Vec<f32>,
}

impl Array {
    pub fn image(&self) -> samclip_image::Image {
        samclip_image::Image::new(self.shape[1], self.shape[0], self.bytes.clone()).unwrap()
    }

    pub fn mask(&self) -> samclip_image::Mask {
        let data = self.bytes.iter().map(|&v| v != 0).collect();
        samclip_image::Mask::new(self.shape[1], self.shape[0], data).unwrap()
    }
}

pub fn tensors(name: &str) -> BTreeMap<String, Array> {
    let file = std::fs::read(path(name)).unwrap();
    let parsed = SafeTensors::deserialize(&file).unwrap();
    parsed
        .iter()
        .map(|(name, view)| {
            let data = view.data();
            let words = data.chunks_exact(4).map(|b| [b[0], b[1], b[2], b[3]]);
            let floats = match view.dtype() {
                Dtype::F32 => words.map(f32::from_le_bytes).collect(),
                Dtype::I32 => words.map(|b| i32::from_le_bytes(b) as f32).collect(),
                _ => Vec::new(),
            };
            (name.to_string(), Array { shape: view.shape().to_vec(), bytes: data.to_vec(), floats })
        })
        .collect()
}

/// Largest absolute difference.
pub fn max_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, |m, d| if d > m || d.is_nan() { d } else { m })
}

/// Two numbers around an `x`, as in `37x53`.
pub fn pair(text: &str) -> (usize, usize) {
    let (a, b) = text.split_once('x').unwrap();
    (a.parse().unwrap(), b.parse().unwrap())
}
