//! BENCHMARKS.md from the raw results in benches/runs: every figure is computed from the stored single times.
//!
//! benches/lines.toml says which rows there are and what each is held against; a row whose contenders have no
//! finished run says "not measured". Ratios are made within one run only; of several runs of a group the newest
//! on a tier of processors counts. Trials (see benches/compare.py) do not count.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::{accuracy_table, plot};

/// Counted runs that a published figure needs.
const ENOUGH: usize = 7;

/// The tier that floors and goals are for.
const AIMED: &str = "amx";

/// Runs by group.
type Runs = BTreeMap<String, Run>;

/// benches/lines.toml.
#[derive(Deserialize)]
struct Lines {
    group: Vec<Group>,
    row: Vec<Row>,
}

#[derive(Deserialize)]
struct Group {
    id: String,
    title: String,
}

#[derive(Deserialize, Clone)]
#[serde(deny_unknown_fields)]
struct Row {
    work: String,
    group: String,
    measure: Measure,
    ours: Vec<String>,
    #[serde(default)]
    against: Vec<String>,
    floor: Option<f64>,
    goal: Option<f64>,
    /// Since when ours does the work otherwise; older runs are shown as such.
    #[serde(default)]
    changed: Option<String>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum Measure {
    Speed,
    Rss,
    ExtraRss,
    Exponent,
}

/// One file of benches/runs.
#[derive(Deserialize)]
struct Run {
    group: String,
    date: String,
    threads: usize,
    batch: usize,
    trial: bool,
    machine: BTreeMap<String, serde_json::Value>,
    versions: BTreeMap<String, serde_json::Value>,
    contenders: Vec<Contender>,
}

#[derive(Deserialize)]
struct Contender {
    name: String,
    command: String,
    env: BTreeMap<String, String>,
    #[serde(default)]
    seconds: Vec<f64>,
    flop: Option<f64>,
    peak_rss_kb: Option<f64>,
    peak_extra_kb: Option<f64>,
    #[serde(default)]
    details: BTreeMap<String, Vec<Option<f64>>>,
    error: Option<String>,
}

impl Contender {
    /// Of enough runs.
    fn median(&self) -> Option<f64> {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let n = sorted.len();
        (n >= ENOUGH).then(|| f64::midpoint(sorted[(n - 1) / 2], sorted[n / 2]))
    }

    /// MB (10^6 bytes).
    fn megabytes(&self, measure: Measure) -> Option<f64> {
        self.median()?;
        let kb = if measure == Measure::Rss { self.peak_rss_kb } else { self.peak_extra_kb };
        kb.map(|kb| kb * 1024.0 / 1e6)
    }

    /// `NAME@SIZE` of a sweep.
    fn side(&self, name: &str) -> Option<f64> {
        self.name.strip_prefix(name)?.strip_prefix('@')?.parse().ok()
    }
}

impl Run {
    fn find(&self, name: &str) -> Option<&Contender> {
        self.contenders.iter().find(|c| c.name == name)
    }

