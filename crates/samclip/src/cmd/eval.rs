//! `samclip eval`: run protocols, say whether floors are reached; put shards together.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use samclip_data::names::name_map;
use samclip_eval::answers::{Answers, Files, Offline, Roles};
use samclip_eval::benchmark::Task;
use samclip_eval::boxes::Boxes;
use samclip_eval::cost::Cost;
use samclip_eval::driver::{AnyReport, Job, Run, Shard, ask_model, ask_offline};
use samclip_eval::metrics::detection::open_detections;
use samclip_eval::records::Header;
use samclip_eval::{AnyProtocol, Protocol, Report, Subject, evaluate, folder};
use samclip_predict::sam_plus_clip::SamPlusClip;
use samclip_predict::{EverythingOptions, Model, PromptSegmenter};

use super::common::{ModelArgs, bar, out};
use super::eval_probe::{Places, heads};

/// Arguments of `samclip eval`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
#[command(after_help = "Prints a Markdown report. Exit code 1: a floor of the protocol is not reached, or a truth could \
not be read. With --out a run that was interrupted continues.")]
pub struct Args {
    #[command(subcommand)]
    action: Option<Action>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Put the shards of a run together and write its report
    Merge(super::eval_merge::Args),
}

#[derive(Debug, clap::Args)]
struct RunArgs {
    /// Protocols, TOML files under protocols/; those on the same photos share the encoder's work
    #[arg(required = true, value_name = "PROTOCOL")]
    protocols: Vec<PathBuf>,
    /// Folder with the datasets
    #[arg(long, value_name = "DIR", env = "SAMCLIP_DATA", required = true)]
    data: Option<PathBuf>,
    /// The first photos only; floors are not checked then
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
    /// Part I of N of the photos (0/4, 1/4, ...); `samclip eval merge` puts the parts together
    #[arg(long, value_name = "I/N", value_parser = parse_shard, requires = "out")]
    shard: Option<Shard>,
    /// Write the report as JSON as well (a list, for several protocols)
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Keep records, report, plots and the worst pictures here, a folder for each protocol; continues a run
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Score what another system wrote instead of asking a model: a folder of PNGs (ID.png, CLASS/ID.png), COCO results
    /// JSON, scores by photo (JSON, npy), vectors (JSON)
    #[arg(long, value_name = "PATH", conflicts_with_all = ["oracle", "constant"])]
    predictions: Option<PathBuf>,
    /// The name of that system in the report
    #[arg(long, value_name = "NAME", requires = "predictions")]
    system: Option<String>,
    /// Give the truth as the answer: every protocol must say 1
    #[arg(long, conflicts_with = "constant")]
    oracle: bool,
    /// Give the first class, the whole photo (of every category, for objects), one vector
    #[arg(long)]
    constant: bool,
    /// Classify at this side instead of the model's, and measure nothing else; floors are not checked then
    #[arg(long, value_name = "N", conflicts_with_all = ["boxes", "sam_plus_clip", "adapter"])]
    classify_side: Option<usize>,
    /// Boxes of a detector: COCO results for instance segmentation, else a list of photo, label, box, score for names
    #[arg(long, value_name = "FILE", conflicts_with_all = ["sam_plus_clip", "adapter"])]
    boxes: Option<PathBuf>,
    /// Ask names of the baseline that segments everything and then classifies each mask
    #[arg(long, conflicts_with = "adapter")]
    sam_plus_clip: bool,
    #[command(flatten)]
    model: ModelArgs,
}

fn parse_shard(text: &str) -> std::result::Result<Shard, String> {
    let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse::<usize>().ok()?, n.parse::<usize>().ok()?)));
    parts.filter(|(i, n)| i < n).ok_or_else(|| format!("expected I/N with I below N, such as 0/4, found `{text}`"))
}

/// A prompts-and-names protocol on the data folder's photos; at a `side` classification alone.
pub fn measure(
    model: &mut Model,
    protocol: &Protocol,
    data: &Path,
    limit: Option<usize>,
    side: Option<usize>,
) -> Result<Report> {
    let dataset = samclip_data::open(data, &protocol.dataset, &protocol.split)?;
    let names = name_map(dataset.as_ref(), &data.join("text"))?;
    if let Some(side) = side {
        model.set_classify_side(side)?;
    }
    let subject = Subject {
        name: model.name.clone(),
        segmenter: model.prompt_segmenter().ok().filter(|_| side.is_none()),
        classifier: model.classifier().ok(),
        boxes: None,
    };
    let line = bar(true, 0, PROGRESS);
    let mut progress = |done: usize, all: usize| advance(&line, done, all);
    let report = evaluate(protocol, dataset.as_ref(), &names, &subject, limit, &mut progress)?;
    line.finish_and_clear();
    Ok(report)
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    match args.action {
        Some(Action::Merge(args)) => super::eval_merge::run(&args),
        None => run_protocols(&args.run),
    }
}

