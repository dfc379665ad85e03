//! The training loop of a CLIP-Guided SAM.
//!
//! Paper: CLIP-Guided SAM (arXiv:2605.24807) §3.4. Frozen parts before the first adapter run without
//! gradients, on the fused blocks, once per image for all its classes. State, optimiser, checkpoint
//! and log are those of [`crate::train`].

use super::bases::OpenBases;
use super::pairs::{Loaded, PairData};
use super::recipe::GuidedRecipe;
use super::{GuidedObserver, Verdict};
use crate::checkpoint::{self, Progress};
use crate::error::TrainError;
use crate::export::{sha256, write_atomic};
use crate::inputs::{Outcome, RunOptions};
use crate::objectives::clip_guided::{self, Pairs};
use crate::objectives::Leaves;
use crate::optim;
use crate::parameters::Parameters;
use crate::precision;
use crate::pace::Pace;
use crate::report::StepReport;
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use samclip_models::clip_guided_sam::artefact::{self, About};
use samclip_models::clip_guided_sam::{ClipGuidedConfig, ClipGuidedSam, Look};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// Name of the adapter in a run directory.
pub const ADAPTER_FILE: &str = "adapter.safetensors";

/// A run in progress.
pub struct GuidedTrainer {
    recipe: GuidedRecipe,
    text: String,
    out: PathBuf,
    config: ClipGuidedConfig,
    about: About,
    device: Device,
    /// One copy per shard: graphs that share leaves would share a lock.
    models: Vec<ClipGuidedSam>,
    /// The same without gradients; only its frozen tensors are up to date.
    frozen: ClipGuidedSam,
    pools: Vec<rayon::ThreadPool>,
    parameters: Parameters,
    data: PairData,
    step: usize,
    seconds: f64,
    revision: String,
}

impl GuidedTrainer {
    /// Prepares a run, or continues the one in the run directory.
    pub fn new(
        recipe: GuidedRecipe,
        text: String,
        bases: &OpenBases,
        data: PairData,
        options: &RunOptions,
    ) -> Result<Self, TrainError> {
        let config = recipe.config()?;
        Self::with_config(recipe, config, text, bases, data, options)
    }

    /// The same with other sizes than the recipe's variant has.
    pub fn with_config(
        recipe: GuidedRecipe,
        config: ClipGuidedConfig,
        text: String,
        bases: &OpenBases,
        data: PairData,
        options: &RunOptions,
    ) -> Result<Self, TrainError> {
        std::fs::create_dir_all(&options.out).map_err(TrainError::io(&options.out))?;
        precision::set(recipe.precision);
        let device = Device::flex().autodiff();
        let model = config.on_bases(&bases.bases, recipe.seed, &device)?;
        let mut parameters = Parameters::with_rule(&model, |name| config.is_trainable(name), &recipe.optimizer);
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
        let about = About {
            name: recipe.name.clone(),
            config: config.clone(),
            classes: data.names.clone(),
            sam: bases.sam.clone(),
            clip: bases.clip.clone(),
            recipe_sha256: sha256(text.as_bytes()),
            steps: step,
            note: String::new(),
        };
        let models: Vec<_> = (0..recipe.shards).map(|_| parameters.apply(model.clone(), &device)).collect();
        let (frozen, pools) = (models[0].valid(), crate::train::pools(recipe.shards)?);
        let out = options.out.clone();
        let revision = options.revision.clone().unwrap_or_default();
        Ok(Self { recipe, text, out, config, about, device, models, frozen, pools, parameters, data, step, seconds, revision })
    }

    /// The state of every tensor.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The photos.
    pub fn data(&self) -> &PairData {
        &self.data
    }

    /// The model that an adapter written now gives, without gradients: the running means where the
    /// recipe keeps them.
    pub fn model(&self) -> ClipGuidedSam {
        self.parameters.refresh_exported(self.models[0].clone(), &self.device).valid()
    }

