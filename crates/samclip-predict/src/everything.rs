//! Masks for everything in an image, from a grid of clicks.
//!
//! Paper: SAM (arXiv 2304.02643) §B. Reference: segment_anything/automatic_mask_generator.py,
//! `SamAutomaticMaskGenerator`, and utils/amg.py. Parity: fixtures/ring2/compare_everything.py (same masks as the
//! reference on three photos with the same weights).

use rayon::prelude::*;
use samclip_image::{Image, ImageTransform, PostprocessTaps, RegionMode, Tap, crop, nms, remove_small_regions, rle};
use samclip_kernels::{Axis, Resize};
use samclip_models::sam::MaskOutput;

use crate::decode::{EmbeddedImage, InputPrompt, MaskHead, decode_above, stability};
use crate::error::PredictError;
use crate::roles::Timing;
use crate::sam::{SamLike, milliseconds};

/// The reference's parameters, its names and its defaults ([`EverythingOptions::STANDARD`]).
#[derive(Debug, Clone, PartialEq)]
pub struct EverythingOptions {
    /// Clicks along one side of the image.
    pub points_per_side: usize,
    /// Clicks in one decoder call: memory, not results.
    pub points_per_batch: usize,
    /// Masks at or below this predicted IoU are dropped.
    pub pred_iou_thresh: f32,
    /// Masks below this stability score are dropped.
    pub stability_score_thresh: f32,
    /// Shift of the threshold when the stability score is computed.
    pub stability_score_offset: f32,
    /// Boxes that overlap more are duplicates.
    pub box_nms_thresh: f32,
    /// Layers of crops: layer i has 2^i crops a side.
    pub crop_n_layers: u32,
    /// Boxes of different crops that overlap more are duplicates.
    pub crop_nms_thresh: f32,
    /// Overlap of the crops of the first layer, as a share of the short side.
    pub crop_overlap_ratio: f64,
    /// Layer i has `points_per_side` divided by this to the power of i.
    pub crop_n_points_downscale_factor: usize,
    /// Own grids of clicks in 0..1, one a layer, instead of `points_per_side`.
    pub point_grids: Option<Vec<Vec<[f64; 2]>>>,
    /// Holes and islands smaller than this many pixels are removed; 0 removes nothing.
    pub min_mask_region_area: usize,
}

impl EverythingOptions {
    /// The reference's defaults.
    pub const STANDARD: Self = Self {
        points_per_side: 32,
        points_per_batch: 64,
        pred_iou_thresh: 0.88,
        stability_score_thresh: 0.95,
        stability_score_offset: 1.0,
        box_nms_thresh: 0.7,
        crop_n_layers: 0,
        crop_nms_thresh: 0.7,
        crop_overlap_ratio: 512.0 / 1500.0,
        crop_n_points_downscale_factor: 1,
        point_grids: None,
        min_mask_region_area: 0,
    };

    /// Checks the ranges.
    ///
    /// # Errors
    /// The first option out of its range.
    pub fn validate(&self) -> Result<(), PredictError> {
        let share = |value: f32| value.is_finite() && (0.0..=1.0).contains(&value);
        let finite = |value: f32| value.is_finite();
        let error = |name, expected, found: String| Err(PredictError::Option { name, expected, found });
        match self {
            o if o.points_per_side == 0 || o.points_per_side > 512 => {
                error("--points-per-side", "1 to 512", o.points_per_side.to_string())
            }
            o if o.points_per_batch == 0 => error("--points-per-batch", "1 or more", "0".to_owned()),
            o if !finite(o.pred_iou_thresh) => error("--pred-iou-thresh", "a number", o.pred_iou_thresh.to_string()),
            o if !share(o.stability_score_thresh) => {
                error("--stability-score-thresh", "0 to 1", o.stability_score_thresh.to_string())
            }
            o if !finite(o.stability_score_offset) || o.stability_score_offset < 0.0 => {
                error("--stability-score-offset", "0 or more", o.stability_score_offset.to_string())
            }
            o if !share(o.box_nms_thresh) => error("--box-nms-thresh", "0 to 1", o.box_nms_thresh.to_string()),
            o if !share(o.crop_nms_thresh) => error("--crop-nms-thresh", "0 to 1", o.crop_nms_thresh.to_string()),
            o if o.crop_n_layers > 4 => error("--crop-n-layers", "0 to 4", o.crop_n_layers.to_string()),
            o if !(0.0..1.0).contains(&o.crop_overlap_ratio) => {
                error("--crop-overlap-ratio", "0 to below 1", o.crop_overlap_ratio.to_string())
            }
            o if o.crop_n_points_downscale_factor == 0 => {
                error("--crop-n-points-downscale-factor", "1 or more", "0".to_owned())
            }
            o => o.validate_grids(),
        }
    }

