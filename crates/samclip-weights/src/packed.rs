//! What a checkpoint holds packed beside its weights (`samclip weights pack`).
//!
//! Tensors `packed.NAME` are the words that a processor's kernels read instead of the weight NAME; the metadata
//! `samclip.packed` names their order. Whoever opens a checkpoint for its weights does not see them.

use std::collections::BTreeMap;

use crate::state_dict::StateDict;
use crate::tensor::{DType, TensorData};

const PREFIX: &str = "packed.";
const LAYOUT: &str = "samclip.packed";

/// Packed words by the names of their weights.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Packed {
    /// The order of the words: processor tier and precision.
    pub layout: String,
    /// The words, little-endian.
    pub words: BTreeMap<String, TensorData>,
}

impl Packed {
    /// Adds the words of a weight; their number is a multiple of eight bytes.
    pub fn insert(&mut self, name: &str, words: Vec<u8>) -> Result<(), String> {
        // Eight-byte elements come first in a file, which keeps the words at a cache line's start.
        let words = TensorData::new(DType::I64, vec![words.len() / 8], words.into())?;
        self.words.insert(name.to_owned(), words);
        Ok(())
    }
}

impl StateDict {
    /// Takes out what is packed; none when nothing is.
    pub(crate) fn take_packed(&mut self) -> Option<Packed> {
        let layout = self.metadata.remove(LAYOUT)?;
        let names: Vec<String> = self.names().filter(|name| name.starts_with(PREFIX)).map(str::to_owned).collect();
        let take = |name: String| Some((name[PREFIX.len()..].to_owned(), self.remove(&name)?));
        Some(Packed { layout, words: names.into_iter().filter_map(take).collect() })
    }

    /// The checkpoint with packed words beside its weights.
    pub fn with_packed(mut self, packed: Packed) -> Self {
        self.metadata.insert(LAYOUT.to_owned(), packed.layout);
        for (name, words) in packed.words {
            self.insert(format!("{PREFIX}{name}"), words);
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_opens_a_packed_file_for_its_weights_sees_only_them() {
        let mut state = StateDict::new();
        state.insert("a.weight", TensorData::from_f32(&[3], &[1.0, 2.0, 3.0]));
        let mut packed = Packed { layout: "x-1".to_owned(), ..Packed::default() };
        packed.insert("a.weight", (0..128).collect()).unwrap();
        assert!(packed.insert("a.weight", vec![0; 9]).is_err());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        crate::write_safetensors(&path, &state.clone().with_packed(packed.clone())).unwrap();
        assert_eq!(StateDict::open(&path).unwrap(), state);
        let (opened, found) = StateDict::open_packed(&path).unwrap();
        assert_eq!((opened, found), (state, Some(packed)));
        // The words start at a cache line of the file.
        let bytes = std::fs::read(&path).unwrap();
        let at = bytes.windows(128).position(|w| w.iter().copied().eq(0..128)).unwrap();
        assert_eq!(at % 64, 0);
    }
}
