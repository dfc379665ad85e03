//! The library verbs over many images: the same functions that the command line calls.
//!
//! Each takes a loaded model, a list of files and a request, and returns the `--json` document. An image that fails
//! is reported and the others go on. Files are written only for images that were answered.

use std::path::{Path, PathBuf};

use samclip_image::{DecodeLimits, Image, ImageError, LabelMap, Mask, rle};

use crate::error::PredictError;
use crate::everything::{EverythingOptions, everything};
use crate::model::Model;
use crate::output::{self, Format, Writer};
use crate::prompt::{self, Point, Prompt};
use crate::record::{
    ClassRecord, ClassScore, ClassifyImage, Document, Failure, LabelImage, LocateImage, LocationRecord, MaskImage,
    MaskRecord, Segmentation,
};
use crate::roles::{Background, SegmentOptions};

/// What happens along the way, for progress bars and messages.
pub trait Observer {
    /// An image was answered and these files were written.
    fn done(&mut self, file: &Path, written: &[PathBuf]);
    /// An image failed.
    fn failed(&mut self, failure: &Failure);
}

/// Where files go.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputSpec {
    /// The folder.
    pub folder: PathBuf,
    /// What is written for each image.
    pub formats: Vec<Format>,
}

/// A list of images and how they are read.
#[derive(Debug, Clone, PartialEq)]
pub struct Inputs {
    /// Files, see [`crate::inputs::expand`].
    pub files: Vec<PathBuf>,
    /// Checked before decoding.
    pub limits: DecodeLimits,
}

/// What `segment` is asked.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentRequest {
    /// Names.
    pub texts: Vec<String>,
    /// Clicks on one object.
    pub points: Vec<Point>,
    /// Boxes x0, y0, x1, y1.
    pub boxes: Vec<[f32; 4]>,
    /// A rough mask: white is the object.
    pub mask: Option<PathBuf>,
    /// How prompts are answered.
    pub options: SegmentOptions,
}

impl SegmentRequest {
    /// Checks what can be checked before a model is loaded.
    ///
    /// # Errors
    /// Nothing asked, prompts that contradict each other, a threshold out of its range.
    pub fn validate(&self) -> Result<(), PredictError> {
        let stand_in = Mask { width: 1, height: 1, data: vec![true] };
        prompt::group(&self.texts, &self.points, &self.boxes, self.mask.as_ref().map(|_| &stand_in))?;
        let threshold = self.options.text_threshold;
        if threshold > 0.0 && threshold < 1.0 {
            return Ok(());
        }
        let (expected, found) = ("a number between 0 and 1", threshold.to_string());
        Err(PredictError::Option { name: "--text-threshold", expected, found })
    }
}

/// Cuts objects out by text, point, box or mask.
///
/// # Errors
/// What concerns all images: prompts that contradict each other, an unknown name, a model without the role, an
/// output folder that cannot be written.
pub fn segment_files(
    model: &Model,
    inputs: &Inputs,
    request: &SegmentRequest,
    output: Option<&OutputSpec>,
    observer: &mut dyn Observer,
) -> Result<Document<MaskImage>, PredictError> {
    request.validate()?;
    let segmenter = model.prompt_segmenter()?;
    model.check_names(&request.texts)?;
    let mask = request.mask.as_deref().map(Mask::open).transpose()?;
    let prompts = prompt::group(&request.texts, &request.points, &request.boxes, mask.as_ref())?;
    let prompts = if model.guided().is_some() { prompt::name_with_clicks(prompts) } else { prompts };
    mask_files(model, inputs, output, observer, |image| {
        let answer = segmenter.segment(image, &prompts, &request.options)?;
        let records = answer.masks.iter().map(|m| MaskRecord::of_prompt(m, &prompts[m.prompt])).collect();
        Ok((records, answer.timing))
    })
}

