//! A recipe: one complete TOML file that says everything about a training run.
//!
//! No inheritance, no search path; an unknown key is an error with its line and the
//! nearest known key. The text is stored in the run directory and in every checkpoint.

use crate::error::TrainError;
use samclip_models::sam_clip::SamClipConfig;
use samclip_models::variant::Variant;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

mod check;
mod objective;
mod smoke;

pub use objective::{
    ClipDistill, Contrastive, DenseText, DistillOutputs, DistillTargets, FeatureDistill, MaskSupervision, MultiLabel, Objective,
    PooledText, SamDistill, SegDistill,
};

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Name of the run, as the log shows it.
    pub name: String,
    /// Seed of weights, order, augmentation and prompts.
    pub seed: u64,
    /// Optimiser steps in all: what the schedule is planned for.
    pub steps: usize,
    /// The run ends here, before its schedule does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_step: Option<usize>,
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
    /// Native side in pixels instead of the sizes'; position tables of `init` are interpolated to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub img_size: Option<usize>,
    /// `fresh`, or a weight file: absolute, relative to the recipe's folder, or in another run
    /// (`{runs}/NAME/model_f16.safetensors`, see [`crate::inputs::Places`]). A run's `checkpoint.safetensors` gives
    /// f32 values, and auxiliary tensors go on too.
    pub init: String,
    /// Names of the tensors that `init` does not give, as patterns: they keep fresh values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub fresh: Vec<String>,
    /// Tensors that start as copies of others, after `init`.
    #[serde(default, rename = "copy", skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<Copy>,
    /// Names of the tensors that may change, as patterns; `!` takes back.
    pub trainable: Vec<String>,
    /// Text table (names and vectors), relative to the data folder; absent where no objective
    /// reads names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text_table: Option<PathBuf>,
    /// Factor on the cosines of the text classes.
    pub logit_scale: f32,
    /// Constant logit of the background class; absent where no objective reads names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub background_logit: Option<f32>,
    /// Stored with the model for inference: added to the logit of the name that is asked for.
    #[serde(default)]
    pub asked_logit: f32,
    /// Stored with the model for inference: weight of the tokens beside the pooled embedding in `classify`; absent, 0
    /// (decisions 0020 and 0022).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub classify_tokens: Option<f32>,
}

/// Every tensor below `to` starts as the one of the same name below `from`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Copy {
    /// Such as `image_encoder.blocks.11`.
    pub from: String,
    /// Such as `clip_head.blocks.0`.
    pub to: String,
}

impl Model {
    /// Sizes of the student.
    pub fn config(&self) -> Result<SamClipConfig, TrainError> {
        let mut config = match (&self.sizes, self.variant.parse::<Variant>()?) {
            (Some(sizes), _) => sizes.clone(),
            (None, Variant::SamClipVitB) => SamClipConfig::vit_b(),
            (None, Variant::SamClipNano) => SamClipConfig::nano(),
            (None, other) => return Err(TrainError::Invalid(format!("model.variant: {other} is not a SAM-CLIP"))),
        };
        config.sam.image_encoder.img_size = self.img_size.unwrap_or(config.sam.image_encoder.img_size);
        Ok(config)
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
    /// Batches of every task whose gradients are averaged before one update.
    #[serde(default = "one", skip_serializing_if = "is_one")]
    pub accumulate: usize,
    /// Decay of a running mean of the trained tensors, which then is what the model file holds;
    /// absent: off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f32>,
    /// Matrices and convolutions that Muon updates instead of AdamW; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muon: Option<Muon>,
    /// Rate multipliers; the last match counts.
    #[serde(default, rename = "group")]
    pub groups: Vec<Group>,
}

fn one() -> usize {
    1
}

fn is_one(n: &usize) -> bool {
    *n == 1
}

/// Which tensors Muon updates; rates, decay and clipping are AdamW's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Muon {
    /// Patterns over tensor names; of the matches, biases, norms, positions and tokens stay with AdamW.
    #[serde(rename = "match")]
    pub patterns: Vec<String>,
    /// Decay of the running mean of gradients.
    pub momentum: f32,
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
    /// Numbers of the model's file.
    #[serde(default)]
    pub model: ModelFormat,
}

/// Numbers of the model's file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModelFormat {
    /// `model_f16.safetensors`: half the size.
    #[default]
    F16,
    /// `model_f32.safetensors`: what did not learn keeps its bits.
    F32,
}

/// When the log gets a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Log {
    /// Every so many steps, means over them.
    pub every_steps: usize,
    /// The model is evaluated (`samclip train --protocol`) every so many steps; 0 is never.
    pub observe_every_steps: usize,
}

impl Log {
    /// Whether the model is evaluated after `step` of so many.
    pub(crate) fn observes(&self, step: usize, steps: usize) -> bool {
        let every = self.observe_every_steps;
        every > 0 && (step % every == 0 || step == steps)
    }
}

/// A run of seconds that still goes through everything.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Smoke {
    /// Steps.
    pub steps: usize,
    /// Batch of every task.
    pub batch: usize,
    /// Needs no file: the student shrinks, painted shapes stand for the data sets and small
    /// seeded models for teachers and initial weights.
    #[serde(default)]
    pub synthetic: bool,
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
    /// Sides that steps draw from, each with the pixels of `batch` images at `side` (spec 5.4);
    /// absent: always `side`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sides: Vec<usize>,
    /// Images.
    pub batch: usize,
    /// Teachers see the same crop, cut from the photo at this side; absent: the student's pixels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teacher_side: Option<usize>,
    /// Unreadable photos that a run tolerates; one more stops it.
    #[serde(default = "max_skipped")]
    pub max_skipped: usize,
    /// Chance of a teacher to be silent for a part of a batch; the one that the student is farthest from
    /// never is. 0, where absent: all teach.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub teacher_dropping: f32,
    /// Random crops and colours.
    pub augment: samclip_data::augment::Augment,
    /// Where the images come from.
    pub data: Vec<Data>,
    /// What is asked of them.
    #[serde(rename = "objective")]
    pub objectives: Vec<Objective>,
}

pub(crate) fn is_zero(value: &f32) -> bool {
    *value == 0.0
}

fn max_skipped() -> usize {
    20
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
    /// Photos of classes that fewer than this share of the photos have are repeated (LVIS's repeat factor);
    /// absent: every photo once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repeat_threshold: Option<f64>,
}

impl Recipe {
    /// The step that ends the run.
    pub fn last_step(&self) -> usize {
        self.stop_step.unwrap_or(self.steps).min(self.steps)
    }

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
