//! Work that can be timed: the parts of inference, a training step, and the machine's limits.
//!
//! Reader's path: [`BenchSpec`] -> [`Bench::new`] (builds the model) -> [`Bench::once`] (one timed run) ->
//! [`measure`] (several, as a [`Report`]). Without a weight file the weights are seeded random numbers (speed does
//! not depend on them) or the model's built-in ones; nothing is downloaded.

mod block;
mod checkpoint_file;
mod net;
mod peak;
mod report;
pub mod system;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use samclip_image::Image;
use samclip_models::clip::ClipConfig;
use samclip_models::init::Init;
use samclip_models::sam::MaskOutput;
use samclip_models::variant::Variant;
use samclip_models::{Device, Tensor, cost, state};

use crate::decode::{InputPrompt, POINTS_PER_BATCH, decode};
use crate::error::PredictError;
use crate::everything::{EverythingOptions, everything};
use crate::model::{Model, ModelSpec, clip_config, read_weights};
use crate::precision::Precision;
use crate::sam::SamLike;
use crate::tensors::values;
use checkpoint_file::Checkpoint;
use net::Net;
pub use report::{Reading, Report, measure, median};
use report::gflops;

/// What is timed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// Pixels to image embedding.
    Encoder,
    /// One click (or `batch`) on a given image embedding, to low-resolution logits.
    Decoder,
    /// The automatic mask generator on a photo.
    Everything,
    /// CLIP's image tower.
    Clip,
    /// Forward and backward of one transformer block.
    TrainStep,
    /// Reading a checkpoint and building the model.
    Load,
    /// Achieved GEMM peak and memory bandwidth.
    Peak,
}

/// What to time and how.
#[derive(Debug, Clone)]
pub struct BenchSpec {
    /// What is timed.
    pub work: Work,
    /// The model; `None` is the one that the work is usually quoted for.
    pub variant: Option<String>,
    /// Weight file.
    pub weights: Option<PathBuf>,
    /// Image side in pixels, for [`Work::Peak`] the side of the matrices; `None` is the model's own.
    pub size: Option<usize>,
    /// Images, for [`Work::Decoder`] clicks; `None` is the usual number.
    pub batch: Option<usize>,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Seed of weights and inputs.
    pub seed: u64,
    /// The photo of [`Work::Everything`]; nothing else looks at it.
    pub image: Option<Image>,
    /// The options of [`Work::Everything`].
    pub options: EverythingOptions,
}

/// Named figures of one run that are not times: masks found, limits reached.
pub type Details = BTreeMap<&'static str, f64>;

type Run = Box<dyn FnMut() -> Result<Details, PredictError>>;

/// Something to run: [`Work`] with its model and inputs ready.
pub struct Bench {
    /// The model's name; empty for [`Work::Peak`].
    pub model: String,
    /// Where the weights come from: `seeded`, `built in`, `file`.
    pub weights: &'static str,
    /// Image side, or side of the matrices.
    pub size: usize,
    /// Images, or clicks.
    pub batch: usize,
    /// `f32` or `bf16`.
    pub precision: &'static str,
    /// Multiply-adds of one run ([`samclip_models::cost`]), where they are countable.
    pub multiply_adds: Option<u64>,
    /// Resident memory with model and inputs, before the first run.
    pub model_rss_kb: Option<u64>,
    peak_before_kb: Option<u64>,
    run: Run,
}

impl Bench {
    /// Builds the model and its inputs.
    ///
    /// # Errors
    /// An unknown model or one that cannot do the work, a size that is not a multiple of the patch, a weight file
    /// that does not fit, a precision that is not there.
    pub fn new(spec: &BenchSpec) -> Result<Self, PredictError> {
        let usual = if spec.work == Work::Clip { "clip_vit_b16" } else { "sam_vit_b" };
        let variant: Variant = spec.variant.as_deref().unwrap_or(usual).parse()?;
        let precision = spec.precision.apply()?;
        let bench = match spec.work {
            Work::Encoder => encoder(variant, spec),
            Work::Decoder => decoder(variant, spec),
            Work::Everything => everything_bench(variant, spec),
            Work::Clip => clip(variant, spec),
            Work::TrainStep => block::train_step(variant, spec),
            Work::Load => load(variant, spec),
            Work::Peak => Ok(peak::peak(spec)),
        }?;
        Ok(bench.ready(precision))
    }

