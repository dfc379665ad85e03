//! Training of CLIP-Guided SAM: 20 steps against PyTorch (fixtures/clip_guided), what stays frozen,
//! resuming, and the adapter file.

use burn::tensor::{Device, Tensor, TensorData};
use samclip_data::{DataError, Dataset, Sample};
use samclip_image::{Image, LabelMap};
use samclip_models::clip::VisionConfig;
use samclip_models::clip_guided_sam::artefact::{self, Base, Bases};
use samclip_models::clip_guided_sam::{
    AdapterConfig, ClipGuidedConfig, ClipGuidedSam, GuideConfig, PromptRules, TrainableConfig,
};
use samclip_models::init::Init;
use samclip_models::layers::Activation;
use samclip_models::sam::{MaskDecoderConfig, SamConfig, Stem, VitDetConfig};
use samclip_models::state;
use samclip_models::text_table::TextTable;
use samclip_train::guided::{GuidedObserver, GuidedRecipe, GuidedTrainer, OpenBases, PairData, TextVectors, Verdict};
use samclip_train::losses::BinaryWeights;
use samclip_train::objectives::Leaves;
use samclip_train::objectives::clip_guided::{Clicks, Pairs, PointSource, loss};
use samclip_train::optim;
use samclip_train::parameters::Parameters;
use samclip_train::recipe::{Group, Optimizer};
use samclip_train::{Observer, RunOptions, TrainError};
use samclip_weights::StateDict;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

fn tiny() -> ClipGuidedConfig {
    let image_encoder = VitDetConfig {
        img_size: 96,
        embed_dim: 32,
        depth: 4,
        num_heads: 2,
        mlp_ratio: 4,
        out_chans: 32,
        window_size: 4,
        global_attn_indexes: vec![1, 3],
        stem: Stem::Patch,
    };
    let mask_decoder =
        MaskDecoderConfig { transformer_dim: 32, depth: 2, num_heads: 8, mlp_dim: 64, iou_head_hidden_dim: 32 };
    let vision = VisionConfig { image_size: 32, patch_size: 8, width: 32, layers: 7, heads: 2 };
    ClipGuidedConfig {
        sam: SamConfig { image_encoder, mask_decoder },
        clip: GuideConfig::Tower { vision, embed_dim: 20, act: Activation::QuickGelu, side: 24, surgery: true },
        adapters: AdapterConfig { bottleneck: 8, ..AdapterConfig::paper(3, 32) },
        prompts: PromptRules::PAPER,
        train: TrainableConfig { clip_blocks: 3, prompt_encoder: true, mask_decoder: true },
    }
}

fn fixture() -> StateDict {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/clip_guided/clip_guided_tiny.safetensors");
    StateDict::open(Path::new(path)).expect("fixture is readable")
}

fn values(fixture: &StateDict, name: &str) -> Vec<f32> {
    fixture.get(name).unwrap_or_else(|| panic!("fixture lacks {name}")).to_f32()
}

fn tensor<const D: usize>(fixture: &StateDict, name: &str, device: &Device) -> Tensor<D> {
    let stored = fixture.get(name).unwrap_or_else(|| panic!("fixture lacks {name}"));
    Tensor::from_data(TensorData::new(stored.to_f32(), stored.shape().to_vec()), device)
}

fn weights(fixture: &StateDict, model: &ClipGuidedSam) -> StateDict {
    let mut own = StateDict::new();
    for (name, _) in state::named_shapes(model) {
        own.insert(name.clone(), fixture.get(&format!("weights.{name}")).expect("a weight").clone());
    }
    own
}

fn optimizer() -> Optimizer {
    Optimizer {
        lr: 1e-3,
        final_lr: 1e-4,
        warmup_steps: 3,
        decay_steps: 17,
        betas: [0.9, 0.999],
        weight_decay: 0.01,
        clip_norm: 1.0,
        accumulate: 1,
        ema_decay: None,
        muon: None,
        groups: vec![Group { pattern: "clip.*".to_owned(), lr_scale: 0.1 }],
    }
}

