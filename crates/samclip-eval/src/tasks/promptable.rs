//! Boxes and simulated clicks: mean IoU of objects (SAM's 1-click protocol and its 1-9 clicks; SAM paper §7.1, App. D.1).
//!
//! The first click is the object's deepest point. Each further click is the deepest point of the larger error, positive
//! where the object was missed, negative where too much was taken. Deviation: the answer's logits are not fed back, since
//! roles give masks.

use super::{Case, Measured, Source, ask, outcomes, void};
use crate::EvalError;
use crate::answers::{Answers, Offline, Roles};
use crate::benchmark::Promptable;
use crate::metrics::boundary::boundary_overlap;
use crate::metrics::{Overlap, mean};
use crate::outcome::{Clicked, Outcome, Record};
use crate::summary::{Curve, Row, Summary};
use samclip_data::prompts::{distance_maximum, distance_peak, tight_box};
use samclip_data::{IGNORE, components};
use samclip_image::{Image, Mask, rle};
use samclip_predict::{Point, Prompt, SegmentOptions};

type Objects = Vec<(Option<usize>, Mask)>;

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let Some(rule) = case.benchmark.promptable else { return Err(case.lacks("segment by clicks")) };
    let (image, objects, void) = objects(case, &rule, index)?;
    let empty = || Clicked { class: None, r#box: None, boundary: None, clicks: Vec::new() };
    let mut found: Vec<Clicked> = objects.iter().map(|(class, _)| Clicked { class: *class, ..empty() }).collect();
    let ms = match answers {
        Answers::Model(roles) => model(case, roles, index, &rule, (&image, &objects, &void), &mut found)?,
        Answers::Offline(Offline::Files(_)) => {
            return Err(EvalError::Mismatch("clicks depend on the answers before them: files cannot be scored under this task".into()));
        }
        Answers::Offline(offline) => {
            for ((_, truth), found) in objects.iter().zip(&mut found) {
                let whole = || Mask { data: vec![true; truth.data.len()], ..*truth };
                let mask = if matches!(offline, Offline::Oracle) { truth.clone() } else { whole() };
                let overlap = Overlap::of(&mask, truth, &void);
                found.r#box = rule.r#box.then_some(overlap);
                found.boundary = rule.r#box.then(|| boundary_overlap(&mask, truth, &void));
                found.clicks = vec![overlap; rule.clicks];
            }
            0.0
        }
    };
    Ok((Outcome::Clicked(found), ms))
}

/// The photo, its objects, and which pixels nobody knows.
fn objects(case: &Case, rule: &Promptable, index: usize) -> Result<(Image, Objects, Vec<bool>), EvalError> {
    if let Source::Objects(set) = &case.source {
        let photo = &set.photos[index];
        let mut found = Vec::new();
        for object in photo.objects.iter().filter(|o| !o.crowd) {
            let class = set.categories.iter().position(|c| c.0 == object.category);
            found.push((class, rle::decode(&photo.runs(object)?)));
        }
        return Ok((photo.open()?, some(large(found, rule), rule), Vec::new()));
    }
    let dataset = case.dataset()?;
    let sample = dataset.get(index)?;
    Ok(match &sample.labels {
        Some(labels) => {
            let parts = components(labels, dataset.background(), IGNORE, rule.min_fraction, rule.connectivity == 8);
            let found = parts.into_iter().map(|(class, mask)| (Some(class), mask)).collect();
            (sample.image, some(found, rule), void(labels))
        }
        None => {
            let found = large(sample.masks.into_iter().map(|m| (None, m)).collect(), rule);
            (sample.image, some(found, rule), Vec::new())
        }
    })
}

fn large(mut objects: Objects, rule: &Promptable) -> Objects {
    objects.retain(|(_, m)| m.area() > 0 && m.area() as f64 >= rule.min_fraction * m.data.len() as f64);
    objects
}

/// Evenly from the file's order, where the protocol wants no more.
fn some(objects: Objects, rule: &Promptable) -> Objects {
    let all = objects.len();
    let Some(wanted) = rule.most_objects.filter(|n| *n < all) else { return objects };
    let taken: std::collections::BTreeSet<usize> = (0..wanted).map(|k| k * all / wanted).collect();
    objects.into_iter().enumerate().filter(|(i, _)| taken.contains(i)).map(|(_, o)| o).collect()
}

/// Truth and the answers to the first question: tight boxes, or one click each.
pub fn first_answers(case: &Case, answers: Answers<'_>, index: usize) -> Result<(Image, Vec<Mask>, Vec<Mask>), EvalError> {
    let Some(rule) = case.benchmark.promptable else { return Err(case.lacks("segment by clicks")) };
    let (image, objects, _) = objects(case, &rule, index)?;
    let truths: Vec<Mask> = objects.into_iter().map(|(_, mask)| mask).collect();
    let masks = match answers {
        Answers::Model(roles) => {
            let segmenter = roles.segmenter.ok_or_else(|| case.lacks("segment by boxes and clicks"))?;
            let ask_for = |m: &Mask| match rule.r#box {
                true => tight_box(m).map(Prompt::bbox),
                false => distance_maximum(m).map(|[x, y]| Prompt::point(x, y)),
            };
            let prompts: Vec<Prompt> = truths.iter().filter_map(ask_for).collect();
            ask(&case.id(index), segmenter, (&image, &prompts), &SegmentOptions::STANDARD)?.0
        }
        Answers::Offline(Offline::Oracle) => truths.clone(),
        Answers::Offline(_) => truths.iter().map(|m| Mask { data: vec![true; m.data.len()], ..*m }).collect(),
    };
    Ok((image, truths, masks))
}

