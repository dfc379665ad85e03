//! PyTorch's zip checkpoints (`torch.save`) and TorchScript archives (`torch.jit.save`).
//!
//! Reference: torch `torch/serialization.py` (`_save`, `_load`), `caffe2/serialize/inline_container.cc`
//! (record names), `torch/csrc/jit/serialization/python_print.cpp` (`__parameters__`, `__buffers__`).
//! Parity: tests/torch.rs, against files written by PyTorch.
//!
//! An archive holds `ROOT/data.pkl`, a pickle of strided views, and one stored (uncompressed) record
//! `ROOT/data/KEY` per storage. Contiguous tensors stay slices of the file; others are gathered.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Cursor, Read};
use std::path::Path;

use bytes::Bytes;
use zip::{CompressionMethod, ZipArchive};

use crate::error::{Result, WeightsError};
use crate::pickle::{self, Dialect, Graph, Id, Node, View};
use crate::state_dict::StateDict;
use crate::tensor::{TensorData, element_count};

/// Most records of an archive.
const MAX_RECORDS: usize = 1_000_000;
/// Longest TorchScript source file and all of them together, in bytes after inflation.
const MAX_SOURCE: u64 = 16 << 20;
/// Deepest nesting of TorchScript modules.
const MAX_DEPTH: usize = 64;
/// Most TorchScript attributes visited; shared modules are visited once for each of their names.
const MAX_VISITS: usize = 200_000;
/// Longest tensor name of a TorchScript module, in bytes.
const MAX_NAME: usize = 512;
/// Keys under which training scripts keep the state dict.
const WRAPPERS: [&str; 4] = ["state_dict", "model", "model_state_dict", "module"];

/// Reads an archive; also says whether it is TorchScript.
pub(crate) fn parse(bytes: Bytes, path: &Path) -> Result<(StateDict, bool)> {
    let mut archive = Archive::open(bytes, path)?;
    let script = archive.records.contains_key("constants.pkl");
    let dialect = if script { Dialect::TorchScript } else { Dialect::Checkpoint };
    let graph = pickle::load(&archive.stored("data.pkl")?, dialect, path)?;
    let views = if script { module_tensors(&graph, &mut archive)? } else { dict_tensors(&graph, path)? };
    let mut state = StateDict::new();
    let mut budget = archive.gather_budget();
    for (name, view) in views {
        let tensor =
            archive.tensor(view, &mut budget).map_err(|reason| archive.bad_tensor(&name, &reason))?;
        if state.insert(name.clone(), tensor).is_some() {
            return Err(archive.bad_tensor(&name, "occurs twice"));
        }
    }
    Ok((state, script))
}

/// Where a record lies in the file.
struct Record {
    index: usize,
    stored: bool,
    start: u64,
    size: u64,
}

/// The records below the root folder, by name.
struct Archive<'a> {
    path: &'a Path,
    bytes: Bytes,
    zip: ZipArchive<Cursor<Bytes>>,
    records: BTreeMap<String, Record>,
}

impl<'a> Archive<'a> {
    fn open(bytes: Bytes, path: &'a Path) -> Result<Self> {
        let invalid = |reason: String| WeightsError::invalid("zip", path, reason);
        let mut zip = ZipArchive::new(Cursor::new(bytes.clone())).map_err(|e| invalid(e.to_string()))?;
        if zip.len() > MAX_RECORDS {
            return Err(invalid(format!("{} records, expected at most {MAX_RECORDS}", zip.len())));
        }
        let is_root = |name: &&str| name.strip_suffix("/data.pkl").is_some_and(|root| !root.contains('/'));
        let roots: Vec<String> = zip.file_names().filter(is_root).map(str::to_owned).collect();
        let [root] = roots.as_slice() else {
            let reason = format!("{} records named `ROOT/data.pkl`, expected one", roots.len());
            return Err(WeightsError::invalid("torch", path, reason));
        };
        let root = root.trim_end_matches("data.pkl").to_owned();
        let mut records = BTreeMap::new();
        for index in 0..zip.len() {
            let file = zip.by_index_raw(index).map_err(|e| invalid(e.to_string()))?;
            if file.encrypted() {
                return Err(invalid(format!("record `{}` is encrypted", file.name())));
            }
            let Some(name) = file.name().strip_prefix(&root) else {
                continue;
            };
            let stored =
                file.compression() == CompressionMethod::Stored && file.size() == file.compressed_size();
            let record = Record { index, stored, start: file.data_start(), size: file.size() };
            records.insert(name.to_owned(), record);
        }
        let archive = Self { path, bytes, zip, records };
        if archive.records.contains_key("byteorder") && &archive.stored("byteorder")?[..] != b"little" {
            return Err(WeightsError::invalid("torch", path, "big-endian, expected little-endian"));
        }
        Ok(archive)
    }

