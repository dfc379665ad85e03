//! A variant's name and a weight file -> a model in its roles.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use samclip_image::Image;
use samclip_models::clip::Clip;
use samclip_models::init::Init;
use samclip_models::sam::Sam;
use samclip_models::sam_clip::SamClip;
use samclip_models::variant::Variant;
use samclip_models::{Device, state};

use crate::adapter::AdapterBase;
use crate::cache::{EmbeddingCache, EmbeddingStore};
use crate::clip::ClipPredictor;
use crate::embed::Embedder;
use crate::error::PredictError;
use crate::guided::GuidedPredictor;
use crate::packed::PackedWords;
use crate::precision::Precision;
use crate::roles::{Background, PromptSegmenter, SemanticSegmenter, TextLocator, ZeroShotClassifier};
use crate::sam::{SamLike, SamPredictor};
use crate::sam_clip::SamClipPredictor;
use crate::settings::settings;

use crate::files::open_weights;
pub use crate::files::{read_table, read_weights, weights_hash};
pub use crate::sizes::{clip_config, expected_tensors, init_sam, sam_clip_config};

/// What to load and how to run it.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelSpec {
    /// The variant's name.
    pub variant: String,
    /// Weight file; the built-in weights where there is none.
    pub weights: Option<PathBuf>,
    /// Names and vectors for SAM-CLIP; the built-in table where there is none.
    pub text_table: Option<PathBuf>,
    /// Number format of the matrix products.
    pub precision: Precision,
    /// Where to compute.
    pub device: String,
    /// Folder for image embeddings.
    pub cache: Option<PathBuf>,
    /// An adapter over the model.
    pub adapter: Option<PathBuf>,
    /// CLIP's weights, where the adapter was trained with a CLIP of its own.
    pub clip_weights: Option<PathBuf>,
}

impl ModelSpec {
    /// A variant with its built-in weights on the CPU.
    pub fn new(variant: &str) -> Self {
        Self {
            variant: variant.to_owned(),
            weights: None,
            text_table: None,
            precision: Precision::Auto,
            device: "cpu".to_owned(),
            cache: None,
            adapter: None,
            clip_weights: None,
        }
    }
}

/// A loaded model.
#[derive(Debug)]
pub struct Model {
    /// The name that users type.
    pub name: String,
    /// `f32` or `bf16`: what `auto` became.
    pub precision: &'static str,
    pub(crate) kind: Kind,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Sam(Box<SamPredictor>),
    Clip(Box<ClipPredictor>),
    SamClip(Box<SamClipPredictor>),
    Guided(Box<GuidedPredictor>),
}

impl Model {
    /// Loads a model.
    ///
    /// # Errors
    /// An unknown variant, a file that cannot be read or does not fit it tensor by tensor, a device or precision
    /// that is not there.
    pub fn load(spec: &ModelSpec) -> Result<Self, PredictError> {
        Self::load_over(spec, None)
    }

    /// [`Model::load`] with embeddings kept in `store` instead of the folder `spec.cache`.
    ///
    /// # Errors
    /// See [`Model::load`].
    pub fn load_over(spec: &ModelSpec, store: Option<&Arc<dyn EmbeddingStore>>) -> Result<Self, PredictError> {
        let variant: Variant = spec.variant.parse()?;
        if spec.device != "cpu" {
            return Err(PredictError::Device { found: spec.device.clone() });
        }
        let precision = spec.precision.apply()?;
        if let Some(adapter) = &spec.adapter {
            return Self::over(&AdapterBase::load(spec, store)?, adapter);
        }
        let cache = match (store, &spec.cache) {
            (Some(store), _) => {
                Some(EmbeddingCache::over(store.clone(), variant.name(), &weights_hash(spec)?, precision))
            }
            (None, Some(folder)) => {
                Some(EmbeddingCache::open(folder, variant.name(), &weights_hash(spec)?, precision)?)
            }
            (None, None) => None,
        };
        let device = Device::default();
        let kind = build(variant, spec, &device, cache).map_err(|error| match &spec.weights {
            Some(path) if matches!(error, PredictError::Model(_) | PredictError::Weights(_)) => error.in_file(path),
            _ => error,
        })?;
        Ok(Self { name: variant.name().to_owned(), precision, kind })
    }

    /// An adapter over a model that is loaded already.
    ///
    /// # Errors
    /// A file that is no adapter, or one of another base.
    pub fn over(base: &AdapterBase, adapter: &Path) -> Result<Self, PredictError> {
        let guided = base.guided(adapter)?;
        Ok(Self { name: guided.name.clone(), precision: base.precision()?, kind: Kind::Guided(Box::new(guided)) })
    }

    /// The tensors of a SAM or SAM-CLIP, under the names that they have in a CLIP-Guided SAM. `is_clip`: they are those
    /// of its CLIP side too.
    pub(crate) fn share(&self, shared: &mut state::Shared, is_clip: bool) {
        let clip = |name: &str| is_clip.then(|| format!("clip.visual.{name}"));
        match &self.kind {
            Kind::Sam(model) => shared.add(&model.sam, |name| vec![name.to_owned()]),
            Kind::SamClip(model) => shared.add(&model.model, |name| [Some(name.to_owned()), clip(name)].into_iter().flatten().collect()),
            Kind::Clip(_) | Kind::Guided(_) => {}
        }
    }

