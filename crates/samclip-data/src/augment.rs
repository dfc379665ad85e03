//! Training and validation geometry: photo, labels and masks through the same crop.
//!
//! References: torchvision `RandomResizedCrop`, `ColorJitter`; detectron2 `ResizeScale` +
//! `FixedSizeCrop` (large-scale jitter, arXiv:2012.07177). Photos are resampled like PIL,
//! labels and masks with nearest neighbours. Pure functions of (sample, rng).

use crate::{DataError, IGNORE, Sample};
use rand::Rng;
use samclip_image::{Filter, Image, LabelMap, Mask, crop, flip_horizontal, resize};
use serde::{Deserialize, Serialize};

/// How a photo is brought to a square of side S.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Geometry {
    /// A random part of the photo, squashed to S x S.
    RandomResizedCrop {
        /// Range of the crop's area as a part of the photo's.
        scale: [f64; 2],
        /// Range of the crop's width divided by its height.
        ratio: [f64; 2],
    },
    /// The longest side becomes S times a random factor; a random S x S window is cut out and
    /// padded at the right and bottom.
    LargeScaleJitter {
        /// Range of the factor.
        scale: [f64; 2],
    },
    /// The whole photo squashed to S x S (validation).
    Squash,
    /// The longest side becomes S, padded at the right and bottom (validation, SAM's).
    Longest,
}

/// Brightness, contrast and saturation are multiplied by a factor from [1 - x, 1 + x].
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ColorJitter {
    /// Range of the brightness factor.
    pub brightness: f32,
    /// Range of the contrast factor.
    pub contrast: f32,
    /// Range of the saturation factor.
    pub saturation: f32,
}

/// What the resampling filter of photos is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PhotoFilter {
    /// SAM's.
    #[default]
    Bilinear,
    /// CLIP's.
    Bicubic,
}

/// CutMix (arXiv:1905.04899): a rectangle of the sample becomes that of another sample of its
/// dataset, photo, labels and masks alike.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CutMix {
    /// Probability that a sample is mixed.
    pub probability: f64,
    /// Range of the rectangle's area as a part of what both photos cover of the square.
    pub area: [f64; 2],
}

/// A rectangle of the square, in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rect {
    /// Left edge.
    pub x: usize,
    /// Top edge.
    pub y: usize,
    /// Width.
    pub w: usize,
    /// Height.
    pub h: usize,
}

impl Rect {
    /// The same part of a square of another side.
    pub(crate) fn at(self, from: usize, to: usize) -> Self {
        let edge = |n: usize| (n * to + from / 2) / from;
        let (x, y) = (edge(self.x), edge(self.y));
        Self { x, y, w: edge(self.x + self.w) - x, h: edge(self.y + self.h) - y }
    }

    /// Whether the pixel (x, y) lies in it.
    pub fn contains(self, x: usize, y: usize) -> bool {
        (self.x..self.x + self.w).contains(&x) && (self.y..self.y + self.h).contains(&y)
    }
}

/// Edges of mixed rectangles are multiples of this, so that a token shows one photo.
const TOKEN: usize = 16;

impl CutMix {
    /// Draws whether to mix.
    pub(crate) fn wanted(&self, rng: &mut impl Rng) -> bool {
        rng.random_bool(self.probability)
    }

    /// Draws the rectangle in what two photos of these widths and heights cover; none where that
    /// is less than two tokens wide or high.
    pub(crate) fn draw(&self, a: (usize, usize), b: (usize, usize), rng: &mut impl Rng) -> Option<Rect> {
        let share = uniform(self.area, rng).sqrt();
        let mut axis = |length: usize| {
            let tokens = length / TOKEN;
            let part = ((tokens as f64 * share).round() as usize).clamp(1, tokens.saturating_sub(1).max(1));
            (tokens >= 2).then(|| (rng.random_range(0..=tokens - part) * TOKEN, part * TOKEN))
        };
        let ((x, w), (y, h)) = (axis(a.0.min(b.0))?, axis(a.1.min(b.1))?);
        Some(Rect { x, y, w, h })
    }
}

