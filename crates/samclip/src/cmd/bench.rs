//! `samclip bench`: times a part of the work on this machine, with its speed and memory.
//!
//! What is measured, and what counts as a multiply-add: `samclip_predict::bench`, `samclip_models::cost`.

use std::io::BufRead;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use samclip_image::{DecodeLimits, Filter, Image, resize};
use samclip_kernels::isa;
use samclip_predict::EverythingOptions;
use samclip_predict::bench::{Bench, BenchSpec, Report, Work, measure, system};

use super::bench_step;
use super::common::{PrecisionArg, out};

const STANDARD: EverythingOptions = EverythingOptions::STANDARD;
/// The photo of `everything` where none is given, and the size it is brought to.
const PHOTO: &[u8] = include_bytes!("../../../../examples/cat.jpg");
const PHOTO_SIZE: (usize, usize) = (1500, 1000);

/// Arguments of `samclip bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// What to time
    #[arg(value_enum)]
    work: WorkArg,
    /// Model variant (default: clip_vit_b16 for clip, else sam_vit_b; whole steps have their own)
    #[arg(long, value_name = "NAME")]
    pub(super) model: Option<String>,
    /// Weight file (default: built-in weights where the model has them, else seeded random ones)
    #[arg(long, value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Image side in pixels, for peak the side of the matrices (default: the model's)
    #[arg(long, value_name = "N")]
    pub(super) size: Option<usize>,
    /// Images at once, for decoder clicks (default: 1; a CLIP block in train-step: 16)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    pub(super) batch: Option<u16>,
    /// Number format of the matrix products
    #[arg(long, value_enum, default_value_t = PrecisionArg::Auto)]
    pub(super) precision: PrecisionArg,
    /// Worker threads (default: all cores)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Counted runs, after one to warm up
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repeat: u16,
    /// Seed of random weights and inputs
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub(super) seed: u64,
    /// Photo for everything (default: an example photo at 1500 x 1000)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// Clicks along one side of the image, for everything
    #[arg(long, default_value_t = STANDARD.points_per_side, value_name = "N")]
    points_per_side: usize,
    /// As in `samclip everything`
    #[arg(long, default_value_t = STANDARD.pred_iou_thresh, value_name = "IOU", allow_negative_numbers = true)]
    pred_iou_thresh: f32,
    /// As in `samclip everything`
    #[arg(long, default_value_t = STANDARD.stability_score_thresh, value_name = "SCORE")]
    stability_score_thresh: f32,
    /// Print one JSON document on stdout
    #[arg(long, conflicts_with = "worker")]
    json: bool,
    /// Keep the model loaded: each line `run NAME` on stdin is one run and one line of JSON on stdout
    #[arg(long, conflicts_with = "repeat")]
    worker: bool,
}

/// What to time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkArg {
    /// Image encoder of a SAM: pixels to embedding
    Encoder,
    /// Mask decoder: clicks on a given embedding
    Decoder,
    /// Automatic mask generator on a photo
    Everything,
    /// Image tower of a CLIP
    Clip,
    /// Forward and backward of one block: CLIP's, or SAM's global one
    TrainStep,
    /// SAM-CLIP's joint step: ViT-B, one photo for each task (or --batch), both teachers, 32 prompts a photo
    JointStep,
    /// CLIP-Guided SAM's step: ViT-B with CLIP B/16, one photo with three classes (or --batch)
    GuidedStep,
    /// Reading a checkpoint and building the model
    Load,
    /// Achieved GEMM peak in each precision, and memory bandwidth
    Peak,
}

fn bench(args: &Args) -> Result<Bench> {
    let work = match args.work {
        WorkArg::JointStep => return bench_step::joint(args),
        WorkArg::GuidedStep => return bench_step::guided(args),
        WorkArg::Encoder => Work::Encoder,
        WorkArg::Decoder => Work::Decoder,
        WorkArg::Everything => Work::Everything,
        WorkArg::Clip => Work::Clip,
        WorkArg::TrainStep => Work::TrainStep,
        WorkArg::Load => Work::Load,
        WorkArg::Peak => Work::Peak,
    };
    Ok(Bench::new(&spec(args, work)?)?)
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    if let Some(threads) = args.threads {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.into());
        pool.build_global().context("cannot start the threads")?;
    }
    if matches!(args.work, WorkArg::TrainStep | WorkArg::JointStep | WorkArg::GuidedStep) {
        samclip_kernels::keep_freed(); // as `samclip train` does
    }
    let mut bench = bench(&args)?;
    if args.worker {
        return worker(&mut bench);
    }
    let report = measure(&mut bench, args.repeat.into())?;
    if args.json {
        print_json(&args, &report)?
    } else {
        print_text(&args, &report)
    }
    Ok(ExitCode::SUCCESS)
}

