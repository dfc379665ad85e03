//! `samclip train` as a process: killed, stopped, out of space, with unreadable photos, with a
//! loss that is not finite. Runs are seconds: a model of 64 px on painted shapes.

mod support;

use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use samclip_weights::{StateDict, TensorData};
use samclip_testkit::runs::{DISTILL, Recipe, folder, shapes};
use support::{root, samclip, stderr};

fn start(folder: &Path, out: &str) -> Child {
    Command::new(env!("CARGO_BIN_EXE_samclip"))
        .args(["train", "recipe.toml", "--data", ".", "--out", out])
        .current_dir(folder)
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

fn train(folder: &Path, out: &str) -> Output {
    start(folder, out).wait_with_output().unwrap()
}

fn state(folder: &Path, file: &str) -> StateDict {
    StateDict::open(&folder.join(file)).unwrap()
}

fn tensors(state: &StateDict) -> Vec<(&str, &TensorData)> {
    state.iter().collect()
}

#[test]
fn killed_ten_times_a_run_ends_with_the_same_bits() {
    let folder = folder();
    let path = folder.path();
    shapes(120, 4).write(path);
    let begin = Instant::now();
    assert!(train(path, "whole").status.success());
    let whole = begin.elapsed();
    let mut seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut kills = 0;
    let mut reached = Vec::new();
    while kills < 10 {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let mut child = start(path, "killed");
        // somewhere between the start and a sixteenth of the whole run later: ten times that, and a machine
        // that has become twice as fast, still is less than the run
        let wait = (seed >> 33) % (whole.as_micros() as u64 / 16 + 50_000);
        std::thread::sleep(Duration::from_micros(wait));
        if child.try_wait().unwrap().is_some() {
            break; // the run was done before
        }
        child.kill().unwrap(); // SIGKILL
        child.wait().unwrap();
        kills += 1;
        let checkpoint = path.join("killed/checkpoint.safetensors");
        let step = checkpoint.exists().then(|| StateDict::open(&checkpoint).unwrap().metadata["step"].clone());
        reached.push(step.unwrap_or_default());
    }
    println!("killed {kills} times, checkpoints at steps {reached:?}");
    assert_eq!(kills, 10, "the run was over too early: {reached:?}");
    let last = train(path, "killed");
    assert!(last.status.success(), "{}", stderr(&last));
    for file in ["checkpoint.safetensors", "model_f16.safetensors"] {
        let (a, b) = (state(path, &format!("whole/{file}")), state(path, &format!("killed/{file}")));
        assert!(tensors(&a) == tensors(&b), "{file} differs, checkpoints at steps {reached:?}");
    }
    let log = |run: &str| -> Vec<(i64, String)> {
        let text = std::fs::read_to_string(path.join(run).join("log.jsonl")).unwrap();
        let line = |l: &str| serde_json::from_str::<serde_json::Value>(l).unwrap();
        text.lines().map(line).map(|l| (l["step"].as_i64().unwrap(), l["losses"].to_string())).collect()
    };
    assert_eq!(log("whole"), log("killed"), "every step once, with the same losses");
}

#[test]
fn a_signal_writes_a_checkpoint_and_exits_with_0() {
    let folder = folder();
    let path = folder.path();
    shapes(100_000, 1_000_000).write(path);
    for signal in ["-TERM", "-INT"] {
        let child = start(path, "run");
        let log = path.join("run/log.jsonl");
        let begin = Instant::now();
        let lines = || std::fs::read_to_string(&log).map_or(0, |t| t.lines().count());
        let before = lines();
        while lines() < before + 3 {
            assert!(begin.elapsed() < Duration::from_secs(60), "no progress");
            std::thread::sleep(Duration::from_millis(5));
        }
        let id = child.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
        assert!(stderr(&output).contains("the same command continues"), "{}", stderr(&output));
        let step: usize = state(path, "run/checkpoint.safetensors").metadata["step"].parse().unwrap();
        assert_eq!(step, lines(), "the checkpoint is of the last step");
    }
}

#[test]
fn one_process_at_a_time_writes_a_run_directory() {
    let folder = folder();
    let path = folder.path();
    shapes(3, 2).write(path);
    std::fs::create_dir(path.join("run")).unwrap();
    let lock = File::create(path.join("run/.samclip.lock")).unwrap();
    lock.lock().unwrap();
    let output = train(path, "run");
    assert!(output.status.code() == Some(2) && stderr(&output).contains("another process"), "{}", stderr(&output));
    assert!(!path.join("run/checkpoint.safetensors").exists());
    drop(lock);
    assert!(train(path, "run").status.success());
}

#[test]
fn a_full_disk_is_a_clear_message_and_leaves_the_last_checkpoint() {
    let folder = folder();
    let path = folder.path();
    shapes(2, 2).write(path);
    assert!(train(path, "run").status.success());
    shapes(6, 2).write(path);
    let before = std::fs::read(path.join("run/checkpoint.safetensors")).unwrap();
    // a limit on the size of files stands for a full disk: writing fails half-way
    let blocks = before.len() / 512 / 2;
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let output = Command::new("sh")
        .args(["-c", &script, env!("CARGO_BIN_EXE_samclip")])
        .args(["train", "recipe.toml", "--data", ".", "--out", "run", "--allow-changed-recipe"])
        .current_dir(path)
        .output()
        .unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("the checkpoint of step 4 was not written"), "{message}");
    assert!(message.contains("checkpoint.safetensors") && message.contains("hint: the checkpoint before it"), "{message}");
    assert!(std::fs::read(path.join("run/checkpoint.safetensors")).unwrap() == before);
    let left: Vec<_> = std::fs::read_dir(path.join("run")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!left.iter().any(|n| n.to_string_lossy().contains("tmp")), "{left:?}");
    let output = samclip(path, &["train", "recipe.toml", "--data", ".", "--out", "run", "--allow-changed-recipe"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(state(path, "run/checkpoint.safetensors").metadata["step"], "6");
}

/// Twelve photos in a list, of which these cannot be read.
fn photos(path: &Path, broken: &[usize]) {
    let mut list = String::new();
    for i in 0..12 {
        let name = format!("photo{i}.png");
        let data = (0..60 * 50 * 3).map(|p| (p * (i + 3) % 251) as u8).collect();
        let image = samclip_image::Image::new(60, 50, data).unwrap();
        samclip_image::write_png_rgb(&path.join(&name), &image).unwrap();
        if broken.contains(&i) {
            std::fs::write(path.join(&name), b"not a photo").unwrap();
        }
        list += &format!("{name}\n");
    }
    std::fs::write(path.join("list.txt"), list).unwrap();
}

#[test]
fn unreadable_photos_are_counted_and_skipped_up_to_the_limit() {
    let folder = folder();
    let path = folder.path();
    photos(path, &[3, 7]);
    let mut recipe = Recipe { data: ("file_list", "list.txt"), objectives: DISTILL.into(), ..shapes(12, 4) };
    recipe.max_skipped = 50;
    recipe.write(path);
    let output = train(path, "run");
    let message = stderr(&output);
    assert!(output.status.success() && message.contains("photos so far that could not be read"), "{message}");
    let log = std::fs::read_to_string(path.join("run/log.jsonl")).unwrap();
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert!(last["skipped"].as_u64().unwrap() >= 2, "{last}");

    recipe.max_skipped = 12;
    recipe.steps = 1000;
    recipe.every = 1;
    recipe.write(path);
    let output = train(path, "limited");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("13 samples could not be read, the limit is 12"), "{message}");
    assert!(message.contains("photo3.png") || message.contains("photo7.png"), "{message}");
    assert!(message.contains("hint: "), "{message}");
    state(path, "limited/checkpoint.safetensors");
}

#[test]
fn a_shard_that_goes_away_is_named_and_the_checkpoint_stays() {
    let folder = folder();
    let path = folder.path();
    photos(path, &[]);
    for (shard, range) in [("a-0.tar", 0..6), ("a-1.tar", 6..12)] {
        let mut tar = tar::Builder::new(std::fs::File::create(path.join(shard)).unwrap());
        range.for_each(|i| tar.append_path_with_name(path.join(format!("photo{i}.png")), format!("{i}.png")).unwrap());
        tar.finish().unwrap();
    }
    let recipe = Recipe { data: ("webdataset", "a-{0..1}.tar"), objectives: DISTILL.into(), ..shapes(100_000, 1) };
    recipe.write(path);
    let child = start(path, "run");
    let begin = Instant::now();
    while !path.join("run/checkpoint.safetensors").exists() {
        assert!(begin.elapsed() < Duration::from_secs(60), "no progress");
        std::thread::sleep(Duration::from_millis(5));
    }
    std::fs::remove_file(path.join("a-1.tar")).unwrap();
    let output = child.wait_with_output().unwrap();
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("could not be read, the limit is 0") && message.contains("a-1.tar"), "{message}");
    let step: usize = state(path, "run/checkpoint.safetensors").metadata["step"].parse().unwrap();
    assert!(step >= 1);
    let output = train(path, "run");
    assert_eq!(output.status.code(), Some(2), "the same command names it again");
    assert!(stderr(&output).contains("a-1.tar"), "{}", stderr(&output));
}