    fn invalid(&self, reason: impl Into<String>) -> WeightsError {
        WeightsError::invalid("torch", self.path, reason)
    }

    fn bad_tensor(&self, name: &str, reason: &str) -> WeightsError {
        self.invalid(format!("tensor `{name}`: {reason}"))
    }

    /// A record as a slice of the file.
    fn stored(&self, name: &str) -> Result<Bytes> {
        let record = self.records.get(name).ok_or_else(|| self.invalid(format!("no record `{name}`")))?;
        if !record.stored {
            return Err(self.invalid(format!("record `{name}` is compressed, expected stored")));
        }
        let end = record.start.checked_add(record.size).filter(|&end| end <= self.bytes.len() as u64);
        let end = end.ok_or_else(|| self.invalid(format!("record `{name}` ends outside the file")))?;
        Ok(self.bytes.slice(record.start as usize..end as usize))
    }

    /// A text record, inflated if need be, within a budget of bytes.
    fn text(&mut self, name: &str, budget: &mut u64) -> Result<Option<String>> {
        let Some(index) = self.records.get(name).map(|r| r.index) else {
            return Ok(None);
        };
        let path = self.path;
        let bad = |reason: String| WeightsError::invalid("torch", path, format!("record `{name}`: {reason}"));
        let file = self.zip.by_index(index).map_err(|e| bad(e.to_string()))?;
        let mut text = String::new();
        file.take(*budget + 1).read_to_string(&mut text).map_err(|e| bad(e.to_string()))?;
        let left = budget.checked_sub(text.len() as u64);
        *budget = left.ok_or_else(|| bad(format!("sources beyond {MAX_SOURCE} bytes")))?;
        Ok(Some(text))
    }

    /// Bytes that gathered (non-contiguous, expanded) tensors may take together: a few times the file.
    fn gather_budget(&self) -> usize {
        self.bytes.len().saturating_mul(4).saturating_add(1 << 20)
    }

    /// The elements of a view, checked against its storage.
    fn tensor(&self, view: &View, budget: &mut usize) -> Result<TensorData, String> {
        let (size, storage) = (view.dtype.size(), &view.storage);
        let bytes = self.stored(&format!("data/{}", storage.key)).map_err(|e| e.to_string())?;
        let claimed = storage.numel.checked_mul(size).ok_or("its storage overflows")?;
        if claimed > bytes.len() {
            return Err(format!("its storage has {} bytes, expected {claimed}", bytes.len()));
        }
        let count = element_count(&view.shape).ok_or("its shape overflows")?;
        if count == 0 {
            return TensorData::new(view.dtype, view.shape.clone(), Bytes::new());
        }
        let end = span(view).ok_or("its offset and strides overflow")?;
        if end > storage.numel {
            return Err(format!(
                "offset {} + strides {:?} × shape {:?} reach element {end} of a storage of {}",
                view.offset, view.strides, view.shape, storage.numel
            ));
        }
        if is_contiguous(view) {
            let data = bytes.slice(view.offset * size..(view.offset + count) * size);
            return TensorData::new(view.dtype, view.shape.clone(), data);
        }
        let total = count.checked_mul(size).ok_or("its shape overflows")?;
        *budget = budget.checked_sub(total).ok_or("expanded views need far more memory than the file")?;
        TensorData::new(view.dtype, view.shape.clone(), gather(view, &bytes).into())
    }
}

