//! The bodies of `/v1/*`: what a request says, checked and turned into the library's types.
//!
//! Unknown and repeated fields are refused. Coordinates are pixels of the original image.

use samclip_image::{Image, Mask, rle};
use samclip_predict::{EverythingOptions, Point, Prompt, SegmentOptions, TextMode};
use serde::Deserialize;
use utoipa::ToSchema;

use crate::error::{ApiError, Kind};
use crate::settings::Limits;

/// What a request is about: the fields that every `/v1/*` body may have.
#[derive(Debug, Default)]
pub struct Subject {
    /// Base64 or `data:` URL.
    pub image: Option<String>,
    /// A cached photo's key.
    pub key: Option<String>,
    /// Model.
    pub model: Option<String>,
    /// Adapter.
    pub adapter: Option<String>,
    /// The name in the records.
    pub image_name: Option<String>,
}

/// A body that names an image.
pub trait HasSubject {
    /// Moves the common fields out.
    fn subject(&mut self) -> Subject;
}

macro_rules! request {
    ($(#[$about:meta])* $name:ident { $($(#[$meta:meta])* $field:ident: $type:ty,)* }) => {
        $(#[$about])*
        #[derive(Debug, Deserialize, ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct $name {
            /// The image: base64 or a `data:` URL. Not needed beside a key that is still cached, nor in a form.
            pub image: Option<String>,
            /// Key of a cached image, from an earlier answer.
            pub key: Option<String>,
            /// The served model (its default).
            pub model: Option<String>,
            /// An adapter of `/v1/models`.
            pub adapter: Option<String>,
            /// The name that the records carry.
            pub image_name: Option<String>,
            $($(#[$meta])* pub $field: $type,)*
        }

        impl HasSubject for $name {
            fn subject(&mut self) -> Subject {
                Subject {
                    image: self.image.take(),
                    key: self.key.take(),
                    model: self.model.take(),
                    adapter: self.adapter.take(),
                    image_name: self.image_name.take(),
                }
            }
        }
    };
}

request! {
    /// `POST /v1/embed`: encodes an image for the prompts that follow.
    EmbedRequest {}
}

request! {
    /// `POST /v1/segment`: a mask for every prompt.
    SegmentRequest {
        /// At least one.
        prompts: Vec<PromptJson>,
        /// Three masks per prompt, best first.
        multimask: Option<bool>,
        /// Probability above which a part of the image belongs to a text (0.5).
        #[serde(alias = "threshold")]
        text_threshold: Option<f32>,
        /// `both-heads` (the CLIP head finds, the SAM head cuts out) or `clip-head`.
        text_mode: Option<TextModeJson>,
    }
}

request! {
    /// `POST /v1/everything`: the parameters of SAM's automatic mask generator, with its names and defaults.
    EverythingRequest {
        /// Clicks along one side (32).
        points_per_side: Option<usize>,
        /// Clicks decoded at once (64).
        points_per_batch: Option<usize>,
        /// Drop masks whose predicted IoU is not above this (0.88).
        pred_iou_thresh: Option<f32>,
        /// Drop masks whose stability score is below this (0.95).
        stability_score_thresh: Option<f32>,
        /// Shift of the threshold for the stability score (1).
        stability_score_offset: Option<f32>,
        /// Boxes that overlap more than this are duplicates (0.7).
        box_nms_thresh: Option<f32>,
        /// Layers of crops (0).
        crop_n_layers: Option<u32>,
        /// Boxes of different crops that overlap more than this are duplicates (0.7).
        crop_nms_thresh: Option<f32>,
        /// Overlap of the first layer's crops, as a share of the short side (512/1500).
        crop_overlap_ratio: Option<f64>,
        /// Layer i has `points_per_side` divided by this to the power of i (1).
        crop_n_points_downscale_factor: Option<usize>,
        /// Own clicks: one list of [x, y] in 0..1 for each layer.
        point_grids: Option<Vec<Vec<[f64; 2]>>>,
        /// Remove holes and islands smaller than this many pixels (0).
        min_mask_region_area: Option<usize>,
    }
}

request! {
    /// `POST /v1/classify`: which of these names is in the image.
    ClassifyRequest {
        /// The names.
        texts: Vec<String>,
        /// How many of the best (5).
        top: Option<usize>,
    }
}

request! {
    /// `POST /v1/locate`: where names are.
    LocateRequest {
        /// One name.
        text: Option<String>,
        /// Several names.
        texts: Option<Vec<String>>,
        /// Send a heat map of the image's size as a grey PNG for every name.
        heat: Option<bool>,
    }
}

request! {
    /// `POST /v1/label`: a class for every pixel.
    LabelRequest {
        /// The classes.
        classes: Vec<String>,
        /// `none`, `word`, `extended`, `thresh` or `thresh=P`; the model's own where it is not given.
        background: Option<String>,
    }
}

/// One prompt: clicks, a box and a rough mask describe one object together; or a text.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PromptJson {
    /// Clicks: [x, y] each.
    pub points: Option<Vec<[f32; 2]>>,
    /// 1 (on the object) or 0 (beside it) for every click; all 1 where it is missing.
    pub labels: Option<Vec<u8>>,
    /// x0, y0, x1, y1.
    #[serde(rename = "box")]
    pub bbox: Option<[f32; 4]>,
    /// A name.
    pub text: Option<String>,
    /// A rough mask of the image's size.
    pub mask: Option<MaskJson>,
}

/// COCO's compressed run-length encoding.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MaskJson {
    /// Height and width.
    pub size: [usize; 2],
    /// The runs.
    pub counts: String,
}

/// How a text becomes a mask.
#[derive(Debug, Clone, Copy, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TextModeJson {
    /// The CLIP head finds, the SAM head cuts out.
    BothHeads,
    /// The CLIP head's map alone.
    ClipHead,
}

