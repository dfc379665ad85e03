//! The loop on a tiny model and four painted squares: resuming is exact, gradients stay
//! where they may go, every objective can be learnt by heart.

use samclip_data::augment::Augment;
use samclip_data::{DataError, Dataset, Sample};
use samclip_image::{Image, LabelMap};
use samclip_models::Device;
use samclip_models::clip::ClipConfig;
use samclip_models::init::Init;
use samclip_models::sam_clip::SamClipConfig;
use samclip_models::state;
use samclip_testkit::runs::MASKS;
use samclip_train::TrainError;
use samclip_train::native::Native;
use samclip_train::objectives::{Natives, TaskSetup};
use samclip_train::parameters::Parameters;
use samclip_train::recipe::Recipe;
use samclip_train::teacher::Teacher;
use samclip_train::train::{Inputs, RunOptions, Trainer};
use samclip_train::vocabulary::TextSource;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

const SIDE: usize = 64;

/// Four photos: a bright rectangle of class 1 or 2 on a noisy ground.
struct Squares(Vec<String>);

impl Squares {
    fn new() -> Self {
        Self(["background", "cat", "dog"].map(String::from).to_vec())
    }
}

impl Dataset for Squares {
    fn name(&self) -> &str {
        "voc"
    }

    fn len(&self) -> usize {
        4
    }

    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let class = 1 + index % 2;
        let (x0, y0) = (4 + 8 * (index / 2), 8 + 6 * index);
        let mut pixels = Vec::with_capacity(SIDE * SIDE * 3);
        let mut labels = vec![0; SIDE * SIDE];
        for y in 0..SIDE {
            for x in 0..SIDE {
                let inside = (x0..x0 + 30).contains(&x) && (y0..y0 + 26).contains(&y);
                let ground = (40 + (x * 7 + y * 13 + index * 29) % 40) as u8;
                let colour = if class == 1 { [220, 80, 40] } else { [40, 90, 230] };
                pixels.extend(if inside { colour } else { [ground; 3] });
                labels[y * SIDE + x] = if inside { class as u8 } else { 0 };
            }
        }
        Ok(Sample {
            id: index.to_string(),
            image: Image::new(SIDE, SIDE, pixels)?,
            labels: Some(LabelMap { width: SIDE, height: SIDE, data: labels }),
            masks: Vec::new(),
            class_ids: vec![class],
            captions: vec![format!("square number {index}")],
        })
    }

    fn class_names(&self) -> &[String] {
        &self.0
    }

    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

fn tiny() -> SamClipConfig {
    let mut config = SamClipConfig::nano();
    let encoder = &mut config.sam.image_encoder;
    encoder.img_size = SIDE;
    encoder.embed_dim = 32;
    encoder.depth = 2;
    encoder.num_heads = 2;
    encoder.out_chans = 32;
    encoder.window_size = 2;
    encoder.global_attn_indexes = vec![1];
    encoder.stem = samclip_models::sam::Stem::Conv(vec![8, 16, 16, 32]);
    let decoder = &mut config.sam.mask_decoder;
    decoder.transformer_dim = 32;
    decoder.num_heads = 2;
    decoder.mlp_dim = 64;
    decoder.iou_head_hidden_dim = 32;
    config.clip_head.depth = 1;
    config.clip_head.mlp_dim = 32;
    config.clip_head.embed_dim = 8;
    config
}

const DENSE: &str = r#"
[[task.objective]]
kind = "dense_text"
weight = 1.0
upsample = 4
"#;

const POOLED: &str = r#"
[[task.objective]]
kind = "pooled_text"
weight = 1.0
multi_label = "softmax"
conse_weight = 0.0
teacher = ""
"#;

