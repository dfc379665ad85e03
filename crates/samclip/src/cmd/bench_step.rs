//! Time and memory of a full-size training step: SAM ViT-B with CLIP ViT-B/16, random weights, one
//! image of 1024 px with three classes: `guided_step [PAIRS_PER_PASS] [STEPS]`.
//!
//! The same step in PyTorch: fixtures/ring2/guided_step.py.

use samclip_data::{DataError, Dataset, Sample};
use samclip_image::{Image, LabelMap};
use samclip_models::clip_guided_sam::ClipGuidedConfig;
use samclip_models::clip_guided_sam::artefact::{Base, Bases};
use samclip_models::init::Init;
use samclip_models::{Device, state, text_table::TextTable};
use samclip_train::RunOptions;
use samclip_train::guided::{GuidedRecipe, GuidedTrainer, OpenBases, PairData, TextVectors};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const SIDE: usize = 1024;
const RECIPE: &str = include_str!("../../../recipes/clip_guided/voc/1_16.toml");

/// One photo of three stripes, a class each.
struct Stripes(Vec<String>);

impl Dataset for Stripes {
    fn name(&self) -> &str {
        "stripes"
    }
    fn len(&self) -> usize {
        1
    }
    fn get(&self, _: usize) -> Result<Sample, DataError> {
        let label = |i: usize| (i % SIDE * 4 / SIDE) as u8;
        let data = (0..SIDE * SIDE).flat_map(|i| [label(i) * 60, (i / SIDE % 200) as u8, 90]).collect();
        let labels = LabelMap { width: SIDE, height: SIDE, data: (0..SIDE * SIDE).map(label).collect() };
        let image = Image::new(SIDE, SIDE, data)?;
        Ok(Sample { id: "0".into(), image, labels: Some(labels), masks: vec![], class_ids: vec![1, 2, 3], captions: vec![] })
    }
    fn class_names(&self) -> &[String] {
        &self.0
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

/// Largest resident size so far, in MiB.
fn peak_mib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()?.parse::<usize>().ok()).unwrap_or(0) / 1024
}

fn bases(config: &ClipGuidedConfig) -> Result<Bases, Box<dyn std::error::Error>> {
    let model = config.init(&mut Init::seeded(1, &Device::flex()))?;
    let mut bases = Bases::default();
    for (name, tensor) in state::state_dict(&model).iter().filter(|(name, _)| !name.starts_with("adapters.")) {
        let part = if name.starts_with("clip.") { &mut bases.clip } else { &mut bases.sam };
        part.insert(name, tensor.clone());
    }
    Ok(bases)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let number = |i: usize, otherwise: usize| std::env::args().nth(i).and_then(|a| a.parse().ok()).unwrap_or(otherwise);
    let mut recipe = GuidedRecipe::parse(RECIPE, Path::new("1_16.toml"))?;
    (recipe.data.images, recipe.data.classes_per_image, recipe.pairs_per_pass) = (1, 3, number(1, 1));
    let config = recipe.config()?;
    let vectors: Vec<f32> = (0..3 * 512).map(|i| if i % 512 == i / 512 { 1.0 } else { 0.0 }).collect();
    let names = ["one", "two", "three"].map(String::from);
    let text = TextVectors::Table(Box::new(TextTable::new(names.to_vec(), vectors, 512, &[])?));
    let base = || Base { name: "random".into(), sha256: String::new() };
    let opened = OpenBases { bases: bases(&config)?, sam: base(), clip: base(), text };
    let classes = std::iter::once("background".to_owned()).chain(names).collect();
    let data = PairData::new(Arc::new(Stripes(classes)), &recipe.data, &opened.text, Path::new("."))?;
    let out = std::env::temp_dir().join("samclip_guided_step");
    let options =
        RunOptions {
            data: ".".into(),
            out,
            teacher_cache: None,
            smoke: false,
            resume: false,
            allow_changed_recipe: false,
            revision: None,
            seed: None,
        };
    let mut trainer = GuidedTrainer::with_config(recipe, config, RECIPE.to_owned(), &opened, data, &options)?;
    drop(opened);
    println!("ready: {} MiB", peak_mib());
    for step in 1..=number(2, 3) {
        let start = Instant::now();
        let report = trainer.train_step()?;
        println!("step {step}: {:.2} s, peak {} MiB, loss {:.4}", start.elapsed().as_secs_f64(), peak_mib(), report.loss);
    }
    Ok(())
}
