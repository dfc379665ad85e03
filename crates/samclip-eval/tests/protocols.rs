//! Every file under protocols/ on its published layout in miniature: the truth as the answer scores 1, and a constant scores
//! what is worked out by hand below. A protocol for which nothing is worked out fails. Then the truth once more on our
//! development data, where they are at hand.

use samclip_eval::answers::Offline;
use samclip_eval::benchmark::{AnyProtocol, Task};
use samclip_eval::driver::{AnyReport, Job, Run, ask_offline};
use samclip_eval::metrics::camouflage::map_scores;
use samclip_eval::metrics::detection::Rules;
use samclip_eval::records::Header;
use samclip_eval::report::Report;
use samclip_eval::summary::Summary;
use samclip_testkit::miniature::{self, HEIGHT, KNOWN, WIDTH};
use std::path::{Path, PathBuf};

fn protocols() -> Vec<(PathBuf, AnyProtocol)> {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../protocols"));
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|f| (f.clone(), AnyProtocol::open(&f).unwrap())).collect()
}

/// A protocol of our development data.
fn is_local(name: &str) -> bool {
    ["voc_subset", "ccp_dev", "camvid_dev", "bsds_sa1b", "imagenet_sample", "flickr8k_sample", "clip_guided_voc"].iter().any(|p| name.starts_with(p))
}

/// Photos of the development data: enough for a test.
const FEW: usize = 12;

fn score(protocol: &AnyProtocol, data: &Path, offline: &Offline, limit: Option<usize>) -> AnyReport {
    let job = Job::open(protocol.clone(), data).unwrap_or_else(|e| panic!("{}: {e}", protocol.name()));
    let answers = if matches!(offline, Offline::Oracle) { "oracle" } else { "constant" };
    let header = Header {
        samclip_records: 1,
        protocol: protocol.to_toml(),
        model: "none".into(),
        weights: "-".into(),
        answers: answers.into(),
        in_split: job.len(),
        limit,
        texts: true,
    };
    let mut runs = [Run::open(job, header, None, (0, 1)).unwrap()];
    ask_offline(&mut runs, offline, (0, 1), &mut |_, _| {}).unwrap_or_else(|e| panic!("{}: {e}", protocol.name()));
    runs[0].report().unwrap()
}

fn value(summary: &Summary, metric: &str) -> f64 {
    summary.metrics.get(metric).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("{}: no {metric}", summary.protocol))
}

#[track_caller]
fn near(what: &str, found: f64, wanted: f64) {
    assert!((found - wanted).abs() < 1e-9, "{what}: {found}, expected {wanted}");
}

#[track_caller]
fn equal(summary: &Summary, metric: &str, wanted: f64) {
    near(&format!("{}: {metric}", summary.protocol), value(summary, metric), wanted);
}