fn run_protocols(args: &RunArgs) -> Result<ExitCode> {
    let mut jobs = Vec::new();
    let data = args.data.as_deref().context("expected --data DIR")?;
    for path in &args.protocols {
        let mut job = Job::open(AnyProtocol::open(path)?, data)?;
        if let Some(boxes) = &args.boxes {
            add_boxes(&mut job, boxes)?;
        }
        if jobs.iter().any(|other: &Job| other.protocol().name() == job.protocol().name()) {
            bail!("two protocols are named `{}`: {}", job.protocol().name(), path.display());
        }
        jobs.push(job);
    }
    match offline(args, &jobs)? {
        Some((answers, name)) => {
            let content = args.predictions.as_deref().map_or(Ok("-".to_owned()), content_hash)?;
            let mut runs = open_runs(args, jobs, &|_| header_of(&name, &content, kind(&answers), true))?;
            let line = bar(true, 0, PROGRESS);
            ask_offline(&mut runs, &answers, args.shard.unwrap_or((0, 1)), &mut |done, all| advance(&line, done, all))?;
            line.finish_and_clear();
            finish(args, runs, Answers::Offline(&answers), &|_| Cost::default())
        }
        None => with_model(args, jobs),
    }
}

const PROGRESS: &str = "{wide_bar} {pos}/{len} photos, {eta} left";

fn advance(line: &indicatif::ProgressBar, done: usize, all: usize) {
    line.set_length(all as u64);
    line.set_position(done as u64);
}

fn add_boxes(job: &mut Job, path: &Path) -> Result<()> {
    match job {
        Job::Objects(case) => case.boxes = Some(Boxes::open(path)?),
        Job::Benchmark(case) => {
            let mut boxes = std::collections::BTreeMap::<u64, Vec<(u64, f64, [f64; 4])>>::new();
            for found in open_detections(path)? {
                let Some(bbox) = found.bbox else { bail!("a result without `bbox`: {}", path.display()) };
                boxes.entry(found.image_id).or_default().push((found.category_id, found.score.unwrap_or(0.0), bbox));
            }
            case.boxes = Some(boxes);
        }
    }
    Ok(())
}

/// The answers that need no model, and who they are from.
fn offline(args: &RunArgs, jobs: &[Job]) -> Result<Option<(Offline, String)>> {
    if args.oracle {
        return Ok(Some((Offline::Oracle, "truth".into())));
    }
    if args.constant {
        return Ok(Some((Offline::Constant, "constant".into())));
    }
    let Some(path) = &args.predictions else { return Ok(None) };
    let [job] = jobs else { bail!("--predictions are of one protocol, found {}", jobs.len()) };
    let ids: Vec<String> = (0..job.len()).map(|i| job.id(i)).collect();
    let name = args.system.clone().unwrap_or_else(|| path.file_stem().unwrap_or_default().to_string_lossy().into_owned());
    Ok(Some((Offline::Files(Files::open(path, &ids)?), name)))
}

fn kind(answers: &Offline) -> &'static str {
    match answers {
        Offline::Oracle => "oracle",
        Offline::Constant => "constant",
        Offline::Files(_) => "files",
    }
}

fn header_of(model: &str, weights: &str, answers: &str, texts: bool) -> Header {
    let (model, weights, answers) = (model.to_owned(), weights.to_owned(), answers.to_owned());
    Header { samclip_records: 1, protocol: String::new(), model, weights, answers, in_split: 0, limit: None, texts }
}

fn open_runs(args: &RunArgs, jobs: Vec<Job>, header: &dyn Fn(&Job) -> Header) -> Result<Vec<Run>> {
    let open = |job: Job| {
        let limit = args.limit.map(|n| n as usize).filter(|n| *n < job.len());
        let header = Header { protocol: job.protocol().to_toml(), in_split: job.len(), limit, ..header(&job) };
        let folder = args.out.as_ref().map(|out| out.join(job.protocol().name()));
        Ok(Run::open(job, header, folder.as_deref(), args.shard.unwrap_or((0, 1)))?)
    };
    jobs.into_iter().map(open).collect()
}

