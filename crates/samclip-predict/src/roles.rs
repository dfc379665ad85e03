//! The four things a model can do, as object-safe traits with one method each.
//!
//! SAM has one role (`PromptSegmenter`), CLIP three, SAM-CLIP all four. Protocols, the server and the binary see
//! roles, never concrete models. All coordinates and masks are in original image pixels.

use samclip_image::{Image, LabelMap, Mask};

use crate::error::PredictError;
use crate::prompt::Prompt;

/// Masks for prompts.
pub trait PromptSegmenter {
    /// Answers every prompt on one image, encoding it once.
    ///
    /// The answers come in the order of the prompts: one mask per prompt, or three (best first) with
    /// `options.multimask` for prompts that are not text. A text that is not found has an empty mask.
    ///
    /// # Errors
    /// A prompt that is not valid on this image, an unknown name, a text for a model without a text side.
    fn segment(&self, image: &Image, prompts: &[Prompt], options: &SegmentOptions) -> Result<Segmentation, PredictError>;
}

/// One class for every pixel.
pub trait SemanticSegmenter {
    /// A label map of the image's size: the index into `classes`, or `classes.len()` for background.
    ///
    /// # Errors
    /// An unknown name, fewer than one or more than 254 classes.
    fn label(&self, image: &Image, classes: &[String], background: &Background) -> Result<SemanticMap, PredictError>;
}

/// Where a name is.
pub trait TextLocator {
    /// One heat map per text.
    ///
    /// # Errors
    /// An unknown name.
    fn locate(&self, image: &Image, texts: &[String]) -> Result<Location, PredictError>;
}

/// Which name fits.
pub trait ZeroShotClassifier {
    /// Probabilities over `classes` (they sum to 1).
    ///
    /// # Errors
    /// An unknown name, an empty list.
    fn classify(&self, image: &Image, classes: &[String]) -> Result<Classification, PredictError>;
}

/// How prompts are answered.
#[derive(Debug, Clone, PartialEq)]
pub struct SegmentOptions {
    /// Three masks per prompt instead of one.
    pub multimask: bool,
    /// Probability above which a token belongs to a text's map (spec 5.6; 0.5).
    pub text_threshold: f32,
    /// How a text becomes a mask.
    pub text_mode: TextMode,
}

impl SegmentOptions {
    /// One mask per prompt, both heads for texts, threshold 0.5.
    pub const STANDARD: Self = Self { multimask: false, text_threshold: 0.5, text_mode: TextMode::BothHeads };

    /// Checks the threshold.
    ///
    /// # Errors
    /// One out of its range.
    pub fn validate(&self) -> Result<(), PredictError> {
        let threshold = self.text_threshold;
        if threshold > 0.0 && threshold < 1.0 {
            return Ok(());
        }
        let (expected, found) = ("a number between 0 and 1", threshold.to_string());
        Err(PredictError::Option { name: "--text-threshold", expected, found })
    }
}

/// How a text becomes a mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TextMode {
    /// CLIP head -> map -> mask prompt and points -> mask decoder.
    BothHeads,
    /// The CLIP head's map alone, upsampled and thresholded.
    ClipHead,
}

/// One mask of one prompt.
#[derive(Debug, Clone, PartialEq)]
pub struct MaskPrediction {
    /// Index of the prompt that this mask answers.
    pub prompt: usize,
    /// The mask, of the image's size.
    pub mask: Mask,
    /// The decoder's own estimate of its IoU.
    pub predicted_iou: f32,
    /// IoU of the mask at logit thresholds +1 and -1.
    pub stability_score: f32,
    /// What to sort by: `predicted_iou`, or for a text the mean probability inside the mask.
    pub score: f32,
}

/// The answers of a [`PromptSegmenter`].
#[derive(Debug, Clone, PartialEq)]
pub struct Segmentation {
    /// In the order of the prompts.
    pub masks: Vec<MaskPrediction>,
    /// Where the time went.
    pub timing: Timing,
}

/// What counts as background (spec 8.2).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Background {
    /// No background: every pixel gets a class.
    None,
    /// The word "background" competes with the classes.
    Word,
    /// "background" and 39 words for stuff compete with the classes (CLIPpy's list).
    Extended,
    /// A pixel whose best probability is below the threshold, or below the constant background channel, is background.
    Thresh(Option<f32>),
}

impl Background {
    /// Reads `none`, `word`, `extended`, `thresh` or `thresh=P`.
    ///
    /// # Errors
    /// Anything else.
    pub fn parse(mode: &str) -> Result<Self, PredictError> {
        let share = |text: &str| text.parse::<f32>().ok().filter(|p| (0.0..=1.0).contains(p));
        match mode {
            "none" => Ok(Self::None),
            "word" => Ok(Self::Word),
            "extended" => Ok(Self::Extended),
            "thresh" => Ok(Self::Thresh(None)),
            _ => match mode.strip_prefix("thresh=").and_then(share) {
                Some(p) => Ok(Self::Thresh(Some(p))),
                None => Err(PredictError::Option {
                    name: "--background mode",
                    expected: "none, word, extended, thresh or thresh=P",
                    found: mode.chars().take(60).collect(),
                }),
            },
        }
    }
}

/// The answer of a [`SemanticSegmenter`].
#[derive(Debug, Clone, PartialEq)]
pub struct SemanticMap {
    /// Index into the classes; `classes.len()` is background.
    pub labels: LabelMap,
    /// Where the time went.
    pub timing: Timing,
}

/// A map of how much each token of the image fits a text.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// Rows of the token grid, padding excluded.
    pub grid_height: usize,
    /// Columns of the token grid, padding excluded.
    pub grid_width: usize,
    /// Similarity per token.
    pub similarity: Vec<f32>,
    /// Min-max normalised to 0..1 and upsampled to the image, row by row.
    pub heat: Vec<f32>,
    /// Clicks for a prompt segmenter, in original pixels (CLIP Surgery's rule).
    pub points: Vec<crate::prompt::Point>,
}

/// The answer of a [`TextLocator`].
#[derive(Debug, Clone, PartialEq)]
pub struct Location {
    /// One per text.
    pub maps: Vec<HeatMap>,
    /// Where the time went.
    pub timing: Timing,
}

/// The answer of a [`ZeroShotClassifier`].
#[derive(Debug, Clone, PartialEq)]
pub struct Classification {
    /// One per class, in the order given.
    pub probabilities: Vec<f32>,
    /// Where the time went.
    pub timing: Timing,
}

/// Milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize, serde::Deserialize)]
pub struct Timing {
    /// Preprocessing and image encoder.
    pub encode: f64,
    /// Everything after it.
    pub decode: f64,
}
