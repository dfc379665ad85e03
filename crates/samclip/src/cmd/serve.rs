//! `samclip serve`: the library over HTTP, with the page and the labelling tools' protocols.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use samclip_predict::ModelSpec;
use samclip_server::settings::LabelStudio;
use samclip_server::{Engine, FileSettings, Limits, Settings};

use super::common::PrecisionArg;

/// Arguments of `samclip serve`. A flag wins over its environment variable, that over the configuration file.
#[derive(Debug, clap::Args)]
#[command(after_help = "Every flag is also a key of the TOML file of --config, and SAMCLIP_ followed by its name in \
                        capitals (SAMCLIP_PORT) in the environment. SIGTERM finishes what was accepted, then ends.")]
pub struct Args {
    /// Configuration file (TOML): keys are the names of the flags
    #[arg(long, value_name = "FILE", env = "SAMCLIP_CONFIG")]
    config: Option<PathBuf>,
    /// Address to listen on; 0.0.0.0 lets other machines in [default: 127.0.0.1]
    #[arg(long, env = "SAMCLIP_HOST", value_name = "ADDRESS")]
    host: Option<String>,
    /// Port; 0 takes a free one [default: 8484]
    #[arg(long, env = "SAMCLIP_PORT", value_name = "PORT")]
    port: Option<u16>,
    /// Model variant [default: sam_clip_nano]
    #[arg(long, env = "SAMCLIP_MODEL", value_name = "NAME")]
    model: Option<String>,
    /// Its weight file
    #[arg(long, env = "SAMCLIP_WEIGHTS", value_name = "FILE")]
    weights: Option<PathBuf>,
    /// Names and their vectors for a SAM-CLIP model other than the built-in one
    #[arg(long, env = "SAMCLIP_TEXT_TABLE", value_name = "FILE")]
    text_table: Option<PathBuf>,
    /// CLIP's weight file, for adapters that were trained with a CLIP of their own
    #[arg(long, env = "SAMCLIP_CLIP_WEIGHTS", value_name = "FILE")]
    clip_weights: Option<PathBuf>,
    /// Number format of the matrix products [default: auto]
    #[arg(long, env = "SAMCLIP_PRECISION", value_enum)]
    precision: Option<PrecisionArg>,
    /// Where to compute [default: cpu]
    #[arg(long, env = "SAMCLIP_DEVICE", value_name = "DEVICE")]
    device: Option<String>,
    /// Worker threads [default: all cores]
    #[arg(long, env = "SAMCLIP_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Adapter that requests may choose by its name, several times for several
    #[arg(long, env = "SAMCLIP_ADAPTER", value_name = "FILE", value_delimiter = ',')]
    adapter: Vec<PathBuf>,
    /// Folder whose adapters requests may choose
    #[arg(long, env = "SAMCLIP_ADAPTERS", value_name = "DIR")]
    adapters: Option<PathBuf>,
    /// Answer only who sends this key (better in the environment or a file than on the command line)
    #[arg(long, env = "SAMCLIP_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// File with the key
    #[arg(long, env = "SAMCLIP_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Origin of another site's page that may ask, `*` for all; several times for several
    #[arg(long, env = "SAMCLIP_CORS", value_name = "ORIGIN", value_delimiter = ',')]
    cors: Vec<String>,
    /// Label Studio's address; its ML backend fetches the tasks' images from there and from nowhere else
    #[arg(long, env = "SAMCLIP_LABEL_STUDIO_URL", value_name = "URL")]
    label_studio_url: Option<String>,
    /// Access token of a Label Studio user
    #[arg(long, env = "SAMCLIP_LABEL_STUDIO_KEY", value_name = "TOKEN", hide_env_values = true)]
    label_studio_key: Option<String>,
    /// Names that CVAT's detector looks for, separated by commas [default: 20 everyday names]
    #[arg(long, env = "SAMCLIP_DETECTOR_LABELS", value_name = "NAMES", value_delimiter = ',')]
    detector_labels: Vec<String>,
    /// Largest body in MB [default: 20]
    #[arg(long, env = "SAMCLIP_MAX_BODY_MB", value_name = "MB")]
    max_body_mb: Option<u64>,
    /// Refuse images with more pixels, before decoding them [default: 50000000]
    #[arg(long, env = "SAMCLIP_MAX_PIXELS", value_name = "N")]
    max_pixels: Option<u64>,
    /// Prompts, points or names in one request [default: 256]
    #[arg(long, env = "SAMCLIP_MAX_PROMPTS", value_name = "N")]
    max_prompts: Option<usize>,
    /// Requests accepted and not answered; more are told to come back [default: 64]
    #[arg(long, env = "SAMCLIP_QUEUE", value_name = "N")]
    queue: Option<usize>,
    /// Seconds until an accepted request is given up [default: 30]
    #[arg(long, env = "SAMCLIP_DEADLINE", value_name = "SECONDS")]
    deadline: Option<u64>,
    /// Seconds to finish accepted requests after SIGTERM [default: 30]
    #[arg(long, env = "SAMCLIP_GRACE", value_name = "SECONDS")]
    grace: Option<u64>,
    /// Memory for photos and their embeddings, in MB [default: 1024]
    #[arg(long, env = "SAMCLIP_CACHE_MB", value_name = "MB")]
    cache_mb: Option<u64>,
    /// Connections at the same time; more wait [default: 2048]
    #[arg(long, env = "SAMCLIP_CONNECTIONS", value_name = "N")]
    connections: Option<usize>,
    /// Log lines on stderr as text or as JSON [default: text]
    #[arg(long, env = "SAMCLIP_LOG", value_enum)]
    pub log: Option<LogFormat>,
    /// Serve the page from this folder
    #[arg(long, value_name = "DIR", hide = true)]
    assets: Option<PathBuf>,
}