fn recipe(steps: usize, trainable: &str, objectives: &str) -> (Recipe, String) {
    let text = format!(
        r#"
name = "tiny"
seed = 3
steps = {steps}
precision = "f32"
shards = 2

[model]
variant = "sam_clip_nano"
init = "fresh"
trainable = {trainable}
text_table = "none"
logit_scale = 20.0
background_logit = 5.0

[optimizer]
lr = 3.0e-3
final_lr = 3.0e-3
warmup_steps = 2
decay_steps = 0
betas = [0.9, 0.99]
weight_decay = 0.01
clip_norm = 1.0

[checkpoint]
every_steps = 1000000
every_minutes = 1000.0

[log]
every_steps = 5
observe_every_steps = 0

[smoke]
steps = 2
batch = 2

[[task]]
name = "squares"
every_steps = 1
side = {SIDE}
batch = 4

[task.augment]
geometry = {{ kind = "squash" }}

[[task.data]]
dataset = "squares"
split = "train"
weight = 1.0
{objectives}"#
    );
    let mut recipe = Recipe::parse(&text, Path::new("tiny.toml")).unwrap();
    recipe.model.sizes = Some(tiny());
    (recipe, text)
}

fn trainer(
    out: &Path,
    recipe: (Recipe, String),
    augment: Option<Augment>,
) -> Result<Trainer, TrainError> {
    trainer_with(out, recipe, augment, BTreeMap::new())
}

fn trainer_with(
    out: &Path,
    (mut recipe, text): (Recipe, String),
    augment: Option<Augment>,
    natives: Natives,
) -> Result<Trainer, TrainError> {
    if let Some(augment) = augment {
        recipe.tasks[0].augment = augment;
    }
    let options = RunOptions { resume: true, ..RunOptions::new("none", out) };
    Trainer::new(recipe, text, inputs(natives), &options)
}

fn inputs(natives: Natives) -> Inputs {
    let mut vectors = vec![0.0; 2 * 8];
    (vectors[0], vectors[1], vectors[8], vectors[10]) = (0.8, 0.6, 0.6, 0.8);
    Inputs {
        datasets: vec![vec![Arc::new(Squares::new())]],
        text: TextSource::from_vectors(&["cat", "dog"], vectors, 8),
        teachers: vec![BTreeMap::new()],
        natives,
        weights: None,
    }
}

fn all() -> String {
    [MASKS, DENSE, POOLED].concat()
}

/// Random crops and flips, so that the loader's generators matter.
fn random() -> Option<Augment> {
    let text =
        "hflip = 0.5\ngeometry = { kind = \"random_resized_crop\", scale = [0.5, 1.0], ratio = [0.8, 1.25] }";
    Some(toml::from_str(text).unwrap())
}

#[test]
fn a_resumed_run_equals_an_uninterrupted_one_bit_for_bit() {
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut whole = trainer(one.path(), recipe(6, "[\"*\"]", &all()), random()).unwrap();
    for _ in 0..6 {
        whole.train_step().unwrap();
    }
    let mut first = trainer(two.path(), recipe(6, "[\"*\"]", &all()), random()).unwrap();
    for _ in 0..3 {
        first.train_step().unwrap();
    }
    first.save().unwrap();
    first.train_step().unwrap(); // lost: it was not saved
    drop(first);
    let mut second = trainer(two.path(), recipe(6, "[\"*\"]", &all()), random()).unwrap();
    assert_eq!(second.step_count(), 3);
    let outcome = second.run(&mut (), &AtomicBool::new(false)).unwrap();
    assert!(outcome.complete);
    assert!(whole.parameters() == second.parameters(), "values and moments");
}

#[test]
fn another_recipe_is_refused_and_a_stopped_run_saves() {
    let out = tempfile::tempdir().unwrap();
    let mut run = trainer(out.path(), recipe(4, "[\"*\"]", DENSE), None).unwrap();
    let outcome = run.run(&mut (), &AtomicBool::new(true)).unwrap();
    assert_eq!((outcome.step, outcome.complete), (0, false));
    drop(run);
    let error = trainer(out.path(), recipe(5, "[\"*\"]", DENSE), None).err().unwrap();
    assert!(error.to_string().contains("another recipe"), "{error}");
    assert!(error.hint().is_some());
}

fn changed(before: &Parameters, after: &Parameters) -> Vec<String> {
    let pairs = before.tensors().iter().zip(after.tensors());
    pairs.filter(|(a, b)| a.value != b.value).map(|(a, _)| a.name.clone()).collect()
}

