//! Every file under protocols/ on data in its published layout (in miniature) or on the development data: the truth as
//! the answer scores 1, and a constant scores what can be worked out by hand.

use samclip_eval::answers::Offline;
use samclip_eval::benchmark::{AnyProtocol, Task};
use samclip_eval::driver::{AnyReport, Job, Run, ask_offline};
use samclip_eval::records::Header;
use samclip_eval::summary::Summary;
use samclip_testkit::miniature::{self, KNOWN};
use std::path::{Path, PathBuf};

fn protocols() -> Vec<(PathBuf, AnyProtocol)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../protocols"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), AnyProtocol::open(&f).unwrap())).collect()
}

/// A protocol of our development data, which a miniature does not stand in for.
fn is_local(name: &str) -> bool {
    ["voc_subset", "ccp_dev", "camvid_dev", "bsds_sa1b", "imagenet_sample", "flickr8k_sample"].iter().any(|p| name.starts_with(p))
}

/// Photos of the development data: enough for a test; the whole split is `samclip eval --oracle`.
const FEW: usize = 12;

fn score(protocol: &AnyProtocol, data: &Path, offline: &Offline) -> Summary {
    let job = Job::open(protocol.clone(), data).unwrap_or_else(|e| panic!("{}: {e}", protocol.name()));
    let answers = if matches!(offline, Offline::Oracle) { "oracle" } else { "constant" };
    let header = Header {
        samclip_records: 1,
        protocol: protocol.to_toml(),
        model: "none".into(),
        weights: "-".into(),
        answers: answers.into(),
        in_split: job.len(),
        limit: is_local(protocol.name()).then_some(FEW),
        texts: false,
    };
    let mut runs = [Run::open(job, header, None, (0, 1)).unwrap()];
    ask_offline(&mut runs, offline, (0, 1), &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", protocol.name()));
    match runs[0].report().unwrap() {
        AnyReport::Benchmark(summary) => *summary,
        AnyReport::Objects(_) => panic!("a benchmark was asked"),
    }
}

fn value(summary: &Summary, metric: &str) -> f64 {
    summary.metrics.get(metric).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("{}: no {metric}", summary.protocol))
}

#[track_caller]
fn equal(summary: &Summary, metric: &str, wanted: f64) {
    let found = value(summary, metric);
    assert!((found - wanted).abs() < 1e-9, "{}: {metric} {found}, expected {wanted}", summary.protocol);
}

/// The truth as the answer.
fn oracle(summary: &Summary, task: Task) {
    assert_eq!(summary.failures, []);
    assert_eq!(summary.photos.scored + summary.photos.not_asked, summary.photos.run);
    assert!(summary.photos.scored > 0);
    let ones: &[&str] = match task {
        Task::Classification => &["acc1", "acc5", "mean_per_class_recall"],
        Task::Retrieval => &["image_retrieval_recall@1", "text_retrieval_recall@1", "text_retrieval_recall@10"],
        Task::Semantic => &["miou", "aacc", "macc"],
        Task::ClassPrompted => &["miou", "miou_summed", "miou_per_image"],
        Task::Camouflage => &["s_measure", "weighted_f"],
        Task::Promptable => &["box_miou", "box_boundary_iou", "miou@1_click", "miou@9_clicks"],
        Task::Instances => &["AP", "AP50", "AP75"],
    };
    ones.iter().for_each(|metric| equal(summary, metric, 1.0));
    if task == Task::Camouflage {
        equal(summary, "mae", 0.0);
    }
    for expected in &summary.expected {
        assert!(expected.measured.is_some(), "{}: expected {} is not in the report", summary.protocol, expected.expected.metric);
    }
    assert!(summary.value().is_some() && summary.to_markdown().contains("photos scored"));
}