#[test]
fn a_loss_that_is_not_finite_stops_with_its_name_and_keeps_the_checkpoint() {
    let folder = folder();
    let path = folder.path();
    Recipe { lr: 1e37, ..shapes(50, 1) }.write(path);
    let output = train(path, "run");
    let message = stderr(&output);
    assert_eq!(output.status.code(), Some(2), "{message}");
    assert!(message.contains("is not finite") && message.contains("error: step "), "{message}");
    assert!(message.contains("hint: the last checkpoint is intact"), "{message}");
    let checkpoint = path.join("run/checkpoint.safetensors");
    if checkpoint.exists() {
        let state = StateDict::open(&checkpoint).unwrap();
        assert!(samclip_weights::non_finite(&state).is_empty(), "the checkpoint holds values that are not finite");
    }
}

#[test]
fn a_run_is_measured_as_it_goes_and_is_the_same_run() {
    let Some(data) = samclip_testkit::data() else { return };
    let folder = folder();
    let path = folder.path();
    shapes(4, 4).write(path);
    let recipe = std::fs::read_to_string(path.join("recipe.toml")).unwrap().replace("\"tiny.", "\"./tiny.");
    let recipe = recipe.replacen("[model]\n", "[model]\nclassify_tokens = 0.5\n", 1);
    let data = data.display().to_string();
    let protocol = root().join("protocols/voc_subset_nano.toml").display().to_string();
    let train = |out: &str, more: &[&str]| samclip(path, &[&["train", "recipe.toml", "--data", &data, "--out", out], more].concat());
    let measured = ["--protocol", &protocol, "--limit", "2"];

    std::fs::write(path.join("recipe.toml"), &recipe).unwrap();
    let output = train("never", &measured);
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("observe_every_steps = 0"), "{}", stderr(&output));

    std::fs::write(path.join("recipe.toml"), recipe.replace("observe_every_steps = 0", "observe_every_steps = 3")).unwrap();
    for start_over in [&[][..], &["--no-resume"]] {
        let output = train("measured", &[&measured, start_over].concat());
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(stderr(&output).contains("step 3: voc_subset_nano on 2 photos: box 0."), "{}", stderr(&output));
        let lines = std::fs::read_to_string(path.join("measured/evaluations.jsonl")).unwrap();
        let lines: Vec<serde_json::Value> = lines.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let steps: Vec<_> = lines.iter().map(|l| l["step"].as_u64().unwrap()).collect();
        assert_eq!(steps, [3, 4], "every third step and the last, once");
        assert!(lines.iter().all(|l| l["photos"] == 2 && l["box"].as_f64().is_some_and(|v| v > 0.0)), "{lines:?}");
    }
    assert!(train("plain", &[]).status.success());
    let [measured, plain] = ["measured", "plain"].map(|run| state(path, &format!("{run}/model_f16.safetensors")));
    assert!(tensors(&measured) == tensors(&plain));
    let [a, b] = ["measured", "plain"].map(|run| state(path, &format!("{run}/checkpoint.safetensors")));
    assert!(tensors(&a) == tensors(&b), "to the last bit: no precision of the measurement stays behind");
    assert_eq!(plain.metadata["classify_tokens"], "0.5", "the file says how it wants to be asked");
}
