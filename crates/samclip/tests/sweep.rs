//! `samclip sweep`, `samclip teach`, `samclip weights interpolate` and `export` as processes.

mod support;

use std::path::Path;

use samclip_testkit::runs::{DISTILL, Recipe, shapes};
use samclip_testkit::tiny;
use samclip_weights::{StateDict, TensorData, write_safetensors};
use support::{labels, root, samclip, stderr};

/// A recipe of three steps on painted shapes, distilling the tiny model's own CLIP head.
fn recipe(init: &str, lr: f32) -> String {
    let objectives = DISTILL.replace("tiny.", "./tiny.") + "photo_side = 64\n";
    let data = ("shapes", "7");
    Recipe { lr, shards: 1, data, objectives, init, trainable: "clip_head.*", ..shapes(3, 2) }.text()
}

fn state(folder: &Path, file: &str) -> StateDict {
    StateDict::open(&folder.join(file)).unwrap()
}

fn tensors(state: &StateDict) -> Vec<(&str, &TensorData)> {
    state.iter().collect()
}

#[test]
fn a_sweep_runs_each_recipe_once_and_says_which_failed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::weights(path);
    std::fs::create_dir(path.join("recipes")).unwrap();
    let write = |name: &str, text: String| {
        let text = text.replace("./tiny", "../tiny");
        std::fs::write(path.join("recipes").join(name), text).unwrap();
    };
    write("a_first.toml", recipe("fresh", 1e-3));
    write("b_second.toml", recipe("{runs}/a_first/model_f16.safetensors", 1e-3));
    let sweep = |more: &[&str]| {
        let args = ["sweep", "recipes", "--out", "out", "--data", "."];
        samclip(path, &[&args, more].concat())
    };
    let output = sweep(&["--seed", "1", "--seed", "2"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let table = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(table.contains("| a_first | 2 | 3 |") && table.contains("| b_second | 2 | 3 |"), "{table}");
    assert_eq!(std::fs::read_to_string(path.join("out/sweep.md")).unwrap().trim_end(), table.trim_end());
    let csv = std::fs::read_to_string(path.join("out/sweep.csv")).unwrap();
    assert_eq!(csv.lines().count(), 5, "{csv}");
    let one = state(path, "out/seed_1/a_first/model_f16.safetensors");
    assert!(tensors(&one) != tensors(&state(path, "out/seed_2/a_first/model_f16.safetensors")), "seeds differ");
    // the second stage starts from its own seed's first: what is frozen stayed the same
    let two = state(path, "out/seed_1/b_second/model_f16.safetensors");
    assert!(one.iter().filter(|(n, _)| !n.starts_with("clip_head.")).all(|(n, t)| two.get(n) == Some(t)));

    // seeds of the second stage alone share a first stage without a seed
    assert!(sweep(&["--only", "a_"]).status.success());
    assert!(sweep(&["--only", "b_", "--seed", "3", "--seed", "4"]).status.success());
    let shared = state(path, "out/a_first/model_f16.safetensors");
    for seed in [3, 4] {
        let two = state(path, &format!("out/seed_{seed}/b_second/model_f16.safetensors"));
        let same = |(name, tensor)| two.get(name) == Some(tensor);
        assert_eq!(shared.iter().filter(|(n, _)| !n.starts_with("clip_head.")).filter(|x| !same(*x)).count(), 0);
        assert!(!shared.iter().all(same), "the head learns");
    }

    let time = |file: &str| std::fs::metadata(path.join(file)).unwrap().modified().unwrap();
    let before = time("out/seed_1/a_first/model_f16.safetensors");
    write("c_bad.toml", recipe("fresh", 1e37));
    let output = sweep(&["--seed", "1", "--seed", "2"]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
    assert_eq!(time("out/seed_1/a_first/model_f16.safetensors"), before, "what is finished is not trained again");
    let table = std::fs::read_to_string(path.join("out/sweep.md")).unwrap();
    assert!(table.contains("| a_first | 2 | 3 |") && table.contains("is not finite"), "{table}");

    write("d_slip.toml", recipe("fresh", 1e-3).replace("steps = 3", "stepps = 3"));
    let output = sweep(&["--only", "d_"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("d_slip.toml") && stderr(&output).contains("`steps`"), "{}", stderr(&output));

    write("a_first_slip.toml", "steps = ".to_owned());
    assert_eq!(sweep(&["--only", "a_fir", "--seed", "1"]).status.code(), Some(2), "a part of the name takes both");
    let output = sweep(&["--only", "a_first", "--seed", "1"]);
    assert!(output.status.success(), "the whole name takes one: {}", stderr(&output));
}

#[test]
fn recipes_of_adapters_are_swept_and_measured_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    labels(&path.join("labels"));
    std::fs::create_dir(path.join("recipes")).unwrap();
    let recipe = std::fs::read_to_string(root().join("recipes/clip_guided/nano/voc_92.toml")).unwrap();
    let recipe = recipe.replace("dataset = \"voc\"", "dataset = \"path\"\npath = \"../labels\"");
    let split = recipe.lines().find(|l| l.starts_with("split = ")).unwrap().to_owned();
    std::fs::write(path.join("recipes/small.toml"), recipe.replace(&split, "split = \"\"")).unwrap();
    let protocol = root().join("protocols/clip_guided_voc_nano.toml").display().to_string();
    let sweep = |more: &[&str]| {
        let args = ["sweep", "recipes", "--out", "out", "--smoke", "--seed", "1", "--seed", "2"];
        let output = samclip(path, &[&args, more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let table = sweep(&[]);
    assert!(table.contains("| small | 2 | 2 |"), "{table}");
    let adapter = |seed: usize| state(path, &format!("out/seed_{seed}/small/adapter.safetensors"));
    assert!(tensors(&adapter(1)) != tensors(&adapter(2)), "seeds differ");
    let Some(data) = samclip_testkit::data() else { return };
    let data = data.display().to_string();
    let table = sweep(&["--protocol", &protocol, "--limit", "2", "--data", &data]);
    assert!(table.contains("text of 2") && table.contains("| small | 2 | 2 |"), "{table}");
    let plot = std::fs::read_to_string(path.join("out/sweep.svg")).unwrap();
    assert_eq!(plot.matches("<circle").count(), 2, "a point for each seed");
    assert_eq!(table, sweep(&["--protocol", &protocol, "--limit", "2", "--data", "nowhere"]), "measured once");
}

#[test]
fn answers_of_teachers_are_stored_in_parts_and_read_by_training() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::weights(path);
    std::fs::write(path.join("r.toml"), recipe("fresh", 1e-3)).unwrap();
    std::fs::create_dir(path.join("runs")).unwrap();
    let teach = |part: &str| {
        let args = ["teach", "r.toml", "--task", "photos", "--data", ".", "--shard", part, "--per-shard", "2"];
        samclip(path, &[&args[..], &["--out", "runs/cache"]].concat())
    };
    for (part, photos) in [("0/2", 4), ("1/2", 3)] {
        let output = teach(part);
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains(&format!("{photos} photos stored, 0 shards")), "{}", stderr(&output));
    }
    assert!(stderr(&teach("0/2")).contains("0 photos stored, 2 shards were there"));
    let cache = std::fs::read_dir(path.join("runs/cache")).unwrap().next().unwrap().unwrap().path();
    let mut files: Vec<String> =
        std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    files.sort();
    assert_eq!(files.len(), 6, "{files:?}"); // two shards and a manifest for each part
    let manifest = std::fs::read_to_string(cache.join("manifest-000-of-002.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!((&manifest["outputs"][0], &manifest["photo_side"]), (&"pooled".into(), &64.into()), "{manifest}");

    let train = |out: &str, more: &[&str]| {
        let output = samclip(path, &[&["train", "r.toml", "--data", ".", "--out", out], more].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        state(path, &format!("{out}/checkpoint.safetensors"))
    };
    let (with, without) = (train("runs/with", &["--teacher-cache", "runs/cache"]), train("runs/without", &[]));
    assert!(tensors(&with) == tensors(&without));
    assert_eq!(std::fs::read_dir(&cache).unwrap().count(), 6, "nothing was asked again");

    let output = samclip(path, &["teach", "r.toml", "--task", "phoots", "--data", ".", "--out", "runs/cache"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("no task `phoots`, the recipe has photos"), "{}", stderr(&output));
    std::fs::write(path.join("crops.toml"), recipe("fresh", 1e-3).replace("photo_side = 64\n", "")).unwrap();
    let output = samclip(path, &["teach", "crops.toml", "--task", "photos", "--data", ".", "--out", "runs/cache"]);
    assert!(stderr(&output).contains("sees crops; give its objective a `photo_side`"), "{}", stderr(&output));
    let output = samclip(path, &["teach", "r.toml", "--task", "photos", "--out", "x", "--shard", "2/2"]);
    assert!(stderr(&output).contains("expected I/N"), "{}", stderr(&output));
}

#[test]
fn checkpoints_are_interpolated_and_exported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    tiny::weights(path);
    let (a, mut b) = (tiny::state(), tiny::state());
    for (name, tensor) in a.iter() {
        let doubled: Vec<f32> = tensor.to_f32().iter().map(|v| v * 3.0).collect();
        b.insert(name, TensorData::from_f32(tensor.shape(), &doubled));
    }
    write_safetensors(&path.join("b.safetensors"), &b).unwrap();
    let args = ["weights", "interpolate", "tiny.safetensors", "b.safetensors", "--alpha", "0,0.5,1", "--out", "wise"];
    let output = samclip(path, &args);
    assert!(output.status.success(), "{}", stderr(&output));
    let half = state(path, "wise/alpha_0.50.safetensors");
    for (name, tensor) in a.iter() {
        let factor = if name.starts_with("clip_head.") { 3.0 } else { 2.0 };
        let found = half.get(name).unwrap().to_f32();
        assert!(tensor.to_f32().iter().zip(found).all(|(x, y)| (x * factor - y).abs() <= 1e-6 * y.abs()), "{name}");
    }
    assert_eq!(tensors(&state(path, "wise/alpha_1.00.safetensors")), tensors(&b));
    // the result is a model: its sizes travelled along
    let photo = support::photo("cat.jpg");
    let photo = photo.to_str().unwrap();
    let output = samclip(path, &["segment", photo, "--weights", "wise/alpha_0.50.safetensors", "--point", "60,60", "--json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let output = samclip(path, &["weights", "interpolate", "tiny.safetensors", "b.safetensors", "--alpha", "1.5", "--out", "w"]);
    assert_eq!((output.status.code(), path.join("w").exists()), (Some(2), false));

    let args = ["weights", "export", "tiny.safetensors", "--sam", "sam.safetensors", "--text-table", "t.safetensors"];
    let output = samclip(path, &[&args[..], &["--name", "cat", "--name", "tv"]].concat());
    assert!(output.status.success(), "{}", stderr(&output));
    let sam = state(path, "sam.safetensors");
    assert!(sam.len() > 50 && sam.names().all(|n| !n.starts_with("clip_head.")));
    let table = state(path, "t.safetensors");
    assert_eq!((table.get("embeddings").unwrap().shape(), table.metadata["names"].as_str()), (&[2, 512][..], "[\"cat\",\"tv\"]"));
    let classify = |weights: &str| {
        samclip(path, &["classify", photo, "--weights", weights, "--text-table", "t.safetensors", "--text", "cat", "--text", "tv"])
    };
    let output = classify("tiny.safetensors");
    assert!(output.status.success(), "{}", stderr(&output));
    let with_tokens = |weight: &str| {
        let mut changed = tiny::state();
        changed.metadata.insert("classify_tokens".to_owned(), weight.to_owned());
        write_safetensors(&path.join("w.safetensors"), &changed).unwrap();
        classify("w.safetensors")
    };
    assert_eq!(with_tokens("0").stdout, output.stdout, "a model asks its pooled embedding alone");
    assert_ne!(with_tokens("2").stdout, output.stdout, "and its tokens where the file says so");
    assert_eq!(with_tokens("much").status.code(), Some(2));
    let output = samclip(path, &["weights", "export", "--text-table", "u.safetensors", "--name", "catt"]);
    assert_eq!((output.status.code(), path.join("u.safetensors").exists()), (Some(2), false));
    assert_eq!(samclip(path, &["weights", "export", "tiny.safetensors"]).status.code(), Some(2));
}
