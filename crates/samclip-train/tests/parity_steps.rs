//! Twenty training steps against PyTorch (fixtures/training/generate.py): head probing and the
//! joint step, with the same photos in the same order, AdamW's rate and decay groups, clipping,
//! warm-up and cosine. Losses within 1e-5 (relative), parameters within 1e-4.

use samclip_data::{DataError, Dataset, Sample};
use samclip_image::{Image, Mask};
use samclip_models::sam::{MaskDecoderConfig, SamConfig, Stem, VitDetConfig};
use samclip_models::sam_clip::{ClipHeadConfig, Pooling, SamClipConfig};
use samclip_train::native::Native;
use samclip_train::objectives::TaskSetup;
use samclip_train::recipe::Recipe;
use samclip_train::teacher::Teacher;
use samclip_train::train::{Inputs, RunOptions, Trainer};
use samclip_train::vocabulary::TextSource;
use samclip_weights::StateDict;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

const IMG: usize = 64;
const STEPS: usize = 20;

fn fixture(name: &str) -> StateDict {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/training");
    StateDict::open(&folder.join(name)).unwrap()
}

fn below(state: &StateDict, prefix: &str) -> StateDict {
    state.iter().filter_map(|(n, t)| Some((n.strip_prefix(prefix)?.to_owned(), t.clone()))).collect()
}

fn config() -> SamClipConfig {
    let image_encoder = VitDetConfig {
        img_size: IMG,
        embed_dim: 16,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 4,
        out_chans: 16,
        window_size: 3,
        global_attn_indexes: vec![1],
        stem: Stem::Patch,
    };
    let mask_decoder =
        MaskDecoderConfig { transformer_dim: 16, depth: 2, num_heads: 8, mlp_dim: 32, iou_head_hidden_dim: 16 };
    let clip_head = ClipHeadConfig { depth: 3, pooling: Pooling::Max, mlp_dim: 24, embed_dim: 12 };
    SamClipConfig { sam: SamConfig { image_encoder, mask_decoder }, clip_head }
}

/// The fixture's photos; keeps the order in which they are asked for.
struct Photos {
    images: Vec<u8>,
    masks: Vec<u8>,
    asked: Mutex<Vec<i64>>,
}

impl Photos {
    fn new(start: &StateDict) -> Self {
        let bytes = |name: &str| start.get(name).unwrap().bytes().to_vec();
        Self { images: bytes("images"), masks: bytes("masks"), asked: Mutex::default() }
    }
}