const ALL: BinaryWeights = BinaryWeights { bce: 1.0, dice: 1.0, iou: 1.0 };

#[test]
fn twenty_steps_equal_pytorchs() {
    let (fixture, config, device) = (fixture(), tiny(), Device::flex().autodiff());
    let model = config.init(&mut Init::zeros(&device)).unwrap();
    let own = weights(&fixture, &model);
    let model = state::load(model, &own).unwrap();
    let optimizer = optimizer();
    let mut parameters = Parameters::with_rule(&model, |name| config.is_trainable(name), &optimizer);
    let mut model = parameters.apply(model, &device);
    let target = values(&fixture, "in.target");
    let draws = values(&fixture, "in.draws");
    let expected = values(&fixture, "train.losses");
    let (rates, norms) = (values(&fixture, "train.rates"), values(&fixture, "train.norms"));
    for step in 0..20 {
        let pairs = Pairs {
            image_index: vec![0, 0, 1],
            text: tensor(&fixture, "in.text", &device),
            targets: target.chunks(24 * 24).map(|t| t.iter().map(|v| *v as u8).collect()).collect(),
            draws: draws.chunks(3).map(|d| d.iter().map(|u| f64::from(*u)).collect()).collect(),
            clicks: vec![Clicks::Map; 3],
        };
        let pixels = tensor(&fixture, "in.pixels", &device);
        let look = model.look(pixels, tensor(&fixture, "in.clip_pixels", &device)).unwrap();
        let answer = loss(&model, &look, &pairs, ALL);
        for (i, name) in ["bce", "dice", "iou"].into_iter().enumerate() {
            let found = answer.terms.iter().find(|t| t.name == name).unwrap().value;
            let want = expected[3 * step + i];
            let relative = (found - want).abs() / want;
            println!("step {step} {name}: {found} for {want}, relative {relative:.1e}");
            assert!(relative <= 1e-5, "step {step} {name}: {found} for {want}");
        }
        let grads = parameters.collect(&model, &Leaves::default(), &mut answer.surrogate.unwrap().backward());
        parameters.accumulate(grads, 1.0);
        if step == 0 {
            gradients_agree(&fixture, &parameters);
        }
        let lr = optim::learning_rate(&optimizer, step, 20);
        assert!((lr - rates[step]).abs() <= 1e-6 * rates[step], "rate {step}: {lr} for {}", rates[step]);
        let norm = optim::step(&mut parameters, &optimizer, lr);
        assert!((norm - norms[step]).abs() <= 1e-3 * norms[step], "norm {step}: {norm} for {}", norms[step]);
        model = parameters.refresh(model, &device);
    }
    for t in parameters.tensors() {
        let name = format!("train.final.{}", t.name);
        if let Some(stored) = fixture.get(&name) {
            let delta = t.value.iter().zip(stored.to_f32()).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("{name}: max |Δ| {delta:.1e}");
            assert!(delta <= 1e-4, "{name}: {delta:e}");
        }
        if !t.trainable {
            assert_eq!(t.value, own.get(&t.name).unwrap().to_f32(), "{} is frozen", t.name);
        }
    }
}

fn gradients_agree(fixture: &StateDict, parameters: &Parameters) {
    let mut compared = 0;
    for t in parameters.tensors() {
        if let Some(stored) = fixture.get(&format!("train.grad.{}", t.name)) {
            let want = stored.to_f32();
            let largest = want.iter().fold(0.0f32, |m, g| m.max(g.abs()));
            let delta = t.grad.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            println!("gradient of {}: max |Δ| {delta:.1e} of {largest:.1e}", t.name);
            assert!(largest > 1e-5 && delta <= 1e-4 * largest, "{}", t.name);
            compared += 1;
        }
    }
    assert_eq!(compared, 3);
}

const SIDE: usize = 96;

/// Six photos of a bright rectangle of class 1 or 2 and, in every second one, a bar of the other.
struct Squares(Vec<String>);

impl Squares {
    fn new() -> Self {
        Self(["background", "cat", "dog"].map(String::from).to_vec())
    }
}

