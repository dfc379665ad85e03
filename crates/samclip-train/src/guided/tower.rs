//! A small CLIP image tower from random weights: the base of `clip_guided_sam_nano_tower`.
//!
//! The tower learns, crop by crop, to give the pooled vector that a SAM-CLIP teacher gives: CLIP's own
//! task is image against text, and the teacher's vectors live in the text space. With `dense` its
//! surgery patches learn the teacher's patches too. Ours: the paper uses OpenAI's CLIP.

use crate::checkpoint::{self, Progress};
use crate::error::TrainError;
use crate::export::write_atomic;
use crate::inputs::{Observer, Outcome, RunOptions};
use crate::objectives::Leaves;
use crate::parameters::Parameters;
use crate::recipe::{Checkpoint, Data, Log, Optimizer, Precision, Smoke, parse_error};
use crate::pace::Pace;
use crate::report::StepReport;
use crate::train::recipe_text;
use crate::{optim, precision};
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::distr::{Distribution, weighted::WeightedIndex};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rayon::prelude::*;
use samclip_data::Dataset;
use samclip_data::augment::{Augment, Frame, PhotoFilter};
use samclip_image::{Filter, Normalization, prepare_squash};
use samclip_models::clip::{ImageTower, normalize, surgery};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, ClipVisual};
use samclip_models::init::Init;
use samclip_models::sam_clip::{SamClip, SamClipConfig};
use samclip_models::state;
use samclip_weights::{DType, StateDict, TensorData as Stored};
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Name of the tower in a run directory.
pub const TOWER_FILE: &str = "clip_tower.safetensors";

/// The recipe of a tower.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TowerRecipe {
    /// Always `clip_tower`.
    pub kind: TowerKind,
    /// Name of the run.
    pub name: String,
    /// Seed of weights, order and crops.
    pub seed: u64,
    /// Optimiser steps.
    pub steps: usize,
    /// What multiplications run in.
    pub precision: Precision,
    /// The adapter's variant whose tower this is.
    pub variant: String,
    /// Side of the crops in pixels; the tower's position table is for its own side.
    pub side: usize,
    /// Crops in a step.
    pub batch: usize,
    /// Weight of the cosine distance between class token and pooled teacher.
    pub pooled: f64,
    /// Weight of the cosine distance between surgery patches and the teacher's patches.
    pub dense: f64,
    /// Random crops and colours.
    pub augment: Augment,
    /// The photos.
    pub data: Vec<Data>,
    /// AdamW and its schedule.
    pub optimizer: Optimizer,
    /// When checkpoints are written.
    pub checkpoint: Checkpoint,
    /// When the log gets a line.
    pub log: Log,
    /// What `--smoke` cuts the run down to.
    pub smoke: Smoke,
}

/// The kind of the recipe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TowerKind {
    /// A CLIP image tower.
    ClipTower,
}

impl TowerRecipe {
    /// Parses and checks a recipe; `path` is for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, TrainError> {
        let recipe: Self = toml::from_str(text).map_err(|error| parse_error(&error, text, path))?;
        let fail = |message: &str| Err(TrainError::Invalid(message.to_owned()));
        if recipe.steps == 0 || recipe.batch == 0 || recipe.data.is_empty() || recipe.log.every_steps == 0 {
            return fail("steps, batch, log.every_steps and data must not be empty");
        }
        if recipe.side == 0 || recipe.side % 32 != 0 {
            return fail("side must be a multiple of 32");
        }
        if recipe.checkpoint.every_steps == 0 {
            return fail("checkpoint.every_steps must be at least 1");
        }
        recipe.optimizer.check(recipe.steps)?;
        if recipe.augment.cutmix.is_some() {
            return fail("augment.cutmix: a caption belongs to one photo");
        }
        recipe.augment.check()?;
        Ok(recipe)
    }

    fn smoke(mut self) -> Self {
        (self.steps, self.batch) = (self.smoke.steps, self.smoke.batch);
        self.optimizer.warmup_steps = self.optimizer.warmup_steps.min(1);
        self.optimizer.decay_steps = self.optimizer.decay_steps.min(self.steps.saturating_sub(1));
        self.log.every_steps = 1;
        self
    }
}

