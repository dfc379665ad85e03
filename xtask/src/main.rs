//! Developer tasks: `cargo run --release -p xtask -- ci | tidy | fixtures | bench-table`.

mod accuracy_table;
mod bench_table;
mod plot;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

fn main() -> Result<()> {
    let root = root();
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => tidy::check(&root),
        Some("ci") => ci(&root),
        Some("fixtures") => fixtures(&root),
        Some("bench-table") => bench_table::write(&root),
        _ => bail!("expected one of: ci, tidy, fixtures, bench-table"),
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

/// Formatting, the workspace's invariants, the tests.
fn ci(root: &Path) -> Result<()> {
    run(root, "cargo", &["fmt", "--all", "--check"])?;
    tidy::check(root)?;
    run(root, "cargo", &["test", "--release", "--workspace"])
}

/// Renews every fixture from the reference implementations. Needs a Python with the packages that
/// `fixtures/*/PROVENANCE.toml` name; `PYTHON` chooses it.
fn fixtures(root: &Path) -> Result<()> {
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".into());
    for area in tidy::sorted_dir(&root.join("fixtures"))? {
        let script = area.join("generate.py");
        if script.is_file() {
            run(&area, &python, &["generate.py"])?;
        }
    }
    Ok(())
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    eprintln!("+ {program} {}", args.join(" "));
    let status = Command::new(program).args(args).current_dir(dir).status()?;
    if !status.success() {
        bail!("`{program} {}` failed: {status}", args.join(" "));
    }
    Ok(())
}
