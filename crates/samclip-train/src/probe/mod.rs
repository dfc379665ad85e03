//! Probing: a head learns on the features of a frozen backbone.
//!
//! Paper: SAM-CLIP (arXiv 2310.15308) §4.3; spec 5.7. The heads are [`samclip_models::probe`], optimiser and schedule are
//! those of every run ([`crate::optim`]). Deviation: features are encoded once ([`store`]), so photos are not augmented,
//! and the loss is taken on a grid of `label_side` cells. One seed gives one head, whatever the threads.

pub mod store;

use crate::error::TrainError;
use crate::losses::cross_entropy_of;
use crate::objectives::Leaves;
use crate::optim;
use crate::parameters::Parameters;
use crate::recipe::Optimizer;
use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use samclip_models::init::Init;
use samclip_models::ops;
use samclip_models::probe::{ProbeHead, ProbeHeadConfig, TrainPass, is_statistic, update_running, upsample_aligned};
use store::FeatureStore;

/// The label of a cell that nobody knows.
pub const UNKNOWN: u16 = u16::MAX;

/// How a head learns.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeTraining {
    /// The head.
    pub head: ProbeHeadConfig,
    /// Classes.
    pub classes: usize,
    /// Updates.
    pub steps: usize,
    /// Photos of an update.
    pub batch: usize,
    /// Learning rates; of several the one that is best on a tenth of the photos is taken.
    pub rates: Vec<f32>,
    /// AdamW's decay.
    pub weight_decay: f32,
    /// Cells along a side of a photo's labels; 1 for one class a photo.
    pub label_side: usize,
    /// Of initial values, order and dropout.
    pub seed: u64,
}

/// Features and labels.
pub struct ProbeSet<'a> {
    /// The frozen backbone's.
    pub features: &'a FeatureStore,
    /// Of every photo `label_side` x `label_side` classes, [`UNKNOWN`] where nobody knows.
    pub labels: &'a [Vec<u16>],
}

/// A head that has learnt.
#[derive(Debug)]
pub struct Fitted {
    /// Without gradients.
    pub head: ProbeHead,
    /// Its learning rate.
    pub rate: f32,
    /// Every rate with its share of right cells on the photos that were kept apart; empty for one rate.
    pub swept: Vec<(f32, f64)>,
    /// The last update's loss.
    pub loss: f32,
}

/// Trains a head; `progress` is told how many updates of how many are done.
///
/// # Errors
/// Sets that do not fit together, a loss that is not finite.
pub fn fit(training: &ProbeTraining, set: &ProbeSet<'_>, progress: &mut dyn FnMut(usize, usize)) -> Result<Fitted, TrainError> {
    check(training, set)?;
    let before = ops::precision();
    ops::set_precision(ops::Precision::F32);
    let fitted = sweep(training, set, progress);
    ops::set_precision(before);
    fitted
}

fn check(training: &ProbeTraining, set: &ProbeSet<'_>) -> Result<(), TrainError> {
    let invalid = |message: String| Err(TrainError::Invalid(message));
    let (photos, cells) = (set.features.len(), training.label_side.pow(2));
    if set.labels.len() != photos || set.labels.iter().any(|l| l.len() != cells) {
        return invalid(format!("probing: expected {cells} labels for each of {photos} photos"));
    }
    if training.classes < 2 {
        return invalid(format!("probing: expected at least two classes, found {}", training.classes));
    }
    if photos < 2 || training.batch < 2 || training.steps == 0 || training.rates.is_empty() || cells == 0 {
        return invalid("probing: needs two photos, a batch of two, a step and a learning rate".into());
    }
    training.head.check().map_err(|e| TrainError::Invalid(format!("probing: {e}")))
}

fn sweep(training: &ProbeTraining, set: &ProbeSet<'_>, progress: &mut dyn FnMut(usize, usize)) -> Result<Fitted, TrainError> {
    let all: Vec<usize> = (0..set.features.len()).collect();
    let (mut swept, mut rate) = (Vec::new(), training.rates[0]);
    let several = training.rates.len() > 1;
    let total = training.steps * if several { training.rates.len() + 1 } else { 1 };
    if several {
        let (apart, rest): (Vec<usize>, Vec<usize>) = all.iter().partition(|i| **i % 10 == 9);
        for (k, &lr) in training.rates.iter().enumerate() {
            let (head, _) = train(training, set, &rest, lr, &mut |step| progress(k * training.steps + step, total))?;
            swept.push((lr, accuracy(training, set, &head, &apart)));
        }
        let best = swept.iter().map(|s| s.1).fold(f64::MIN, f64::max);
        rate = swept.iter().find(|s| s.1 == best).map_or(rate, |s| s.0);
    }
    let (head, loss) = train(training, set, &all, rate, &mut |step| progress(total - training.steps + step, total))?;
    Ok(Fitted { head, rate, swept, loss })
}

fn optimizer(training: &ProbeTraining, lr: f32) -> Optimizer {
    Optimizer {
        lr,
        final_lr: 0.0,
        warmup_steps: training.steps / 20,
        decay_steps: training.steps - training.steps / 20,
        betas: [0.9, 0.999],
        weight_decay: training.weight_decay,
        clip_norm: 1e6,
        accumulate: 1,
        ema_decay: None,
        muon: None,
        groups: Vec::new(),
    }
}

/// Photos in shuffled epochs, without end.
struct Order {
    photos: Vec<usize>,
    at: usize,
    rng: ChaCha8Rng,
}

