//! Camouflaged objects: S-measure, E-measure, weighted F and MAE of a grey map at the truth's size (spec 6.7, 9.3).
//!
//! A model's masks are maps of 0 and 255; another system's PNGs are taken as they are.

use super::{Case, Measured, ask, class_mask, outcomes};
use crate::EvalError;
use crate::answers::{Answers, Offline};
use crate::metrics::camouflage::map_scores;
use crate::metrics::mean;
use crate::outcome::{Outcome, Record};
use crate::summary::{Curve, Summary};
use samclip_data::prompts::distance_maximum;
use samclip_image::{LabelMap, Mask, connected_components};
use samclip_predict::{Point, Prompt, SegmentOptions};

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let (truth, map, ms) = answer(case, answers, index)?;
    let object: Vec<bool> = truth.data.iter().map(|&v| v == 1).collect();
    let scores = map_scores(&map, &object, truth.width);
    let (s, e, e_adaptive) = (scores.s, scores.e, scores.e_adaptive);
    Ok((Outcome::Map { s, e, e_adaptive, weighted_f: scores.weighted_f, mae: scores.mae }, ms))
}

/// Truth, grey map, milliseconds.
pub fn answer(case: &Case, answers: Answers<'_>, index: usize) -> Result<(LabelMap, Vec<u8>, f64), EvalError> {
    let Some(rule) = &case.benchmark.camouflage else { return Err(case.lacks("find camouflaged objects")) };
    let grey = |mask: &Mask| mask.data.iter().map(|&set| 255 * u8::from(set)).collect::<Vec<u8>>();
    let offline = match answers {
        Answers::Model(roles) => {
            let (image, labels) = case.photo(index)?;
            let segmenter = roles.segmenter.ok_or_else(|| case.lacks("segment"))?;
            let points = clicks(&class_mask(&labels, 1), rule.clicks);
            let prompts = [Prompt { text: rule.text.clone(), points, ..Prompt::default() }];
            let (masks, took) = ask(&case.id(index), segmenter, (&image, &prompts), &SegmentOptions::STANDARD)?;
            return Ok((labels, grey(&masks[0]), took.encode + took.decode));
        }
        Answers::Offline(offline) => offline,
    };
    let labels = case.truth(index)?;
    let map = match offline {
        Offline::Oracle => grey(&class_mask(&labels, 1)),
        Offline::Constant => vec![255; labels.data.len()],
        Offline::Files(files) => files.map(&case.id(index), (labels.width, labels.height))?.data,
    };
    Ok((labels, map, 0.0))
}

/// The deepest points of the object's `count` largest parts.
fn clicks(object: &Mask, count: usize) -> Vec<Point> {
    let (labels, areas) = connected_components(object, true);
    let mut order: Vec<usize> = (0..areas.len()).collect();
    order.sort_by_key(|&i| std::cmp::Reverse(areas[i]));
    let part = |i: usize| Mask { data: labels.iter().map(|&l| l as usize == i + 1).collect(), ..*object };
    let click = |i: usize| distance_maximum(&part(i)).map(|[x, y]| Point { x, y, positive: true });
    order.into_iter().take(count).filter_map(click).collect()
}

pub fn summarize(records: &[Record], summary: &mut Summary) {
    let maps: Vec<(f64, &[f64], f64, f64, f64)> = outcomes(records)
        .filter_map(|o| match o {
            Outcome::Map { s, e, e_adaptive, weighted_f, mae } => Some((*s, e.as_slice(), *e_adaptive, *weighted_f, *mae)),
            _ => None,
        })
        .collect();
    let curve: Vec<f64> = (0..256).filter_map(|k| mean(maps.iter().map(|m| m.1[k]))).collect();
    summary.metric("s_measure", mean(maps.iter().map(|m| m.0)));
    summary.metric("e_mean", mean(curve.iter().copied()));
    summary.metric("e_max", curve.iter().copied().reduce(f64::max));
    summary.metric("e_adaptive", mean(maps.iter().map(|m| m.2)));
    summary.metric("weighted_f", mean(maps.iter().map(|m| m.3)));
    summary.metric("mae", mean(maps.iter().map(|m| m.4)));
    summary.headline = "s_measure".into();
    let points = curve.iter().enumerate().map(|(i, e)| ((255 - i) as f64, *e)).collect();
    summary.curves.push(Curve { name: "e_measure".into(), x: "threshold".into(), y: "E-measure".into(), points });
}
