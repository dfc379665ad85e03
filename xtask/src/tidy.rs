//! The workspace's invariants that a compiler does not check (ARCHITECTURE.md, "Invariants").

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Crates by level: a crate may depend on lower levels only.
const LEVELS: [&[&str]; 5] = [
    &["samclip-image", "samclip-weights", "samclip-kernels", "samclip-nano", "samclip-unify"],
    &["samclip-models", "samclip-data"],
    &["samclip-predict", "samclip-train"],
    &["samclip-eval", "samclip-server"],
    &["samclip"],
];
const DEV_ONLY: &str = "samclip-testkit";
const MAX_LINES: usize = 400;
const MAX_FIXTURE: u64 = 2 << 20;

/// Reports every finding, then fails if there was one.
pub fn check(root: &Path) -> Result<()> {
    let mut findings = vec![];
    for dir in sorted_dir(&root.join("crates"))? {
        levels(&dir, &mut findings)?;
        sources(root, &dir.join("src"), &mut findings)?;
    }
    fixtures(&root.join("fixtures"), &mut findings)?;
    for finding in &findings {
        eprintln!("tidy: {finding}");
    }
    if !findings.is_empty() {
        bail!("{} findings", findings.len());
    }
    eprintln!("tidy: ok");
    Ok(())
}

fn levels(dir: &Path, findings: &mut Vec<String>) -> Result<()> {
    let manifest: toml::Table = fs::read_to_string(dir.join("Cargo.toml"))?.parse()?;
    let name = manifest["package"]["name"].as_str().context("package without a name")?;
    if dir.file_name().is_none_or(|folder| folder != name) {
        findings.push(format!("{name}: the folder has another name"));
    }
    if name == DEV_ONLY {
        return Ok(());
    }
    let Some(level) = level(name) else {
        findings.push(format!("{name}: no level; add it to xtask/src/tidy.rs and ARCHITECTURE.md"));
        return Ok(());
    };
    let dependencies = manifest.get("dependencies").and_then(|d| d.as_table());
    for dependency in dependencies.into_iter().flat_map(|d| d.keys()) {
        if dependency == DEV_ONLY {
            findings.push(format!("{name}: {DEV_ONLY} is for tests only"));
        }
        if self::level(dependency).is_some_and(|other| other >= level) {
            findings.push(format!("{name} (level {level}) depends on {dependency}, which is not below it"));
        }
    }
    if name == "samclip-train" && dependencies.is_some_and(|d| d.contains_key("samclip-eval")) {
        findings.push("samclip-train imports samclip-eval; pass an observer instead".into());
    }
    Ok(())
}

fn level(name: &str) -> Option<usize> {
    LEVELS.iter().position(|crates| crates.contains(&name))
}

fn sources(root: &Path, dir: &Path, findings: &mut Vec<String>) -> Result<()> {
    for path in sorted_dir(dir)? {
        if path.is_dir() {
            sources(root, &path, findings)?;
        } else if path.extension().is_some_and(|e| e == "rs") {
            source(root, &path, findings)?;
        }
    }
    Ok(())
}

fn source(root: &Path, path: &Path, findings: &mut Vec<String>) -> Result<()> {
    let text = fs::read_to_string(path)?;
    let shown = path.strip_prefix(root).unwrap_or(path).display();
    let code = text.split("#[cfg(test)]").next().unwrap_or_default();
    let lines = code.lines().count();
    if lines > MAX_LINES {
        findings.push(format!("{shown}: {lines} lines without tests, at most {MAX_LINES}"));
    }
    if !text.starts_with("//!") {
        findings.push(format!("{shown}: the first line must say what the file is (`//! …`)"));
    }
    Ok(())
}

fn fixtures(dir: &Path, findings: &mut Vec<String>) -> Result<()> {
    for path in sorted_dir(dir)? {
        if path.is_dir() {
            fixtures(&path, findings)?;
        } else if path.metadata()?.len() > MAX_FIXTURE {
            findings.push(format!("{}: larger than 2 MiB", path.display()));
        }
    }
    Ok(())
}

/// Entries of a folder by name; none if it does not exist.
pub fn sorted_dir(dir: &Path) -> Result<Vec<PathBuf>> {
    if !dir.is_dir() {
        return Ok(vec![]);
    }
    let mut entries = fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>()?;
    entries.sort();
    Ok(entries)
}
