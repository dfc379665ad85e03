//! Instance segmentation with given boxes: COCO's and LVIS's average precision (SAM-CLIP Table 2; spec 5.6).
//!
//! The boxes are a detector's (`--boxes`, COCO's results format) or the truth's own. The mask keeps the box's score. With
//! `refine` the answer is asked again with its box once; spec 5.6 [R].

use super::{Case, Measured, Source, ask, outcomes};
use crate::EvalError;
use crate::answers::{Answers, Offline, Roles};
use crate::metrics::detection::{Shape, Truth};
use crate::metrics::mean;
use crate::outcome::{Detection, Outcome, Record};
use crate::summary::{Curve, Row, Summary};
use samclip_data::instances::{InstancePhoto, Instances};
use samclip_image::{Mask, rle};
use samclip_predict::{Prompt, SegmentOptions};

pub fn set(case: &Case) -> Result<&Instances, EvalError> {
    match &case.source {
        Source::Objects(set) => Ok(set),
        Source::Photos(_) => Err(case.lacks("find objects")),
    }
}

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let photo = &set(case)?.photos[index];
    let (found, ms) = answer(case, answers, index)?;
    let fit = fit(case, photo, &found)?;
    Ok((Outcome::Detections { found, fit }, ms))
}

/// What is found on a photo, and the milliseconds.
pub fn answer(case: &Case, answers: Answers<'_>, index: usize) -> Result<(Vec<Detection>, f64), EvalError> {
    let set = set(case)?;
    let photo = &set.photos[index];
    Ok(match answers {
        Answers::Model(roles) => asked(case, roles, index, photo)?,
        Answers::Offline(Offline::Files(files)) => (files.detections(photo.id).to_vec(), 0.0),
        Answers::Offline(Offline::Oracle) => (oracle(photo)?, 0.0),
        Answers::Offline(Offline::Constant) => {
            let (width, height) = photo.size;
            let whole = rle::encode(&Mask { width, height, data: vec![true; width * height] });
            let bbox = [0.0, 0.0, width as f64, height as f64];
            (set.categories.iter().map(|c| of_mask(c.0, 1.0, bbox, &whole)).collect(), 0.0)
        }
    })
}

/// A model's masks for the boxes.
fn asked(case: &Case, roles: &Roles<'_>, index: usize, photo: &InstancePhoto) -> Result<(Vec<Detection>, f64), EvalError> {
    let Some(rule) = case.benchmark.instances else { return Err(case.lacks("find objects")) };
    let segmenter = roles.segmenter.ok_or_else(|| case.lacks("segment by boxes"))?;
    let (image, id) = (photo.open()?, case.id(index));
    let boxes = boxes(case, photo);
    let mut prompts: Vec<Prompt> = boxes.iter().map(|b| Prompt::bbox(corners(b.2))).collect();
    let (mut masks, took) = ask(&id, segmenter, (&image, &prompts), &SegmentOptions::STANDARD)?;
    let mut ms = took.encode + took.decode;
    if rule.refine == 1 {
        prompts.iter_mut().zip(&masks).filter(|(_, m)| m.area() > 0).for_each(|(p, m)| p.mask = Some(m.clone()));
        let (again, took) = ask(&id, segmenter, (&image, &prompts), &SegmentOptions::STANDARD)?;
        (masks, ms) = (again, ms + took.encode + took.decode);
    }
    let detection = |((category, score, bbox), mask): (&(u64, f64, [f64; 4]), &Mask)| of_mask(*category, *score, *bbox, &rle::encode(mask));
    Ok((boxes.iter().zip(&masks).map(detection).collect(), ms))
}

/// How well the photo's objects are found, for the list of the worst.
fn fit(case: &Case, photo: &InstancePhoto, found: &[Detection]) -> Result<Option<f64>, EvalError> {
    let by_mask = case.benchmark.instances.is_some_and(|rule| rule.shape == Shape::Segm);
    let mut best = Vec::new();
    for object in photo.objects.iter().filter(|o| !o.crowd) {
        let truth = photo.runs(object)?;
        let mut top = 0f64;
        for detection in found.iter().filter(|d| d.category == object.category) {
            let iou = match by_mask && !detection.counts.is_empty() {
                true => rle::iou(&runs(detection)?, &truth, false),
                false => box_iou(detection.bbox, object.bbox),
            };
            top = top.max(iou);
        }
        best.push(top);
    }
    Ok(mean(best))
}

/// The mask of a detection.
pub fn runs(detection: &Detection) -> Result<rle::Rle, EvalError> {
    let size = detection.size.map(|v| v as usize);
    rle::from_coco_string(&detection.counts, size).map_err(|e| EvalError::Mismatch(format!("a detection's mask: {e}")))
}

