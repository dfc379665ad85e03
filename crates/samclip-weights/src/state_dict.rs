//! Named tensors in name order, with text metadata; opening any supported file; the strict check.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;

use crate::error::{Problem, Problems, Result, WeightsError};
use crate::file::{Format, unload};
use crate::packed::Packed;
use crate::safetensors;
use crate::tensor::TensorData;

/// Formats that [`StateDict::open`] reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileFormat {
    /// `.safetensors`.
    Safetensors,
    /// `torch.save` of PyTorch 1.6 or later: a zip archive of a pickle and its storages.
    Torch,
    /// `torch.jit.save`: OpenAI's CLIP files.
    TorchScript,
}

impl std::fmt::Display for FileFormat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Safetensors => "safetensors",
            Self::Torch => "torch zip",
            Self::TorchScript => "torchscript",
        })
    }
}

/// A checkpoint in memory: tensors by name and free-form text metadata, both in name order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StateDict {
    tensors: BTreeMap<String, TensorData>,
    /// Text that travels with the tensors (safetensors' `__metadata__`).
    pub metadata: BTreeMap<String, String>,
}

impl StateDict {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens a checkpoint by its content, not its extension: safetensors, PyTorch zip
    /// (`.pth`, `.bin`, `.pt`), TorchScript archive. The old PyTorch format is refused.
    ///
    /// The file is memory-mapped; tensors stay views of it.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with_format(path).map(|(state, _)| state)
    }

    /// The same, with the format that was found.
    pub fn open_with_format(path: &Path) -> Result<(Self, FileFormat)> {
        Self::open_whole(path).map(|(state, format, _)| (state, format))
    }

    /// The same with what the file holds packed.
    pub fn open_packed(path: &Path) -> Result<(Self, Option<Packed>)> {
        Self::open_whole(path).map(|(state, _, packed)| (state, packed))
    }

    fn open_whole(path: &Path) -> Result<(Self, FileFormat, Option<Packed>)> {
        let (mut state, format) = Self::from_bytes(crate::file::map(path)?, path)?;
        let packed = state.take_packed();
        Ok((state, format, packed))
    }

    /// The same from bytes already in memory; `path` only names them in messages.
    pub fn from_bytes(bytes: Bytes, path: &Path) -> Result<(Self, FileFormat)> {
        match crate::file::sniff(&bytes) {
            Format::Safetensors => {
                safetensors::parse(bytes, path).map(|state| (state, FileFormat::Safetensors))
            }
            Format::Zip => crate::torch::parse(bytes, path).map(|(state, script)| {
                let format = if script { FileFormat::TorchScript } else { FileFormat::Torch };
                (state, format)
            }),
            Format::Legacy(kind) => Err(WeightsError::LegacyTorch { kind, path: path.into() }),
            Format::Unknown(found) => Err(WeightsError::UnknownFormat { found, path: path.into() }),
        }
    }

    /// Reads safetensors from memory, copying them once.
    pub fn from_safetensors_bytes(bytes: &[u8]) -> Result<Self> {
        safetensors::parse(Bytes::copy_from_slice(bytes), Path::new("<memory>"))
    }

    /// Reads safetensors embedded in the binary, without a copy.
    pub fn from_static_safetensors(bytes: &'static [u8]) -> Result<Self> {
        safetensors::parse(Bytes::from_static(bytes), Path::new("<embedded>"))
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<&TensorData> {
        self.tensors.get(name)
    }

    /// The tensor of that name, or an error that names it.
    pub fn require(&self, name: &str) -> Result<&TensorData> {
        self.get(name).ok_or_else(|| WeightsError::tensor(name, "is missing"))
    }

    /// Adds or replaces; returns what was there.
    pub fn insert(&mut self, name: impl Into<String>, tensor: TensorData) -> Option<TensorData> {
        self.tensors.insert(name.into(), tensor)
    }

    /// Takes a tensor out.
    pub fn remove(&mut self, name: &str) -> Option<TensorData> {
        self.tensors.remove(name)
    }

    /// Tensors in name order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TensorData)> {
        self.tensors.iter().map(|(name, tensor)| (name.as_str(), tensor))
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Whether there is no tensor.
    pub fn is_empty(&self) -> bool {
        self.tensors.is_empty()
    }

    /// Number of elements over all tensors.
    pub fn parameter_count(&self) -> usize {
        self.tensors.values().map(TensorData::numel).sum()
    }

    /// Whether any name starts with `prefix`.
    pub fn has_prefix(&self, prefix: &str) -> bool {
        self.tensors
            .range::<str, _>((std::ops::Bound::Included(prefix), std::ops::Bound::Unbounded))
            .next()
            .is_some_and(|(name, _)| name.starts_with(prefix))
    }

    /// All float tensors in another float type; integers stay.
    pub fn cast_float(&self, dtype: crate::DType) -> Self {
        let tensors = self.tensors.iter().map(|(n, t)| (n.clone(), t.cast_float(dtype))).collect();
        Self { tensors, metadata: self.metadata.clone() }
    }
}

