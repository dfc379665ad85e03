//! What a run is given: options, data sets, teachers, initial weights, an observer.

use crate::checkpoint;
use crate::error::TrainError;
use crate::feed::Teachers;
use crate::native::Native;
use crate::objectives::{Natives, TaskSetup};
use crate::recipe::{Data, Objective, Recipe, Task};
use crate::run_log::Line;
use crate::teacher::Teacher;
use crate::vocabulary::TextSource;
use burn::tensor::Device;
use samclip_data::Dataset;
use samclip_data::subset::Subset;
use samclip_models::init::Init;
use samclip_models::state::state_dict;
use samclip_weights::StateDict;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What watches a run: the binary prints, and evaluates.
pub trait Observer {
    /// A sentence for people.
    fn note(&mut self, _text: &str) {}
    /// A line of the log.
    fn log(&mut self, _line: &Line) {}
    /// A step is done.
    fn step(&mut self, _step: usize, _steps: usize) {}
    /// Called every `log.observe_every_steps` steps and after the last one, with the file of the model as it is then.
    /// Whoever measures it may compute in another precision: the run sets its own again.
    fn evaluate(&mut self, _step: usize, _model: &Path) {}
}

/// An observer that looks away.
impl Observer for () {}

/// Where a run reads and writes.
#[derive(Debug, Clone)]
pub struct RunOptions {
    /// The data folder.
    pub data: PathBuf,
    /// The run directory.
    pub out: PathBuf,
    /// Where the answers of teachers that see whole photos are kept between runs.
    pub teacher_cache: Option<PathBuf>,
    /// Cut down to seconds.
    pub smoke: bool,
    /// Continue from the run directory's checkpoint, if there is one.
    pub resume: bool,
    /// Continue even though the recipe's text has changed.
    pub allow_changed_recipe: bool,
    /// Version of the code or recipe, stored with checkpoints (the binary passes git's).
    pub revision: Option<String>,
    /// Instead of the recipe's seed.
    pub seed: Option<u64>,
}

impl RunOptions {
    /// A run from the beginning that reads `data` and writes to `out`; nothing else is asked for.
    pub fn new(data: impl Into<PathBuf>, out: impl Into<PathBuf>) -> Self {
        Self {
            data: data.into(),
            out: out.into(),
            teacher_cache: None,
            smoke: false,
            resume: false,
            allow_changed_recipe: false,
            revision: None,
            seed: None,
        }
    }
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Steps done.
    pub step: usize,
    /// Whether all steps are done; otherwise it was asked to stop.
    pub complete: bool,
    /// Name of the model's file in the run directory.
    pub model_file: &'static str,
}

/// Everything that a run reads beside the recipe; tests build their own.
pub struct Inputs {
    /// The data sets of each task, in the recipe's order.
    pub datasets: Vec<Vec<Arc<dyn Dataset>>>,
    /// The text table.
    pub text: TextSource,
    /// The teachers of each task.
    pub teachers: Vec<Teachers>,
    /// The teachers that are models of ours.
    pub natives: Natives,
    /// Initial weights of the student, if the recipe names a file.
    pub weights: Option<StateDict>,
}

/// Where the paths of a recipe begin.
#[derive(Debug, Clone)]
pub struct Places {
    /// The data folder: teachers, the text table.
    pub data: PathBuf,
    /// The recipe's folder: `init`, and what begins with `.`.
    pub recipe: PathBuf,
    /// The folder of the run directories, `{runs}`: recipes of a sequence name each other's runs. What is not
    /// there is looked for in the folder above, so that the seeds of a sweep can share an earlier stage.
    pub runs: PathBuf,
}

const RUNS: &str = "{runs}/";

impl Places {
    /// Of a recipe file whose run goes to `out`.
    pub fn new(recipe: &Path, options: &RunOptions) -> Self {
        let folder = |path: &Path| path.parent().map_or_else(PathBuf::new, Path::to_owned);
        Self { data: options.data.clone(), recipe: folder(recipe), runs: folder(&options.out) }
    }

    fn resolve(&self, path: &Path, base: &Path) -> PathBuf {
        let text = path.to_string_lossy();
        match text.strip_prefix(RUNS) {
            Some(rest) => {
                let above = self.runs.parent().map(|folder| folder.join(rest)).filter(|file| file.exists());
                let own = self.runs.join(rest);
                if own.exists() { own } else { above.unwrap_or(own) }
            }
            None if text.starts_with('.') => self.recipe.join(path),
            None => base.join(path),
        }
    }
}

