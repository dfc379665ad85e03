//! What `samclip eval` does first for protocols that probe: encode the training photos once, train the heads.
//!
//! The trainer knows nothing of evaluation and the evaluation nothing of training: they meet here. Features go to
//! `OUT/features-HASH` (or to a folder that is removed), a head to `OUT/PROTOCOL/head-HASH.safetensors`; a run that was
//! interrupted finds both again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use samclip_data::Dataset;
use samclip_eval::driver::Job;
use samclip_eval::probing::Plan;
use samclip_models::init::Init;
use samclip_models::{Device, state};
use samclip_predict::Model;
use samclip_predict::cache::bytes_hash;
use samclip_predict::probe::{Features, Probed};
use samclip_train::probe::store::{FeatureMap, FeatureStore};
use samclip_train::probe::{ProbeSet, ProbeTraining, fit};
use samclip_weights::{StateDict, to_safetensors_bytes, write_safetensors};

use super::common::bar;

/// Where things lie.
pub struct Places<'a> {
    /// Folder with the datasets.
    pub data: &'a Path,
    /// The run's folder.
    pub out: Option<&'a Path>,
    /// Identifies weights, precision and settings.
    pub answers: &'a str,
    /// Part of the photos.
    pub shard: (usize, usize),
}

/// A head with what identifies it.
pub struct Head<'a> {
    /// Answers for the protocol.
    pub probed: Probed<'a>,
    /// Of its values.
    pub hash: String,
    /// Its values.
    pub parameters: u64,
}

/// The head of every protocol that has one, by the protocol's name.
pub fn heads<'a>(jobs: &[Job], model: &'a Model, places: &Places<'_>) -> Result<BTreeMap<String, Head<'a>>> {
    let mut heads = BTreeMap::new();
    for job in jobs {
        let Job::Benchmark(case) = job else { continue };
        let Some(plan) = Plan::of(&case.benchmark) else { continue };
        let name = case.benchmark.name.clone();
        let head = head(&name, &plan, case.dataset()?, model, places).with_context(|| format!("probing for {name}"))?;
        heads.insert(name, head);
    }
    Ok(heads)
}

fn head<'a>(name: &str, plan: &Plan, scored: &dyn Dataset, model: &'a Model, places: &Places<'_>) -> Result<Head<'a>> {
    let key = short_hash(&format!("{plan:?} {}", places.answers));
    let file = places.out.map(|out| out.join(name).join(format!("head-{key}.safetensors")));
    let classes = scored.class_names().len();
    let stored = file.as_deref().filter(|f| f.is_file()).map(StateDict::open).transpose()?;
    let state = match stored {
        Some(state) => state,
        None => {
            let state = learn(plan, classes, scored, model, places)?;
            if let Some(file) = &file {
                std::fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
                write_safetensors(file, &state)?;
            }
            state
        }
    };
    let width = state.require("classifier.weight").map(|w| w.shape()[1])?;
    let width = backbone_width(&state, width);
    let empty = plan.head.init(width, classes, &mut Init::zeros(&Device::default()));
    let head = state::load(empty, &state)?;
    let hash = short_hash_of(&to_safetensors_bytes(&state));
    let parameters = state.parameter_count() as u64;
    Ok(Head { probed: Probed { model, head, side: plan.side, point: plan.point }, hash, parameters })
}

/// Channels of the features that a head takes: those of its first convolution, or of a linear head's only one.
fn backbone_width(state: &StateDict, linear: usize) -> usize {
    let first = ["pyramid.convs.0.conv.weight", "pyramid.branches.0.conv.weight"];
    first.iter().find_map(|name| state.get(name)).map_or(linear, |weight| weight.shape()[1])
}

fn learn(plan: &Plan, classes: usize, scored: &dyn Dataset, model: &Model, places: &Places<'_>) -> Result<StateDict> {
    let photos = plan.photos(places.data, scored)?;
    let labels = plan.labels(photos.as_ref())?;
    let scratch = match places.out {
        Some(_) => None,
        None => Some(tempfile::tempdir().context("cannot create a folder for features")?),
    };
    let about = format!("{} {:?} {} {:?} {:?}", places.answers, plan.point, plan.side, plan.hold_out, photo_ids(photos.as_ref()));
    let root = places.out.or(scratch.as_ref().map(|dir| dir.path())).unwrap_or(Path::new("."));
    let folder: PathBuf = root.join(format!("features-{}", short_hash(&about)));
    let line = bar(true, photos.len() as u64, "{wide_bar} {pos}/{len} photos to learn from, {eta} left");
    let encode = |index: usize| -> Result<FeatureMap> {
        let Features { values, shape } = model.fresh_features(&photos.get(index)?.image, plan.side, plan.point)?;
        Ok(FeatureMap { values, shape })
    };
    let features = FeatureStore::fill(&folder, photos.len(), places.shard, encode, &mut |done, _| line.set_position(done as u64))?;
    line.finish_and_clear();
    let t = &plan.training;
    let training = ProbeTraining {
        head: plan.head.clone(),
        classes,
        steps: t.steps,
        batch: t.batch,
        rates: t.rates.clone(),
        weight_decay: t.weight_decay,
        label_side: plan.label_side,
        seed: t.seed,
    };
    let line = bar(true, 0, "{wide_bar} {pos}/{len} steps, {eta} left");
    let mut progress = |done: usize, all: usize| {
        line.set_length(all as u64);
        line.set_position(done as u64);
    };
    let fitted = fit(&training, &ProbeSet { features: &features, labels: &labels }, &mut progress)?;
    line.finish_and_clear();
    let swept: Vec<String> = fitted.swept.iter().map(|(rate, share)| format!("{rate:e}: {share:.4}")).collect();
    let swept = if swept.is_empty() { String::new() } else { format!(", right cells of a tenth by rate {}", swept.join(", ")) };
    tracing::info!("{} photos, last loss {:.4}, learning rate {:e}{swept}", photos.len(), fitted.loss, fitted.rate);
    Ok(state::state_dict(&fitted.head))
}

/// Which photos: equal names are equal photos within a data folder.
fn photo_ids(photos: &dyn Dataset) -> Vec<String> {
    let name = |i: usize| format!("{}/{}", photos.name(), photos.id(i).unwrap_or_else(|| i.to_string()));
    (0..photos.len()).map(name).collect()
}

fn short_hash(text: &str) -> String {
    short_hash_of(text.as_bytes())
}

fn short_hash_of(bytes: &[u8]) -> String {
    bytes_hash(bytes)[..16].to_owned()
}