/// The photos of a run, and their chances.
struct Photos {
    sources: Vec<Arc<dyn Dataset>>,
    chances: WeightedIndex<f64>,
}

struct Run {
    recipe: TowerRecipe,
    teacher: SamClip,
    photos: Photos,
    device: Device,
    tower: ImageTower,
    parameters: Parameters,
    step: usize,
    seconds: f64,
}

/// Runs a recipe file.
pub fn run_tower(
    path: &Path,
    options: &RunOptions,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let text = recipe_text(path, options)?;
    let recipe = TowerRecipe::parse(&text, path)?;
    let recipe = if options.smoke { recipe.smoke() } else { recipe };
    std::fs::create_dir_all(&options.out).map_err(TrainError::io(&options.out))?;
    write_atomic(&options.out.join("recipe.toml"), text.as_bytes())?;
    let mut run = Run::new(recipe, &text, options)?;
    let mut pace = Pace::open(&options.out, run.step)?;
    while run.step < run.recipe.steps && !stop.load(Ordering::Relaxed) {
        let begin = Instant::now();
        let report = run.train_step()?;
        let seconds = begin.elapsed().as_secs_f64();
        run.seconds += seconds;
        let at = (run.step, run.recipe.steps, run.seconds);
        pace.step(report, seconds, at, run.recipe.log.every_steps, observer)?;
        if pace.checkpoint(run.step, &run.recipe.checkpoint) {
            run.save(&text, options)?;
        }
    }
    run.save(&text, options)?;
    Ok(Outcome { step: run.step, complete: run.step >= run.recipe.steps, model_file: TOWER_FILE })
}

impl Run {
    fn new(recipe: TowerRecipe, text: &str, options: &RunOptions) -> Result<Self, TrainError> {
        precision::set(recipe.precision);
        let device = Device::flex().autodiff();
        let config = ClipGuidedConfig::named(&recipe.variant)?;
        let ClipVisual::Tower(tower) = config.init(&mut Init::seeded(recipe.seed, &device))?.clip.visual else {
            return Err(TrainError::Invalid(format!("variant: {} has no CLIP tower", recipe.variant)));
        };
        let weights = StateDict::from_static_safetensors(samclip_nano::WEIGHTS)?;
        let sizes = weights.metadata.get("config").and_then(|json| serde_json::from_str(json).ok());
        let teacher = sizes.unwrap_or_else(SamClipConfig::nano).init(&mut Init::zeros(&Device::flex()));
        let teacher = state::load(teacher, &weights)?;
        let open = |d: &Data| samclip_data::open(&options.data, &d.dataset, &d.split).map(Arc::from);
        let sources = recipe.data.iter().map(open).collect::<Result<Vec<Arc<dyn Dataset>>, _>>()?;
        let chances = WeightedIndex::new(recipe.data.iter().map(|d| d.weight))
            .map_err(|e| TrainError::Invalid(format!("data: weights: {e}")))?;
        let mut parameters = Parameters::with_rule(&tower, |_| true, &recipe.optimizer);
        parameters.require(recipe.optimizer.patterns())?;
        let path = checkpoint::path(&options.out);
        let (mut step, mut seconds) = (0, 0.0);
        if options.resume && path.exists() {
            let progress = checkpoint::load(&path, &mut parameters)?;
            if progress.recipe != text && !options.allow_changed_recipe {
                let message = "the run directory belongs to another recipe".to_owned();
                return Err(TrainError::Checkpoint { path, message });
            }
            (step, seconds) = (progress.step, progress.seconds);
        }
        let tower = parameters.apply(tower, &device);
        Ok(Self { recipe, teacher, photos: Photos { sources, chances }, device, tower, parameters, step, seconds })
    }

