//! The evaluation loop: one encoder pass a photo, all prompts on it, sums by class.

use crate::EvalError;
use crate::answers::{Answers, Offline, Roles};
use crate::boxes::{Boxes, united};
use crate::driver::ObjectsCase;
use crate::metrics::{Overlap, top1_is_present};
use crate::protocol::{Ask, Objects, Protocol, TextMode};
use crate::report::Report;
use crate::tally::{Tally, add};
use crate::tasks::{ask, class_mask, void};
use samclip_data::prompts::{distance_maximum, tight_box};
use samclip_data::{Dataset, IGNORE, Object, Sample, components};
use samclip_image::{Image, LabelMap, Mask};
use samclip_predict::roles::Timing;
use samclip_predict::{Point, Prompt, PromptSegmenter, SegmentOptions, TextMode as PredictTextMode, ZeroShotClassifier};

/// A model under test, seen through its roles.
pub struct Subject<'a> {
    /// The name for the report.
    pub name: String,
    /// Masks for boxes, clicks and names; without it only classification is measured.
    pub segmenter: Option<&'a dyn PromptSegmenter>,
    /// Names for photos. A model without this role has no text side, so it gets no names.
    pub classifier: Option<&'a dyn ZeroShotClassifier>,
    /// A detector's boxes that stand for names.
    pub boxes: Option<&'a Boxes>,
}

