//! What a run cost, beside its accuracy: parameters, encoder passes, milliseconds, memory. A file of its own (`cost.json`),
//! because a report must be equal from run to run and times are not. Every shard writes one; a merge adds them up.

use crate::outcome::Record;
use samclip_predict::bench::system::peak_rss_kb;
use serde::{Deserialize, Serialize};

/// The cost of a run.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Cost {
    /// The model's parameters.
    pub parameters: Option<u64>,
    /// Those of a head that learnt on its features.
    pub head_parameters: Option<u64>,
    /// Number format of the products.
    pub precision: Option<String>,
    /// Processes that shared the run; 0 where that is not known.
    pub processes: usize,
    /// Worker threads of a process; 0 where that is not known.
    pub threads: usize,
    /// Mean number of images that the encoder saw for a photo. Protocols of one command share them: the first one asked
    /// has them all.
    pub encoder_passes: Option<f64>,
    /// Median milliseconds for the answers on a photo.
    pub ms_median: Option<f64>,
    /// Their sum in seconds.
    pub seconds: f64,
    /// Largest resident memory of a process, MB; none where the system does not say.
    pub peak_mb: Option<f64>,
}

impl Cost {
    /// From the records' times and this process.
    pub fn of(records: &[Record]) -> Self {
        Self {
            processes: 1,
            threads: rayon::current_num_threads(),
            peak_mb: peak_rss_kb().map(|kb| kb as f64 / 1024.0),
            ..Self::of_records(records)
        }
    }

    /// What the records alone say.
    fn of_records(records: &[Record]) -> Self {
        let asked: Vec<&Record> = records.iter().filter(|r| r.ms > 0.0).collect();
        let times: Vec<f64> = asked.iter().map(|r| r.ms).collect();
        let passes: u64 = asked.iter().map(|r| r.passes).sum();
        Self {
            ms_median: (!times.is_empty()).then(|| samclip_predict::bench::median(&times)),
            seconds: times.iter().sum::<f64>() / 1e3,
            encoder_passes: (passes > 0).then(|| passes as f64 / asked.len() as f64),
            ..Self::default()
        }
    }

    /// All records of a run with what its processes said of themselves, never of the process that merges.
    pub fn merged(records: &[Record], parts: &[Self]) -> Self {
        let first = parts.first();
        Self {
            parameters: first.and_then(|c| c.parameters),
            head_parameters: first.and_then(|c| c.head_parameters),
            precision: first.and_then(|c| c.precision.clone()),
            processes: parts.iter().map(|c| c.processes).sum(),
            threads: parts.iter().map(|c| c.threads).max().unwrap_or(0),
            peak_mb: parts.iter().filter_map(|c| c.peak_mb).reduce(f64::max),
            ..Self::of_records(records)
        }
    }

    /// One line for people.
    pub fn line(&self) -> String {
        let mut parts = Vec::new();
        parts.extend(self.encoder_passes.map(|n| format!("{n:.2} encoder passes a photo")));
        parts.extend(self.ms_median.map(|ms| format!("median {ms:.1} ms a photo")));
        parts.extend(self.parameters.map(|n| format!("{:.2} M parameters", n as f64 / 1e6)));
        parts.extend(self.head_parameters.map(|n| format!("{:.3} M in the head", n as f64 / 1e6)));
        parts.extend(self.peak_mb.map(|mb| format!("peak memory {mb:.0} MB")));
        parts.extend(self.precision.clone());
        parts.extend((self.threads > 0).then(|| format!("{} threads", self.threads)));
        parts.extend((self.processes > 1).then(|| format!("{} processes", self.processes)));
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_merge_adds_up_its_shards_and_leaves_itself_out() {
        let record = |index: usize, ms: f64, passes: u64| Record { index, id: String::new(), ms, passes, outcome: None, failed: None };
        let records = [record(0, 10.0, 1), record(1, 30.0, 2), record(2, 0.0, 0), record(3, 20.0, 3)];
        let part = |peak: f64| Cost { parameters: Some(7), precision: Some("f32".into()), processes: 1, threads: 3, peak_mb: Some(peak), ..Cost::default() };
        let cost = Cost::merged(&records, &[part(5.0), part(9.0)]);
        assert_eq!((cost.processes, cost.threads, cost.peak_mb, cost.parameters), (2, 3, Some(9.0), Some(7)));
        assert_eq!((cost.ms_median, cost.encoder_passes, cost.seconds), (Some(20.0), Some(2.0), 0.06));
        assert!(cost.line().starts_with("2.00 encoder passes a photo, median 20.0 ms") && cost.line().ends_with("3 threads, 2 processes"));
        let nothing = Cost::merged(&records, &[]);
        assert_eq!((nothing.processes, nothing.threads, nothing.peak_mb), (0, 0, None));
    }
}
