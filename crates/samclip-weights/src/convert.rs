//! Any supported checkpoint to safetensors with canonical names.

use std::path::Path;

use crate::error::{Problems, Result, WeightsError};
use crate::key_map::{Dropped, Layout, require_layout, to_canonical_report};
use crate::state_dict::{FileFormat, StateDict, check_strict, non_finite};
use crate::tensor::DType;

/// What to convert to.
#[derive(Debug, Clone, Copy)]
pub struct Conversion<'a> {
    /// Variant name, for example `sam_vit_b`; it is also written into the file.
    pub variant: &'a str,
    /// Names and shapes of the model, for the strict check; `None` checks the variant by its shapes only.
    pub expected: Option<&'a [(String, Vec<usize>)]>,
    /// Element type of the float tensors; `None` keeps each as it is.
    pub dtype: Option<DType>,
}

/// What was found and written.
#[derive(Debug, Clone)]
pub struct Converted {
    /// Format of the source.
    pub format: FileFormat,
    /// Names of the source.
    pub layout: Layout,
    /// Tensors that a rule left out.
    pub dropped: Vec<Dropped>,
    /// Tensors written.
    pub tensors: usize,
    /// Their elements.
    pub parameters: usize,
}

/// Reads `input`, renames, checks and writes `output` atomically.
///
/// Errors: everything that [`StateDict::open`], the key maps and the strict check refuse, non-finite values,
/// values that overflow the narrower element type, and an output that cannot be written.
pub fn convert(input: &Path, output: &Path, conversion: &Conversion<'_>) -> Result<Converted> {
    let (state, format) = StateDict::open_with_format(input)?;
    let layout = require_layout(&state)?;
    let (mut state, dropped) = to_canonical_report(state, layout)?;
    crate::check_variant(&state, conversion.variant)?;
    match conversion.expected {
        Some(expected) => check_strict(expected, &state)?,
        None => all_finite(&state)?,
    }
    if let Some(dtype) = conversion.dtype {
        state = state.cast_float(dtype);
        all_finite(&state)?;
    }
    state.metadata.insert("format".into(), "pt".into());
    state.metadata.insert("variant".into(), conversion.variant.into());
    crate::write_safetensors(output, &state)?;
    Ok(Converted { format, layout, dropped, tensors: state.len(), parameters: state.parameter_count() })
}

fn all_finite(state: &StateDict) -> Result<()> {
    match non_finite(state) {
        problems if problems.is_empty() => Ok(()),
        problems => Err(WeightsError::Mismatch(Problems(problems))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::TensorData;

    #[test]
    fn a_value_too_large_for_f16_is_an_error_and_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let (input, output) = (dir.path().join("in.safetensors"), dir.path().join("out.safetensors"));
        let mut state = StateDict::new();
        state.insert("visual.class_embedding", TensorData::from_f32(&[2], &[1.0, 1e6]));
        crate::write_safetensors(&input, &state).unwrap();
        let to = |dtype| Conversion { variant: "clip_vit_b16", expected: None, dtype };
        let e = convert(&input, &output, &to(Some(DType::F16))).unwrap_err();
        assert!(e.to_string().contains("`visual.class_embedding` has 1 non-finite"), "{e}");
        assert!(!output.exists());
        let done = convert(&input, &output, &to(Some(DType::BF16))).unwrap();
        assert_eq!((done.tensors, done.parameters, done.layout), (1, 2, Layout::OpenAiClip));
        let back = StateDict::open(&output).unwrap();
        assert_eq!(back.get("visual.class_embedding").unwrap().dtype(), DType::BF16);
        assert_eq!(back.metadata["variant"], "clip_vit_b16");
        let expected = [("visual.class_embedding".to_owned(), vec![3])];
        let strict = Conversion { expected: Some(&expected), ..to(None) };
        assert!(convert(&input, &output, &strict).is_err());
        assert!(convert(&input, &dir.path().join("no/such/folder"), &to(None)).is_err());
    }
}