/// A complete augmentation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Augment {
    /// The way to a square.
    pub geometry: Geometry,
    /// Probability of a horizontal flip.
    #[serde(default)]
    pub hflip: f64,
    /// Colour changes, after the geometry.
    #[serde(default)]
    pub color: ColorJitter,
    /// Resampling of the photo.
    #[serde(default)]
    pub filter: PhotoFilter,
    /// Part of another sample.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cutmix: Option<CutMix>,
}

impl Augment {
    /// No randomness: the whole photo squashed to the square.
    pub const SQUASH: Self = Self {
        geometry: Geometry::Squash,
        hflip: 0.0,
        color: ColorJitter { brightness: 0.0, contrast: 0.0, saturation: 0.0 },
        filter: PhotoFilter::Bilinear,
        cutmix: None,
    };

    /// Checks the ranges.
    ///
    /// # Errors
    /// An empty or non-positive range, or a probability outside [0, 1].
    pub fn check(&self) -> Result<(), DataError> {
        let range = |name: &str, [a, b]: [f64; 2], most: f64| match a > 0.0 && a <= b && b <= most {
            true => Ok(()),
            false => Err(DataError::Config(format!("`{name}` must be a range in (0, {most}], found [{a}, {b}]"))),
        };
        match self.geometry {
            Geometry::RandomResizedCrop { scale, ratio } => {
                range("scale", scale, 1.0)?;
                range("ratio", ratio, 100.0)?;
            }
            Geometry::LargeScaleJitter { scale } => range("scale", scale, 8.0)?,
            Geometry::Squash | Geometry::Longest => {}
        }
        let ColorJitter { brightness, contrast, saturation } = self.color;
        let is_probability = |p: f64| (0.0..=1.0).contains(&p);
        if ![brightness, contrast, saturation].iter().all(|&p| is_probability(p.into())) || !is_probability(self.hflip) {
            return Err(DataError::Config("`hflip` and the colour ranges must lie in [0, 1]".into()));
        }
        if let Some(CutMix { probability: p, area }) = self.cutmix {
            range("cutmix.area", area, 1.0)?;
            if !is_probability(p) {
                return Err(DataError::Config(format!("`cutmix.probability` must lie in [0, 1], found {p}")));
            }
        }
        Ok(())
    }

    /// Draws the frame and applies it to the sample; the result has side `side`. Classes that
    /// the crop has lost stay in `class_ids`: [`crate::TrainItem`] counts again.
    pub fn apply(&self, sample: Sample, side: usize, rng: &mut impl Rng) -> (Sample, Frame) {
        let size = (sample.image.width(), sample.image.height());
        let frame = Frame::draw(self.geometry, size, side, self.hflip, rng);
        let image = frame.image(&sample.image, self.filter);
        let image = self.color.apply(image, rng);
        let labels = sample.labels.map(|l| frame.labels(&l));
        let masks = sample.masks.iter().map(|m| frame.mask(m)).collect();
        (Sample { image, labels, masks, ..sample }, frame)
    }
}

/// A crop of the source, the size it is resampled to, and the flip of the result. The
/// resampled crop lies at the top left of a square of side `side`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Left edge of the crop in the source.
    pub x0: usize,
    /// Top edge of the crop in the source.
    pub y0: usize,
    /// Width of the crop.
    pub w: usize,
    /// Height of the crop.
    pub h: usize,
    /// Width after resampling, at most `side`.
    pub out_w: usize,
    /// Height after resampling, at most `side`.
    pub out_h: usize,
    /// Side of the square.
    pub side: usize,
    /// Whether the resampled crop is mirrored.
    pub flip: bool,
}