/// Refuses more than the limit of anything.
///
/// # Errors
/// More than that.
pub fn check_count(what: &str, found: usize, limits: &Limits) -> Result<(), ApiError> {
    let limit = limits.max_prompts;
    if found <= limit {
        return Ok(());
    }
    Err(ApiError::new(Kind::TooManyPrompts, format!("too many {what}: at most {limit}, found {found}")))
}

impl SegmentRequest {
    /// For prompts, with everything else as it is.
    pub fn of(prompts: Vec<PromptJson>) -> Self {
        Self {
            image: None,
            key: None,
            model: None,
            adapter: None,
            image_name: None,
            prompts,
            multimask: None,
            text_threshold: None,
            text_mode: None,
        }
    }

    /// The library's options.
    ///
    /// # Errors
    /// A threshold out of its range.
    pub fn options(&self) -> Result<SegmentOptions, ApiError> {
        let standard = SegmentOptions::STANDARD;
        let text_mode = match self.text_mode {
            Some(TextModeJson::ClipHead) => TextMode::ClipHead,
            Some(TextModeJson::BothHeads) | None => TextMode::BothHeads,
        };
        let options = SegmentOptions {
            multimask: self.multimask.unwrap_or(standard.multimask),
            text_threshold: self.text_threshold.unwrap_or(standard.text_threshold),
            text_mode,
        };
        options.validate()?;
        Ok(options)
    }
}

impl PromptJson {
    /// The library's prompt for an image. `adapted`: the model takes a text and clicks together.
    ///
    /// # Errors
    /// Anything that does not fit the image or the model.
    pub fn prompt(self, image: &Image, adapted: bool) -> Result<Prompt, ApiError> {
        let points = self.points.unwrap_or_default();
        let labels = self.labels.unwrap_or_else(|| vec![1; points.len()]);
        if labels.len() != points.len() || labels.iter().any(|label| *label > 1) {
            let error = format!("labels do not fit: expected 0 or 1 for each of {} points, found {labels:.60?}", points.len());
            return Err(ApiError::new(Kind::InvalidPrompt, error));
        }
        let geometric = !points.is_empty() || self.bbox.is_some() || self.mask.is_some();
        if self.text.is_some() && geometric && !(adapted && self.bbox.is_none() && self.mask.is_none()) {
            let error = "a text together with clicks, a box or a mask: this model takes one or the other";
            return Err(ApiError::new(Kind::TextWithClicks, error)
                .hint("ask for the text first, then send its mask together with the clicks"));
        }
        let text = self.text.map(|text| samclip_predict::prompt::parse_text(&text)).transpose();
        let prompt = Prompt {
            text: text.map_err(samclip_predict::PredictError::from)?,
            points: points.iter().zip(labels).map(|(&[x, y], label)| Point { x, y, positive: label == 1 }).collect(),
            bbox: self.bbox,
            mask: self.mask.map(|mask| mask.decode(image)).transpose()?,
        };
        prompt.validate(image.width(), image.height()).map_err(samclip_predict::PredictError::from)?;
        Ok(prompt)
    }
}