    fn validate_grids(&self) -> Result<(), PredictError> {
        let Some(grids) = &self.point_grids else { return Ok(()) };
        let layers = self.crop_n_layers as usize + 1;
        let sound = |grid: &Vec<[f64; 2]>| !grid.is_empty() && grid.iter().flatten().all(|v| (0.0..=1.0).contains(v));
        if grids.len() == layers && grids.iter().all(sound) {
            return Ok(());
        }
        Err(PredictError::Option {
            name: "--point-grids",
            expected: "one list of points [x, y] in 0 to 1 for each crop layer and the whole image",
            found: format!("{} lists for {layers} layers", grids.len()),
        })
    }

    /// Clicks in 0..1 for each layer (`build_all_layer_point_grids`).
    fn grids(&self) -> Vec<Vec<[f64; 2]>> {
        let own = |layer: u32| {
            let n = self.points_per_side / self.crop_n_points_downscale_factor.saturating_pow(layer);
            build_point_grid(n)
        };
        self.point_grids.clone().unwrap_or_else(|| (0..=self.crop_n_layers).map(own).collect())
    }
}

/// One mask of everything, in original pixels.
#[derive(Debug, Clone, PartialEq)]
pub struct AutomaticMask {
    /// The mask.
    pub rle: rle::Rle,
    /// x0, y0, x1, y1: the last pixel's own index as the end, as in the reference.
    pub bbox: [f32; 4],
    /// Number of pixels.
    pub area: usize,
    /// The decoder's estimate of its IoU.
    pub predicted_iou: f32,
    /// IoU of the masks at the two shifted thresholds.
    pub stability_score: f32,
    /// The click, x and y.
    pub point: [f64; 2],
    /// The crop that it was found in: x0, y0, x1, y1.
    pub crop_box: [usize; 4],
}

/// The answer of [`everything`].
#[derive(Debug, Clone, PartialEq)]
pub struct Everything {
    /// In the reference's order.
    pub masks: Vec<AutomaticMask>,
    /// Where the time went.
    pub timing: Timing,
}

/// Finds masks for everything in the image.
///
/// # Errors
/// An option out of its range.
pub fn everything(model: &dyn SamLike, image: &Image, options: &EverythingOptions) -> Result<Everything, PredictError> {
    options.validate()?;
    everything_in(model, image, options, whole(model, image)?)
}

/// An embedding, and how long it took in milliseconds.
pub(crate) type Embedded = (EmbeddedImage, f64);

/// The embedding of the whole photo: the first crop.
pub(crate) fn whole(model: &dyn SamLike, image: &Image) -> Result<Embedded, PredictError> {
    let start = std::time::Instant::now();
    Ok((model.embed(image)?, milliseconds(start)))
}

/// [`everything`] with the first crop encoded already and the options validated. The encoder works on the next crop
/// while this one's masks are decoded.
pub(crate) fn everything_in(
    model: &dyn SamLike, image: &Image, options: &EverythingOptions, first: Embedded,
) -> Result<Everything, PredictError> {
    let (height, width) = image.size();
    let (crop_boxes, layers) = generate_crop_boxes(width, height, options.crop_n_layers, options.crop_overlap_ratio);
    let grids = options.grids();
    let mut timing = Timing::default();
    let mut found: Vec<AutomaticMask> = Vec::new();
    let mut ahead = Some(first);
    for (i, (&crop_box, &layer)) in crop_boxes.iter().zip(&layers).enumerate() {
        let Some((embedded, encode)) = ahead.take() else { break };
        timing.encode += encode;
        let encode = |&[x0, y0, x1, y1]: &[usize; 4]| whole(model, &crop(image, x0, y0, x1 - x0, y1 - y0));
        let ((masks, decode), next) = rayon::join(
            || process_crop(model.head(), &embedded, image.size(), crop_box, &grids[layer], options),
            || crop_boxes.get(i + 1).map(encode).transpose(),
        );
        found.extend(masks);
        timing.decode += decode;
        ahead = next?;
    }
    if crop_boxes.len() > 1 {
        // Masks of smaller crops are preferred.
        let scores = found.iter().map(|m| 1.0 / area_of(m.crop_box));
        found = suppress(found.clone(), &scores.collect::<Vec<f32>>(), options.crop_nms_thresh);
    }
    if options.min_mask_region_area > 0 {
        let threshold = options.box_nms_thresh.max(options.crop_nms_thresh);
        found = postprocess_small_regions(found, options.min_mask_region_area, threshold);
    }
    Ok(Everything { masks: found, timing })
}

