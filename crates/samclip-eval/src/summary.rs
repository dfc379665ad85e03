//! The report of a benchmark: JSON in CLIP_benchmark's shape with more beside it, Markdown for people, SVG plots.
//!
//! Nothing in here depends on time, threads or shards: equal records give equal bytes. Speed is in [`crate::cost`].

use crate::benchmark::{Benchmark, Expected};
use crate::outcome::Record;
use crate::records::Header;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::Write;

/// Figures of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// The class.
    pub class: String,
    /// Photos or objects behind it.
    pub count: usize,
    /// Its figures; null where undefined.
    pub values: Map<String, Value>,
}

impl Row {
    /// A row.
    pub fn new<const N: usize>(class: &str, count: usize, values: [(&str, Option<f64>); N]) -> Self {
        let values = values.into_iter().map(|(name, value)| (name.to_owned(), number(value))).collect();
        Self { class: class.to_owned(), count, values }
    }
}

fn number(value: Option<f64>) -> Value {
    value.map_or(Value::Null, Value::from)
}

/// A curve.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// File name of its plot.
    pub name: String,
    /// Horizontal axis.
    pub x: String,
    /// Vertical axis.
    pub y: String,
    /// Its points.
    pub points: Vec<(f64, f64)>,
}

/// A published figure beside ours.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Compared {
    /// The published one.
    #[serde(flatten)]
    pub expected: Expected,
    /// What was measured here.
    pub measured: Option<f64>,
}

/// How many photos there were, and what became of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Photos {
    /// In the split.
    pub in_split: usize,
    /// In this run.
    pub run: usize,
    /// With a score.
    pub scored: usize,
    /// Whose class has no name.
    pub not_asked: usize,
}

/// A truth that could not be read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The photo.
    pub id: String,
    /// Why.
    pub message: String,
}

/// Everything that a run of a benchmark found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Dataset.
    pub dataset: String,
    /// Who answered.
    pub model: String,
    /// Its weights.
    pub pretrained: String,
    /// The task, in CLIP_benchmark's words where it has it.
    pub task: String,
    /// The figures.
    pub metrics: Map<String, Value>,
    /// Of names and captions.
    pub language: String,
    /// Version of this format.
    pub samclip_report: u32,
    /// The protocol's name.
    pub protocol: String,
    /// What it measures.
    pub title: String,
    /// The split.
    pub split: String,
    /// `model`, `oracle`, `constant` or `files`.
    pub answers: String,
    /// The metric that stands for the run.
    pub headline: String,
    /// Photos.
    pub photos: Photos,
    /// Objects, where they are counted.
    pub objects: Option<usize>,
    /// Names or captions that competed.
    pub candidates: Option<usize>,
    /// Published figures beside ours.
    pub expected: Vec<Compared>,
    /// By class.
    pub per_class: Vec<Row>,
    /// Most frequent confusions: truth, answer, count.
    pub confused: Vec<(String, String, u64)>,
    /// The ten photos with the lowest scores.
    pub worst: Vec<(String, f64)>,
    /// Truths that could not be read.
    pub failures: Vec<Failure>,
    /// Curves.
    pub curves: Vec<Curve>,
    /// The whole confusion matrix, written as CSV.
    #[serde(skip)]
    pub matrix: Option<Vec<Vec<u64>>>,
}

/// How many confusions the report keeps.
const CONFUSIONS: usize = 20;

impl Summary {
    /// An empty report of a run.
    pub fn new(benchmark: &Benchmark, header: &Header, records: &[Record]) -> Self {
        let not_asked = records.iter().filter(|r| r.outcome == Some(crate::outcome::Outcome::NotAsked)).count();
        let answered = records.iter().filter(|r| r.outcome.is_some()).count();
        let failure = |r: &Record| r.failed.clone().map(|message| Failure { id: r.id.clone(), message });
        Self {
            dataset: benchmark.dataset.clone(),
            model: header.model.clone(),
            pretrained: header.weights.clone(),
            task: benchmark.task().name().into(),
            metrics: Map::new(),
            language: "en".into(),
            samclip_report: 1,
            protocol: benchmark.name.clone(),
            title: benchmark.title.clone(),
            split: benchmark.split.clone(),
            answers: header.answers.clone(),
            headline: String::new(),
            photos: Photos { in_split: header.in_split, run: records.len(), scored: answered - not_asked, not_asked },
            objects: None,
            candidates: None,
            expected: Vec::new(),
            per_class: Vec::new(),
            confused: Vec::new(),
            worst: worst(records),
            failures: records.iter().filter_map(failure).collect(),
            curves: Vec::new(),
            matrix: None,
        }
    }

    /// Adds a figure; null where undefined.
    pub fn metric(&mut self, name: &str, value: Option<f64>) {
        self.metrics.insert(name.to_owned(), number(value));
    }