    /// A training step of another crate in a precision of [`Precision::apply`]; it gives back its loss.
    pub fn step<E: std::error::Error + Send + Sync + 'static>(
        model: &str,
        size_and_batch: [usize; 2],
        precision: &'static str,
        mut step: impl FnMut() -> Result<f64, E> + 'static,
    ) -> Self {
        let run = move || {
            let loss = step().map_err(|error| PredictError::Step(Box::new(error)))?;
            Ok(Details::from([("loss", loss)]))
        };
        Self::of(model, "seeded", size_and_batch, None, Box::new(run)).ready(precision)
    }

    /// Memory counts from now on.
    fn ready(mut self, precision: &'static str) -> Self {
        self.precision = precision;
        self.peak_before_kb = system::peak_rss_kb();
        self.model_rss_kb = system::rss_kb();
        system::reset_peak_rss();
        self
    }

    fn of(
        model: &str,
        weights: &'static str,
        [size, batch]: [usize; 2],
        multiply_adds: Option<u64>,
        run: Run,
    ) -> Self {
        Self {
            model: model.to_owned(),
            weights,
            size,
            batch,
            precision: "",
            multiply_adds,
            model_rss_kb: None,
            peak_before_kb: None,
            run,
        }
    }

    /// One timed run.
    ///
    /// # Errors
    /// Whatever the work itself reports.
    pub fn once(&mut self) -> Result<Reading, PredictError> {
        let (start, cpu) = (Instant::now(), system::cpu_seconds());
        let details = (self.run)()?;
        let seconds = start.elapsed().as_secs_f64();
        let cpu_seconds = system::cpu_seconds().zip(cpu).map(|(after, before)| after - before);
        let peak = system::peak_rss_kb();
        Ok(Reading {
            seconds,
            cpu_seconds,
            gflops: self.multiply_adds.map(|n| gflops(n, seconds)),
            peak_rss_kb: peak.max(self.peak_before_kb),
            peak_extra_kb: peak.zip(self.model_rss_kb).map(|(peak, model)| peak.saturating_sub(model)),
            details,
        })
    }
}

/// Seeded values from N(0, 1).
fn noise<const D: usize>(shape: [usize; D], seed: u64, device: &Device) -> Tensor<D> {
    Init::seeded(seed ^ 0x5eed, device).normal(shape, 1.0).val()
}

/// A side that is a whole number of patches.
fn whole(size: usize, patch: usize) -> Result<usize, PredictError> {
    if size > 0 && size % patch == 0 {
        return Ok(size);
    }
    let expected = if patch == 14 { "a multiple of 14" } else { "a multiple of 16" };
    Err(PredictError::Option { name: "--size", expected, found: size.to_string() })
}

fn encoder(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let (net, weights) = Net::load(variant, spec)?;
    let size = whole(spec.size.unwrap_or(net.side()), 16)?;
    let batch = spec.batch.unwrap_or(1);
    let macs = net.encoder_cost(size) * batch as u64;
    let pixels = noise([batch, 3, size, size], spec.seed, &Device::default());
    let run = move || {
        values(net.encode(pixels.clone()));
        Ok(Details::new())
    };
    Ok(Bench::of(variant.name(), weights, [size, batch], Some(macs), Box::new(run)))
}

