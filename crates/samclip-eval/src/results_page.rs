//! The results page: tables made of run files, between two marks of a Markdown file.
//!
//! A number gets between the marks only from a `report.json`; [`page`] is a pure function of what was read, so
//! `samclip report --check` can say whether a page is what its run files give. Record: docs/decisions/0012.

use crate::cost::Cost;
use crate::EvalError;
use serde_json::Value;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// First line of the generated part.
pub const BEGIN: &str = "<!-- begin: made by `samclip report` from run files; edits are lost -->";
/// Last line of the generated part.
pub const END: &str = "<!-- end: made by `samclip report` -->";

/// One run as the page sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunFile {
    /// `report.json`, as it is named in the page.
    pub path: PathBuf,
    report: Value,
    cost: Option<Cost>,
}

/// Finds every `report.json` at or below the paths, sorted.
///
/// # Errors
/// A path without one, a file that is no report.
pub fn read(paths: &[PathBuf]) -> Result<Vec<RunFile>, EvalError> {
    let mut runs = Vec::new();
    for path in paths {
        let mut found = Vec::new();
        find(path, 4, &mut found);
        if found.is_empty() {
            return Err(EvalError::Records { message: "no report.json here".into(), path: path.clone() });
        }
        found.sort();
        for file in found {
            runs.push(open(&file)?);
        }
    }
    runs.dedup_by(|a, b| a.path == b.path);
    Ok(runs)
}

fn find(path: &Path, depth: usize, found: &mut Vec<PathBuf>) {
    if path.is_file() {
        found.push(path.to_owned());
    } else if path.join("report.json").is_file() {
        found.push(path.join("report.json"));
    } else if depth > 0 {
        let entries = std::fs::read_dir(path).into_iter().flatten().filter_map(Result::ok);
        entries.map(|e| e.path()).filter(|p| p.is_dir()).for_each(|p| find(&p, depth - 1, found));
    }
}

fn open(path: &Path) -> Result<RunFile, EvalError> {
    let fail = |message: String| EvalError::Records { message, path: path.to_owned() };
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    let report: Value = serde_json::from_str(&text).map_err(|e| fail(format!("no report ({e})")))?;
    if !report["protocol"].is_string() || !report["model"].is_string() {
        return Err(fail("no report: expected `protocol` and `model`".into()));
    }
    let cost = std::fs::read_to_string(path.with_file_name("cost.json")).ok().and_then(|t| serde_json::from_str(&t).ok());
    Ok(RunFile { path: path.to_owned(), report, cost })
}

/// The generated part: one table of all runs, and the published figures of their protocols.
pub fn page(runs: &[RunFile]) -> String {
    let mut out = format!("{BEGIN}\n\n| protocol | measured on | by | figures | photos | cost | run |\n|---|---|---|---|---|---|---|\n");
    for run in runs {
        let r = &run.report;
        let by = match r["answers"].as_str() {
            Some("model") | None => text(&r["model"]),
            Some(answers) => format!("{} ({answers})", text(&r["model"])),
        };
        let data = [text(&r["dataset"]), text(&r["split"])].join(" ");
        let cost = run.cost.as_ref().map_or("-".into(), Cost::line);
        let _ = writeln!(
            out,
            "| {} | {} | {by} | {} | {} | {cost} | `{}` |",
            text(&r["protocol"]),
            data.trim(),
            figures(r),
            photos(r),
            run.path.display()
        );
    }
    write_published(&mut out, runs);
    let _ = write!(out, "\n{END}\n");
    out
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().replace('|', "\\|")
}

/// The metrics, the headline in bold.
fn figures(r: &Value) -> String {
    if let Some(metrics) = r["metrics"].as_object() {
        let bold = |name: &str| if r["headline"].as_str() == Some(name) { "**" } else { "" };
        let one = |(name, v): (&String, &Value)| v.as_f64().map(|v| format!("{name} {0}{v:.4}{0}", bold(name)));
        return metrics.iter().filter_map(one).take(13).collect::<Vec<_>>().join(", ");
    }
    let one = |name: &&str| r[*name]["value"].as_f64().map(|v| format!("{name} **{v:.4}**"));
    ["box", "click", "text", "classify"].iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

fn photos(r: &Value) -> String {
    let p = &r["photos"];
    match (p["scored"].as_u64(), p["run"].as_u64(), p.as_u64()) {
        (Some(scored), Some(run), _) => format!("{scored} of {run} scored"),
        (_, _, Some(photos)) => photos.to_string(),
        _ => "-".into(),
    }
}

fn write_published(out: &mut String, runs: &[RunFile]) {
    let mut rows: Vec<String> = Vec::new();
    for run in runs {
        for e in run.report["expected"].as_array().into_iter().flatten() {
            let value = e["value"].as_f64().unwrap_or_default();
            let row = format!("| {} | {} | {} | {value} | {} |", text(&run.report["protocol"]), text(&e["model"]), text(&e["metric"]), text(&e["source"]));
            if !rows.contains(&row) {
                rows.push(row);
            }
        }
    }
    if !rows.is_empty() {
        let _ = write!(out, "\nPublished, not measured here:\n\n| protocol | model | metric | value | source |\n|---|---|---|---|---|\n{}\n", rows.join("\n"));
    }
}

/// The page with its generated part replaced, or appended where it has none.
///
/// # Errors
/// A page with one mark but not the other.
pub fn replace(page: &str, generated: &str) -> Result<String, String> {
    match (page.find(BEGIN), page.find(END)) {
        (Some(begin), Some(end)) if begin < end => {
            let rest = &page[end + END.len()..];
            Ok(format!("{}{}{}", &page[..begin], generated.trim_end(), rest))
        }
        (None, None) => Ok(format!("{}{}{generated}", page.trim_end(), if page.trim().is_empty() { "" } else { "\n\n" })),
        _ => Err("the marks of the generated part do not match; remove the one that is left".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_generated_part_alone_is_replaced() {
        let first = replace("# Results\n\nBy hand.\n", &page(&[])).unwrap();
        assert!(first.starts_with("# Results\n\nBy hand.\n\n") && first.contains(BEGIN));
        let edited = first.replace("| protocol |", "| 0.99 | protocol |") + "\nAfter.\n";
        let again = replace(&edited, &page(&[])).unwrap();
        assert!(!again.contains("0.99") && again.ends_with("\nAfter.\n") && again.contains("By hand."));
        assert_eq!(replace(&again, &page(&[])).unwrap(), again);
        assert!(replace(&format!("x\n{END}\n"), "").is_err());
    }

    #[test]
    fn numbers_come_from_run_files() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("a/voc_subset");
        std::fs::create_dir_all(&folder).unwrap();
        let json = r#"{"protocol":"p","model":"m","dataset":"d","split":"s","answers":"oracle","headline":"miou","metrics":{"miou":0.25,"aacc":null},
            "photos":{"in_split":4,"run":4,"scored":3},"expected":[{"model":"SAM-CLIP","metric":"miou","value":0.606,"source":"T3","measured":0.25}]}"#;
        std::fs::write(folder.join("report.json"), json).unwrap();
        let runs = read(&[dir.path().to_owned()]).unwrap();
        let made = page(&runs);
        assert!(made.contains("| p | d s | m (oracle) | miou **0.2500** | 3 of 4 scored | - |"), "{made}");
        assert!(made.contains("| p | SAM-CLIP | miou | 0.606 | T3 |"));
        assert!(read(&[dir.path().join("none")]).unwrap_err().to_string().contains("no report.json"));
    }
}
