//! A benchmark as data: one task on one split, with the papers' figures beside it.
//!
//! Complete TOML under `protocols/`: no inheritance, unknown keys are errors with their line. The task is the one table
//! that is present. Papers and resolutions: spec 5.6 (SAM-CLIP), 6.7 (CLIP-Guided SAM), 8.2 (semantic sets).

use crate::metrics::class_iou::Aggregation;
use crate::metrics::detection::{Rules, Shape};
use crate::protocol::{Protocol, TextMode, parse_toml};
use crate::EvalError;
use crate::probing::{HeadProbing, LinearProbing, Plan};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// What is measured on what.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Benchmark {
    /// The benchmark's name, as reports cite it.
    pub name: String,
    /// One sentence: what is measured on what.
    pub title: String,
    /// Dataset, as `samclip_data::open` names it; `coco` and `lvis` for objects.
    pub dataset: String,
    /// Its split.
    pub split: String,
    /// How classes become the names that a model is asked.
    #[serde(default)]
    pub names: Names,
    /// Names for classes (dataset's spelling) that differ from the dataset's own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub rename: BTreeMap<String, String>,
    /// Zero-shot classification.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classification: Option<Classification>,
    /// Text to photo and photo to text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retrieval: Option<Retrieval>,
    /// A class for every pixel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub semantic: Option<Semantic>,
    /// A mask for the name of each class that a photo has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub class_prompted: Option<ClassPrompted>,
    /// Camouflaged objects as grey maps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub camouflage: Option<Camouflage>,
    /// Boxes and simulated clicks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promptable: Option<Promptable>,
    /// A detector's boxes to masks, average precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instances: Option<InstanceMasks>,
    /// A head on frozen features labels pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head_probing: Option<HeadProbing>,
    /// A linear classifier on frozen features.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub linear_probing: Option<LinearProbing>,
    /// Published figures of this protocol.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub expected: Vec<Expected>,
}

/// How classes become names.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Names {
    /// The dataset's class names.
    #[default]
    Classes,
    /// The text table's name for each class (`samclip_data::names`); classes without one are not asked.
    TextTable,
}

/// Zero-shot classification: the class whose name fits best (CLIP_benchmark's `zeroshot_classification`).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Classification {
    /// Input side instead of the model's own, for models that take several.
    #[serde(default)]
    pub side: Option<usize>,
}

/// Retrieval (CLIP_benchmark's `zeroshot_retrieval`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retrieval {
    /// The ranks of R@k.
    pub recall: Vec<usize>,
}

/// Zero-shot semantic segmentation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Semantic {
    /// Which head or heads answer.
    pub mode: SemanticMode,
    /// What stands for background.
    pub background: BackgroundRule,
    /// Sliding windows; the whole photo at the model's own side where absent.
    #[serde(default)]
    pub window: Option<Window>,
}

/// Which part of the model answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SemanticMode {
    /// The dense text similarities alone.
    ClipHead,
    /// A mask by both heads for every class that is named in the photo; the most certain one wins a pixel.
    BothHeads,
}

/// What counts as background (spec 8.2).
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum BackgroundRule {
    /// Every pixel gets a class.
    None,
    /// The word competes.
    Word,
    /// The word and 39 words for stuff compete.
    Extended,
    /// The model's constant background channel.
    Channel,
    /// Less probable pixels are background.
    Thresh(f32),
}

/// Sliding windows as in ProxyCLIP's and SCLIP's evaluation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// The photo's short side (its long side at most 2048).
    pub short_side: usize,
    /// Side of a window.
    pub side: usize,
    /// Step between windows.
    pub stride: usize,
    /// Factor on similarities before the softmax.
    pub logit_scale: f32,
}

/// A mask for the name of each class that a photo has.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassPrompted {
    /// How a name becomes a mask.
    pub mode: TextMode,
    /// Probability above which a token belongs to the name.
    pub threshold: f32,
    /// A click at the class's deepest point goes with the name.
    pub click: bool,
    /// How photos add up to the headline; the report has both.
    pub aggregation: Aggregation,
}

/// Camouflaged objects.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Camouflage {
    /// The words; none for clicks alone.
    pub text: Option<String>,
    /// Clicks at the deepest point of each of the largest parts of the object.
    pub clicks: usize,
}

