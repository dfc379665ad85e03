//! Memory of this process and the name of the processor, as Linux tells them; elsewhere unknown.

use std::fs;

/// Largest resident memory so far (`VmHWM`), in units of 1024 bytes.
pub fn peak_rss_kb() -> Option<u64> {
    status("VmHWM:")
}

/// Resident memory now (`VmRSS`), in units of 1024 bytes.
pub fn rss_kb() -> Option<u64> {
    status("VmRSS:")
}

/// Lets the peak start again from the memory of now. Where the system refuses, the old peak stays.
pub fn reset_peak_rss() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

/// Processor time of all threads so far, user and system.
pub fn cpu_seconds() -> Option<f64> {
    // Linux counts in 1/100 s towards user space, whatever its own clock is (`man 5 proc`, USER_HZ).
    const TICKS: f64 = 100.0;
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the program's name, which may hold spaces, start with the third.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field - 3)?.parse::<f64>().ok();
    Some((ticks(14)? + ticks(15)?) / TICKS)
}

/// The processor's name.
pub fn cpu_name() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    let name = line.and_then(|line| line.split_once(':')).map(|(_, name)| name.trim());
    name.unwrap_or("unknown").to_owned()
}

fn status(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find(|line| line.starts_with(field))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