#[test]
fn gradients_reach_only_what_the_task_may_change() {
    let out = tempfile::tempdir().unwrap();
    let mut run = trainer(out.path(), recipe(2, "[\"clip_head.*\"]", &all()), None).unwrap();
    let before = run.parameters().clone();
    run.train_step().unwrap();
    let found = changed(&before, run.parameters());
    assert!(found.iter().all(|n| n.starts_with("clip_head.")), "{found:?}");
    assert!(found.iter().any(|n| n.starts_with("clip_head.mlp.")), "{found:?}");

    let out = tempfile::tempdir().unwrap();
    let mut run = trainer(out.path(), recipe(2, "[\"*\", \"!clip_head.*\"]", &all()), None).unwrap();
    let before = run.parameters().clone();
    run.train_step().unwrap();
    let found = changed(&before, run.parameters());
    assert!(!found.iter().any(|n| n.starts_with("clip_head.") || n.contains("gaussian")), "{found:?}");
    for part in ["image_encoder.blocks.0.", "image_encoder.neck.", "prompt_encoder.", "mask_decoder."] {
        assert!(found.iter().any(|n| n.starts_with(part)), "{part} learns nothing");
    }
}

/// Trains on the four photos and returns the mean of a term over the first and last steps.
fn overfit(objectives: &str, term: &str, steps: usize) -> (f32, f32) {
    let out = tempfile::tempdir().unwrap();
    let mut run = trainer(out.path(), recipe(steps, "[\"*\"]", objectives), None).unwrap();
    let mut values = Vec::new();
    for _ in 0..steps {
        let report = run.train_step().unwrap();
        values.push(report.losses.iter().find(|(name, _)| name.ends_with(term)).unwrap().1);
    }
    let mean = |v: &[f32]| v.iter().sum::<f32>() / v.len() as f32;
    (mean(&values[..3]), mean(&values[steps - 3..]))
}

#[test]
fn masks_are_learnt_by_heart() {
    let (before, after) = overfit(MASKS, "iou_box", 120);
    assert!(after > 0.85, "box IoU {before} -> {after}");
}

#[test]
fn dense_classes_are_learnt_by_heart() {
    let (before, after) = overfit(DENSE, "cross_entropy", 60);
    assert!(after < 0.25 * before, "{before} -> {after}");
}

#[test]
fn image_classes_are_learnt_by_heart() {
    let (before, after) = overfit(POOLED, "labels", 40);
    assert!(after < 0.2 * before, "{before} -> {after}");
}

#[test]
fn captions_are_learnt_by_heart() {
    let objective = "\n[[task.objective]]\nkind = \"contrastive\"\nweight = 1.0\nteacher = \"clip\"\nlogit_scale = 20.0\n";
    let mut clip = ClipConfig::vit_b16();
    clip.embed_dim = 8;
    (clip.vision.width, clip.vision.layers, clip.vision.heads) = (16, 1, 2);
    (clip.text.width, clip.text.layers, clip.text.heads) = (16, 1, 2);
    let run = |teacher: Native| {
        let (mut recipe, text) = recipe(40, "[\"*\"]", objective);
        recipe.shards = 1;
        let natives = [("clip".into(), Arc::new(teacher))].into();
        let out = tempfile::tempdir().unwrap();
        let mut run = trainer_with(out.path(), (recipe, text), None, natives).unwrap();
        (0..40).map(|_| run.train_step()).collect::<Result<Vec<_>, _>>()
    };
    let reports = run(Native::Clip(Box::new(clip.init(&mut Init::seeded(5, &Device::flex()))))).unwrap();
    let (before, after) = (reports[0].loss, reports[39].loss);
    assert!(after < 0.3 * before, "{before} -> {after}");
    let top1 = reports[39].losses.iter().find(|(name, _)| name.ends_with("top1")).unwrap().1;
    assert_eq!(top1, 1.0, "every photo is nearest to its own caption");
    let error = run(Native::SamClip(Box::new(tiny().init(&mut Init::seeded(5, &Device::flex()))))).err().unwrap();
    assert!(error.to_string().contains("reads no text"), "{error}");
}

