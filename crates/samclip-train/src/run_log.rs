//! The run log: `log.jsonl`, one object per line, and the same as TensorBoard events.

use crate::error::TrainError;
use crate::events::Events;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

/// Means over the steps since the last line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// Steps done.
    pub step: usize,
    /// Steps in all.
    pub steps: usize,
    /// Unweighted losses by `task/objective/term`.
    pub losses: BTreeMap<String, f32>,
    /// Weighted sum of all of them.
    pub loss: f32,
    /// Learning rate of the last step.
    pub lr: f32,
    /// Norm of the gradient before clipping, last step.
    pub grad_norm: f32,
    /// Throughput.
    pub images_per_second: f32,
    /// Seconds of training so far, over all its sessions.
    pub seconds: f64,
    /// Unreadable photos that this session has skipped.
    #[serde(default)]
    pub skipped: usize,
}

/// An open log.
pub struct RunLog {
    path: PathBuf,
    file: File,
    events: Events,
    lines: Vec<Line>,
}

impl RunLog {
    /// Opens the log of a run directory and drops lines after `step`: they belong to
    /// steps that will be done again.
    pub fn open(run: &Path, step: usize) -> Result<Self, TrainError> {
        let path = run.join("log.jsonl");
        let mut kept = Vec::new();
        if path.exists() {
            kept = read(&path)?.into_iter().filter(|l| l.step <= step).collect::<Vec<Line>>();
            let lines: Vec<String> = kept.iter().filter_map(|l| serde_json::to_string(l).ok()).collect();
            let temporary = path.with_extension("jsonl.tmp");
            let text: String = lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect();
            std::fs::write(&temporary, text).map_err(TrainError::io(&temporary))?;
            std::fs::rename(&temporary, &path).map_err(TrainError::io(&path))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(&path).map_err(TrainError::io(&path))?;
        let events = Events::open(run, &kept)?;
        Ok(Self { path, file, events, lines: kept })
    }

    /// All lines of the run so far.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// Appends a line.
    pub fn write(&mut self, line: &Line) -> Result<(), TrainError> {
        let text = serde_json::to_string(line).unwrap_or_default();
        writeln!(self.file, "{text}").map_err(TrainError::io(&self.path))?;
        self.lines.push(line.clone());
        self.events.write(line)
    }
}

/// Reads a log; a torn last line is left out.
pub fn read(path: &Path) -> Result<Vec<Line>, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
}

/// The loss curve as text, at most `columns` points and `rows` lines.
pub fn curve(lines: &[Line], columns: usize, rows: usize) -> String {
    if lines.is_empty() || columns == 0 || rows == 0 {
        return String::new();
    }
    let per = lines.len().div_ceil(columns);
    let points: Vec<f32> = lines
        .chunks(per)
        .map(|chunk| chunk.iter().map(|l| l.loss).sum::<f32>() / chunk.len() as f32)
        .collect();
    let (low, high) = points.iter().fold((f32::MAX, f32::MIN), |(a, b), &p| (a.min(p), b.max(p)));
    let span = (high - low).max(f32::EPSILON);
    let level = |p: f32| ((p - low) / span * (rows - 1) as f32).round() as usize;
    let mut text = String::new();
    for row in (0..rows).rev() {
        let value = low + span * row as f32 / (rows - 1).max(1) as f32;
        let bar: String = points.iter().map(|&p| if level(p) == row { '*' } else { ' ' }).collect();
        text.push_str(&format!("{value:9.3} |{}\n", bar.trim_end()));
    }
    text.push_str(&format!("{:>9} +{}\n", "loss", "-".repeat(points.len())));
    let last = lines.last().map_or(0, |l| l.step);
    text.push_str(&format!("{:>11}steps {} to {last}\n", "", lines[0].step));
    text
}