    /// Steps of an epoch, rounded up.
    pub fn steps_per_epoch(&self) -> usize {
        self.data.groups(self.recipe.data.classes_per_image).div_ceil(self.recipe.data.images)
    }

    /// Trains to the end of the recipe, until `stop` is set, or until the observer has seen enough.
    pub fn run(&mut self, observer: &mut dyn GuidedObserver, stop: &AtomicBool) -> Result<Outcome, TrainError> {
        self.announce(observer)?;
        let (mut pace, mut judged) = (Pace::open(&self.out, self.step)?, false);
        while self.step < self.recipe.steps && !stop.load(Ordering::Relaxed) {
            let begin = Instant::now();
            let report = self.train_step()?;
            let seconds = begin.elapsed().as_secs_f64();
            self.seconds += seconds;
            let at = (self.step, self.recipe.steps, self.seconds);
            pace.step(report, seconds, at, self.recipe.log.every_steps, observer)?;
            match self.validate(observer)? {
                Some(Verdict::Stop) => {
                    self.save()?;
                    return Ok(Outcome { step: self.step, complete: true, model_file: ADAPTER_FILE });
                }
                verdict => judged |= verdict.is_some(),
            }
            if pace.checkpoint(self.step, &self.recipe.checkpoint) {
                self.save()?;
            }
        }
        self.save()?;
        if !judged {
            self.write_adapter("")?;
        }
        Ok(Outcome { step: self.step, complete: self.step >= self.recipe.steps, model_file: ADAPTER_FILE })
    }

    /// Asks the observer where it is due, and keeps the adapter where it got better.
    fn validate(&mut self, observer: &mut dyn GuidedObserver) -> Result<Option<Verdict>, TrainError> {
        if !self.recipe.log.observes(self.step, self.recipe.steps) {
            return Ok(None);
        }
        let verdict = observer.validate(self.step, &self.model(), &self.data);
        if let Some(Verdict::Better(note)) = &verdict {
            self.write_adapter(note)?;
        }
        Ok(verdict)
    }

    fn announce(&self, observer: &mut dyn GuidedObserver) -> Result<(), TrainError> {
        write_atomic(&self.out.join("recipe.toml"), self.text.as_bytes())?;
        let total: usize = self.parameters.model_tensors().iter().map(|t| t.value.len()).sum();
        observer.note(&format!(
            "{}: {total} parameters, {} trainable; {} photos, {} pairs, {} classes, {} steps an epoch; step {} of {}",
            self.recipe.name,
            self.parameters.trainable_count(),
            self.data.len(),
            self.data.pairs(),
            self.data.names.len(),
            self.steps_per_epoch(),
            self.step,
            self.recipe.steps
        ));
        Ok(())
    }

