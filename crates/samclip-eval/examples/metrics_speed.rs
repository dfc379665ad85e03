//! Times the metrics on the files that `fixtures/metrics/generate.py --large DIR` writes; `fixtures/metrics/speed.py` runs
//! this beside the reference tools.
//!
//! cargo run --release --workspace --example metrics_speed -- DIR ROUNDS
//! Prints JSON: processor seconds (user and system, all threads; wall seconds where the system does not say) of a round of
//! each metric, so that other work on the machine does not count.

use samclip_eval::metrics::camouflage::map_scores;
use samclip_eval::metrics::detection::{Rules, Shape, Truth, open_detections};
use samclip_eval::metrics::semantic::{Confusion, Pairs};
use samclip_predict::bench::system::cpu_seconds;
use serde_json::{Value, json};
use std::path::Path;
use std::time::Instant;

/// Mean seconds of a round.
fn mean(rounds: usize, mut work: impl FnMut()) -> f64 {
    let (wall, cpu) = (Instant::now(), cpu_seconds());
    (0..rounds).for_each(|_| work());
    let spent = cpu.and_then(|before| Some(cpu_seconds()? - before));
    spent.unwrap_or_else(|| wall.elapsed().as_secs_f64()) / rounds as f64
}

fn read(path: &Path) -> Result<Value, Box<dyn std::error::Error>> {
    Ok(serde_json::from_str(&std::fs::read_to_string(path)?)?)
}

fn side(value: &Value) -> usize {
    value.as_u64().unwrap_or(0) as usize
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(folder), Some(rounds)) = (args.next(), args.next()) else { return Err("expected DIR ROUNDS".into()) };
    let (folder, rounds) = (Path::new(&folder), rounds.parse()?);
    rayon::ThreadPoolBuilder::new().num_threads(1).build_global()?;

    let bytes = std::fs::read(folder.join("semantic.bin"))?;
    let sizes = read(&folder.join("semantic.json"))?["sizes"].clone();
    let sizes: Vec<usize> = sizes.as_array().into_iter().flatten().map(|s| side(&s[0]) * side(&s[1])).collect();
    let semantic = mean(rounds, || {
        let (mut sum, mut at) = (Confusion::new(21), 0);
        for n in &sizes {
            sum.add(&Pairs::of(&bytes[at..at + n], &bytes[at + n..at + 2 * n], 255));
            at += 2 * n;
        }
        std::hint::black_box(sum.miou());
    });

    let bytes = std::fs::read(folder.join("maps.bin"))?;
    let maps = read(&folder.join("maps.json"))?;
    let maps: Vec<(usize, usize)> = maps.as_array().into_iter().flatten().map(|m| (side(&m["width"]), side(&m["height"]))).collect();
    let camouflage = mean(rounds, || {
        let mut at = 0;
        for (w, h) in &maps {
            let n = w * h;
            let truth: Vec<bool> = bytes[at + n..at + 2 * n].iter().map(|v| *v > 128).collect();
            std::hint::black_box(map_scores(&bytes[at..at + n], &truth, *w));
            at += 2 * n;
        }
    });

    let truth = Truth::open(&folder.join("coco_truth.json"))?;
    let found = open_detections(&folder.join("coco_results.json"))?;
    let mut failed = None;
    let coco = mean(rounds, || {
        if let Err(e) = truth.score(&found, Rules::Coco, Shape::Segm) {
            failed = Some(e);
        }
    });
    if let Some(error) = failed {
        return Err(error.into());
    }
    println!("{}", json!({"miou": semantic, "camouflage": camouflage, "coco_ap": coco, "label_maps": sizes.len(), "maps": maps.len(), "detections": found.len()}));
    Ok(())
}
