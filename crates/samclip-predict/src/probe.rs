//! Features of a frozen backbone, and a head that learnt on them as a model of its own.
//!
//! Paper: SAM-CLIP (arXiv 2310.15308) §4.3; spec 5.7 says which features stand for which model. Training is
//! `samclip_train::probe`; parity of the heads: samclip-models, tests/parity_probe.rs.

use std::time::Instant;

use samclip_image::{Filter, Image, LabelMap, Normalization, Prepared, crop, prepare_squash};
use samclip_models::ops::Interpolation;
use samclip_models::probe::{ProbeHead, upsample_aligned};
use samclip_models::{Device, Tensor};

use crate::cache::EmbeddingCache;
use crate::error::PredictError;
use crate::model::{Kind, Model};
use crate::roles::{Classification, SemanticMap, Timing};
use crate::sam::milliseconds;
use crate::tensors::{pixels, tensor, values};
use crate::text::softmax;

pub use samclip_models::probe::ProbeHeadConfig;

/// Which features.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FeaturePoint {
    /// Tokens of the backbone's last block: SAM and SAM-CLIP before the neck, CLIP before `ln_post`.
    Tokens,
    /// Their mean.
    Mean,
    /// One vector of the text side: SAM-CLIP's pooled and normed features before the MLP, CLIP's embedding.
    Pooled,
}

/// Features of a photo, row by row.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Rows times columns times width.
    pub values: Vec<f32>,
    /// Rows, columns, width; 1 x 1 for one vector.
    pub shape: [usize; 3],
}

impl Model {
    /// Features of a photo at `side` pixels: the whole photo squashed for tokens, its middle square otherwise.
    ///
    /// # Errors
    /// A model without such features, a side that it cannot take, a cache that cannot be written.
    pub fn features(&self, image: &Image, side: usize, point: FeaturePoint) -> Result<Features, PredictError> {
        let Some(cache) = self.cache() else { return self.fresh_features(image, side, point) };
        let kind = format!("features-{point:?}-{side}").to_lowercase();
        if let Some(state) = cache.get(image, &kind, &[FEATURES])
            && let Some(stored) = state.get(FEATURES)
            && let Ok(shape) = stored.shape().try_into()
        {
            return Ok(Features { values: stored.to_f32(), shape });
        }
        let found = self.fresh_features(image, side, point)?;
        cache.put(image, &kind, vec![(FEATURES, found.shape.to_vec(), &found.values)])?;
        Ok(found)
    }

    fn cache(&self) -> Option<&EmbeddingCache> {
        match &self.kind {
            Kind::Sam(model) => model.cache.as_ref(),
            Kind::SamClip(model) => model.cache.as_ref(),
            Kind::Clip(_) | Kind::Guided(_) => None,
        }
    }

    /// [`Model::features`] without a look at the cache.
    ///
    /// # Errors
    /// See there.
    pub fn fresh_features(&self, image: &Image, side: usize, point: FeaturePoint) -> Result<Features, PredictError> {
        crate::passes::count(1);
        let tokens = match &self.kind {
            Kind::Sam(model) => {
                no_head(point, self)?;
                let input = input(image, side, point, 16, &Normalization::SAM)?;
                model.sam.image_encoder.tokens(pixels(&input, &Device::default())) // [1, h, w, D]
            }
            Kind::SamClip(model) => {
                let input = input(image, side, point, 16, &Normalization::SAM)?;
                let tokens = model.model.tokens(pixels(&input, &Device::default()));
                if point == FeaturePoint::Pooled {
                    return Ok(vector(model.model.clip_head.pooled_features(tokens)));
                }
                tokens
            }
            Kind::Clip(model) => {
                let input = input(image, side, point, model.patch, &Normalization::CLIP)?;
                let input = pixels(&input, &Device::default());
                if point == FeaturePoint::Pooled {
                    return Ok(vector(model.clip.encode_image(input)?));
                }
                model.clip.visual.tokens(input, Interpolation::BicubicAntialias)?
            }
            Kind::Guided(_) => {
                return Err(PredictError::NoRole { model: self.name.clone(), role: "be probed", able: PROBED });
            }
        };
        let [_, h, w, d] = tokens.dims();
        Ok(match point {
            FeaturePoint::Mean => vector(tokens.reshape([1, h * w, d]).mean_dim(1).reshape([1, d])),
            _ => Features { values: values(tokens), shape: [h, w, d] },
        })
    }
}