/// One past the last element touched: offset + Σ (shape - 1) · stride + 1, or `None` on overflow.
fn span(view: &View) -> Option<usize> {
    let mut last = view.offset;
    for (&n, &stride) in view.shape.iter().zip(&view.strides) {
        last = last.checked_add((n - 1).checked_mul(stride)?)?;
    }
    last.checked_add(1)
}

/// Whether elements lie in row-major order without gaps; axes of length 1 may have any stride.
fn is_contiguous(view: &View) -> bool {
    let mut expected = 1;
    for (&n, &stride) in view.shape.iter().zip(&view.strides).rev() {
        if n != 1 && stride != expected {
            return false;
        }
        expected *= n;
    }
    true
}

/// Copies a strided view into row-major order; bounds were checked by [`span`].
fn gather(view: &View, bytes: &[u8]) -> Vec<u8> {
    let size = view.dtype.size();
    let count: usize = view.shape.iter().product();
    let mut out = Vec::with_capacity(count * size);
    let mut index = vec![0usize; view.shape.len()];
    let mut at = view.offset;
    for _ in 0..count {
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..index.len()).rev() {
            index[axis] += 1;
            at += view.strides[axis];
            if index[axis] < view.shape[axis] {
                break;
            }
            at -= view.strides[axis] * view.shape[axis];
            index[axis] = 0;
        }
    }
    out
}

/// The tensors of a state dict, bare or inside one of the usual wrappers.
fn dict_tensors<'g>(graph: &'g Graph, path: &Path) -> Result<Vec<(String, &'g View)>> {
    let invalid = |reason: String| WeightsError::invalid("torch", path, reason);
    let Node::Dict(mut entries) = graph.get(graph.root).clone() else {
        return Err(invalid(format!("holds {}, expected a dict of tensors", graph.get(graph.root).kind())));
    };
    // A training checkpoint keeps its epoch, optimiser and so on beside the state dict.
    let is_wrapper = |&&(key, value): &&(Id, Id)| {
        graph.str(key).is_some_and(|k| WRAPPERS.contains(&k)) && matches!(graph.get(value), Node::Dict(_))
    };
    let inner = entries.iter().find(is_wrapper).map(|&(_, inner)| graph.get(inner));
    if let Some(Node::Dict(inner)) = inner {
        entries = inner.clone();
    }
    let mut seen = BTreeSet::new();
    let tensor = |(key, value): (Id, Id)| {
        let name = graph
            .str(key)
            .ok_or_else(|| invalid(format!("a key is {}, expected a string", graph.get(key).kind())))?;
        if !seen.insert(name) {
            return Err(invalid(format!("tensor `{name}` occurs twice")));
        }
        match graph.get(value) {
            Node::Tensor(view) => Ok((name.to_owned(), &**view)),
            other => Err(invalid(format!("entry `{name}` is {}, expected a tensor", other.kind()))),
        }
    };
    entries.into_iter().map(tensor).collect()
}

/// The parameters and buffers of a TorchScript module, named as `state_dict()` names them.
fn module_tensors<'g>(graph: &'g Graph, archive: &mut Archive<'_>) -> Result<Vec<(String, &'g View)>> {
    let mut sources = Sources::default();
    let mut out = Vec::new();
    let mut visits = 0;
    let mut pending = vec![(String::new(), graph.root, 0usize)];
    while let Some((prefix, id, depth)) = pending.pop() {
        let Node::Object { class, state: Some(state) } = graph.get(id) else {
            return Err(archive.invalid(format!("`{prefix}` is {}, expected a module", graph.get(id).kind())));
        };
        let Node::Dict(attributes) = graph.get(*state) else {
            return Err(archive.invalid(format!("module `{prefix}` has no attributes")));
        };
        if depth > MAX_DEPTH {
            return Err(archive.invalid(format!("modules nested more than {MAX_DEPTH} deep")));
        }
        let kept = sources.tensors_of(class, archive)?;
        for &(key, value) in attributes {
            visits += 1;
            if visits > MAX_VISITS {
                return Err(archive.invalid(format!("more than {MAX_VISITS} attributes")));
            }
            let Some(key) = graph.str(key) else {
                return Err(archive.invalid(format!("module `{prefix}`: a key is not a string")));
            };
            if prefix.len() + key.len() > MAX_NAME {
                return Err(archive.invalid(format!("a name of more than {MAX_NAME} bytes")));
            }
            match graph.get(value) {
                Node::Object { .. } => pending.push((format!("{prefix}{key}."), value, depth + 1)),
                // Without its source every tensor of a class counts; a surplus one shows in the strict check.
                Node::Tensor(view) if kept.is_none_or(|kept| kept.contains(key)) => {
                    out.push((format!("{prefix}{key}"), &**view));
                }
                _ => {}
            }
        }
    }
    Ok(out)
}

