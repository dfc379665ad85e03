//! The worst photos of a run: truth on the left, answer on the right.

use crate::answers::Answers;
use crate::benchmark::Task;
use crate::tasks::{Case, camouflage, class_prompted, semantic};
use crate::EvalError;
use samclip_data::IGNORE;
use samclip_image::{Image, LabelMap, Mask, overlay, palette_color};

/// Truth and answer side by side; none for tasks whose answers are no masks.
///
/// # Errors
/// As [`Case::measure`].
pub fn side_by_side(case: &Case, answers: Answers<'_>, index: usize) -> Result<Option<Image>, EvalError> {
    let (truth, predicted) = match case.benchmark.task() {
        Task::Semantic => {
            let (truth, predicted, _) = semantic::answer(case, answers, index)?;
            let map = LabelMap { data: predicted, ..truth };
            (truth, map)
        }
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
        _ => return Ok(None),
    };
    let (image, _) = case.photo(index)?;
    let background = case.dataset()?.background();
    let parts = [truth, predicted].map(|labels| drawn(&image, &labels, background, case.classes()));
    Ok(Some(beside(&parts[0], &parts[1])?))
}

/// The photo with a tint for every class of a label map.
fn drawn(image: &Image, labels: &LabelMap, background: Option<usize>, classes: &[String]) -> Image {
    let shown: Vec<(usize, Mask)> = samclip_data::present_classes(labels, background)
        .into_iter()
        .filter(|c| *c < classes.len())
        .map(|class| (class, crate::tasks::class_mask(labels, class)))
        .collect();
    // class 0 would be black
    let tints: Vec<_> = shown.iter().map(|(class, mask)| (mask, palette_color(class + 1), Some(classes[*class].as_str()))).collect();
    overlay(image, &tints)
}

fn beside(left: &Image, right: &Image) -> Result<Image, EvalError> {
    let row = left.width() * 3;
    let rows = left.data().chunks_exact(row).zip(right.data().chunks_exact(row));
    let data = rows.flat_map(|(a, b)| a.iter().chain(b).copied()).collect();
    Image::new(left.width() * 2, left.height(), data).map_err(|e| EvalError::Mismatch(e.to_string()))
}
