//! A run's folder: `protocol.toml`, `records-*.jsonl`, and when all photos are measured `report.json`, `report.md`,
//! `cost.json`, `confusion.csv`, plots, `worst/`. Every file appears whole or not at all.

use crate::answers::Answers;
use crate::cost::Cost;
use crate::driver::{AnyReport, Job};
use crate::pictures::side_by_side;
use crate::plots::svg;
use crate::summary::Summary;
use crate::EvalError;
use samclip_image::{write_atomic, write_png_rgb};
use std::path::Path;

impl AnyReport {
    /// Indented JSON.
    pub fn to_json(&self) -> String {
        match self {
            Self::Objects(report) => report.to_json(),
            Self::Benchmark(summary) => summary.to_json(),
        }
    }

    /// Markdown.
    pub fn to_markdown(&self) -> String {
        match self {
            Self::Objects(report) => report.to_markdown(),
            Self::Benchmark(summary) => summary.to_markdown(),
        }
    }

    /// The photos with the lowest scores, the lowest first.
    pub fn worst(&self) -> &[(String, f64)] {
        match self {
            Self::Objects(report) => &report.worst,
            Self::Benchmark(summary) => &summary.worst,
        }
    }

    /// True if floors are reached and every truth could be read.
    pub fn clean(&self) -> bool {
        match self {
            Self::Objects(report) => report.reached() && report.failures.is_empty(),
            Self::Benchmark(summary) => summary.failures.is_empty(),
        }
    }
}

/// Where a shard says what it cost.
pub fn cost_name((i, n): (usize, usize)) -> String {
    format!("cost-{i}of{n}.json")
}

/// Writes what a shard cost, for the merge.
///
/// # Errors
/// A folder that cannot be written.
pub fn write_cost(folder: &Path, shard: (usize, usize), cost: &Cost) -> Result<(), EvalError> {
    put(&folder.join(cost_name(shard)), &to_json(cost))
}

fn to_json(cost: &Cost) -> String {
    serde_json::to_string_pretty(cost).map_or_else(|_| String::new(), |t| t + "\n")
}

fn put(path: &Path, text: &str) -> Result<(), EvalError> {
    write_atomic(path, text.as_bytes()).map_err(|e| EvalError::Records { message: e.to_string(), path: path.to_owned() })
}

/// Writes the report of a whole run.
///
/// # Errors
/// A folder that cannot be written.
pub fn write(folder: &Path, job: &Job, report: &AnyReport, cost: &Cost) -> Result<(), EvalError> {
    std::fs::create_dir_all(folder).map_err(|e| EvalError::Records { message: e.to_string(), path: folder.to_owned() })?;
    put(&folder.join("protocol.toml"), &job.protocol().to_toml())?;
    put(&folder.join("report.json"), &report.to_json())?;
    put(&folder.join("report.md"), &report.to_markdown())?;
    put(&folder.join("cost.json"), &to_json(cost))?;
    if let (AnyReport::Benchmark(summary), Job::Benchmark(case)) = (report, job) {
        if let Some(csv) = summary.matrix_csv(case.classes()) {
            put(&folder.join("confusion.csv"), &csv)?;
        }
        write_plots(folder, summary)?;
    }
    Ok(())
}

fn write_plots(folder: &Path, summary: &Summary) -> Result<(), EvalError> {
    for curve in &summary.curves {
        let title = format!("{}: {}", summary.protocol, summary.model);
        put(&folder.join(format!("{}.svg", curve.name)), &svg(&title, curve).map_err(EvalError::Mismatch)?)?;
    }
    Ok(())
}

/// Draws the worst photos of a run into `folder/worst`.
///
/// # Errors
/// A folder that cannot be written, an answer that fails.
pub fn write_worst(folder: &Path, job: &Job, report: &AnyReport, answers: Answers<'_>) -> Result<(), EvalError> {
    let worst = folder.join("worst");
    for (rank, (id, _)) in report.worst().iter().enumerate() {
        let Some(index) = (0..job.len()).find(|i| job.id(*i) == *id) else { continue };
        let picture = match side_by_side(job, answers, index) {
            Ok(Some(picture)) => picture,
            Ok(None) | Err(EvalError::Data(_)) => return Ok(()), // no masks, or label maps without their photos
            Err(error) => return Err(error),
        };
        let failed = |e: String| EvalError::Records { message: e, path: worst.clone() };
        std::fs::create_dir_all(&worst).map_err(|e| failed(e.to_string()))?;
        let name = format!("{:02}_{}.png", rank + 1, id.replace('/', "_"));
        write_png_rgb(&worst.join(name), &picture).map_err(|e| failed(e.to_string()))?;
    }
    Ok(())
}