fn area_of([x0, y0, x1, y1]: [usize; 4]) -> f32 {
    (x1 - x0) as f32 * (y1 - y0) as f32
}

/// Keeps what non-maximum suppression keeps, in its order.
fn suppress(masks: Vec<AutomaticMask>, scores: &[f32], threshold: f32) -> Vec<AutomaticMask> {
    let boxes: Vec<[f32; 4]> = masks.iter().map(|m| m.bbox).collect();
    let mut masks: Vec<Option<AutomaticMask>> = masks.into_iter().map(Some).collect();
    nms(&boxes, scores, threshold).into_iter().filter_map(|i| masks[i].take()).collect()
}

/// The masks of a crop of a photo of `full` pixels, and the milliseconds that they took.
fn process_crop(
    head: &dyn MaskHead,
    embedded: &EmbeddedImage,
    full: (usize, usize),
    crop_box: [usize; 4],
    grid: &[[f64; 2]],
    options: &EverythingOptions,
) -> (Vec<AutomaticMask>, f64) {
    let [x0, y0, x1, y1] = crop_box;
    let start = std::time::Instant::now();
    let points: Vec<[f64; 2]> = grid.iter().map(|[x, y]| [x * (x1 - x0) as f64, y * (y1 - y0) as f64]).collect();
    let resize = resize(embedded.embedding.dims()[2] * 4, &embedded.transform);
    let place = Place { resize, crop_box, full, options };
    let context = Batch { head, embedded, place };
    let mut masks = Vec::new();
    for batch in points.chunks(options.points_per_batch) {
        masks.extend(context.process(batch));
    }
    let scores: Vec<f32> = masks.iter().map(|m| m.predicted_iou).collect();
    let masks = suppress(masks, &scores, options.box_nms_thresh);
    (masks, milliseconds(start))
}

/// Logits of `side` x `side` to the crop's pixels.
fn resize(side: usize, transform: &ImageTransform) -> Resize {
    let taps = PostprocessTaps::new(side, transform).expect("SAM sees whole crops");
    let axis = |source: usize, taps: &[Tap]| Axis::new(source, taps.iter().map(|t| (t.low, t.high, t.weight)));
    let (h, w) = transform.resized;
    let [rows, columns] = taps.input;
    let input = [axis(side, &rows), axis(side, &columns)];
    let [rows, columns] = taps.original;
    Resize { input, original: [axis(h, &rows), axis(w, &columns)] }
}

struct Batch<'a> {
    head: &'a dyn MaskHead,
    embedded: &'a EmbeddedImage,
    place: Place<'a>,
}

/// One of the three maps of one click.
struct Candidate {
    low_res_logits: Vec<f32>,
    predicted_iou: f32,
    point: [f64; 2],
}

impl Batch<'_> {
    /// Decodes clicks, drops what the thresholds drop, and moves the rest to the whole image.
    fn process(&self, points: &[[f64; 2]]) -> Vec<AutomaticMask> {
        let transform = &self.embedded.transform;
        let prompt = |&[x, y]: &[f64; 2]| InputPrompt { points: vec![to_input(transform, x, y)], ..Default::default() };
        let prompts: Vec<InputPrompt> = points.iter().map(prompt).collect();
        let threshold = self.place.options.pred_iou_thresh;
        let min_iou = if threshold <= 0.0 { f32::NEG_INFINITY } else { threshold };
        let asked = (MaskOutput::Multi, min_iou);
        let raw = decode_above(self.head, &self.embedded.embedding, &prompts, asked, prompts.len());
        let candidates = raw.into_iter().zip(points).flat_map(|(masks, &point)| {
            let maps = masks.low_res_logits.into_iter().zip(masks.predicted_iou);
            maps.map(move |(low_res_logits, predicted_iou)| Candidate { low_res_logits, predicted_iou, point })
        });
        let kept: Vec<Candidate> = candidates.filter(|c| threshold <= 0.0 || c.predicted_iou > min_iou).collect();
        let place = &self.place;
        kept.par_iter().filter_map(|candidate| place.finish(candidate)).collect()
    }
}

/// Where a crop's masks belong, and what they must pass.
struct Place<'a> {
    resize: Resize,
    crop_box: [usize; 4],
    full: (usize, usize),
    options: &'a EverythingOptions,
}

