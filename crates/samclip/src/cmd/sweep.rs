//! `samclip sweep`: a folder of recipes one after the other, measured, in one table.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use samclip_eval::Protocol;
use samclip_predict::{Model, ModelSpec};
use samclip_train::export::{file_name, sha256};
use samclip_train::guided::{self, ADAPTER_FILE, BUILTIN, GuidedRecipe, TowerRecipe};
use samclip_train::{Recipe, RunOptions, plot, run_log};

use super::claim::claim;
use super::common::{out, print_error};
use super::eval::measure;
use super::sweep_table::{Row, csv, markdown};
use super::train::{Printer, revision, stop_on_signals};

/// Arguments of `samclip sweep`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Each recipe NAME.toml runs in OUT/NAME (with --seed in OUT/seed_N/NAME), in the order of their\n\
names; `{runs}` in a recipe is the folder of its run directory, and OUT for what a seed has not run itself. What is\n\
finished is skipped: the same command continues. Writes OUT/sweep.md, sweep.csv and sweep.svg.")]
pub struct Args {
    /// Folder of recipes
    folder: PathBuf,
    /// Folder for the runs and the table
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The data folder
    #[arg(long, value_name = "DIR", env = "SAMCLIP_DATA", default_value = "../shared/data")]
    data: PathBuf,
    /// A protocol for every model, several times for several
    #[arg(long, value_name = "FILE")]
    protocol: Vec<PathBuf>,
    /// A seed for every recipe, several times for several (default: each recipe's own)
    #[arg(long, value_name = "N")]
    seed: Vec<u64>,
    /// Only the recipe of this name, or where there is none those whose name contains this; several times for several
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// A further model file to measure, such as one of `samclip weights interpolate`
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// Classify at these sides too, separated by commas
    #[arg(long, value_name = "N", value_delimiter = ',')]
    classify_side: Vec<usize>,
    /// Measure on the first photos only
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Keeps what teachers say about whole photos
    #[arg(long, value_name = "DIR")]
    teacher_cache: Option<PathBuf>,
    /// Runs of seconds that go through everything
    #[arg(long)]
    smoke: bool,
}

const ROW: &str = "sweep.json";

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    samclip_kernels::keep_freed();
    let stop = stop_on_signals()?;
    let recipes = recipes(&args)?;
    let protocols = args.protocol.iter().map(|p| Ok(Protocol::open(p)?)).collect::<Result<Vec<_>>>()?;
    let _claim = claim(&args.out)?;
    let seeds: Vec<Option<u64>> = match args.seed.is_empty() {
        true => vec![None],
        false => args.seed.iter().copied().map(Some).collect(),
    };
    let mut rows = Vec::new();
    for seed in seeds {
        for recipe in &recipes {
            if stop.load(Ordering::Relaxed) {
                break;
            }
            rows.extend(one_recipe(&args, recipe, seed, &protocols, &stop)?);
            write_tables(&args, &rows)?;
        }
    }
    for model in args.model.iter().take_while(|_| !stop.load(Ordering::Relaxed)) {
        rows.push(one_model(&args, model, &protocols, &stop)?);
        write_tables(&args, &rows)?;
    }
    if stop.load(Ordering::Relaxed) {
        eprintln!("stopped; the same command continues: {}", args.out.display());
        return Ok(ExitCode::SUCCESS);
    }
    out(markdown(&rows).trim_end());
    Ok(ExitCode::from(u8::from(rows.iter().any(|r| r.error.is_some()))))
}

fn recipes(args: &Args) -> Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(&args.folder).with_context(|| args.folder.display().to_string())?;
    let mut paths: Vec<PathBuf> = entries.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "toml"));
    let names: Vec<String> = paths.iter().map(|p| stem(p)).collect();
    let fits = |name: &str, text: &String| if names.contains(text) { name == text } else { name.contains(text.as_str()) };
    paths.retain(|p| args.only.is_empty() || args.only.iter().any(|text| fits(&stem(p), text)));
    paths.sort();
    ensure!(!paths.is_empty() || !args.model.is_empty(), "no recipe: {}", args.folder.display());
    for path in &paths {
        subject(path, &args.out)?; // a slip in the last recipe is found before the first one runs
    }
    Ok(paths)
}