impl Frame {
    /// Draws a frame for a photo of `size` (width, height).
    pub fn draw(geometry: Geometry, size: (usize, usize), side: usize, hflip: f64, rng: &mut impl Rng) -> Self {
        let (w, h) = size;
        let whole = Self { x0: 0, y0: 0, w, h, out_w: side, out_h: side, side, flip: false };
        let frame = match geometry {
            Geometry::Squash => whole,
            Geometry::Longest => {
                let scale = side as f64 / w.max(h) as f64;
                Self { out_w: rounded(w, scale), out_h: rounded(h, scale), ..whole }
            }
            Geometry::RandomResizedCrop { scale, ratio } => {
                let (x0, y0, w, h) = resized_crop(w, h, scale, ratio, rng);
                Self { x0, y0, w, h, ..whole }
            }
            Geometry::LargeScaleJitter { scale } => {
                let scale = side as f64 / w.max(h) as f64 * uniform(scale, rng);
                let (x0, cw, out_w) = window(w, scale, side, rng);
                let (y0, ch, out_h) = window(h, scale, side, rng);
                Self { x0, y0, w: cw, h: ch, out_w, out_h, ..whole }
            }
        };
        Self { flip: hflip > 0.0 && rng.random_bool(hflip), ..frame }
    }

    /// The same crop on a square of another side.
    pub fn at(&self, side: usize) -> Self {
        let scaled = |n: usize| rounded(n, side as f64 / self.side as f64).min(side);
        Self { out_w: scaled(self.out_w), out_h: scaled(self.out_h), side, ..*self }
    }

    /// The photo in this frame; what lies outside is SAM's mean colour.
    pub fn image(&self, source: &Image, filter: PhotoFilter) -> Image {
        let filter = match filter {
            PhotoFilter::Bilinear => Filter::Bilinear,
            PhotoFilter::Bicubic => Filter::Bicubic,
        };
        let whole = (self.w, self.h) == (source.width(), source.height());
        let part = match whole {
            true => resize(source, self.out_w, self.out_h, filter),
            false => resize(&crop(source, self.x0, self.y0, self.w, self.h), self.out_w, self.out_h, filter),
        };
        let part = if self.flip { flip_horizontal(&part) } else { part };
        pad(part, self.side)
    }

    /// Where a point of the square (continuous pixels, left edge 0) lies in the photo; none in the
    /// padding.
    pub fn source_point(&self, [x, y]: [f32; 2]) -> Option<[f32; 2]> {
        let (out_w, out_h) = (self.out_w as f32, self.out_h as f32);
        let x = if self.flip { out_w - x } else { x };
        let inside = (0.0..=out_w).contains(&x) && (0.0..=out_h).contains(&y);
        let axis = |o: f32, start: usize, part: usize, out: f32| start as f32 + o * part as f32 / out;
        inside.then(|| [axis(x, self.x0, self.w, out_w), axis(y, self.y0, self.h, out_h)])
    }

    /// Labels in this frame, [`IGNORE`] outside.
    pub fn labels(&self, source: &LabelMap) -> LabelMap {
        let data = self.nearest(&source.data, source.width, IGNORE);
        LabelMap { width: self.side, height: self.side, data }
    }

    /// A mask in this frame, empty outside.
    pub fn mask(&self, source: &Mask) -> Mask {
        let data = self.nearest(&source.data, source.width, false);
        Mask { width: self.side, height: self.side, data }
    }

    /// Crop, nearest-neighbour resampling, flip and padding in one pass.
    fn nearest<T: Copy>(&self, source: &[T], width: usize, outside: T) -> Vec<T> {
        let index = |o: usize, from: usize, to: usize| {
            (((o as f64 + 0.5) * from as f64 / to as f64) as usize).min(from - 1)
        };
        let mut columns: Vec<usize> = (0..self.out_w).map(|o| self.x0 + index(o, self.w, self.out_w)).collect();
        if self.flip {
            columns.reverse();
        }
        let mut out = vec![outside; self.side * self.side];
        for (o, row) in out.chunks_exact_mut(self.side).take(self.out_h).enumerate() {
            let y = self.y0 + index(o, self.h, self.out_h);
            let line = &source[y * width..(y + 1) * width];
            for (value, &x) in row.iter_mut().zip(&columns) {
                *value = line[x];
            }
        }
        out
    }
}

fn rounded(length: usize, scale: f64) -> usize {
    ((length as f64 * scale + 0.5) as usize).max(1)
}

fn uniform([a, b]: [f64; 2], rng: &mut impl Rng) -> f64 {
    a + (b - a) * rng.random::<f64>()
}

