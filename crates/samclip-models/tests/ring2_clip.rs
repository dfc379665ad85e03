//! Full-size CLIP and CLIP Surgery against the reference, on seeded random weights.
//!
//! Needs PyTorch to make its files, so it runs only where `SAMCLIP_RING2` names folders (separated
//! by `:`) written by fixtures/ring2/generate_clip.py; without it the test says that it was skipped.

mod clip_common;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clip_common::Fixture;
use samclip_models::clip::{Clip, ClipConfig, surgery};
use samclip_models::init::Init;
use samclip_models::state;
use samclip_weights::{StateDict, detect_layout, to_canonical};

const TOLERANCE: f32 = 1e-4;

const MODELS: [(&str, fn() -> ClipConfig); 4] = [
    ("clip_vit_b16", ClipConfig::vit_b16),
    ("clip_vit_l14", ClipConfig::vit_l14),
    ("clip_vit_b16_quickgelu", ClipConfig::vit_b16_quickgelu),
    ("clip_vit_l14_quickgelu", ClipConfig::vit_l14_quickgelu),
];

fn folders() -> Vec<PathBuf> {
    std::env::var_os("SAMCLIP_RING2").map(|paths| std::env::split_paths(&paths).collect()).unwrap_or_default()
}

fn load(path: &Path, config: &ClipConfig) -> Clip {
    let stored = StateDict::open(path).expect("checkpoint is readable");
    let layout = detect_layout(&stored).expect("a known layout");
    let stored = to_canonical(stored, layout).expect("canonical names");
    state::load(config.init(&mut Init::zeros(&Device::default())), &stored).expect("strict loading")
}

fn check(folder: &Path, name: &str, config: &ClipConfig) {
    let model = load(&folder.join(format!("{name}.safetensors")), config);
    let open = |file: &str| Fixture::at(&folder.join(file), Device::default());
    println!("{name}");
    let (given, expected) = (open("towers.in.safetensors"), open("towers.expected.safetensors"));
    let image = model.encode_image(given.tensor("clip_pixels")).unwrap();
    expected.check("image_features", image, TOLERANCE);
    expected.check("text_features", model.encode_text(given.ints("tokens")).unwrap(), TOLERANCE);
    let (given, expected) = (open("surgery.in.safetensors"), open("surgery.expected.safetensors"));
    let features = surgery::image_features(&model.visual, given.tensor("surgery_pixels")).unwrap();
    expected.check("surgery_features", features.tokens, TOLERANCE);
    same_in_every_form(folder, name, &model);
}

/// The other published forms of the same weights give the same tensors, bit by bit.
fn same_in_every_form(folder: &Path, name: &str, model: &Clip) {
    let canonical = state::state_dict(model);
    for form in ["pth", "hf.safetensors", "torchscript.pt"] {
        let path = folder.join(format!("{name}.{form}"));
        if !path.exists() {
            println!("skipped: no {}", path.display());
            continue;
        }
        let stored = StateDict::open(&path).expect("checkpoint is readable");
        let layout = detect_layout(&stored).expect("a known layout");
        let stored = to_canonical(stored, layout).expect("canonical names");
        assert_eq!(stored.len(), canonical.len(), "{form}");
        for (name, tensor) in stored.iter() {
            assert_eq!(tensor.to_f32(), canonical.get(name).expect(name).to_f32(), "{form}: {name}");
        }
        println!("{form:<40} {} tensors bit-equal", stored.len());
    }
}

#[test]
fn full_size_models() {
    let folders = folders();
    if folders.is_empty() {
        println!("skipped: SAMCLIP_RING2 names no folder of fixtures/ring2/generate_clip.py");
    }
    for folder in folders {
        let model = MODELS.iter().find(|(name, _)| folder.join(format!("{name}.safetensors")).exists());
        let Some((name, config)) = model else {
            println!("skipped: no CLIP in {}", folder.display());
            continue;
        };
        check(&folder, name, &config());
    }
}
