//! Protocols in the course of a training run (`samclip train --protocol`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use samclip_eval::{Protocol, Report};
use samclip_predict::{Model, ModelSpec};
use samclip_train::Recipe;
use samclip_train::guided::{is_guided, is_tower};
use serde_json::{Value, json};

use super::eval::measure;

const FILE: &str = "evaluations.jsonl";

/// What a line of `evaluations.jsonl` says of a measurement at `step`.
fn line(step: usize, report: &Report) -> Value {
    let mut line = json!({"step": step, "protocol": report.protocol, "photos": report.photos});
    for (name, figure) in report.figures() {
        line[name] = figure.map(|f| f.value).into();
    }
    line
}

fn sentence(step: usize, report: &Report) -> String {
    let told = report.figures().into_iter().filter_map(|(name, figure)| Some(format!("{name} {:.3}", figure?.value)));
    let told: Vec<String> = told.collect();
    format!("step {step}: {} on {} photos: {}", report.protocol, report.photos, told.join(", "))
}

/// Protocols that a run is measured with.
pub struct Watch {
    protocols: Vec<Protocol>,
    limit: Option<usize>,
    data: PathBuf,
    out: PathBuf,
    variant: String,
}

impl Watch {
    /// Opens protocols for a recipe's run; none where none are asked for.
    ///
    /// # Errors
    /// A recipe that is never evaluated, or of another kind; a protocol or its photos that cannot be read.
    pub fn open(
        files: &[PathBuf],
        limit: Option<usize>,
        recipe: &Path,
        data: &Path,
        out: &Path,
    ) -> Result<Option<Self>> {
        if files.is_empty() {
            return Ok(None);
        }
        if is_guided(recipe) || is_tower(recipe) {
            bail!("--protocol: {} is no recipe of a SAM-CLIP; `samclip sweep` measures its run", recipe.display());
        }
        let (parsed, _) = Recipe::open(recipe)?;
        if parsed.log.observe_every_steps == 0 {
            bail!("--protocol: {} has log.observe_every_steps = 0, so that nothing would be measured", recipe.display());
        }
        let open = |file: &PathBuf| {
            let protocol = Protocol::open(file)?;
            samclip_data::open(data, &protocol.dataset, &protocol.split).with_context(|| file.display().to_string())?;
            Ok(protocol)
        };
        let protocols = files.iter().map(open).collect::<Result<Vec<_>>>()?;
        let (data, out, variant) = (data.to_owned(), out.to_owned(), parsed.model.variant);
        Ok(Some(Self { protocols, limit, data, out, variant }))
    }

    /// Measures a model file; the sentences to print.
    ///
    /// # Errors
    /// A model, photo or file that cannot be read or written.
    pub fn measure(&self, step: usize, weights: &Path) -> Result<Vec<String>> {
        let spec = ModelSpec { weights: Some(weights.to_owned()), ..ModelSpec::new(&self.variant) };
        let mut model = Model::load(&spec)?;
        let mut sentences = Vec::new();
        for protocol in &self.protocols {
            let report = measure(&mut model, protocol, &self.data, self.limit, None)?;
            self.keep(step, &report)?;
            sentences.push(sentence(step, &report));
        }
        Ok(sentences)
    }

    /// Adds a line; those of steps that a run which started over, or went on from before, has not reached are gone.
    fn keep(&self, step: usize, report: &Report) -> Result<()> {
        let path = self.out.join(FILE);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let before = |line: &&str| {
            let Ok(known) = serde_json::from_str::<Value>(line) else { return false };
            let of_step = known["step"].as_u64().map_or(usize::MAX, |n| n as usize);
            of_step < step || (of_step == step && known["protocol"] != report.protocol)
        };
        let mut text: String = old.lines().filter(before).map(|line| format!("{line}\n")).collect();
        text.push_str(&format!("{}\n", line(step, report)));
        Ok(samclip_image::write_atomic(&path, text.as_bytes())?)
    }
}