impl Dataset for Squares {
    fn name(&self) -> &str {
        "squares"
    }
    fn len(&self) -> usize {
        6
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let class = 1 + (index % 2) as u8;
        let (x0, y0) = (6 + 9 * (index / 2), 10 + 8 * index);
        let mut pixels = Vec::with_capacity(SIDE * SIDE * 3);
        let mut labels = vec![0; SIDE * SIDE];
        let colour = |class: u8| if class == 1 { [220, 80, 40] } else { [40, 90, 230] };
        for y in 0..SIDE {
            for x in 0..SIDE {
                let label = match ((x0..x0 + 40).contains(&x) && (y0..y0 + 36).contains(&y), index % 2 == 0 && y > 88) {
                    (true, _) => class,
                    (false, true) => 3 - class,
                    _ => 0,
                };
                let ground = (40 + (x * 7 + y * 13 + index * 29) % 40) as u8;
                pixels.extend(if label > 0 { colour(label) } else { [ground; 3] });
                labels[y * SIDE + x] = label;
            }
        }
        let labels = LabelMap { width: SIDE, height: SIDE, data: labels };
        let mut class_ids: Vec<usize> = labels.data.iter().map(|v| usize::from(*v)).filter(|v| *v > 0).collect();
        class_ids.sort_unstable();
        class_ids.dedup();
        let image = Image::new(SIDE, SIDE, pixels)?;
        Ok(Sample { id: index.to_string(), image, labels: Some(labels), masks: vec![], class_ids, captions: vec![] })
    }
    fn class_names(&self) -> &[String] {
        &self.0
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

/// The built-in bases are too large for a test: the recipe names them, the test brings its own.
const RECIPE: &str = r#"
kind = "clip_guided"
name = "squares"
seed = 5
steps = 50
precision = "f32"
shards = 2
pairs_per_pass = 0

[bases]
variant = "clip_guided_sam_nano_tower"
sam = "builtin"
clip = "builtin"
text = "builtin"
surgery = true

[adapters]
blocks = 3
bottleneck = 8
attention = "parallel"
mlp = "parallel"
lora_rank = 0
inject = { text = true, vision = true, similarity = true }
scale = 0.5
p_norm = true
text_act = true
zero_init = true

[prompts]
dense = true
mask_values = [0.0, 1.0]
tau_mask = 0.5
tau_point = 0.5
points = 3

[train]
clip_blocks = 3
prompt_encoder = true
mask_decoder = true

[objective]
points = "mixed"
truth_points = 1
losses = { bce = 1.0, dice = 1.0, iou = 1.0 }
clip_alone_steps = 0

[data]
dataset = "path"
path = "unused"
split = "train"
limit = 0
limit_seed = 0
balanced = false
hold_out = 0
classes = []
images = 2
classes_per_image = 2
min_area = 0.001

[data.augment]
hflip = 0.5
geometry = { kind = "squash" }

[optimizer]
lr = 1.0e-3
final_lr = 1.0e-4
warmup_steps = 3
decay_steps = 47
betas = [0.9, 0.999]
weight_decay = 0.01
clip_norm = 1.0

[[optimizer.group]]
match = "clip.*"
lr_scale = 0.1

[checkpoint]
every_steps = 25
every_minutes = 60.0

[log]
every_steps = 10
observe_every_steps = 0

[smoke]
steps = 2
batch = 2
"#;

fn parse(text: &str) -> Result<GuidedRecipe, TrainError> {
    GuidedRecipe::parse(text, Path::new("squares.toml"))
}

/// A trainer on the tiny bases of the fixture; `recipe` says everything else.
fn trainer(recipe: GuidedRecipe, out: &Path, config: &ClipGuidedConfig) -> GuidedTrainer {
    let all = fixture();
    let model = config.init(&mut Init::zeros(&Device::flex())).unwrap();
    let mut bases = Bases::default();
    for (name, _) in state::named_shapes(&model).iter().filter(|(name, _)| !name.starts_with("adapters.")) {
        let tensor = all.get(&format!("weights.{name}")).unwrap().clone();
        let part = if name.starts_with("clip.") { &mut bases.clip } else { &mut bases.sam };
        part.insert(name.clone(), tensor);
    }
    let [sam, clip] = bases.hashes();
    let base = |sha256| Base { name: "tiny".to_owned(), sha256 };
    let mut vectors = vec![0.0; 40];
    (vectors[0], vectors[25]) = (1.0, 1.0);
    let table = TextTable::new(vec!["cat".to_owned(), "dog".to_owned()], vectors, 20, &[]).unwrap();
    let text = TextVectors::Table(Box::new(table));
    let data = PairData::new(Arc::new(Squares::new()), &recipe.data, &text, Path::new(".")).unwrap();
    let opened = OpenBases { bases, sam: base(sam), clip: base(clip), text };
    let options = RunOptions { resume: true, ..RunOptions::new(".", out) };
    GuidedTrainer::with_config(recipe, config.clone(), RECIPE.to_owned(), &opened, data, &options).unwrap()
}

fn all_values(trainer: &GuidedTrainer) -> Vec<(String, Vec<f32>)> {
    trainer.parameters().model_tensors().iter().map(|t| (t.name.clone(), t.value.clone())).collect()
}

#[test]
fn frozen_tensors_are_bit_equal_after_fifty_steps_and_trained_ones_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let mut trainer = trainer(parse(RECIPE).unwrap(), dir.path(), &tiny());
    let before = all_values(&trainer);
    let outcome = trainer.run(&mut (), &AtomicBool::new(false)).unwrap();
    assert!(outcome.complete && outcome.step == 50);
    let config = tiny();
    let mut moved = 0;
    for ((name, old), (_, new)) in before.iter().zip(all_values(&trainer)) {
        if config.is_trainable(name) {
            moved += usize::from(*old != new);
        } else {
            assert!(old.iter().zip(&new).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} is frozen");
        }
    }
    assert!(moved > 60, "only {moved} tensors moved");
    let model = trainer.model();
    let after = state::named_values(&model);
    assert!(after.iter().zip(all_values(&trainer)).all(|(a, b)| a.2 == b.1), "the module is the master copy");
}

#[test]
fn a_stopped_run_continues_as_if_it_had_not_stopped() {
    let whole = tempfile::tempdir().unwrap();
    let mut uninterrupted = trainer(parse(RECIPE).unwrap(), whole.path(), &tiny());
    uninterrupted.run(&mut (), &AtomicBool::new(false)).unwrap();
    let parts = tempfile::tempdir().unwrap();
    let mut first = trainer(parse(RECIPE).unwrap(), parts.path(), &tiny());
    for _ in 0..20 {
        first.train_step().unwrap();
    }
    first.save().unwrap();
    drop(first);
    let mut second = trainer(parse(RECIPE).unwrap(), parts.path(), &tiny());
    second.run(&mut (), &AtomicBool::new(false)).unwrap();
    assert_eq!(all_values(&second), all_values(&uninterrupted));
}

#[test]
fn the_squares_are_learnt() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = parse(RECIPE).unwrap();
    recipe.steps = 300;
    recipe.optimizer.decay_steps = 100;
    recipe.optimizer.lr = 3e-3;
    let mut trainer = trainer(recipe, dir.path(), &tiny());
    let iou = |report: &samclip_train::StepReport| {
        let own: Vec<f32> = report.losses.iter().filter(|l| l.0.ends_with("iou_mask")).map(|l| l.1).collect();
        own.iter().sum::<f32>() / own.len() as f32
    };
    let first: f32 = (0..10).map(|_| iou(&trainer.train_step().unwrap())).sum::<f32>() / 10.0;
    for _ in 10..290 {
        trainer.train_step().unwrap();
    }
    let last: f32 = (0..10).map(|_| iou(&trainer.train_step().unwrap())).sum::<f32>() / 10.0;
    println!("iou {first} -> {last}");
    assert!(last > 0.7 && last > first + 0.3, "{first} -> {last}");
}

