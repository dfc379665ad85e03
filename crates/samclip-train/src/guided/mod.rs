//! Training a CLIP-Guided SAM: an adapter from a few hundred labelled photos.
//!
//! Paper: CLIP-Guided SAM (arXiv:2605.24807) §3.4, §4. Reader's path: [`GuidedRecipe`] ->
//! [`OpenBases`] and [`PairData`] -> [`GuidedTrainer`] -> [`crate::objectives::clip_guided`] -> the
//! adapter file (`samclip_models::clip_guided_sam::artefact`).

mod bases;
mod pairs;
mod recipe;
mod tower;
mod trainer;

use crate::error::TrainError;
use crate::inputs::{Observer, Outcome, RunOptions};
use crate::train::recipe_text;
use samclip_data::Dataset;
use samclip_data::subset::Subset;
use samclip_models::clip_guided_sam::ClipGuidedSam;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

pub use bases::{BUILTIN, OpenBases, TextVectors};
pub use pairs::{Loaded, LoadedPair, PairData};
pub use recipe::{BasesSpec, ClassName, Data, GuidedRecipe, Kind, Objective, is_guided, is_tower};
pub use tower::{TOWER_FILE, TowerKind, TowerRecipe, run_tower};
pub use trainer::{ADAPTER_FILE, GuidedTrainer, write_adapter};

/// What an observer thinks of the model as it stands.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// The best so far: the adapter is written, with this note in it.
    Better(String),
    /// Not better.
    Worse,
    /// Enough.
    Stop,
}

/// An observer that may validate.
pub trait GuidedObserver: Observer {
    /// Called every `log.observe_every_steps` steps and after the last one.
    fn validate(&mut self, _step: usize, _model: &ClipGuidedSam, _data: &PairData) -> Option<Verdict> {
        None
    }
}

impl GuidedObserver for () {}

/// Runs a recipe file.
pub fn run(
    path: &Path,
    options: &RunOptions,
    observer: &mut dyn GuidedObserver,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let text = recipe_text(path, options)?;
    let recipe = GuidedRecipe::parse(&text, path)?;
    let recipe = if options.smoke { recipe.smoke() } else { recipe };
    let folder = path.parent().unwrap_or(Path::new("."));
    let dataset = open_data(&recipe.data, &options.data, folder)?;
    run_on(recipe, text, dataset, folder, options, observer, stop)
}

/// Runs a recipe on photos that are already open; its files are relative to `folder`.
pub fn run_on(
    recipe: GuidedRecipe,
    text: String,
    dataset: Arc<dyn Dataset>,
    folder: &Path,
    options: &RunOptions,
    observer: &mut dyn GuidedObserver,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    let config = recipe.config()?;
    let bases = OpenBases::open(&recipe.bases, &config, folder)?;
    let data = PairData::new(dataset, &recipe.data, &bases.text, &options.data.join("text"))?;
    GuidedTrainer::new(recipe, text, &bases, data, options)?.run(observer, stop)
}

/// The photos that a recipe names: a known data set, or a path relative to the recipe's folder.
pub fn open_data(data: &Data, root: &Path, folder: &Path) -> Result<Arc<dyn Dataset>, TrainError> {
    let opened: Arc<dyn Dataset> = match &data.path {
        Some(path) => Arc::from(samclip_data::labelled::open(&folder.join(path), &data.split)?),
        None => Arc::from(samclip_data::open(root, &data.dataset, &data.split)?),
    };
    match &data.list {
        Some(list) => Ok(Arc::new(Subset::of_list(opened, &folder.join(list))?)),
        None => Ok(opened),
    }
}