/// torchvision's `RandomResizedCrop.get_params`: ten tries, then the largest central crop.
fn resized_crop(
    w: usize,
    h: usize,
    scale: [f64; 2],
    ratio: [f64; 2],
    rng: &mut impl Rng,
) -> (usize, usize, usize, usize) {
    let area = (w * h) as f64;
    for _ in 0..10 {
        let target = area * uniform(scale, rng);
        let aspect = uniform(ratio.map(f64::ln), rng).exp();
        let cw = (target * aspect).sqrt().round() as usize;
        let ch = (target / aspect).sqrt().round() as usize;
        if (1..=w).contains(&cw) && (1..=h).contains(&ch) {
            return (rng.random_range(0..=w - cw), rng.random_range(0..=h - ch), cw, ch);
        }
    }
    let aspect = (w as f64 / h as f64).clamp(ratio[0], ratio[1]);
    let cw = ((h as f64 * aspect).round() as usize).clamp(1, w);
    let ch = ((w as f64 / aspect).round() as usize).clamp(1, h);
    ((w - cw) / 2, (h - ch) / 2, cw, ch)
}

/// One axis of the large-scale jitter: the source interval and the length it becomes.
fn window(length: usize, scale: f64, side: usize, rng: &mut impl Rng) -> (usize, usize, usize) {
    let scaled = rounded(length, scale);
    if scaled <= side {
        return (0, length, scaled);
    }
    let part = ((side as f64 / scale).round() as usize).clamp(1, length);
    (rng.random_range(0..=length - part), part, side)
}

/// SAM's pixel mean, rounded: after normalisation the padding is next to zero.
const PADDING: [u8; 3] = [124, 116, 104];

fn pad(image: Image, side: usize) -> Image {
    let (w, h) = (image.width(), image.height());
    if (w, h) == (side, side) {
        return image;
    }
    let mut data = PADDING.repeat(side * side);
    for (row, line) in data.chunks_exact_mut(side * 3).zip(image.data().chunks_exact(w * 3)) {
        row[..w * 3].copy_from_slice(line);
    }
    Image::new(side, side, data).unwrap_or(image)
}

