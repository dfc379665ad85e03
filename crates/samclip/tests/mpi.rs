//! `mpirun -n N samclip train`: several processes compute what one computes. Needs the feature `mpi` and a
//! launcher; says so and passes without one.
#![cfg(feature = "mpi")]

mod support;

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use samclip_weights::StateDict;
use samclip_testkit::runs::{Recipe, folder, shapes};
use support::{samclip, stderr};

const TRAIN: [&str; 4] = ["train", "recipe.toml", "--data", "."];

fn mpirun(path: &Path, processes: usize, out: &str) -> Command {
    let mut command = Command::new("mpirun");
    command
        .args(["--allow-run-as-root", "--oversubscribe", "-n", &processes.to_string()])
        .arg(env!("CARGO_BIN_EXE_samclip"))
        .args(TRAIN)
        .args(["--out", out])
        .env("RAYON_NUM_THREADS", "1")
        .current_dir(path)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

fn run(path: &Path, processes: usize, out: &str) -> Output {
    mpirun(path, processes, out).output().unwrap()
}

fn launcher() -> bool {
    let found = Command::new("mpirun").arg("--version").output().is_ok();
    if !found {
        println!("skipped: no mpirun");
    }
    found
}

/// (loss, gradient norm, images) of every step.
fn curve(path: &Path, out: &str) -> Vec<(f64, f64, f64)> {
    let text = std::fs::read_to_string(path.join(out).join("log.jsonl")).unwrap();
    let line = |l: &str| {
        let l: serde_json::Value = serde_json::from_str(l).unwrap();
        let seconds = l["images_per_second"].as_f64().unwrap();
        assert!(seconds > 0.0);
        (l["loss"].as_f64().unwrap(), l["grad_norm"].as_f64().unwrap(), l["skipped"].as_f64().unwrap())
    };
    text.lines().map(line).collect()
}

fn distance(a: &StateDict, b: &StateDict) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for (name, tensor) in a.iter().filter(|(name, _)| name.starts_with("value/")) {
        let other = b.iter().find(|(n, _)| *n == name).expect("the same tensors").1;
        for (a, b) in tensor.to_f32().iter().zip(other.to_f32().iter()) {
            difference += f64::from(a - b).powi(2);
            size += f64::from(*a).powi(2);
        }
    }
    (difference / size).sqrt()
}

fn close(path: &Path, a: &str, b: &str) {
    let (ca, cb) = (curve(path, a), curve(path, b));
    assert_eq!(ca.len(), cb.len());
    for (step, (x, y)) in ca.iter().zip(&cb).enumerate() {
        let relative = (x.0 - y.0).abs() / x.0.abs();
        assert!(relative <= 1e-5, "step {}: {x:?} in {a}, {y:?} in {b}: {relative:e}", step + 1);
        assert_eq!(x.2, y.2, "unreadable photos");
    }
    let state = |out: &str| StateDict::open(&path.join(out).join("checkpoint.safetensors")).unwrap();
    let d = distance(&state(a), &state(b));
    assert!(d <= 1e-4, "weights of {a} and {b}: {d:e}");
    let largest = ca.iter().zip(&cb).map(|(x, y)| (x.0 - y.0).abs() / x.0.abs()).fold(0.0, f64::max);
    println!("{a} and {b}: losses within {largest:e}, weights within {d:e}");
}

#[test]
fn two_and_four_processes_compute_what_one_computes() {
    if !launcher() {
        return;
    }
    let folder = folder();
    let path = folder.path();
    Recipe { shards: 4, ..shapes(12, 4) }.write(path);
    let alone = samclip(path, &[&TRAIN[..], &["--out", "1"]].concat());
    assert!(alone.status.success(), "{}", stderr(&alone));
    for processes in [2, 4] {
        let out = processes.to_string();
        let output = run(path, processes, &out);
        assert!(output.status.success(), "{}", stderr(&output));
        let said = stderr(&output);
        assert_eq!(said.matches("12/12 loss").count(), 1, "one process speaks: {said}");
        println!("{}", said.lines().find(|l| l.contains("in exchanges")).expect("what exchanging costs"));
        close(path, "1", &out);
    }
}

#[test]
fn a_killed_process_ends_all_and_another_number_of_processes_goes_on() {
    if !launcher() {
        return;
    }
    let folder = folder();
    let path = folder.path();
    Recipe { shards: 4, ..shapes(40, 2) }.write(path);
    let alone = samclip(path, &[&TRAIN[..], &["--out", "whole"]].concat());
    assert!(alone.status.success(), "{}", stderr(&alone));
    let child = mpirun(path, 2, "killed").spawn().unwrap();
    let log = path.join("killed/log.jsonl");
    let begin = Instant::now();
    while std::fs::read_to_string(&log).map_or(0, |t| t.lines().count()) < 5 {
        assert!(begin.elapsed() < Duration::from_secs(120), "no progress");
        std::thread::sleep(Duration::from_millis(5));
    }
    let children = Command::new("pgrep").args(["-P", &child.id().to_string()]).output().unwrap();
    let children = String::from_utf8(children.stdout).unwrap();
    let last = children.lines().last().expect("a process of the run").to_owned();
    assert!(Command::new("kill").args(["-KILL", &last]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(!output.status.success());
    assert!(stderr(&output).contains("signal 9"), "{}", stderr(&output));
    let begin = Instant::now();
    while children.lines().any(|id| Path::new("/proc").join(id).exists()) {
        assert!(begin.elapsed() < Duration::from_secs(20), "a process of {children:?} goes on alone");
        std::thread::sleep(Duration::from_millis(20));
    }
    let output = run(path, 4, "killed");
    assert!(output.status.success(), "{}", stderr(&output));
    close(path, "whole", "killed");
}

#[test]
fn what_cannot_be_shared_is_a_message() {
    if !launcher() {
        return;
    }
    let folder = folder();
    let path = folder.path();
    shapes(4, 2).write(path); // two shards
    let output = run(path, 3, "run");
    assert!(!output.status.success());
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("3 processes cannot share 2 shards evenly"), "{}", stderr(&output));
    let torchrun = Command::new(env!("CARGO_BIN_EXE_samclip"))
        .args(TRAIN)
        .args(["--out", "run"])
        .envs([("RANK", "0"), ("WORLD_SIZE", "4")])
        .current_dir(path)
        .output()
        .unwrap();
    assert_eq!(torchrun.status.code(), Some(2), "{}", stderr(&torchrun));
    assert!(stderr(&torchrun).contains("WORLD_SIZE says 4 processes, but MPI connects 1"), "{}", stderr(&torchrun));
}
