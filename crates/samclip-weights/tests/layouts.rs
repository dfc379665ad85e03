//! One network under two libraries' names becomes the same state dict, bit by bit.
//! The fixtures hold pairs that `fixtures/weights/generate.py` ran against each other.

use std::path::PathBuf;

use samclip_weights::{
    Conversion, DType, Layout, StateDict, TensorData, check_strict, convert, detect_layout,
    to_canonical_report,
};

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights").join(name)
}

fn canonical(name: &str, layout: Layout) -> (StateDict, Vec<String>) {
    let state = StateDict::open(&fixture(name)).unwrap();
    assert_eq!(detect_layout(&state), Some(layout), "{name}");
    let (state, dropped) = to_canonical_report(state, layout).unwrap();
    (state, dropped.into_iter().map(|d| d.name).collect())
}

fn shapes(state: &StateDict) -> Vec<(String, Vec<usize>)> {
    state.iter().map(|(n, t)| (n.to_owned(), t.shape().to_vec())).collect()
}

fn assert_equal(found: &StateDict, expected: &StateDict) {
    check_strict(&shapes(expected), found).unwrap();
    for (name, tensor) in expected.iter() {
        assert_eq!(found.get(name), Some(tensor), "{name}");
    }
}

#[test]
fn sam() {
    let (meta, _) = canonical("sam.pth", Layout::Meta);
    assert_equal(&meta, &StateDict::open(&fixture("sam.safetensors")).unwrap());
    let (with_both_copies, dropped) = canonical("hf_sam.bin", Layout::HfSam);
    assert!(dropped.is_empty());
    assert_equal(&with_both_copies, &meta);
    let (with_one_copy, _) = canonical("hf_sam.safetensors", Layout::HfSam);
    assert_equal(&with_one_copy, &meta);
}

#[test]
fn clip() {
    let (open_clip, dropped) = canonical("clip.bin", Layout::OpenAiClip);
    assert!(dropped.is_empty(), "{dropped:?}");
    let (hf, dropped) = canonical("hf_clip.bin", Layout::HfClip);
    assert_eq!(dropped.len(), 2, "{dropped:?}");
    assert_equal(&hf, &open_clip);
}

#[test]
fn openai_archive() {
    let (half, dropped) = canonical("clip_torchscript.pt", Layout::OpenAiClip);
    for scalar in ["input_resolution", "context_length", "vocab_size"] {
        assert!(dropped.iter().any(|name| name == scalar), "{dropped:?}");
    }
    let (full, _) = canonical("clip.bin", Layout::OpenAiClip);
    assert_equal(&half, &full.cast_float(DType::F16));
}

#[test]
fn clip_surgery_names() {
    let (plain, _) = canonical("clip.bin", Layout::OpenAiClip);
    // The surgery renames the attention of the last blocks of the image tower only.
    let renamed = |name: &str| {
        name.replace(
            "visual.transformer.resblocks.1.attn.in_proj_",
            "visual.transformer.resblocks.1.attn.qkv.",
        )
        .replace("visual.transformer.resblocks.1.attn.out_proj", "visual.transformer.resblocks.1.attn.proj")
    };
    let surgery: StateDict = plain.iter().map(|(n, t)| (renamed(n), t.clone())).collect();
    assert!(surgery.get("visual.transformer.resblocks.1.attn.qkv.weight").is_some());
    assert_eq!(detect_layout(&surgery), Some(Layout::ClipSurgery));
    let (back, _) = to_canonical_report(surgery, Layout::ClipSurgery).unwrap();
    assert_equal(&back, &plain);
}

#[test]
fn mobile_sam_drops_the_classifier_and_the_counters() {
    let one = || TensorData::from_f32(&[1], &[1.0]);
    let keep = "image_encoder.patch_embed.seq.0.c.weight";
    let drop = [
        "image_encoder.norm_head.weight",
        "image_encoder.head.bias",
        "image_encoder.patch_embed.seq.0.bn.num_batches_tracked",
        "image_encoder.layers.1.blocks.0.attn.attention_bias_idxs",
    ];
    let state: StateDict = drop.iter().chain([&keep]).map(|n| ((*n).to_owned(), one())).collect();
    assert_eq!(detect_layout(&state), Some(Layout::MobileSam));
    let (state, dropped) = to_canonical_report(state, Layout::MobileSam).unwrap();
    assert_eq!(state.names().collect::<Vec<_>>(), [keep]);
    assert_eq!(dropped.len(), 4);
}

#[test]
fn one_checkpoint_in_every_form_converts_to_the_same_file() {
    let dir = tempfile::tempdir().unwrap();
    let expected = shapes(&StateDict::open(&fixture("sam.safetensors")).unwrap());
    let mut files = Vec::new();
    for (i, input) in ["sam.pth", "sam.safetensors", "hf_sam.bin", "hf_sam.safetensors"].iter().enumerate() {
        let output = dir.path().join(format!("{i}.safetensors"));
        let conversion = Conversion { variant: "tiny", expected: Some(&expected), dtype: None };
        let done = convert(&fixture(input), &output, &conversion).unwrap();
        assert_eq!(done.tensors, expected.len());
        files.push(std::fs::read(&output).unwrap());
    }
    assert!(files.iter().all(|file| *file == files[0]));
}

#[test]
fn one_missing_one_extra_one_misshaped_one_nan() {
    let good = StateDict::open(&fixture("sam.safetensors")).unwrap();
    let expected = shapes(&good);
    let name = "mask_decoder.iou_token.weight";
    let error = |change: &dyn Fn(&mut StateDict)| {
        let mut state = good.clone();
        change(&mut state);
        check_strict(&expected, &state).unwrap_err().to_string()
    };
    let missing = error(&|s| drop(s.remove(name)));
    assert!(missing.contains(&format!("missing `{name}`")), "{missing}");
    let extra = error(&|s| drop(s.insert("mask_decoder.extra", TensorData::from_f32(&[1], &[0.0]))));
    assert!(extra.contains("unexpected `mask_decoder.extra`"), "{extra}");
    let shape = error(&|s| drop(s.insert(name, TensorData::from_f32(&[16, 1], &[0.0; 16]))));
    assert!(shape.contains(&format!("`{name}` has shape [16, 1], expected [1, 16]")), "{shape}");
    let nan = error(&|s| drop(s.insert(name, TensorData::from_f32(&[1, 16], &[f32::NAN; 16]))));
    assert!(nan.contains(&format!("`{name}` has 16 non-finite values")), "{nan}");
}