impl ColorJitter {
    /// Brightness, then contrast about the mean grey, then saturation, in one pass.
    ///
    /// Deviation: torchvision shuffles the three and rounds between them.
    pub fn apply(&self, image: Image, rng: &mut impl Rng) -> Image {
        if *self == Self::default() {
            return image;
        }
        let mut factor = |x: f32| if x > 0.0 { 1.0 + x * (2.0 * rng.random::<f32>() - 1.0) } else { 1.0 };
        let (b, c, s) = (factor(self.brightness), factor(self.contrast), factor(self.saturation));
        let grey = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        let pixels = image.data().len() / 3;
        let mean = b * image.data().chunks_exact(3).map(|p| f64::from(grey(p))).sum::<f64>() as f32 / pixels as f32;
        let mut data = Vec::with_capacity(image.data().len());
        for p in image.data().chunks_exact(3) {
            let g = (1.0 - s) * grey(p);
            data.extend((0..3).map(|i| {
                let colour = s * f32::from(p[i]) + g;
                (c * b * colour + (1.0 - c) * mean + 0.5).clamp(0.0, 255.0) as u8
            }));
        }
        Image::new(image.width(), image.height(), data).unwrap_or(image)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    /// A photo whose red is x and green is y, and labels and a mask that follow x.
    fn sample(w: usize, h: usize) -> Sample {
        let data = (0..w * h).flat_map(|i| [(i % w) as u8, (i / w) as u8, 7]).collect();
        let labels = LabelMap { width: w, height: h, data: (0..w * h).map(|i| (i % w) as u8).collect() };
        let mask = Mask { width: w, height: h, data: (0..w * h).map(|i| i % w < w / 2).collect() };
        let image = Image::new(w, h, data).unwrap();
        Sample { id: "s".into(), image, labels: Some(labels), masks: vec![mask], class_ids: vec![], captions: vec![] }
    }

    const CROP: Geometry = Geometry::RandomResizedCrop { scale: [0.3, 1.0], ratio: [0.75, 4.0 / 3.0] };

    #[test]
    fn mixed_rectangles_lie_in_both_photos_on_the_grid_of_tokens() {
        let cutmix = CutMix { probability: 1.0, area: [0.1, 0.5] };
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        for _ in 0..200 {
            let rect = cutmix.draw((192, 130), (150, 192), &mut rng).unwrap();
            assert!(rect.x + rect.w <= 144 && rect.y + rect.h <= 128 && rect.w >= 16 && rect.h >= 16);
            assert!([rect.x, rect.y, rect.w, rect.h].iter().all(|n| n % TOKEN == 0));
            let share = (rect.w * rect.h) as f64 / (144.0 * 128.0);
            assert!((0.05..0.6).contains(&share), "{share}");
        }
        assert!(cutmix.draw((192, 31), (192, 192), &mut rng).is_none());
        assert_eq!(Rect { x: 16, y: 32, w: 48, h: 16 }.at(96, 48), Rect { x: 8, y: 16, w: 24, h: 8 });
    }

    #[test]
    fn labels_masks_and_photo_stay_aligned() {
        for seed in 0..40 {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let augment = Augment { geometry: CROP, hflip: 0.5, ..Augment::SQUASH };
            let (out, _) = augment.apply(sample(200, 150), 64, &mut rng);
            let (labels, mask) = (out.labels.unwrap(), &out.masks[0]);
            for i in 0..64 * 64 {
                let red = i32::from(out.image.data()[i * 3]);
                assert!((red - i32::from(labels.data[i])).abs() <= 2, "seed {seed}");
                assert_eq!(mask.data[i], labels.data[i] < 100);
            }
        }
    }

    #[test]
    fn random_crops_keep_the_stated_area_and_ratio() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut smallest = f64::MAX;
        for _ in 0..3000 {
            let f = Frame::draw(CROP, (400, 300), 96, 0.0, &mut rng);
            assert!(f.x0 + f.w <= 400 && f.y0 + f.h <= 300);
            let (part, ratio) = ((f.w * f.h) as f64 / 120_000.0, f.w as f64 / f.h as f64);
            assert!((0.29..=1.0).contains(&part) && (0.74..1.35).contains(&ratio), "{part} {ratio}");
            smallest = smallest.min(part);
        }
        assert!(smallest < 0.32);
        let strip = Frame::draw(CROP, (1000, 10), 96, 0.0, &mut rng); // no crop fits: the central one
        assert_eq!((strip.h, strip.w, strip.x0), (10, 13, 493));
    }

    #[test]
    fn nearest_resampling_is_pils() {
        // PIL: Image.fromarray(np.arange(5)).resize((3, 1), NEAREST) -> 0 2 4; to 8: 0 0 1 2 2 3 4 4
        let row = |out_w: usize, flip: bool| {
            let f = Frame { x0: 0, y0: 0, w: 5, h: 1, out_w, out_h: 1, side: out_w, flip };
            f.nearest(&[0u8, 1, 2, 3, 4], 5, 9)[..out_w].to_vec()
        };
        assert_eq!(row(3, false), [0, 2, 4]);
        assert_eq!(row(8, false), [0, 0, 1, 2, 2, 3, 4, 4]);
        assert_eq!(row(8, true), [4, 4, 3, 2, 2, 1, 0, 0]);
    }

    #[test]
    fn points_of_the_square_lie_where_the_photo_says() {
        let augment = Augment { geometry: CROP, hflip: 0.5, ..Augment::SQUASH };
        for seed in 0..20 {
            let (out, frame) = augment.apply(sample(200, 150), 64, &mut ChaCha8Rng::seed_from_u64(seed));
            let [x, y] = frame.source_point([40.5, 20.5]).unwrap();
            let pixel = &out.image.data()[(20 * 64 + 40) * 3..];
            assert!((x - 0.5 - f32::from(pixel[0])).abs() < 2.0 && (y - 0.5 - f32::from(pixel[1])).abs() < 2.0);
        }
        let longest = Augment { geometry: Geometry::Longest, ..Augment::SQUASH };
        let (_, frame) = longest.apply(sample(200, 100), 64, &mut ChaCha8Rng::seed_from_u64(0));
        assert_eq!(frame.source_point([32.0, 40.0]), None);
        assert_eq!(frame.source_point([32.0, 16.0]), Some([100.0, 50.0]));
    }

