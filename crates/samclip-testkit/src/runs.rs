//! Runs of seconds: recipes of a model of 64 px on painted shapes.

use std::path::{Path, PathBuf};

use crate::tiny;

/// Learns from the masks of the data.
pub const MASKS: &str = r#"
[[task.objective]]
kind = "mask_supervision"
weight = 1.0
point_prompts = 1
box_prompts = 1
text_prompts = 0
rounds = 2
center_click = 0.5
min_area = 0.01
max_area = 0.9
focal = 20.0
dice = 1.0
iou = 1.0
"#;

/// Learns from the model whose weights [`folder`] writes.
pub const DISTILL: &str = r#"
[[task.objective]]
kind = "clip_distill"
weight = 1.0
teacher = "tiny.safetensors"
output = "pooled"
"#;

/// A recipe of the small model; `data` is `(dataset, split)`.
pub struct Recipe<'a> {
    /// Steps in all.
    pub steps: usize,
    /// Steps between checkpoints.
    pub every: usize,
    /// Learning rate.
    pub lr: f32,
    /// Unreadable photos that are allowed.
    pub max_skipped: usize,
    /// Parts of a batch.
    pub shards: usize,
    /// Data set and split.
    pub data: (&'a str, &'a str),
    /// Tables `[[task.objective]]`.
    pub objectives: String,
    /// A weight file, or `fresh`.
    pub init: &'a str,
    /// What learns.
    pub trainable: &'a str,
}

impl Recipe<'_> {
    /// Writes it as `recipe.toml`.
    pub fn write(&self, folder: &Path) -> PathBuf {
        let path = folder.join("recipe.toml");
        std::fs::write(&path, self.text()).unwrap();
        path
    }

    /// The recipe.
    pub fn text(&self) -> String {
        let Self { steps, every, lr, max_skipped, shards, data: (dataset, split), objectives, init, trainable } = self;
        let mut sizes = toml::Table::new();
        let mut model = toml::Table::new();
        model.insert("sizes".into(), toml::Value::try_from(tiny::config()).unwrap());
        sizes.insert("model".into(), toml::Value::Table(model));
        let sizes = sizes.to_string();
        format!(
            r#"name = "tiny"
seed = 5
steps = {steps}
precision = "f32"
shards = {shards}

[optimizer]
lr = {lr:e}
final_lr = 0.0
warmup_steps = 2
decay_steps = {}
betas = [0.9, 0.99]
weight_decay = 0.01
clip_norm = 1.0
ema_decay = 0.9

[checkpoint]
every_steps = {every}
every_minutes = 1000.0

[log]
every_steps = 1
observe_every_steps = 0

[smoke]
steps = 2
batch = 2

[[task]]
name = "photos"
every_steps = 1
side = 64
sides = [32, 64]
batch = 4
max_skipped = {max_skipped}

[task.augment]
hflip = 0.5
geometry = {{ kind = "random_resized_crop", scale = [0.5, 1.0], ratio = [0.75, 1.34] }}

[[task.data]]
dataset = "{dataset}"
split = "{split}"
weight = 1.0
{objectives}
[model]
variant = "sam_clip_nano"
init = "{init}"
trainable = ["{trainable}"]
logit_scale = 20.0
background_logit = 5.0
{}"#,
            (steps - 2).min(10),
            sizes.replace("[model]\n", "")
        )
    }
}

/// Both objectives on painted shapes.
pub fn shapes(steps: usize, every: usize) -> Recipe<'static> {
    let objectives = [MASKS, DISTILL].concat();
    let (data, init, trainable) = (("shapes", "23"), "fresh", "*");
    Recipe { steps, every, lr: 2e-3, max_skipped: 0, shards: 2, data, objectives, init, trainable }
}

/// A folder with the weights that the recipes name.
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    tiny::weights(folder.path());
    folder
}
