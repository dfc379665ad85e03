//! What a recipe that parses may still not say.

use super::{Objective, Optimizer, Recipe, Task};
use crate::error::TrainError;
use std::collections::BTreeMap;

impl Recipe {
    pub(super) fn check(&self) -> Result<(), TrainError> {
        if self.steps == 0 || self.log.every_steps == 0 || self.checkpoint.every_steps == 0 {
            return fail("steps, log.every_steps and checkpoint.every_steps must be at least 1".into());
        }
        if self.shards == 0 {
            return fail("shards must be at least 1".into());
        }
        self.optimizer.check(self.steps)?;
        if self.tasks.is_empty() {
            return fail("no [[task]]".into());
        }
        let reads_text = self.tasks.iter().flat_map(|t| &t.objectives).find(|o| o.reads_text());
        if let (Some(objective), None) = (reads_text, self.model.background_logit) {
            return fail(format!("{} needs model.background_logit", objective.name()));
        }
        if let Some(side) = self.model.img_size.filter(|side| *side == 0 || side % 16 != 0) {
            return fail(format!("model.img_size {side} is not a multiple of 16"));
        }
        heads(&self.tasks)?;
        self.tasks.iter().try_for_each(task)
    }
}

fn fail(message: String) -> Result<(), TrainError> {
    Err(TrainError::Invalid(message))
}

impl Optimizer {
    /// What holds of every kind of recipe.
    pub(crate) fn check(&self, steps: usize) -> Result<(), TrainError> {
        let sum = self.warmup_steps + self.decay_steps;
        if sum > steps {
            return fail(format!("optimizer.warmup_steps + decay_steps is {sum}, more than steps = {steps}"));
        }
        if self.accumulate == 0 {
            return fail("optimizer.accumulate must be at least 1".into());
        }
        let momentum = self.muon.as_ref().map(|muon| muon.momentum);
        for (key, value) in [("muon.momentum", momentum), ("ema_decay", self.ema_decay)] {
            if let Some(value) = value.filter(|value| !(0.0..1.0).contains(value)) {
                return fail(format!("optimizer.{key} must lie in [0, 1), found {value}"));
            }
        }
        Ok(())
    }

    /// Its patterns over tensor names, with the key of each.
    pub(crate) fn patterns(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let groups = self.groups.iter().map(|group| ("optimizer.group", group.pattern.as_str()));
        let muon = self.muon.iter().flat_map(|muon| &muon.patterns);
        groups.chain(muon.map(|pattern| ("optimizer.muon", pattern.as_str())))
    }
}

/// A linear layer predicts one output of one teacher.
fn heads(tasks: &[Task]) -> Result<(), TrainError> {
    let mut owners = BTreeMap::new();
    for objective in tasks.iter().flat_map(|t| &t.objectives) {
        let Objective::FeatureDistill(o) = objective else { continue };
        let owner = (&o.teacher, &o.output);
        if *owners.entry(o.head()).or_insert(owner) != owner {
            return fail(format!("feature_distill: two teachers share the head `{}`; give each a `head` of its own", o.head()));
        }
    }
    Ok(())
}

fn task(task: &Task) -> Result<(), TrainError> {
    let name = &task.name;
    for side in task.sides.iter().chain([&task.side]) {
        if *side == 0 || side % 32 != 0 {
            return fail(format!("task {name}: side {side} is not a multiple of 32"));
        }
    }
    if task.batch == 0 || task.every_steps == 0 || task.data.is_empty() {
        return fail(format!("task {name}: batch, every_steps and data must not be empty"));
    }
    if task.objectives.is_empty() {
        return fail(format!("task {name}: no [[task.objective]]"));
    }
    if !(0.0..1.0).contains(&task.teacher_dropping) {
        return fail(format!("task {name}: teacher_dropping must lie in [0, 1), found {}", task.teacher_dropping));
    }
    let told = task.objectives.iter().find(|o| matches!(o, Objective::Contrastive(_)));
    if let (Some(objective), Some(_)) = (told, &task.augment.cutmix) {
        return fail(format!("task {name}: augment.cutmix with {}: a caption belongs to one photo", objective.name()));
    }
    for data in &task.data {
        if !(data.weight > 0.0 && data.weight.is_finite()) {
            return fail(format!("task {name}: weight {} of {}", data.weight, data.dataset));
        }
        if let Some(share) = data.repeat_threshold.filter(|share| !(*share > 0.0 && *share <= 1.0)) {
            return fail(format!("task {name}: repeat_threshold {share} of {} is not a share in (0, 1]", data.dataset));
        }
    }
    Ok(())
}
