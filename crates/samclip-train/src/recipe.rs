//! A recipe: one complete TOML file that says everything about a training run.
//!
//! No inheritance, no search path; an unknown key is an error with its line and the
//! nearest known key. The text is stored in the run directory and in every checkpoint.

use crate::error::TrainError;
use samclip_models::sam_clip::SamClipConfig;
use samclip_models::variant::Variant;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

mod objective;

pub use objective::{
    DenseText, FeatureDistill, MaskSupervision, MultiLabel, Objective, PooledText, SegDistill,
};

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run, as the log shows it.
    pub name: String,
    /// Seed of weights, order, augmentation and prompts.
    pub seed: u64,
    /// Optimiser steps in all.
    pub steps: usize,
    /// What multiplications run in; weights, sums and the optimiser stay f32.
    pub precision: Precision,
    /// A batch is cut into this many parts that run side by side, one thread each; part
    /// of the recipe because means over a part are not means over the batch.
    pub shards: usize,
    /// The student.
    pub model: Model,
    /// AdamW and its schedule.
    pub optimizer: Optimizer,
    /// When checkpoints are written.
    pub checkpoint: Checkpoint,
    /// When the log gets a line, and how often the observer is called.
    pub log: Log,
    /// What `--smoke` cuts the run down to.
    pub smoke: Smoke,
    /// The tasks; every step runs each task that is due and then updates once.
    #[serde(rename = "task")]
    pub tasks: Vec<Task>,
}

/// Precision of the multiplications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// 32-bit floats.
    F32,
    /// bfloat16 products, f32 sums.
    Bf16,
}

/// The student model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    /// Variant name, such as `sam_clip_nano`.
    pub variant: String,
    /// Other sizes than the variant's; the variant's where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sizes: Option<SamClipConfig>,
    /// `fresh`, or a safetensors file: absolute, or relative to the recipe's folder.
    pub init: String,
    /// Names of the tensors that may change, as patterns; `!` takes back.
    pub trainable: Vec<String>,
    /// Text table (names and vectors), relative to the data folder.
    pub text_table: PathBuf,
    /// Factor on the cosines of the text classes.
    pub logit_scale: f32,
    /// Constant logit of the background class.
    pub background_logit: f32,
    /// Stored with the model for inference: added to the logit of the name that is asked for.
    #[serde(default)]
    pub asked_logit: f32,
}

impl Model {
    /// Sizes of the student.
    pub fn config(&self) -> Result<SamClipConfig, TrainError> {
        if let Some(sizes) = &self.sizes {
            return Ok(sizes.clone());
        }
        match self.variant.parse::<Variant>()? {
            Variant::SamClipVitB => Ok(SamClipConfig::vit_b()),
            Variant::SamClipNano => Ok(SamClipConfig::nano()),
            other => Err(TrainError::Invalid(format!("model.variant: {other} is not a SAM-CLIP"))),
        }
    }
}

/// AdamW with warm-up, a constant part and a cosine decay at the end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// Peak learning rate.
    pub lr: f32,
    /// Learning rate at the last step.
    pub final_lr: f32,
    /// Linear warm-up from zero over this many steps.
    pub warmup_steps: usize,
    /// The cosine decay takes the last `decay_steps`; `steps - warmup_steps` is the plain cosine.
    pub decay_steps: usize,
    /// Decay of the running means.
    pub betas: [f32; 2],
    /// Decoupled decay of matrices and convolutions; biases, norms, embeddings of
    /// positions and tokens never decay.
    pub weight_decay: f32,
    /// Largest norm of the whole gradient.
    pub clip_norm: f32,
    /// Rate multipliers; the last match counts.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
}

/// A rate multiplier for the tensors of a pattern.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// Pattern over tensor names.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Factor on the learning rate.
    pub lr_scale: f32,
}

/// When checkpoints are written (whichever comes first).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Every so many steps.
    pub every_steps: usize,
    /// Every so many minutes.
    pub every_minutes: f32,
}

/// When the log gets a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Every so many steps, means over them.
    pub every_steps: usize,
    /// The observer (evaluation) is called every so many steps; 0 is never.
    pub observe_every_steps: usize,
}

/// A run of seconds that still goes through everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smoke {
    /// Steps.
    pub steps: usize,
    /// Batch of every task.
    pub batch: usize,
}

