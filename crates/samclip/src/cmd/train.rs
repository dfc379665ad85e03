//! `samclip train`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use indicatif::{ProgressBar, ProgressStyle};
use samclip_train::run_log::{Line, curve};
use samclip_train::guided;
use samclip_train::{Observer, Outcome, RunOptions, World};

use super::claim::claim;
use super::common::print_error;
use super::train_watch::Watch;

/// Arguments of `samclip train`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The recipe, one TOML file
    recipe: PathBuf,
    /// The run directory: log, checkpoint and model; a checkpoint in it is continued
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The data folder
    #[arg(long, value_name = "DIR", env = "SAMCLIP_DATA", default_value = "../shared/data")]
    data: PathBuf,
    /// Keeps what teachers say about whole photos, for other runs (`photo_side` in a recipe)
    #[arg(long, value_name = "DIR")]
    teacher_cache: Option<PathBuf>,
    /// A run of seconds that goes through everything
    #[arg(long)]
    smoke: bool,
    /// Start over, even if the run directory holds a checkpoint
    #[arg(long)]
    no_resume: bool,
    /// Continue although the recipe has changed since the checkpoint
    #[arg(long)]
    allow_changed_recipe: bool,
    /// Measure the model every `log.observe_every_steps` steps of the recipe and keep the figures in
    /// OUT/evaluations.jsonl, several times for several
    #[arg(long, value_name = "FILE")]
    protocol: Vec<PathBuf>,
    /// Measure on the first photos only
    #[arg(long, value_name = "N", requires = "protocol")]
    limit: Option<usize>,
    /// Another seed than the recipe's
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
}

/// The git revision of the recipe's folder, with `+` where files have changed; none without git.
pub fn revision(recipe: &Path) -> Option<String> {
    let folder = recipe.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let git = |args: &[&str]| {
        let output = std::process::Command::new("git").arg("-C").arg(folder).args(args).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let head = git(&["rev-parse", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|text| !text.is_empty());
    Some(if changed { head + "+" } else { head })
}

/// Runs the verb.
pub fn run(args: Args) -> Result<ExitCode> {
    samclip_kernels::keep_freed();
    let stop = stop_on_signals()?;
    let watch = Watch::open(&args.protocol, args.limit, &args.recipe, &args.data, &args.out)?;
    let mut printer = Printer { watch, ..Printer::default() };
    let options = RunOptions {
        data: args.data,
        out: args.out,
        teacher_cache: args.teacher_cache,
        smoke: args.smoke,
        resume: !args.no_resume,
        allow_changed_recipe: args.allow_changed_recipe,
        revision: revision(&args.recipe),
        seed: args.seed,
    };
    let (world, _membership) = World::join()?;
    let outcome = if world.size() > 1 {
        side_by_side(world, &args.recipe, &options, printer, &stop)?
    } else {
        let outcome = train(&args.recipe, &options, &mut printer, &stop)?;
        printer.finish();
        Some(outcome)
    };
    let Some(outcome) = outcome else { return Ok(ExitCode::SUCCESS) };
    if stop.load(Ordering::Relaxed) && !outcome.complete {
        eprintln!(
            "stopped after step {}; the same command continues: {}",
            outcome.step,
            options.out.display()
        );
    } else {
        println!("{}", options.out.join(outcome.model_file).display());
    }
    Ok(ExitCode::SUCCESS)
}

/// One of several processes; only the first one speaks and has an outcome to tell.
fn side_by_side(
    world: World,
    recipe: &Path,
    options: &RunOptions,
    mut printer: Printer,
    stop: &AtomicBool,
) -> Result<Option<Outcome>> {
    if guided::is_guided(recipe) || guided::is_tower(recipe) {
        anyhow::bail!("recipes of CLIP-Guided SAM train in one process: {}", recipe.display());
    }
    let observer: &mut dyn Observer = if world.is_first() { &mut printer } else { &mut () };
    let outcome = world.is_first().then(|| claim(&options.out)).transpose().and_then(|_claim| {
        Ok(samclip_train::run_in(world.clone(), recipe, options, observer, stop)?)
    });
    match outcome {
        Ok(outcome) if world.is_first() => {
            printer.finish();
            Ok(Some(outcome))
        }
        Ok(_) => Ok(None),
        Err(error) => {
            // the others wait for this process: end them too
            print_error(&error.context(format!("in process {}", world.rank())));
            world.abort(2)
        }
    }
}

/// Runs a recipe of any kind.
pub(super) fn train(recipe: &Path, options: &RunOptions, printer: &mut Printer, stop: &AtomicBool) -> Result<Outcome> {
    let _claim = claim(&options.out)?;
    if guided::is_guided(recipe) {
        return Ok(guided::run(recipe, options, printer, stop)?);
    }
    if guided::is_tower(recipe) {
        return Ok(guided::run_tower(recipe, options, printer, stop)?);
    }
    Ok(samclip_train::run(recipe, options, printer, stop)?)
}

/// A flag that SIGINT and SIGTERM set.
pub fn stop_on_signals() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // a second signal ends the process at once
        signal_hook::flag::register_conditional_shutdown(signal, 2, stop.clone())
            .context("signal handler")?;
        signal_hook::flag::register(signal, stop.clone()).context("signal handler")?;
    }
    Ok(stop)
}

/// One line per log entry on stderr; a live line only on a terminal.
#[derive(Default)]
pub struct Printer {
    bar: Option<ProgressBar>,
    lines: Vec<Line>,
    watch: Option<Watch>,
}

impl Printer {
    /// Clears the bar and draws the curve.
    pub fn finish(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
        eprint!("{}", curve(&self.lines, 72, 12));
    }

    fn say(&self, text: &str) {
        match &self.bar {
            Some(bar) if !bar.is_hidden() => bar.println(text),
            _ => eprintln!("{text}"),
        }
    }
}

impl samclip_train::guided::GuidedObserver for Printer {}

impl Observer for Printer {
    fn note(&mut self, text: &str) {
        eprintln!("{text}");
    }

    fn step(&mut self, step: usize, steps: usize) {
        let bar = self.bar.get_or_insert_with(|| {
            let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} {eta}");
            // indicatif draws nothing where stderr is not a terminal
            ProgressBar::new(steps as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        });
        bar.set_position(step as u64);
    }

    fn log(&mut self, line: &Line) {
        let mut text = format!(
            "{}/{} loss {:.4} lr {:.1e} |g| {:.2} {:.1} images/s",
            line.step, line.steps, line.loss, line.lr, line.grad_norm, line.images_per_second
        );
        for (name, value) in &line.losses {
            text.push_str(&format!(" {}={value:.3}", name.rsplit('/').next().unwrap_or(name)));
        }
        self.say(&text);
        self.lines.push(line.clone());
    }

    fn evaluate(&mut self, step: usize, model: &Path) {
        let Some(watch) = &self.watch else { return };
        match watch.measure(step, model) {
            Ok(sentences) => sentences.iter().for_each(|sentence| self.say(sentence)),
            Err(error) => print_error(&error.context(format!("evaluation at step {step}; the run goes on"))),
        }
    }
}