/// The model that a recipe's run in `folder` ends with; none where it is no model of masks (a CLIP tower).
fn subject(path: &Path, folder: &Path) -> Result<Option<ModelSpec>> {
    if guided::is_tower(path) {
        TowerRecipe::parse(&std::fs::read_to_string(path)?, path)?;
        return Ok(None);
    }
    if !guided::is_guided(path) {
        let (recipe, _) = Recipe::open(path)?;
        let weights = Some(folder.join(file_name(recipe.checkpoint.model)));
        return Ok(Some(ModelSpec { weights, ..ModelSpec::new(&recipe.model.variant) }));
    }
    let bases = GuidedRecipe::open(path)?.0.bases;
    let sam = match bases.variant.as_str() {
        name if name.starts_with("clip_guided_sam_b") => "sam_vit_b",
        name if name.starts_with("clip_guided_sam_h") => "sam_vit_h",
        _ => "sam_clip_nano",
    };
    let file = |name: &str| (name != BUILTIN).then(|| path.parent().unwrap_or(Path::new(".")).join(name));
    Ok(Some(ModelSpec {
        weights: file(&bases.sam),
        clip_weights: file(&bases.clip).filter(|_| bases.clip != bases.sam),
        adapter: Some(folder.join(ADAPTER_FILE)),
        ..ModelSpec::new(sam)
    }))
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().into_owned()
}

/// Trains what is not trained and measures what is not measured; none if it was asked to stop.
fn one_recipe(
    args: &Args,
    path: &Path,
    seed: Option<u64>,
    protocols: &[Protocol],
    stop: &AtomicBool,
) -> Result<Option<Row>> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let runs = seed.map_or_else(|| args.out.clone(), |s| args.out.join(format!("seed_{s}")));
    let folder = runs.join(stem(path));
    let key = sha256(format!("{text} seed {seed:?} smoke {}", args.smoke).as_bytes());
    let mut row = match stored(&folder).filter(|row| row.sha256 == key) {
        Some(row) => row,
        None => {
            eprintln!("== {}", folder.display());
            let Some(row) = train(args, path, &folder, (seed, key), stop)? else { return Ok(None) };
            row
        }
    };
    if let (None, Some(spec)) = (&row.error, subject(path, &folder)?) {
        let measured = measure_all(args, &spec, protocols, &mut row, &folder, stop);
        if let Err(error) = measured {
            print_error(&error);
            row.error = Some(format!("{error:#}"));
            return Ok(Some(row)); // not stored: the next call measures again
        }
    }
    Ok(Some(row))
}

fn train(
    args: &Args,
    path: &Path,
    folder: &Path,
    (seed, sha256): (Option<u64>, String),
    stop: &AtomicBool,
) -> Result<Option<Row>> {
    let options = RunOptions {
        teacher_cache: args.teacher_cache.clone(),
        smoke: args.smoke,
        resume: true,
        revision: revision(path),
        seed,
        ..RunOptions::new(&args.data, folder)
    };
    let mut printer = Printer::default();
    let outcome = super::train::train(path, &options, &mut printer, stop);
    printer.finish();
    let mut row = Row { name: stem(path), seed, sha256, ..Row::default() };
    match outcome {
        Ok(outcome) if !outcome.complete => return Ok(None),
        Ok(outcome) => {
            let last = run_log::read(&folder.join("log.jsonl"))?.pop();
            row.steps = outcome.step;
            (row.minutes, row.loss) = last.map_or((0.0, 0.0), |l| (l.seconds / 60.0, l.loss));
            store(folder, &row)?;
        }
        Err(error) => {
            // the others go on; the next call tries again
            row.error = Some(error.to_string());
            print_error(&error.into());
        }
    }
    Ok(Some(row))
}

