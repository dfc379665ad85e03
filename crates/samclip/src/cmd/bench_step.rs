//! `samclip bench joint-step` and `guided-step`: whole training steps at full size on a painted photo.
//!
//! The recipes are the papers' (`recipes/`), the weights seeded. The same steps in PyTorch:
//! `benches/peers/torch_steps.py`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Result, bail};
use samclip_data::{DataError, Dataset, Sample};
use samclip_image::{Image, LabelMap, Mask};
use samclip_models::clip::ClipConfig;
use samclip_models::clip_guided_sam::ClipGuidedConfig;
use samclip_models::clip_guided_sam::artefact::{Base, Bases};
use samclip_models::init::Init;
use samclip_models::sam::SamConfig;
use samclip_models::{Device, state, text_table::TextTable};
use samclip_predict::bench::Bench;
use samclip_train::RunOptions;
use samclip_train::guided::{GuidedRecipe, GuidedTrainer, OpenBases, PairData, TextVectors};
use samclip_train::native::Native;
use samclip_train::objectives::{TaskSetup, Wanted};
use samclip_train::recipe::{Objective, Precision, Recipe};
use samclip_train::teacher::Teacher;
use samclip_train::train::{Inputs, Trainer};
use samclip_train::vocabulary::TextSource;

use super::bench::Args;

const JOINT: &str = include_str!("../../../../recipes/sam_clip/2_joint_distillation.toml");
const GUIDED: &str = include_str!("../../../../recipes/clip_guided/voc/1_16.toml");
/// Masks of the painted photo: as many as the paper prompts a photo with, of each kind.
const STRIPES: usize = 16;
const SIDE: usize = 1024;

/// One photo of upright stripes, a mask each; four stripes are a class, the first four the background.
struct Stripes {
    names: Vec<String>,
    side: usize,
}