/// Boxes and simulated clicks on objects.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Promptable {
    /// Whether the tight box is asked.
    pub r#box: bool,
    /// How many clicks are simulated, 0 to 9; each after the first where the answer is most wrong.
    pub clicks: usize,
    /// Objects of label maps are connected components: 4 or 8.
    pub connectivity: u8,
    /// Objects below this part of the photo are left out.
    pub min_fraction: f64,
    /// At most so many objects of a photo, evenly from the file's order; all where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub most_objects: Option<usize>,
}

/// Masks for boxes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceMasks {
    /// COCO's or LVIS's rules.
    pub rules: Rules,
    /// Masks or boxes.
    pub shape: Shape,
    /// 1: the first answer is fed back with its box once, as SAM's own protocol does.
    pub refine: u8,
}

/// A published figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expected {
    /// Whose.
    pub model: String,
    /// Which metric of the report.
    pub metric: String,
    /// Its value, as a share (0.606 for 60.6 %).
    pub value: f64,
    /// Paper and table.
    pub source: String,
}

/// The task of a benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// See [`Classification`].
    Classification,
    /// See [`Retrieval`].
    Retrieval,
    /// See [`Semantic`].
    Semantic,
    /// See [`ClassPrompted`].
    ClassPrompted,
    /// See [`Camouflage`].
    Camouflage,
    /// See [`Promptable`].
    Promptable,
    /// See [`InstanceMasks`].
    Instances,
    /// See [`HeadProbing`].
    HeadProbing,
    /// See [`LinearProbing`].
    LinearProbing,
}

impl Task {
    /// The name in reports; CLIP_benchmark's where it has the task.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classification => "zeroshot_classification",
            Self::Retrieval => "zeroshot_retrieval",
            Self::Semantic => "zeroshot_segmentation",
            Self::ClassPrompted => "class_prompted_segmentation",
            Self::Camouflage => "camouflaged_objects",
            Self::Promptable => "promptable_segmentation",
            Self::Instances => "instance_segmentation",
            Self::HeadProbing => "head_probing",
            Self::LinearProbing => "linear_probe",
        }
    }
}

impl Benchmark {
    /// Parses and checks the text of a benchmark; the error says where.
    ///
    /// # Errors
    /// Unknown or missing keys, not exactly one task, a value out of range.
    pub fn parse(text: &str) -> Result<Self, String> {
        let benchmark: Self = parse_toml(text)?;
        let found = benchmark.tasks();
        if found.len() != 1 {
            return Err(format!("expected exactly one task table, found {}", found.len()));
        }
        if let Some(p) = benchmark.promptable
            && (p.clicks > 9 || ![4, 8].contains(&p.connectivity) || !(0.0..1.0).contains(&p.min_fraction) || p.most_objects == Some(0))
        {
            return Err("`promptable`: at most 9 clicks, connectivity 4 or 8, min_fraction in [0, 1), most_objects from 1".into());
        }
        if let Some(w) = benchmark.semantic.as_ref().and_then(|s| s.window)
            && (w.side == 0 || w.stride == 0 || w.stride > w.side || w.short_side == 0)
        {
            return Err("`semantic.window`: side, short_side and stride must be positive, stride at most side".into());
        }
        if benchmark.instances.is_some_and(|i| i.refine > 1) {
            return Err("`instances.refine` must be 0 or 1".into());
        }
        if benchmark.retrieval.as_ref().is_some_and(|r| r.recall.is_empty() || r.recall.contains(&0)) {
            return Err("`retrieval.recall` needs ranks from 1".into());
        }
        if benchmark.camouflage.as_ref().is_some_and(|c| c.text.is_none() && c.clicks == 0) {
            return Err("`camouflage` needs a text or clicks".into());
        }
        if let Some(plan) = Plan::of(&benchmark) {
            plan.check((&benchmark.dataset, &benchmark.split))?;
        }
        if let Some(e) = benchmark.expected.iter().find(|e| !(0.0..=1.0).contains(&e.value)) {
            return Err(format!("`expected`: {} is a share, from 0 to 1, found {}", e.metric, e.value));
        }
        Ok(benchmark)
    }

