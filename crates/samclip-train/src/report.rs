//! What steps report, and their means for the log.

use crate::run_log::Line;
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
