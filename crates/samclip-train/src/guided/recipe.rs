//! The recipe of a CLIP-Guided SAM: one complete TOML file, as [`crate::recipe`], with the same
//! optimiser, checkpoint, log and smoke tables.

use crate::error::TrainError;
use crate::losses::BinaryWeights;
use crate::objectives::clip_guided::PointSource;
use crate::recipe::{Checkpoint, Log, Optimizer, Precision, Smoke, parse_error};
use samclip_data::augment::Augment;
use samclip_models::clip_guided_sam::{AdapterConfig, ClipGuidedConfig, GuideConfig, PromptRules, TrainableConfig};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// A whole recipe.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GuidedRecipe {
    /// Always `clip_guided`: what kind of recipe this is.
    pub kind: Kind,
    /// Name of the run, as the log shows it.
    pub name: String,
    /// Seed of adapters, order, augmentation and points.
    pub seed: u64,
    /// Optimiser steps in all.
    pub steps: usize,
    /// What multiplications run in; weights, sums and the optimiser stay f32.
    pub precision: Precision,
    /// A batch is cut into this many parts that run side by side, one thread each.
    pub shards: usize,
    /// At most so many pairs go through the networks together, the others follow: less memory, the same
    /// gradients. 0 is all.
    pub pairs_per_pass: usize,
    /// The networks underneath.
    pub bases: BasesSpec,
    /// What is inserted into SAM's encoder.
    pub adapters: AdapterConfig,
    /// How the similarity map becomes prompts.
    pub prompts: PromptRules,
    /// What changes, beside the adapters.
    pub train: TrainableConfig,
    /// What is asked of the masks.
    pub objective: Objective,
    /// The photos and how they are batched.
    pub data: Data,
    /// AdamW and its schedule.
    pub optimizer: Optimizer,
    /// When checkpoints are written.
    pub checkpoint: Checkpoint,
    /// When the log gets a line; the observer validates every `observe_every_steps`.
    pub log: Log,
    /// What `--smoke` cuts the run down to; `batch` is images.
    pub smoke: Smoke,
}

/// The kind of a recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// CLIP-Guided SAM.
    ClipGuided,
}

/// The networks underneath: `builtin`, or a file relative to the recipe's folder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BasesSpec {
    /// Which sizes, such as `clip_guided_sam_b`.
    pub variant: String,
    /// SAM's weights.
    pub sam: String,
    /// CLIP's weights.
    pub clip: String,
    /// Class vectors: `builtin` (the table of the built-in model), a table's file, or `tower` (CLIP's
    /// text tower from the file of `clip`, with CLIP Surgery's 85 templates).
    pub text: String,
    /// CLIP Surgery's second path, where CLIP is a tower; plain CLIP otherwise (Table 8).
    pub surgery: bool,
}

/// What is asked of the masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Objective {
    /// Where the points of training come from.
    pub points: PointSource,
    /// How many points from the truth; from the map it is `prompts.points`.
    pub truth_points: usize,
    /// Chance that the first point from the truth is its deepest, as an annotator clicks, instead of any (ours).
    #[serde(default)]
    pub center_click: f32,
    /// The losses (Table 9).
    pub losses: BinaryWeights,
    /// The first so many steps train CLIP's attention alone, on the similarity map (Table 8).
    pub clip_alone_steps: usize,
}

/// The photos and how they are batched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Data {
    /// Name of a data set, or `path`.
    pub dataset: String,
    /// Where `dataset = "path"` lies: a folder or a COCO file, relative to the recipe's folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// The split.
    pub split: String,
    /// A low-label split, one photo a line, relative to the recipe's folder; all photos where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub list: Option<PathBuf>,
    /// At most so many photos, drawn by `limit_seed`; 0 takes all.
    pub limit: usize,
    /// Seed of that choice: the same photos for every seed of the run.
    pub limit_seed: u64,
    /// Whether the choice goes round the classes, one photo of each in turn, as far as there are any;
    /// otherwise every photo is as likely.
    pub balanced: bool,
    /// Photos of the drawn order that are kept out for validation.
    pub hold_out: usize,
    /// The classes to train on; empty is all of them.
    pub classes: Vec<String>,
    /// Names of classes in text, where the data set's own name is not the text's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<ClassName>,
    /// Images in a step.
    pub images: usize,
    /// Classes of an image that share a step, and with it the look at the image.
    pub classes_per_image: usize,
    /// Smallest part of the crop that a class must cover to take part.
    pub min_area: f32,
    /// Random crops and colours.
    pub augment: Augment,
}

