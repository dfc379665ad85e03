//! The tasks: each measures one photo and sums up a run.
//!
//! `measure` turns a photo and an answer into an [`Outcome`]; `summarize` turns the outcomes of a run into a
//! [`Summary`]. Neither keeps anything between photos.

pub(crate) mod camouflage;
pub(crate) mod class_prompted;
mod classification;
pub(crate) mod instances;
pub(crate) mod promptable;
mod retrieval;
pub(crate) mod semantic;
mod window;

use crate::EvalError;
use crate::answers::Answers;
use crate::benchmark::{Benchmark, Names, Task};
use crate::probing::divided;
use crate::outcome::{Outcome, Record};
use crate::summary::Summary;
use samclip_data::instances::Instances;
use samclip_data::names::name_map;
use samclip_data::subset::Subset;
use samclip_data::{Dataset, IGNORE};
use samclip_image::{Image, LabelMap, Mask};
use samclip_predict::roles::Timing;
use samclip_predict::{PredictError, Prompt, PromptSegmenter, SegmentOptions};
use std::path::Path;
use std::sync::Arc;

/// Where photos and truth come from.
pub enum Source {
    /// Label maps, captions, classes, class-less masks.
    Photos(Box<dyn Dataset>),
    /// Objects with categories.
    Objects(Box<Instances>),
}

/// A benchmark with its data.
pub struct Case {
    /// What is measured.
    pub benchmark: Benchmark,
    /// On what.
    pub source: Source,
    /// The name that stands for each class; none where it has no name.
    pub names: Vec<Option<String>>,
    /// A detector's boxes in COCO's results format, by image id: (category, score, box).
    pub boxes: Option<std::collections::BTreeMap<u64, Vec<(u64, f64, [f64; 4])>>>,
}

/// An outcome and the milliseconds that the answer took.
pub(crate) type Measured = Result<(Outcome, f64), EvalError>;