/// Several questions about one photo: its embedding is worth keeping for a moment.
fn shares_photos(jobs: &[Job]) -> bool {
    let several = |job: &Job| match job {
        Job::Objects(_) => false,
        Job::Benchmark(case) => {
            let refine = case.benchmark.instances.is_some_and(|i| i.refine > 0);
            refine || matches!(case.benchmark.task(), Task::Promptable | Task::ClassPrompted)
        }
    };
    jobs.len() > 1 || jobs.iter().any(several)
}

fn with_model(args: &RunArgs, jobs: Vec<Job>) -> Result<ExitCode> {
    args.model.set_threads()?;
    let mut spec = args.model.spec();
    let cache = match spec.cache.is_none() && shares_photos(&jobs) {
        true => Some(tempfile::tempdir().context("cannot create a folder for embeddings")?),
        false => None,
    };
    spec.cache = spec.cache.or(cache.as_ref().map(|dir| dir.path().to_owned()));
    let mut model = Model::load(&spec)?;
    let side = classify_side(args.classify_side, &jobs)?;
    if let Some(side) = side {
        model.set_classify_side(side)?;
    }
    let model = &model;
    let baseline = match args.sam_plus_clip {
        true => Some(SamPlusClip::new(model, model, EverythingOptions::STANDARD)?),
        false => None,
    };
    let answers = answers_of(args, &spec, model.precision, side)?;
    let data = args.data.as_deref().context("expected --data DIR")?;
    let places = Places { data, out: args.out.as_deref(), answers: &answers, shard: args.shard.unwrap_or((0, 1)) };
    let heads = heads(&jobs, model, &places)?;
    let mut roles = roles(args, model, baseline.as_ref());
    roles.probes = heads.iter().map(|(name, head)| (name.clone(), &head.probed as _)).collect();
    let suffix = match (&args.boxes, &baseline) {
        (Some(_), _) => " with a detector's boxes",
        (_, Some(_)) => ", everything then classified",
        _ => "",
    };
    let name = format!("{}{suffix}", model.name);
    let texts = roles.classifier.is_some() || args.boxes.is_some();
    let with_head = |job: &Job| match heads.get(job.protocol().name()) {
        Some(head) => format!("{answers}+head {}", head.hash),
        None => answers.clone(),
    };
    let mut runs = open_runs(args, jobs, &|job| header_of(&name, &with_head(job), "model", texts))?;
    ask(args, &mut runs, &roles, cache.as_ref().map(|dir| dir.path()))?;
    let cost = Cost { parameters: parameters(&spec), precision: Some(model.precision.to_owned()), ..Cost::default() };
    let head_parameters = |protocol: &str| heads.get(protocol).map(|head| head.parameters);
    finish(args, runs, Answers::Model(&roles), &|protocol| Cost { head_parameters: head_parameters(protocol), ..cost.clone() })
}

fn roles<'a>(args: &RunArgs, model: &'a Model, baseline: Option<&'a SamPlusClip<'a>>) -> Roles<'a> {
    let segmenter = baseline.map(|b| b as &dyn PromptSegmenter).or(model.prompt_segmenter().ok());
    Roles {
        segmenter: segmenter.filter(|_| args.classify_side.is_none()),
        labeller: model.labeller().ok(),
        classifier: model.classifier().ok(),
        locator: model.locator().ok(),
        embedder: model.embedder().ok(),
        ..Roles::default()
    }
}

/// Every pending photo; the embeddings of one that is done are removed from `cache`.
fn ask(args: &RunArgs, runs: &mut [Run], roles: &Roles<'_>, cache: Option<&Path>) -> Result<()> {
    let line = bar(true, 0, PROGRESS);
    let mut progress = |done: usize, all: usize| {
        advance(&line, done, all);
        cache.into_iter().for_each(clear);
    };
    ask_model(runs, roles, args.shard.unwrap_or((0, 1)), &mut progress)?;
    line.finish_and_clear();
    Ok(())
}

/// Values in the weight file; none with an adapter, which changes some.
fn parameters(spec: &samclip_predict::ModelSpec) -> Option<u64> {
    let state = samclip_predict::model::read_weights(spec.variant.parse().ok()?, spec.weights.as_deref()).ok()?;
    Some(state.parameter_count() as u64).filter(|_| spec.adapter.is_none())
}

