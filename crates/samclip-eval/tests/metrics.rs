//! Every metric against its reference tool (fixtures/metrics/generate.py); `SAMCLIP_METRICS_LARGE` names a folder that
//! the script wrote with `--large`, and the same comparisons run on it.

use samclip_eval::metrics::boundary::{DILATION_RATIO, boundary};
use samclip_eval::metrics::camouflage::map_scores;
use samclip_eval::metrics::detection::{Rules, Shape, Truth, open_detections};
use samclip_eval::metrics::ranking::{best_rank, mean_per_class_recall, recall_at, top_k};
use samclip_data::label_pairs::reduced;
use samclip_eval::metrics::semantic::{Confusion, Pairs};
use samclip_image::rle;
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The committed fixtures, and the large ones where there are any.
fn folders() -> Vec<PathBuf> {
    let small = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/metrics"));
    std::iter::once(small).chain(std::env::var_os("SAMCLIP_METRICS_LARGE").map(PathBuf::from)).collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap()).collect()
}

fn indices(value: &Value) -> Vec<usize> {
    value.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as usize).collect()
}

fn precision(name: &str, rules: Rules) {
    for folder in folders() {
        let truth = Truth::open(&folder.join(format!("{name}_truth.json"))).unwrap();
        let found = open_detections(&folder.join(format!("{name}_results.json"))).unwrap();
        let expected = json(&folder.join(format!("{name}_expected.json")));
        for (shape, key) in [(Shape::Segm, "segm"), (Shape::Bbox, "bbox")] {
            let mut given = found.clone();
            if shape == Shape::Bbox {
                given.iter_mut().for_each(|d| d.segmentation = None);
            }
            let scored = truth.score(&given, rules, shape).unwrap();
            let wanted = expected[key].as_array().unwrap();
            assert_eq!(scored.metrics.len(), wanted.len(), "{:?}", scored.metrics);
            let mut worst = 0f64;
            for ((metric, value), pair) in scored.metrics.iter().zip(wanted) {
                assert_eq!(pair[0].as_str().unwrap(), metric);
                let wanted = pair[1].as_f64().unwrap();
                worst = worst.max((value - wanted).abs());
                assert!((value - wanted).abs() <= 1e-9, "{name} {key} {metric}: {value} and {wanted}");
            }
            println!("{name} {key}, {} results: max |Δ| {worst:e} over {} figures, AP {:.4}", given.len(), wanted.len(), scored.metrics[0].1);
            assert!(scored.metrics[0].1 > 0.05 && scored.metrics[0].1 < 0.95);
            let mean = scored.per_class.iter().map(|c| c.1).sum::<f64>() / scored.per_class.len() as f64;
            assert!((mean - scored.metrics[0].1).abs() < 1e-9, "AP is the mean over classes");
            assert_eq!(scored.curves.iter().map(Vec::len).collect::<Vec<_>>(), [101, 101]);
        }
    }
}

#[test]
fn coco_precision_is_pycocotools() {
    precision("coco", Rules::Coco);
}

#[test]
fn lvis_precision_is_lvis_apis() {
    precision("lvis", Rules::Lvis);
}

#[test]
fn foreground_maps_score_as_pysodmetrics() {
    for folder in folders() {
        let bytes = std::fs::read(folder.join("maps.bin")).unwrap();
        let (mut at, mut worst) = (0, [0f64; 6]);
        let expected = json(&folder.join("maps.json"));
        let count = expected.as_array().unwrap().len();
        for (i, case) in expected.as_array().unwrap().iter().enumerate() {
            let width = case["width"].as_u64().unwrap() as usize;
            let n = width * case["height"].as_u64().unwrap() as usize;
            let predicted = &bytes[at..at + n];
            let truth: Vec<bool> = bytes[at + n..at + 2 * n].iter().map(|v| *v > 128).collect();
            at += 2 * n;
            let scores = map_scores(predicted, &truth, width);
            let e = numbers(&case["e"]);
            let curve = scores.e.iter().zip(&e).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            let mean = (scores.e.iter().sum::<f64>() - e.iter().sum::<f64>()).abs() / 256.0;
            let differ = |value: f64, key: &str| (value - case[key].as_f64().unwrap()).abs();
            let own = [differ(scores.s, "s"), curve, mean, differ(scores.e_adaptive, "e_adaptive"), differ(scores.weighted_f, "weighted_f"), differ(scores.mae, "mae")];
            let limits = [1e-6, 1e-6, 1e-6, 1e-6, 1e-3, 1e-6];
            assert!(own.iter().zip(limits).all(|(d, l)| *d <= l), "map {i}: {own:?}, {scores:?}");
            worst.iter_mut().zip(own).for_each(|(w, d)| *w = w.max(d));
        }
        assert_eq!(at, bytes.len());
        println!("{count} maps: max |Δ| of S, E curve, mean E, adaptive E, weighted F, MAE: {worst:?}");
    }
}

