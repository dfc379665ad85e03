//! Readings of single runs, and what is said about several.

use super::{Bench, Details};
use crate::error::PredictError;

pub(super) fn gflops(multiply_adds: u64, seconds: f64) -> f64 {
    2.0 * multiply_adds as f64 / seconds / 1e9
}

/// One run.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Reading {
    /// Wall time.
    pub seconds: f64,
    /// Of all threads together: stays meaningful on a busy machine. Counted in steps of 10 ms.
    pub cpu_seconds: Option<f64>,
    /// Two operations a multiply-add, over the time.
    pub gflops: Option<f64>,
    /// Largest resident memory of the process so far, model included.
    pub peak_rss_kb: Option<u64>,
    /// Largest resident memory since the model was ready, without what was there then.
    pub peak_extra_kb: Option<u64>,
    /// Figures that are not times.
    pub details: Details,
}

/// Several runs after one to warm up.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Report {
    /// The model's name.
    pub model: String,
    /// Where the weights come from.
    pub weights: &'static str,
    /// Image side, or side of the matrices.
    pub size: usize,
    /// Images, or clicks.
    pub batch: usize,
    /// `f32` or `bf16`.
    pub precision: &'static str,
    /// Multiply-adds of one run.
    pub multiply_adds: Option<u64>,
    /// The run to warm up, not counted.
    pub first_seconds: f64,
    /// Each counted run.
    pub seconds: Vec<f64>,
    /// Of `seconds`.
    pub median_seconds: f64,
    /// Of `seconds`.
    pub minimum_seconds: f64,
    /// Mean of [`Reading::cpu_seconds`].
    pub cpu_seconds: Option<f64>,
    /// At the median.
    pub gflops: Option<f64>,
    /// At the minimum.
    pub best_gflops: Option<f64>,
    /// Resident memory with model and inputs, before the first run.
    pub model_rss_kb: Option<u64>,
    /// See [`Reading::peak_rss_kb`].
    pub peak_rss_kb: Option<u64>,
    /// See [`Reading::peak_extra_kb`].
    pub peak_extra_kb: Option<u64>,
    /// Largest of each figure over the counted runs.
    pub details: Details,
}

/// Runs once to warm up, then `repeat` times (at least once).
///
/// # Errors
/// See [`Bench::once`].
pub fn measure(bench: &mut Bench, repeat: usize) -> Result<Report, PredictError> {
    let first = bench.once()?;
    let readings = (0..repeat.max(1)).map(|_| bench.once()).collect::<Result<Vec<_>, _>>()?;
    let seconds: Vec<f64> = readings.iter().map(|r| r.seconds).collect();
    let (median, minimum) = (median(&seconds), seconds.iter().copied().fold(f64::INFINITY, f64::min));
    let cpu: Option<f64> = readings.iter().map(|r| r.cpu_seconds).sum();
    let mut details = Details::new();
    for (name, value) in readings.iter().flat_map(|r| &r.details) {
        let best = details.entry(name).or_insert(*value);
        *best = best.max(*value);
    }
    let last = readings.last().unwrap_or(&first);
    Ok(Report {
        model: bench.model.clone(),
        weights: bench.weights,
        size: bench.size,
        batch: bench.batch,
        precision: bench.precision,
        multiply_adds: bench.multiply_adds,
        first_seconds: first.seconds,
        median_seconds: median,
        minimum_seconds: minimum,
        cpu_seconds: cpu.map(|total| total / readings.len() as f64),
        gflops: bench.multiply_adds.map(|n| gflops(n, median)),
        best_gflops: bench.multiply_adds.map(|n| gflops(n, minimum)),
        model_rss_kb: bench.model_rss_kb,
        peak_rss_kb: last.peak_rss_kb,
        peak_extra_kb: last.peak_extra_kb,
        details,
        seconds,
    })
}

/// The middle value, or the mean of the two in the middle; 0 of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => 0.0,
        (n, half) if n % 2 == 0 => f64::midpoint(sorted[half - 1], sorted[half]),
        (_, half) => sorted[half],
    }
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
