//! Zero-shot semantic segmentation: a class for every pixel, mIoU at the truth's own size (spec 5.6, 8.2, 8.3).
//!
//! Three ways to ask: the CLIP head over the whole photo (SAM-CLIP's protocol), over sliding windows (today's; field.md
//! A.5), and both heads, one mask a name. Deviation of both heads: a pixel goes to the mask of the highest score
//! (mean probability inside), where the paper compares the decoder's logits.

use super::window::windowed;
use super::{Case, Measured, check_size, outcomes};
use crate::answers::{Answers, Offline, Roles};
use crate::benchmark::{BackgroundRule, Semantic, SemanticMode};
use crate::metrics::semantic::{Confusion, Pairs};
use crate::outcome::{Outcome, Record};
use crate::summary::{Row, Summary};
use crate::EvalError;
use samclip_data::IGNORE;
use samclip_image::{Image, LabelMap};
use samclip_predict::{Background, Prompt, SegmentOptions};

/// A prediction that is no class: background where the set has none.
const NOTHING: u8 = 254;

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let (truth, predicted, ms) = answer(case, answers, index)?;
    Ok((Outcome::Labelled(Pairs::of(&predicted, &truth.data, IGNORE)), ms))
}

/// Truth, predicted classes, milliseconds.
pub fn answer(case: &Case, answers: Answers<'_>, index: usize) -> Result<(LabelMap, Vec<u8>, f64), EvalError> {
    let background = case.dataset()?.background();
    let none = background.map_or(NOTHING, |b| b as u8);
    let offline = match answers {
        Answers::Model(roles) => {
            let (image, truth) = case.photo(index)?;
            let (predicted, ms) = predict(case, roles, index, &image, none)?;
            return Ok((truth, predicted, ms));
        }
        Answers::Offline(offline) => offline,
    };
    let truth = case.truth(index)?;
    let predicted = match offline {
        Offline::Oracle => truth.data.iter().map(|&v| if v == IGNORE { none } else { v }).collect(),
        Offline::Constant => vec![0; truth.data.len()],
        Offline::Files(files) => files.map(&case.id(index), (truth.width, truth.height))?.data,
    };
    Ok((truth, predicted, 0.0))
}

/// The class of every pixel, `none` where no class is predicted.
fn predict(case: &Case, roles: &Roles<'_>, index: usize, image: &Image, none: u8) -> Result<(Vec<u8>, f64), EvalError> {
    if let Some(probe) = roles.probes.get(&case.benchmark.name) {
        let answer = probe.label(image).map_err(case.failed(index))?;
        return Ok((answer.labels.data, answer.timing.encode + answer.timing.decode));
    }
    let Some(semantic) = &case.benchmark.semantic else { return Err(case.lacks("label pixels")) };
    let named = |(class, name): (usize, &Option<String>)| name.clone().map(|name| (class as u8, name));
    let (classes, names): (Vec<u8>, Vec<String>) = case.names.iter().enumerate().filter_map(named).unzip();
    let class_of = |found: &u8| classes.get(usize::from(*found)).copied().unwrap_or(none);
    if semantic.mode == SemanticMode::BothHeads {
        return both_heads(case, roles, index, image, (&classes, &names, none));
    }
    if let Some(window) = semantic.window {
        let locator = roles.locator.ok_or_else(|| case.lacks("locate names"))?;
        let floor = match semantic.background {
            BackgroundRule::Thresh(floor) => Some(floor),
            _ => None,
        };
        let (found, ms) = windowed(locator, image, &names, &window, floor).map_err(case.failed(index))?;
        return Ok((found.iter().map(class_of).collect(), ms));
    }
    let labeller = roles.labeller.ok_or_else(|| case.lacks("label pixels"))?;
    let answer = labeller.label(image, &names, &rule(semantic)).map_err(case.failed(index))?;
    Ok((answer.labels.data.iter().map(class_of).collect(), answer.timing.encode + answer.timing.decode))
}

fn rule(semantic: &Semantic) -> Background {
    match semantic.background {
        BackgroundRule::None => Background::None,
        BackgroundRule::Word => Background::Word,
        BackgroundRule::Extended => Background::Extended,
        BackgroundRule::Channel => Background::Thresh(None),
        BackgroundRule::Thresh(floor) => Background::Thresh(Some(floor)),
    }
}

fn both_heads(
    case: &Case,
    roles: &Roles<'_>,
    index: usize,
    image: &Image,
    (classes, names, none): (&[u8], &[String], u8),
) -> Result<(Vec<u8>, f64), EvalError> {
    let segmenter = roles.segmenter.ok_or_else(|| case.lacks("segment by text"))?;
    let prompts: Vec<Prompt> = names.iter().map(Prompt::text).collect();
    let answer = segmenter.segment(image, &prompts, &SegmentOptions::STANDARD).map_err(case.failed(index))?;
    let mut best = vec![0f32; image.width() * image.height()];
    let mut labels = vec![none; best.len()];
    for found in &answer.masks {
        check_size(&case.id(index), image, &found.mask)?;
        let Some(&class) = classes.get(found.prompt) else { continue };
        for ((slot, best), _) in labels.iter_mut().zip(&mut best).zip(&found.mask.data).filter(|(_, inside)| **inside) {
            if found.score > *best {
                (*slot, *best) = (class, found.score);
            }
        }
    }
    Ok((labels, answer.timing.encode + answer.timing.decode))
}

pub fn summarize(case: &Case, records: &[Record], summary: &mut Summary) {
    let classes = case.classes();
    let mut sum = Confusion::new(classes.len());
    let mut photos = vec![0usize; classes.len()];
    for outcome in outcomes(records) {
        if let Outcome::Labelled(pairs) = outcome {
            sum.add(pairs);
            let mut shown: Vec<u8> = pairs.0.iter().map(|p| p.0).collect();
            shown.dedup();
            for class in shown {
                photos.get_mut(usize::from(class)).into_iter().for_each(|n| *n += 1);
            }
        }
    }
    summary.metric("miou", sum.miou());
    summary.metric("aacc", sum.aacc());
    summary.metric("macc", sum.macc());
    let named = |c: &usize| case.names.get(*c).is_some_and(Option::is_some);
    let over_named = crate::metrics::mean((0..classes.len()).filter(named).filter_map(|c| sum.iou(c)));
    if (0..classes.len()).any(|c| !named(&c)) {
        summary.metric("miou_of_named_classes", over_named);
    }
    summary.headline = "miou".into();
    summary.candidates = Some(case.names.iter().flatten().count());
    for (c, class) in classes.iter().enumerate() {
        if sum.iou(c).is_some() {
            summary.per_class.push(Row::new(class, photos[c], [("iou", sum.iou(c)), ("acc", sum.accuracy(c))]));
        }
    }
    let name = |c: usize| classes.get(c).map_or("(no class)", String::as_str);
    summary.confusions(sum.worst(200).into_iter().map(|(t, p, n)| (name(t), name(p), n)));
    summary.matrix = Some((0..classes.len()).map(|t| (0..=classes.len()).map(|p| sum.at(t, p)).collect()).collect());
}
