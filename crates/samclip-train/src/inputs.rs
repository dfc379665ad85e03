//! What a run is given: options, data sets, teachers, initial weights, an observer.

use crate::error::TrainError;
use crate::feed::Teachers;
use crate::objectives::TaskSetup;
use crate::recipe::{Data, Recipe, Task};
use crate::run_log::Line;
use crate::teacher::Teacher;
use crate::vocabulary::TextSource;
use samclip_data::Dataset;
use samclip_models::sam_clip::SamClip;
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
    /// Called every `log.observe_every_steps` steps with the model as it stands.
    fn evaluate(&mut self, _step: usize, _model: &SamClip) {}
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
}

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Steps done.
    pub step: usize,
    /// Whether all steps are done; otherwise it was asked to stop.
    pub complete: bool,
}

/// Everything that a run reads beside the recipe; tests build their own.
pub struct Inputs {
    /// The data sets of each task, in the recipe's order.
    pub datasets: Vec<Vec<Arc<dyn Dataset>>>,
    /// The text table.
    pub text: TextSource,
    /// The teachers of each task.
    pub teachers: Vec<Teachers>,
    /// Initial weights of the student, if the recipe names a file.
    pub weights: Option<StateDict>,
}

impl Inputs {
    /// Opens what a recipe names. `folder` is the recipe's.
    pub fn open(recipe: &Recipe, data: &Path, folder: &Path) -> Result<Self, TrainError> {
        let open_task = |task: &Task| {
            let open = |d: &Data| samclip_data::open(data, &d.dataset, &d.split).map(Arc::from);
            task.data.iter().map(open).collect::<Result<Vec<Arc<dyn Dataset>>, _>>()
        };
        let datasets = recipe.tasks.iter().map(open_task).collect::<Result<_, _>>()?;
        let mut opened: BTreeMap<PathBuf, Arc<Teacher>> = BTreeMap::new();
        let mut teachers = Vec::new();
        for task in &recipe.tasks {
            let mut of_task = Teachers::new();
            for wanted in TaskSetup::wanted(task) {
                let path = wanted.teacher.clone();
                let teacher = match opened.get(&path) {
                    Some(teacher) => teacher.clone(),
                    None => Arc::new(Teacher::open(&data.join(&path))?),
                };
                opened.insert(path, teacher.clone());
                of_task.insert(wanted, teacher);
            }
            teachers.push(of_task);
        }
        let weights = match recipe.model.init.as_str() {
            "fresh" => None,
            file => Some(StateDict::open(&folder.join(file))?),
        };
        Ok(Self {
            datasets,
            text: TextSource::open(&data.join(&recipe.model.text_table))?,
            teachers,
            weights,
        })
    }
}
