//! One part of a batch: forward, losses, backward. Parts run side by side, a thread each.

use crate::error::TrainError;
use crate::feed::Fed;
use crate::objectives::{Leaves, Step, TeacherOutputs, shard_outputs};
use crate::train::{Trainer, task_seed};
use burn::tensor::{Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use samclip_data::loader::Batch;
use samclip_image::Normalization;
use std::cell::OnceCell;

/// What a part of a batch answers: terms (name, value, weight) and gradients.
pub(crate) struct ShardAnswer {
    pub terms: Vec<(String, f32, f32)>,
    pub grads: Vec<Option<Vec<f32>>>,
}

/// Randomness of a step is a pure function of (seed, step, shard): nothing to store.
fn step_rng(seed: u64, step: usize, shard: usize) -> ChaCha8Rng {
    let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_add((shard as u64) << 32));
    rng.set_stream(step as u64 + 1);
    rng
}

impl Trainer {
    /// Cuts a batch into the recipe's parts, as evenly as it goes.
    pub(crate) fn shards(&self, fed: Fed) -> Vec<(Batch, TeacherOutputs)> {
        let (n, side) = (fed.batch.items.len(), fed.batch.side);
        let count = self.recipe.shards.min(n);
        let mut items = fed.batch.items.into_iter();
        (0..count)
            .map(|k| {
                let range = n * k / count..n * (k + 1) / count;
                let items = items.by_ref().take(range.len()).collect();
                (Batch { items, side }, shard_outputs(&fed.teachers, n, range))
            })
            .collect()
    }

    /// Forward and backward of one part of a batch.
    pub(crate) fn shard_step(
        &self,
        i: usize,
        k: usize,
        (batch, teachers): &(Batch, TeacherOutputs),
    ) -> Result<ShardAnswer, TrainError> {
        let (n, side) = (batch.items.len(), batch.side);
        let model = &self.models[k];
        let pixels = batch.pixels(&Normalization::SAM);
        let pixels = Tensor::<4>::from_data(TensorData::new(pixels, vec![n, 3, side, side]), &self.device);
        let mut step = Step {
            model,
            parameters: &self.parameters,
            device: &self.device,
            setup: &self.setups[i],
            vocabulary: &self.vocabulary,
            scale: (self.recipe.model.logit_scale, self.recipe.model.background_logit.unwrap_or(0.0)),
            batch,
            pixels: pixels.clone(),
            natives: &self.natives,
            teachers,
            tokens: model.tokens(pixels),
            clip: OnceCell::new(),
            rng: step_rng(task_seed(self.recipe.seed, i), self.micro_step(), k),
            leaves: Leaves::default(),
        };
        let losses = step.losses()?;
        let leaves = std::mem::take(&mut step.leaves);
        let task = &step.setup.task.name;
        let mut total: Option<Tensor<1>> = None;
        let mut terms = Vec::new();
        for (objective, loss) in losses {
            for term in loss.terms {
                let name = format!("{task}/{objective}/{}", term.name);
                if !term.value.is_finite() {
                    return Err(TrainError::NonFinite { step: self.step + 1, term: name, value: term.value });
                }
                terms.push((name, term.value, term.weight));
            }
            total = match (total, loss.surrogate) {
                (Some(a), Some(b)) => Some(a + b),
                (a, b) => a.or(b),
            };
        }
        drop(step);
        let grads = match total.filter(|t| t.is_tracked()) {
            Some(total) => self.parameters.collect(model, &leaves, &mut total.backward()),
            None => Vec::new(),
        };
        Ok(ShardAnswer { terms, grads })
    }
}