impl Inputs {
    /// Opens what a recipe names.
    pub fn open(recipe: &Recipe, places: &Places) -> Result<Self, TrainError> {
        let open_task = |task: &Task| {
            task.data.iter().map(|d| open_data(&places.data, d, recipe.seed)).collect::<Result<Vec<_>, _>>()
        };
        let datasets = recipe.tasks.iter().map(open_task).collect::<Result<_, _>>()?;
        let mut natives = Natives::new();
        let native = |path: &Path, natives: &mut Natives| -> Result<Arc<Native>, TrainError> {
            if let Some(native) = natives.get(path) {
                return Ok(native.clone());
            }
            let native = Arc::new(Native::open(&places.resolve(path, &places.data))?);
            natives.insert(path.to_owned(), native.clone());
            Ok(native)
        };
        for path in recipe.tasks.iter().flat_map(|t| &t.objectives).filter_map(Objective::native_teacher) {
            native(path, &mut natives)?;
        }
        let mut opened: BTreeMap<PathBuf, Arc<Teacher>> = BTreeMap::new();
        let mut open = |path: &Path| -> Result<Arc<Teacher>, TrainError> {
            let file = places.resolve(path, &places.data);
            let teacher = match (opened.get(path), Teacher::is_onnx(path)) {
                (Some(teacher), _) => teacher.clone(),
                (None, true) => Arc::new(Teacher::open(&file)?),
                (None, false) => Arc::new(Teacher::native(&file, native(path, &mut natives)?)),
            };
            opened.insert(path.to_owned(), teacher.clone());
            Ok(teacher)
        };
        let mut teachers = Vec::new();
        for task in &recipe.tasks {
            let of_task = TaskSetup::wanted(task).into_iter().map(|w| Ok((w.clone(), open(&w.teacher)?)));
            teachers.push(of_task.collect::<Result<Teachers, TrainError>>()?);
        }
        let weights = match recipe.model.init.as_str() {
            "fresh" => None,
            file => Some(checkpoint::values(StateDict::open(&places.resolve(Path::new(file), &places.recipe))?)),
        };
        let text = match &recipe.model.text_table {
            Some(table) => TextSource::open(&places.data.join(table))?,
            None => TextSource::none(recipe.model.config()?.clip_head.embed_dim),
        };
        Ok(Self { datasets, text, teachers, natives, weights })
    }

    /// Painted shapes and small seeded models for a smoke run that needs no file; `recipe` is
    /// what [`Recipe::smoke`] gave.
    pub fn synthetic(recipe: &Recipe) -> Result<Self, TrainError> {
        let config = recipe.model.config()?;
        let student = |seed: u64| {
            let mut state = state_dict(&config.init(&mut Init::seeded(seed, &Device::flex())));
            let json = serde_json::to_string(&config).unwrap_or_default();
            state.metadata.insert("config".to_owned(), json);
            state
        };
        let mut natives = Natives::new();
        for path in recipe.tasks.iter().flat_map(|t| &t.objectives).filter_map(Objective::native_teacher) {
            natives.insert(path.clone(), Arc::new(Native::from_state(student(1))?));
        }
        let mut teachers = Vec::new();
        for task in &recipe.tasks {
            let mut of_task = Teachers::new();
            for wanted in TaskSetup::wanted(task) {
                let native = match wanted.output.as_str() {
                    "image_embedding" => Native::seeded_clip(config.clip_head.embed_dim, 2),
                    _ => Native::from_state(student(2))?,
                };
                let teacher = Teacher::native(&wanted.teacher.clone(), Arc::new(native));
                of_task.insert(wanted, Arc::new(teacher));
            }
            if let Some(other) = task.objectives.iter().find(|o| o.reads_text()) {
                let message = format!("smoke.synthetic: {} needs names, which painted shapes have not", other.name());
                return Err(TrainError::Invalid(message));
            }
            teachers.push(of_task);
        }
        let open = |d: &Data| open_data(Path::new(""), d, recipe.seed);
        let of_task = |task: &Task| task.data.iter().map(open).collect::<Result<Vec<_>, _>>();
        let datasets = recipe.tasks.iter().map(of_task).collect::<Result<_, _>>()?;
        let weights = (recipe.model.init != "fresh").then(|| student(3));
        Ok(Self { datasets, text: TextSource::none(config.clip_head.embed_dim), teachers, natives, weights })
    }
}

/// A row of a task's data, photos of rare classes as often as it says.
fn open_data(root: &Path, data: &Data, seed: u64) -> Result<Arc<dyn Dataset>, TrainError> {
    let opened: Arc<dyn Dataset> = Arc::from(samclip_data::open(root, &data.dataset, &data.split)?);
    match data.repeat_threshold {
        Some(threshold) => Ok(Arc::new(Subset::repeated(opened, threshold, seed)?)),
        None => Ok(opened),
    }
}