impl Dataset for Photos {
    fn name(&self) -> &str {
        "photos"
    }
    fn len(&self) -> usize {
        8
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.asked.lock().unwrap().push(index as i64);
        let (image, mask) = (3 * IMG * IMG, IMG * IMG);
        let data = self.masks[index * mask..][..mask].iter().map(|&m| m == 1).collect();
        Ok(Sample {
            id: index.to_string(),
            image: Image::new(IMG, IMG, self.images[index * image..][..image].to_vec())?,
            labels: None,
            masks: vec![Mask { width: IMG, height: IMG, data }],
            class_ids: vec![],
            captions: vec![],
        })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}

const HEAD: &str = r#"
name = "parity"
seed = 11
steps = 20
precision = "f32"
shards = 1

[optimizer]
lr = 8.0e-4
final_lr = 8.0e-5
warmup_steps = 5
decay_steps = 15
betas = [0.9, 0.999]
weight_decay = 0.1
clip_norm = 1.0
GROUPS

[checkpoint]
every_steps = 1000
every_minutes = 1000.0

[log]
every_steps = 1000
observe_every_steps = 0

[smoke]
steps = 2
batch = 2

[model]
variant = "sam_clip_nano"
init = "start"
trainable = TRAINABLE
logit_scale = 1.0
background_logit = 0.0

[[task]]
name = "clip"
every_steps = 1
side = 64
batch = 4

[task.augment]
geometry = { kind = "squash" }

[[task.data]]
dataset = "photos"
split = ""
weight = 1.0

[[task.objective]]
kind = "clip_distill"
weight = 1.0
teacher = "teacher.safetensors"
output = "pooled"
"#;

const SAM: &str = r#"
[[task]]
name = "sam"
every_steps = 1
side = 64
batch = 2

[task.augment]
geometry = { kind = "squash" }

[[task.data]]
dataset = "photos"
split = ""
weight = 1.0

[[task.objective]]
kind = "sam_distill"
weight = 10.0
teacher = "teacher.safetensors"
point_prompts = 1
box_prompts = 0
center_click = 1.0
min_area = 0.0
max_area = 1.0
targets = "soft"
outputs = "all"
focal = 20.0
dice = 1.0
iou = 1.0
neck = 0.5
"#;

const GROUPS: &str = r#"
[[optimizer.group]]
match = "image_encoder.*"
lr_scale = 0.1

[[optimizer.group]]
match = "mask_decoder.*"
lr_scale = 0.1
"#;

/// Gradients of these are zero but for rounding (a softmax does not change when all keys are
/// shifted), and Adam scales any gradient to the size of the rate: they are not comparable.
fn skipped(name: &str, index: usize) -> bool {
    let dim = 16;
    name.ends_with("k_proj.bias") || (name.ends_with("attn.qkv.bias") && (dim..2 * dim).contains(&index))
}

fn run(name: &str, text: &str) {
    let (start, expected) = (fixture("start.safetensors"), fixture("steps.safetensors"));
    let mut recipe = Recipe::parse(text, Path::new("parity.toml")).unwrap();
    recipe.model.sizes = Some(config());
    let mut teacher = below(&start, "teacher.");
    teacher.metadata.insert("config".into(), serde_json::to_string(&config()).unwrap());
    let teacher = Arc::new(Native::from_state(teacher).unwrap());
    let path = PathBuf::from("teacher.safetensors");
    let photos: Vec<Arc<Photos>> = recipe.tasks.iter().map(|_| Arc::new(Photos::new(&start))).collect();
    let of_task = |task| {
        let wanted = TaskSetup::wanted(task).into_iter();
        wanted.map(|w| (w, Arc::new(Teacher::native(&path, teacher.clone())))).collect()
    };
    let inputs = Inputs {
        datasets: photos.iter().map(|p| vec![p.clone() as Arc<dyn Dataset>]).collect(),
        text: TextSource::none(12),
        teachers: recipe.tasks.iter().map(of_task).collect(),
        natives: [(path.clone(), teacher.clone())].into(),
        weights: Some(below(&start, "student.")),
    };
    let out = tempfile::tempdir().unwrap();
    let options = RunOptions::new("none", out.path());
    let mut trainer = Trainer::new(recipe, text.to_owned(), inputs, &options).unwrap();
    let before = trainer.parameters().clone();
    let mut worst: f32 = 0.0;
    for step in 0..STEPS {
        let report = trainer.train_step().unwrap();
        let mut terms: Vec<(&str, f32)> = report.losses.iter().map(|(n, v)| (n.rsplit('/').next().unwrap(), *v)).collect();
        terms.retain(|(term, _)| *term != "iou_teacher");
        terms.push(("norm", report.grad_norm));
        for (term, found) in terms {
            let want = expected.get(&format!("{name}.{term}")).unwrap().to_f32()[step];
            let delta = (found - want).abs() / want.abs();
            worst = worst.max(delta);
            assert!(delta <= 1e-5, "{name} step {step} {term}: expected {want}, found {found} ({delta:.1e})");
        }
    }
    for (photos, order) in photos.iter().zip(["order_clip", "order_sam"]) {
        let want: Vec<i64> = start.get(order).unwrap().to_f32().iter().map(|&i| i as i64).collect();
        let asked = photos.asked.lock().unwrap();
        assert_eq!(asked[..want.len()], want, "the loader draws other photos than the fixture: {order}");
    }
    let mut largest: (f32, &str) = (0.0, "");
    for (tensor, before) in trainer.parameters().model_tensors().iter().zip(before.model_tensors()) {
        let want = expected.get(&format!("{name}.after.{}", tensor.name)).unwrap().to_f32();
        if !tensor.trainable {
            assert!(tensor.value == before.value && tensor.value == want, "{} is frozen", tensor.name);
            continue;
        }
        for (i, (found, want)) in tensor.value.iter().zip(&want).enumerate().filter(|(i, _)| !skipped(&tensor.name, *i)) {
            let delta = (found - want).abs();
            assert!(delta <= 1e-4, "{name} {}[{i}]: expected {want}, found {found}", tensor.name);
            if delta > largest.0 {
                largest = (delta, tensor.name.as_str());
            }
        }
    }
    println!("{name}: 20 steps, losses and norms within {worst:.1e}, parameters within {:.1e} ({})", largest.0, largest.1);
}

#[test]
fn head_probing_takes_the_steps_of_pytorch() {
    run("probing", &HEAD.replace("GROUPS", "").replace("TRAINABLE", "[\"clip_head.*\"]"));
}

#[test]
fn the_joint_step_takes_the_steps_of_pytorch() {
    let head = HEAD.replace("GROUPS", GROUPS).replace("TRAINABLE", "[\"*\", \"!prompt_encoder.*\"]");
    run("joint", &[&head, SAM].concat());
}
