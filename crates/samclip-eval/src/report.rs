//! The result of an evaluation: JSON for machines, Markdown for people.

use serde::Serialize;
use std::fmt::Write;

/// One value for a class, and how much it rests on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClassFigure {
    /// Class, in the dataset's spelling.
    pub class: String,
    /// Objects or photos behind the value.
    pub count: usize,
    /// The value.
    pub value: f64,
}

/// A headline value with its parts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Figure {
    /// The headline.
    pub value: f64,
    /// Objects or photos behind it.
    pub count: usize,
    /// By class, in the dataset's order; classes without objects or photos are left out.
    pub per_class: Vec<ClassFigure>,
}

/// What needs no model. Disk and box are scored on the same objects as the model.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Baselines {
    /// Mean IoU of the filled box.
    pub fill_box: f64,
    /// Mean IoU of the disk about the click whose radius is the best multiple, one for all
    /// objects, of the click's distance to the border.
    pub best_disk: f64,
    /// Mean class IoU of the whole photo as the mask of every name.
    pub whole_photo: f64,
    /// Share of photos that hold the most frequent class: always answering it.
    pub most_frequent_class: f64,
}

/// A floor of the protocol and whether it is reached.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FloorResult {
    /// `box`, `click`, `text` or `classify`.
    pub figure: String,
    /// The least that is wanted.
    pub floor: f64,
    /// What was measured; none where the model lacks the role.
    pub value: Option<f64>,
    /// Whether it is enough.
    pub reached: bool,
}

/// Everything that one run of a protocol found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The protocol's name.
    pub protocol: String,
    /// What it measures.
    pub title: String,
    /// The model.
    pub model: String,
    /// Dataset and split.
    pub dataset: String,
    /// Photos evaluated.
    pub photos: usize,
    /// Photos in the split; more than `photos` in a limited run.
    pub photos_in_split: usize,
    /// Objects evaluated.
    pub objects: usize,
    /// Mean IoU over objects, prompted with the tight box.
    pub r#box: Option<Figure>,
    /// Mean IoU over objects, prompted with one click.
    pub click: Option<Figure>,
    /// Class IoU prompted with the name; the headline is the mean over the protocol's classes.
    pub text: Option<Figure>,
    /// The classes of the text headline.
    pub text_mean_over: Vec<String>,
    /// Mean of the text figure over all classes that are present.
    pub text_mean_all: Option<f64>,
    /// Share of photos whose best class is present; per class over the photos that have it.
    pub classify: Option<Figure>,
    /// What needs no model.
    pub baselines: Baselines,
    /// The protocol's floors; empty in a limited run.
    pub floors: Vec<FloorResult>,
    /// The ten photos whose objects fare worst under their boxes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub worst: Vec<(String, f64)>,
    /// Photos whose truth cannot be read: they are in no figure.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<String>,
    /// Median milliseconds of preprocessing and encoder per photo.
    pub encode_ms_median: Option<f64>,
    /// Median milliseconds for all boxes and clicks of a photo after the encoder.
    pub decode_ms_median: Option<f64>,
}

impl Report {
    /// Whether every floor is reached.
    pub fn reached(&self) -> bool {
        self.floors.iter().all(|f| f.reached)
    }

    /// The figures by name; none where one was not measured.
    pub fn figures(&self) -> [(&'static str, Option<&Figure>); 4] {
        let all = [("box", &self.r#box), ("click", &self.click), ("text", &self.text), ("classify", &self.classify)];
        all.map(|(name, figure)| (name, figure.as_ref()))
    }

    /// Indented JSON with a final newline.
    pub fn to_json(&self) -> String {
        // a struct of numbers, strings and lists always serialises
        serde_json::to_string_pretty(self).map_or_else(|_| String::new(), |text| text + "\n")
    }

    /// Headline figures, floors, baselines, and a table by class.
    pub fn to_markdown(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(out, "# {}: {}\n\n{}\n", self.protocol, self.model, self.title);
        let part = match self.photos == self.photos_in_split {
            true => String::new(),
            false => format!(" of {} (limited run, no floors)", self.photos_in_split),
        };
        let _ = writeln!(out, "{}: {} photos{part}, {} objects\n", self.dataset, self.photos, self.objects);
        self.write_headlines(&mut out);
        self.write_classes(&mut out);
        if !self.worst.is_empty() {
            let list: Vec<String> = self.worst.iter().map(|(id, score)| format!("{id} ({score:.3})")).collect();
            let _ = writeln!(out, "\nLowest box IoU: {}", list.join(", "));
        }
        for failure in &self.failures {
            let _ = writeln!(out, "\nNot scored: {failure}");
        }
        if let (Some(encode), Some(decode)) = (self.encode_ms_median, self.decode_ms_median) {
            let _ = writeln!(out, "\nMedian time per photo: encode {encode:.0} ms, all boxes and clicks {decode:.0} ms");
        }
        out
    }

    fn write_headlines(&self, out: &mut String) {
        let b = &self.baselines;
        let rows = [
            ("box", "mean IoU of objects, tight box", &self.r#box, "filled box", b.fill_box),
            ("click", "mean IoU of objects, one click", &self.click, "best disk", b.best_disk),
            ("text", &format!("mean class IoU, {}", self.text_mean_over.join(", ")), &self.text, "whole photo", b.whole_photo),
            ("classify", "photos whose best class is present", &self.classify, "most frequent class", b.most_frequent_class),
        ];
        let _ = writeln!(out, "| figure | what | value | floor | without a model |\n|---|---|---|---|---|");
        for (name, what, figure, baseline, bar) in rows {
            let value = figure.as_ref().map_or("-".into(), |f| format!("**{:.3}**", f.value));
            let floor = self.floors.iter().find(|f| f.figure == name).map_or("-".into(), |f| {
                format!("{:.2} {}", f.floor, if f.reached { "reached" } else { "missed" })
            });
            let _ = writeln!(out, "| {name} | {what} | {value} | {floor} | {baseline} {bar:.3} |");
        }
    }

    fn write_classes(&self, out: &mut String) {
        let mut classes: Vec<&str> = Vec::new();
        for figure in self.figures().into_iter().filter_map(|(_, figure)| figure) {
            classes.extend(figure.per_class.iter().map(|c| c.class.as_str()));
        }
        let mut seen = std::collections::BTreeSet::new();
        classes.retain(|c| seen.insert(*c));
        if classes.is_empty() {
            return;
        }
        let _ = writeln!(out, "\n| class | objects | box | click | photos | text | classify |\n|---|---|---|---|---|---|---|");
        for class in classes {
            let find = |f: &Option<Figure>| f.as_ref().and_then(|f| f.per_class.iter().find(|c| c.class == class).cloned());
            let value = |f: &Option<Figure>| find(f).map_or("-".into(), |c| format!("{:.3}", c.value));
            let count = |a, b| find(a).or_else(|| find(b)).map_or(0, |c| c.count);
            let _ = writeln!(
                out,
                "| {class} | {} | {} | {} | {} | {} | {} |",
                count(&self.r#box, &self.click),
                value(&self.r#box),
                value(&self.click),
                count(&self.text, &self.classify),
                value(&self.text),
                value(&self.classify)
            );
        }
        if let Some(mean) = self.text_mean_all {
            let _ = writeln!(out, "\nText, mean over all classes present: {mean:.3}");
        }
    }
}