impl MaskJson {
    /// The mask; its size is checked before anything is allocated.
    fn decode(&self, image: &Image) -> Result<Mask, ApiError> {
        let expected = [image.height(), image.width()];
        if self.size != expected {
            let error = format!("mask has another size than the image: expected {expected:?}, found {:?}", self.size);
            return Err(ApiError::new(Kind::InvalidPrompt, error));
        }
        let invalid = |error: samclip_image::ImageError| ApiError::new(Kind::InvalidPrompt, error.to_string());
        Ok(rle::decode(&rle::from_coco_string(&self.counts, self.size).map_err(invalid)?))
    }
}

impl EverythingRequest {
    /// The library's options: SAM's defaults where nothing is said.
    pub fn options(self) -> EverythingOptions {
        let standard = EverythingOptions::STANDARD;
        EverythingOptions {
            points_per_side: self.points_per_side.unwrap_or(standard.points_per_side),
            points_per_batch: self.points_per_batch.unwrap_or(standard.points_per_batch),
            pred_iou_thresh: self.pred_iou_thresh.unwrap_or(standard.pred_iou_thresh),
            stability_score_thresh: self.stability_score_thresh.unwrap_or(standard.stability_score_thresh),
            stability_score_offset: self.stability_score_offset.unwrap_or(standard.stability_score_offset),
            box_nms_thresh: self.box_nms_thresh.unwrap_or(standard.box_nms_thresh),
            crop_n_layers: self.crop_n_layers.unwrap_or(standard.crop_n_layers),
            crop_nms_thresh: self.crop_nms_thresh.unwrap_or(standard.crop_nms_thresh),
            crop_overlap_ratio: self.crop_overlap_ratio.unwrap_or(standard.crop_overlap_ratio),
            crop_n_points_downscale_factor: self
                .crop_n_points_downscale_factor
                .unwrap_or(standard.crop_n_points_downscale_factor),
            point_grids: self.point_grids,
            min_mask_region_area: self.min_mask_region_area.unwrap_or(standard.min_mask_region_area),
        }
    }
}

/// Parses a body: broken JSON is told from JSON that says the wrong thing.
///
/// # Errors
/// Either.
pub fn parse<T: serde::de::DeserializeOwned>(json: &[u8]) -> Result<T, ApiError> {
    serde_json::from_slice(json).map_err(|error| {
        let text: String = error.to_string().chars().take(300).collect();
        match error.classify() {
            serde_json::error::Category::Data => ApiError::new(Kind::InvalidRequest, format!("the request does not fit: {text}")),
            _ => ApiError::new(Kind::InvalidJson, format!("the request is not JSON: {text}")),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(json: &str) -> Result<Prompt, ApiError> {
        let image = Image::new(4, 2, vec![0; 24]).unwrap();
        parse::<PromptJson>(json.as_bytes())?.prompt(&image, false)
    }

    #[test]
    fn prompts_are_checked() {
        let good = prompt(r#"{"points": [[1, 1.5], [0, 0]], "labels": [1, 0], "box": [0, 0, 4, 2]}"#).unwrap();
        assert_eq!(good.points.len(), 2);
        assert_eq!(good.kind(), "points+box");
        let kind = |json: &str| prompt(json).unwrap_err().kind;
        assert_eq!(kind("{}"), Kind::InvalidPrompt);
        assert_eq!(kind(r#"{"points": [[9, 1]]}"#), Kind::InvalidPrompt);
        assert_eq!(kind(r#"{"points": [[1e39, 1]]}"#), Kind::InvalidJson);
        assert_eq!(kind(r#"{"points": [[1, 1]], "labels": []}"#), Kind::InvalidPrompt);
        assert_eq!(kind(r#"{"points": [[1, 1]], "labels": [2]}"#), Kind::InvalidPrompt);
        assert_eq!(kind(r#"{"points": [[1, 1]], "text": "dog"}"#), Kind::TextWithClicks);
        assert_eq!(kind(r#"{"mask": {"size": [9, 9], "counts": "0"}}"#), Kind::InvalidPrompt);
        assert_eq!(kind(r#"{"points": [[1, NaN]]}"#), Kind::InvalidJson);
        assert_eq!(kind(r#"{"points": [[1]]}"#), Kind::InvalidRequest);
        assert_eq!(kind(r#"{"text": "a", "text": "b"}"#), Kind::InvalidRequest);
        assert_eq!(kind(r#"{"colour": 1}"#), Kind::InvalidRequest);
    }
}