/// A constant answer on the miniatures: see their columns in `samclip_testkit::miniature`.
fn constant(summary: &Summary, task: Task) {
    let photos = summary.photos.in_split as f64;
    match task {
        // photos have the classes 0, 1, 2, 0 (ImageNet-v2: 0, 1, 2, 10)
        Task::Classification => {
            let v2 = summary.dataset == "imagenetv2";
            equal(summary, "acc1", if v2 { 0.25 } else { 0.5 });
            equal(summary, "mean_per_class_recall", if v2 { 0.25 } else { 1.0 / 3.0 });
            equal(summary, "acc5", if v2 { 0.75 } else { 1.0 }); // the first five classes
        }
        // all similarities are equal, so ranks are positions
        Task::Retrieval => {
            equal(summary, "image_retrieval_recall@1", 1.0 / photos);
            equal(summary, "image_retrieval_recall@5", 1.0);
            equal(summary, "text_retrieval_recall@1", 1.0 / photos);
            equal(summary, "text_retrieval_recall@5", 1.0 / photos);
            equal(summary, "text_retrieval_recall@10", 2.0 / photos);
        }
        Task::Semantic => {
            // Context without background: column 0-19 is void, class 1 became class 0
            let reduced = summary.dataset == "context59";
            let (first, known, classes) = if reduced { (10.0, 18.0, 5.0) } else { (20.0, 38.0, 6.0) };
            equal(summary, "aacc", first / known);
            equal(summary, "miou", first / known / classes);
            equal(summary, "macc", 1.0 / classes);
        }
        // the whole photo for every class; VOC's background is not asked
        Task::ClassPrompted => {
            let (parts, known): (&[f64], f64) = match summary.dataset.as_str() {
                "voc" => (&[10.0, 8.0, 8.0, 8.0, 8.0], KNOWN),
                // the crowd over class 1 is void, what is no object is background; the third photo has no objects
                "coco_things" => (&[20.0, 8.0, 8.0, 8.0], 30.0 * 30.0),
                _ => (&[20.0, 10.0, 8.0, 8.0, 8.0, 8.0], KNOWN),
            };
            equal(summary, "miou", parts.iter().map(|p| p * 30.0 / known).sum::<f64>() / parts.len() as f64);
        }
        // a quarter of the photo is the object, all of it is predicted
        Task::Camouflage => {
            equal(summary, "mae", 0.75);
            equal(summary, "e_mean", 0.25 * 1200.0 / 1199.0);
            equal(summary, "e_adaptive", 0.25 * 1200.0 / 1199.0);
        }
        Task::Promptable => equal(summary, "miou@1_click", (20.0 + 10.0 + 8.0) / 40.0 / 3.0),
        Task::Instances => equal(summary, "AP", 0.0),
    }
}

#[test]
fn the_truth_scores_one_and_a_constant_its_analytic_value() {
    let dir = tempfile::tempdir().unwrap();
    miniature::all(dir.path());
    let mut seen = 0;
    for (_, protocol) in protocols().iter().filter(|(_, p)| !is_local(p.name())) {
        let AnyProtocol::Benchmark(benchmark) = protocol else { continue };
        oracle(&score(protocol, dir.path(), &Offline::Oracle), benchmark.task());
        constant(&score(protocol, dir.path(), &Offline::Constant), benchmark.task());
        seen += 1;
    }
    assert!(seen >= 30, "{seen} protocols");
}

#[test]
fn files_are_named_as_their_protocols() {
    for (path, protocol) in protocols() {
        assert_eq!(path.file_stem().unwrap().to_str(), Some(protocol.name()));
        assert!(samclip_data::NAMES.contains(&protocol.data().0) || ["coco", "lvis"].contains(&protocol.data().0));
    }
}

#[test]
fn the_development_data_pass_too() {
    let fallback = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let data = std::env::var_os("SAMCLIP_DATA").map_or_else(|| PathBuf::from(fallback), PathBuf::from);
    if !data.join("voc").exists() {
        println!("skipped: no development data at {}", data.display());
        return;
    }
    for (_, protocol) in protocols().iter().filter(|(_, p)| is_local(p.name())) {
        let AnyProtocol::Benchmark(benchmark) = protocol else { continue };
        let summary = score(protocol, &data, &Offline::Oracle);
        // several items share a name, so the truth's classes stay apart only where the whole map is scored
        oracle(&summary, benchmark.task());
        let constant = score(protocol, &data, &Offline::Constant);
        println!("{}: {} photos, constant {:?}", protocol.name(), summary.photos.scored, constant.value());
        if benchmark.task() == Task::Semantic {
            // class 0 everywhere: its share of the known pixels, over the classes that occur
            let set = samclip_data::open(&data, &benchmark.dataset, &benchmark.split).unwrap();
            let (mut first, mut known, mut seen) = (0u64, 0u64, [false; 256]);
            for i in 0..FEW {
                for v in set.labels(i).unwrap().unwrap().data.into_iter().filter(|v| *v != samclip_data::IGNORE) {
                    (first, known, seen[usize::from(v)]) = (first + u64::from(v == 0), known + 1, true);
                }
            }
            let classes = seen.iter().filter(|s| **s).count() as f64;
            equal(&constant, "miou", first as f64 / known as f64 / classes);
        }
    }
}