/// Says yes once, then stops the run.
#[derive(Default)]
struct Picky(Vec<usize>);

impl Observer for Picky {}

impl GuidedObserver for Picky {
    fn validate(&mut self, step: usize, _: &ClipGuidedSam, data: &PairData) -> Option<Verdict> {
        assert_eq!(data.names, ["cat", "dog"]);
        self.0.push(step);
        Some(if step == 10 { Verdict::Better("iou 0.5".to_owned()) } else { Verdict::Stop })
    }
}

#[test]
fn the_adapter_is_the_running_mean_where_the_recipe_keeps_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = parse(RECIPE).unwrap();
    recipe.optimizer.ema_decay = Some(0.9);
    let mut trainer = trainer(recipe, dir.path(), &tiny());
    trainer.run(&mut Picky::default(), &AtomicBool::new(false)).unwrap();
    let adapter = StateDict::open(&dir.path().join("adapter.safetensors")).unwrap();
    let checkpoint = StateDict::open(&dir.path().join("checkpoint.safetensors")).unwrap();
    let name = "adapters.1.semantic.w_v.weight";
    let [stored, mean, last] = [(&adapter, name.to_owned()), (&checkpoint, format!("ema/{name}")), (&checkpoint, format!("value/{name}"))]
        .map(|(file, name)| file.get(&name).unwrap().to_f32());
    let apart = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(apart(&stored, &mean) < 1e-4, "{}", apart(&stored, &mean));
    assert!(apart(&stored, &last) > 1e-3, "{}", apart(&stored, &last));
    let judged = state::named_values(&trainer.model()).into_iter().find(|(found, ..)| found == name).unwrap().2;
    assert_eq!(judged, mean, "who validates sees what is written");
}

