//! Full-size checkpoints: one variant in several libraries' forms is one state dict, bit by bit.
//! `SAMCLIP_FULL_SIZE` names a folder made by `fixtures/weights/full_size.py`; `SAMCLIP_WEIGHTS` one with
//! official files (`samclip pull`). Without them the tests say that they were skipped.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use samclip_weights::{
    StateDict, check_strict, infer_variant, non_finite, registry, require_layout, to_canonical,
};

/// Elements of a state dict: the published parameter counts, and SAM's position matrix, which is a buffer.
const COUNTS: [(&str, usize); 3] =
    [("sam_vit_b", 93_735_472 + 2 * 128), ("clip_vit_b16", 149_620_737), ("clip_vit_l14", 427_616_513)];

fn folder(variable: &str) -> Option<PathBuf> {
    let found = std::env::var_os(variable).map(PathBuf::from);
    if found.is_none() {
        eprintln!("skipped: {variable} is not set");
    }
    found
}

fn load(path: &Path) -> StateDict {
    let start = Instant::now();
    let (state, format) = StateDict::open_with_format(path).unwrap();
    let layout = require_layout(&state).unwrap();
    let state = to_canonical(state, layout).unwrap();
    assert!(non_finite(&state).is_empty());
    eprintln!("{}: {format}, {layout}, {} tensors, {:.2?}", path.display(), state.len(), start.elapsed());
    state
}

#[test]
fn one_variant_in_every_form() {
    let Some(dir) = folder("SAMCLIP_FULL_SIZE") else { return };
    let mut variants: BTreeMap<String, Vec<PathBuf>> = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let stem = path.file_name().unwrap().to_string_lossy().split('.').next().unwrap().to_owned();
            variants.entry(stem).or_default().push(path);
        }
    }
    assert!(!variants.is_empty());
    for (variant, mut paths) in variants {
        paths.sort();
        let first = load(&paths[0]);
        assert_eq!(infer_variant(&first), Some(variant.as_str()));
        if let Some((_, count)) = COUNTS.iter().find(|(name, _)| *name == variant) {
            assert_eq!(first.parameter_count(), *count, "{variant}");
        }
        let expected: Vec<_> = first.iter().map(|(n, t)| (n.to_owned(), t.shape().to_vec())).collect();
        for path in &paths[1..] {
            let other = load(path);
            check_strict(&expected, &other).unwrap();
            assert!(first.iter().all(|(name, t)| other.get(name) == Some(t)), "{}", path.display());
        }
    }
}

#[test]
fn official_files() {
    let Some(dir) = folder("SAMCLIP_WEIGHTS") else { return };
    for model in registry::models() {
        let path = dir.join(model.file);
        if !path.is_file() {
            eprintln!("skipped: {} is not there", path.display());
            continue;
        }
        let variant = model.variant.trim_end_matches("_quickgelu");
        assert_eq!(infer_variant(&load(&path)), Some(variant), "{}", model.name);
    }
}
