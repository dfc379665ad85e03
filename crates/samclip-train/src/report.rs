//! What steps report, and their means for the log.

use crate::error::TrainError;
use crate::run_log::Line;
use crate::world::World;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What one step reports.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// Weighted sum of all terms.
    pub loss: f32,
    /// Unweighted terms by `task/objective/term`.
    pub losses: Vec<(String, f32)>,
    /// Learning rate.
    pub lr: f32,
    /// Norm of the gradient before clipping.
    pub grad_norm: f32,
    /// Images of all tasks.
    pub images: usize,
    /// Unreadable photos that this session has skipped.
    pub skipped: usize,
}

/// What one process saw in a step.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Told {
    /// (`task/objective/term`, value, its part of the loss).
    pub terms: Vec<(String, f32, f32)>,
    pub images: usize,
    pub skipped: usize,
}

impl Told {
    /// What all processes saw, in their order, without rates and norms.
    pub fn of_all(self, world: &mut World) -> Result<StepReport, TrainError> {
        let bad = |error: serde_json::Error| TrainError::World(format!("a process sent no report: {error}"));
        let mut report = StepReport::default();
        for bytes in world.gather(serde_json::to_vec(&self).map_err(bad)?) {
            let told: Self = serde_json::from_slice(&bytes).map_err(bad)?;
            report.images += told.images;
            report.skipped += told.skipped;
            for (name, value, part) in told.terms {
                report.loss += part;
                report.losses.push((name, value));
            }
        }
        Ok(report)
    }
}

/// Means between two lines of the log.
#[derive(Default)]
pub(crate) struct Means {
    sums: BTreeMap<String, (f32, f32)>,
    loss: f32,
    steps: f32,
    images: usize,
    /// Seconds of the steps so far.
    pub seconds: f64,
    last: StepReport,
}

impl Means {
    pub fn add(&mut self, report: StepReport) {
        for (name, value) in &report.losses {
            let sum = self.sums.entry(name.clone()).or_default();
            sum.0 += value;
            sum.1 += 1.0;
        }
        self.loss += report.loss;
        self.steps += 1.0;
        self.images += report.images;
        self.last = report;
    }

    pub fn line(&self, step: usize, steps: usize, seconds: f64) -> Line {
        Line {
            step,
            steps,
            losses: self.sums.iter().map(|(name, (sum, n))| (name.clone(), sum / n)).collect(),
            loss: self.loss / self.steps,
            lr: self.last.lr,
            grad_norm: self.last.grad_norm,
            images_per_second: (self.images as f64 / self.seconds.max(1e-9)) as f32,
            seconds,
            skipped: self.last.skipped,
        }
    }
}
