//! What `samclip adapt` watches: the mean IoU over classes on photos that were kept out, a preview of
//! the answers as a picture, and when to stop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Result;
use samclip_data::{Dataset, IGNORE};
use samclip_eval::metrics::{Overlap, mean};
use samclip_image::{Filter, Image, LabelMap, Mask, overlay, resize, write_png_rgb};
use samclip_models::clip_guided_sam::ClipGuidedSam;
use samclip_models::text_table::TextTable;
use samclip_predict::guided::{GuidedPredictor, GuidedText};
use samclip_train::guided::{GuidedObserver, PairData, Verdict};
use samclip_train::run_log::Line;
use samclip_train::Observer;

use super::train::Printer;

/// Side of a picture in the preview.
const TILE: usize = 192;
/// Rows of the preview: photo, truth, answer.
const ROWS: usize = 8;
/// Green, as everywhere for a single mask.
const COLOUR: [u8; 3] = [0, 200, 80];

/// The observer.
pub struct Watch {
    printer: Printer,
    dataset: Arc<dyn Dataset>,
    out: PathBuf,
    /// Validations without a better figure until the run stops.
    patience: usize,
    since_best: usize,
    /// The best figure so far.
    pub best: Option<f64>,
    rounds: usize,
    began: Instant,
}

impl Watch {
    /// Watches a run on `dataset` that writes to `out`.
    pub fn new(dataset: Arc<dyn Dataset>, out: &Path, patience: usize) -> Self {
        let out = out.to_owned();
        let printer = Printer::default();
        Self { printer, dataset, out, patience, since_best: 0, best: None, rounds: 0, began: Instant::now() }
    }

    /// Ends the display.
    pub fn finish(&mut self) {
        self.printer.finish();
    }

    fn judge(&mut self, model: &ClipGuidedSam, data: &PairData) -> Result<Option<f64>> {
        let dim = data.vectors.first().map_or(0, Vec::len);
        let table = TextTable::new(data.names.clone(), data.vectors.concat(), dim, &[])?;
        let text = Arc::new(GuidedText::Table(Box::new(table)));
        let (classes, name) = (data.names.clone(), "adapter in training".to_owned());
        let predictor = GuidedPredictor { model: model.clone(), text, classes, base: None, name };
        let mut sums = vec![Overlap::default(); data.names.len()];
        let mut rows = Vec::new();
        for &index in &data.held_out {
            let sample = self.dataset.get(index)?;
            let Some(labels) = &sample.labels else { continue };
            let shown: Vec<usize> = sample.class_ids.iter().filter_map(|&c| data.row(c)).collect();
            let vectors: Vec<Vec<f32>> = shown.iter().map(|&row| data.vectors[row].clone()).collect();
            let seen = predictor.look(&sample.image)?;
            let void: Vec<bool> = labels.data.iter().map(|v| *v == IGNORE).collect();
            for (&row, mask) in shown.iter().zip(predictor.masks(&seen, &vectors, &vec![vec![]; vectors.len()])) {
                let answer = predictor.finish(&seen, &mask).mask;
                let truth = class_mask(labels, data, row);
                sums[row] += Overlap::of(&answer, &truth, &void);
                if rows.len() < ROWS {
                    rows.push((sample.image.clone(), truth, answer, data.names[row].clone()));
                }
            }
        }
        self.rounds += 1;
        write_png_rgb(&self.out.join(format!("preview_{:03}.png", self.rounds)), &grid(&rows)?)?;
        Ok(mean(sums.iter().filter_map(|o| o.iou())))
    }
}

fn class_mask(labels: &LabelMap, data: &PairData, row: usize) -> Mask {
    let own = |v: &u8| data.row(usize::from(*v)) == Some(row);
    Mask { width: labels.width, height: labels.height, data: labels.data.iter().map(own).collect() }
}

/// A row per pair: photo, truth, answer.
fn grid(rows: &[(Image, Mask, Mask, String)]) -> Result<Image> {
    let (width, height) = (3 * TILE, rows.len().max(1) * TILE);
    let mut canvas = vec![255u8; width * height * 3];
    for (r, (photo, truth, answer, name)) in rows.iter().enumerate() {
        let drawn = |mask: &Mask| overlay(photo, &[(mask, COLOUR, Some(name.as_str()))]);
        for (c, tile) in [photo.clone(), drawn(truth), drawn(answer)].into_iter().enumerate() {
            let scale = TILE as f64 / tile.width().max(tile.height()) as f64;
            let side = |n: usize| ((n as f64 * scale) as usize).clamp(1, TILE);
            let tile = resize(&tile, side(tile.width()), side(tile.height()), Filter::Bilinear);
            for (y, line) in tile.data().chunks_exact(tile.width() * 3).enumerate() {
                let at = ((r * TILE + y) * width + c * TILE) * 3;
                canvas[at..at + line.len()].copy_from_slice(line);
            }
        }
    }
    Ok(Image::new(width, height, canvas)?)
}

impl Observer for Watch {
    fn note(&mut self, text: &str) {
        self.printer.note(text);
    }
    fn log(&mut self, line: &Line) {
        self.printer.log(line);
    }
    fn step(&mut self, step: usize, steps: usize) {
        self.printer.step(step, steps);
    }
}

impl GuidedObserver for Watch {
    fn validate(&mut self, step: usize, model: &ClipGuidedSam, data: &PairData) -> Option<Verdict> {
        if data.held_out.is_empty() {
            return None;
        }
        let figure = match self.judge(model, data) {
            Ok(Some(figure)) => figure,
            Ok(None) => return None,
            Err(error) => {
                self.printer.note(&format!("validation failed: {error}"));
                return None;
            }
        };
        let minutes = self.began.elapsed().as_secs_f64() / 60.0;
        let text = format!("step {step}, {minutes:.1} min: IoU {figure:.3} on {} photos kept out", data.held_out.len());
        self.printer.note(&text);
        if self.best.is_none_or(|best| figure > best + 1e-3) {
            (self.best, self.since_best) = (Some(figure), 0);
            return Some(Verdict::Better(format!("mean IoU {figure:.4} over classes on {} photos kept out", data.held_out.len())));
        }
        self.since_best += 1;
        Some(if self.since_best >= self.patience { Verdict::Stop } else { Verdict::Worse })
    }
}
