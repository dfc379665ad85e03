//! One tensor of a checkpoint: element type, shape, little-endian bytes.
//!
//! The bytes are a shared slice, so that tensors of a mapped file cost no copy until they are converted.

use bytes::Bytes;
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use crate::error::{Result, WeightsError};

/// Element types of checkpoints; the names are safetensors'.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DType {
    /// IEEE double.
    F64,
    /// IEEE single.
    F32,
    /// IEEE half.
    F16,
    /// Brain float: the upper half of a single.
    BF16,
    /// 64-bit signed.
    I64,
    /// 32-bit signed.
    I32,
    /// 16-bit signed.
    I16,
    /// 8-bit signed.
    I8,
    /// 8-bit unsigned.
    U8,
    /// One byte, 0 or 1.
    Bool,
}

impl DType {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Self::F64 | Self::I64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::F16 | Self::BF16 | Self::I16 => 2,
            Self::I8 | Self::U8 | Self::Bool => 1,
        }
    }

    /// Whether elements are floating point.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F64 | Self::F32 | Self::F16 | Self::BF16)
    }

    /// The name in a safetensors header.
    pub fn name(self) -> &'static str {
        match self {
            Self::F64 => "F64",
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::I64 => "I64",
            Self::I32 => "I32",
            Self::I16 => "I16",
            Self::I8 => "I8",
            Self::U8 => "U8",
            Self::Bool => "BOOL",
        }
    }
}

impl std::fmt::Display for DType {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name().to_ascii_lowercase())
    }
}

impl std::str::FromStr for DType {
    type Err = String;

    /// Accepts the safetensors names in any case (`f32`, `F16`, `bf16`).
    fn from_str(s: &str) -> Result<Self, String> {
        use DType::*;
        [F64, F32, F16, BF16, I64, I32, I16, I8, U8, Bool]
            .into_iter()
            .find(|d| d.name().eq_ignore_ascii_case(s))
            .ok_or_else(|| format!("unknown element type `{s}`, expected f32, f16 or bf16"))
    }
}

/// Element type, shape and contiguous row-major little-endian bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorData {
    dtype: DType,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// Product of a shape, `None` on overflow.
