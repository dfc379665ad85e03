//! SAM with a detector's boxes: the name of a class is asked as the boxes that the detector gave for it.
//!
//! Protocol: GroundedSAM's (spec 10): boxes of at least 0.3, one mask a box, the masks of a class united.
//! A file is a JSON list of `{"photo", "label", "box": [x0, y0, x1, y1], "score"}` in original pixels;
//! `photo` is the stem of the file name.

use crate::EvalError;
use samclip_image::Mask;
use samclip_predict::Prompt;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Least score of a box (GroundedSAM's `box_threshold`).
pub const MIN_SCORE: f32 = 0.3;

/// Boxes by photo and label.
#[derive(Debug, Clone, Default)]
pub struct Boxes(BTreeMap<(String, String), Vec<[f32; 4]>>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Detection {
    photo: String,
    label: String,
    r#box: [f32; 4],
    score: f32,
}

impl Boxes {
    /// Reads a file of detections.
    ///
    /// # Errors
    /// An unreadable file, another form, a box without area or with numbers that are not finite.
    pub fn open(path: &Path) -> Result<Self, EvalError> {
        let fail = |message: String| EvalError::Protocol { message, path: path.to_owned() };
        let text = std::fs::read_to_string(path).map_err(|reason| EvalError::Io { reason, path: path.to_owned() })?;
        let list: Vec<Detection> = serde_json::from_str(&text).map_err(|e| fail(format!("boxes: {e}")))?;
        let mut boxes: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (i, Detection { photo, label, r#box, score }) in list.into_iter().enumerate() {
            let [x0, y0, x1, y1] = r#box;
            if !(x1 > x0 && y1 > y0) || r#box.iter().any(|v| !v.is_finite()) {
                return Err(fail(format!("boxes: entry {i} ({label} on {photo}): {:?} has no area", r#box)));
            }
            if score >= MIN_SCORE {
                boxes.entry((photo, label)).or_default().push(r#box);
            }
        }
        Ok(Self(boxes))
    }

    /// The prompts for a name on a photo of `width` x `height`; boxes are cut at its border.
    pub fn prompts(&self, photo: &str, label: &str, (width, height): (usize, usize)) -> Vec<Prompt> {
        let stem = Path::new(photo).file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let found = self.0.get(&(stem, label.to_owned())).map_or(&[][..], Vec::as_slice);
        let cut = |[x0, y0, x1, y1]: [f32; 4]| {
            let (w, h) = (width as f32, height as f32);
            [x0.clamp(0.0, w), y0.clamp(0.0, h), x1.clamp(0.0, w), y1.clamp(0.0, h)]
        };
        let inside = |b: &[f32; 4]| b[2] > b[0] && b[3] > b[1];
        found.iter().map(|b| cut(*b)).filter(inside).map(Prompt::bbox).collect()
    }
}

/// Everything that any of the masks covers.
pub fn united(masks: &[Mask], (width, height): (usize, usize)) -> Mask {
    let mut all = Mask::empty(width, height);
    for mask in masks {
        all.data.iter_mut().zip(&mask.data).for_each(|(a, m)| *a |= m);
    }
    all
}