    /// Encodes an image into the cache, so that the prompts that follow are answered without the encoder. Nothing
    /// happens for a model that keeps no embeddings.
    ///
    /// # Errors
    /// A cache that cannot be written.
    pub fn embed(&self, image: &Image) -> Result<(), PredictError> {
        match &self.kind {
            Kind::Sam(model) => model.embed(image).map(|_| ()),
            Kind::SamClip(model) => model.embed_for_prompts(image),
            Kind::Guided(model) => model.base.as_ref().map_or(Ok(()), |base| base.embed(image)),
            Kind::Clip(_) => Ok(()),
        }
    }

    /// Whether [`Model::embed`] has been here and the cache still knows.
    pub fn is_embedded(&self, image: &Image) -> bool {
        match &self.kind {
            Kind::Sam(model) => model.is_embedded(image),
            Kind::SamClip(model) => model.is_embedded(image),
            Kind::Guided(model) => model.base.as_ref().is_some_and(|base| base.is_embedded(image)),
            Kind::Clip(_) => false,
        }
    }

    /// Whether [`Model::embed`] serves every role: classifying, locating and labelling see the same input as prompts.
    pub fn looks_once(&self) -> bool {
        match &self.kind {
            Kind::SamClip(model) => {
                let settings = &model.settings;
                settings.classify == settings.segment && settings.dense == settings.segment
            }
            Kind::Sam(_) | Kind::Clip(_) | Kind::Guided(_) => false,
        }
    }

    /// The names that a text table knows, for completion; empty where any text can be asked.
    pub fn vocabulary(&self) -> &[String] {
        match &self.kind {
            Kind::SamClip(model) => model.text.as_ref().map_or(&[], |table| table.names()),
            Kind::Guided(model) => match model.text.as_ref() {
                crate::guided::GuidedText::Table(table) => table.names(),
                crate::guided::GuidedText::Tower(..) => &[],
            },
            Kind::Sam(_) | Kind::Clip(_) => &[],
        }
    }

    /// The role of answering prompts with masks.
    ///
    /// # Errors
    /// A model without a mask decoder.
    pub fn prompt_segmenter(&self) -> Result<&dyn PromptSegmenter, PredictError> {
        match &self.kind {
            Kind::Sam(model) => Ok(model.as_ref()),
            Kind::SamClip(model) => Ok(model.as_ref()),
            Kind::Guided(model) => Ok(model.as_ref()),
            Kind::Clip(_) => self.unable("segment by prompts", SEGMENTERS),
        }
    }

    /// Encoder and mask decoder, for `everything`.
    ///
    /// # Errors
    /// A model without a mask decoder.
    pub fn sam(&self) -> Result<&dyn SamLike, PredictError> {
        match &self.kind {
            Kind::Sam(model) => Ok(model.as_ref()),
            Kind::SamClip(model) => Ok(model.as_ref()),
            Kind::Guided(model) => match &model.base {
                Some(base) => base.sam(),
                None => self.unable("segment everything", SEGMENTERS),
            },
            Kind::Clip(_) => self.unable("segment everything", SEGMENTERS),
        }
    }

    /// The role of classifying images by names.
    ///
    /// # Errors
    /// A model without a text side.
    pub fn classifier(&self) -> Result<&dyn ZeroShotClassifier, PredictError> {
        match &self.kind {
            Kind::Clip(model) => Ok(model.as_ref()),
            Kind::SamClip(model) => Ok(model.as_ref()),
            Kind::Guided(model) => match &model.base {
                Some(base) => base.classifier(),
                None => self.unable("classify", NAMERS),
            },
            Kind::Sam(_) => self.unable("classify", NAMERS),
        }
    }

    /// The role of finding names in images.
    ///
    /// # Errors
    /// A model without a text side.
    pub fn locator(&self) -> Result<&dyn TextLocator, PredictError> {
        match &self.kind {
            Kind::Clip(model) => Ok(model.as_ref()),
            Kind::SamClip(model) => Ok(model.as_ref()),
            Kind::Guided(model) => Ok(model.as_ref()),
            Kind::Sam(_) => self.unable("locate names", NAMERS),
        }
    }

    /// The role of labelling every pixel.
    ///
    /// # Errors
    /// A model without a text side.
    pub fn labeller(&self) -> Result<&dyn SemanticSegmenter, PredictError> {
        match &self.kind {
            Kind::Clip(model) => Ok(model.as_ref()),
            Kind::SamClip(model) => Ok(model.as_ref()),
            Kind::Guided(model) => Ok(model.as_ref()),
            Kind::Sam(_) => self.unable("label pixels", NAMERS),
        }
    }