/// Masks of everything (SAM's automatic mask generator).
///
/// # Errors
/// What concerns all images: an option out of its range, a model without masks, an output folder that cannot be
/// written.
pub fn everything_files(
    model: &Model,
    inputs: &Inputs,
    options: &EverythingOptions,
    output: Option<&OutputSpec>,
    observer: &mut dyn Observer,
) -> Result<Document<MaskImage>, PredictError> {
    let sam = model.sam()?;
    options.validate()?;
    mask_files(model, inputs, output, observer, |image| {
        let answer = everything(sam, image, options)?;
        Ok((answer.masks.iter().map(MaskRecord::of_everything).collect(), answer.timing))
    })
}

fn mask_files(
    model: &Model,
    inputs: &Inputs,
    output: Option<&OutputSpec>,
    observer: &mut dyn Observer,
    work: impl Fn(&Image) -> Result<(Vec<MaskRecord>, crate::roles::Timing), PredictError>,
) -> Result<Document<MaskImage>, PredictError> {
    let mut writer = output.map(|spec| Writer::new(&spec.folder, &spec.formats)).transpose()?;
    let document = each(model, inputs, observer, |file, image| {
        let (masks, timing_ms) = work(image)?;
        let record = MaskImage { file: file.to_owned(), width: image.width(), height: image.height(), masks, timing_ms };
        let written = writer.as_mut().map_or(Ok(Vec::new()), |writer| writer.write(image, &record))?;
        Ok((record, written))
    })?;
    if let Some(writer) = writer.filter(|_| !document.images.is_empty()) {
        let written = writer.finish()?;
        if !written.is_empty() {
            observer.done(Path::new(""), &written);
        }
    }
    Ok(document)
}

/// The best names for each image.
///
/// # Errors
/// What concerns all images: an unknown name, an empty list, a model without the role.
pub fn classify_files(
    model: &Model,
    inputs: &Inputs,
    classes: &[String],
    top: usize,
    observer: &mut dyn Observer,
) -> Result<Document<ClassifyImage>, PredictError> {
    let classifier = model.classifier()?;
    if classes.is_empty() {
        return Err(prompt::PromptError::Nothing.into());
    }
    model.check_names(classes)?;
    each(model, inputs, observer, |file, image| {
        let answer = classifier.classify(image, classes)?;
        let scores = classes.iter().zip(answer.probabilities);
        let mut ranked: Vec<ClassScore> = scores.map(|(name, score)| ClassScore { name: name.clone(), score }).collect();
        ranked.sort_by(|a, b| b.score.total_cmp(&a.score));
        ranked.truncate(top);
        let (width, height) = (image.width(), image.height());
        let record = ClassifyImage { file: file.to_owned(), width, height, classes: ranked, timing_ms: answer.timing };
        Ok((record, Vec::new()))
    })
}

/// Where names are: heat maps, clicks, and masks from the clicks if the model (or `segmenter`) makes masks.
///
/// # Errors
/// What concerns all images: an unknown name, a model without the role, an output folder that cannot be written.
pub fn locate_files(
    model: &Model,
    segmenter: Option<&Model>,
    inputs: &Inputs,
    texts: &[String],
    output: Option<&OutputSpec>,
    observer: &mut dyn Observer,
) -> Result<Document<LocateImage>, PredictError> {
    let locator = model.locator()?;
    model.check_names(texts)?;
    let segmenter = match segmenter {
        Some(other) => Some(other.prompt_segmenter()?),
        None => model.prompt_segmenter().ok(),
    };
    let mut writer = output.map(|spec| Writer::new(&spec.folder, &spec.formats)).transpose()?;
    each(model, inputs, observer, |file, image| {
        let answer = locator.locate(image, texts)?;
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
        let (width, height) = (image.width(), image.height());
        let mut written = Vec::new();
        if let Some(writer) = writer.as_mut() {
            let record = MaskImage { file: file.to_owned(), width, height, masks: masks.clone(), timing_ms };
            written = writer.write(image, &record)?;
            let stem = file.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
            for (i, map) in answer.maps.iter().enumerate() {
                let path = writer.folder().join(format!("{stem}_heat_{i}.png"));
                output::write_heat(&path, image, &map.heat)?;
                written.push(path);
            }
        }
        let locations = texts.iter().zip(&answer.maps).map(|(text, map)| LocationRecord {
            text: text.clone(),
            points: map.points.iter().map(|p| [p.x.into(), p.y.into(), f64::from(u8::from(p.positive))]).collect(),
            grid: [map.grid_height, map.grid_width],
            similarity: map.similarity.clone(),
        });
        let locations = locations.collect();
        Ok((LocateImage { file: file.to_owned(), width, height, locations, masks, timing_ms }, written))
    })
}