const FEATURES: &str = "features";
const PROBED: &str = "sam_clip_nano, sam_clip_vit_b, sam_vit_b, sam_vit_l, sam_vit_h, mobile_sam, clip_vit_b16, clip_vit_l14";

/// SAM has no vector of a text side.
fn no_head(point: FeaturePoint, model: &Model) -> Result<(), PredictError> {
    let able = "sam_clip_nano, sam_clip_vit_b, clip_vit_b16, clip_vit_l14";
    match point {
        FeaturePoint::Pooled => Err(PredictError::NoRole { model: model.name.clone(), role: "pool for text", able }),
        _ => Ok(()),
    }
}

fn input(image: &Image, side: usize, point: FeaturePoint, patch: usize, norm: &Normalization) -> Result<Prepared, PredictError> {
    if side == 0 || !side.is_multiple_of(patch) {
        return Err(PredictError::Check(format!("side {side} is not a multiple of {patch}")));
    }
    Ok(match point {
        FeaturePoint::Tokens => prepare_squash(image, side, Filter::Bilinear, norm),
        FeaturePoint::Mean | FeaturePoint::Pooled => {
            let short = image.width().min(image.height());
            let (x, y) = ((image.width() - short) / 2, (image.height() - short) / 2);
            prepare_squash(&crop(image, x, y, short, short), side, Filter::Bicubic, norm)
        }
    })
}

fn vector(x: Tensor<2>) -> Features {
    let width = x.dims()[1];
    Features { values: values(x), shape: [1, 1, width] }
}

/// What a probing head answers.
pub trait Probe {
    /// The class of every pixel.
    ///
    /// # Errors
    /// See [`Model::features`].
    fn label(&self, image: &Image) -> Result<SemanticMap, PredictError>;

    /// A probability for every class.
    ///
    /// # Errors
    /// See [`Model::features`].
    fn classify(&self, image: &Image) -> Result<Classification, PredictError>;
}

/// A head on the features of a model.
#[derive(Debug)]
pub struct Probed<'a> {
    /// The frozen model.
    pub model: &'a Model,
    /// What learnt.
    pub head: ProbeHead,
    /// Input side.
    pub side: usize,
    /// What the head learnt on.
    pub point: FeaturePoint,
}

impl Probed<'_> {
    /// Logits [1, h, w, K], and the milliseconds of the encoder.
    fn logits(&self, image: &Image) -> Result<(Tensor<4>, f64), PredictError> {
        let start = Instant::now();
        let Features { values, shape: [h, w, d] } = self.model.features(image, self.side, self.point)?;
        let encode = milliseconds(start);
        Ok((self.head.forward(tensor(values, [1, h, w, d], &Device::default())), encode))
    }
}

impl Probe for Probed<'_> {
    fn label(&self, image: &Image) -> Result<SemanticMap, PredictError> {
        let (logits, encode) = self.logits(image)?;
        let start = Instant::now();
        let (width, height) = (image.width(), image.height());
        let classes = logits.dims()[3];
        let best = |row: &[f32]| row.iter().enumerate().fold(0, |best, (k, v)| if *v > row[best] { k } else { best }) as u8;
        let data = values(upsample_aligned(logits, [height, width])).chunks_exact(classes).map(best).collect();
        Ok(SemanticMap { labels: LabelMap { width, height, data }, timing: Timing { encode, decode: milliseconds(start) } })
    }

    fn classify(&self, image: &Image) -> Result<Classification, PredictError> {
        let (logits, encode) = self.logits(image)?;
        let start = Instant::now();
        let mut probabilities = values(logits);
        softmax(&mut probabilities);
        Ok(Classification { probabilities, timing: Timing { encode, decode: milliseconds(start) } })
    }
}