/// `--log`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}

/// Requests or connections; more than any machine holds.
const MOST: usize = 1 << 20;

/// PASCAL VOC's classes: what CVAT's detector looks for where nothing else is said.
const DETECTOR_LABELS: [&str; 20] = [
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "dining table", "dog", "horse",
    "motorbike", "person", "potted plant", "sheep", "sofa", "train", "tv monitor",
];

/// Runs the verb.
pub fn run(args: Args, verbose: u8) -> Result<ExitCode> {
    let file = match &args.config {
        Some(path) => FileSettings::open(path)?,
        None => FileSettings::default(),
    };
    let log = args.log.map_or_else(|| choice(file.log.as_deref(), "log"), |log| Ok(Some(log)))?;
    crate::cli::init_serve_tracing(verbose, log == Some(LogFormat::Json));
    if let Some(threads) = args.threads.or(file.threads) {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1).into());
        pool.build_global().context("cannot start the threads")?;
    }
    let settings = settings(args, file)?;
    warn_if_open(&settings);
    let engine = Arc::new(Engine::new(settings)?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .context("cannot start the server's threads")?;
    let listening = |address| eprintln!("samclip serves on http://{address}");
    runtime.block_on(async { samclip_server::run(engine, listening, stop()).await })?;
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

/// A value of the file for which the command line has a list of choices.
fn choice<T: ValueEnum>(value: Option<&str>, key: &str) -> Result<Option<T>> {
    let Some(value) = value else { return Ok(None) };
    let names: Vec<String> =
        T::value_variants().iter().filter_map(|v| v.to_possible_value()).map(|v| v.get_name().to_owned()).collect();
    match T::from_str(value, false) {
        Ok(value) => Ok(Some(value)),
        Err(_) => bail!("configuration key {key} does not parse: expected one of {}, found `{value}`", names.join(", ")),
    }
}

fn settings(args: Args, file: FileSettings) -> Result<Settings> {
    let precision = args.precision.map_or_else(|| choice(file.precision.as_deref(), "precision"), |p| Ok(Some(p)))?;
    let variant = args.model.or(file.model).unwrap_or_else(|| "sam_clip_nano".to_owned());
    let model = ModelSpec {
        weights: args.weights.or(file.weights),
        text_table: args.text_table.or(file.text_table),
        clip_weights: args.clip_weights.or(file.clip_weights),
        precision: precision.unwrap_or(PrecisionArg::Auto).into(),
        device: args.device.or(file.device).unwrap_or_else(|| "cpu".to_owned()),
        ..ModelSpec::new(&variant)
    };
    let mut adapters = if args.adapter.is_empty() { file.adapter.unwrap_or_default() } else { args.adapter };
    if let Some(folder) = args.adapters.or(file.adapters) {
        adapters.extend(samclip_predict::adapter::list(&folder)?.into_iter().map(|listed| listed.file));
    }
    let standard = Limits::STANDARD;
    let limits = Limits {
        max_body: megabytes(args.max_body_mb.or(file.max_body_mb), standard.max_body as u64) as usize,
        max_receiving: standard.max_receiving,
        max_pixels: args.max_pixels.or(file.max_pixels).unwrap_or(standard.max_pixels),
        max_prompts: args.max_prompts.or(file.max_prompts).unwrap_or(standard.max_prompts),
        queue: args.queue.or(file.queue).unwrap_or(standard.queue).clamp(1, MOST),
        deadline: args.deadline.or(file.deadline).unwrap_or(standard.deadline).max(1),
        grace: args.grace.or(file.grace).unwrap_or(standard.grace),
        cache: megabytes(args.cache_mb.or(file.cache_mb), standard.cache),
        connections: args.connections.or(file.connections).unwrap_or(standard.connections).clamp(1, MOST),
        patience: standard.patience,
    };
    // a flag or the environment beats the configuration; a file beats a word, which may be the environment's for all
    let api_key = match (args.api_key, args.api_key_file) {
        (None, None) => key(file.api_key, file.api_key_file)?,
        (word, path) => key(word, path)?,
    };
    let label_studio_key = args.label_studio_key.or(file.label_studio_key);
    let label_studio = args.label_studio_url.or(file.label_studio_url);
    let everyday = || DETECTOR_LABELS.iter().map(|name| (*name).to_owned()).collect();
    let detector_labels = match args.detector_labels.is_empty() {
        true => file.detector_labels.unwrap_or_else(everyday),
        false => args.detector_labels,
    };
    Ok(Settings {
        label_studio: label_studio.map(|url| LabelStudio { url, key: label_studio_key }),
        detector_labels,
        host: args.host.or(file.host).unwrap_or_else(|| "127.0.0.1".to_owned()),
        port: args.port.or(file.port).unwrap_or(8484),
        model,
        adapters,
        api_key,
        cors: if args.cors.is_empty() { file.cors.unwrap_or_default() } else { args.cors },
        assets: args.assets,
        limits,
    })
}

fn megabytes(asked: Option<u64>, standard: u64) -> u64 {
    asked.map_or(standard, |mb| mb.max(1).saturating_mul(1 << 20))
}

/// The first line of the file, or the key itself.
fn key(word: Option<String>, file: Option<PathBuf>) -> Result<Option<String>> {
    let key = match file {
        Some(path) => {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read the key: {}", path.display()))?;
            Some(text.lines().next().unwrap_or_default().trim().to_owned())
        }
        None => word,
    };
    match key {
        Some(key) if key.trim().is_empty() => bail!("the API key is empty: expected a word that is hard to guess"),
        key => Ok(key),
    }
}

fn warn_if_open(settings: &Settings) {
    let local = matches!(settings.host.as_str(), "127.0.0.1" | "localhost" | "::1");
    if !local && settings.api_key.is_none() {
        eprintln!("warning: everybody who reaches {}:{} may use this server", settings.host, settings.port);
        eprintln!("hint: give it a key with --api-key-file, or SAMCLIP_API_KEY in the environment");
    }
}

/// Resolves at SIGTERM or Ctrl-C.
async fn stop() {
    let interrupt = tokio::signal::ctrl_c();
    #[cfg(unix)]
    {
        let Ok(mut terminate) = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) else {
            let _ = interrupt.await;
            return;
        };
        tokio::select! {
            _ = interrupt => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    let _ = interrupt.await;
}
