//! The worst photos of a run: truth on the left, answer on the right. Objects keep their colours from left to right.

use crate::EvalError;
use crate::answers::Answers;
use crate::benchmark::Task;
use crate::driver::Job;
use crate::run::box_answers;
use crate::tasks::{Case, camouflage, class_mask, class_prompted, instances, promptable, semantic};
use samclip_data::IGNORE;
use samclip_image::{Image, LabelMap, Mask, overlay, palette_color, rle};

/// Masks with the number of their colour and a name.
type Shown = Vec<(usize, Mask, Option<String>)>;

/// Truth and answer side by side; none for tasks whose answers are no masks.
///
/// # Errors
/// As [`Case::measure`].
pub fn side_by_side(job: &Job, answers: Answers<'_>, index: usize) -> Result<Option<Image>, EvalError> {
    let (image, truth, answer) = match job {
        Job::Objects(case) => {
            let (image, truths, masks) = box_answers(case, answers, index)?;
            (image, numbered(truths), numbered(masks))
        }
        Job::Benchmark(case) => match case.benchmark.task() {
            Task::Classification | Task::LinearProbing | Task::Retrieval => return Ok(None),
            Task::Promptable => {
                let (image, truths, masks) = promptable::first_answers(case, answers, index)?;
                (image, numbered(truths), numbered(masks))
            }
            Task::Instances => detected(case, answers, index)?,
            _ => labelled(case, answers, index)?,
        },
    };
    let parts = [truth, answer].map(|shown| drawn(&image, &shown));
    Ok(Some(beside(&parts[0], &parts[1])?))
}

fn numbered(masks: Vec<Mask>) -> Shown {
    masks.into_iter().enumerate().map(|(i, mask)| (i, mask, None)).collect()
}

/// Photo, objects and detections of a set with categories; the colour is the category's.
fn detected(case: &Case, answers: Answers<'_>, index: usize) -> Result<(Image, Shown, Shown), EvalError> {
    let set = instances::set(case)?;
    let photo = &set.photos[index];
    let named = |category: u64| {
        let place = set.categories.iter().position(|c| c.0 == category);
        (place.unwrap_or(0), place.map(|p| set.categories[p].1.clone()))
    };
    let mut truth = Vec::new();
    for object in photo.objects.iter().filter(|o| !o.crowd) {
        let (colour, name) = named(object.category);
        truth.push((colour, rle::decode(&photo.runs(object)?), name));
    }
    let mut answer = Vec::new();
    for detection in instances::answer(case, answers, index)?.0.iter().filter(|d| !d.counts.is_empty()) {
        let (colour, name) = named(detection.category);
        answer.push((colour, rle::decode(&instances::runs(detection)?), name));
    }
    Ok((photo.open()?, truth, answer))
}

/// Photo, truth and answer of a set with label maps; the colour is the class's.
fn labelled(case: &Case, answers: Answers<'_>, index: usize) -> Result<(Image, Shown, Shown), EvalError> {
    let (truth, predicted) = match case.benchmark.task() {
        Task::Camouflage => {
            let (truth, map, _) = camouflage::answer(case, answers, index)?;
            let predicted = LabelMap { data: map.iter().map(|v| u8::from(*v > 127)).collect(), ..truth };
            (truth, predicted)
        }
        Task::ClassPrompted => {
            let (truth, masks, _) = class_prompted::answer(case, answers, index)?;
            let mut data = vec![IGNORE; truth.data.len()];
            for (class, mask) in &masks {
                data.iter_mut().zip(&mask.data).filter(|(_, inside)| **inside).for_each(|(v, _)| *v = *class as u8);
            }
            let predicted = LabelMap { data, ..truth };
            (truth, predicted)
        }
        _ => {
            let (truth, predicted, _) = semantic::answer(case, answers, index)?;
            let map = LabelMap { data: predicted, ..truth };
            (truth, map)
        }
    };
    let (image, _) = case.photo(index)?;
    let (background, classes) = (case.dataset()?.background(), case.classes());
    let shown = |labels: &LabelMap| -> Shown {
        let present = samclip_data::present_classes(labels, background).into_iter().filter(|c| *c < classes.len());
        present.map(|class| (class, class_mask(labels, class), Some(classes[class].clone()))).collect()
    };
    Ok((image, shown(&truth), shown(&predicted)))
}

/// The photo with a tint for every mask.
fn drawn(image: &Image, shown: &Shown) -> Image {
    // colour 0 would be black
    let tints: Vec<_> = shown.iter().map(|(colour, mask, name)| (mask, palette_color(colour % 254 + 1), name.as_deref())).collect();
    overlay(image, &tints)
}

fn beside(left: &Image, right: &Image) -> Result<Image, EvalError> {
    let row = left.width() * 3;
    let rows = left.data().chunks_exact(row).zip(right.data().chunks_exact(row));
    let data = rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect();
    Image::new(left.width() * 2, left.height(), data).map_err(|e| EvalError::Mismatch(e.to_string()))
}
