//! The training loop: seeded, logged, resumable.
//!
//! A step: for each task that is due, one encoder pass, its objectives, one backward;
//! gradients accumulate; then one AdamW step (SAM-CLIP's order, spec 5.3).

use crate::checkpoint::{self, Progress};
use crate::error::TrainError;
use crate::feed::{Feed, loader};
pub use crate::inputs::{Inputs, Observer, Outcome, Places, RunOptions};
use crate::objectives::{self, Natives, TaskSetup};
use crate::optim;
use crate::parameters::Parameters;
use crate::recipe::Recipe;
use crate::pace::Pace;
use crate::report::{StepReport, Told};
use crate::start::start;
use crate::vocabulary::Vocabulary;
use crate::world::World;
use crate::{export, plot, precision};
use burn::tensor::Device;
use samclip_data::Part;
use samclip_models::init::Init;
use samclip_models::sam_clip::{SamClip, SamClipConfig};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Runs a recipe file in one process.
pub fn run(
    path: &Path,
    options: &RunOptions,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    run_in(World::alone(), path, options, observer, stop)
}

/// Runs a recipe file, in every process of `world` alike; only the first one writes.
pub fn run_in(
    world: World,
    path: &Path,
    options: &RunOptions,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let text = recipe_text(path, options)?;
    let mut recipe = Recipe::parse(&text, path)?;
    if options.smoke {
        recipe = recipe.smoke()?;
    }
    let inputs = match options.smoke && recipe.smoke.synthetic {
        true => Inputs::synthetic(&recipe)?,
        false => Inputs::open(&recipe, &Places::new(path, options))?,
    };
    Trainer::in_world(world, recipe, text, inputs, options)?.run(observer, stop)
}

/// What a recipe file says, with the seed that the options ask for.
pub(crate) fn recipe_text(path: &Path, options: &RunOptions) -> Result<String, TrainError> {
    let text = std::fs::read_to_string(path).map_err(TrainError::io(path))?;
    Ok(match options.seed {
        Some(seed) => with_seed(&text, seed),
        None => text,
    })
}

/// The recipe's text with another seed in its line `seed = …`.
fn with_seed(text: &str, seed: u64) -> String {
    let mut done = false;
    let line = |line: &str| match !done && line.starts_with("seed") {
        true => {
            done = true;
            format!("seed = {seed}\n")
        }
        false => format!("{line}\n"),
    };
    text.lines().map(line).collect()
}

/// A run in progress.
pub struct Trainer {
    pub(crate) recipe: Recipe,
    text: String,
    out: PathBuf,
    config: SamClipConfig,
    pub(crate) device: Device,
    world: World,
    /// What this process does of every batch.
    pub(crate) part: Part,
    /// One copy per shard of this process: graphs that share leaves would share a lock.
    pub(crate) models: Vec<SamClip>,
    pools: Vec<rayon::ThreadPool>,
    pub(crate) parameters: Parameters,
    pub(crate) vocabulary: Vocabulary,
    names_hash: String,
    pub(crate) setups: Vec<TaskSetup>,
    feeds: Vec<Feed>,
    pub(crate) natives: Natives,
    /// Batches of each task since the last update.
    micro: usize,
    revision: String,
    pub(crate) step: usize,
    seconds: f64,
}

impl Trainer {
    /// Prepares a run of one process, or continues the one in the run directory.
    pub fn new(recipe: Recipe, text: String, inputs: Inputs, options: &RunOptions) -> Result<Self, TrainError> {
        Self::in_world(World::alone(), recipe, text, inputs, options)
    }