impl Case {
    /// Opens the data of a benchmark below `data`.
    ///
    /// # Errors
    /// Data that is not there or has another form, a renamed class that does not exist.
    pub fn open(benchmark: Benchmark, data: &Path) -> Result<Self, EvalError> {
        if benchmark.instances.is_some() || samclip_data::instances::NAMES.contains(&benchmark.dataset.as_str()) {
            let root = data.join("coco");
            let objects = samclip_data::instances::open(&root, &benchmark.dataset, &benchmark.split)?;
            return Ok(Self { benchmark, source: Source::Objects(Box::new(objects)), names: Vec::new(), boxes: None });
        }
        let mut dataset = samclip_data::open(data, &benchmark.dataset, &benchmark.split)?;
        if let Some(n) = benchmark.linear_probing.as_ref().and_then(|probing| probing.hold_out) {
            let scored = divided(dataset.as_ref(), n)?.1;
            dataset = Box::new(Subset::new(Arc::from(dataset), scored)?);
        }
        let asked = !matches!(benchmark.task(), Task::Promptable | Task::Retrieval | Task::Camouflage);
        let names = if asked { names(&benchmark, dataset.as_ref(), data)? } else { Vec::new() };
        Ok(Self { benchmark, source: Source::Photos(dataset), names, boxes: None })
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        match &self.source {
            Source::Photos(d) => d.len(),
            Source::Objects(o) => o.photos.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A photo's name.
    pub fn id(&self, index: usize) -> String {
        match &self.source {
            Source::Photos(d) => d.id(index).unwrap_or_else(|| format!("{index:06}")),
            Source::Objects(o) => o.photos.get(index).map_or_else(String::new, |p| p.id.to_string()),
        }
    }

    /// Asks about photo `index` and compares with its truth.
    ///
    /// # Errors
    /// Data that cannot be read ([`EvalError::Data`]), a model without the role, an answer of the wrong size.
    pub fn measure(&self, answers: Answers<'_>, index: usize) -> Measured {
        match self.benchmark.task() {
            Task::Classification | Task::LinearProbing => classification::measure(self, answers, index),
            Task::Retrieval => retrieval::measure(self, answers, index),
            Task::Semantic | Task::HeadProbing => semantic::measure(self, answers, index),
            Task::ClassPrompted => class_prompted::measure(self, answers, index),
            Task::Camouflage => camouflage::measure(self, answers, index),
            Task::Promptable => promptable::measure(self, answers, index),
            Task::Instances => instances::measure(self, answers, index),
        }
    }

    /// The report of a whole run.
    ///
    /// # Errors
    /// Detections that do not fit the truth.
    pub fn summarize(&self, records: &[Record], summary: &mut Summary) -> Result<(), EvalError> {
        match self.benchmark.task() {
            Task::Classification | Task::LinearProbing => classification::summarize(self, records, summary),
            Task::Retrieval => retrieval::summarize(self, records, summary),
            Task::Semantic | Task::HeadProbing => semantic::summarize(self, records, summary),
            Task::ClassPrompted => class_prompted::summarize(self, records, summary),
            Task::Camouflage => camouflage::summarize(records, summary),
            Task::Promptable => promptable::summarize(self, records, summary),
            Task::Instances => return instances::summarize(self, records, summary),
        }
        Ok(())
    }

    /// The set of photos.
    ///
    /// # Errors
    /// A benchmark on objects.
    pub fn dataset(&self) -> Result<&dyn Dataset, EvalError> {
        match &self.source {
            Source::Photos(d) => Ok(d.as_ref()),
            Source::Objects(_) => Err(EvalError::Mismatch(format!("{} has objects, not label maps", self.benchmark.dataset))),
        }
    }

    pub(crate) fn classes(&self) -> &[String] {
        match &self.source {
            Source::Photos(d) => d.class_names(),
            Source::Objects(_) => &[],
        }
    }

    /// The label map of a photo.
    pub(crate) fn truth(&self, index: usize) -> Result<LabelMap, EvalError> {
        let dataset = self.dataset()?;
        dataset.labels(index)?.ok_or_else(|| EvalError::Mismatch(format!("photo {} of {} has no labels", self.id(index), dataset.name())))
    }

    /// The photo with its label map.
    pub(crate) fn photo(&self, index: usize) -> Result<(Image, LabelMap), EvalError> {
        let dataset = self.dataset()?;
        let sample = dataset.get(index)?;
        let labels = sample.labels.ok_or_else(|| EvalError::Mismatch(format!("photo {} of {} has no labels", sample.id, dataset.name())))?;
        Ok((sample.image, labels))
    }

    /// A model's failure on a photo.
    pub(crate) fn failed(&self, index: usize) -> impl Fn(PredictError) -> EvalError + '_ {
        move |e| EvalError::Model { photo: self.id(index), message: e.to_string() }
    }

    pub(crate) fn lacks(&self, role: &str) -> EvalError {
        EvalError::Mismatch(format!("the model cannot {role}, which {} asks", self.benchmark.name))
    }
}

/// The name of each class of a dataset.
fn names(benchmark: &Benchmark, dataset: &dyn Dataset, data: &Path) -> Result<Vec<Option<String>>, EvalError> {
    let classes = dataset.class_names();
    if matches!(benchmark.task(), Task::HeadProbing | Task::LinearProbing) {
        return Ok(classes.iter().cloned().map(Some).collect()); // heads learn the background too
    }
    if let Some(wrong) = benchmark.rename.keys().find(|class| !classes.contains(class)) {
        return Err(EvalError::Mismatch(format!("`rename` names `{wrong}`, which {} lacks", dataset.name())));
    }
    let mut names: Vec<Option<String>> = match benchmark.names {
        Names::Classes => classes.iter().cloned().map(Some).collect(),
        Names::TextTable => name_map(dataset, &data.join("text"))?,
    };
    if let Some(background) = dataset.background() {
        names[background] = None;
    }
    for (class, name) in names.iter_mut().zip(classes) {
        if let Some(renamed) = benchmark.rename.get(name) {
            *class = Some(renamed.clone());
        }
    }
    Ok(names)
}

/// Which pixels nobody knows.
pub(crate) fn void(labels: &LabelMap) -> Vec<bool> {
    labels.data.iter().map(|&v| v == IGNORE).collect()
}

pub(crate) fn class_mask(labels: &LabelMap, class: usize) -> Mask {
    let data = labels.data.iter().map(|&v| usize::from(v) == class).collect();
    Mask { width: labels.width, height: labels.height, data }
}

/// A mask that is as large as its photo.
pub(crate) fn check_size(photo: &str, image: &Image, mask: &Mask) -> Result<(), EvalError> {
    let (wanted, found) = ((image.width(), image.height()), (mask.width, mask.height));
    match wanted == found {
        true => Ok(()),
        false => {
            let message = format!("expected masks of {} x {} pixels, found {} x {}", wanted.0, wanted.1, found.0, found.1);
            Err(EvalError::Model { photo: photo.to_owned(), message })
        }
    }
}

/// One mask of the photo's size for every prompt, and the milliseconds.
pub(crate) fn ask(
    photo: &str,
    segmenter: &dyn PromptSegmenter,
    (image, prompts): (&Image, &[Prompt]),
    options: &SegmentOptions,
) -> Result<(Vec<Mask>, Timing), EvalError> {
    if prompts.is_empty() {
        return Ok((Vec::new(), Timing::default()));
    }
    let wrong = |message: String| EvalError::Model { photo: photo.to_owned(), message };
    let answer = segmenter.segment(image, prompts, options).map_err(|e| wrong(e.to_string()))?;
    let mut masks: Vec<Option<Mask>> = vec![None; prompts.len()];
    for found in answer.masks {
        check_size(photo, image, &found.mask)?;
        // the first answer to a prompt is its best
        if let Some(slot @ None) = masks.get_mut(found.prompt) {
            *slot = Some(found.mask);
        }
    }
    let missing = masks.iter().position(Option::is_none);
    match missing {
        Some(prompt) => Err(wrong(format!("no answer to prompt {prompt}"))),
        None => Ok((masks.into_iter().flatten().collect(), answer.timing)),
    }
}

/// The outcomes that there are.
pub(crate) fn outcomes(records: &[Record]) -> impl Iterator<Item = &Outcome> {
    records.iter().filter_map(|r| r.outcome.as_ref())
}