    fn tasks(&self) -> Vec<Task> {
        let present = [
            (self.classification.is_some(), Task::Classification),
            (self.retrieval.is_some(), Task::Retrieval),
            (self.semantic.is_some(), Task::Semantic),
            (self.class_prompted.is_some(), Task::ClassPrompted),
            (self.camouflage.is_some(), Task::Camouflage),
            (self.promptable.is_some(), Task::Promptable),
            (self.instances.is_some(), Task::Instances),
            (self.head_probing.is_some(), Task::HeadProbing),
            (self.linear_probing.is_some(), Task::LinearProbing),
        ];
        present.into_iter().filter_map(|(is, task)| is.then_some(task)).collect()
    }

    /// The task. [`Benchmark::parse`] made sure that there is one.
    pub fn task(&self) -> Task {
        self.tasks().first().copied().unwrap_or(Task::Classification)
    }
}

/// A file under `protocols/`: prompts and names on one photo (several figures), or a benchmark of one task.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyProtocol {
    /// Box, click, text and classification on the photos of a semantic set.
    Objects(Box<Protocol>),
    /// One task.
    Benchmark(Box<Benchmark>),
}

impl AnyProtocol {
    /// Reads a file of either kind.
    ///
    /// # Errors
    /// An unreadable file, or what its kind's `parse` reports.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let io = |reason| EvalError::Io { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|message| EvalError::Protocol { message, path: path.to_owned() })
    }

    /// Parses either kind: a file with `[objects]` is the first.
    ///
    /// # Errors
    /// See [`Protocol::parse`] and [`Benchmark::parse`].
    pub fn parse(text: &str) -> Result<Self, String> {
        let is_objects = text.lines().any(|line| line.trim_start().starts_with("[objects]"));
        Ok(match is_objects {
            true => Self::Objects(Box::new(Protocol::parse(text)?)),
            false => Self::Benchmark(Box::new(Benchmark::parse(text)?)),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Objects(p) => &p.name,
            Self::Benchmark(b) => &b.name,
        }
    }

    /// Dataset and split.
    pub fn data(&self) -> (&str, &str) {
        match self {
            Self::Objects(p) => (&p.dataset, &p.split),
            Self::Benchmark(b) => (&b.dataset, &b.split),
        }
    }

    /// The complete file again: what a run stores.
    pub fn to_toml(&self) -> String {
        let text = match self {
            Self::Objects(p) => toml::to_string_pretty(p),
            Self::Benchmark(b) => toml::to_string_pretty(b),
        };
        text.unwrap_or_default() // plain structs of numbers, strings and lists always serialise
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name = \"n\"\ntitle = \"t\"\ndataset = \"ade20k\"\nsplit = \"validation\"\n\n[semantic]\nmode = \"clip_head\"\nbackground = \"none\"\n";

    #[test]
    fn one_task_and_its_keys() {
        let b = Benchmark::parse(TEXT).unwrap();
        assert_eq!((b.task(), b.task().name()), (Task::Semantic, "zeroshot_segmentation"));
        assert!(Benchmark::parse(&format!("{TEXT}[retrieval]\nrecall = [1]\n")).unwrap_err().contains("found 2"));
        assert!(Benchmark::parse(&TEXT[..TEXT.find("[semantic]").unwrap()]).unwrap_err().contains("found 0"));
        let wrong = Benchmark::parse(&TEXT.replace("mode =", "moda =")).unwrap_err();
        assert!(wrong.contains("line 7") && wrong.contains("`mode`"), "{wrong}");
        assert!(Benchmark::parse(&TEXT.replace("\"none\"", "{ thresh = 0.4 }")).is_ok());
        assert!(Benchmark::parse(&format!("{TEXT}[semantic.window]\nshort_side = 336\nside = 224\nstride = 300\nlogit_scale = 40\n")).is_err());
    }

    #[test]
    fn what_a_run_stores_reads_back() {
        let any = AnyProtocol::parse(TEXT).unwrap();
        assert_eq!(AnyProtocol::parse(&any.to_toml()).unwrap(), any);
        let nano = AnyProtocol::parse(include_str!("../../../protocols/voc_subset_nano.toml")).unwrap();
        assert!(matches!(nano, AnyProtocol::Objects(_)));
        assert_eq!(AnyProtocol::parse(&nano.to_toml()).unwrap(), nano);
    }
}