/// What `label` writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelFiles {
    /// The palette PNG.
    pub palette: bool,
    /// The photo with the classes' colours.
    pub overlay: bool,
}

/// A semantic map over a list of classes.
///
/// # Errors
/// What concerns all images: an unknown name, a list that is too long, a model without the role, an output folder
/// that cannot be written.
pub fn label_files(
    model: &Model,
    inputs: &Inputs,
    classes: &[String],
    background: &Background,
    output: Option<(&Path, LabelFiles)>,
    observer: &mut dyn Observer,
) -> Result<Document<LabelImage>, PredictError> {
    let labeller = model.labeller()?;
    model.check_names(&crate::sam_clip::semantic_names(classes, background)?)?;
    let mut writer = output.map(|(folder, _)| Writer::new(folder, &[])).transpose()?;
    let with_background = *background != Background::None;
    each(model, inputs, observer, |file, image| {
        let answer = labeller.label(image, classes, background)?;
        let (width, height) = (image.width(), image.height());
        let mut written = Vec::new();
        if let (Some(writer), Some((_, files))) = (writer.as_mut(), output) {
            let stem = writer.stem(file);
            if files.palette {
                let path = writer.folder().join(format!("{stem}_label.png"));
                output::write_label_map(&path, &answer.labels, classes.len(), with_background)?;
                written.push(path);
            }
            if files.overlay {
                let path = writer.folder().join(format!("{stem}_label_overlay.png"));
                write_label_overlay(&path, image, &answer.labels, classes)?;
                written.push(path);
            }
        }
        let mut found: Vec<ClassRecord> =
            classes.iter().enumerate().filter_map(|(i, name)| class_record(&answer.labels, i, name)).collect();
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
        Ok((record, written))
    })
}

fn class_mask(labels: &LabelMap, index: usize) -> Mask {
    let data = labels.data.iter().map(|label| usize::from(*label) == index).collect();
    Mask { width: labels.width, height: labels.height, data }
}

fn class_record(labels: &LabelMap, index: usize, name: &str) -> Option<ClassRecord> {
    let mask = class_mask(labels, index);
    let area = mask.area();
    let segmentation = Segmentation::new(&rle::encode(&mask));
    (area > 0).then(|| ClassRecord { name: name.to_owned(), index, area, segmentation })
}

fn write_label_overlay(path: &Path, image: &Image, labels: &LabelMap, classes: &[String]) -> Result<(), ImageError> {
    let masks: Vec<(usize, Mask)> =
        (0..classes.len()).map(|i| (i, class_mask(labels, i))).filter(|(_, mask)| mask.area() > 0).collect();
    let layers: Vec<(&Mask, [u8; 3], Option<&str>)> = masks
        .iter()
        .map(|(i, mask)| (mask, samclip_image::palette_color(i + 1), Some(classes[*i].as_str())))
        .collect();
    samclip_image::write_png_rgb(path, &samclip_image::overlay(image, &layers))
}

/// Opens image after image and collects answers and failures.
fn each<T>(
    model: &Model,
    inputs: &Inputs,
    observer: &mut dyn Observer,
    mut work: impl FnMut(&Path, &Image) -> Result<(T, Vec<PathBuf>), PredictError>,
) -> Result<Document<T>, PredictError> {
    let mut document =
        Document { model: model.name.clone(), precision: model.precision, images: Vec::new(), errors: Vec::new() };
    for file in &inputs.files {
        let image = Image::open(file, &inputs.limits).map_err(PredictError::from);
        match image.and_then(|image| work(file, &image)) {
            Ok((record, written)) => {
                observer.done(file, &written);
                document.images.push(record);
            }
            Err(error) => {
                let failure = Failure::new(file, error);
                observer.failed(&failure);
                document.errors.push(failure);
            }
        }
    }
    Ok(document)
}
