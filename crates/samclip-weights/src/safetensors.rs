//! Safetensors: reading without copies, strictly; writing in a fixed order, atomically.
//!
//! Format: 8-byte little-endian header length, JSON header, data (github.com/huggingface/safetensors,
//! README "Format"). The `safetensors` crate checks lengths, offsets, holes and overlaps; JSON lets a key
//! occur twice and keeps the last, so names are checked here first.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;

use ::safetensors::{Dtype, SafeTensors};
use bytes::Bytes;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};

use crate::error::{Result, WeightsError};
use crate::state_dict::StateDict;
use crate::tensor::{DType, TensorData};

/// Longest header accepted, in bytes (the format's own limit).
pub const MAX_HEADER: usize = 100_000_000;

/// Reads a whole file image; tensors are slices of `bytes`.
pub(crate) fn parse(bytes: Bytes, path: &Path) -> Result<StateDict> {
    let invalid = |reason: String| WeightsError::invalid("safetensors", path, reason);
    let header = header(&bytes).map_err(invalid)?;
    check_names(header).map_err(|e| invalid(format!("header: {e}")))?;
    let data_start = 8 + header.len();
    let (_, metadata) = SafeTensors::read_metadata(&bytes).map_err(|e| invalid(e.to_string()))?;

    let mut state = StateDict::new();
    for (name, info) in metadata.tensors() {
        let dtype = dtype_of(info.dtype).ok_or_else(|| {
            invalid(format!("tensor `{name}` has unsupported element type {:?}", info.dtype))
        })?;
        let (start, end) = info.data_offsets;
        let data = bytes.slice(data_start + start..data_start + end);
        let tensor = TensorData::new(dtype, info.shape.clone(), data)
            .map_err(|e| invalid(format!("tensor `{name}`: {e}")))?;
        state.insert(name, tensor);
    }
    if let Some(text) = metadata.metadata() {
        state.metadata = text.iter().map(|(k, v)| (k.clone(), v.clone())).collect();
    }
    Ok(state)
}

/// The JSON text, with its length checked.
fn header(bytes: &[u8]) -> Result<&[u8], String> {
    let (length, rest) = bytes.split_first_chunk::<8>().ok_or("shorter than its 8-byte length field")?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 {
        return Err(format!("header of {length} bytes, expected at most {MAX_HEADER}"));
    }
    rest.get(..length as usize)
        .ok_or_else(|| format!("header of {length} bytes, the file has {}", rest.len()))
}

/// An error when a key occurs twice.
fn check_names(header: &[u8]) -> Result<(), serde_json::Error> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object of tensors")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
            let mut seen = BTreeSet::new();
            while let Some(name) = map.next_key::<String>()? {
                map.next_value::<IgnoredAny>()?;
                if seen.contains(&name) {
                    return Err(A::Error::custom(format!("`{name}` occurs twice")));
                }
                seen.insert(name);
            }
            Ok(())
        }
    }
    let mut json = serde_json::Deserializer::from_slice(header);
    json.deserialize_map(Names)?;
    json.end()
}

fn dtype_of(dtype: Dtype) -> Option<DType> {
    Some(match dtype {
        Dtype::F64 => DType::F64,
        Dtype::F32 => DType::F32,
        Dtype::F16 => DType::F16,
        Dtype::BF16 => DType::BF16,
        Dtype::I64 => DType::I64,
        Dtype::I32 => DType::I32,
        Dtype::I16 => DType::I16,
        Dtype::I8 => DType::I8,
        Dtype::U8 => DType::U8,
        Dtype::BOOL => DType::Bool,
        _ => return None,
    })
}

/// Writes a safetensors file atomically; equal state dicts give equal bytes.
pub fn write_safetensors(path: &Path, state: &StateDict) -> Result<()> {
    crate::file::write_atomically(path, |out| write_to(out, state))
}

/// The same as bytes.
pub fn to_safetensors_bytes(state: &StateDict) -> Vec<u8> {
    let mut out = Vec::new();
    write_to(&mut out, state).expect("writing to memory cannot fail");
    out
}