impl Place<'_> {
    fn finish(&self, candidate: &Candidate) -> Option<AutomaticMask> {
        let runs = self.resize.runs(&candidate.low_res_logits, self.options.stability_score_offset);
        let stability_score = stability(runs.above, runs.around);
        let limit = self.options.stability_score_thresh;
        if limit > 0.0 && stability_score < limit {
            return None;
        }
        let [x0, y0, x1, y1] = self.crop_box;
        let shift = [x0, y0, x0, y0];
        let bbox: [f32; 4] = std::array::from_fn(|i| (runs.bbox[i] + shift[i]) as f32);
        if is_box_near_crop_edge(bbox, self.crop_box, self.full) {
            return None;
        }
        let found = rle::Rle { size: [y1 - y0, x1 - x0], counts: runs.counts };
        let whole = found.size == [self.full.0, self.full.1];
        let rle = if whole { found } else { rle::encode(&rle::decode(&found).uncrop(x0, y0, self.full.1, self.full.0)) };
        let [x, y] = candidate.point;
        Some(AutomaticMask {
            area: runs.area,
            rle,
            bbox,
            predicted_iou: candidate.predicted_iou,
            stability_score,
            point: [x + x0 as f64, y + y0 as f64],
            crop_box: self.crop_box,
        })
    }
}

/// A click in the frame of the model. The reference computes in f64 and rounds once.
fn to_input(transform: &ImageTransform, x: f64, y: f64) -> [f32; 3] {
    let scale = |resized: usize, original: usize| resized as f64 / original as f64;
    let (height, width) = transform.original;
    let x = x * scale(transform.resized.1, width);
    [x as f32, (y * scale(transform.resized.0, height)) as f32, 1.0]
}

/// An even grid of `n` x `n` points in 0..1, x fastest.
fn build_point_grid(n: usize) -> Vec<[f64; 2]> {
    let offset = 1.0 / (2.0 * n as f64);
    let step = (1.0 - 2.0 * offset) / (n.max(2) - 1) as f64;
    let at = |i: usize| if i > 0 && i + 1 == n { 1.0 - offset } else { offset + i as f64 * step };
    (0..n * n).map(|i| [at(i % n), at(i / n)]).collect()
}

/// Boxes x0, y0, x1, y1 of the crops, and the layer of each.
fn generate_crop_boxes(width: usize, height: usize, n_layers: u32, overlap_ratio: f64) -> (Vec<[usize; 4]>, Vec<usize>) {
    let (mut boxes, mut layers) = (vec![[0, 0, width, height]], vec![0]);
    let short_side = width.min(height) as f64;
    for layer in 1..=n_layers {
        let n = 2usize.pow(layer);
        let overlap = (overlap_ratio * short_side * (2.0 / n as f64)) as usize;
        let length = |original: usize| (overlap * (n - 1) + original).div_ceil(n);
        let (crop_w, crop_h) = (length(width), length(height));
        for x in 0..n {
            for y in 0..n {
                let (x0, y0) = ((crop_w - overlap) * x, (crop_h - overlap) * y);
                boxes.push([x0, y0, (x0 + crop_w).min(width), (y0 + crop_h).min(height)]);
                layers.push(layer as usize);
            }
        }
    }
    (boxes, layers)
}

/// A box cut by a crop's edge that is not the image's edge: another crop sees the object whole.
fn is_box_near_crop_edge(bbox: [f32; 4], crop_box: [usize; 4], (height, width): (usize, usize)) -> bool {
    const TOLERANCE: f32 = 20.0;
    let image_box = [0, 0, width, height];
    let near = |edges: [usize; 4], i: usize| (bbox[i] - edges[i] as f32).abs() <= TOLERANCE;
    (0..4).any(|i| near(crop_box, i) && !near(image_box, i))
}