    #[test]
    fn padding_is_ignored_and_inside_is_kept() {
        let augment = Augment { geometry: Geometry::Longest, ..Augment::SQUASH };
        let (out, frame) = augment.apply(sample(200, 100), 64, &mut ChaCha8Rng::seed_from_u64(0));
        assert_eq!((frame.out_w, frame.out_h), (64, 32));
        let labels = out.labels.unwrap();
        assert!(labels.data[32 * 64..].iter().all(|&v| v == IGNORE));
        assert!(labels.data[..32 * 64].iter().all(|&v| v != IGNORE));
        assert_eq!(&out.image.data()[40 * 64 * 3..][..3], PADDING);
    }

    #[test]
    fn large_scale_jitter_fills_or_pads() {
        let (mut padded, mut cut) = (0, 0);
        let geometry = Geometry::LargeScaleJitter { scale: [0.5, 2.0] };
        let mut rng = ChaCha8Rng::seed_from_u64(9);
        for _ in 0..200 {
            let f = Frame::draw(geometry, (200, 150), 64, 0.0, &mut rng);
            assert!(f.x0 + f.w <= 200 && f.y0 + f.h <= 150 && f.out_w <= 64 && f.out_h <= 64);
            let (sx, sy) = (f.out_w as f64 / f.w as f64, f.out_h as f64 / f.h as f64);
            assert!((sx / sy - 1.0).abs() < 0.06, "{f:?}"); // the aspect ratio is kept
            padded += usize::from(f.out_w < 64);
            cut += usize::from(f.w < 200);
        }
        assert!(padded > 20 && cut > 20);
    }

    #[test]
    fn colour_jitter_moves_brightness_contrast_and_saturation() {
        let image = || Image::new(2, 1, vec![200, 100, 50, 20, 40, 60]).unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        assert_eq!(ColorJitter::default().apply(image(), &mut rng).data(), image().data());
        let jitter = ColorJitter { brightness: 0.4, ..Default::default() };
        let mut twin = ChaCha8Rng::seed_from_u64(11);
        let factor = 1.0 + 0.4 * (2.0 * twin.random::<f32>() - 1.0);
        let out = jitter.apply(image(), &mut ChaCha8Rng::seed_from_u64(11));
        let expected: Vec<u8> = image().data().iter().map(|&v| (f32::from(v) * factor + 0.5).clamp(0.0, 255.0) as u8).collect();
        assert_eq!(out.data(), expected);
        // saturation keeps the grey value of every pixel
        let jitter = ColorJitter { saturation: 0.9, ..Default::default() };
        let grey = |p: &[u8]| 0.299 * f32::from(p[0]) + 0.587 * f32::from(p[1]) + 0.114 * f32::from(p[2]);
        let out = jitter.apply(image(), &mut ChaCha8Rng::seed_from_u64(12));
        assert_ne!(out.data(), image().data());
        for (a, b) in out.data().chunks(3).zip(image().data().chunks(3)) {
            assert!((grey(a) - grey(b)).abs() < 1.0);
        }
    }

    #[test]
    fn bad_ranges_are_errors() {
        let crop = |scale, ratio| Augment { geometry: Geometry::RandomResizedCrop { scale, ratio }, ..Augment::SQUASH };
        assert!(crop([0.2, 1.0], [0.75, 1.33]).check().is_ok());
        assert!(crop([0.0, 1.0], [0.75, 1.33]).check().is_err());
        assert!(crop([0.5, 0.2], [0.75, 1.33]).check().is_err());
        assert!(Augment { hflip: 1.5, ..Augment::SQUASH }.check().is_err());
        let mixed = |probability, area| Augment { cutmix: Some(CutMix { probability, area }), ..Augment::SQUASH };
        assert!(mixed(0.5, [0.1, 0.5]).check().is_ok());
        assert!(mixed(1.5, [0.1, 0.5]).check().is_err() && mixed(0.5, [0.5, 0.1]).check().is_err());
    }
}