/// Runs a protocol. `names` are the text names of the dataset's classes (by label value, none
/// for a class without a name), `limit` takes the first photos only, `progress` is told after
/// every photo how many of how many are done.
///
/// # Errors
/// An unreadable photo, a failing model, an answer of the wrong size or number.
pub fn evaluate(
    protocol: &Protocol,
    dataset: &dyn Dataset,
    names: &[Option<String>],
    subject: &Subject<'_>,
    limit: Option<usize>,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Report, EvalError> {
    check(protocol, dataset, names)?;
    let photos = limit.unwrap_or(usize::MAX).min(dataset.len());
    let mut tally = Tally::new(dataset.class_names().len());
    for index in 0..photos {
        tally.merge(&measure_photo(protocol, dataset, names, subject, index)?);
        progress(index + 1, photos);
    }
    let asked = subject.classifier.is_some() || subject.boxes.is_some();
    Ok(tally.report(protocol, dataset, (&subject.name, asked), photos))
}

/// Checks a protocol against its dataset.
///
/// # Errors
/// Names that do not fit the classes, a class of the headline that the dataset lacks.
pub fn check(protocol: &Protocol, dataset: &dyn Dataset, names: &[Option<String>]) -> Result<(), EvalError> {
    let classes = dataset.class_names();
    if names.len() != classes.len() {
        let message = format!("expected a name for each of {} classes, found {}", classes.len(), names.len());
        return Err(EvalError::Mismatch(message));
    }
    match protocol.text.mean_over.iter().find(|c| !classes.contains(c)) {
        Some(class) => Err(EvalError::Mismatch(format!("`text.mean_over` names `{class}`, which {} lacks", dataset.name()))),
        None => Ok(()),
    }
}

/// The figures of one photo.
///
/// # Errors
/// As [`evaluate`].
pub fn measure_photo(
    protocol: &Protocol,
    dataset: &dyn Dataset,
    names: &[Option<String>],
    subject: &Subject<'_>,
    index: usize,
) -> Result<Tally, EvalError> {
    let mut tally = Tally::new(dataset.class_names().len());
    let photo = Photo::new(dataset.get(index)?, dataset, protocol)?;
    tally.baselines(&photo);
    if let Some(segmenter) = subject.segmenter {
        match subject.boxes {
            Some(boxes) => segment_boxes(&photo, segmenter, names, boxes, &mut tally)?,
            None => {
                let texts = if subject.classifier.is_some() { names } else { &[] };
                segment(&photo, segmenter, texts, protocol, &mut tally)?;
            }
        }
    }
    if let Some(classifier) = subject.classifier {
        classify(&photo, classifier, names, &mut tally)?;
    }
    Ok(tally)
}

/// A photo with its truth.
pub(crate) struct Photo {
    pub(crate) sample: Sample,
    pub(crate) labels: LabelMap,
    pub(crate) void: Vec<bool>,
    pub(crate) objects: Vec<Object>,
}

impl Photo {
    fn new(mut sample: Sample, dataset: &dyn Dataset, protocol: &Protocol) -> Result<Self, EvalError> {
        let Some(labels) = sample.labels.take() else {
            return Err(EvalError::Mismatch(format!("photo {} of {} has no labels", sample.id, dataset.name())));
        };
        let void = void(&labels);
        let Objects { connectivity, min_fraction } = protocol.objects;
        let eight = connectivity == 8;
        let objects = components(&labels, dataset.background(), IGNORE, min_fraction, eight);
        Ok(Self { sample, labels, void, objects })
    }

    pub(crate) fn class_mask(&self, class: usize) -> Mask {
        class_mask(&self.labels, class)
    }

    /// One mask of the photo's size for every prompt.
    fn ask(
        &self,
        segmenter: &dyn PromptSegmenter,
        prompts: &[Prompt],
        options: &SegmentOptions,
    ) -> Result<(Vec<Mask>, Timing), EvalError> {
        ask(&self.sample.id, segmenter, (&self.sample.image, prompts), options)
    }

    fn failed(&self, message: impl ToString) -> EvalError {
        EvalError::Model { photo: self.sample.id.clone(), message: message.to_string() }
    }
}

/// Photo, objects, and the answers to their boxes.
///
/// # Errors
/// As [`evaluate`].
pub(crate) fn box_answers(case: &ObjectsCase, answers: Answers<'_>, index: usize) -> Result<(Image, Vec<Mask>, Vec<Mask>), EvalError> {
    let photo = Photo::new(case.dataset.get(index)?, case.dataset.as_ref(), &case.protocol)?;
    let truths: Vec<Mask> = photo.objects.iter().map(|(_, mask)| mask.clone()).collect();
    let masks = match answers {
        Answers::Model(Roles { segmenter: Some(segmenter), .. }) => {
            let prompts: Vec<Prompt> = truths.iter().filter_map(tight_box).map(Prompt::bbox).collect();
            photo.ask(*segmenter, &prompts, &SegmentOptions::STANDARD)?.0
        }
        Answers::Offline(Offline::Oracle) => truths.clone(),
        _ => truths.iter().map(|m| Mask { data: vec![true; m.data.len()], ..*m }).collect(),
    };
    Ok((photo.sample.image, truths, masks))
}

/// The figures of one photo where the truth, or the whole photo and the first name, is the answer to everything.
///
/// # Errors
/// As [`evaluate`].
pub fn measure_offline(
    protocol: &Protocol,
    dataset: &dyn Dataset,
    names: &[Option<String>],
    oracle: bool,
    index: usize,
) -> Result<Tally, EvalError> {
    let mut tally = Tally::new(dataset.class_names().len());
    let photo = Photo::new(dataset.get(index)?, dataset, protocol)?;
    tally.baselines(&photo);
    let whole = Mask { width: photo.labels.width, height: photo.labels.height, data: vec![true; photo.labels.data.len()] };
    let answer = |truth: &Mask| Overlap::of(if oracle { truth } else { &whole }, truth, &photo.void);
    for (class, truth) in &photo.objects {
        let iou = answer(truth).iou().unwrap_or(0.0);
        tally.r#box.push((*class, iou));
        tally.click.push((*class, iou));
    }
    let named = |class: &usize| names.get(*class).is_some_and(Option::is_some);
    for class in photo.sample.class_ids.iter().copied().filter(named) {
        add(&mut tally.text[class], answer(&photo.class_mask(class)));
    }
    let first = (0..names.len()).find(named);
    let hit = photo.sample.class_ids.iter().any(|class| if oracle { named(class) } else { Some(*class) == first });
    tally.classify(&photo, hit);
    Ok(tally)
}

fn segment(
    photo: &Photo,
    segmenter: &dyn PromptSegmenter,
    names: &[Option<String>],
    protocol: &Protocol,
    tally: &mut Tally,
) -> Result<(), EvalError> {
    segment_objects(photo, segmenter, tally)?;
    let named = |(class, name): (usize, &Option<String>)| name.clone().map(|name| (class, name));
    let mut texts: Vec<(usize, String)> = names.iter().enumerate().filter_map(named).collect();
    let present = |class: &usize| photo.sample.class_ids.contains(class);
    let at_once = match protocol.text.ask {
        Ask::Alone => {
            texts.retain(|(class, _)| present(class));
            1
        }
        Ask::ClassList => texts.len().max(1),
    };
    let text_mode = match protocol.text.mode {
        TextMode::BothHeads => PredictTextMode::BothHeads,
        TextMode::ClipHead => PredictTextMode::ClipHead,
    };
    let options = SegmentOptions { text_threshold: protocol.text.threshold, text_mode, ..SegmentOptions::STANDARD };
    for texts in texts.chunks(at_once) {
        let prompt = |(class, name): &(usize, String)| {
            let click = distance_maximum(&photo.class_mask(*class)).filter(|_| protocol.text.click);
            let points = click.map(|[x, y]| Point { x, y, positive: true }).into_iter().collect();
            Prompt { points, ..Prompt::text(name) }
        };
        let prompts: Vec<Prompt> = texts.iter().map(prompt).collect();
        let (masks, timing) = photo.ask(segmenter, &prompts, &options)?;
        tally.names.push(timing.encode + timing.decode);
        for ((class, _), mask) in texts.iter().zip(&masks).filter(|((class, _), _)| present(class)) {
            add(&mut tally.text[*class], Overlap::of(mask, &photo.class_mask(*class), &photo.void));
        }
    }
    Ok(())
}

/// Every present class as the boxes that a detector gave for its name.
fn segment_boxes(
    photo: &Photo,
    segmenter: &dyn PromptSegmenter,
    names: &[Option<String>],
    boxes: &Boxes,
    tally: &mut Tally,
) -> Result<(), EvalError> {
    segment_objects(photo, segmenter, tally)?;
    let size = (photo.labels.width, photo.labels.height);
    for &class in &photo.sample.class_ids {
        let Some(name) = names.get(class).and_then(Option::as_ref) else { continue };
        let prompts = boxes.prompts(&photo.sample.id, name, size);
        let (masks, timing) = photo.ask(segmenter, &prompts, &SegmentOptions::STANDARD)?;
        tally.names.push(timing.encode + timing.decode);
        let truth = photo.class_mask(class);
        add(&mut tally.text[class], Overlap::of(&united(&masks, size), &truth, &photo.void));
    }
    Ok(())
}

/// A box and a click for every object.
fn segment_objects(photo: &Photo, segmenter: &dyn PromptSegmenter, tally: &mut Tally) -> Result<(), EvalError> {
    let mut prompts = Vec::new();
    for (_, mask) in &photo.objects {
        let (Some(bbox), Some([x, y])) = (tight_box(mask), distance_maximum(mask)) else {
            return Err(photo.failed("an object without pixels"));
        };
        prompts.extend([Prompt::bbox(bbox), Prompt::point(x, y)]);
    }
    if prompts.is_empty() {
        return Ok(());
    }
    let (masks, timing) = photo.ask(segmenter, &prompts, &SegmentOptions::STANDARD)?;
    tally.encode.push(timing.encode);
    tally.decode.push(timing.decode);
    for ((class, truth), answers) in photo.objects.iter().zip(masks.chunks_exact(2)) {
        let iou = |mask| Overlap::of(mask, truth, &photo.void).iou().unwrap_or(0.0);
        tally.r#box.push((*class, iou(&answers[0])));
        tally.click.push((*class, iou(&answers[1])));
    }
    Ok(())
}

fn classify(
    photo: &Photo,
    classifier: &dyn ZeroShotClassifier,
    names: &[Option<String>],
    tally: &mut Tally,
) -> Result<(), EvalError> {
    let (ids, asked): (Vec<usize>, Vec<String>) =
        names.iter().enumerate().filter_map(|(i, n)| n.clone().map(|n| (i, n))).unzip();
    let answer = classifier.classify(&photo.sample.image, &asked).map_err(|e| photo.failed(e))?;
    if answer.probabilities.len() != asked.len() {
        let (expected, found) = (asked.len(), answer.probabilities.len());
        return Err(photo.failed(format!("expected {expected} probabilities, found {found}")));
    }
    let is_present = |i: &usize| photo.sample.class_ids.contains(&ids[*i]);
    let present: Vec<usize> = (0..ids.len()).filter(is_present).collect();
    let hit = top1_is_present(&answer.probabilities, &present);
    tally.names.push(answer.timing.encode + answer.timing.decode);
    tally.classify(photo, hit);
    Ok(())
}