impl Dataset for Stripes {
    fn name(&self) -> &str {
        "stripes"
    }
    fn len(&self) -> usize {
        1
    }
    fn get(&self, _: usize) -> Result<Sample, DataError> {
        let side = self.side;
        let stripe = |i: usize| i % side * STRIPES / side;
        let data = (0..side * side).flat_map(|i| [stripe(i) as u8 * 15, (i / side % 200) as u8, 90]).collect();
        let mask = |s: usize| (0..side * side).map(|i| stripe(i) == s).collect();
        let labels = (0..side * side).map(|i| (stripe(i) / 4) as u8).collect();
        Ok(Sample {
            id: "0".into(),
            image: Image::new(side, side, data)?,
            labels: Some(LabelMap { width: side, height: side, data: labels }),
            masks: (0..STRIPES).map(|s| Mask { width: side, height: side, data: mask(s) }).collect(),
            class_ids: vec![1, 2, 3],
            captions: vec![],
        })
    }
    fn class_names(&self) -> &[String] {
        &self.names
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

fn stripes(side: usize) -> Arc<dyn Dataset> {
    Arc::new(Stripes { names: ["background", "one", "two", "three"].map(String::from).to_vec(), side })
}

/// The numbers of the products and their name; refuses other models than the recipe's.
fn precision(args: &Args, model: &str) -> Result<(Precision, &'static str)> {
    if let Some(other) = args.model.as_deref().filter(|m| *m != model) {
        bail!("a whole step is timed for {model} only: found --model {other}");
    }
    let name = samclip_predict::Precision::from(args.precision).apply()?;
    Ok((if name == "bf16" { Precision::Bf16 } else { Precision::F32 }, name))
}

/// Stage 2 of SAM-CLIP: `--batch` photos for CLIP's embedding at 224 px and as many for SAM's masks at `--size`.
pub fn joint(args: &Args) -> Result<Bench> {
    let (precision, name) = precision(args, "sam_clip_vit_b")?;
    let (side, batch) = (args.size.unwrap_or(SIDE), args.batch.map_or(1, usize::from));
    let mut recipe = Recipe::parse(JOINT, Path::new("2_joint_distillation.toml"))?;
    (recipe.seed, recipe.precision, recipe.model.init) = (args.seed, precision, "fresh".into());
    for task in &mut recipe.tasks {
        (task.batch, task.sides) = (batch, vec![]);
        task.side = if task.name == "sam" { side } else { task.side };
    }
    let device = Device::flex();
    let teacher = |objective: &Objective| -> Option<(PathBuf, Arc<Native>)> {
        let seed = args.seed + 1;
        match objective {
            Objective::SamDistill(o) => {
                let sam = SamConfig::vit_b().init(&mut Init::seeded(seed, &device));
                Some((o.teacher.clone(), Arc::new(Native::Sam(Box::new(sam)))))
            }
            Objective::ClipDistill(o) => {
                let clip = ClipConfig::vit_l14().init(&mut Init::seeded(seed, &device));
                Some((o.teacher.clone(), Arc::new(Native::Clip(Box::new(clip)))))
            }
            _ => None,
        }
    };
    let natives: BTreeMap<_, _> = recipe.tasks.iter().flat_map(|t| &t.objectives).filter_map(teacher).collect();
    let asked = |wanted: Wanted| {
        let native = natives.get(&wanted.teacher)?.clone();
        let teacher = Arc::new(Teacher::native(&wanted.teacher, native));
        Some((wanted, teacher))
    };
    let teachers = recipe.tasks.iter().map(|task| TaskSetup::wanted(task).into_iter().filter_map(asked).collect()).collect();
    let inputs = Inputs {
        datasets: recipe.tasks.iter().map(|_| vec![stripes(side)]).collect(),
        text: TextSource::none(recipe.model.config()?.clip_head.embed_dim),
        teachers,
        natives,
        weights: None,
    };
    let folder = tempfile::tempdir()?;
    let mut trainer = Trainer::new(recipe, JOINT.to_owned(), inputs, &RunOptions::new(".", folder.path()))?;
    let run = move || {
        let _kept = &folder;
        trainer.train_step().map(|report| f64::from(report.loss))
    };
    Ok(Bench::step("sam_clip_vit_b", [side, batch], name, run))
}

/// CLIP-Guided SAM, ViT-B with CLIP B/16: one photo of `--size` with `--batch` classes, one class after the other.
pub fn guided(args: &Args) -> Result<Bench> {
    let (precision, name) = precision(args, "clip_guided_sam_b")?;
    let (side, classes) = (args.size.unwrap_or(SIDE), args.batch.map_or(3, usize::from));
    let mut recipe = GuidedRecipe::parse(GUIDED, Path::new("1_16.toml"))?;
    (recipe.seed, recipe.precision, recipe.pairs_per_pass) = (args.seed, precision, 1);
    (recipe.data.images, recipe.data.classes_per_image) = (1, classes);
    let config = recipe.config()?;
    if side != SIDE || !(1..=3).contains(&classes) {
        bail!("guided-step takes --size {SIDE} and --batch 1 to 3: found {side} and {classes}");
    }
    let vectors: Vec<f32> = (0..3 * 512).map(|i| if i % 512 == i / 512 { 1.0 } else { 0.0 }).collect();
    let names = ["one", "two", "three"].map(String::from);
    let text = TextVectors::Table(Box::new(TextTable::new(names.to_vec(), vectors, 512, &[])?));
    let base = || Base { name: "seeded".into(), sha256: String::new() };
    let opened = OpenBases { bases: bases(&config, args.seed)?, sam: base(), clip: base(), text };
    let data = PairData::new(stripes(side), &recipe.data, &opened.text, Path::new("."))?;
    let folder = tempfile::tempdir()?;
    let mut trainer =
        GuidedTrainer::with_config(recipe, config, GUIDED.to_owned(), &opened, data, &RunOptions::new(".", folder.path()))?;
    drop(opened);
    let run = move || {
        let _kept = &folder;
        trainer.train_step().map(|report| f64::from(report.loss))
    };
    Ok(Bench::step("clip_guided_sam_b", [side, classes], name, run))
}

fn bases(config: &ClipGuidedConfig, seed: u64) -> Result<Bases> {
    let model = config.init(&mut Init::seeded(seed, &Device::flex()))?;
    let mut bases = Bases::default();
    for (name, tensor) in state::state_dict(&model).iter().filter(|(name, _)| !name.starts_with("adapters.")) {
        let part = if name.starts_with("clip.") { &mut bases.clip } else { &mut bases.sam };
        part.insert(name, tensor.clone());
    }
    Ok(bases)
}
