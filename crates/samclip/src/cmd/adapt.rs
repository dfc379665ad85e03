//! `samclip adapt`: from labelled photos to an adapter, in one command.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use samclip_data::augment::{Augment, ColorJitter, Geometry, PhotoFilter};
use samclip_data::labelled::{Check, check};
use samclip_data::subset::Subset;
use samclip_data::{DataError, Dataset};
use samclip_models::ModelError;
use samclip_models::clip_guided_sam::{ClipGuidedConfig, PromptRules};
use samclip_train::{RunOptions, TrainError};
use samclip_train::guided::{ADAPTER_FILE, BUILTIN, BasesSpec, ClassName, Data, GuidedRecipe, Kind, Objective, run_on};
use samclip_train::losses::BinaryWeights;
use samclip_train::objectives::clip_guided::PointSource;
use samclip_train::recipe::{Checkpoint, Group, Log, Optimizer, Precision, Smoke};

use super::adapt_watch::Watch;
use super::claim::claim;
use super::{data, train};

/// Arguments of `samclip adapt`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example: samclip adapt --data my_coco.json --classes 'dress,bag=handbag,shoes' --out run")]
pub struct Args {
    /// COCO file, or folder with VOC's layout, masks and classes.txt, or LabelMe files
    #[arg(long, value_name = "PATH")]
    data: PathBuf,
    /// The classes, several with commas; NAME=TEXT where the text for the model is another (default: all)
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    classes: Vec<String>,
    /// The run directory: recipe, log, previews, adapter.safetensors
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// VOC's list, or the folder of a mask folder
    #[arg(long, default_value = "train")]
    split: String,
    /// Train on at most so many photos, drawn by the seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    limit: usize,
    /// Rounds through the photos (default: by their number)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    epochs: Option<u32>,
    /// Stop after so many validations without a better figure
    #[arg(long, value_name = "N", default_value_t = 5)]
    patience: usize,
    /// Seed of the choice of photos, the adapters and the order
    #[arg(long, default_value_t = 7)]
    seed: u64,
    /// Leave photos with wrong labels out instead of refusing
    #[arg(long)]
    skip_bad: bool,
    /// Start over, even if the run directory holds a checkpoint
    #[arg(long)]
    no_resume: bool,
    /// A run of seconds that goes through everything
    #[arg(long)]
    smoke: bool,
}

/// Pairs of a step: images and classes of each.
const IMAGES: usize = 4;
const CLASSES_PER_IMAGE: usize = 2;
/// Steps that a run of average size takes (ours; about ten minutes on two cores).
const USUAL_STEPS: usize = 900;

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    samclip_kernels::keep_freed();
    let (classes, names) = class_names(&args.classes);
    let (labelled, report) = check(&args.data, &args.split, &classes)?;
    data::summary(&report).iter().for_each(|line| eprintln!("{line}"));
    data::findings(&report);
    let missing = report.findings.iter().any(|f| f.message.starts_with("there is no class"));
    if !report.findings.is_empty() && (!args.skip_bad || missing) {
        bail!("{} things are wrong with the labels (--skip-bad leaves such photos out): {}", report.findings.len(), args.data.display());
    }
    let good = (0..labelled.len()).filter(|i| !report.bad.contains(i)).collect();
    let dataset: Arc<dyn Dataset> = Arc::new(Subset::new(Arc::new(labelled), good)?);
    let recipe = recipe(&args, &report, classes, names)?;
    let text = toml::to_string(&recipe).context("cannot write the recipe")?;
    let recipe = if args.smoke { recipe.smoke() } else { recipe };
    let options = RunOptions { smoke: args.smoke, resume: !args.no_resume, ..RunOptions::new("", &args.out) };
    let stop = train::stop_on_signals()?;
    let _claim = claim(&args.out)?;
    let mut watch = Watch::new(dataset.clone(), &args.out, args.patience);
    let outcome = run_on(recipe, text, dataset, Path::new("."), &options, &mut watch, &stop);
    let outcome = outcome.map_err(|error| match &error {
        TrainError::Model(ModelError::UnknownName { name, .. }) => {
            let advice = format!("--classes '{name}=WORD' gives the class another word");
            anyhow::Error::from(error).context(advice)
        }
        _ => error.into(),
    })?;
    watch.finish();
    if !outcome.complete {
        eprintln!("stopped after step {}; the same command continues: {}", outcome.step, args.out.display());
    }
    let adapter = args.out.join(ADAPTER_FILE);
    if adapter.exists() {
        done(&adapter, &report, &args, &watch);
    }
    Ok(ExitCode::SUCCESS)
}

/// Says what came out and how to use it.
fn done(adapter: &Path, report: &Check, args: &Args, watch: &Watch) {
    let megabytes = std::fs::metadata(adapter).map_or(0.0, |m| m.len() as f64 / 1e6);
    let figure = watch.best.map_or(String::new(), |best| format!(", IoU {best:.3} on photos kept out"));
    eprintln!("{megabytes:.1} MB{figure}");
    let first = args.classes.first().map(|c| c.rsplit('=').next().unwrap_or(c).to_owned());
    let name = first.or_else(|| report.classes.first().map(|c| c.class.clone())).unwrap_or_default();
    eprintln!("use it: samclip segment PHOTO.jpg --text '{name}' --adapter {}", adapter.display());
    println!("{}", adapter.display());
}