    /// The role of embedding photos and sentences.
    ///
    /// # Errors
    /// A model without a text side.
    pub fn embedder(&self) -> Result<&dyn Embedder, PredictError> {
        match &self.kind {
            Kind::Clip(model) => Ok(model.as_ref()),
            Kind::SamClip(model) => Ok(model.as_ref()),
            Kind::Guided(model) => match &model.base {
                Some(base) => base.embedder(),
                None => self.unable("embed sentences", NAMERS),
            },
            Kind::Sam(_) => self.unable("embed sentences", NAMERS),
        }
    }

    /// Classifies at this side instead of the variant's; only SAM-CLIP takes several.
    ///
    /// # Errors
    /// A model of one side, or a side that is not a multiple of 16.
    pub fn set_classify_side(&mut self, side: usize) -> Result<(), PredictError> {
        match &mut self.kind {
            Kind::SamClip(model) if side > 0 && side % 16 == 0 => model.settings.classify.1 = side,
            Kind::SamClip(_) => return Err(PredictError::Check(format!("side {side} is not a multiple of 16"))),
            _ => return self.unable("classify at another side", "sam_clip_nano, sam_clip_vit_b"),
        }
        Ok(())
    }

    /// The model of an adapter, if that is what was loaded.
    pub fn guided(&self) -> Option<&GuidedPredictor> {
        match &self.kind {
            Kind::Guided(model) => Some(model),
            _ => None,
        }
    }

    /// True if pixels of no class need no word for them: the model has a constant background channel, or
    /// was trained to leave them out.
    pub fn has_background_channel(&self) -> bool {
        self.guided().is_some() || matches!(&self.kind, Kind::SamClip(model) if model.settings.background_logit.is_some())
    }

    /// Checks names before any image is read.
    ///
    /// # Errors
    /// An empty or unknown name, a model without a text side.
    pub fn check_names(&self, names: &[String]) -> Result<(), PredictError> {
        for name in names {
            crate::prompt::parse_text(name)?;
        }
        match &self.kind {
            Kind::Sam(_) if !names.is_empty() => self.unable("understand text", NAMERS),
            Kind::Guided(model) => model.text.encode(names).map(|_| ()),
            Kind::SamClip(model) if !names.is_empty() => {
                let missing = || PredictError::NoTextTable { model: self.name.clone() };
                let table = model.text.as_ref().ok_or_else(missing)?;
                names.iter().try_for_each(|name| table.resolve(name).map(|_| ())).map_err(Into::into)
            }
            _ => Ok(()),
        }
    }

    /// Checks the classes of a semantic map, and the words that stand for its background.
    ///
    /// # Errors
    /// No class or too many, or see [`Model::check_names`].
    pub fn check_classes(&self, classes: &[String], background: &Background) -> Result<(), PredictError> {
        self.check_names(&crate::sam_clip::semantic_names(classes, background)?)
    }

    fn unable<T>(&self, role: &'static str, able: &'static str) -> Result<T, PredictError> {
        Err(PredictError::NoRole { model: self.name.clone(), role, able })
    }
}

pub(crate) const SEGMENTERS: &str = "sam_clip_nano, sam_clip_vit_b, sam_vit_b, sam_vit_l, sam_vit_h, mobile_sam";
const NAMERS: &str = "sam_clip_nano, sam_clip_vit_b, clip_vit_b16, clip_vit_l14 and their _quickgelu forms";

fn build(
    variant: Variant,
    spec: &ModelSpec,
    device: &Device,
    cache: Option<EmbeddingCache>,
) -> Result<Kind, PredictError> {
    let name = variant.name().to_owned();
    let device = device.clone();
    let (state, packed) = open_weights(variant, spec.weights.as_deref())?;
    let packed = PackedWords::of_file(packed);
    let mut init = Init::zeros(&device);
    Ok(match variant {
        Variant::SamVitB | Variant::SamVitL | Variant::SamVitH | Variant::MobileSam => {
            let sam = packed.load(init_sam(variant, &mut init), &state, Sam::packable)?;
            Kind::Sam(Box::new(SamPredictor { sam, side: 1024, name, device, cache }))
        }
        Variant::ClipVitB16 | Variant::ClipVitL14 | Variant::ClipVitB16Quickgelu | Variant::ClipVitL14Quickgelu => {
            let config = clip_config(variant);
            let clip = packed.load(config.init(&mut init), &state, Clip::packable)?;
            let (side, patch) = (config.vision.image_size, config.vision.patch_size);
            Kind::Clip(Box::new(ClipPredictor { clip, side, patch, name, device, known: Default::default() }))
        }
        Variant::SamClipVitB | Variant::SamClipNano => {
            let config = sam_clip_config(variant, &state)?;
            let model = packed.load(config.init(&mut init), &state, SamClip::packable)?;
            let text = read_table(variant, spec)?;
            if let Some(table) = &text
                && table.dim() != config.clip_head.embed_dim
            {
                return Err(PredictError::TextWidth { expected: config.clip_head.embed_dim, found: table.dim() });
            }
            let settings = settings(variant, &config, &state)?;
            Kind::SamClip(Box::new(SamClipPredictor { model, text, settings, name, device, cache }))
        }
    })
}