    /// Side and median of each size of a sweep.
    fn sweep(&self, name: &str) -> Vec<(f64, f64)> {
        self.contenders.iter().filter_map(|c| Some((c.side(name)?, c.median()?))).collect()
    }
}

/// Writes BENCHMARKS.md and the plot.
pub fn write(root: &Path) -> Result<()> {
    let benches = root.join("benches");
    let lines: Lines = toml::from_str(&fs::read_to_string(benches.join("lines.toml"))?)?;
    let mut tiers = newest_runs(&benches.join("runs"))?;
    let runs = tiers.remove(AIMED).unwrap_or_default();
    for row in &lines.row {
        ensure!(lines.group.iter().any(|g| g.id == row.group), "lines.toml: no group {}", row.group);
    }
    let mut text = HEAD.to_owned();
    for row in &lines.row {
        text += &table_row(row, runs.get(&row.group));
    }
    if let Some(run) = runs.get("side_sweep") {
        let names = ["sam_clip_nano", "sam_vit_b"];
        let series: Vec<_> =
            names.iter().map(|name| (*name, run.sweep(name))).filter(|(_, s)| s.len() > 1).collect();
        if !series.is_empty() {
            fs::write(
                benches.join("side_sweep.svg"),
                plot::log_log("image side (px)", "median (s)", &series),
            )?;
            text += "\n![Time of the image encoder against the image side](benches/side_sweep.svg)\n";
        }
    }
    for (tier, runs) in &tiers {
        text += &other_tier(tier, &lines.row, runs);
    }
    text += &accuracy_table::section(&benches.join("runs"))?;
    text += &serve_section(&benches.join("runs"))?;
    text += "\n## Every contender\n";
    for group in &lines.group {
        match runs.get(&group.id) {
            Some(run) => text += &section(group, run),
            None => write!(text, "\n### {}\n\nNot measured.\n", group.title)?,
        }
        tiers.values().filter_map(|runs| runs.get(&group.id)).for_each(|run| text += &section(group, run));
    }
    fs::write(root.join("BENCHMARKS.md"), text)?;
    eprintln!("bench-table: BENCHMARKS.md, {} of {} groups measured", runs.len(), lines.group.len());
    Ok(())
}

/// The newest DATE_serve.md: what `serve_load.py` and the page's latency test printed.
fn serve_section(runs: &Path) -> Result<String> {
    let mut files: Vec<_> = fs::read_dir(runs)?.collect::<std::io::Result<Vec<_>>>()?.iter().map(|e| e.path()).collect();
    files.sort();
    match files.iter().rfind(|f| f.to_string_lossy().ends_with("_serve.md")) {
        Some(file) => Ok(format!("\n## The server\n\n{}", fs::read_to_string(file)?)),
        None => Ok(String::new()),
    }
}

const HEAD: &str = "# Benchmarks

Written by `cargo run --release -p xtask -- bench-table` from the raw results in `benches/runs`: do not edit. How to \
measure again: [benches/README.md](benches/README.md).

Contenders of a group alternate in one run, one at a time, each in a process of its own with its model loaded; times \
are medians of the counted rounds. A ratio is the fastest of the peers named over ours, within that run; for memory, \
the figure itself (MB = 10^6 bytes). Seeded random weights.

| work | floor | goal | measured | medians | command |
|---|---|---|---|---|---|
";

/// By tier, the newest finished run of each group; files are named by date.
fn newest_runs(folder: &Path) -> Result<BTreeMap<String, Runs>> {
    let mut tiers = BTreeMap::<String, Runs>::new();
    for path in crate::tidy::sorted_dir(folder)? {
        let other = path.to_string_lossy().ends_with(accuracy_table::SUFFIX);
        if path.extension().is_some_and(|e| e == "json") && !other {
            let text = fs::read_to_string(&path)?;
            let run: Run =
                serde_json::from_str(&text).with_context(|| format!("does not parse: {}", path.display()))?;
            if !run.trial {
                let tier = run.machine.get("isa").and_then(|v| v.as_str()).unwrap_or("unknown").to_owned();
                tiers.entry(tier).or_default().insert(run.group.clone(), run);
            }
        }
    }
    Ok(tiers)
}

/// What was measured on another tier than the one that floors are for.
fn other_tier(tier: &str, rows: &[Row], runs: &Runs) -> String {
    let processors: BTreeSet<_> = runs.values().filter_map(|run| run.machine.get("cpu")?.as_str()).collect();
    let processors = processors.into_iter().collect::<Vec<_>>().join(", ");
    let mut text = format!("\n## Without AMX: {tier} ({processors})\n\n| work | measured | medians |\n|---|---|---|\n");
    for row in rows {
        let row = Row { floor: None, goal: None, ..row.clone() };
        if let Some((figure, medians)) = runs.get(&row.group).and_then(|run| measured(&row, run)) {
            text += &format!("| {} | {figure} | {medians} |\n", row.work);
        }
    }
    text
}

fn measured(row: &Row, run: &Run) -> Option<(String, String)> {
    let (mut figure, medians) = match row.measure {
        Measure::Speed => speed(row, run),
        Measure::Rss | Measure::ExtraRss => memory(row, run),
        Measure::Exponent => exponents(row, run),
    }?;
    if row.changed.as_ref().is_some_and(|changed| run.date < *changed) {
        figure += "; older than today's code, which does this work otherwise";
    }
    Some((figure, medians))
}

fn table_row(row: &Row, run: Option<&Run>) -> String {
    let limit = |value: Option<f64>| match (value, row.measure) {
        (None, _) => "reported".to_owned(),
        (Some(v), Measure::Speed) => format!("{v}x"),
        (Some(v), _) => format!("≤ {v} MB"),
    };
    let (figure, medians) = run.and_then(|run| measured(row, run)).unwrap_or_else(|| ("not measured".to_owned(), String::new()));
    let command = format!("`python benches/compare.py {}`", row.group);
    format!(
        "| {} | {} | {} | {figure} | {medians} | {command} |\n",
        row.work,
        limit(row.floor),
        limit(row.goal)
    )
}

/// Fastest peer over ours.
fn speed(row: &Row, run: &Run) -> Option<(String, String)> {
    let name = row.ours.first()?;
    let ours = run.find(name)?.median()?;
    let peers = row.against.iter().filter_map(|name| Some((name, run.find(name)?.median()?)));
    let (peer, theirs) = peers.min_by(|a, b| a.1.total_cmp(&b.1))?;
    let ratio = theirs / ours;
    let verdict = verdict(row, |limit| ratio >= limit);
    Some((format!("**{ratio:.2}x**{verdict}"), format!("{name} {}; {peer} {}", time(ours), time(theirs))))
}

/// The largest of ours.
fn memory(row: &Row, run: &Run) -> Option<(String, String)> {
    let found = row.ours.iter().map(|name| Some((name, run.find(name)?.megabytes(row.measure)?)));
    let found: Vec<_> = found.collect::<Option<_>>()?;
    let worst = found.iter().map(|(_, mb)| *mb).fold(0.0, f64::max);
    let verdict = verdict(row, |limit| worst <= limit);
    let each: Vec<_> = found.iter().map(|(name, mb)| format!("{name} {mb:.0} MB")).collect();
    Some((format!("**{worst:.0} MB**{verdict}"), each.join("; ")))
}

/// Least squares in logarithms, and between neighbouring sides.
fn exponents(row: &Row, run: &Run) -> Option<(String, String)> {
    let mut figures = vec![];
    let mut steps = vec![];
    for name in &row.ours {
        let points: Vec<(f64, f64)> = run.sweep(name).iter().map(|(x, y)| (x.ln(), y.ln())).collect();
        figures.push(format!("{name} {:.2}", slope(&points)?));
        let between = points.windows(2).filter_map(|pair| {
            Some(format!("{:.0} to {:.0} px {:.2}", pair[0].0.exp(), pair[1].0.exp(), slope(pair)?))
        });
        steps.push(format!("{name}: {}", between.collect::<Vec<_>>().join(", ")));
    }
    Some((figures.join("; "), steps.join("; ")))
}

/// Of the line of least squares.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let n = points.len() as f64;
    let mean = |f: fn(&(f64, f64)) -> f64| points.iter().map(f).sum::<f64>() / n;
    let (mx, my) = (mean(|p| p.0), mean(|p| p.1));
    let (xy, xx) =
        points.iter().fold((0.0, 0.0), |(xy, xx), (x, y)| (xy + (x - mx) * (y - my), xx + (x - mx).powi(2)));
    (xx > 0.0).then(|| xy / xx)
}