fn box_iou(a: [f64; 4], b: [f64; 4]) -> f64 {
    let along = |i: usize| ((a[i] + a[i + 2]).min(b[i] + b[i + 2]) - a[i].max(b[i])).max(0.0);
    let both = along(0) * along(1);
    let all = a[2] * a[3] + b[2] * b[3] - both;
    if all > 0.0 { both / all } else { 0.0 }
}

fn of_mask(category: u64, score: f64, bbox: [f64; 4], runs: &rle::Rle) -> Detection {
    Detection { category, score, bbox, size: runs.size.map(|v| v as u32), counts: rle::to_coco_string(runs) }
}

/// Every object that is no crowd.
fn oracle(photo: &InstancePhoto) -> Result<Vec<Detection>, EvalError> {
    let mut found = Vec::new();
    for object in photo.objects.iter().filter(|o| !o.crowd) {
        found.push(of_mask(object.category, 1.0, object.bbox, &photo.runs(object)?));
    }
    Ok(found)
}

/// The detector's boxes of a photo, or the truth's; inside the photo, with an area.
fn boxes(case: &Case, photo: &InstancePhoto) -> Vec<(u64, f64, [f64; 4])> {
    let own = || photo.objects.iter().filter(|o| !o.crowd).map(|o| (o.category, 1.0, o.bbox)).collect();
    let all: Vec<_> = match &case.boxes {
        Some(boxes) => boxes.get(&photo.id).cloned().unwrap_or_default(),
        None => own(),
    };
    let (width, height) = (photo.size.0 as f64, photo.size.1 as f64);
    let cut = |(category, score, [x, y, w, h]): (u64, f64, [f64; 4])| {
        let (x0, y0) = (x.clamp(0.0, width), y.clamp(0.0, height));
        let (x1, y1) = ((x + w).clamp(0.0, width), (y + h).clamp(0.0, height));
        (category, score, [x0, y0, x1 - x0, y1 - y0])
    };
    all.into_iter().map(cut).filter(|b| b.2[2] > 0.0 && b.2[3] > 0.0).collect()
}

fn corners([x, y, w, h]: [f64; 4]) -> [f32; 4] {
    [x as f32, y as f32, (x + w) as f32, (y + h) as f32]
}

fn annotation(image: u64, d: &Detection, shape: Shape) -> Result<hotcoco::Annotation, EvalError> {
    let mut value = serde_json::json!({"image_id": image, "category_id": d.category, "score": d.score, "bbox": d.bbox});
    if shape == Shape::Segm {
        value["segmentation"] = serde_json::json!({"size": d.size, "counts": d.counts});
    }
    serde_json::from_value(value).map_err(|e| EvalError::Mismatch(format!("a detection on image {image}: {e}")))
}

pub fn summarize(case: &Case, records: &[Record], summary: &mut Summary) -> Result<(), EvalError> {
    let set = set(case)?;
    let Some(rule) = case.benchmark.instances else { return Ok(()) };
    let mut photos = Vec::new();
    let mut found = Vec::new();
    for record in records {
        if let (Some(Outcome::Detections { found: own, .. }), Some(photo)) = (&record.outcome, set.photos.get(record.index)) {
            photos.push(photo.id);
            for d in own {
                if rule.shape == Shape::Segm && d.counts.is_empty() {
                    return Err(EvalError::Mismatch(format!("a detection on image {} has no mask, which `shape = \"segm\"` asks", photo.id)));
                }
                found.push(annotation(photo.id, d, rule.shape)?);
            }
        }
    }
    let scored = Truth::open(&set.file)?.only(&photos).score(&found, rule.rules, rule.shape)?;
    for (name, value) in &scored.metrics {
        summary.metric(name, Some(*value).filter(|v| *v > -1.0));
    }
    summary.headline = "AP".into();
    summary.objects = Some(outcomes(records).map(|o| if let Outcome::Detections { found, .. } = o { found.len() } else { 0 }).sum());
    for (class, ap) in scored.per_class {
        let id = set.categories.iter().find(|c| c.1 == class).map(|c| c.0);
        let objects = set.photos.iter().filter(|p| photos.binary_search(&p.id).is_ok()).flat_map(|p| &p.objects);
        let count = objects.filter(|o| Some(o.category) == id && !o.crowd).count();
        summary.per_class.push(Row::new(&class, count, [("AP", Some(ap))]));
    }
    for (name, values) in ["precision_recall_50", "precision_recall_75"].into_iter().zip(scored.curves) {
        let points = values.iter().enumerate().map(|(i, p)| (i as f64 / 100.0, *p)).collect();
        summary.curves.push(Curve { name: name.into(), x: "recall".into(), y: "precision".into(), points });
    }
    Ok(())
}
