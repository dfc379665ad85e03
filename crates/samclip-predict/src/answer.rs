//! The verbs on one decoded image: a record of the `--json` document each.
//!
//! [`crate::verbs`] calls these for file after file, the server for request after request. `file` only names the
//! image in the record.

use std::path::Path;

use samclip_image::{Image, LabelMap, Mask, rle};

use crate::error::PredictError;
use crate::everything::{Everything, EverythingOptions};
use crate::model::Model;
use crate::prompt::Prompt;
use crate::record::{
    ClassRecord, ClassScore, ClassifyImage, LabelImage, LocateImage, LocationRecord, MaskImage, MaskRecord,
    Segmentation,
};
use crate::roles::{Background, HeatMap, PromptSegmenter, SegmentOptions, Timing};

/// Masks for prompts.
///
/// # Errors
/// A prompt that does not fit the image or the model.
pub fn segment(
    model: &Model,
    file: &Path,
    image: &Image,
    prompts: &[Prompt],
    options: &SegmentOptions,
) -> Result<MaskImage, PredictError> {
    let answer = model.prompt_segmenter()?.segment(image, prompts, options)?;
    let masks = answer.masks.iter().map(|m| MaskRecord::of_prompt(m, &prompts[m.prompt])).collect();
    Ok(mask_image(file, image, masks, answer.timing))
}

/// Masks of everything.
///
/// # Errors
/// An option out of its range, a model without masks.
pub fn everything(
    model: &Model,
    file: &Path,
    image: &Image,
    options: &EverythingOptions,
) -> Result<MaskImage, PredictError> {
    Ok(every_mask(file, image, crate::everything::everything(model.sam()?, image, options)?))
}

/// [`everything`] of a photo that is encoded already, with options that are validated.
pub(crate) fn everything_in(
    model: &Model,
    file: &Path,
    image: &Image,
    options: &EverythingOptions,
    first: crate::everything::Embedded,
) -> Result<MaskImage, PredictError> {
    Ok(every_mask(file, image, crate::everything::everything_in(model.sam()?, image, options, first)?))
}

fn every_mask(file: &Path, image: &Image, answer: Everything) -> MaskImage {
    let masks = answer.masks.iter().map(MaskRecord::of_everything).collect();
    mask_image(file, image, masks, answer.timing)
}

fn mask_image(file: &Path, image: &Image, masks: Vec<MaskRecord>, timing_ms: Timing) -> MaskImage {
    MaskImage { file: file.to_owned(), width: image.width(), height: image.height(), masks, timing_ms }
}

/// The `top` best of `classes`.
///
/// # Errors
/// An unknown name, an empty list, a model without a text side.
pub fn classify(
    model: &Model,
    file: &Path,
    image: &Image,
    classes: &[String],
    top: usize,
) -> Result<ClassifyImage, PredictError> {
    let answer = model.classifier()?.classify(image, classes)?;
    let scores = classes.iter().zip(answer.probabilities);
    let mut ranked: Vec<ClassScore> = scores.map(|(name, score)| ClassScore { name: name.clone(), score }).collect();
    ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
    ranked.truncate(top);
    let (width, height) = (image.width(), image.height());
    Ok(ClassifyImage { file: file.to_owned(), width, height, classes: ranked, timing_ms: answer.timing })
}

/// Where names are, and masks from the clicks if there is a segmenter. One heat map per text comes with the record.
///
/// # Errors
/// An unknown name, a model without a text side.
pub fn locate(
    model: &Model,
    segmenter: Option<&dyn PromptSegmenter>,
    file: &Path,
    image: &Image,
    texts: &[String],
) -> Result<(LocateImage, Vec<HeatMap>), PredictError> {
    let answer = model.locator()?.locate(image, texts)?;
    let mut timing_ms = answer.timing;
    let mut masks = Vec::new();
    if let Some(segmenter) = segmenter {
        // CLIP Surgery's demo: clicks, three masks, the best of them (spec 4.4).
        let prompts = answer.maps.iter().map(|m| Prompt { points: m.points.clone(), ..Prompt::default() });
        let asked: Vec<(usize, Prompt)> = prompts.enumerate().filter(|(_, p)| !p.points.is_empty()).collect();
        let plain: Vec<Prompt> = asked.iter().map(|(_, prompt)| prompt.clone()).collect();
        let best = SegmentOptions { multimask: true, ..SegmentOptions::STANDARD };
        let found = segmenter.segment(image, &plain, &best)?;
        timing_ms.encode += found.timing.encode;
        timing_ms.decode += found.timing.decode;
        for (i, (class, prompt)) in asked.iter().enumerate() {
            if let Some(prediction) = found.masks.iter().find(|m| m.prompt == i) {
                let mut record = MaskRecord::of_prompt(prediction, prompt);
                record.text = Some(texts[*class].clone());
                masks.push(record);
            }
        }
    }
    let locations = texts.iter().zip(&answer.maps).map(|(text, map)| LocationRecord {
        text: text.clone(),
        points: map.points.iter().map(|p| [p.x.into(), p.y.into(), f64::from(u8::from(p.positive))]).collect(),
        grid: [map.grid_height, map.grid_width],
        similarity: map.similarity.clone(),
    });
    let locations = locations.collect();
    let (width, height) = (image.width(), image.height());
    Ok((LocateImage { file: file.to_owned(), width, height, locations, masks, timing_ms }, answer.maps))
}

/// A class for every pixel. The map itself comes with the record.
///
/// # Errors
/// An unknown name, a list that is too long, a model without a text side.
pub fn label(
    model: &Model,
    file: &Path,
    image: &Image,
    classes: &[String],
    background: &Background,
) -> Result<(LabelImage, LabelMap), PredictError> {
    let answer = model.labeller()?.label(image, classes, background)?;
    let (width, height) = (image.width(), image.height());
    let records = classes.iter().enumerate().filter_map(|(i, name)| class_record(&answer.labels, i, name));
    let mut found: Vec<ClassRecord> = records.collect();
    found.sort_by(|a, b| b.area.cmp(&a.area).then(a.index.cmp(&b.index)));
    let covered: usize = found.iter().map(|class| class.area).sum();
    let record = LabelImage {
        file: file.to_owned(),
        width,
        height,
        classes: found,
        background_area: width * height - covered,
        timing_ms: answer.timing,
    };
    Ok((record, answer.labels))
}

/// The pixels of one class.
pub(crate) fn class_mask(labels: &LabelMap, index: usize) -> Mask {
    let data = labels.data.iter().map(|label| usize::from(*label) == index).collect();
    Mask { width: labels.width, height: labels.height, data }
}

fn class_record(labels: &LabelMap, index: usize, name: &str) -> Option<ClassRecord> {
    let mask = class_mask(labels, index);
    let area = mask.area();
    let segmentation = Segmentation::new(&rle::encode(&mask));
    (area > 0).then(|| ClassRecord { name: name.to_owned(), index, area, segmentation })
}