/// `__parameters__` and `__buffers__` of the classes met so far, from the archive's generated source text.
#[derive(Default)]
struct Sources {
    classes: BTreeMap<String, Option<BTreeSet<String>>>,
    files: BTreeMap<String, Option<String>>,
    spent: u64,
}

impl Sources {
    /// Names of the class's parameters and buffers; `None` when its source is absent.
    fn tensors_of(&mut self, class: &str, archive: &mut Archive<'_>) -> Result<Option<&BTreeSet<String>>> {
        if !self.classes.contains_key(class) {
            let (module, name) = class.rsplit_once('.').unwrap_or(("", class));
            let file = format!("code/{}.py", module.replace('.', "/"));
            if !self.files.contains_key(&file) {
                let mut budget = MAX_SOURCE - self.spent;
                let text = archive.text(&file, &mut budget)?;
                self.spent = MAX_SOURCE - budget;
                self.files.insert(file.clone(), text);
            }
            let found = self.files[&file].as_deref().and_then(|text| declared(text, name));
            self.classes.insert(class.to_owned(), found);
        }
        Ok(self.classes[class].as_ref())
    }
}

/// The quoted names of `__parameters__ = [...]` and `__buffers__ = [...]` in one class of a source text.
fn declared(source: &str, class: &str) -> Option<BTreeSet<String>> {
    let header = format!("class {class}(");
    let body = source.lines().skip_while(|line| !line.starts_with(&header)).skip(1);
    let mut found = None;
    for line in body.take_while(|line| !line.starts_with("class ")) {
        let line = line.trim_start();
        if line.starts_with("__parameters__ = [") || line.starts_with("__buffers__ = [") {
            let names = line.split('"').skip(1).step_by(2).map(str::to_owned);
            found.get_or_insert_with(BTreeSet::new).extend(names);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pickle::Storage;
    use crate::tensor::DType;

    fn view(offset: usize, shape: &[usize], strides: &[usize]) -> View {
        let storage = Storage { dtype: Some(DType::U8), key: "0".into(), numel: 6 };
        View { storage, dtype: DType::U8, offset, shape: shape.into(), strides: strides.into() }
    }

    #[test]
    fn gathering() {
        let data = [0u8, 1, 2, 3, 4, 5];
        assert_eq!(gather(&view(0, &[3, 2], &[1, 3]), &data), [0, 3, 1, 4, 2, 5]);
        assert_eq!(gather(&view(1, &[2, 2], &[3, 1]), &data), [1, 2, 4, 5]);
        assert_eq!(gather(&view(2, &[3], &[0]), &data), [2, 2, 2]);
    }

    #[test]
    fn spans() {
        assert_eq!(span(&view(0, &[2, 3], &[3, 1])), Some(6));
        assert_eq!(span(&view(5, &[], &[])), Some(6));
        assert_eq!(span(&view(usize::MAX, &[1], &[1])), None);
        assert_eq!(span(&view(0, &[3], &[usize::MAX])), None);
        assert!(is_contiguous(&view(0, &[2, 1, 3], &[3, 99, 1])));
        assert!(!is_contiguous(&view(0, &[3, 2], &[1, 3])));
    }

    #[test]
    fn declared_names() {
        let source = "class A(Module):\n  __parameters__ = [\"w\", \"b\", ]\n  __buffers__ = []\n  training : bool\nclass B(Module):\n  __parameters__ = []\n  __buffers__ = [\"m\", ]\n";
        assert_eq!(declared(source, "A").unwrap(), BTreeSet::from(["w".into(), "b".into()]));
        assert_eq!(declared(source, "B").unwrap(), BTreeSet::from(["m".into()]));
        assert_eq!(declared(source, "C"), None);
    }
}
