//! `samclip weights pack`: a packed checkpoint answers as the one it was made of.

mod support;

use std::path::{Path, PathBuf};
use std::process::Output;

use samclip_weights::{Packed, StateDict, write_safetensors};
use support::{root, stderr};

fn samclip(args: &[&str], isa: Option<&str>) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_samclip"));
    command.args(args).current_dir(root()).env_remove("SAMCLIP_ISA");
    if let Some(isa) = isa {
        command.env("SAMCLIP_ISA", isa);
    }
    command.output().unwrap()
}

fn ok(args: &[&str], isa: Option<&str>) -> Output {
    let output = samclip(args, isa);
    assert!(output.status.success(), "{args:?}: {}", stderr(&output));
    output
}

/// The masks of a click, a box and a word, as bytes of the PNG files.
fn answers(weights: &Path, dir: &Path, isa: Option<&str>) -> (Vec<Vec<u8>>, String) {
    let mut masks = vec![];
    let mut said = String::new();
    for (i, prompt) in [["--point", "250,180"], ["--box", "100,60,400,300"], ["--text", "cat"]].iter().enumerate() {
        let out = dir.join(format!("out{i}"));
        let (weights, to) = (weights.to_str().unwrap(), out.to_str().unwrap());
        let args = ["segment", "examples/cat.jpg", "--model", "sam_clip_nano", "--weights", weights, "--out", to];
        let output = ok(&[&args[..], prompt].concat(), isa);
        said += &stderr(&output);
        let mut files: Vec<PathBuf> = std::fs::read_dir(&out).unwrap().map(|f| f.unwrap().path()).collect();
        files.sort();
        masks.extend(files.iter().filter(|f| f.extension().is_some_and(|e| e == "png")).map(|f| std::fs::read(f).unwrap()));
        std::fs::remove_dir_all(&out).unwrap();
    }
    assert!(masks.len() >= 3, "no masks");
    (masks, said)
}

#[test]
fn a_packed_checkpoint_answers_like_its_original_on_every_tier() {
    let dir = tempfile::tempdir().unwrap();
    let [plain, packed] = ["plain", "packed"].map(|name| dir.path().join(format!("{name}.safetensors")));
    let (from, to) = (plain.to_str().unwrap(), packed.to_str().unwrap());
    let nano = "crates/samclip-nano/assets/sam_clip_nano.safetensors";
    ok(&["weights", "convert", nano, "--to", from, "--as", "sam_clip_nano", "--dtype", "f32"], None);
    let done = ok(&["weights", "pack", from, "--model", "sam_clip_nano", "--to", to, "--json"], None);
    let done: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    // Seven blocks of the backbone, two of the CLIP head.
    assert_eq!(done["weights"], 9 * 4);

    // A tier of another layout than the one it was packed in reads the weights themselves and says so.
    let layout = |isa| -> serde_json::Value {
        let scratch = dir.path().join("scratch.safetensors");
        let done = ok(&["weights", "pack", from, "--model", "sam_clip_nano", "--to", scratch.to_str().unwrap(), "--json"], isa);
        serde_json::from_slice::<serde_json::Value>(&done.stdout).unwrap()["layout"].take()
    };
    for isa in [None, Some("avx512"), Some("avx2"), Some("portable")] {
        let ((want, _), (got, said)) = (answers(&plain, dir.path(), isa), answers(&packed, dir.path(), isa));
        assert!(want == got, "{isa:?}: masks differ");
        assert_eq!(said.contains("packing again"), layout(isa) != done["layout"], "{isa:?}: {said}");
    }

    // The words are what is read: without them being right there is no answer.
    let (state, words) = StateDict::open_packed(&packed).unwrap();
    let mut words = words.unwrap();
    assert_eq!(words.words.len(), 36);
    assert_eq!(StateDict::open(&packed).unwrap(), state);
    let name = "image_encoder.blocks.3.mlp.lin1.weight";
    let good = words.words[name].bytes().to_vec();
    words.insert(name, vec![0; good.len()]).unwrap();
    write_safetensors(&packed, &state.clone().with_packed(words.clone())).unwrap();
    assert!(answers(&plain, dir.path(), None).0 != answers(&packed, dir.path(), None).0, "the packed words are not read");

    words.insert(name, good[64..].to_vec()).unwrap();
    write_safetensors(&packed, &state.with_packed(Packed { ..words })).unwrap();
    let output = samclip(&["segment", "examples/cat.jpg", "--model", "sam_clip_nano", "--weights", to, "--text", "cat"], None);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains(name) && said.contains("packed.safetensors"), "{said}");
}