impl Order {
    fn batch(&mut self, size: usize) -> Vec<usize> {
        let mut next = || {
            if self.at == 0 {
                self.photos.shuffle(&mut self.rng);
            }
            let photo = self.photos[self.at];
            self.at = (self.at + 1) % self.photos.len();
            photo
        };
        (0..size).map(|_| next()).collect()
    }
}

fn train(
    training: &ProbeTraining,
    set: &ProbeSet<'_>,
    photos: &[usize],
    lr: f32,
    progress: &mut dyn FnMut(usize),
) -> Result<(ProbeHead, f32), TrainError> {
    let device = Device::flex().autodiff();
    let optimizer = optimizer(training, lr);
    let width = set.features.shape()[2];
    let mut head = training.head.init(width, training.classes, &mut Init::seeded(training.seed, &device));
    let mut parameters = Parameters::with_rule(&head, |name| !is_statistic(name), &optimizer);
    head = parameters.apply(head, &device);
    let mut order = Order { photos: photos.to_vec(), at: 0, rng: ChaCha8Rng::seed_from_u64(training.seed) };
    let mut loss = 0.0;
    for step in 0..training.steps {
        let batch = order.batch(training.batch);
        let mut pass = TrainPass { keep: keep(training, batch.len(), width, &mut order.rng, &device), ..TrainPass::default() };
        let logits = head.forward_train(features(set, &batch, &device), &mut pass);
        let value;
        (value, parameters) = learn(training, set, &batch, logits, (&head, parameters));
        loss = value;
        if !loss.is_finite() {
            return Err(TrainError::NonFinite { step: step + 1, term: "cross-entropy of the probe".into(), value: loss });
        }
        optim::step(&mut parameters, &optimizer, optim::learning_rate(&optimizer, step, training.steps));
        remember(&mut parameters, &pass.statistics);
        head = parameters.apply(head, &device);
        progress(step + 1);
    }
    Ok((head.valid(), loss))
}

/// Loss and gradients of a batch.
fn learn(
    training: &ProbeTraining,
    set: &ProbeSet<'_>,
    batch: &[usize],
    logits: Tensor<4>,
    (head, mut parameters): (&ProbeHead, Parameters),
) -> (f32, Parameters) {
    let side = training.label_side;
    let logits = upsample_aligned(logits, [side, side]); // [B, side, side, K]
    let values: Vec<f32> = logits.clone().detach().into_data().convert::<f32>().try_into_vec().expect("values were converted to f32");
    let cells = side * side;
    let label = |i: usize| Some(set.labels[batch[i / cells]][i % cells]).filter(|l| *l != UNKNOWN).map(usize::from);
    let (value, grad, _) = cross_entropy_of(&values, training.classes, label);
    let grad = Tensor::<4>::from_data(TensorData::new(grad, logits.dims().to_vec()), &logits.device());
    let mut grads = (logits * grad).sum().backward();
    let grads = parameters.collect(head, &Leaves::default(), &mut grads);
    parameters.accumulate(grads, 1.0);
    (value, parameters)
}

/// Dropout of whole channels: zero, or one over the share that is kept.
fn keep(training: &ProbeTraining, batch: usize, width: usize, rng: &mut ChaCha8Rng, device: &Device) -> Option<Tensor<4>> {
    let drop = training.head.dropout();
    if drop == 0.0 {
        return None;
    }
    let channels = training.head.classifier_width(width);
    let mut one = || if rng.random::<f32>() < drop { 0.0 } else { 1.0 / (1.0 - drop) };
    let values: Vec<f32> = (0..batch * channels).map(|_| one()).collect();
    Some(Tensor::from_data(TensorData::new(values, vec![batch, 1, 1, channels]), device))
}

/// The batch's statistics into the running ones.
fn remember(parameters: &mut Parameters, statistics: &[(Vec<f32>, Vec<f32>)]) {
    let (mut means, mut vars) = (statistics.iter(), statistics.iter());
    for tensor in parameters.tensors_mut() {
        let batch = match tensor.name.rsplit('.').next() {
            Some("running_mean") => means.next().map(|s| &s.0),
            Some("running_var") => vars.next().map(|s| &s.1),
            _ => None,
        };
        batch.into_iter().for_each(|batch| update_running(&mut tensor.value, batch));
    }
}

fn features(set: &ProbeSet<'_>, batch: &[usize], device: &Device) -> Tensor<4> {
    let [h, w, d] = set.features.shape();
    let mut values = Vec::with_capacity(batch.len() * h * w * d);
    batch.iter().for_each(|&i| set.features.read(i, &mut values));
    Tensor::from_data(TensorData::new(values, vec![batch.len(), h, w, d]), device)
}

/// Share of known cells whose best class is right.
fn accuracy(training: &ProbeTraining, set: &ProbeSet<'_>, head: &ProbeHead, photos: &[usize]) -> f64 {
    let side = training.label_side;
    let (mut right, mut known) = (0u64, 0u64);
    for &photo in photos {
        let logits = upsample_aligned(head.forward(features(set, &[photo], &Device::flex())), [side, side]);
        let values: Vec<f32> = logits.into_data().convert::<f32>().try_into_vec().expect("values were converted to f32");
        for (row, label) in values.chunks_exact(training.classes).zip(&set.labels[photo]).filter(|(_, l)| **l != UNKNOWN) {
            let best = row.iter().enumerate().fold(0, |best, (k, v)| if *v > row[best] { k } else { best });
            (right, known) = (right + u64::from(best == usize::from(*label)), known + 1);
        }
    }
    right as f64 / known.max(1) as f64
}
