//! The figures of the prompts-and-names protocol: of one photo, merged over many, and as a report.

use crate::baselines::{DISK_FACTORS, disks, fill_box};
use crate::metrics::{Overlap, mean};
use crate::protocol::Protocol;
use crate::report::{Baselines, ClassFigure, Figure, FloorResult, Report};
use crate::run::Photo;
use samclip_data::Dataset;
use samclip_data::prompts::{distance_peak, tight_box};
use samclip_image::Mask;

/// (class, IoU) of every object, and overlaps by class of the names: of one photo, or merged of many.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    pub(crate) r#box: Vec<(usize, f64)>,
    pub(crate) click: Vec<(usize, f64)>,
    pub(crate) fill: Vec<f64>,
    /// Sum of the IoU for every factor.
    pub(crate) disk: [f64; DISK_FACTORS.len()],
    pub(crate) text: Vec<Option<(Overlap, usize)>>,
    pub(crate) whole: Vec<Option<(Overlap, usize)>>,
    /// Photos with the class, and how many of them were answered with a class that is present.
    pub(crate) present: Vec<(usize, usize)>,
    pub(crate) classified: Vec<bool>,
    pub(crate) encode: Vec<f64>,
    pub(crate) decode: Vec<f64>,
    /// Milliseconds of every question by names, classification included.
    #[serde(default)]
    pub(crate) names: Vec<f64>,
}

pub(crate) fn add(sum: &mut Option<(Overlap, usize)>, overlap: Overlap) {
    let (total, photos) = sum.get_or_insert_default();
    *total += overlap;
    *photos += 1;
}