    /// Keeps the most frequent confusions.
    pub fn confusions<'a>(&mut self, all: impl Iterator<Item = (&'a str, &'a str, u64)>) {
        self.confused = all.take(CONFUSIONS).map(|(t, p, n)| (t.to_owned(), p.to_owned(), n)).collect();
    }

    /// Puts the published figures beside the measured ones.
    pub fn compare(&mut self, expected: &[Expected]) {
        let measured = |e: &Expected| self.metrics.get(&e.metric).and_then(Value::as_f64);
        self.expected = expected.iter().map(|e| Compared { expected: e.clone(), measured: measured(e) }).collect();
    }

    /// The headline's value.
    pub fn value(&self) -> Option<f64> {
        self.metrics.get(&self.headline).and_then(Value::as_f64)
    }

    /// Indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).map_or_else(|_| String::new(), |text| text + "\n")
    }

    /// The confusion matrix as CSV: rows are truth.
    pub fn matrix_csv(&self, classes: &[String]) -> Option<String> {
        let matrix = self.matrix.as_ref()?;
        let quote = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let head: Vec<String> = classes.iter().map(|c| quote(c)).collect();
        let mut out = format!("truth,{},(no class)\n", head.join(","));
        for (row, name) in matrix.iter().zip(&head) {
            let cells: Vec<String> = row.iter().map(u64::to_string).collect();
            let _ = writeln!(out, "{name},{}", cells.join(","));
        }
        Some(out)
    }

    /// For people.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        let by = if self.answers == "model" { self.model.clone() } else { format!("{} ({})", self.model, self.answers) };
        let _ = writeln!(out, "# {}: {by}\n\n{}\n", self.protocol, self.title);
        let p = &self.photos;
        let part = if p.run < p.in_split { format!(" of {} in the split (limited run)", p.in_split) } else { String::new() };
        let names = if p.not_asked > 0 { format!(", {} not asked (their class has no name)", p.not_asked) } else { String::new() };
        let objects = self.objects.map_or(String::new(), |n| format!(", {n} objects"));
        let _ = writeln!(out, "{} {}: {} of {} photos scored{part}{names}{objects}\n", self.dataset, self.split, p.scored, p.run);
        let _ = writeln!(out, "| metric | value |\n|---|---|");
        for (name, value) in &self.metrics {
            let bold = if *name == self.headline { "**" } else { "" };
            let _ = writeln!(out, "| {name} | {bold}{}{bold} |", value.as_f64().map_or("-".into(), |v| format!("{v:.4}")));
        }
        self.write_expected(&mut out);
        self.write_classes(&mut out);
        self.write_lists(&mut out);
        out
    }

    fn write_expected(&self, out: &mut String) {
        if self.expected.is_empty() {
            return;
        }
        let _ = writeln!(out, "\nPublished under this protocol, not measured here:\n\n| model | metric | published | {} | source |\n|---|---|---|---|---|", self.model);
        for Compared { expected: e, measured } in &self.expected {
            let ours = measured.map_or("-".into(), |v| format!("{v:.4}"));
            let _ = writeln!(out, "| {} | {} | {} | {ours} | {} |", e.model, e.metric, e.value, e.source);
        }
    }

    fn write_classes(&self, out: &mut String) {
        let Some(first) = self.per_class.first() else { return };
        let heads: Vec<&str> = first.values.keys().map(String::as_str).collect();
        let _ = writeln!(out, "\n| class | count | {} |\n|---|---{}|", heads.join(" | "), "|---".repeat(heads.len()));
        for row in &self.per_class {
            let cells: Vec<String> = row.values.values().map(|v| v.as_f64().map_or("-".into(), |v| format!("{v:.3}"))).collect();
            let _ = writeln!(out, "| {} | {} | {} |", row.class, row.count, cells.join(" | "));
        }
    }

    fn write_lists(&self, out: &mut String) {
        if !self.confused.is_empty() {
            let _ = writeln!(out, "\n| truth | answered | count |\n|---|---|---|");
            for (truth, answer, n) in self.confused.iter().take(10) {
                let _ = writeln!(out, "| {truth} | {answer} | {n} |");
            }
        }
        if !self.worst.is_empty() {
            let list: Vec<String> = self.worst.iter().map(|(id, score)| format!("{id} ({score:.3})")).collect();
            let _ = writeln!(out, "\nLowest scores: {}", list.join(", "));
        }
        for Failure { id, message } in &self.failures {
            let _ = writeln!(out, "\nNot scored: {id}: {message}");
        }
    }
}

/// The ten lowest scores, the lowest first.
pub(crate) fn worst(records: &[Record]) -> Vec<(String, f64)> {
    let score = |r: &Record| Some((r.id.clone(), r.outcome.as_ref()?.score()?));
    let mut all: Vec<(String, f64)> = records.iter().filter_map(score).collect();
    all.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
    all.truncate(10);
    all
}
