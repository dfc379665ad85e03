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
use samclip_models::sam_clip::SamClip;
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
    /// Cuts what this process has read of a batch into its shards, each with its number.
    pub(crate) fn shards(&self, fed: Fed) -> Vec<(usize, Batch, TeacherOutputs)> {
        let Batch { items, side, size } = fed.batch;
        let (n, begin) = (items.len(), self.part.range(size).start);
        let mut items = items.into_iter();
        self.part
            .shards(size)
            .map(|k| {
                let range = self.part.samples(k, size);
                let items = items.by_ref().take(range.len()).collect();
                let own = range.start - begin..range.end - begin;
                (k, Batch { items, side, size }, shard_outputs(&fed.teachers, n, own))
            })
            .collect()
    }

    /// Forward and backward of one part of a batch.
    pub(crate) fn shard_step(
        &self,
        i: usize,
        model: &SamClip,
        (k, batch, teachers): &(usize, Batch, TeacherOutputs),
    ) -> Result<ShardAnswer, TrainError> {
        let (n, side) = (batch.items.len(), batch.side);
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
            rng: step_rng(task_seed(self.recipe.seed, i), self.micro_step(), *k),
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