    /// One optimiser step.
    pub fn train_step(&mut self) -> Result<StepReport, TrainError> {
        let lr = optim::learning_rate(&self.recipe.optimizer, self.step, self.recipe.steps);
        let mut report = StepReport { lr, ..StepReport::default() };
        let loaded = self.data.step(&self.recipe, &self.config, self.step)?;
        report.images = loaded.len();
        let pairs: usize = loaded.iter().map(|l| l.pairs.len()).sum();
        let shards = split(loaded, self.recipe.shards);
        let this = &*self;
        let answers: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = shards
                .iter()
                .enumerate()
                .map(|(k, part)| scope.spawn(move || this.pools[k].install(|| this.shard_step(k, part))))
                .collect();
            threads.into_iter().map(|t| t.join()).collect()
        });
        for (answer, part) in answers.into_iter().zip(&shards) {
            let answer = answer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            let own: usize = part.iter().map(|l| l.pairs.len()).sum();
            let weight = own as f32 / pairs as f32;
            for (name, value, term_weight) in answer.terms {
                report.loss += value * term_weight * weight;
                report.losses.push((format!("clip_guided/{name}"), value));
            }
            self.parameters.accumulate(answer.grads, weight);
        }
        if let Some((name, value)) = self.parameters.non_finite_gradient() {
            let term = format!("gradient of {name}");
            return Err(TrainError::NonFinite { step: self.step + 1, term, value });
        }
        report.grad_norm = optim::step(&mut self.parameters, &self.recipe.optimizer, lr);
        let models = std::mem::take(&mut self.models);
        self.models = models.into_iter().map(|m| self.parameters.refresh(m, &self.device)).collect();
        self.step += 1;
        Ok(report)
    }

    /// Forward and backward of one part of a batch, pass by pass.
    fn shard_step(&self, k: usize, part: &[Loaded]) -> Result<Answer, TrainError> {
        let all: usize = part.iter().map(|l| l.pairs.len()).sum();
        let mut answer: Option<Answer> = None;
        for pass in passes(part, self.recipe.pairs_per_pass) {
            let own: usize = pass.iter().map(|l| l.pairs.len()).sum();
            let next = self.pass(k, &pass)?;
            let weight = own as f32 / all as f32;
            answer = Some(match answer {
                None => next.scaled(weight),
                Some(sum) => sum.plus(next.scaled(weight)),
            });
        }
        Ok(answer.unwrap_or_default())
    }

    fn pass(&self, k: usize, part: &[Loaded]) -> Result<Answer, TrainError> {
        let model = &self.models[k];
        let look = self.look(model, part)?;
        let pairs = self.pairs(part);
        let weights = self.recipe.objective.losses;
        let alone = self.step < self.recipe.objective.clip_alone_steps;
        let loss = match alone {
            true => clip_guided::map_loss(model, &look, &pairs, weights),
            false => clip_guided::loss(model, &look, &pairs, weights),
        };
        if let Some(bad) = loss.terms.iter().find(|t| !t.value.is_finite()) {
            return Err(TrainError::NonFinite { step: self.step + 1, term: bad.name.to_owned(), value: bad.value });
        }
        let terms = loss.terms.iter().map(|t| (t.name, t.value, t.weight)).collect();
        let grads = match loss.surrogate.filter(|t| t.is_tracked()) {
            Some(total) => self.parameters.collect(model, &Leaves::default(), &mut total.backward()),
            None => Vec::new(),
        };
        Ok(Answer { terms, grads })
    }

    /// Both networks on the images of a part; what no gradient passes runs without a graph.
    fn look(&self, model: &ClipGuidedSam, part: &[Loaded]) -> Result<Look, TrainError> {
        let batch = |values: &dyn Fn(&Loaded) -> &[f32], side: usize, device: &Device| {
            let data: Vec<f32> = part.iter().flat_map(|l| values(l)).copied().collect();
            Tensor::<4>::from_data(TensorData::new(data, vec![part.len(), 3, side, side]), device)
        };
        let plain = Device::flex();
        let vit = &self.frozen.image_encoder;
        let pixels = batch(&|l| &l.sam, self.config.sam.image_encoder.img_size, &plain);
        let first = model.adapters.iter().position(|a| !a.is_empty()).unwrap_or(vit.blocks.len());
        let x = vit.blocks[..first].iter().fold(vit.embed(pixels), |x, block| block.forward(x));
        let shared = model.encoder().shared_from(x.autodiff(), first);
        let trained = self.config.train.clip_blocks > 0;
        let (clip, device) = if trained { (&model.clip, &self.device) } else { (&self.frozen.clip, &plain) };
        let clip_pixels = batch(&|l| &l.clip, self.config.clip.side(), device);
        let mut patches = clip.patches(clip_pixels, &self.config.clip)?;
        patches.tokens = patches.tokens.autodiff();
        Ok(Look { shared, patches })
    }

    fn pairs(&self, part: &[Loaded]) -> Pairs {
        let all = || part.iter().enumerate().flat_map(|(i, l)| l.pairs.iter().map(move |p| (i, p)));
        let text: Vec<f32> = all().flat_map(|(_, p)| self.data.vectors[p.row].iter().copied()).collect();
        let count = all().count();
        let shape = vec![count, text.len() / count.max(1)];
        Pairs {
            image_index: all().map(|(i, _)| i).collect(),
            text: Tensor::from_data(TensorData::new(text, shape), &self.device),
            targets: all().map(|(_, p)| p.target.clone()).collect(),
            draws: all().map(|(_, p)| p.draws.clone()).collect(),
            clicks: all().map(|(_, p)| p.clicks).collect(),
        }
    }

    /// Writes the checkpoint.
    pub fn save(&self) -> Result<(), TrainError> {
        let (recipe, revision) = (self.text.clone(), self.revision.clone());
        let progress = Progress { step: self.step, positions: Vec::new(), seconds: self.seconds, recipe, revision };
        checkpoint::save(&checkpoint::path(&self.out), &self.parameters, &progress)
    }

    /// Writes the adapter as it stands.
    pub fn write_adapter(&self, note: &str) -> Result<PathBuf, TrainError> {
        let about = About { steps: self.step, note: note.to_owned(), ..self.about.clone() };
        let path = self.out.join(ADAPTER_FILE);
        write_adapter(&path, &about, &self.parameters)?;
        Ok(path)
    }
}