/// Removes small holes and islands, then duplicates; masks that needed no change win.
fn postprocess_small_regions(masks: Vec<AutomaticMask>, min_area: usize, nms_thresh: f32) -> Vec<AutomaticMask> {
    let clean = |m: AutomaticMask| {
        let (mask, holes) = remove_small_regions(&rle::decode(&m.rle), min_area, RegionMode::Holes);
        let (mask, islands) = remove_small_regions(&mask, min_area, RegionMode::Islands);
        if holes || islands {
            let rle = rle::encode(&mask);
            let cleaned = AutomaticMask { area: rle::area(&rle), bbox: mask.bbox_xyxy(), rle, ..m };
            (cleaned, 0.0)
        } else {
            (m, 1.0)
        }
    };
    let (cleaned, scores): (Vec<_>, Vec<f32>) = masks.into_par_iter().map(clean).unzip();
    suppress(cleaned, &scores, nms_thresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grid_is_numpys_linspace() {
        let grid = build_point_grid(32);
        assert_eq!(grid.len(), 1024);
        assert_eq!(grid[0], [1.0 / 64.0, 1.0 / 64.0]);
        assert_eq!(grid[1023], [1.0 - 1.0 / 64.0, 1.0 - 1.0 / 64.0]);
        assert!((grid[1][0] - 3.0 / 64.0).abs() < 1e-12 && grid[1][1] == 1.0 / 64.0);
        assert_eq!(build_point_grid(1), [[0.5, 0.5]]);
    }

    #[test]
    fn runs_are_those_of_the_whole_map() {
        use samclip_image::{Mask, postprocess_logits};
        let sizes = [((37, 53), (48, 70), 70), ((100, 61), (64, 39), 64), ((5, 7), (32, 45), 45), ((40, 40), (40, 40), 40)];
        for (i, (original, resized, input)) in sizes.into_iter().enumerate() {
            let transform = ImageTransform { original, resized, input: (input, input), crop_offset: (0, 0) };
            for side in [16usize, 33] {
                let wave = |p: usize| ((p % side) as f32 * 0.61 + i as f32).sin() * 2.0 + ((p / side) as f32 * 0.37).cos();
                let low: Vec<f32> = (0..side * side).map(wave).collect();
                let logits = postprocess_logits(&low, side, &transform);
                let mask = Mask::from_logits(original.1, original.0, &logits, 0.0);
                let runs = resize(side, &transform).runs(&low, 1.0);
                assert_eq!(runs.counts, rle::encode(&mask).counts, "{original:?} from {side}");
                assert_eq!(runs.area, mask.data.iter().filter(|v| **v).count());
                assert_eq!(runs.bbox.map(|v| v as f32), mask.bbox_xyxy());
                let count = |limit: f32| logits.iter().filter(|v| **v > limit).count();
                assert_eq!((runs.above, runs.around), (count(1.0), count(-1.0)));
            }
            let empty = resize(16, &transform).runs(&[-2.0; 256], 1.0);
            let full = resize(16, &transform).runs(&[2.0; 256], 1.0);
            let pixels = (original.0 * original.1) as u32;
            assert_eq!((empty.counts, empty.bbox, full.counts), (vec![pixels], [0; 4], vec![0, pixels]));
        }
    }

    #[test]
    fn crops_are_those_of_the_reference() {
        // generate_crop_boxes((480, 640), 1, 512 / 1500) of segment_anything 1.0.
        let (boxes, layers) = generate_crop_boxes(640, 480, 1, 512.0 / 1500.0);
        let expected = [[0, 0, 640, 480], [0, 0, 402, 322], [0, 159, 402, 480], [239, 0, 640, 322], [239, 159, 640, 480]];
        assert_eq!(boxes.len(), expected.len());
        assert_eq!(layers, [0, 1, 1, 1, 1]);
        let overlap = (512.0 / 1500.0 * 480.0) as usize;
        let (w, h) = ((overlap + 640).div_ceil(2), (overlap + 480).div_ceil(2));
        assert_eq!(boxes[4], [w - overlap, h - overlap, 640, 480]);
    }

    #[test]
    fn only_inner_crop_edges_drop_a_box() {
        let crop_box = [0, 0, 400, 480];
        assert!(is_box_near_crop_edge([100.0, 100.0, 385.0, 200.0], crop_box, (480, 640)));
        assert!(!is_box_near_crop_edge([0.0, 0.0, 300.0, 479.0], crop_box, (480, 640)));
        assert!(!is_box_near_crop_edge([100.0, 100.0, 379.0, 200.0], crop_box, (480, 640)));
    }

    #[test]
    fn options_have_ranges() {
        assert!(EverythingOptions::STANDARD.validate().is_ok());
        let bad = EverythingOptions { points_per_side: 0, ..EverythingOptions::STANDARD };
        assert!(bad.validate().unwrap_err().to_string().contains("--points-per-side"));
        let bad = EverythingOptions { point_grids: Some(vec![]), ..EverythingOptions::STANDARD };
        assert!(bad.validate().is_err());
        let bad = EverythingOptions { stability_score_thresh: f32::NAN, ..EverythingOptions::STANDARD };
        assert!(bad.validate().is_err());
    }
}
