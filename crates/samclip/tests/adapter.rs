//! Adapters from end to end on the built-in model: labels are checked, a run of two steps writes an
//! adapter, the adapter answers, is merged, is refused over another base.

mod support;

use std::path::Path;
use std::process::Output;

use samclip_image::{LabelMap, write_png_palette};
use samclip_testkit::tiny;
use support::{json, labels, photo, samclip, stderr};

fn ok(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", stderr(output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn mask(folder: &Path, args: &[&str]) -> serde_json::Value {
    let cat = photo("cat.jpg").display().to_string();
    let output = samclip(folder, &[&["segment", &cat, "--json", "--precision", "f32"], args].concat());
    ok(&output);
    let document = json(&output);
    assert_eq!(document["errors"].as_array().map(Vec::len), Some(0));
    document["images"][0]["masks"].clone()
}

#[test]
fn labels_to_adapter_to_masks() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    labels(&folder.join("data"));
    let adapt = ["adapt", "--data", "data", "--classes", "cat,dog", "--out", "run", "--smoke"];
    let output = samclip(folder, &adapt);
    assert_eq!(ok(&output).trim(), "run/adapter.safetensors");
    let said = stderr(&output);
    assert!(said.contains("mask folder: 6 photos, 6 usable"), "{said}");
    assert!(said.contains("use it: samclip segment PHOTO.jpg --text 'cat' --adapter run/adapter.safetensors"), "{said}");
    for file in ["recipe.toml", "log.jsonl", "preview_001.png", "adapter.safetensors"] {
        assert!(folder.join("run").join(file).exists(), "{file}");
    }
    let bytes = std::fs::metadata(folder.join("run/adapter.safetensors")).unwrap().len();
    assert!(bytes < 10_000_000, "{bytes} bytes");

    let adapter = ["--adapter", "run/adapter.safetensors"];
    let by_text = mask(folder, &[&["--text", "cat"][..], &adapter].concat());
    assert_eq!((by_text.as_array().unwrap().len(), by_text[0]["text"].as_str()), (1, Some("cat")));
    let by_click = mask(folder, &[&["--text", "cat", "--point", "210,200"][..], &adapter].concat());
    assert_eq!(by_click.as_array().unwrap().len(), 1, "a name and a click are one prompt");
    assert_ne!(by_text[0]["segmentation"], by_click[0]["segmentation"]);
    let plain = mask(folder, &["--point", "210,200"]);
    let base = mask(folder, &[&["--point", "210,200"][..], &adapter].concat());
    assert_eq!(plain, base, "a click without a name is the base model's");

    inspect_list_merge(folder, &by_text);
    a_wrong_base_is_refused(folder);
}

fn inspect_list_merge(folder: &Path, by_text: &serde_json::Value) {
    let shown = ok(&samclip(folder, &["adapter", "inspect", "run/adapter.safetensors"]));
    assert!(shown.contains("classes   cat, dog") && shown.contains("sam       builtin (sha256 "), "{shown}");
    assert_eq!(json(&samclip(folder, &["adapter", "inspect", "run/adapter.safetensors", "--json"]))["about"]["steps"], 2);
    assert!(ok(&samclip(folder, &["adapter", "list", "run"])).contains("\tcat, dog"));
    let merge = ["adapter", "merge", "--adapter", "run/adapter.safetensors", "--to", "whole.safetensors"];
    ok(&samclip(folder, &merge));
    let merged = mask(folder, &["--text", "cat", "--adapter", "whole.safetensors"]);
    assert_eq!(merged[0]["segmentation"], by_text[0]["segmentation"]);
    let again = samclip(folder, &["adapter", "merge", "--adapter", "whole.safetensors", "--to", "x.safetensors"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(stderr(&again).contains("merged already"), "{}", stderr(&again));
    let check = ok(&samclip(folder, &["adapter", "list", "."]));
    assert!(check.contains("whole.safetensors"), "{check}");
}

fn a_wrong_base_is_refused(folder: &Path) {
    let other = tiny::weights(folder).display().to_string();
    let cat = photo("cat.jpg").display().to_string();
    let args = ["segment", &cat, "--text", "cat", "--adapter", "run/adapter.safetensors", "--weights", &other];
    let output = samclip(folder, &args);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("the adapter was trained on another sam base: expected builtin with hash"), "{said}");
    assert!(said.contains("hint: "), "{said}");
    let output = samclip(folder, &["segment", &cat, "--text", "cat", "--adapter", &other]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("not an adapter"), "{}", stderr(&output));
    let output = samclip(folder, &["segment", &cat, "--text", "no such thing", "--adapter", "run/adapter.safetensors"]);
    assert_eq!(output.status.code(), Some(2));
}

#[test]
fn nothing_is_trained_on_wrong_labels() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path();
    labels(&folder.join("data"));
    let bad = LabelMap { width: 9, height: 9, data: vec![1; 81] };
    write_png_palette(&folder.join("data/masks/3.png"), &bad).unwrap();
    let check = samclip(folder, &["data", "check", "data"]);
    assert_eq!(check.status.code(), Some(1));
    assert!(stderr(&check).contains("mask is 9 x 9 but the photo is 80 x 60: data/masks/3.png"), "{}", stderr(&check));
    assert!(String::from_utf8_lossy(&check.stdout).contains("6 photos, 5 usable"));
    let document = json(&samclip(folder, &["data", "check", "data", "--json"]));
    assert_eq!((document["usable"].as_u64(), document["findings"].as_array().map(Vec::len)), (Some(5), Some(1)));

    let adapt = |more: &[&str]| samclip(folder, &[&["adapt", "--data", "data", "--out", "run", "--smoke"], more].concat());
    let refused = adapt(&[]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(stderr(&refused).contains("1 things are wrong with the labels"), "{}", stderr(&refused));
    assert!(!folder.join("run").exists(), "nothing is written");
    let unknown = adapt(&["--classes", "cat,horse", "--skip-bad"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("there is no class `horse`"), "{}", stderr(&unknown));
    ok(&adapt(&["--skip-bad"]));
    let renamed = samclip(folder, &["adapt", "--data", "data", "--classes", "cat=kitten,dog=zzzz", "--skip-bad", "--out", "r2", "--smoke"]);
    assert_eq!(renamed.status.code(), Some(2));
    for part in ["unknown name `zzzz`", "--classes 'zzzz=WORD'"] {
        assert!(stderr(&renamed).contains(part), "{}", stderr(&renamed));
    }
}

#[test]
fn table_1_is_printed() {
    let dir = tempfile::tempdir().unwrap();
    let table = ok(&samclip(dir.path(), &["weights", "inspect", "--model", "clip_guided_sam_b"]));
    for figure in ["16556544", "28348416", "48969520", "197120560", "260548657"] {
        assert!(table.contains(figure), "{figure} is not in\n{table}");
    }
    let unknown = samclip(dir.path(), &["weights", "inspect", "--model", "clip_guided_sam_x"]);
    assert_eq!(unknown.status.code(), Some(2));
    assert!(stderr(&unknown).contains("clip_guided_sam_b"));
}
