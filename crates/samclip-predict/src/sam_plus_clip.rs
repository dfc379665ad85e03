//! SAM + CLIP, the baseline without training: segment everything, then say what each mask is.
//!
//! Paper: SAM-CLIP (arXiv 2310.15308) appendix C.1; spec 5.8 for what it leaves open: the crop is the
//! mask's box padded to a square, pixels outside the mask take CLIP's mean colour, the label is the best
//! of the names and of words for background, larger masks are painted first.

use std::time::Instant;

use samclip_image::{Image, Mask, rle};

use crate::error::PredictError;
use crate::everything::{EverythingOptions, everything};
use crate::model::Model;
use crate::prompt::Prompt;
use crate::roles::{MaskPrediction, PromptSegmenter, SegmentOptions, Segmentation, Timing, ZeroShotClassifier};
use crate::sam::milliseconds;
use crate::text::BACKGROUND_WORDS;

/// CLIP's mean colour, in bytes.
const MEAN: [u8; 3] = [123, 117, 104];

/// The baseline over loaded models.
pub struct SamPlusClip<'a> {
    masks: &'a Model,
    names: &'a dyn ZeroShotClassifier,
    background: Vec<String>,
    options: EverythingOptions,
}

impl<'a> SamPlusClip<'a> {
    /// `masks` segments everything, `names` says what a mask is; words for background that it does not
    /// know are left out.
    ///
    /// # Errors
    /// A model without the role.
    pub fn new(masks: &'a Model, names: &'a Model, options: EverythingOptions) -> Result<Self, PredictError> {
        masks.sam()?;
        options.validate()?;
        let words = BACKGROUND_WORDS.iter().map(|word| (*word).to_owned());
        let background = words.filter(|word| names.check_names(std::slice::from_ref(word)).is_ok()).collect();
        Ok(Self { masks, names: names.classifier()?, background, options })
    }

    /// What every pixel shows: a position in `names`, or none.
    fn paint(&self, image: &Image, names: &[String]) -> Result<(Vec<Option<usize>>, Timing), PredictError> {
        let start = Instant::now();
        let found = everything(self.masks.sam()?, image, &self.options)?;
        let encode = milliseconds(start);
        let start = Instant::now();
        let extra = self.background.iter().filter(|word| !names.contains(word)).cloned();
        let list: Vec<String> = names.iter().cloned().chain(extra).collect();
        let mut masks: Vec<Mask> = found.masks.iter().map(|m| rle::decode(&m.rle)).filter(|m| m.area() > 0).collect();
        masks.sort_by_key(|mask| std::cmp::Reverse(mask.area()));
        let mut painted = vec![None; image.width() * image.height()];
        for mask in &masks {
            let scores = self.names.classify(&cut_out(image, mask), &list)?.probabilities;
            let best = (0..scores.len()).fold(0, |best, i| if scores[i] > scores[best] { i } else { best });
            let label = (best < names.len()).then_some(best);
            painted.iter_mut().zip(&mask.data).filter(|(_, inside)| **inside).for_each(|(slot, _)| *slot = label);
        }
        Ok((painted, Timing { encode, decode: milliseconds(start) }))
    }
}

/// The mask's box, padded to a square; what is not the mask is the mean colour.
fn cut_out(image: &Image, mask: &Mask) -> Image {
    let [x0, y0, x1, y1] = mask.bbox_xyxy().map(|v| v.max(0.0) as usize);
    let (x1, y1) = ((x1 + 1).min(image.width()), (y1 + 1).min(image.height()));
    let (w, h) = (x1.saturating_sub(x0).max(1), y1.saturating_sub(y0).max(1));
    let side = w.max(h);
    let (left, top) = ((side - w) / 2, (side - h) / 2);
    let mut data = MEAN.repeat(side * side);
    for y in 0..h {
        for x in (0..w).filter(|x| mask.data[(y0 + y) * mask.width + x0 + x]) {
            let at = ((top + y) * side + left + x) * 3;
            data[at..at + 3].copy_from_slice(&image.pixel(x0 + x, y0 + y));
        }
    }
    Image::new(side, side, data).unwrap_or_else(|_| image.clone())
}

