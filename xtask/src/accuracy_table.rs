//! The accuracy tables of BENCHMARKS.md, from the newest run of benches/accuracy.py for each best tier.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

/// How such files end.
pub const SUFFIX: &str = "_accuracy.json";

/// One file of benches/runs.
#[derive(Deserialize)]
struct Run {
    date: String,
    command: String,
    torch: String,
    /// Runs of old do not say.
    #[serde(default)]
    cpu: String,
    rows: Vec<Row>,
    trained: Option<Trained>,
}

#[derive(Deserialize)]
struct Row {
    isa: String,
    precision: String,
    photos: usize,
    relative_l2_median: f64,
    relative_l2_max: f64,
    /// Over the photos, of the worst of three masks.
    mask_iou_mean: Option<f64>,
    mask_iou_median: f64,
    mask_iou_min: f64,
}

/// Masks of the embedded model in bf16 against its own in f32.
#[derive(Deserialize)]
struct Trained {
    model: String,
    photos: usize,
    /// Of the mask that is the answer.
    best_median: f64,
    best_min: f64,
    /// Of the farthest of three.
    all_median: f64,
    all_min: f64,
}

/// The section, or a word that there is none yet.
pub fn section(runs: &Path) -> Result<String> {
    let mut text = "\n## Accuracy of each tier\n".to_owned();
    let files = crate::tidy::sorted_dir(runs)?;
    let mut newest = BTreeMap::<String, Run>::new();
    for path in files.iter().filter(|p| p.to_string_lossy().ends_with(SUFFIX)) {
        let run: Run = serde_json::from_str(&fs::read_to_string(path)?)
            .with_context(|| format!("does not parse: {}", path.display()))?;
        let best = run.rows.first().map_or(String::new(), |row| row.isa.clone());
        newest.insert(best, run);
    }
    if newest.is_empty() {
        return Ok(text + "\nNot measured.\n");
    }
    let mut runs: Vec<_> = newest.into_values().collect();
    runs.sort_by(|a, b| b.date.cmp(&a.date));
    for run in runs {
        text += &one(run)?;
    }
    Ok(text)
}

fn one(run: Run) -> Result<String> {
    let cpu = if run.cpu.is_empty() { "" } else { &format!(", {}", run.cpu) };
    let mut text = format!(
        "\n{}{cpu}, `{}`: SAM ViT-B with seeded weights against PyTorch {} in f32. Relative L2 distance of the image \
         embedding; IoU of the worst of the three masks of one click. f32 tiers should stay below 1e-4, bf16 masks above \
         0.99.\n\n| tier | products | photos | relative L2, median | largest | mask IoU, mean | median | smallest |\n\
         |---|---|---|---|---|---|---|---|\n",
        run.date, run.command, run.torch
    );
    for r in run.rows {
        let mean = r.mask_iou_mean.map_or_else(|| "not kept".to_owned(), |v| format!("{v:.5}"));
        writeln!(
            text,
            "| {} | {} | {} | {:.2e} | {:.2e} | {mean} | {:.5} | {:.5} |",
            r.isa, r.precision, r.photos, r.relative_l2_median, r.relative_l2_max, r.mask_iou_median, r.mask_iou_min
        )?;
    }
    if let Some(t) = run.trained {
        writeln!(
            text,
            "\nTrained weights (`{}`, the same photos and clicks, bf16 against f32): IoU of the best mask {:.4} in the \
             median of {} photos, {:.4} at least; of the farthest of the three masks {:.4} and {:.4}.",
            t.model, t.best_median, t.photos, t.best_min, t.all_median, t.all_min
        )?;
    }
    Ok(text)
}