pub(crate) fn element_count(shape: &[usize]) -> Option<usize> {
    shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

/// Elements one after the other.
fn little_endian<const N: usize>(elements: impl ExactSizeIterator<Item = [u8; N]>) -> Vec<u8> {
    let mut out = vec![0; elements.len() * N];
    for (to, from) in out.as_chunks_mut().0.iter_mut().zip(elements) {
        *to = from;
    }
    out
}

/// Index of the first bad element and their number.
fn scan<const N: usize>(bytes: &[u8], bad: impl Fn([u8; N]) -> bool) -> Option<(usize, usize)> {
    // Without an early exit the loop runs at the speed of memory, and nearly every tensor is good.
    let elements = bytes.as_chunks::<N>().0;
    let count: usize = elements.iter().map(|c| usize::from(bad(*c))).sum();
    if count == 0 {
        return None;
    }
    elements.iter().position(|c| bad(*c)).map(|first| (first, count))
}

impl TensorData {
    /// Wraps bytes; an error message when their length is not shape × element size.
    pub fn new(dtype: DType, shape: Vec<usize>, bytes: Bytes) -> Result<Self, String> {
        let expected = element_count(&shape)
            .and_then(|n| n.checked_mul(dtype.size()))
            .ok_or_else(|| format!("shape {shape:?} overflows"))?;
        if bytes.len() != expected {
            return Err(format!("shape {shape:?} of {dtype} needs {expected} bytes, found {}", bytes.len()));
        }
        Ok(Self { dtype, shape, bytes })
    }

    /// Row-major f32 values. Panics when `values` does not fill `shape` (a programming error).
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        Self::from_f32_as(DType::F32, shape, values)
    }

    /// Row-major values rounded (to nearest even) to a float type.
    /// Panics when `values` does not fill `shape` or `dtype` is not a float (programming errors).
    pub fn from_f32_as(dtype: DType, shape: &[usize], values: &[f32]) -> Self {
        assert_eq!(element_count(shape), Some(values.len()), "values must fill shape {shape:?}");
        let bytes = match dtype {
            DType::F32 => little_endian(values.iter().map(|v| v.to_le_bytes())),
            DType::F64 => little_endian(values.iter().map(|&v| f64::from(v).to_le_bytes())),
            DType::F16 => {
                let mut half = vec![f16::ZERO; values.len()];
                half.convert_from_f32_slice(values);
                little_endian(half.iter().map(|v| v.to_le_bytes()))
            }
            DType::BF16 => {
                let mut half = vec![bf16::ZERO; values.len()];
                half.convert_from_f32_slice(values);
                little_endian(half.iter().map(|v| v.to_le_bytes()))
            }
            other => panic!("from_f32_as: {other} is not a float type"),
        };
        Self { dtype, shape: shape.to_vec(), bytes: bytes.into() }
    }

    /// Row-major i64 values. Panics when `values` does not fill `shape` (a programming error).
    pub fn from_i64(shape: &[usize], values: &[i64]) -> Self {
        assert_eq!(element_count(shape), Some(values.len()), "values must fill shape {shape:?}");
        let bytes = little_endian(values.iter().map(|v| v.to_le_bytes()));
        Self { dtype: DType::I64, shape: shape.to_vec(), bytes: bytes.into() }
    }

    /// Lengths of the axes; empty for a scalar.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Contiguous row-major little-endian bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The same bytes, kept alive with what they are part of.
    pub fn shared_bytes(&self) -> Bytes {
        self.bytes.clone()
    }

    /// Number of elements (1 for a scalar).
    pub fn numel(&self) -> usize {
        self.bytes.len() / self.dtype.size()
    }

    /// Values as f32: exact for f16, bf16, i8, u8, i16 and bool; rounded for f64, i32 and i64.
    pub fn to_f32(&self) -> Vec<f32> {
        let b = &self.bytes[..];
        match self.dtype {
            DType::F32 => b.as_chunks().0.iter().map(|c| f32::from_le_bytes(*c)).collect(),
            DType::F64 => b.as_chunks().0.iter().map(|c| f64::from_le_bytes(*c) as f32).collect(),
            DType::F16 => {
                let half: Vec<f16> = b.as_chunks().0.iter().map(|c| f16::from_le_bytes(*c)).collect();
                let mut wide = vec![0.0; half.len()];
                half.convert_to_f32_slice(&mut wide);
                wide
            }
            DType::BF16 => {
                let wide = |c: &[u8; 2]| f32::from_bits(u32::from(u16::from_le_bytes(*c)) << 16);
                b.as_chunks().0.iter().map(wide).collect()
            }
            _ => self.integers().map(|v| v as f32).collect(),
        }
    }

    /// Values as i64, for the integer types and bool; an error for floats.
    pub fn to_i64(&self) -> Result<Vec<i64>> {
        if self.dtype.is_float() {
            return Err(WeightsError::tensor("?", format!("is {}, expected integers", self.dtype)));
        }
        Ok(self.integers().collect())
    }

    fn integers(&self) -> Box<dyn Iterator<Item = i64> + '_> {
        let b = &self.bytes[..];
        match self.dtype {
            DType::I64 => Box::new(b.as_chunks().0.iter().map(|c| i64::from_le_bytes(*c))),
            DType::I32 => Box::new(b.as_chunks().0.iter().map(|c| i32::from_le_bytes(*c).into())),
            DType::I16 => Box::new(b.as_chunks().0.iter().map(|c| i16::from_le_bytes(*c).into())),
            DType::I8 => Box::new(b.iter().map(|&c| (c as i8).into())),
            _ => Box::new(b.iter().map(|&c| c.into())),
        }
    }

    /// The same values in another float type; integers and bool stay as they are.
    pub fn cast_float(&self, dtype: DType) -> Self {
        if !self.dtype.is_float() || self.dtype == dtype {
            return self.clone();
        }
        Self::from_f32_as(dtype, &self.shape, &self.to_f32())
    }

    /// First NaN or infinity and their number; `None` when all is finite.
    pub fn non_finite(&self) -> Option<(usize, usize)> {
        let b = &self.bytes[..];
        // An exponent of all ones is a NaN or an infinity in every IEEE-like type.
        match self.dtype {
            DType::F32 => scan(b, |c| u32::from_le_bytes(c) & 0x7f80_0000 == 0x7f80_0000),
            DType::F64 => scan(b, |c| !f64::from_le_bytes(c).is_finite()),
            DType::F16 => scan(b, |c| u16::from_le_bytes(c) & 0x7c00 == 0x7c00),
            DType::BF16 => scan(b, |c| u16::from_le_bytes(c) & 0x7f80 == 0x7f80),
            _ => None,
        }
    }

    /// The same elements under another shape of equal size.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, String> {
        Self::new(self.dtype, shape, self.bytes.clone())
    }

    /// Rows and columns swapped; an error message for anything but a matrix.
    pub fn transposed(&self) -> Result<Self, String> {
        let &[rows, cols] = &self.shape[..] else {
            return Err(format!("has shape {:?}, expected a matrix to transpose", self.shape));
        };
        let size = self.dtype.size();
        let mut out = vec![0u8; self.bytes.len()];
        for r in 0..rows {
            for c in 0..cols {
                let (from, to) = ((r * cols + c) * size, (c * rows + r) * size);
                out[to..to + size].copy_from_slice(&self.bytes[from..from + size]);
            }
        }
        Self::new(self.dtype, vec![cols, rows], out.into())
    }

    /// Tensors joined along the first axis; they must agree in type and in the other axes.
    pub fn concatenated(parts: &[&Self]) -> Result<Self, String> {
        let first = parts.first().ok_or("nothing to join")?;
        let tail = first.shape.get(1..).ok_or("cannot join scalars")?;
        let (mut rows, mut bytes) = (0usize, Vec::new());
        for part in parts {
            if part.dtype != first.dtype || part.shape.get(1..) != Some(tail) {
                return Err(format!(
                    "parts to join disagree: {} {:?} and {} {:?}",
                    first.dtype, first.shape, part.dtype, part.shape
                ));
            }
            rows = rows.checked_add(part.shape[0]).ok_or("joined shape overflows")?;
            bytes.extend_from_slice(&part.bytes);
        }
        let shape = std::iter::once(rows).chain(tail.iter().copied()).collect();
        Self::new(first.dtype, shape, bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_types_round_trip_exactly() {
        let values = [0.0, -1.5, 65504.0, 6.103_515_6e-5, 0.333_25];
        for dtype in [DType::F16, DType::BF16] {
            let once = TensorData::from_f32_as(dtype, &[5], &values);
            let twice = TensorData::from_f32_as(dtype, &[5], &once.to_f32());
            assert_eq!(once, twice);
        }
    }

    #[test]
    fn wrong_length_and_overflow_are_errors() {
        assert!(TensorData::new(DType::F32, vec![2], Bytes::from_static(&[0; 7])).is_err());
        assert!(TensorData::new(DType::F32, vec![usize::MAX, 2], Bytes::new()).is_err());
        assert!(TensorData::new(DType::F64, vec![usize::MAX / 4], Bytes::new()).is_err());
    }

    #[test]
    fn transpose_and_join() {
        let m = TensorData::from_f32(&[2, 3], &[1., 2., 3., 4., 5., 6.]);
        let t = m.transposed().unwrap();
        assert_eq!((t.shape(), t.to_f32()), (&[3, 2][..], vec![1., 4., 2., 5., 3., 6.]));
        let j = TensorData::concatenated(&[&m, &m]).unwrap();
        assert_eq!(j.shape(), [4, 3]);
        assert!(TensorData::concatenated(&[&m, &t]).is_err());
    }

    #[test]
    fn non_finite_is_found_in_every_float_type() {
        for dtype in [DType::F64, DType::F32, DType::F16, DType::BF16] {
            let t = TensorData::from_f32_as(dtype, &[4], &[0.0, f32::NAN, 1.0, f32::NEG_INFINITY]);
            assert_eq!(t.non_finite(), Some((1, 2)), "{dtype}");
            assert_eq!(TensorData::from_f32_as(dtype, &[2], &[0.0, -3.0e4]).non_finite(), None);
        }
    }

    #[test]
    fn integers_widen() {
        let t = TensorData::new(DType::I16, vec![2], Bytes::from_static(&[0xff, 0xff, 2, 0])).unwrap();
        assert_eq!(t.to_i64().unwrap(), [-1, 2]);
        assert_eq!(t.to_f32(), [-1.0, 2.0]);
        assert!(TensorData::from_f32(&[1], &[1.0]).to_i64().is_err());
    }
}