impl Tally {
    /// Nothing yet.
    pub fn new(classes: usize) -> Self {
        Self {
            r#box: Vec::new(),
            click: Vec::new(),
            fill: Vec::new(),
            disk: [0.0; DISK_FACTORS.len()],
            text: vec![None; classes],
            whole: vec![None; classes],
            present: vec![(0, 0); classes],
            classified: Vec::new(),
            encode: Vec::new(),
            decode: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Adds another photo's figures; the order of photos is the order of merging.
    pub fn merge(&mut self, other: &Self) {
        self.r#box.extend(&other.r#box);
        self.click.extend(&other.click);
        self.fill.extend(&other.fill);
        self.disk.iter_mut().zip(other.disk).for_each(|(sum, d)| *sum += d);
        for (sums, parts) in [(&mut self.text, &other.text), (&mut self.whole, &other.whole)] {
            for (sum, (overlap, photos)) in sums.iter_mut().zip(parts).filter_map(|(s, p)| p.map(|p| (s, p))) {
                let (total, count) = sum.get_or_insert_default();
                *total += overlap;
                *count += photos;
            }
        }
        for (sum, part) in self.present.iter_mut().zip(&other.present) {
            *sum = (sum.0 + part.0, sum.1 + part.1);
        }
        self.classified.extend(&other.classified);
        self.encode.extend(&other.encode);
        self.decode.extend(&other.decode);
        self.names.extend(&other.names);
    }

    /// Without the times, which differ from run to run.
    pub fn untimed(self) -> Self {
        Self { encode: Vec::new(), decode: Vec::new(), names: Vec::new(), ..self }
    }

    /// Milliseconds of everything that was asked: boxes, clicks, names, classification.
    pub fn milliseconds(&self) -> f64 {
        self.encode.iter().chain(&self.decode).chain(&self.names).sum()
    }

    pub(crate) fn classify(&mut self, photo: &Photo, hit: bool) {
        self.classified.push(hit);
        for &class in &photo.sample.class_ids {
            self.present[class].1 += usize::from(hit);
        }
    }

    pub(crate) fn baselines(&mut self, photo: &Photo) {
        let (width, height) = (photo.labels.width, photo.labels.height);
        for (_, truth) in &photo.objects {
            let (Some(bbox), Some((click, distance))) = (tight_box(truth), distance_peak(truth)) else { continue };
            let filled = Overlap::of(&fill_box(width, height, bbox), truth, &photo.void);
            self.fill.push(filled.iou().unwrap_or(0.0));
            for (sum, disk) in self.disk.iter_mut().zip(disks(truth, &photo.void, click, distance)) {
                *sum += disk.iou().unwrap_or(0.0);
            }
        }
        let whole = Mask { width, height, data: vec![true; width * height] };
        for &class in &photo.sample.class_ids {
            self.present[class].0 += 1;
            add(&mut self.whole[class], Overlap::of(&whole, &photo.class_mask(class), &photo.void));
        }
    }

    /// The report over the merged photos; `asked`: whether names were asked.
    pub fn report(&self, protocol: &Protocol, dataset: &dyn Dataset, (model, asked): (&str, bool), photos: usize) -> Report {
        let classes = dataset.class_names();
        let over = &protocol.text.mean_over;
        let text = text_figure(&self.text, classes, over).filter(|_| asked);
        let mut report = Report {
            protocol: protocol.name.clone(),
            title: protocol.title.clone(),
            model: model.to_owned(),
            dataset: format!("{} {}", protocol.dataset, protocol.split),
            photos,
            photos_in_split: dataset.len(),
            objects: self.fill.len(),
            r#box: object_figure(&self.r#box, classes),
            click: object_figure(&self.click, classes),
            text_mean_all: mean(self.text.iter().flatten().filter_map(|(overlap, _)| overlap.iou())).filter(|_| asked),
            text,
            text_mean_over: over.clone(),
            classify: self.classify_figure(classes),
            baselines: Baselines {
                fill_box: mean(self.fill.iter().copied()).unwrap_or(0.0),
                best_disk: self.disk.iter().copied().fold(0.0, f64::max) / self.fill.len().max(1) as f64,
                whole_photo: text_figure(&self.whole, classes, over).map_or(0.0, |f| f.value),
                most_frequent_class: self.present.iter().map(|p| p.0).max().unwrap_or(0) as f64 / photos.max(1) as f64,
            },
            floors: Vec::new(),
            worst: Vec::new(),
            failures: Vec::new(),
            encode_ms_median: median(&self.encode),
            decode_ms_median: median(&self.decode),
        };
        if photos == dataset.len() {
            report.floors = floors(protocol, &report);
        }
        report
    }

    fn classify_figure(&self, classes: &[String]) -> Option<Figure> {
        let value = mean(self.classified.iter().map(|&hit| f64::from(u8::from(hit))))?;
        let by_class = self.present.iter().zip(classes).filter(|((photos, _), _)| *photos > 0);
        let per_class = by_class
            .map(|(&(count, hits), class)| ClassFigure { class: class.clone(), count, value: hits as f64 / count as f64 })
            .collect();
        Some(Figure { value, count: self.classified.len(), per_class })
    }
}

fn object_figure(scores: &[(usize, f64)], classes: &[String]) -> Option<Figure> {
    let value = mean(scores.iter().map(|s| s.1))?;
    let mut per_class = Vec::new();
    for (class, name) in classes.iter().enumerate() {
        let own: Vec<f64> = scores.iter().filter(|s| s.0 == class).map(|s| s.1).collect();
        if let Some(value) = mean(own.iter().copied()) {
            per_class.push(ClassFigure { class: name.clone(), count: own.len(), value });
        }
    }
    Some(Figure { value, count: scores.len(), per_class })
}

fn text_figure(sums: &[Option<(Overlap, usize)>], classes: &[String], over: &[String]) -> Option<Figure> {
    let mut per_class = Vec::new();
    for (sum, class) in sums.iter().zip(classes) {
        if let Some((overlap, count)) = sum
            && let Some(value) = overlap.iou()
        {
            per_class.push(ClassFigure { class: class.clone(), count: *count, value });
        }
    }
    let headline = || per_class.iter().filter(|c| over.contains(&c.class));
    let value = mean(headline().map(|c| c.value))?;
    Some(Figure { value, count: headline().map(|c| c.count).sum(), per_class })
}

fn floors(protocol: &Protocol, report: &Report) -> Vec<FloorResult> {
    let wanted = protocol.floors;
    let rows = [
        ("box", wanted.r#box, &report.r#box),
        ("click", wanted.click, &report.click),
        ("text", wanted.text, &report.text),
        ("classify", wanted.classify, &report.classify),
    ];
    let result = |(figure, floor, measured): (&str, Option<f64>, &Option<Figure>)| {
        let value = measured.as_ref().map(|f| f.value);
        let floor = floor?;
        Some(FloorResult { figure: figure.into(), floor, value, reached: value.is_some_and(|v| v >= floor) })
    };
    rows.into_iter().filter_map(result).collect()
}

fn median(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| samclip_predict::bench::median(values))
}