fn verdict(row: &Row, meets: impl Fn(f64) -> bool) -> &'static str {
    match (row.floor, row.goal) {
        (_, Some(goal)) if meets(goal) => ", goal met",
        (Some(floor), _) if meets(floor) => ", floor met",
        (None, _) => "",
        _ => ", **below the floor**",
    }
}

fn time(seconds: f64) -> String {
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.1} ms", seconds * 1e3) }
}

/// All that a run says.
fn section(group: &Group, run: &Run) -> String {
    let text = |map: &BTreeMap<String, serde_json::Value>| {
        let shown = |v: &serde_json::Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        map.iter().map(|(name, value)| format!("{name} {}", shown(value))).collect::<Vec<_>>().join(", ")
    };
    let (machine, versions) = (text(&run.machine), text(&run.versions));
    let mut out =
        format!("\n### {}\n\n{}, {} threads, batch {}. ", group.title, run.date, run.threads, run.batch);
    out += &format!("Machine: {machine}. Versions: {versions}.\n\n");
    out += "| contender | median | minimum | runs | GFLOP/s | peak RSS | above the model | further | command |\n";
    out += "|---|---|---|---|---|---|---|---|---|\n";
    // Every contender of a group does the same work, unless it is a sweep, where each says its own.
    let flop = run.contenders.iter().find_map(|c| c.flop);
    for c in &run.contenders {
        out += &contender_row(c, c.flop.or(flop));
    }
    out
}