impl IntoIterator for StateDict {
    type Item = (String, TensorData);
    type IntoIter = std::collections::btree_map::IntoIter<String, TensorData>;

    fn into_iter(self) -> Self::IntoIter {
        self.tensors.into_iter()
    }
}

impl FromIterator<(String, TensorData)> for StateDict {
    fn from_iter<I: IntoIterator<Item = (String, TensorData)>>(iter: I) -> Self {
        Self { tensors: iter.into_iter().collect(), metadata: BTreeMap::new() }
    }
}

/// Holds a checkpoint against a model's names and shapes.
///
/// Every missing, unexpected, mis-shaped and non-finite tensor is reported at once, in name order.
/// Element types are free: loading converts.
pub fn check_strict(expected: &[(String, Vec<usize>)], state: &StateDict) -> Result<()> {
    check_strict_but(expected, state, |_| false)
}

/// [`check_strict`], but the values of tensors that are `known` to be finite are not read.
pub fn check_strict_but(expected: &[(String, Vec<usize>)], state: &StateDict, known: impl Fn(&str) -> bool) -> Result<()> {
    let expected: BTreeMap<&str, &Vec<usize>> = expected.iter().map(|(n, s)| (n.as_str(), s)).collect();
    let mut problems = Vec::new();
    for (&name, &shape) in &expected {
        match state.get(name) {
            None => problems.push(Problem::Missing { name: name.into(), shape: shape.clone() }),
            Some(found) if found.shape() != shape.as_slice() => problems.push(Problem::Shape {
                name: name.into(),
                expected: shape.clone(),
                found: found.shape().to_vec(),
            }),
            Some(_) => {}
        }
    }
    for (name, tensor) in state.iter() {
        if !expected.contains_key(name) {
            problems.push(Problem::Unexpected { name: name.into(), shape: tensor.shape().to_vec() });
        }
    }
    problems.extend(state.iter().filter(|(name, _)| !known(name)).filter_map(bad_values));
    if problems.is_empty() { Ok(()) } else { Err(WeightsError::Mismatch(Problems(problems))) }
}

/// Every float tensor that holds a NaN or an infinity, in name order.
pub fn non_finite(state: &StateDict) -> Vec<Problem> {
    state.iter().filter_map(bad_values).collect()
}

/// Reads all values, and gives back the pages of a mapped file that it read them from.
fn bad_values((name, tensor): (&str, &TensorData)) -> Option<Problem> {
    let found = tensor.non_finite();
    unload(tensor.bytes());
    found.map(|(index, count)| Problem::NonFinite { name: name.into(), index, count })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Vec<(String, Vec<usize>)>, StateDict) {
        let expected = vec![("a".to_string(), vec![2]), ("b".to_string(), vec![1, 2])];
        let mut state = StateDict::new();
        state.insert("a", TensorData::from_f32(&[2], &[1.0, 2.0]));
        state.insert("b", TensorData::from_f32(&[1, 2], &[3.0, 4.0]));
        (expected, state)
    }

    #[test]
    fn exact_match_passes() {
        let (expected, state) = sample();
        check_strict(&expected, &state).unwrap();
    }

    #[test]
    fn each_difference_is_named() {
        let (expected, state) = sample();
        let message = |s: &StateDict| check_strict(&expected, s).unwrap_err().to_string();

        let mut missing = state.clone();
        missing.remove("b");
        assert!(message(&missing).contains("missing `b` [1, 2]"));

        let mut extra = state.clone();
        extra.insert("c", TensorData::from_f32(&[1], &[0.0]));
        assert!(message(&extra).contains("unexpected `c` [1]"));

        let mut shape = state.clone();
        shape.insert("b", TensorData::from_f32(&[2, 1], &[3.0, 4.0]));
        assert!(message(&shape).contains("`b` has shape [2, 1], expected [1, 2]"));

        let mut nan = state.clone();
        nan.insert("a", TensorData::from_f32(&[2], &[1.0, f32::NAN]));
        assert!(message(&nan).contains("`a` has 1 non-finite values, the first at flat index 1"));

        let all = check_strict(&expected, &StateDict::new()).unwrap_err();
        assert!(matches!(&all, WeightsError::Mismatch(Problems(p)) if p.len() == 2));
        assert!(all.hint().is_some());
    }

    #[test]
    fn long_lists_are_counted() {
        let expected: Vec<_> = (0..20).map(|i| (format!("t{i:02}"), vec![1])).collect();
        let message = check_strict(&expected, &StateDict::new()).unwrap_err().to_string();
        assert!(message.ends_with("and 12 more"), "{message}");
    }

    #[test]
    fn prefix() {
        let (_, mut state) = sample();
        state.insert("visual.conv1.weight", TensorData::from_f32(&[1], &[0.0]));
        assert!(state.has_prefix("visual."));
        assert!(!state.has_prefix("visual.z"));
    }
}