impl PromptSegmenter for SamPlusClip<'_> {
    /// All names of a call compete with each other and with background; other prompts are SAM's.
    fn segment(&self, image: &Image, prompts: &[Prompt], options: &SegmentOptions) -> Result<Segmentation, PredictError> {
        let (named, others): (Vec<_>, Vec<_>) = prompts.iter().enumerate().partition(|(_, p)| p.text.is_some());
        let mut answer = Segmentation { masks: Vec::new(), timing: Timing::default() };
        if !others.is_empty() {
            let (index, plain): (Vec<usize>, Vec<Prompt>) = others.into_iter().map(|(i, p)| (i, p.clone())).unzip();
            answer = self.masks.prompt_segmenter()?.segment(image, &plain, options)?;
            answer.masks.iter_mut().for_each(|mask| mask.prompt = index[mask.prompt]);
        }
        if !named.is_empty() {
            let names: Vec<String> = named.iter().filter_map(|(_, p)| p.text.clone()).collect();
            let (painted, timing) = self.paint(image, &names)?;
            answer.timing = timing;
            for (k, (prompt, _)) in named.iter().enumerate() {
                let data = painted.iter().map(|label| *label == Some(k)).collect();
                let mask = Mask { width: image.width(), height: image.height(), data };
                let (predicted_iou, stability_score, score) = (0.0, 0.0, 0.0);
                answer.masks.push(MaskPrediction { prompt: *prompt, mask, predicted_iou, stability_score, score });
            }
        }
        answer.masks.sort_by_key(|mask| mask.prompt);
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_out_is_square_and_shows_the_mask_alone() {
        let image = Image::new(4, 3, (0..36).collect()).unwrap();
        let mut mask = Mask::empty(4, 3);
        (mask.data[4], mask.data[5], mask.data[6]) = (true, false, true); // row 1, columns 0 and 2
        let cut = cut_out(&image, &mask);
        assert_eq!((cut.width(), cut.height()), (3, 3));
        assert_eq!(cut.pixel(0, 1), image.pixel(0, 1));
        assert_eq!(cut.pixel(2, 1), image.pixel(2, 1));
        for (x, y) in [(1, 1), (0, 0), (2, 2)] {
            assert_eq!(cut.pixel(x, y), MEAN, "{x} {y}");
        }
    }

    #[test]
    fn names_compete_and_other_prompts_are_sams() {
        let model = Model::load(&crate::ModelSpec::new("sam_clip_nano")).unwrap();
        let options = EverythingOptions {
            points_per_side: 6,
            pred_iou_thresh: 0.0,
            stability_score_thresh: 0.0,
            ..EverythingOptions::STANDARD
        };
        let baseline = SamPlusClip::new(&model, &model, options).unwrap();
        assert!(baseline.background.iter().any(|w| w == "tree"));
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/cat.jpg");
        let image = Image::open(path.as_ref(), &samclip_image::DecodeLimits::default()).unwrap();
        let prompts = [Prompt::text("cat"), Prompt::point(210.0, 200.0), Prompt::text("rocket")];
        let answer = baseline.segment(&image, &prompts, &SegmentOptions::STANDARD).unwrap();
        assert_eq!(answer.masks.iter().map(|m| m.prompt).collect::<Vec<_>>(), [0, 1, 2]);
        let [cat, click, rocket] = [0, 1, 2].map(|i| &answer.masks[i].mask);
        assert!(cat.area() > image.width() * image.height() / 10, "{}", cat.area());
        assert!(cat.data.iter().zip(&rocket.data).all(|(a, b)| !(*a && *b)), "a pixel has one name");
        let sam = model.prompt_segmenter().unwrap().segment(&image, &prompts[1..2], &SegmentOptions::STANDARD).unwrap();
        assert_eq!(*click, sam.masks[0].mask);
    }
}
