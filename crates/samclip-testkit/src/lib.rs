//! Fixtures, tolerances and tiny configurations for tests.

use std::path::PathBuf;

pub mod miniature;
pub mod runs;
pub mod tiny;

/// The development data: `SAMCLIP_DATA`, or `../shared/data` beside the workspace; none (and a note) if absent.
pub fn data() -> Option<PathBuf> {
    let fallback = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let path = std::env::var_os("SAMCLIP_DATA").map_or_else(|| PathBuf::from(fallback), PathBuf::from);
    if path.join("README.md").exists() {
        return Some(path);
    }
    println!("skipped: no development data at {}", path.display());
    None
}
