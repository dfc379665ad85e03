//! The table of a sweep: Markdown for people, CSV for programs, mean and spread over seeds.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// What is known about a run or a model; stored in its folder.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The recipe's or the model file's name.
    pub name: String,
    /// The seed, where the sweep sets it.
    pub seed: Option<u64>,
    /// SHA-256 of the recipe's text (or the model's file).
    pub sha256: String,
    /// Steps done.
    pub steps: usize,
    /// Minutes of training.
    pub minutes: f64,
    /// Loss of the log's last line.
    pub loss: f32,
    /// Measured values by name.
    pub figures: BTreeMap<String, f64>,
    /// What was measured: a protocol, or a side of one.
    #[serde(default)]
    pub measured: BTreeSet<String>,
    /// Why there are none.
    pub error: Option<String>,
}

fn columns(rows: &[Row]) -> Vec<String> {
    let all: BTreeSet<&String> = rows.iter().flat_map(|r| r.figures.keys()).collect();
    all.into_iter().cloned().collect()
}

/// One line per row.
pub fn csv(rows: &[Row]) -> String {
    let columns = columns(rows);
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    let mut out = String::from("name,seed,steps,minutes,loss");
    for column in &columns {
        let _ = write!(out, ",{}", quoted(column));
    }
    out += ",error\n";
    for row in rows {
        let seed = row.seed.map_or_else(String::new, |s| s.to_string());
        let _ = write!(out, "{},{seed},{},{:.1},{}", quoted(&row.name), row.steps, row.minutes, row.loss);
        for column in &columns {
            let _ = write!(out, ",{}", row.figures.get(column).map_or_else(String::new, f64::to_string));
        }
        let _ = writeln!(out, ",{}", quoted(row.error.as_deref().unwrap_or("")));
    }
    out
}

/// One line per name; several seeds become mean and sample standard deviation.
pub fn markdown(rows: &[Row]) -> String {
    let columns = columns(rows);
    let mut out = format!("| run | seeds | steps | minutes | loss | {} |\n|---|---|---|---|---|", columns.join(" | "));
    out += &"---|".repeat(columns.len());
    out.push('\n');
    let mut names: Vec<&str> = Vec::new();
    for row in rows {
        if !names.contains(&row.name.as_str()) {
            names.push(&row.name);
        }
    }
    for name in names {
        let of_name: Vec<&Row> = rows.iter().filter(|r| r.name == name).collect();
        if let Some(error) = of_name.iter().find_map(|r| r.error.as_deref()) {
            let _ = writeln!(out, "| {name} | {} | {} |", of_name.len(), error.replace('|', "\\|"));
            continue;
        }
        let over = |value: &dyn Fn(&Row) -> Option<f64>, digits: usize| {
            let values: Vec<f64> = of_name.iter().filter_map(|r| value(r)).collect();
            mean_and_spread(&values, digits)
        };
        let steps = of_name[0].steps;
        let minutes = over(&|r| Some(r.minutes), 1);
        let loss = over(&|r| Some(f64::from(r.loss)), 3);
        let _ = write!(out, "| {name} | {} | {steps} | {minutes} | {loss} |", of_name.len());
        for column in &columns {
            let _ = write!(out, " {} |", over(&|r| r.figures.get(column).copied(), 3));
        }
        out.push('\n');
    }
    out
}

fn mean_and_spread(values: &[f64], digits: usize) -> String {
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    match values.len() {
        0 => "-".to_owned(),
        1 => format!("{mean:.digits$}"),
        _ => {
            let spread = (values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
            format!("{mean:.digits$} ± {spread:.digits$}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, seed: u64, value: f64) -> Row {
        let figures = [("box".to_owned(), value)].into();
        Row { name: name.into(), seed: Some(seed), steps: 5, minutes: 1.0, loss: 0.5, figures, ..Row::default() }
    }

    #[test]
    fn seeds_become_mean_and_spread() {
        let mut rows = vec![row("a", 1, 0.1), row("a", 2, 0.3), row("b, x", 1, 0.5)];
        rows.push(Row { name: "c".into(), error: Some("step 3: a | b".into()), ..Row::default() });
        let table = markdown(&rows);
        assert!(table.contains("| a | 2 | 5 | 1.0 ± 0.0 | 0.500 ± 0.000 | 0.200 ± 0.141 |"), "{table}");
        assert!(table.contains("| b, x | 1 | 5 | 1.0 | 0.500 | 0.500 |") && table.contains("a \\| b"), "{table}");
        let text = csv(&rows);
        assert_eq!(text.lines().nth(2).unwrap(), "\"a\",2,5,1.0,0.5,0.3,\"\"");
        assert!(text.contains("\"b, x\",1,5,1.0,0.5,0.5,\"\""), "{text}");
    }
}