#[test]
fn the_adapter_of_the_best_step_is_kept_and_belongs_to_its_bases() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = parse(RECIPE).unwrap();
    recipe.log.observe_every_steps = 10;
    let mut trainer = trainer(recipe, dir.path(), &tiny());
    let mut observer = Picky::default();
    let outcome = trainer.run(&mut observer, &AtomicBool::new(false)).unwrap();
    assert_eq!((observer.0, outcome.step), (vec![10, 20], 20));

    let file = StateDict::open(&dir.path().join("adapter.safetensors")).unwrap();
    let about = artefact::about(&file).unwrap();
    assert_eq!((about.steps, about.note.as_str(), about.classes.as_slice()), (10, "iou 0.5", ["cat".to_owned(), "dog".to_owned()].as_slice()));
    let config = tiny();
    assert!(file.names().all(|name| config.is_trainable(name)), "only trained tensors are stored");

    let all = fixture();
    let mut bases = Bases::default();
    let model = config.init(&mut Init::zeros(&Device::flex())).unwrap();
    for (name, _) in state::named_shapes(&model).iter().filter(|(name, _)| !name.starts_with("adapters.")) {
        let part = if name.starts_with("clip.") { &mut bases.clip } else { &mut bases.sam };
        part.insert(name.clone(), all.get(&format!("weights.{name}")).unwrap().clone());
    }
    let (_, model) = artefact::adapted(&bases, &file, &Device::flex()).unwrap();
    let stored = file.get("adapters.1.semantic.w_v.weight").unwrap().to_f32();
    let loaded = state::named_values(&model).into_iter().find(|(name, ..)| name == "adapters.1.semantic.w_v.weight").unwrap().2;
    assert_eq!(loaded, stored);

    let name = "image_encoder.pos_embed";
    let mut changed = bases.sam.get(name).unwrap().to_f32();
    changed[0] += 1.0;
    let shape = bases.sam.get(name).unwrap().shape().to_vec();
    bases.sam.insert(name, samclip_weights::TensorData::from_f32(&shape, &changed));
    let error = artefact::adapted(&bases, &file, &Device::flex()).unwrap_err();
    assert!(error.to_string().starts_with("the adapter was trained on another sam base"), "{error}");
    assert!(error.hint().unwrap().contains("--weights"));
}