fn one_model(args: &Args, path: &Path, protocols: &[Protocol], stop: &AtomicBool) -> Result<Row> {
    let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
    let key = sha256(&bytes);
    let above = path.parent().and_then(Path::file_name).unwrap_or_default().to_string_lossy();
    let name = format!("{above}/{}", stem(path));
    let folder = args.out.join("models").join(name.replace('/', "_"));
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let fresh = Row { name, sha256: key.clone(), ..Row::default() };
    let mut row = stored(&folder).filter(|row| row.sha256 == key).unwrap_or(fresh);
    let state = samclip_weights::StateDict::open(path)?;
    let variant = state.metadata.get("variant").map_or("sam_clip_nano", String::as_str);
    let spec = ModelSpec { weights: Some(path.to_owned()), ..ModelSpec::new(variant) };
    measure_all(args, &spec, protocols, &mut row, &folder, stop)?;
    Ok(row)
}

/// Fills in the figures that are missing, and stores them as they come.
fn measure_all(
    args: &Args,
    spec: &ModelSpec,
    protocols: &[Protocol],
    row: &mut Row,
    folder: &Path,
    stop: &AtomicBool,
) -> Result<()> {
    let mut model: Option<Model> = None;
    for (number, protocol) in protocols.iter().enumerate() {
        let limit = of_limit(args);
        // sides are for the first protocol's photos
        let sides = args.classify_side.iter().filter(|_| number == 0).map(|s| Some(*s));
        for side in std::iter::once(None).chain(sides) {
            let prefix = if protocols.len() > 1 { format!("{}: ", protocol.name) } else { String::new() };
            let last = format!("{prefix}classify{}{limit}", side.map_or_else(String::new, |s| format!("@{s}")));
            if row.measured.contains(&last) || row.figures.contains_key(&last) || stop.load(Ordering::Relaxed) {
                continue;
            }
            if model.is_none() || side.is_none() {
                model = Some(Model::load(spec)?);
            }
            let Some(model) = &mut model else { continue };
            let report = measure(model, protocol, &args.data, args.limit, side)?;
            for (name, figure) in report.figures() {
                let Some(figure) = figure.filter(|_| name == "classify" || side.is_none()) else { continue };
                let name = if name == "classify" { last.clone() } else { format!("{prefix}{name}{limit}") };
                row.figures.insert(name, figure.value);
            }
            row.measured.insert(last);
            store(folder, row)?;
        }
    }
    Ok(())
}

fn stored(folder: &Path) -> Option<Row> {
    serde_json::from_str(&std::fs::read_to_string(folder.join(ROW)).ok()?).ok()
}

fn store(folder: &Path, row: &Row) -> Result<()> {
    let text = serde_json::to_string_pretty(row)? + "\n";
    Ok(samclip_image::write_atomic(&folder.join(ROW), text.as_bytes())?)
}

/// What the name of a figure ends with where it is of the first photos only.
fn of_limit(args: &Args) -> String {
    args.limit.map_or_else(String::new, |n| format!(" of {n}"))
}

fn write_tables(args: &Args, rows: &[Row]) -> Result<()> {
    let (folder, limit) = (&args.out, of_limit(args));
    samclip_image::write_atomic(&folder.join("sweep.md"), markdown(rows).as_bytes())?;
    samclip_image::write_atomic(&folder.join("sweep.csv"), csv(rows).as_bytes())?;
    let find = |row: &Row, name: &str| {
        let wanted = format!("{name}{limit}");
        let found = row.figures.iter().find(|(key, _)| key.rsplit(": ").next().is_some_and(|k| k == wanted));
        found.map(|(_, value)| *value).filter(|v| v.is_finite())
    };
    let points: Vec<(String, f64, f64)> = rows
        .iter()
        .filter_map(|row| Some((row.name.clone(), find(row, "classify")?, find(row, "box")?)))
        .collect();
    let axes = ["classification: photos whose best class is present", "box: mean IoU of objects"];
    let svg = plot::scatter("what each run knows and what it still segments", axes, &points)?;
    if !svg.is_empty() {
        samclip_image::write_atomic(&folder.join("sweep.svg"), svg.as_bytes())?;
    }
    Ok(())
}
