//! What a run cost, beside its accuracy: parameters, milliseconds, memory. A file of its own (`cost.json`), because a
//! report must be equal from run to run and times are not.

use crate::outcome::Record;
use samclip_predict::bench::system::peak_rss_kb;
use serde::{Deserialize, Serialize};

/// The cost of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// The model's parameters.
    pub parameters: Option<u64>,
    /// Number format of the products.
    pub precision: Option<String>,
    /// Worker threads.
    pub threads: usize,
    /// Median milliseconds for the answers on a photo.
    pub ms_median: Option<f64>,
    /// Their sum in seconds.
    pub seconds: f64,
    /// Largest resident memory of the process, MB; none where the system does not say.
    pub peak_mb: Option<f64>,
}

impl Cost {
    /// From the records' times and the process.
    pub fn of(records: &[Record]) -> Self {
        let times: Vec<f64> = records.iter().map(|r| r.ms).filter(|ms| *ms > 0.0).collect();
        Self {
            threads: rayon::current_num_threads(),
            ms_median: (!times.is_empty()).then(|| samclip_predict::bench::median(&times)),
            seconds: times.iter().sum::<f64>() / 1e3,
            peak_mb: peak_rss_kb().map(|kb| kb as f64 / 1024.0),
            ..Self::default()
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.ms_median.map(|ms| format!("median {ms:.1} ms a photo")));
        parts.extend(self.parameters.map(|n| format!("{:.2} M parameters", n as f64 / 1e6)));
        parts.extend(self.peak_mb.map(|mb| format!("peak memory {mb:.0} MB")));
        parts.extend(self.precision.clone());
        parts.push(format!("{} threads", self.threads));
        parts.join(", ")
    }
}