#[test]
fn passes_change_memory_not_gradients() {
    let step = |pairs_per_pass: usize| {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = parse(RECIPE).unwrap();
        (recipe.pairs_per_pass, recipe.shards, recipe.data.images) = (pairs_per_pass, 1, 3);
        let mut trainer = trainer(recipe, dir.path(), &tiny());
        let report = trainer.train_step().unwrap();
        (report.loss, report.grad_norm)
    };
    let (whole, single) = (step(0), step(1));
    assert!((whole.0 - single.0).abs() < 1e-5 && (whole.1 - single.1).abs() < 1e-4 * whole.1, "{whole:?} {single:?}");
}

#[test]
fn a_balanced_choice_goes_round_the_classes() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = parse(RECIPE).unwrap();
    (recipe.data.limit, recipe.data.balanced) = (2, true);
    let classes = |trainer: &GuidedTrainer| trainer.data().photo_classes();
    for seed in 0..5 {
        recipe.data.limit_seed = seed;
        let chosen = classes(&trainer(recipe.clone(), &dir.path().join(seed.to_string()), &tiny()));
        assert_eq!(chosen.len(), 2);
        assert!(chosen.iter().any(|c| c.contains(&0)) && chosen.iter().any(|c| c.contains(&1)), "{chosen:?}");
    }
}

#[test]
fn clip_alone_moves_clip_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut recipe = parse(RECIPE).unwrap();
    recipe.objective.clip_alone_steps = 50;
    let mut trainer = trainer(recipe, dir.path(), &tiny());
    let before = all_values(&trainer);
    for _ in 0..5 {
        trainer.train_step().unwrap();
    }
    let moved = |prefix: &str| {
        let pairs = before.iter().zip(all_values(&trainer));
        pairs.filter(|((name, old), (_, new))| name.starts_with(prefix) && old != new).count()
    };
    assert!(moved("clip.visual.") >= 9);
    assert_eq!((moved("adapters."), moved("mask_decoder."), moved("prompt_encoder.")), (0, 0, 0));
}

#[test]
fn centre_clicks_replace_clicks_from_the_truth_and_no_others() {
    let after = |points, center_click| {
        let dir = tempfile::tempdir().unwrap();
        let mut recipe = parse(RECIPE).unwrap();
        (recipe.objective.points, recipe.objective.center_click) = (points, center_click);
        let mut trainer = trainer(recipe, dir.path(), &tiny());
        (0..3).for_each(|_| drop(trainer.train_step().unwrap()));
        all_values(&trainer)
    };
    let (truth, map) = (PointSource::GroundTruth, PointSource::Clip);
    assert!(after(truth, 0.0) != after(truth, 1.0));
    assert!(after(map, 0.0) == after(map, 1.0));
}

#[test]
fn mistakes_in_recipes_are_named() {
    let error = |from: &str, to: &str| {
        let text = RECIPE.replace(from, to);
        assert_ne!(text, RECIPE, "{from}");
        parse(&text).unwrap_err()
    };
    let unknown = error("tau_mask = 0.5", "tau_mosk = 0.5");
    let line = RECIPE.lines().position(|l| l.starts_with("tau_mask")).unwrap() + 1;
    assert!(unknown.to_string().contains(&format!("line {line}")), "{unknown}");
    assert_eq!(unknown.hint().as_deref(), Some("did you mean `tau_mask`?"));
    assert!(error("blocks = 3\nbottleneck", "blocks = 30\nbottleneck").to_string().contains("7 blocks"));
    assert!(error("bce = 1.0, dice = 1.0, iou = 1.0", "bce = 0.0, dice = 0.0, iou = 0.0").to_string().contains("all zero"));
    assert!(error("truth_points = 1", "truth_points = 1\ncenter_click = 1.5").to_string().contains("chance from 0 to 1"));
    assert!(error("path = \"unused\"\n", "").to_string().contains("data.path"));
    assert!(error("clip_guided_sam_nano_tower", "clip_guided_sam_x").to_string().contains("clip_guided_sam_b"));
}
