//! The library verbs over many images: the same functions that the command line calls.
//!
//! Each takes a loaded model, a list of files and a request, and returns the `--json` document. An image that fails
//! is reported and the others go on. Files are written only for images that were answered.

use std::path::{Path, PathBuf};

use samclip_image::{DecodeLimits, Image, ImageError, LabelMap, Mask};

use crate::answer::{self, class_mask};
use crate::error::PredictError;
use crate::everything::{EverythingOptions, whole};
use crate::model::Model;
use crate::output::{self, Format, Writer};
use crate::prompt::{self, Point};
use crate::record::{ClassifyImage, Document, Failure, LabelImage, LocateImage, MaskImage};
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
        self.options.validate()
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
    model.prompt_segmenter()?;
    model.check_names(&request.texts)?;
    let mask = request.mask.as_deref().map(Mask::open).transpose()?;
    let prompts = prompt::group(&request.texts, &request.points, &request.boxes, mask.as_ref())?;
    let prompts = if model.guided().is_some() { prompt::name_with_clicks(prompts) } else { prompts };
    mask_files(About::of(model), inputs, output, observer, |file, image| {
        answer::segment(model, file, image, &prompts, &request.options)
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
    let ahead = |image: &Image| whole(sam, image);
    mask_files_ahead(About::of(model), inputs, output, observer, ahead, |file, image, first| {
        answer::everything_in(model, file, image, options, first)
    })
}

/// Who answers.
#[derive(Debug, Clone, PartialEq)]
pub struct About {
    /// The model's name.
    pub model: String,
    /// `f32` or `bf16`.
    pub precision: String,
}

impl About {
    /// A loaded model.
    pub fn of(model: &Model) -> Self {
        Self { model: model.name.clone(), precision: model.precision.to_owned() }
    }
}

/// Masks from whoever makes them (`work`), for image after image: files, failures and the document are those of
/// every verb that makes masks.
///
/// # Errors
/// An output folder that cannot be written.
pub fn mask_files(
    about: About,
    inputs: &Inputs,
    output: Option<&OutputSpec>,
    observer: &mut dyn Observer,
    mut work: impl FnMut(&Path, &Image) -> Result<MaskImage, PredictError>,
) -> Result<Document<MaskImage>, PredictError> {
    mask_files_ahead(about, inputs, output, observer, |_| Ok(()), |file, image, ()| work(file, image))
}

/// [`mask_files`] with what `ahead` makes of an image while the one before it is worked on.
fn mask_files_ahead<P: Send>(
    about: About,
    inputs: &Inputs,
    output: Option<&OutputSpec>,
    observer: &mut dyn Observer,
    ahead: impl Fn(&Image) -> Result<P, PredictError> + Sync,
    mut work: impl FnMut(&Path, &Image, P) -> Result<MaskImage, PredictError>,
) -> Result<Document<MaskImage>, PredictError> {
    let mut writer = output.map(|spec| Writer::new(&spec.folder, &spec.formats)).transpose()?;
    let document = each_ahead(about, inputs, observer, ahead, |file, image, ahead| {
        let record = work(file, image, ahead)?;
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
    model.classifier()?;
    if classes.is_empty() {
        return Err(prompt::PromptError::Nothing.into());
    }
    model.check_names(classes)?;
    each(About::of(model), inputs, observer, |file, image| {
        Ok((answer::classify(model, file, image, classes, top)?, Vec::new()))
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
    model.locator()?;
    model.check_names(texts)?;
    let segmenter = match segmenter {
        Some(other) => Some(other.prompt_segmenter()?),
        None => model.prompt_segmenter().ok(),
    };
    let mut writer = output.map(|spec| Writer::new(&spec.folder, &spec.formats)).transpose()?;
    each(About::of(model), inputs, observer, |file, image| {
        let (answer, maps) = answer::locate(model, segmenter, file, image, texts)?;
        let mut written = Vec::new();
        if let Some(writer) = writer.as_mut() {
            let LocateImage { width, height, masks, timing_ms, .. } = answer.clone();
            written = writer.write(image, &MaskImage { file: file.to_owned(), width, height, masks, timing_ms })?;
            let stem = file.file_stem().map_or_else(String::new, |s| s.to_string_lossy().into_owned());
            for (i, map) in maps.iter().enumerate() {
                let path = writer.folder().join(format!("{stem}_heat_{i}.png"));
                output::write_heat(&path, image, &map.heat)?;
                written.push(path);
            }
        }
        Ok((answer, written))
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
    model.labeller()?;
    model.check_classes(classes, background)?;
    let mut writer = output.map(|(folder, _)| Writer::new(folder, &[])).transpose()?;
    let with_background = *background != Background::None;
    each(About::of(model), inputs, observer, |file, image| {
        let (record, labels) = answer::label(model, file, image, classes, background)?;
        let mut written = Vec::new();
        if let (Some(writer), Some((_, files))) = (writer.as_mut(), output) {
            let stem = writer.stem(file);
            if files.palette {
                let path = writer.folder().join(format!("{stem}_label.png"));
                output::write_label_map(&path, &labels, classes.len(), with_background)?;
                written.push(path);
            }
            if files.overlay {
                let path = writer.folder().join(format!("{stem}_label_overlay.png"));
                write_label_overlay(&path, image, &labels, classes)?;
                written.push(path);
            }
        }
        Ok((record, written))
    })
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
    about: About,
    inputs: &Inputs,
    observer: &mut dyn Observer,
    mut work: impl FnMut(&Path, &Image) -> Result<(T, Vec<PathBuf>), PredictError>,
) -> Result<Document<T>, PredictError> {
    each_ahead(about, inputs, observer, |_| Ok(()), |file, image, ()| work(file, image))
}

/// [`each`]; the next image is opened, and `ahead` makes of it what it can, while `work` is with the one before.
fn each_ahead<T, P: Send>(
    About { model, precision }: About,
    inputs: &Inputs,
    observer: &mut dyn Observer,
    ahead: impl Fn(&Image) -> Result<P, PredictError> + Sync,
    mut work: impl FnMut(&Path, &Image, P) -> Result<(T, Vec<PathBuf>), PredictError>,
) -> Result<Document<T>, PredictError> {
    let mut document = Document { model, precision, images: Vec::new(), errors: Vec::new() };
    let open = |file: &PathBuf| {
        let image = Image::open(file, &inputs.limits)?;
        let made = ahead(&image)?;
        Ok::<_, PredictError>((image, made))
    };
    let mut next = inputs.files.first().map(open);
    for (i, file) in inputs.files.iter().enumerate() {
        let Some(opened) = next.take() else { break };
        let answer = std::thread::scope(|scope| {
            let following = inputs.files.get(i + 1).map(|file| scope.spawn(|| open(file)));
            let answer = opened.and_then(|(image, made)| work(file, &image, made));
            next = following.map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            answer
        });
        match answer {
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
