//! The binary and what it says.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A photo of the repository.
#[allow(dead_code, reason = "not every test file reads photos")]
pub fn photo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// Runs the binary in a folder.
pub fn samclip(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_samclip")).args(args).current_dir(folder).output().expect("the binary starts")
}

/// What the binary said on stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON document on stdout.
#[allow(dead_code, reason = "not every test file reads JSON")]
pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}
