//! Protocols in the course of a training run (`samclip train --protocol`).

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use samclip_eval::{Protocol, Report};
use samclip_predict::{Model, ModelSpec};
use samclip_train::Recipe;
use samclip_train::guided::{is_guided, is_tower};
use serde::{Deserialize, Serialize};

use super::eval::measure;

const FILE: &str = "evaluations.jsonl";

/// One line of `evaluations.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Evaluation {
    step: usize,
    protocol: String,
    photos: usize,
    #[serde(rename = "box")]
    boxes: Option<f64>,
    click: Option<f64>,
    text: Option<f64>,
    classify: Option<f64>,
}

impl Evaluation {
    fn new(step: usize, report: &Report) -> Self {
        let [boxes, click, text, classify] = [&report.r#box, &report.click, &report.text, &report.classify]
            .map(|figure| figure.as_ref().map(|f| f.value));
        Self { step, protocol: report.protocol.clone(), photos: report.photos, boxes, click, text, classify }
    }

    fn sentence(&self) -> String {
        let figures = [("box", self.boxes), ("click", self.click), ("text", self.text), ("classify", self.classify)];
        let told = figures.iter().filter_map(|(name, value)| Some(format!("{name} {:.3}", (*value)?)));
        let told: Vec<String> = told.collect();
        format!("step {}: {} on {} photos: {}", self.step, self.protocol, self.photos, told.join(", "))
    }
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
            let evaluation = Evaluation::new(step, &report);
            self.keep(&evaluation)?;
            sentences.push(evaluation.sentence());
        }
        Ok(sentences)
    }

    /// Adds a line; those of steps that a run which started over, or went on from before, has not reached are gone.
    fn keep(&self, new: &Evaluation) -> Result<()> {
        let path = self.out.join(FILE);
        let old = std::fs::read_to_string(&path).unwrap_or_default();
        let before = |line: &&str| {
            let known = serde_json::from_str::<Evaluation>(line);
            known.is_ok_and(|e| e.step < new.step || (e.step == new.step && e.protocol != new.protocol))
        };
        let mut text: String = old.lines().filter(before).map(|line| format!("{line}\n")).collect();
        text.push_str(&(serde_json::to_string(new)? + "\n"));
        Ok(samclip_image::write_atomic(&path, text.as_bytes())?)
    }
}