/// Writes the trained tensors, their running means where the recipe keeps them, with what they belong to.
pub fn write_adapter(path: &Path, about: &About, parameters: &Parameters) -> Result<(), TrainError> {
    let tensors = parameters.model_tensors().iter();
    let state = artefact::to_state(about, tensors.map(|t| (t.name.as_str(), t.shape.as_slice(), t.exported())));
    Ok(samclip_weights::write_safetensors(path, &state)?)
}

/// What a part of a batch answers: means of (name, value, weight) and of gradients.
#[derive(Default)]
struct Answer {
    terms: Vec<(&'static str, f32, f32)>,
    grads: Vec<Option<Vec<f32>>>,
}

impl Answer {
    fn scaled(mut self, by: f32) -> Self {
        if by != 1.0 {
            self.terms.iter_mut().for_each(|t| t.1 *= by);
            self.grads.iter_mut().flatten().flatten().for_each(|g| *g *= by);
        }
        self
    }

    fn plus(mut self, other: Self) -> Self {
        self.terms.iter_mut().zip(other.terms).for_each(|(a, b)| a.1 += b.1);
        for (sum, own) in self.grads.iter_mut().zip(other.grads) {
            match (sum, own) {
                (Some(sum), Some(own)) => sum.iter_mut().zip(own).for_each(|(a, b)| *a += b),
                (sum @ None, own) => *sum = own,
                _ => {}
            }
        }
        self
    }
}

/// A part cut so that no more than `most` pairs go together; 0 cuts nothing.
fn passes(part: &[Loaded], most: usize) -> Vec<Vec<Loaded>> {
    if most == 0 {
        return vec![part.to_vec()];
    }
    let mut passes: Vec<(usize, Vec<Loaded>)> = Vec::new();
    for image in part {
        for pairs in image.pairs.chunks(most) {
            let piece = Loaded { pairs: pairs.to_vec(), ..image.clone() };
            match passes.last_mut().filter(|(n, _)| n + pairs.len() <= most) {
                Some((n, pass)) => {
                    *n += pairs.len();
                    pass.push(piece);
                }
                None => passes.push((pairs.len(), vec![piece])),
            }
        }
    }
    passes.into_iter().map(|(_, pass)| pass).collect()
}

/// Cuts a batch into parts with about as many pairs each; no part is empty.
fn split(loaded: Vec<Loaded>, parts: usize) -> Vec<Vec<Loaded>> {
    let mut shards: Vec<(usize, Vec<Loaded>)> = (0..parts.min(loaded.len())).map(|_| (0, Vec::new())).collect();
    for image in loaded {
        let least = (0..shards.len()).fold(0, |best, i| if shards[i].0 < shards[best].0 { i } else { best });
        shards[least].0 += image.pairs.len();
        shards[least].1.push(image);
    }
    shards.into_iter().map(|(_, part)| part).filter(|part| !part.is_empty()).collect()
}