    /// As [`Trainer::new`], as one of the processes of `world`.
    pub fn in_world(
        world: World,
        recipe: Recipe,
        text: String,
        inputs: Inputs,
        options: &RunOptions,
    ) -> Result<Self, TrainError> {
        let part = world.part(recipe.shards)?;
        std::fs::create_dir_all(&options.out).map_err(TrainError::io(&options.out))?;
        precision::set(recipe.precision);
        let device = Device::flex().autodiff();
        let config = recipe.model.config()?;
        let mut model = config.init(&mut Init::seeded(recipe.seed, &device));
        model = start(model, &recipe.model, inputs.weights.as_ref())?;
        let mut parameters = Parameters::new(&model, &recipe.model, &recipe.optimizer);
        let mut vocabulary = inputs.text.vocabulary();
        let mut setups = Vec::new();
        for (i, task) in recipe.tasks.iter().enumerate() {
            let seed = task_seed(recipe.seed, i);
            let setup = TaskSetup::new(task, &inputs.datasets[i], &inputs.text, &mut vocabulary, seed)?;
            let width = config.sam.image_encoder.embed_dim;
            objectives::add_aux(&mut parameters, &recipe, &setup, width, &inputs.teachers[i])?;
            setups.push(setup);
        }
        inputs.weights.as_ref().map_or(Ok(()), |weights| parameters.start_aux(weights))?;
        let trainable = recipe.model.trainable.iter().map(|pattern| ("model.trainable", pattern.as_str()));
        let fresh = recipe.model.fresh.iter().map(|pattern| ("model.fresh", pattern.as_str()));
        parameters.require(trainable.chain(fresh).chain(recipe.optimizer.patterns()))?;
        let path = checkpoint::path(&options.out);
        let progress = match options.resume && path.exists() {
            true => Some(resume(&path, &mut parameters, &text, options)?),
            false => None,
        };
        let mut feeds = Vec::new();
        for (i, (task, teachers)) in recipe.tasks.iter().zip(&inputs.teachers).enumerate() {
            let loader = loader(task, &inputs.datasets[i], task_seed(recipe.seed, i), part)?;
            let position = progress.as_ref().and_then(|p| p.positions.get(i)).copied();
            let cache = options.teacher_cache.as_deref();
            feeds.push(Feed::start(loader, teachers, &inputs.datasets[i], cache, position)?);
        }
        let shards = part.shards / world.size();
        let models: Vec<_> = (0..shards).map(|_| parameters.apply(model.clone(), &device)).collect();
        let pools = pools(shards)?;
        let (step, seconds) = progress.map_or((0, 0.0), |p| (p.step, p.seconds));
        let names_hash = inputs.text.names_hash();
        let out = options.out.clone();
        Ok(Self {
            recipe,
            text,
            out,
            config,
            device,
            world,
            part,
            models,
            pools,
            parameters,
            vocabulary,
            names_hash,
            setups,
            feeds,
            natives: inputs.natives,
            micro: 0,
            revision: options.revision.clone().unwrap_or_default(),
            step,
            seconds,
        })
    }

    /// The state of every tensor.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The student as it stands.
    pub fn model(&self) -> &SamClip {
        &self.models[0]
    }

    /// Steps done.
    pub fn step_count(&self) -> usize {
        self.step
    }

    /// Trains to the end of the recipe, or until `stop` is set.
    pub fn run(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        let first = self.world.is_first();
        let mut pace = None;
        if first {
            self.announce(observer)?;
            pace = Some(Pace::open(&self.out, self.step)?);
        }
        let begin = Instant::now();
        while self.step < self.recipe.last_step() && !self.world.any(stop.load(Ordering::Relaxed)) {
            let begin = Instant::now();
            let report = self.train_step()?;
            let seconds = begin.elapsed().as_secs_f64();
            self.seconds += seconds;
            let Some(pace) = &mut pace else { continue };
            let at = (self.step, self.recipe.last_step(), self.seconds);
            pace.step(report, seconds, at, self.recipe.log.every_steps, observer)?;
            let observed = self.recipe.log.observes(self.step, self.recipe.last_step());
            if pace.checkpoint(self.step, &self.recipe.checkpoint) || observed {
                self.save()?;
                plot::write_curve(&self.out, &self.recipe.name, pace.lines())?;
            }
            if observed {
                observer.evaluate(self.step, &self.out.join(self.model_file()));
                precision::set(self.recipe.precision);
            }
        }
        if let Some(pace) = &pace {
            self.save()?;
            plot::write_curve(&self.out, &self.recipe.name, pace.lines())?;
            self.note_waiting(begin.elapsed().as_secs_f64(), observer);
        }
        self.world.any(false); // nobody leaves before the files are written
        Ok(Outcome { step: self.step, complete: self.step >= self.recipe.last_step(), model_file: self.model_file() })
    }

    /// What the processes cost each other.
    fn note_waiting(&self, seconds: f64, observer: &mut dyn Observer) {
        if self.world.size() > 1 {
            let waited = self.world.waited().as_secs_f64();
            let share = 100.0 * waited / seconds.max(1e-9);
            observer.note(&format!(
                "{} processes: {waited:.1} s of {seconds:.1} s in exchanges of the first one ({share:.1} %)",
                self.world.size()
            ));
        }
    }

    fn announce(&self, observer: &mut dyn Observer) -> Result<(), TrainError> {
        let path = self.out.join("recipe.toml");
        export::write_atomic(&path, self.text.as_bytes())?;
        let total: usize = self.parameters.model_tensors().iter().map(|t| t.value.len()).sum();
        observer.note(&format!(
            "{}: {total} parameters, {} trainable, {} names, step {} of {}",
            self.recipe.name,
            self.parameters.trainable_count(),
            self.vocabulary.names.len(),
            self.step,
            self.recipe.steps
        ));
        Ok(())
    }