/// `NAME` or `NAME=TEXT`.
fn class_names(given: &[String]) -> (Vec<String>, Vec<ClassName>) {
    let mut names = Vec::new();
    let mut class = |given: &String| match given.split_once('=') {
        None => given.trim().to_owned(),
        Some((class, text)) => {
            let class = class.trim().to_owned();
            names.push(ClassName { class: class.clone(), text: text.trim().to_owned() });
            class
        }
    };
    (given.iter().map(&mut class).collect(), names)
}

/// How long a run is, by the number of pairs.
struct Size {
    hold_out: usize,
    per_epoch: usize,
    steps: usize,
}

impl Size {
    fn new(args: &Args, report: &Check, classes: &[String]) -> Result<Self> {
        let photos = if args.limit > 0 { args.limit.min(report.usable) } else { report.usable };
        let wanted = |c: &&samclip_data::labelled::ClassCount| classes.is_empty() || classes.contains(&c.class);
        let pairs: usize = report.classes.iter().filter(wanted).map(|c| c.photos).sum();
        let pairs = (pairs * photos).div_ceil(report.usable.max(1));
        if pairs == 0 {
            let message = format!("no photo shows any of the classes: {}", args.data.display());
            return Err(DataError::Config(message).into());
        }
        let hold_out = if photos >= 5 { (photos * 3).div_ceil(20).clamp(1, 60) } else { 0 };
        let per_epoch = (pairs * (photos - hold_out)).div_ceil(photos * IMAGES * CLASSES_PER_IMAGE).max(1);
        let epochs = args.epochs.map_or_else(|| (USUAL_STEPS / per_epoch).clamp(8, 100), |e| e as usize);
        Ok(Self { hold_out, per_epoch, steps: (epochs * per_epoch).max(10) })
    }
}

/// The recipe for these photos: the built-in bases and the paper's settings.
fn recipe(args: &Args, report: &Check, classes: Vec<String>, names: Vec<ClassName>) -> Result<GuidedRecipe> {
    let config = ClipGuidedConfig::nano();
    let size = Size::new(args, report, &classes)?;
    let bf16 = samclip_predict::Precision::Auto.apply()? == "bf16";
    Ok(GuidedRecipe {
        kind: Kind::ClipGuided,
        name: args.out.file_name().map_or_else(|| "adapt".to_owned(), |n| n.to_string_lossy().into_owned()),
        seed: args.seed,
        steps: size.steps,
        precision: if bf16 { Precision::Bf16 } else { Precision::F32 },
        shards: 2,
        pairs_per_pass: 0,
        bases: bases(),
        adapters: config.adapters,
        prompts: PromptRules::PAPER,
        train: config.train,
        objective: Objective {
            points: PointSource::Mixed,
            truth_points: 1,
            center_click: 0.0,
            losses: BinaryWeights { bce: 1.0, dice: 1.0, iou: 1.0 },
            clip_alone_steps: 0,
        },
        data: photos(args, size.hold_out, classes, names)?,
        optimizer: optimizer(size.steps),
        checkpoint: Checkpoint { every_steps: 500, every_minutes: 3.0, model: Default::default() },
        log: Log { every_steps: (size.steps / 40).max(1), observe_every_steps: (size.steps / 12).max(size.per_epoch) },
        smoke: Smoke { steps: 2, batch: 2, synthetic: false },
    })
}

fn bases() -> BasesSpec {
    BasesSpec {
        variant: "clip_guided_sam_nano".to_owned(),
        sam: BUILTIN.to_owned(),
        clip: BUILTIN.to_owned(),
        text: BUILTIN.to_owned(),
        surgery: true,
    }
}

fn photos(args: &Args, hold_out: usize, classes: Vec<String>, names: Vec<ClassName>) -> Result<Data> {
    Ok(Data {
        dataset: "path".to_owned(),
        path: Some(std::path::absolute(&args.data)?),
        split: args.split.clone(),
        list: None,
        limit: args.limit,
        limit_seed: args.seed,
        balanced: args.limit > 0,
        hold_out,
        classes,
        names,
        images: IMAGES,
        classes_per_image: CLASSES_PER_IMAGE,
        min_area: 0.0005,
        augment: Augment {
            geometry: Geometry::RandomResizedCrop { scale: [0.35, 1.0], ratio: [0.75, 1.3333] },
            hflip: 0.5,
            color: ColorJitter { brightness: 0.2, contrast: 0.2, saturation: 0.2 },
            filter: PhotoFilter::Bilinear,
            cutmix: None,
        },
    })
}

/// CLIP's attention learns at a tenth of the rate.
fn optimizer(steps: usize) -> Optimizer {
    let warmup_steps = (steps / 20).max(1);
    Optimizer {
        lr: 1e-3,
        final_lr: 1e-5,
        warmup_steps,
        decay_steps: steps - warmup_steps,
        betas: [0.9, 0.999],
        weight_decay: 0.01,
        accumulate: 1,
        ema_decay: None,
        muon: None,
        clip_norm: 1.0,
        groups: vec![Group { pattern: "clip.*".to_owned(), lr_scale: 0.1 }],
    }
}