fn decoder(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let (net, weights) = Net::load(variant, spec)?;
    let size = whole(spec.size.unwrap_or(net.side()), 16)?;
    let clicks = spec.batch.unwrap_or(1);
    let grid = size / 16;
    let embedding = noise([1, net.decoder().transformer_dim, grid, grid], spec.seed, &Device::default());
    let at = |i: usize| (i as f32 + 0.5) / clicks as f32 * size as f32;
    let click = |i: usize| InputPrompt { points: vec![[at(i), at(i), 1.0]], ..InputPrompt::default() };
    let prompts: Vec<InputPrompt> = (0..clicks).map(click).collect();
    let macs = cost::mask_decoder(net.decoder(), [grid, grid], clicks, 2);
    let run = move || {
        decode(net.head(), &embedding, &prompts, MaskOutput::Multi, POINTS_PER_BATCH);
        Ok(Details::new())
    };
    Ok(Bench::of(variant.name(), weights, [size, clicks], Some(macs), Box::new(run)))
}

fn everything_bench(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    spec.options.validate()?;
    let none = || PredictError::Option { name: "--image", expected: "a photo", found: "none".to_owned() };
    let image = spec.image.clone().ok_or_else(none)?;
    let (mut net, weights) = Net::load(variant, spec)?;
    let size = whole(spec.size.unwrap_or(net.side()), 16)?;
    net.set_side(size);
    let (grid, clicks) = (size / 16, spec.options.points_per_side.pow(2));
    let macs = net.encoder_cost(size) + cost::mask_decoder(net.decoder(), [grid, grid], clicks, 2);
    let options = spec.options.clone();
    let run = move || {
        let answer = everything(&net, &image, &options)?;
        let times = [("encode_ms", answer.timing.encode), ("decode_ms", answer.timing.decode)];
        Ok(times.into_iter().chain([("masks", answer.masks.len() as f64)]).collect())
    };
    Ok(Bench::of(variant.name(), weights, [size, 1], Some(macs), Box::new(run)))
}

fn clip(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let config = clip_sizes(variant)?;
    let vision = &config.vision;
    let size = whole(spec.size.unwrap_or(vision.image_size), vision.patch_size)?;
    let batch = spec.batch.unwrap_or(1);
    let device = Device::default();
    let (tower, weights) = match &spec.weights {
        None => (block::image_tower(&config, &mut Init::seeded(spec.seed, &device)), "seeded"),
        Some(path) => {
            let weights = read_weights(variant, Some(path))?;
            (state::load(config.init(&mut Init::zeros(&device)), &weights)?.visual, "file")
        }
    };
    let macs = cost::clip_image(vision, config.embed_dim, [size, size]) * batch as u64;
    let pixels = noise([batch, 3, size, size], spec.seed, &device);
    let run = move || {
        values(tower.forward(pixels.clone())?);
        Ok(Details::new())
    };
    Ok(Bench::of(variant.name(), weights, [size, batch], Some(macs), Box::new(run)))
}

/// Sizes of a CLIP; other models have no image tower of its kind.
fn clip_sizes(variant: Variant) -> Result<ClipConfig, PredictError> {
    match variant {
        Variant::ClipVitB16
        | Variant::ClipVitL14
        | Variant::ClipVitB16Quickgelu
        | Variant::ClipVitL14Quickgelu => Ok(clip_config(variant)),
        other => Err(PredictError::NoRole {
            model: other.name().to_owned(),
            role: "run CLIP's image tower",
            able: "clip_vit_b16, clip_vit_l14 and their _quickgelu forms",
        }),
    }
}

fn load(variant: Variant, spec: &BenchSpec) -> Result<Bench, PredictError> {
    let (file, weights) = match (&spec.weights, variant) {
        (Some(path), _) => (Checkpoint::given(path), "file"),
        (None, Variant::SamClipNano) => (Checkpoint::none(), "built in"),
        (None, _) => (Checkpoint::seeded(variant, spec.seed)?, "seeded"),
    };
    let mut model = ModelSpec::new(variant.name());
    (model.weights, model.precision) = (file.path(), spec.precision);
    let run = move || {
        Model::load(&model)?;
        Ok(Details::from([("file_bytes", file.bytes() as f64)]))
    };
    Ok(Bench::of(variant.name(), weights, [0, 1], None, Box::new(run)))
}