fn spec(args: &Args, work: Work) -> Result<BenchSpec> {
    let options = EverythingOptions {
        points_per_side: args.points_per_side,
        pred_iou_thresh: args.pred_iou_thresh,
        stability_score_thresh: args.stability_score_thresh,
        ..STANDARD
    };
    Ok(BenchSpec {
        work,
        variant: args.model.clone(),
        weights: args.weights.clone(),
        size: args.size,
        batch: args.batch.map(usize::from),
        precision: args.precision.into(),
        seed: args.seed,
        image: (work == Work::Everything).then(|| photo(args.image.as_deref())).transpose()?,
        options,
    })
}

fn photo(path: Option<&Path>) -> Result<Image> {
    let limits = DecodeLimits::default();
    if let Some(path) = path {
        return Ok(Image::open(path, &limits)?);
    }
    let image = Image::decode(PHOTO, Path::new("the built-in example photo"), &limits)?;
    Ok(resize(&image, PHOTO_SIZE.0, PHOTO_SIZE.1, Filter::Bilinear))
}

/// Answers `run NAME` until the input ends.
fn worker(bench: &mut Bench) -> Result<ExitCode> {
    for line in std::io::stdin().lock().lines() {
        let line = line.context("cannot read the next command")?;
        let Some(name) = line.trim().strip_prefix("run ") else {
            bail!("unknown command: expected `run NAME`, found `{line}`");
        };
        let reading = serde_json::to_value(bench.once()?)?;
        let mut document = serde_json::json!({ "name": name });
        merge(&mut document, reading);
        out(&document.to_string());
    }
    Ok(ExitCode::SUCCESS)
}

fn work_name(work: WorkArg) -> String {
    work.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
}

fn isa_name() -> String {
    format!("{:?}", isa::current()).to_lowercase()
}

fn print_json(args: &Args, report: &Report) -> Result<()> {
    let mut document = serde_json::json!({
        "work": work_name(args.work), "version": env!("CARGO_PKG_VERSION"), "cpu": system::cpu_name(),
        "isa": isa_name(), "threads": rayon::current_num_threads(), "repeat": args.repeat, "seed": args.seed,
    });
    merge(&mut document, serde_json::to_value(report)?);
    out(&document.to_string());
    Ok(())
}

/// Adds the fields of one object to another.
fn merge(into: &mut serde_json::Value, from: serde_json::Value) {
    if let (Some(into), serde_json::Value::Object(from)) = (into.as_object_mut(), from) {
        into.extend(from);
    }
}

fn print_text(args: &Args, report: &Report) {
    let threads = rayon::current_num_threads();
    let Report { model, size, batch, precision, weights, .. } = report;
    let (work, isa) = (work_name(args.work), isa_name());
    out(&match args.work {
        WorkArg::Peak => format!("{work}: matrices of {size} x {size}, {threads} threads, {isa}"),
        WorkArg::Load => format!("{work} {model}: weights {weights}, {threads} threads, {isa}"),
        _ => format!(
            "{work} {model}: size {size}, batch {batch}, {precision}, {threads} threads, {isa}, weights {weights}"
        ),
    });
    if args.work != WorkArg::Peak {
        let (median, minimum) = (report.median_seconds * 1e3, report.minimum_seconds * 1e3);
        let cpu =
            report.cpu_seconds.map_or_else(String::new, |s| format!(", processor time {:.0} ms", s * 1e3));
        out(&format!("median {median:.2} ms, minimum {minimum:.2} ms of {}{cpu}", report.seconds.len()));
    }
    if let (Some(n), Some(at_median), Some(best)) = (report.multiply_adds, report.gflops, report.best_gflops)
    {
        let giga = n as f64 / 1e9;
        out(&format!(
            "{at_median:.1} GFLOP/s, best {best:.1} ({giga:.2} G multiply-adds, 2 operations each)"
        ));
    }
    let mb = |kb: Option<u64>| {
        kb.map_or_else(|| "unknown".to_owned(), |kb| format!("{:.0} MB", kb as f64 * 1.024e-3))
    };
    out(&format!("peak RSS {}, above the loaded model {}", mb(report.peak_rss_kb), mb(report.peak_extra_kb)));
    for (name, value) in &report.details {
        out(&format!("{name} {value:.2}"));
    }
}