#[test]
fn how_a_teacher_sees_the_names_is_learnt_by_heart() {
    let objective = |affinity: f32| {
        format!("\n[[task.objective]]\nkind = \"clip_distill\"\nweight = 0.0\naffinity = {affinity:.1}\nteacher = \"tiny\"\noutput = \"pooled\"\n")
    };
    let model = |seed| tiny().init(&mut Init::seeded(seed, &Device::flex()));
    let run = |affinity: f32, student: u64| {
        let (mut recipe, text) = recipe(60, "[\"*\"]", &objective(affinity));
        recipe.model.init = "start".to_owned();
        let teacher = Arc::new(Teacher::native(Path::new("tiny"), Arc::new(Native::SamClip(Box::new(model(5))))));
        let wanted = TaskSetup::wanted(&recipe.tasks[0]).into_iter();
        let inputs = Inputs {
            teachers: vec![wanted.map(|w| (w, teacher.clone())).collect()],
            weights: Some(state::state_dict(&model(student))),
            ..inputs(BTreeMap::new())
        };
        let out = tempfile::tempdir().unwrap();
        let mut run = Trainer::new(recipe, text, inputs, &RunOptions::new("none", out.path())).unwrap();
        let terms = (0..60).map(|_| run.train_step().unwrap().losses.into_iter().find(|(name, _)| name.ends_with("affinity")));
        terms.map(|term| term.map(|(_, value)| value)).collect::<Vec<_>>()
    };
    assert!(run(1.0, 5)[0].unwrap().abs() < 1e-5, "the teacher's own weights agree with it about every name");
    let values = run(1.0, 6);
    let (before, after) = (values[0].unwrap(), values[59].unwrap());
    assert!(before > 1e-3 && after < 0.1 * before, "{before} -> {after}");
    assert!(run(0.0, 6).iter().all(Option::is_none), "off unless asked for");
}

/// One step's gradient norm and loss, with batches of `batch` and `accumulate` of them.
fn one_update(batch: usize, accumulate: usize) -> (Parameters, f32) {
    let out = tempfile::tempdir().unwrap();
    let (mut recipe, text) = recipe(4, "[\"*\"]", DENSE);
    recipe.shards = 1;
    recipe.tasks[0].batch = batch;
    recipe.optimizer.accumulate = accumulate;
    let mut run = trainer(out.path(), (recipe, text), None).unwrap();
    let loss = run.train_step().unwrap().loss;
    (run.parameters().clone(), loss)
}

#[test]
fn accumulated_batches_are_one_larger_batch() {
    let (whole, parts) = (one_update(4, 1), one_update(1, 4));
    assert!((whole.1 - parts.1).abs() < 1e-5 * whole.1, "{} {}", whole.1, parts.1);
    for (a, b) in whole.0.tensors().iter().zip(parts.0.tensors()) {
        // the running mean of the gradient: Adam's step itself is no measure, it forgets the size
        let (mut largest, mut scale) = (0.0f32, 1e-6f32);
        for (x, y) in a.mean.iter().zip(&b.mean) {
            largest = largest.max((x - y).abs());
            scale = scale.max(x.abs());
        }
        assert!(largest <= 1e-4 * scale, "{}: {largest} of {scale}", a.name);
    }
}

#[test]
fn each_task_reaches_its_own_head_only() {
    for (objective, reached, untouched) in [(MASKS, "mask_decoder.", "clip_head."), (DENSE, "clip_head.", "mask_decoder.")] {
        let out = tempfile::tempdir().unwrap();
        let mut run = trainer(out.path(), recipe(2, "[\"*\"]", objective), None).unwrap();
        let before = run.parameters().clone();
        for _ in 0..3 {
            run.train_step().unwrap();
        }
        let found = changed(&before, run.parameters());
        assert!(found.iter().any(|n| n.starts_with(reached)) && found.iter().any(|n| n.starts_with("image_encoder.blocks.0.")));
        assert!(!found.iter().any(|n| n.starts_with(untouched)), "{found:?}");
        // no gradient: no step, no decay, as in torch
        let idle = run.parameters().tensors().iter().filter(|t| t.name.starts_with(untouched));
        assert!(idle.clone().count() > 0 && idle.clone().all(|t| t.updates == 0 && t.mean.iter().all(|m| *m == 0.0)));
    }
}

#[test]
fn patterns_that_match_nothing_are_refused() {
    let out = tempfile::tempdir().unwrap();
    let error = trainer(out.path(), recipe(2, "[\"clip_haed.*\"]", DENSE), None).err().unwrap().to_string();
    assert!(error.contains("model.trainable: `clip_haed.*` matches no tensor"), "{error}");
}