/// One batch of data, one encoder pass, several objectives, one backward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// Name in the log.
    pub name: String,
    /// The task runs every so many steps.
    pub every_steps: usize,
    /// First step of the task; 0 where absent.
    #[serde(default)]
    pub from_step: usize,
    /// The task ends before this step; never where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until_step: Option<usize>,
    /// Side of the square input, a multiple of 32.
    pub side: usize,
    /// Images.
    pub batch: usize,
    /// Random crops and colours.
    pub augment: samclip_data::augment::Augment,
    /// Where the images come from.
    pub data: Vec<Data>,
    /// What is asked of them.
    #[serde(rename = "objective")]
    pub objectives: Vec<Objective>,
}

impl Task {
    /// Whether the task runs in `step` (from 0).
    pub fn is_due(&self, step: usize) -> bool {
        let ended = self.until_step.is_some_and(|end| step >= end);
        step >= self.from_step && !ended && step % self.every_steps == 0
    }
}

/// A data set and its share of the batches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Name of the data set, as `samclip_data::open` knows it.
    pub dataset: String,
    /// The split.
    pub split: String,
    /// Chance of an image to come from here, relative to the others.
    pub weight: f64,
}

impl Recipe {
    /// Reads and checks a recipe.
    pub fn open(path: &Path) -> Result<(Self, String), TrainError> {
        let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
        Ok((Self::parse(&text, path)?, text))
    }

    /// Parses a recipe; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainError> {
        let recipe: Self = toml::from_str(text).map_err(|error| parse_error(&error, text, path))?;
        recipe.check()?;
        Ok(recipe)
    }

    /// The same run, cut down to seconds.
    pub fn smoke(mut self) -> Self {
        self.steps = self.smoke.steps;
        self.optimizer.warmup_steps = self.optimizer.warmup_steps.min(1);
        self.optimizer.decay_steps = self.optimizer.decay_steps.min(self.steps.saturating_sub(1));
        self.log.every_steps = 1;
        for task in &mut self.tasks {
            task.batch = self.smoke.batch;
            (task.from_step, task.until_step) = (0, None);
        }
        self
    }

    fn check(&self) -> Result<(), TrainError> {
        let fail = |message: String| Err(TrainError::Invalid(message));
        if self.steps == 0 || self.log.every_steps == 0 || self.checkpoint.every_steps == 0 {
            return fail("steps, log.every_steps and checkpoint.every_steps must be at least 1".into());
        }
        if self.shards == 0 {
            return fail("shards must be at least 1".into());
        }
        let o = &self.optimizer;
        if o.warmup_steps + o.decay_steps > self.steps {
            return fail(format!(
                "optimizer.warmup_steps + decay_steps is {}, more than steps = {}",
                o.warmup_steps + o.decay_steps,
                self.steps
            ));
        }
        if self.tasks.is_empty() {
            return fail("no [[task]]".into());
        }
        for task in &self.tasks {
            let name = &task.name;
            if task.side == 0 || task.side % 32 != 0 {
                return fail(format!("task {name}: side {} is not a multiple of 32", task.side));
            }
            if task.batch == 0 || task.every_steps == 0 || task.data.is_empty() {
                return fail(format!("task {name}: batch, every_steps and data must not be empty"));
            }
            if task.objectives.is_empty() {
                return fail(format!("task {name}: no [[task.objective]]"));
            }
            for data in &task.data {
                if !(data.weight > 0.0 && data.weight.is_finite()) {
                    return fail(format!("task {name}: weight {} of {}", data.weight, data.dataset));
                }
            }
        }
        Ok(())
    }
}

/// Line and nearest key of a TOML error. Inside a tagged table the parser knows only
/// the table, so the key itself is looked for in the text.
pub(crate) fn parse_error(error: &toml::de::Error, text: &str, path: &Path) -> TrainError {
    let message = error.message().to_owned();
    let quoted: Vec<&str> = message.split('`').skip(1).step_by(2).collect();
    let unknown = message.starts_with("unknown field") || message.starts_with("unknown variant");
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let mut line = text[..start].matches('\n').count() + 1;
    let mut nearest = None;
    if let (true, Some((key, known))) = (unknown, quoted.split_first()) {
        if let Some(at) = text.lines().position(|l| l.trim_start().starts_with(key)) {
            let found = text.lines().nth(line - 1).unwrap_or_default();
            if !found.contains(key) {
                line = at + 1;
            }
        }
        nearest = known
            .iter()
            .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)))
            .map(|key| (*key).to_owned());
    }
    TrainError::Recipe {
        path: path.to_owned(),
        line,
        message: message.split(", expected").next().unwrap_or(&message).to_owned(),
        nearest,
    }
}