/// Removes the embeddings of a photo that is done. What stays is removed with the folder.
fn clear(folder: &Path) {
    let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.for_each(|entry| drop(std::fs::remove_file(entry.path())));
}

/// The side at which all protocols classify.
fn classify_side(asked: Option<usize>, jobs: &[Job]) -> Result<Option<usize>> {
    let of = |job: &Job| match job {
        Job::Benchmark(case) => case.benchmark.classification.map(|c| c.side),
        Job::Objects(_) => Some(None),
    };
    let mut sides = jobs.iter().filter_map(of).collect::<Vec<_>>();
    sides.sort_unstable();
    sides.dedup();
    match (asked, sides.as_slice()) {
        (None, []) => Ok(None),
        (None, [side]) => Ok(*side),
        (None, _) => bail!("the protocols classify at different sides; run them one by one"),
        (Some(asked), sides) if sides.iter().flatten().any(|side| *side != asked) => {
            bail!("a protocol names its own side; leave --classify-side {asked} out")
        }
        (Some(asked), _) => Ok(Some(asked)),
    }
}

/// What answers: equal strings are equal weights and settings, so that records may continue.
fn answers_of(args: &RunArgs, spec: &samclip_predict::ModelSpec, precision: &str, side: Option<usize>) -> Result<String> {
    let mut parts = vec![samclip_predict::model::weights_hash(spec)?[..16].to_owned()];
    for path in [&spec.adapter, &spec.clip_weights, &spec.text_table, &args.boxes].into_iter().flatten() {
        parts.push(content_hash(path)?);
    }
    parts.push(precision.to_owned());
    parts.extend(side.map(|side| format!("{side} px")));
    Ok(parts.join("+"))
}

/// What a file holds; of a folder, the names, sizes and times of what lies in it.
fn content_hash(path: &Path) -> Result<String> {
    let hash = match path.is_dir() {
        false => samclip_predict::cache::file_hash(path)?,
        true => {
            let mut text = String::new();
            for entry in walkdir::WalkDir::new(path).sort_by_file_name() {
                let entry = entry?;
                let about = entry.metadata()?;
                text += &format!("{} {} {:?}\n", entry.path().display(), about.len(), about.modified()?);
            }
            samclip_predict::cache::bytes_hash(text.as_bytes())
        }
    };
    Ok(hash[..16].to_owned())
}

/// Reports of whole runs; for shards what was measured. `known` is what a protocol's cost holds besides its records.
fn finish(args: &RunArgs, mut runs: Vec<Run>, answers: Answers<'_>, known: &dyn Fn(&str) -> Cost) -> Result<ExitCode> {
    let cost = |run: &Run| {
        let Cost { parameters, head_parameters, precision, .. } = known(run.job.protocol().name());
        Cost { parameters, head_parameters, precision, ..Cost::of(&run.records) }
    };
    if let Some((i, n)) = args.shard.filter(|shard| shard.1 > 1) {
        for run in &runs {
            if let Some(out) = &args.out {
                folder::write_cost(&out.join(run.job.protocol().name()), (i, n), &cost(run))?;
            }
            out(&format!("{}: {} photos of shard {i}/{n} measured", run.job.protocol().name(), run.records.len()));
        }
        return Ok(ExitCode::SUCCESS);
    }
    let (mut clean, mut documents) = (true, Vec::new());
    for run in &mut runs {
        let mut report = run.report()?;
        if let (AnyReport::Objects(report), Some(_)) = (&mut report, args.classify_side) {
            report.floors.clear();
        }
        let cost = cost(run);
        if let Some(out) = &args.out {
            let dir = out.join(run.job.protocol().name());
            folder::write(&dir, &run.job, &report, &cost)?;
            folder::write_worst(&dir, &run.job, &report, answers)?;
        }
        clean &= report.clean();
        out(report.to_markdown().trim_end());
        out(&format!("\nCost: {}\n", cost.line()));
        documents.push(report.to_json());
    }
    if let Some(path) = &args.json {
        let text = match documents.as_slice() {
            [one] => one.clone(),
            several => format!("[\n{}]\n", several.join(",\n")),
        };
        samclip_image::write_atomic(path, text.as_bytes())
            .with_context(|| format!("cannot write the report: {}", path.display()))?;
    }
    Ok(ExitCode::from(u8::from(!clean)))
}
