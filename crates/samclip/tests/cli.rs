//! The command line's contract: JSON documents, files, exit codes, caching, threads.

mod support;

use std::path::Path;

use serde_json::Value;
use samclip_testkit::tiny;
use support::{json, photo, samclip, stderr};

struct Setup {
    dir: tempfile::TempDir,
    weights: String,
    cat: String,
}

fn setup() -> Setup {
    let dir = tempfile::tempdir().unwrap();
    let weights = tiny::weights(dir.path()).display().to_string();
    Setup { dir, weights, cat: photo("cat.jpg").display().to_string() }
}

impl Setup {
    fn run(&self, args: &[&str]) -> std::process::Output {
        let args = [args, &["--weights", &self.weights]].concat();
        samclip(self.dir.path(), &args)
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.run(&[args, &["--json"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        json(&output)
    }

    fn masks(&self, args: &[&str]) -> Vec<Value> {
        let document = self.json(&[&["segment", &self.cat], args].concat());
        document["images"][0]["masks"].as_array().unwrap().clone()
    }
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn the_document_has_the_contracts_shape() {
    let setup = setup();
    let document = setup.json(&["segment", &setup.cat, "--point", "100,100"]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&document), ["model", "precision", "images", "errors"]);
    assert_eq!(document["model"], "sam_clip_nano");
    let image = &document["images"][0];
    assert_eq!(keys(image), ["file", "width", "height", "masks", "timing_ms"]);
    let mask = &image["masks"][0];
    let expected =
        ["text", "prompt", "segmentation", "bbox", "area", "predicted_iou", "stability_score", "score"];
    assert_eq!(keys(mask), expected);
    assert!(mask["text"].is_null());
    assert_eq!(mask["segmentation"]["size"], serde_json::json!([image["height"], image["width"]]));
    assert_eq!(keys(&image["timing_ms"]), ["encode", "decode"]);
    assert_eq!(names(setup.dir.path()), ["tiny.safetensors"], "--json alone writes nothing");
    let counts = mask["segmentation"]["counts"].as_str().unwrap();
    let size = [image["height"].as_u64().unwrap() as usize, image["width"].as_u64().unwrap() as usize];
    let rle = samclip_image::rle::from_coco_string(counts, size).unwrap();
    assert_eq!(samclip_image::rle::area(&rle) as u64, mask["area"].as_u64().unwrap());
}

#[test]
fn one_prompt_gives_one_answer() {
    let setup = setup();
    let count = |args: &[&str]| setup.masks(args).len();
    assert_eq!(count(&["--point", "100,100"]), 1);
    assert_eq!(count(&["--point", "100,100", "--point", "120,90,0", "--box", "10,10,200,200"]), 1);
    assert_eq!(count(&["--box", "10,10,200,200", "--box", "50,50,90,90"]), 2);
    assert_eq!(count(&["--text", "dog", "--text", "cat"]), 2);
    assert_eq!(count(&["--text", "dog", "--point", "100,100"]), 2);
    let three = setup.masks(&["--point", "100,100", "--multimask"]);
    assert_eq!(three.len(), 3);
    let iou: Vec<f64> = three.iter().map(|m| m["predicted_iou"].as_f64().unwrap()).collect();
    assert!(iou.is_sorted_by(|a, b| a >= b), "best first: {iou:?}");
    let texts: Vec<Value> = setup.masks(&["--text", "dog", "--text", "cat"]).iter().map(|m| m["text"].clone()).collect();
    assert_eq!(texts, ["dog", "cat"]);
}

#[test]
fn a_mask_can_be_a_prompt() {
    let setup = setup();
    let image = samclip_image::Image::open(Path::new(&setup.cat), &samclip_image::DecodeLimits::default()).unwrap();
    let data = (0..image.width() * image.height()).map(|i| i % image.width() < image.width() / 2).collect();
    let mask = samclip_image::Mask { width: image.width(), height: image.height(), data };
    samclip_image::write_png_mask(&setup.dir.path().join("rough.png"), &mask).unwrap();
    let found = setup.masks(&["--mask", "rough.png", "--point", "50,50"]);
    assert_eq!((found.len(), found[0]["prompt"]["kind"].clone()), (1, "point+mask".into()));
}

#[test]
fn every_format_is_written_and_listed() {
    let setup = setup();
    let formats = ["png", "overlay", "coco", "sa1b", "labelme", "yolo", "csv"];
    let mut args = vec!["segment", setup.cat.as_str(), "--point", "100,100", "--out", "masks"];
    formats.iter().for_each(|format| args.extend(["--format", format]));
    let output = setup.run(&args);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let written = names(&setup.dir.path().join("masks"));
    let expected = [
        "cat.json", "cat.txt", "cat_0.png", "cat_metadata.csv", "cat_overlay.png", "cat_sa1b.json", "classes.txt",
        "coco.json",
    ];
    assert_eq!(written, expected);
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), expected.len());
}

#[test]
fn everything_finds_masks_and_respects_thresholds() {
    let setup = setup();
    let all = ["everything", setup.cat.as_str(), "--points-per-side", "3", "--pred-iou-thresh", "-100", "--stability-score-thresh", "0"];
    let document = setup.json(&all);
    let found = document["images"][0]["masks"].as_array().unwrap().clone();
    assert!(!found.is_empty());
    assert!(found.iter().all(|m| m["crop_box"][2] == document["images"][0]["width"]));
    let none = setup.json(&[&all[..5], &["100"]].concat());
    assert_eq!(none["images"][0]["masks"].as_array().unwrap().len(), 0);
}

/// Photos and crops are encoded while the ones before them are decoded: order and answers are those of one at a time.
#[test]
fn everything_of_several_photos_is_each_ones() {
    let setup = setup();
    std::fs::write(setup.dir.path().join("broken.jpg"), "no photo").unwrap();
    let (cat, coffee) = (setup.cat.clone(), photo("coffee.jpg").display().to_string());
    let options = ["--points-per-side", "3", "--pred-iou-thresh", "-100", "--stability-score-thresh", "0", "--crop-n-layers", "1"];
    let ask = |files: &[&str]| {
        let output = setup.run(&[&["everything", "--json"], files, &options].concat());
        json(&output)
    };
    let masks = |document: &Value| -> Vec<Value> {
        document["images"].as_array().unwrap().iter().map(|image| image["masks"].clone()).collect()
    };
    let together = ask(&[&cat, "broken.jpg", &coffee]);
    assert_eq!(together["errors"].as_array().unwrap().len(), 1);
    assert!(together["errors"][0]["file"].as_str().unwrap().ends_with("broken.jpg"));
    let alone: Vec<Value> = [&cat, &coffee].iter().flat_map(|file| masks(&ask(&[file]))).collect();
    assert_eq!(masks(&together), alone);
}

#[test]
fn classify_ranks_names() {
    let setup = setup();
    std::fs::write(setup.dir.path().join("names.txt"), "cat\ndog\ncar\nhorse\n").unwrap();
    let document = setup.json(&["classify", &setup.cat, "--classes", "names.txt", "--text", "aeroplane", "--top", "3"]);
    let classes = document["images"][0]["classes"].as_array().unwrap().clone();
    assert_eq!(classes.len(), 3);
    let scores: Vec<f64> = classes.iter().map(|c| c["score"].as_f64().unwrap()).collect();
    assert!(scores.is_sorted_by(|a, b| a >= b) && scores[0] <= 1.0, "{scores:?}");
    assert_eq!(setup.run(&["classify", &setup.cat]).status.code(), Some(2));
}

#[test]
fn locate_gives_clicks_and_masks() {
    let setup = setup();
    let document = setup.json(&["locate", &setup.cat, "--text", "cat", "--out", "heat"]);
    let image = &document["images"][0];
    assert_eq!(image["locations"][0]["text"], "cat");
    // 451 x 300 on a 64 px input: 4 tokens across, 3 down, the rest of the square is padding.
    assert_eq!(image["locations"][0]["grid"], serde_json::json!([3, 4]));
    assert!(names(&setup.dir.path().join("heat")).contains(&"cat_heat_0.png".to_owned()));
}

#[test]
fn label_covers_every_pixel() {
    let setup = setup();
    std::fs::write(setup.dir.path().join("names.txt"), "cat\ndog\n").unwrap();
    for mode in ["none", "thresh", "thresh=0.9"] {
        let args = ["label", setup.cat.as_str(), "--classes", "names.txt", "--background", mode, "--out", "labels"];
        let document = setup.json(&args);
        let image = &document["images"][0];
        let areas: u64 = image["classes"].as_array().unwrap().iter().map(|c| c["area"].as_u64().unwrap()).sum();
        let background = image["background_area"].as_u64().unwrap();
        let pixels = image["width"].as_u64().unwrap() * image["height"].as_u64().unwrap();
        assert_eq!(areas + background, pixels);
        assert!(mode != "none" || background == 0);
        let map = samclip_image::LabelMap::open(&setup.dir.path().join("labels/cat_label.png")).unwrap();
        assert_eq!(map.data.len() as u64, pixels);
    }
}

#[test]
fn the_cache_and_the_threads_change_nothing() {
    let setup = setup();
    let args = ["--text", "cat", "--point", "100,100", "--box", "20,20,200,150"];
    let plain = setup.masks(&args);
    let first = setup.masks(&[&args[..], &["--cache", "cache"]].concat());
    let stored = names(&setup.dir.path().join("cache"));
    assert_eq!(stored.len(), 2, "{stored:?}");
    let second = setup.masks(&[&args[..], &["--cache", "cache"]].concat());
    assert_eq!((&first, &second), (&plain, &plain));
    assert_eq!(names(&setup.dir.path().join("cache")), stored);
    assert_eq!(setup.masks(&[&args[..], &["--threads", "1"]].concat()), plain);
}

#[test]
fn weights_are_inspected_converted_and_checked() {
    let setup = setup();
    let inspected = samclip(setup.dir.path(), &["weights", "inspect", &setup.weights, "--json"]);
    assert_eq!(json(&inspected)["variant"], "sam_clip_nano");
    let convert = ["weights", "convert", &setup.weights, "--to", "half.safetensors", "--as", "sam_clip_nano", "--dtype", "f16"];
    let output = samclip(setup.dir.path(), &convert);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let half = samclip_weights::StateDict::open(&setup.dir.path().join("half.safetensors")).unwrap();
    assert!(half.iter().all(|(_, tensor)| tensor.dtype() == samclip_weights::DType::F16));

    let (inputs, expected) = check_files(&setup);
    let check = |expected: &str, atol: &str| {
        let args = ["weights", "check", &setup.weights, "--model", "sam_clip_nano", "--inputs", &inputs, "--expected", expected, "--atol", atol];
        samclip(setup.dir.path(), &args)
    };
    let same = check(&expected[0], "1e-6");
    assert_eq!(same.status.code(), Some(0), "{}{}", String::from_utf8_lossy(&same.stdout), stderr(&same));
    let shifted = check(&expected[1], "1e-3");
    assert_eq!(shifted.status.code(), Some(1));
    let said = String::from_utf8_lossy(&shifted.stdout).into_owned();
    assert!(said.contains("low_res_logits") && said.contains("differs"), "{said}");
    assert_eq!(check(&expected[1], "1").status.code(), Some(0));
}

/// Stored inputs, and outputs made by the library: right ones, and ones that are off by 0.5.
fn check_files(setup: &Setup) -> (String, [String; 2]) {
    use samclip_models::sam::{MaskOutput, PromptInput};
    use samclip_models::{Device, Tensor, init::Init, state};
    use samclip_weights::{StateDict, TensorData, write_safetensors};
    let device = Device::default();
    let tiny = state::load(tiny::config().init(&mut Init::zeros(&device)), &tiny::state()).unwrap();
    let pixels: Vec<f32> = (0..3 * 64 * 64).map(|i| ((i * 37 % 101) as f32 - 50.0) / 50.0).collect();
    let boxes = [4.0, 4.0, 40.0, 50.0f32];
    let tensor = |values: &[f32], shape: &[usize]| samclip_models::Tensor::<1>::from_floats(values, &device).reshape::<4, _>(<[usize; 4]>::try_from(shape).unwrap());
    let embedding = tiny.sam_embedding(tiny.tokens(tensor(&pixels, &[1, 3, 64, 64])));
    let boxes_tensor: Tensor<2> = Tensor::<1>::from_floats(boxes, &device).reshape([1, 4]);
    let prompts = PromptInput { boxes: Some(boxes_tensor), count: 1, ..PromptInput::default() };
    let logits = tiny.decode(embedding.clone(), &[0], &prompts, MaskOutput::Multi).low_res_logits;
    let mut inputs = StateDict::new();
    inputs.insert("pixels", TensorData::from_f32(&[1, 3, 64, 64], &pixels));
    inputs.insert("boxes", TensorData::from_f32(&[1, 4], &boxes));
    let path = |name: &str| setup.dir.path().join(name).display().to_string();
    write_safetensors(Path::new(&path("in.safetensors")), &inputs).unwrap();
    let save = |name: &str, shift: f32| {
        let mut state = StateDict::new();
        for (name, tensor) in [("image_embedding", &embedding), ("low_res_logits", &logits)] {
            let values: Vec<f32> = tensor.clone().into_data().try_into_vec().unwrap();
            let shift = if name == "low_res_logits" { shift } else { 0.0 };
            let values: Vec<f32> = values.iter().map(|v| v + shift).collect();
            state.insert(name, TensorData::from_f32(&tensor.dims(), &values));
        }
        write_safetensors(Path::new(&path(name)), &state).unwrap();
        path(name)
    };
    (path("in.safetensors"), [save("right.safetensors", 0.0), save("shifted.safetensors", 0.5)])
}

#[test]
fn folders_are_expanded_and_small_verbs_work() {
    let setup = setup();
    let folder = photo("cat.jpg").parent().unwrap().display().to_string();
    let document = setup.json(&["segment", &folder, "--point", "5,5"]);
    let images = document["images"].as_array().unwrap();
    assert_eq!(images.len(), samclip_predict::inputs::expand(&[folder.into()]).unwrap().len());
    for args in [&["version"][..], &["models"], &["models", "--json"], &["completions", "bash"], &["--help"]] {
        let output = samclip(setup.dir.path(), args);
        assert_eq!(output.status.code(), Some(0), "{args:?}");
        assert!(!output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(samclip(setup.dir.path(), &["nonsense"]).status.code(), Some(2));
}

#[test]
fn the_built_in_model_cuts_something_out_of_the_cat_photo() {
    let dir = tempfile::tempdir().unwrap();
    let cat = photo("cat.jpg").display().to_string();
    let output = samclip(dir.path(), &["segment", &cat, "--text", "cat", "--box", "60,20,400,290"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(names(&dir.path().join("out")), ["cat_0.png", "cat_1.png", "cat_overlay.png"]);
}

#[test]
fn an_unknown_instruction_set_and_another_models_step_are_refused() {
    let wrong = std::process::Command::new(env!("CARGO_BIN_EXE_samclip")).arg("models").env("SAMCLIP_ISA", "avx3").output().unwrap();
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("expected amx, avx512bf16, avx512, avx2 or portable, found `avx3`"), "{}", stderr(&wrong));
    let dir = tempfile::tempdir().unwrap();
    for (work, model) in [("joint-step", "sam_clip_vit_b"), ("guided-step", "clip_guided_sam_b")] {
        let output = samclip(dir.path(), &["bench", work, "--model", "mobile_sam"]);
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(&format!("timed for {model} only: found --model mobile_sam")), "{}", stderr(&output));
    }
}