fn model(
    case: &Case,
    roles: &Roles<'_>,
    index: usize,
    rule: &Promptable,
    (image, objects, void): (&Image, &Objects, &[bool]),
    found: &mut [Clicked],
) -> Result<f64, EvalError> {
    let segmenter = roles.segmenter.ok_or_else(|| case.lacks("segment by boxes and clicks"))?;
    let (id, mut total) = (case.id(index), 0.0);
    let mut put = |prompts: &[Prompt]| {
        let (masks, took) = ask(&id, segmenter, (image, prompts), &SegmentOptions::STANDARD)?;
        total += took.encode + took.decode;
        Ok::<_, EvalError>(masks)
    };
    if rule.r#box {
        let boxes: Vec<Prompt> = objects.iter().filter_map(|(_, m)| tight_box(m)).map(Prompt::bbox).collect();
        for ((mask, (_, truth)), found) in put(&boxes)?.iter().zip(objects).zip(found.iter_mut()) {
            found.r#box = Some(Overlap::of(mask, truth, void));
            found.boundary = Some(boundary_overlap(mask, truth, void));
        }
    }
    let first = |(_, m): &(Option<usize>, Mask)| distance_maximum(m).map(|[x, y]| Prompt::point(x, y)).unwrap_or_default();
    let mut prompts: Vec<Prompt> = objects.iter().map(first).collect();
    for round in 0..rule.clicks {
        let masks = put(&prompts)?;
        for (((mask, (_, truth)), found), prompt) in masks.iter().zip(objects).zip(found.iter_mut()).zip(&mut prompts) {
            found.clicks.push(Overlap::of(mask, truth, void));
            if round + 1 < rule.clicks {
                prompt.points.extend(next_click(mask, truth, void));
            }
        }
    }
    Ok(total)
}

/// The deepest point of the larger error; none where nothing is wrong.
fn next_click(mask: &Mask, truth: &Mask, void: &[bool]) -> Option<Point> {
    let error = |wanted: bool| {
        let wrong = |i: usize| truth.data[i] == wanted && mask.data[i] != wanted && !void.get(i).copied().unwrap_or(false);
        distance_peak(&Mask { data: (0..truth.data.len()).map(wrong).collect(), ..*truth })
    };
    let click = |peak: ([f32; 2], f32), positive| Point { x: peak.0[0], y: peak.0[1], positive };
    match (error(true), error(false)) {
        (Some(missed), Some(extra)) if extra.1 > missed.1 => Some(click(extra, false)),
        (Some(missed), _) => Some(click(missed, true)),
        (None, Some(extra)) => Some(click(extra, false)),
        (None, None) => None,
    }
}

pub fn summarize(case: &Case, records: &[Record], summary: &mut Summary) {
    let Some(rule) = case.benchmark.promptable else { return };
    let objects: Vec<&Clicked> = outcomes(records)
        .filter_map(|o| match o {
            Outcome::Clicked(objects) => Some(objects),
            _ => None,
        })
        .flatten()
        .collect();
    let over = |f: &dyn Fn(&Clicked) -> Option<Overlap>, of: &[&Clicked]| mean(of.iter().filter_map(|o| f(o)?.iou()));
    if rule.r#box {
        summary.metric("box_miou", over(&|o| o.r#box, &objects));
        summary.metric("box_boundary_iou", over(&|o| o.boundary, &objects));
    }
    let mut points = Vec::new();
    for k in 0..rule.clicks {
        let value = over(&|o| o.clicks.get(k).copied(), &objects);
        summary.metric(&format!("miou@{}_click{}", k + 1, if k == 0 { "" } else { "s" }), value);
        points.extend(value.map(|v| ((k + 1) as f64, v)));
    }
    summary.headline = if rule.r#box { "box_miou" } else { "miou@1_click" }.into();
    summary.objects = Some(objects.len());
    if points.len() > 1 {
        summary.curves.push(Curve { name: "clicks".into(), x: "clicks".into(), y: "mean IoU".into(), points });
    }
    let names: Vec<String> = match &case.source {
        Source::Objects(set) => set.categories.iter().map(|c| c.1.clone()).collect(),
        Source::Photos(d) => d.class_names().to_vec(),
    };
    for (class, name) in names.iter().enumerate() {
        let own: Vec<&Clicked> = objects.iter().copied().filter(|o| o.class == Some(class)).collect();
        if !own.is_empty() {
            let values = [("box", over(&|o| o.r#box, &own)), ("click", over(&|o| o.clicks.first().copied(), &own))];
            summary.per_class.push(Row::new(name, own.len(), values));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_click_goes_where_the_answer_is_most_wrong() {
        let square = |x: std::ops::Range<usize>, y: std::ops::Range<usize>| {
            let data = (0..600).map(|i| x.contains(&(i % 30)) && y.contains(&(i / 30))).collect();
            Mask { width: 30, height: 20, data }
        };
        let truth = square(2..20, 2..18);
        let missed = next_click(&square(2..8, 2..18), &truth, &[]).unwrap();
        assert!(missed.positive && (8.0..20.0).contains(&missed.x));
        let extra = next_click(&square(2..29, 2..18), &truth, &[]).unwrap();
        assert!(!extra.positive && extra.x >= 20.0);
        assert_eq!(next_click(&truth, &truth, &[]), None);
        let void: Vec<bool> = (0..600).map(|i| i % 30 >= 20).collect();
        assert_eq!(next_click(&square(2..29, 2..18), &truth, &void), None);
    }
}
