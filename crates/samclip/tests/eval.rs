//! `samclip eval`, `eval merge` and `report` as processes, with the embedded model on a miniature of PASCAL VOC: shards, a
//! killed run and a whole run end with the same bytes; a damaged truth is named and counted; other systems' files score.

use samclip_testkit::miniature;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn protocol(name: &str) -> String {
    format!("{}/../../protocols/{name}.toml", env!("CARGO_MANIFEST_DIR"))
}

fn samclip(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_samclip")).args(args).env_remove("SAMCLIP_DATA").output().unwrap()
}

#[track_caller]
fn ok(args: &[&str]) -> String {
    let output = samclip(args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn text(path: PathBuf) -> String {
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&text(path)).unwrap()
}

const PROTOCOLS: [&str; 3] = ["voc_subset_semantic", "voc_subset_class_prompted", "voc_subset_promptable"];

fn run(data: &Path, out: &Path, more: &[&str]) -> Output {
    let files: Vec<String> = PROTOCOLS.iter().map(|p| protocol(p)).collect();
    let mut args: Vec<&str> = vec!["eval"];
    args.extend(files.iter().map(String::as_str));
    args.extend(["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--precision", "f32"]);
    args.extend(more);
    samclip(&args)
}

/// The bytes of every protocol's reports.
fn reports(out: &Path) -> Vec<(String, String)> {
    PROTOCOLS.iter().map(|p| (text(out.join(p).join("report.json")), text(out.join(p).join("report.md")))).collect()
}

#[test]
fn shards_and_a_killed_run_end_as_a_whole_run() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    miniature::voc(&data, 12);
    let whole = dir.path().join("whole");
    let output = run(&data, &whole, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert!(stdout.contains("# voc_subset_semantic: sam_clip_nano") && stdout.contains("12 of 12 photos scored"), "{stdout}");
    let expected = reports(&whole);
    for name in PROTOCOLS {
        assert_eq!(std::fs::read_dir(whole.join(name).join("worst")).unwrap().count(), 10, "{name}");
    }

    // four processes at once, then one report
    let parts = dir.path().join("parts");
    std::thread::scope(|scope| {
        let shard = |i: usize| {
            let (data, parts) = (&data, &parts);
            move || assert!(run(data, parts, &["--shard", &format!("{i}/4")]).status.success())
        };
        let threads: Vec<_> = (0..4).map(|i| scope.spawn(shard(i))).collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
    });
    let merged = dir.path().join("merged");
    ok(&["eval", "merge", parts.to_str().unwrap(), "--data", data.to_str().unwrap(), "--out", merged.to_str().unwrap()]);
    assert_eq!(reports(&merged), expected);
    // what it cost is what the four processes said, not the one that merged
    let cost = json(merged.join("voc_subset_semantic/cost.json"));
    assert_eq!((cost["processes"].as_u64(), cost["precision"].as_str()), (Some(4), Some("f32")));
    assert!(cost["peak_mb"].as_f64() > Some(30.0) && cost["encoder_passes"].as_f64() >= Some(1.0), "{cost}");
    // a shard that is missing is an error
    std::fs::remove_file(parts.join("voc_subset_semantic/records-2of4.jsonl")).unwrap();
    let output = samclip(&["eval", "merge", parts.to_str().unwrap(), "--data", data.to_str().unwrap(), "--out", merged.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("missing"), "{}", String::from_utf8_lossy(&output.stderr));

    // SIGKILL after a few photos, twice, then to the end
    let killed = dir.path().join("killed");
    for lines in [3, 7] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_samclip"))
            .arg("eval")
            .args(PROTOCOLS.map(protocol))
            .args(["--data", data.to_str().unwrap(), "--out", killed.to_str().unwrap(), "--precision", "f32"])
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let records = killed.join("voc_subset_promptable/records-0of1.jsonl");
        while std::fs::read_to_string(&records).map_or(0, |t| t.lines().count()) < lines && child.try_wait().unwrap().is_none() {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let records = killed.join("voc_subset_promptable/records-0of1.jsonl");
    let torn = text(records.clone());
    assert!(torn.lines().count() < 13, "the run was over before it could be killed");
    assert!(run(&data, &killed, &[]).status.success());
    assert_eq!(reports(&killed), expected);

    // another model's records are not continued
    let output = run(&data, &killed, &["--limit", "5"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("records of another run"), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_damaged_truth_is_named_and_counted() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    miniature::voc(&data, 4);
    let good = dir.path().join("good");
    assert!(run(&data, &good, &[]).status.success());
    let path = data.join("voc/SegmentationClass/2007_000002.png");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
    let out = dir.path().join("out");
    let output = run(&data, &out, &[]);
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    let report = json(out.join("voc_subset_semantic/report.json"));
    assert_eq!((report["photos"]["scored"].as_u64(), report["photos"]["run"].as_u64()), (Some(3), Some(4)));
    assert_eq!(report["failures"][0]["id"], "2007_000002");
    assert!(report["failures"][0]["message"].as_str().unwrap().ends_with("2007_000002.png"), "{report}");
    assert!(text(out.join("voc_subset_semantic/report.md")).contains("3 of 4 photos scored"));
    // the other photos' records are those of the good run
    let others = |folder: &Path| {
        let lines: Vec<Value> = text(folder.join("voc_subset_semantic/records-0of1.jsonl")).lines().skip(1).map(|l| serde_json::from_str(l).unwrap()).collect();
        lines.into_iter().filter(|r| r["index"] != 2).map(|r| r["outcome"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(others(&out), others(&good));
}

#[test]
fn other_systems_files_score_and_reports_become_a_page() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    miniature::all(&data);
    let (d, out) = (data.to_str().unwrap(), dir.path().join("out"));
    let o = out.to_str().unwrap();

    // label maps: class 1 taken for class 0 in one photo of four
    let maps = dir.path().join("maps");
    for k in 0..4 {
        let wrong = |class: Option<usize>| class.map_or(9, |c| if k == 1 && c == 1 { 0 } else { c as u8 });
        miniature::labels(&maps.join(format!("2007_{k:06}.png")), k, &wrong);
    }
    let voc = protocol("voc_clip_head");
    let stdout = ok(&["eval", &voc, "--data", d, "--out", o, "--predictions", maps.to_str().unwrap(), "--system", "peer"]);
    assert!(stdout.contains("# voc_clip_head: peer (files)"), "{stdout}");
    let report = json(out.join("voc_clip_head/report.json"));
    // class 0: 80 of 90 columns, class 1: 30 of 40, the four others whole
    let miou = (80.0 / 90.0 + 30.0 / 40.0 + 4.0) / 6.0;
    assert!((report["metrics"]["miou"].as_f64().unwrap() - miou).abs() < 1e-12, "{report}");
    assert_eq!((&report["model"], &report["task"]), (&Value::from("peer"), &Value::from("zeroshot_segmentation")));
    assert_eq!(report["worst"][0][0], "2007_000001");
    assert!(out.join("voc_clip_head/worst/01_2007_000001.png").is_file());
    assert!(text(out.join("voc_clip_head/confusion.csv")).starts_with("truth,\"background\""));
    // other maps at the same place do not continue the run
    miniature::labels(&maps.join("2007_000001.png"), 1, &|class| class.map_or(9, |c| c as u8));
    let again = samclip(&["eval", &voc, "--data", d, "--out", o, "--predictions", maps.to_str().unwrap(), "--system", "peer"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&again.stderr).contains("records of another run"));
    // a missing map is an error that names it
    std::fs::remove_file(maps.join("2007_000003.png")).unwrap();
    let other = dir.path().join("other");
    let output = samclip(&["eval", &voc, "--data", d, "--out", other.to_str().unwrap(), "--predictions", maps.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("2007_000003.png"));

    // grey maps of camouflaged objects
    let grey = dir.path().join("grey");
    for k in 0..4 {
        miniature::labels(&grey.join(format!("animal-{k}.png")), k, &|class| if class == Some(1) { 200 } else { 0 });
    }
    ok(&["eval", &protocol("camo_text"), "--data", d, "--out", o, "--predictions", grey.to_str().unwrap()]);
    let report = json(out.join("camo_text/report.json"));
    assert!((report["metrics"]["s_measure"].as_f64().unwrap() - 1.0).abs() < 1e-9, "{report}");
    assert!(out.join("camo_text/e_measure.svg").is_file());

    // COCO results: every object of photo 7 once, nothing else
    let truth = json(data.join("coco/annotations/instances_val2017.json"));
    let own = |a: &&Value| a["image_id"] == 7 && a["iscrowd"] == 0;
    let results: Vec<Value> = truth["annotations"].as_array().unwrap().iter().filter(own).map(|a| {
        serde_json::json!({"image_id": 7, "category_id": a["category_id"], "score": 0.5, "segmentation": a["segmentation"]})
    }).collect();
    let file = dir.path().join("results.json");
    std::fs::write(&file, serde_json::to_string(&results).unwrap()).unwrap();
    ok(&["eval", &protocol("coco_instances"), "--data", d, "--out", o, "--predictions", file.to_str().unwrap()]);
    let report = json(out.join("coco_instances/report.json"));
    // classes 0 and 1 have three objects each (photos 7, 8, 10), of which one is found: precision 1 up to recall 1/3,
    // 34 of 101 points; class 2 is on photo 7 alone, classes 3 and 5 are not found
    let ap = (34.0 / 101.0 * 2.0 + 1.0) / 5.0;
    assert!((report["metrics"]["AP"].as_f64().unwrap() - ap).abs() < 1e-9, "{report}");
    assert!(out.join("coco_instances/precision_recall_50.svg").is_file());
    // photo 7 is answered, 8 and 10 are not, 9 has no objects
    let ids: Vec<&str> = report["worst"].as_array().unwrap().iter().map(|w| w[0].as_str().unwrap()).collect();
    assert_eq!(ids, ["10", "8", "7"]);
    assert!(out.join("coco_instances/worst/01_10.png").is_file());

    // scores and vectors
    let scores = dir.path().join("scores.json");
    let of = |k: usize| if k == 3 { [0.1, 0.2, 0.7] } else { std::array::from_fn(|c| if c == k % 3 { 0.9 } else { 0.1 }) };
    let ids = |k: usize| format!("Places365_val_{k:08}");
    let list: serde_json::Map<String, Value> = (0..4).map(|k| (ids(k), serde_json::json!(of(k)))).collect();
    std::fs::write(&scores, Value::Object(list).to_string()).unwrap();
    ok(&["eval", &protocol("places365_zero_shot_224"), "--data", d, "--out", o, "--predictions", scores.to_str().unwrap()]);
    assert_eq!(json(out.join("places365_zero_shot_224/report.json"))["metrics"]["acc1"], 0.75);

    // the page: only what run files hold
    let page = dir.path().join("RESULTS.md");
    std::fs::write(&page, "# Results\n\nWritten by hand.\n").unwrap();
    let p = page.to_str().unwrap();
    ok(&["report", o, "--out", p]);
    let made = text(page.clone());
    assert!(made.contains("Written by hand.") && made.contains("| camo_text | cod CAMO | grey (files) |"), "{made}");
    ok(&["report", o, "--out", p, "--check"]);
    std::fs::write(&page, made.replace("s_measure **1.0", "s_measure **2.0")).unwrap();
    assert_eq!(samclip(&["report", o, "--out", p, "--check"]).status.code(), Some(1));
    ok(&["report", o, "--out", p]);
    assert_eq!(text(page), made);
}

#[test]
fn prompts_and_names_have_their_worst_photos_and_every_look_counted() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    miniature::voc(&data, 3);
    let args = ["eval", &protocol("voc_subset_nano"), "--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--limit", "2"];
    ok(&args);
    let folder = out.join("voc_subset_nano");
    let report = json(folder.join("report.json"));
    assert_eq!(report["worst"].as_array().unwrap().len(), 2);
    assert_eq!(std::fs::read_dir(folder.join("worst")).unwrap().count(), 2);
    // boxes and clicks are one look at a photo, each of two names another, classification a fourth: all are counted
    let cost = json(folder.join("cost.json"));
    assert_eq!(cost["encoder_passes"].as_f64(), Some(4.0), "{cost}");
}

#[test]
fn mistakes_are_told_before_anything_runs() {
    let dir = tempfile::tempdir().unwrap();
    miniature::voc(&dir.path().join("data"), 2);
    let data = dir.path().join("data");
    let fails = |args: &[&str], wanted: &str| {
        let output = samclip(args);
        let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(2) && stderr.contains(wanted), "{args:?}: {stderr}");
    };
    let (d, voc) = (data.to_str().unwrap(), protocol("voc_subset_semantic"));
    fails(&["eval", &voc], "--data");
    fails(&["eval", &voc, "--data", d, "--shard", "4/4", "--out", d], "expected I/N");
    fails(&["eval", &voc, "--data", d, "--shard", "0/4"], "--out");
    fails(&["eval", &voc, &voc, "--data", d], "two protocols");
    fails(&["eval", &protocol("ade20k_clip_head"), "--data", d], "objectInfo150.txt");
    fails(&["eval", &protocol("voc_subset_nano"), "--data", d, "--predictions", d], "takes no predictions");
    let odd = dir.path().join("odd.toml");
    std::fs::write(&odd, text(PathBuf::from(&voc)).replace("background", "backgruond")).unwrap();
    fails(&["eval", odd.to_str().unwrap(), "--data", d], "did you mean `background`");
    let probe = text(PathBuf::from(protocol("voc_subset_linear_probe")));
    for (from, to, wanted) in [
        ("side = 256", "side = 250", "250 is not a multiple of 16"),
        ("[1e-3]", "[0.0]", "positive learning rates"),
        ("linear]", "lineal]", "unknown variant `lineal`, expected one of `linear`"),
        ("split = \"train_aug\"", "split = \"train_none\"", "train_none.txt"),
    ] {
        std::fs::write(&odd, probe.replace(from, to)).unwrap();
        fails(&["eval", odd.to_str().unwrap(), "--data", d], wanted);
    }
}

/// A linear head and a pyramid on the embedded model's features of a dozen photos.
const PROBES: [&str; 2] = ["voc_subset_linear_probe", "voc_subset_psp_net_probe"];

#[test]
fn heads_are_trained_scored_and_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    miniature::voc(&data, 12);
    // the protocols with a fraction of their steps
    let short = PROBES.map(|name| {
        let file = dir.path().join(format!("{name}.toml"));
        let line = |l: &str| if l.starts_with("steps = ") { "steps = 80\n".to_owned() } else { format!("{l}\n") };
        std::fs::write(&file, text(PathBuf::from(protocol(name))).lines().map(line).collect::<String>()).unwrap();
        file
    });
    let run = |out: &Path, more: &[&str]| {
        let mut args = vec!["eval"];
        args.extend(short.iter().map(|f| f.to_str().unwrap()));
        args.extend(["--data", data.to_str().unwrap(), "--out", out.to_str().unwrap(), "--precision", "f32"]);
        args.extend(more);
        ok(&args)
    };
    let reports = |out: &Path| PROBES.map(|name| text(out.join(name).join("report.json")));
    let whole = dir.path().join("whole");
    let stdout = run(&whole, &[]);
    assert!(stdout.contains("M in the head"), "{stdout}");
    for name in PROBES {
        let report = json(whole.join(name).join("report.json"));
        let miou = report["metrics"]["miou"].as_f64().unwrap();
        println!("{name}: mIoU {miou:.3}, a constant has {:.3}", 20.0 / 38.0 / 6.0);
        assert!(miou > 2.0 * 20.0 / 38.0 / 6.0, "{name}: {miou}");
        assert_eq!(report["task"], "head_probing");
        assert!(report["metrics"].get("miou_of_named_classes").is_none(), "a head learns the background too");
        assert!(whole.join(name).join("worst").is_dir());
    }
    let expected = reports(&whole);

    // two processes that share features, one after the other, then a merge
    let parts = dir.path().join("parts");
    (0..2).for_each(|i| drop(run(&parts, &["--shard", &format!("{i}/2")])));
    let merged = dir.path().join("merged");
    ok(&["eval", "merge", parts.to_str().unwrap(), "--data", data.to_str().unwrap(), "--out", merged.to_str().unwrap()]);
    assert_eq!(reports(&merged), expected);
    let cost = json(merged.join(PROBES[0]).join("cost.json"));
    assert_eq!((cost["processes"].as_u64(), cost["precision"].as_str()), (Some(2), Some("f32")));
    assert!(cost["head_parameters"].as_u64() > Some(0) && cost["parameters"].as_u64() > Some(0), "{cost}");

    // a run that is started again trains nothing: the head's file is as it was
    let head = |out: &Path| {
        let mut files = std::fs::read_dir(out.join(PROBES[1])).unwrap().map(|e| e.unwrap().path());
        files.find(|f| f.file_name().unwrap().to_string_lossy().starts_with("head-")).unwrap()
    };
    let before = std::fs::metadata(head(&whole)).unwrap().modified().unwrap();
    let is_features = |p: &PathBuf| p.file_name().unwrap().to_string_lossy().starts_with("features-");
    let mut folders = std::fs::read_dir(&whole).unwrap().map(|e| e.unwrap().path());
    std::fs::remove_dir_all(folders.find(is_features).unwrap()).unwrap();
    run(&whole, &[]);
    assert_eq!(std::fs::metadata(head(&whole)).unwrap().modified().unwrap(), before);
    assert_eq!(reports(&whole), expected);
}