    /// One crop for both networks: teacher's and student's pixels.
    fn crop(&self, position: u64) -> Result<(Vec<f32>, Vec<f32>), TrainError> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.recipe.seed);
        rng.set_stream(position + 1);
        let source = &self.photos.sources[self.photos.chances.sample(&mut rng)];
        let sample = source.get(rng.random_range(0..source.len()))?;
        let (augment, side) = (&self.recipe.augment, self.recipe.side);
        let size = (sample.image.width(), sample.image.height());
        let frame = Frame::draw(augment.geometry, size, side, augment.hflip, &mut rng);
        let crop = augment.color.apply(frame.image(&sample.image, PhotoFilter::Bilinear), &mut rng);
        let of = |normalization| prepare_squash(&crop, side, Filter::Bilinear, normalization).pixels;
        Ok((of(&Normalization::SAM), of(&Normalization::CLIP)))
    }

    fn train_step(&mut self) -> Result<StepReport, TrainError> {
        let (batch, side) = (self.recipe.batch, self.recipe.side);
        let positions = (self.step * batch) as u64..((self.step + 1) * batch) as u64;
        let crops = positions.into_par_iter().map(|p| self.crop(p)).collect::<Result<Vec<_>, _>>()?;
        let (sam, clip): (Vec<_>, Vec<_>) = crops.into_iter().unzip();
        let tensor = |values: Vec<Vec<f32>>, device: &Device| {
            Tensor::<4>::from_data(TensorData::new(values.concat(), vec![batch, 3, side, side]), device)
        };
        let (pooled, dense) = self.teacher.clip_both(self.teacher.tokens(tensor(sam, &Device::flex())));
        let features = surgery::image_features(&self.tower, tensor(clip, &self.device))?;
        let unit = normalize(features.tokens); // [B, 1 + N, E]
        let [b, n, e] = unit.dims();
        let class = unit.clone().narrow(1, 0, 1).reshape([b, e]);
        let far = |cosine: Tensor<1>| cosine.neg().add_scalar(1.0);
        let of_class = far((class * pooled.autodiff()).sum_dim(1).mean());
        let patches = unit.narrow(1, 1, n - 1);
        let of_patches = far((patches * dense.reshape([b, n - 1, e]).autodiff()).sum_dim(2).mean());
        let terms = [("pooled", of_class, self.recipe.pooled), ("dense", of_patches, self.recipe.dense)];
        let mut report = StepReport { images: batch, ..StepReport::default() };
        self.learn(terms, &mut report)?;
        self.step += 1;
        Ok(report)
    }

    /// Backward and one optimiser step.
    fn learn(&mut self, terms: [(&str, Tensor<1>, f64); 2], report: &mut StepReport) -> Result<(), TrainError> {
        let mut total: Option<Tensor<1>> = None;
        for (name, term, weight) in terms {
            let value = crate::objectives::values(&term)[0];
            if !value.is_finite() {
                return Err(TrainError::NonFinite { step: self.step + 1, term: name.to_owned(), value });
            }
            report.losses.push((format!("tower/{name}"), value));
            report.loss += value * weight as f32;
            if weight > 0.0 {
                let own = term * weight;
                total = Some(total.map_or(own.clone(), |sum| sum + own));
            }
        }
        if let Some(total) = total {
            let grads = self.parameters.collect(&self.tower, &Leaves::default(), &mut total.backward());
            self.parameters.accumulate(grads, 1.0);
        }
        report.lr = optim::learning_rate(&self.recipe.optimizer, self.step, self.recipe.steps);
        report.grad_norm = optim::step(&mut self.parameters, &self.recipe.optimizer, report.lr);
        self.tower = self.parameters.apply(self.tower.clone(), &self.device);
        Ok(())
    }

    /// Writes the checkpoint, and the tower under CLIP's names.
    fn save(&self, text: &str, options: &RunOptions) -> Result<(), TrainError> {
        let (out, recipe, revision) = (&options.out, text.to_owned(), options.revision.clone().unwrap_or_default());
        let progress = Progress { step: self.step, positions: vec![], seconds: self.seconds, recipe, revision };
        checkpoint::save(&checkpoint::path(out), &self.parameters, &progress)?;
        let mut state = StateDict::new();
        for (name, shape, values) in state::named_values(&self.tower.valid()) {
            state.insert(format!("visual.{name}"), Stored::from_f32_as(DType::F16, &shape, &values));
        }
        state.metadata.insert("recipe".to_owned(), self.recipe.name.clone());
        state.metadata.insert("steps".to_owned(), self.step.to_string());
        Ok(samclip_weights::write_safetensors(&out.join(TOWER_FILE), &state)?)
    }
}