fn contender_row(c: &Contender, flop: Option<f64>) -> String {
    let env: String = c.env.iter().map(|(name, value)| format!("{name}={value} ")).collect();
    let command = format!("`{env}{}`", c.command);
    let Some(median) = c.median() else {
        let why = c.error.as_deref().unwrap_or("fewer runs than a figure needs").replace('|', "/");
        return format!("| {} | not measured: {why} | | | | | | | {command} |\n", c.name);
    };
    let minimum = c.seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let mb = |measure| c.megabytes(measure).map_or_else(String::new, |mb| format!("{mb:.0} MB"));
    let gflops = flop.map_or_else(String::new, |flop| format!("{:.0}", flop / median / 1e9));
    let best = |values: &Vec<Option<f64>>| values.iter().flatten().copied().fold(f64::NEG_INFINITY, f64::max);
    let details: Vec<_> =
        c.details.iter().map(|(name, values)| format!("{name} {:.1}", best(values))).collect();
    let (name, runs, details) = (&c.name, c.seconds.len(), details.join(", "));
    let (rss, extra) = (mb(Measure::Rss), mb(Measure::ExtraRss));
    format!(
        "| {name} | {} | {} | {runs} | {gflops} | {rss} | {extra} | {details} | {command} |\n",
        time(median),
        time(minimum)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(seconds: [f64; 2]) -> Run {
        let contender = |name: &str, s: f64| serde_json::json!({ "name": name, "command": "", "env": {}, "seconds": vec![s; 7] });
        serde_json::from_value(serde_json::json!({
            "group": "g", "date": "2026", "threads": 2, "batch": 1, "trial": false, "machine": {}, "versions": {},
            "contenders": [contender("ours", seconds[0]), contender("theirs", seconds[1])],
        }))
        .unwrap()
    }

    fn row() -> Row {
        let text = "work = 'w'\ngroup = 'g'\nmeasure = 'speed'\nours = ['ours']\nagainst = ['theirs']\nfloor = 2.0\ngoal = 4.0";
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_row_says_the_ratio_and_what_it_meets() {
        for (seconds, expected) in [
            ([1.0, 5.0], "5.00x**, goal met"),
            ([1.0, 2.5], "2.50x**, floor met"),
            ([1.0, 1.0], "below the floor"),
        ] {
            assert!(table_row(&row(), Some(&run(seconds))).contains(expected));
        }
        let changed = |date: &str| Row { changed: Some(date.to_owned()), ..row() };
        let older = |row| table_row(&row, Some(&run([1.0, 5.0]))).contains("older than today's code");
        assert_eq!((older(changed("2027")), older(changed("2025")), older(row())), (true, false, false));
        assert!(table_row(&row(), None).contains("not measured"));
    }

    #[test]
    fn too_few_runs_are_no_measurement() {
        let mut few = run([1.0, 5.0]);
        few.contenders[0].seconds.pop();
        assert!(table_row(&row(), Some(&few)).contains("not measured"));
    }

    #[test]
    fn slope_of_a_square() {
        let points: Vec<_> = [2.0f64, 3.0, 5.0].iter().map(|x| (x.ln(), (7.0 * x * x).ln())).collect();
        assert!((slope(&points).unwrap() - 2.0).abs() < 1e-12);
    }
}