fn write_to(out: &mut (impl Write + ?Sized), state: &StateDict) -> std::io::Result<()> {
    // Wide elements first, then by name: every tensor starts at a multiple of its element size.
    let mut order: Vec<(&str, &TensorData)> = state.iter().collect();
    order.sort_by_key(|(name, t)| (std::cmp::Reverse(t.dtype().size()), *name));

    let mut header = serde_json::Map::new();
    if !state.metadata.is_empty() {
        let text: BTreeMap<_, _> = state.metadata.iter().collect();
        header.insert("__metadata__".into(), serde_json::to_value(text)?);
    }
    let mut offset = 0;
    for (name, tensor) in &order {
        let end = offset + tensor.bytes().len();
        header.insert(
            (*name).into(),
            serde_json::json!({"dtype": tensor.dtype().name(), "shape": tensor.shape(), "data_offsets": [offset, end]}),
        );
        offset = end;
    }
    let mut header = serde_json::to_vec(&header)?;
    // Data starts at a cache line: packed words are read where they are mapped.
    header.resize((8 + header.len()).next_multiple_of(64) - 8, b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)?;
    order.iter().try_for_each(|(_, tensor)| out.write_all(tensor.bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut out = (header.len() as u64).to_le_bytes().to_vec();
        out.extend_from_slice(header.as_bytes());
        out.resize(out.len() + data, 0);
        out
    }

    fn error(bytes: &[u8]) -> String {
        StateDict::from_safetensors_bytes(bytes).unwrap_err().to_string()
    }

    #[test]
    fn round_trip_and_equal_bytes() {
        let mut state = StateDict::new();
        state.metadata.insert("format".into(), "pt".into());
        state.metadata.insert("a".into(), "b \" ü".into());
        state.insert("w", TensorData::from_f32(&[2, 2], &[1.0, 2.0, 3.0, 4.0]));
        state.insert("h", TensorData::from_f32_as(DType::F16, &[3], &[1.0, 2.0, 3.0]));
        state.insert("empty", TensorData::from_f32(&[0, 4], &[]));
        state.insert("scalar", TensorData::from_f32(&[], &[7.0]));
        state.insert("n", TensorData::from_i64(&[1], &[-5]));
        let bytes = to_safetensors_bytes(&state);
        assert_eq!(StateDict::from_safetensors_bytes(&bytes).unwrap(), state);
        assert_eq!(bytes, to_safetensors_bytes(&state.clone()));
        // An independent reader agrees.
        let other = SafeTensors::deserialize(&bytes).unwrap();
        assert_eq!(other.tensor("w").unwrap().data(), state.get("w").unwrap().bytes());
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        write_safetensors(&path, &state).unwrap();
        assert_eq!(StateDict::open(&path).unwrap(), state);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn hostile_headers_are_errors() {
        let t = |o: &str| format!(r#"{{"dtype":"F32","shape":[2],"data_offsets":{o}}}"#);
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("short", vec![0; 5], "length field"),
            (
                "too long",
                {
                    let mut v = (u64::MAX).to_le_bytes().to_vec();
                    v.push(b'{');
                    v
                },
                "at most",
            ),
            (
                "100 MB + 1",
                {
                    let mut v = (100_000_001u64).to_le_bytes().to_vec();
                    v.push(b'{');
                    v
                },
                "at most",
            ),
            (
                "longer than file",
                {
                    let mut v = 50u64.to_le_bytes().to_vec();
                    v.extend(b"{}");
                    v
                },
                "the file has 2",
            ),
            ("not json", file("{nope", 0), "header"),
            ("not an object", file("[1,2,3]", 0), "header"),
            ("deep", file(&format!("{{\"a\":{}", "[".repeat(100_000)), 0), "header"),
            (
                "not utf-8",
                {
                    let mut v = 4u64.to_le_bytes().to_vec();
                    v.extend(b"{\"\xff\"");
                    v
                },
                "header",
            ),
            ("overlap", file(&format!(r#"{{"a":{},"b":{}}}"#, t("[0,8]"), t("[4,12]")), 12), "b"),
            ("hole", file(&format!(r#"{{"a":{},"b":{}}}"#, t("[0,8]"), t("[12,20]")), 20), "b"),
            ("out of range", file(&format!(r#"{{"a":{}}}"#, t("[0,8]")), 4), ""),
            ("trailing bytes", file(&format!(r#"{{"a":{}}}"#, t("[0,8]")), 9), ""),
            ("reversed", file(&format!(r#"{{"a":{}}}"#, t("[8,0]")), 8), "a"),
            ("shape and offsets", file(r#"{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}"#, 8), ""),
            (
                "overflow",
                file(r#"{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}"#, 0),
                "",
            ),
            ("negative", file(r#"{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,0]}}"#, 0), ""),
            ("dtype", file(r#"{"a":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}}"#, 1), "`a`"),
            ("twice", file(&format!(r#"{{"a":{},"a":{}}}"#, t("[0,8]"), t("[0,8]")), 8), "`a` occurs twice"),
        ];
        for (what, bytes, expected) in cases {
            let message = error(&bytes);
            assert!(message.starts_with("invalid safetensors file"), "{what}: {message}");
            assert!(message.contains(expected), "{what}: {message}");
        }
    }
}