#[test]
fn label_maps_score_as_mmseg() {
    for folder in folders() {
        let bytes = std::fs::read(folder.join("semantic.bin")).unwrap();
        let expected = json(&folder.join("semantic.json"));
        let sizes = expected["sizes"].as_array().unwrap();
        for (case, reduce) in [("plain", false), ("reduced", true)] {
            let wanted = &expected["cases"][case];
            let classes = wanted["classes"].as_u64().unwrap() as usize;
            let (mut sum, mut at) = (Confusion::new(classes), 0);
            for size in sizes {
                let n = size[0].as_u64().unwrap() as usize * size[1].as_u64().unwrap() as usize;
                let (predicted, mut truth) = (&bytes[at..at + n], bytes[at + n..at + 2 * n].to_vec());
                at += 2 * n;
                if reduce {
                    let recode = reduced(classes);
                    truth.iter_mut().for_each(|v| *v = recode[usize::from(*v)].expect("a value of the set"));
                }
                sum.add(&Pairs::of(predicted, &truth, 255));
            }
            for c in 0..classes {
                let areas = [sum.at(c, c), sum.predicted(c), sum.truth(c)];
                let given = ["intersect", "predicted", "label"].map(|key| wanted[key][c].as_f64().unwrap() as u64);
                // mmseg's histogram of the prediction also counts values that are no class as none: equal areas
                assert_eq!(areas, given, "class {c} of {case}");
                assert_eq!(sum.iou(c), wanted["iou"][c].as_f64(), "class {c} of {case}");
                assert_eq!(sum.accuracy(c), wanted["acc"][c].as_f64());
            }
            let close = |a: Option<f64>, key: &str| (a.unwrap() - wanted[key].as_f64().unwrap()).abs() < 1e-15;
            assert!(close(sum.miou(), "miou") && close(sum.aacc(), "aacc") && close(sum.macc(), "macc"), "{case}");
            println!("{} label maps, {case}: equal areas and IoU of {classes} classes, mIoU {:.6}", sizes.len(), sum.miou().unwrap());
        }
    }
}

#[test]
fn ranks_are_numpys() {
    for folder in folders() {
        let case = json(&folder.join("ranking.json"));
        let rows = |key: &str| case[key].as_array().unwrap().iter().map(|r| numbers(r).iter().map(|v| *v as f32).collect()).collect::<Vec<Vec<f32>>>();
        let positives: Vec<Vec<usize>> = case["positives"].as_array().unwrap().iter().map(indices).collect();
        let scores = rows("scores");
        let ranks: Vec<Option<usize>> = scores.iter().zip(&positives).map(|(s, p)| best_rank(s, p)).collect();
        assert_eq!(ranks.iter().map(|r| r.unwrap()).collect::<Vec<_>>(), indices(&case["ranks"]));
        for k in [1, 5, 10] {
            assert_eq!(recall_at(&ranks, k), case["recall"][k.to_string()].as_f64());
        }
        let (logits, labels) = (rows("logits"), indices(&case["labels"]));
        let top: Vec<Vec<usize>> = logits.iter().map(|l| top_k(l, 5)).collect();
        assert_eq!(top, case["top5"].as_array().unwrap().iter().map(indices).collect::<Vec<_>>());
        let share = |k: usize| top.iter().zip(&labels).filter(|(t, l)| t[..k].contains(l)).count() as f64 / labels.len() as f64;
        assert_eq!((Some(share(1)), Some(share(5))), (case["acc1"].as_f64(), case["acc5"].as_f64()));
        let recall = mean_per_class_recall(top.iter().zip(&labels).map(|(t, l)| (*l, t[0] == *l))).unwrap();
        assert!((recall - case["mean_per_class_recall"].as_f64().unwrap()).abs() < 1e-15);
        println!("{} queries: equal ranks, R@1 {:?}", ranks.len(), recall_at(&ranks, 1));
    }
}

#[test]
fn bands_are_opencvs() {
    for folder in folders() {
        let cases = json(&folder.join("boundary.json"));
        for case in cases.as_array().unwrap() {
            let mask = |key: &str| {
                let size = indices(&case[key]["size"]);
                rle::decode(&rle::from_coco_string(case[key]["counts"].as_str().unwrap(), [size[0], size[1]]).unwrap())
            };
            assert_eq!(boundary(&mask("mask"), DILATION_RATIO), mask("band"));
        }
        println!("{} bands: equal", cases.as_array().unwrap().len());
    }
}