/// The truth as the answer.
fn oracle(summary: &Summary, task: Task) {
    assert_eq!(summary.failures, []);
    assert_eq!(summary.photos.scored + summary.photos.not_asked, summary.photos.run);
    assert!(summary.photos.scored > 0);
    let ones: &[&str] = match task {
        Task::Classification | Task::LinearProbing => &["acc1", "acc5", "mean_per_class_recall"],
        Task::Retrieval => &["image_retrieval_recall@1", "text_retrieval_recall@1", "text_retrieval_recall@10"],
        Task::Semantic | Task::HeadProbing => &["miou", "aacc", "macc"],
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

/// A constant answer on the miniatures: see their columns in `samclip_testkit::miniature`. Every data set is named.
fn constant(summary: &Summary, task: Task, rules: Option<Rules>) {
    let photos = summary.photos.in_split as f64;
    match (task, summary.dataset.as_str()) {
        // photos have the classes 0, 1, 2, 0 and the answer is the first five classes
        (Task::Classification | Task::LinearProbing, "imagenet" | "places365" | "wds") => {
            classified(summary, 0.5, 1.0 / 3.0, 1.0);
        }
        (Task::Classification, "imagenet_sample") => classified(summary, 0.5, 1.0 / 3.0, 1.0),
        (Task::Classification, "imagenetv2") => classified(summary, 0.25, 0.25, 0.75), // 0, 1, 2, 10
        (Task::LinearProbing, "imagenet_sample") => classified(summary, 1.0 / 3.0, 1.0 / 3.0, 1.0), // one photo of each
        // all similarities are equal, so ranks are positions
        (Task::Retrieval, "flickr30k" | "coco_captions" | "flickr8k") => {
            equal(summary, "image_retrieval_recall@1", 1.0 / photos);
            equal(summary, "image_retrieval_recall@5", 1.0);
            equal(summary, "text_retrieval_recall@1", 1.0 / photos);
            equal(summary, "text_retrieval_recall@5", 1.0 / photos);
            equal(summary, "text_retrieval_recall@10", 2.0 / photos);
        }
        (Task::Semantic | Task::HeadProbing, set) => labelled(summary, set),
        (Task::ClassPrompted, set) => prompted(summary, set),
        (Task::Camouflage, "cod") => {
            let wanted = ConstantMap::new(255);
            equal(summary, "s_measure", wanted.s);
            ["e_mean", "e_max", "e_adaptive"].iter().for_each(|metric| equal(summary, metric, wanted.e));
            equal(summary, "weighted_f", wanted.weighted_f);
            equal(summary, "mae", wanted.mae);
        }
        (Task::Promptable, set) => clicked(summary, set),
        (Task::Instances, "coco" | "lvis") => whole_photos(summary, rules.unwrap()),
        (task, set) => panic!("{}: nothing is worked out for a constant under {task:?} on {set}", summary.protocol),
    }
}

fn classified(summary: &Summary, acc1: f64, recall: f64, acc5: f64) {
    equal(summary, "acc1", acc1);
    equal(summary, "mean_per_class_recall", recall);
    equal(summary, "acc5", acc5);
}

/// Class 0 everywhere.
fn labelled(summary: &Summary, set: &str) {
    let (first, known, classes) = match set {
        "voc" | "voc_aug" | "ade20k" | "coco_stuff" | "coco_panoptic" | "context60" | "ccp" | "camvid" => (20.0, 38.0, 6.0),
        "context59" => (10.0, 18.0, 5.0), // columns 0-19 are void, class 1 became class 0
        _ => panic!("{}: nothing is worked out for {set}", summary.protocol),
    };
    equal(summary, "aacc", first / known);
    equal(summary, "miou", first / known / classes);
    equal(summary, "macc", 1.0 / classes);
}

/// The whole photo for every class that is asked; a background is not.
fn prompted(summary: &Summary, set: &str) {
    let (parts, known): (&[f64], f64) = match set {
        "voc" | "ccp" => (&[10.0, 8.0, 8.0, 8.0, 8.0], KNOWN),
        // the crowd over class 1 is void, what is no object is background; the third photo has no objects
        "coco_things" => (&[20.0, 8.0, 8.0, 8.0], 30.0 * 30.0),
        "ade20k" => (&[20.0, 10.0, 8.0, 8.0, 8.0, 8.0], KNOWN),
        _ => panic!("{}: nothing is worked out for {set}", summary.protocol),
    };
    let miou = parts.iter().map(|p| p * 30.0 / known).sum::<f64>() / parts.len() as f64;
    ["miou", "miou_summed", "miou_per_image"].iter().for_each(|metric| equal(summary, metric, miou));
}

/// The whole photo for every object. Bands are one pixel wide (2 % of the diagonal of 50): the photo's has 136 pixels, an
/// object of w columns 2 w + 2 * 28, of which its ends (and the first object's left side) lie in the photo's.
fn clicked(summary: &Summary, set: &str) {
    let (iou, band) = match set {
        "coco" | "lvis" | "bsds_sa1b" => {
            let bands = 68.0 / (136.0 + 96.0 - 68.0) + 20.0 / (136.0 + 76.0 - 20.0) + 16.0 / (136.0 + 72.0 - 16.0);
            ((20.0 + 10.0 + 8.0) / 40.0 / 3.0, bands / 3.0)
        }
        // columns 38 and 39 are void, 32 pixels of the photo's band; the background is no object
        "voc" => ((10.0 + 8.0) / 38.0 / 2.0, (20.0 / (104.0 + 76.0 - 20.0) + 16.0 / (104.0 + 72.0 - 16.0)) / 2.0),
        _ => panic!("{}: nothing is worked out for {set}", summary.protocol),
    };
    equal(summary, "box_miou", iou);
    equal(summary, "box_boundary_iou", band);
    equal(summary, "miou@1_click", iou);
    equal(summary, "miou@9_clicks", iou);
}

/// The whole photo as an object of every category, all of one score. Class 0 covers half of its photos: found at IoU 0.5
/// alone, one of ten thresholds; the others cover a quarter or less. Five categories have objects.
fn whole_photos(summary: &Summary, rules: Rules) {
    // class 0 is on the photos 7, 8 and 10: right, right, wrong on photo 9, right. Precision is 1 up to recall 2/3 (67 of 101
    // points), then 3/4. LVIS leaves photo 9 out: it is not said whether class 0 is there.
    let ap50 = if rules == Rules::Coco { (67.0 + 34.0 * 0.75) / 101.0 } else { 1.0 };
    equal(summary, "AP50", ap50 / 5.0);
    equal(summary, "AP75", 0.0);
    equal(summary, "AP", ap50 / 10.0 / 5.0);
    if rules == Rules::Lvis {
        // frequent: 0, 3; common: 1; rare: 2, 5
        equal(summary, "APf", 0.1 / 2.0);
        equal(summary, "APc", 0.0);
        equal(summary, "APr", 0.0);
    }
}

/// Scores of one grey value everywhere, worked out for the miniature's object: columns 20-29 of 40, 30 rows, a quarter.
struct ConstantMap {
    s: f64,
    e: f64,
    weighted_f: f64,
    mae: f64,
}

impl ConstantMap {
    fn new(grey: u8) -> Self {
        let v = f64::from(grey) / 255.0;
        // S: two objects of one value each; every quarter about the centroid (25, 15) holds object and background, where a
        // constant has no covariance: structure 0
        let part = |x: f64| 2.0 * x / (x * x + 1.0);
        let s = 0.5 * (0.25 * part(v) + 0.75 * part(1.0 - v));
        // E: all or nothing is predicted, so alignment is 0 everywhere: a quarter of the pixels, over n - 1
        let e = 0.25 * 1200.0 / 1199.0;
        // weighted F: the Gaussian (7 rows, sigma 5) takes zeros from beyond the photo, so the error of 1 - v on the object
        // shrinks in its three first and last rows; beside it the error v weighs 2 - 0.5^(distance / 5)
        let k: Vec<f64> = (0..4).map(|i| (-f64::from(i * i) / 50.0).exp()).collect();
        let sum = k[0] + 2.0 * (k[1] + k[2] + k[3]);
        let lost = 10.0 * 2.0 * (k[1] + 2.0 * k[2] + 3.0 * k[3]) / sum;
        let hit = 300.0 - (1.0 - v) * (300.0 - lost);
        let far = |n: i32| (1..=n).map(|d| 2.0 - 0.5f64.powf(f64::from(d) / 5.0)).sum::<f64>();
        let off = v * 30.0 * (far(20) + far(10));
        let (recall, precision) = (hit / 300.0, hit / (hit + off));
        let weighted_f = 2.0 * recall * precision / (recall + precision);
        Self { s, e, weighted_f, mae: 0.75 * v + 0.25 * (1.0 - v) }
    }
}

#[test]
fn black_white_and_grey_maps_score_as_worked_out() {
    let truth = miniature::mask(0, 1).data;
    for grey in [0, 128, 255] {
        let found = map_scores(&vec![grey; WIDTH * HEIGHT], &truth, WIDTH);
        let wanted = ConstantMap::new(grey);
        near(&format!("S of {grey}"), found.s, wanted.s);
        found.e.iter().for_each(|e| near(&format!("E of {grey}"), *e, wanted.e));
        near(&format!("adaptive E of {grey}"), found.e_adaptive, wanted.e);
        near(&format!("weighted F of {grey}"), found.weighted_f, wanted.weighted_f);
        near(&format!("MAE of {grey}"), found.mae, wanted.mae);
    }
}

fn figures(report: &Report) -> [Option<f64>; 4] {
    let value = |f: &Option<samclip_eval::report::Figure>| f.as_ref().map(|f| f.value);
    [value(&report.r#box), value(&report.click), report.text_mean_all, value(&report.classify)]
}

/// Prompts and names: the truth, then the whole photo for everything and the first name.
fn objects(protocol: &AnyProtocol, data: &Path) {
    let report = |offline: &Offline| match score(protocol, data, offline, None) {
        AnyReport::Objects(report) => report,
        AnyReport::Benchmark(_) => panic!("{} is not of this kind", protocol.name()),
    };
    assert_eq!(protocol.data().0, "voc", "{}: nothing is worked out for another set", protocol.name());
    let truth = report(&Offline::Oracle);
    figures(&truth).iter().flatten().for_each(|v| near(protocol.name(), *v, 1.0));
    assert_eq!(figures(&truth).iter().flatten().count(), 4, "{}", protocol.name());
    // objects are classes 1 and 2 + k, the first name is class 1's, which every photo has
    let parts = [(10.0 + 8.0) / 38.0 / 2.0, (10.0 + 8.0) / 38.0 / 2.0, (10.0 + 4.0 * 8.0) / 38.0 / 5.0, 1.0];
    for (found, wanted) in figures(&report(&Offline::Constant)).into_iter().zip(parts) {
        near(protocol.name(), found.unwrap(), wanted);
    }
}

#[test]
fn every_protocol_gives_one_for_the_truth_and_what_is_worked_out_for_a_constant() {
    let dir = tempfile::tempdir().unwrap();
    miniature::all(dir.path());
    for (_, protocol) in protocols() {
        let AnyProtocol::Benchmark(benchmark) = &protocol else {
            objects(&protocol, dir.path());
            continue;
        };
        let summary = |offline: &Offline| match score(&protocol, dir.path(), offline, None) {
            AnyReport::Benchmark(summary) => summary,
            AnyReport::Objects(_) => panic!("{} is not of this kind", protocol.name()),
        };
        oracle(&summary(&Offline::Oracle), benchmark.task());
        constant(&summary(&Offline::Constant), benchmark.task(), benchmark.instances.map(|i| i.rules));
    }
}

#[test]
fn files_are_named_as_their_protocols() {
    for (path, protocol) in protocols() {
        assert_eq!(path.file_stem().unwrap().to_str(), Some(protocol.name()));
        assert!(samclip_data::NAMES.contains(&protocol.data().0) || samclip_data::instances::NAMES.contains(&protocol.data().0));
    }
}

#[test]
fn the_truth_scores_one_on_the_development_data() {
    let Some(data) = samclip_testkit::data() else { return };
    for (_, protocol) in protocols().iter().filter(|(_, p)| is_local(p.name())) {
        match (score(protocol, &data, &Offline::Oracle, Some(FEW)), protocol) {
            (AnyReport::Benchmark(summary), AnyProtocol::Benchmark(benchmark)) => oracle(&summary, benchmark.task()),
            (AnyReport::Objects(report), _) => figures(&report)[..2].iter().flatten().for_each(|v| near(protocol.name(), *v, 1.0)),
            _ => unreachable!("a benchmark's report is a summary"),
        }
    }
}
