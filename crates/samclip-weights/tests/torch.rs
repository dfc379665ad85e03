//! Archives written by PyTorch itself (`fixtures/weights/generate.py`), bit by bit.

use std::path::PathBuf;

use samclip_weights::{FileFormat, StateDict, WeightsError};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights").join(name)
}

fn open(name: &str) -> (StateDict, FileFormat) {
    StateDict::open_with_format(&fixture(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn assert_same(name: &str, format: FileFormat, expected: &str) {
    let (found, found_format) = open(name);
    assert_eq!(found_format, format, "{name}");
    let expected = open(expected).0;
    assert_eq!(found.names().collect::<Vec<_>>(), expected.names().collect::<Vec<_>>(), "{name}");
    for (tensor, value) in expected.iter() {
        assert_eq!(found.get(tensor), Some(value), "{name}: {tensor}");
    }
}

#[test]
fn every_element_type() {
    assert_same("dtypes.pth", FileFormat::Torch, "dtypes.safetensors");
    assert_same("dtypes_protocol4.pth", FileFormat::Torch, "dtypes.safetensors");
}

#[test]
fn views_with_offsets_and_strides_parameters_and_ties() {
    assert_same("views.pth", FileFormat::Torch, "views.safetensors");
}

#[test]
fn a_training_checkpoint_gives_its_state_dict() {
    assert_same("training.pth", FileFormat::Torch, "training.safetensors");
}

#[test]
fn state_dicts_of_whole_models() {
    assert_same("sam.pth", FileFormat::Torch, "sam.safetensors");
    assert_same("clip.bin", FileFormat::Torch, "clip.safetensors");
}

#[test]
fn torchscript_gives_parameters_and_buffers_and_nothing_else() {
    let (found, format) = open("clip_torchscript.pt");
    assert_eq!(format, FileFormat::TorchScript);
    assert!(found.get("plain_attribute").is_none(), "a tensor that is not state");
    assert_eq!(found.get("context_length").unwrap().to_i64().unwrap(), [8]);
    assert_same("clip_torchscript.pt", FileFormat::TorchScript, "clip_torchscript.safetensors");
}

#[test]
fn the_old_format_is_refused_with_advice() {
    let e = StateDict::open(&fixture("dtypes_legacy.pth")).unwrap_err();
    assert!(matches!(e, WeightsError::LegacyTorch { .. }), "{e}");
    assert!(e.hint().unwrap().contains("torch.save"));
}

#[test]
fn a_pickled_class_is_refused_by_name() {
    let e = StateDict::open(&fixture("whole_module.pth")).unwrap_err();
    assert!(
        matches!(&e, WeightsError::ForbiddenGlobal { global, .. } if global.starts_with("torch.nn.")),
        "{e}"
    );
}