/// A class and its name in text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClassName {
    /// In the data.
    pub class: String,
    /// In text.
    pub text: String,
}

/// Whether the file is such a recipe; files that do not parse belong to whoever reads them next.
pub fn is_guided(path: &Path) -> bool {
    kind(path).as_deref() == Some("clip_guided")
}

/// Whether the file is the recipe of a CLIP tower.
pub fn is_tower(path: &Path) -> bool {
    kind(path).as_deref() == Some("clip_tower")
}

fn kind(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let table = text.parse::<toml::Table>().ok()?;
    Some(table.get("kind")?.as_str()?.to_owned())
}

impl GuidedRecipe {
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

    /// The model's sizes and switches.
    pub fn config(&self) -> Result<ClipGuidedConfig, TrainError> {
        let mut config = ClipGuidedConfig::named(&self.bases.variant)?;
        config.adapters = self.adapters.clone();
        config.prompts = self.prompts.clone();
        config.train = self.train.clone();
        if let GuideConfig::Tower { surgery, .. } = &mut config.clip {
            *surgery = self.bases.surgery;
        }
        config.check()?;
        Ok(config)
    }

    /// The same run, cut down to seconds.
    pub fn smoke(mut self) -> Self {
        self.steps = self.smoke.steps;
        self.optimizer.warmup_steps = self.optimizer.warmup_steps.min(1);
        self.optimizer.decay_steps = self.optimizer.decay_steps.min(self.steps.saturating_sub(1));
        self.objective.clip_alone_steps = self.objective.clip_alone_steps.min(1);
        self.log.every_steps = 1;
        self.data.images = self.smoke.batch;
        self.data.hold_out = self.data.hold_out.min(1);
        self.data.limit = self.smoke.batch * 2 + self.data.hold_out;
        self
    }

    fn check(&self) -> Result<(), TrainError> {
        let fail = |message: String| Err(TrainError::Invalid(message));
        self.config()?;
        if self.steps == 0 || self.log.every_steps == 0 || self.checkpoint.every_steps == 0 || self.shards == 0 {
            return fail("steps, shards, log.every_steps and checkpoint.every_steps must be at least 1".into());
        }
        self.optimizer.check(self.steps)?;
        let data = &self.data;
        if data.images == 0 || data.classes_per_image == 0 {
            return fail("data.images and data.classes_per_image must be at least 1".into());
        }
        if (data.dataset == "path") != data.path.is_some() {
            return fail("data.path belongs to data.dataset = \"path\"".into());
        }
        if data.limit > 0 && data.hold_out >= data.limit {
            return fail(format!("data.hold_out {} leaves none of {} photos", data.hold_out, data.limit));
        }
        let BinaryWeights { bce, dice, iou } = self.objective.losses;
        if [bce, dice, iou].iter().any(|w| !(w.is_finite() && *w >= 0.0)) || bce + dice + iou == 0.0 {
            return fail("objective.losses: weights must not be negative, nor all zero".into());
        }
        if !(0.0..=1.0).contains(&self.objective.center_click) {
            return fail(format!("objective.center_click {} is no chance from 0 to 1", self.objective.center_click));
        }
        if self.objective.clip_alone_steps > 0 && self.train.clip_blocks == 0 {
            return fail("objective.clip_alone_steps needs train.clip_blocks".into());
        }
        if data.augment.cutmix.is_some() {
            return fail("data.augment.cutmix: a prompt belongs to one photo".into());
        }
        data.augment.check().map_err(TrainError::from)
    }
}
