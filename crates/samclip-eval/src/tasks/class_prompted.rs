//! A mask for the name of each class that a photo has: class-wise binary IoU (CLIP-Guided SAM; spec 6.7).
//!
//! Not the task of methods that label every pixel: the classes of a photo are given. Every table must say so.

use super::{Case, Measured, ask, class_mask, outcomes, void};
use crate::EvalError;
use crate::answers::{Answers, Offline, Roles};
use crate::metrics::class_iou::{Aggregation, class_iou};
use crate::metrics::{Overlap, mean};
use crate::outcome::{Outcome, Record};
use crate::protocol::TextMode;
use crate::summary::{Row, Summary};
use samclip_data::present_classes;
use samclip_data::prompts::distance_maximum;
use samclip_image::{Image, LabelMap, Mask};
use samclip_predict::{Point, Prompt, SegmentOptions, TextMode as PredictTextMode};

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let (truth, masks, ms) = answer(case, answers, index)?;
    let void = void(&truth);
    let overlap = |(class, mask): (usize, Mask)| (class, Overlap::of(&mask, &class_mask(&truth, class), &void));
    Ok((Outcome::Prompted(masks.into_iter().map(overlap).collect()), ms))
}

/// Truth, a mask for every class that is present and has a name, milliseconds.
pub fn answer(case: &Case, answers: Answers<'_>, index: usize) -> Result<(LabelMap, Vec<(usize, Mask)>, f64), EvalError> {
    let background = case.dataset()?.background();
    let (truth, image) = match answers {
        Answers::Model(_) => {
            let (image, labels) = case.photo(index)?;
            (labels, Some(image))
        }
        Answers::Offline(_) => (case.truth(index)?, None),
    };
    let named = |class: &usize| case.names.get(*class).is_some_and(Option::is_some);
    let (mut masks, mut ms) = (Vec::new(), 0.0);
    for class in present_classes(&truth, background).into_iter().filter(named) {
        let (mask, took) = match (answers, &image) {
            (Answers::Model(roles), Some(image)) => by_name(case, roles, index, (image, &truth), class)?,
            (Answers::Offline(Offline::Oracle), _) => (class_mask(&truth, class), 0.0),
            (Answers::Offline(Offline::Files(files)), _) => {
                (files.mask(&case.classes()[class], &case.id(index), (truth.width, truth.height))?, 0.0)
            }
            _ => (Mask { width: truth.width, height: truth.height, data: vec![true; truth.data.len()] }, 0.0),
        };
        masks.push((class, mask));
        ms += took;
    }
    Ok((truth, masks, ms))
}

/// A model's mask for the name of a class.
fn by_name(case: &Case, roles: &Roles<'_>, index: usize, (image, truth): (&Image, &LabelMap), class: usize) -> Result<(Mask, f64), EvalError> {
    let Some(rule) = case.benchmark.class_prompted else { return Err(case.lacks("segment by text")) };
    let segmenter = roles.segmenter.ok_or_else(|| case.lacks("segment by text"))?;
    let click = distance_maximum(&class_mask(truth, class)).filter(|_| rule.click);
    let points = click.map(|[x, y]| Point { x, y, positive: true }).into_iter().collect();
    let prompts = [Prompt { points, ..Prompt::text(case.names[class].clone().unwrap_or_default()) }];
    let text_mode = match rule.mode {
        TextMode::BothHeads => PredictTextMode::BothHeads,
        TextMode::ClipHead => PredictTextMode::ClipHead,
    };
    let options = SegmentOptions { text_threshold: rule.threshold, text_mode, ..SegmentOptions::STANDARD };
    let (mut masks, took) = ask(&case.id(index), segmenter, (image, &prompts), &options)?;
    Ok((masks.remove(0), took.encode + took.decode))
}

pub fn summarize(case: &Case, records: &[Record], summary: &mut Summary) {
    let classes = case.classes();
    let mut by_class: Vec<Vec<Overlap>> = vec![Vec::new(); classes.len()];
    for outcome in outcomes(records) {
        if let Outcome::Prompted(found) = outcome {
            found.iter().for_each(|(class, overlap)| by_class[*class].push(*overlap));
        }
    }
    let over = |aggregation| mean(by_class.iter().filter_map(|photos| class_iou(photos, aggregation)));
    let [summed, per_image] = [Aggregation::Summed, Aggregation::PerImage].map(over);
    let first = case.benchmark.class_prompted.map(|rule| rule.aggregation);
    summary.metric("miou", if first == Some(Aggregation::PerImage) { per_image } else { summed });
    summary.metric("miou_summed", summed);
    summary.metric("miou_per_image", per_image);
    summary.headline = "miou".into();
    for (photos, class) in by_class.iter().zip(classes).filter(|(photos, _)| !photos.is_empty()) {
        let values = [("iou", class_iou(photos, Aggregation::Summed)), ("iou_per_image", class_iou(photos, Aggregation::PerImage))];
        summary.per_class.push(Row::new(class, photos.len(), values));
    }
}