    /// One step over all tasks that are due.
    pub fn train_step(&mut self) -> Result<StepReport, TrainError> {
        let lr = optim::learning_rate(&self.recipe.optimizer, self.step, self.recipe.steps);
        let mut told = Told::default();
        for micro in 0..self.recipe.optimizer.accumulate {
            self.micro = micro;
            for i in 0..self.setups.len() {
                if self.setups[i].task.is_due(self.step) {
                    self.task_step(i, &mut told)?;
                }
            }
        }
        told.skipped = self.feeds.iter().map(|f| f.skipped).sum();
        let mut report = told.of_all(&mut self.world)?;
        report.lr = lr;
        self.world.sum_gradients(&mut self.parameters);
        report.grad_norm = optim::step(&mut self.parameters, &self.recipe.optimizer, lr);
        let models = std::mem::take(&mut self.models);
        self.models = models.into_iter().map(|m| self.parameters.apply(m, &self.device)).collect();
        self.step += 1;
        Ok(report)
    }

    /// Batches that each task has had before this one, if it is due in every step.
    pub(crate) fn micro_step(&self) -> usize {
        self.step * self.recipe.optimizer.accumulate + self.micro
    }

    fn task_step(&mut self, i: usize, told: &mut Told) -> Result<(), TrainError> {
        let fed = self.feeds[i].next_batch()?;
        told.images += fed.batch.items.len();
        let count = self.part.count(fed.batch.size);
        let shards = self.shards(fed);
        let this = &*self;
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = shards
                .iter()
                .zip(this.models.iter().zip(&this.pools))
                .map(|(shard, (model, pool))| scope.spawn(move || pool.install(|| this.shard_step(i, model, shard))))
                .collect();
            threads.into_iter().map(|t| t.join()).collect()
        });
        let weight = 1.0 / (count * self.recipe.optimizer.accumulate) as f32;
        for answer in answers {
            let answer = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            told.terms.extend(answer.terms.into_iter().map(|(name, value, term)| (name, value, value * term * weight)));
            self.parameters.accumulate(answer.grads, weight);
        }
        let task = &self.setups[i].task.name;
        match self.parameters.non_finite_gradient() {
            Some((name, value)) => {
                let term = format!("{task}: gradient of {name}");
                Err(TrainError::NonFinite { step: self.step + 1, term, value })
            }
            None => Ok(()),
        }
    }

    fn model_file(&self) -> &'static str {
        export::file_name(self.recipe.checkpoint.model)
    }

    /// Writes the checkpoint and the model as it stands.
    pub fn save(&self) -> Result<(), TrainError> {
        if let Some((name, value)) = self.parameters.non_finite_value() {
            let term = format!("value of {name}");
            return Err(TrainError::NonFinite { step: self.step, term, value });
        }
        let progress = Progress {
            step: self.step,
            positions: self.feeds.iter().map(|f| f.position).collect(),
            seconds: self.seconds,
            recipe: self.text.clone(),
            revision: self.revision.clone(),
        };
        checkpoint::save(&checkpoint::path(&self.out), &self.parameters, &progress)?;
        let about = export::About {
            recipe: &self.recipe,
            text: &self.text,
            config: &self.config,
            names_hash: &self.names_hash,
            step: self.step,
        };
        export::write_model(&self.out.join(self.model_file()), &self.parameters, &about)
    }
}

fn resume(
    path: &Path,
    parameters: &mut Parameters,
    text: &str,
    options: &RunOptions,
) -> Result<Progress, TrainError> {
    let progress = checkpoint::load(path, parameters)?;
    if progress.recipe != text && !options.allow_changed_recipe {
        let message = "the run directory belongs to another recipe".to_owned();
        return Err(TrainError::Checkpoint { path: path.to_owned(), message });
    }
    Ok(progress)
}

/// Each task draws from streams of its own.
pub(crate) fn task_seed(seed: u64, task: usize) -> u64 {
    seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(task as u64)
}

/// The machine's threads, dealt out to the shards.
pub(crate) fn pools(shards: usize) -> Result<Vec<rayon::ThreadPool>, TrainError> {
    let threads = (rayon::current_num_threads() / shards).max(1);
    let build = |_| rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pools = (0..shards).map(build).collect::<Result<_, _>>();
    pools.map_err(|e| TrainError::Invalid(format!("threads: {e}")))
}
