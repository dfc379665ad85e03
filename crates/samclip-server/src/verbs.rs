//! The five verbs as requests: what each checks, and which function of samclip-predict answers it.

use std::path::Path;

use base64::Engine as _;
use samclip_image::{Image, png_grey};
use samclip_predict::prompt::PromptError;
use samclip_predict::record::{ClassifyImage, LabelImage, LocateImage, MaskImage};
use samclip_predict::{Background, EverythingOptions, Model, PredictError, Prompt, SegmentOptions, answer};
use serde_json::{Value, json};

use crate::ask::{Needs, Verb};
use crate::error::{ApiError, Kind};
use crate::settings::Limits;
use crate::wire::{ClassifyRequest, EverythingRequest, LabelRequest, LocateRequest, SegmentRequest, check_count};

type Answer<T> = Result<(T, Option<Value>), PredictError>;

impl Verb for SegmentRequest {
    type Plan = (Vec<Prompt>, SegmentOptions);
    type Record = MaskImage;

    fn plan(self, model: &Model, image: &Image, limits: &Limits) -> Result<Self::Plan, ApiError> {
        model.prompt_segmenter()?;
        let options = self.options()?;
        check_count("prompts", self.prompts.len(), limits)?;
        let points = self.prompts.iter().map(|prompt| prompt.points.as_ref().map_or(0, Vec::len)).sum();
        check_count("points", points, limits)?;
        if self.prompts.is_empty() {
            return Err(PredictError::from(PromptError::Nothing).into());
        }
        let adapted = model.guided().is_some();
        let prompts: Vec<Prompt> =
            self.prompts.into_iter().map(|prompt| prompt.prompt(image, adapted)).collect::<Result<_, _>>()?;
        let names: Vec<String> = prompts.iter().filter_map(|prompt| prompt.text.clone()).collect();
        model.check_names(&names)?;
        Ok((prompts, options))
    }

    /// An adapter sees the photo anew for a name; the base's embedding serves it only for prompts without.
    fn needs((prompts, _): &Self::Plan, model: &Model) -> Needs {
        let is_own = model.guided().is_some() && prompts.iter().all(|prompt| prompt.text.is_some());
        if is_own { Needs::View } else { Needs::Embedding }
    }

    fn is_heavy((prompts, _): &Self::Plan, model: &Model) -> bool {
        model.guided().is_some() && prompts.iter().any(|prompt| prompt.text.is_some())
    }

    fn answer((prompts, options): Self::Plan, model: &Model, file: &Path, image: &Image) -> Answer<MaskImage> {
        Ok((answer::segment(model, file, image, &prompts, &options)?, None))
    }
}

/// Layers of crops that one request may ask for: 1 + 4 + 16 encoder passes.
const MOST_CROP_LAYERS: u32 = 2;

impl Verb for EverythingRequest {
    type Plan = EverythingOptions;
    type Record = MaskImage;

    fn plan(self, model: &Model, _: &Image, limits: &Limits) -> Result<Self::Plan, ApiError> {
        model.sam()?;
        let options = self.options();
        options.validate()?;
        // Crops make four encodes of one, and clicks grow with the square.
        let clicks = |side: usize| side.saturating_mul(side);
        let own = options.point_grids.as_ref().map(|grids| grids.iter().map(Vec::len).sum());
        let clicks = own.unwrap_or_else(|| clicks(options.points_per_side)) << (2 * options.crop_n_layers.min(8));
        let most = limits.max_prompts.saturating_mul(64);
        if clicks > most {
            let error = format!("too many clicks: at most {most} in all crops, found up to {clicks}");
            return Err(ApiError::new(Kind::TooManyPrompts, error));
        }
        if options.crop_n_layers > MOST_CROP_LAYERS {
            let found = options.crop_n_layers;
            let error = format!("too many crops: at most {MOST_CROP_LAYERS} layers, found {found}");
            return Err(ApiError::new(Kind::TooManyPrompts, error));
        }
        Ok(options)
    }

    fn needs(_: &Self::Plan, _: &Model) -> Needs {
        Needs::Embedding
    }

    fn is_heavy(_: &Self::Plan, _: &Model) -> bool {
        true
    }

    fn answer(options: Self::Plan, model: &Model, file: &Path, image: &Image) -> Answer<MaskImage> {
        Ok((answer::everything(model, file, image, &options)?, None))
    }
}

/// Names that a model knows, and not too many.
fn names(names: &[String], model: &Model, limits: &Limits) -> Result<(), ApiError> {
    check_count("names", names.len(), limits)?;
    if names.is_empty() {
        return Err(PredictError::from(PromptError::Nothing).into());
    }
    Ok(model.check_names(names)?)
}

impl Verb for ClassifyRequest {
    type Plan = (Vec<String>, usize);
    type Record = ClassifyImage;

    fn plan(self, model: &Model, _: &Image, limits: &Limits) -> Result<Self::Plan, ApiError> {
        model.classifier()?;
        names(&self.texts, model, limits)?;
        Ok((self.texts, self.top.unwrap_or(5)))
    }

    fn needs(_: &Self::Plan, _: &Model) -> Needs {
        Needs::View
    }

    fn is_heavy(_: &Self::Plan, _: &Model) -> bool {
        false
    }

    fn answer((texts, top): Self::Plan, model: &Model, file: &Path, image: &Image) -> Answer<ClassifyImage> {
        Ok((answer::classify(model, file, image, &texts, top)?, None))
    }
}

impl Verb for LocateRequest {
    type Plan = (Vec<String>, bool, bool);
    type Record = LocateImage;

    fn plan(self, model: &Model, _: &Image, limits: &Limits) -> Result<Self::Plan, ApiError> {
        model.locator()?;
        let one = self.texts.is_none();
        let texts: Vec<String> = self.text.into_iter().chain(self.texts.into_iter().flatten()).collect();
        names(&texts, model, limits)?;
        Ok((texts, self.heat.unwrap_or(false), one))
    }

    fn needs(_: &Self::Plan, _: &Model) -> Needs {
        Needs::View
    }

    fn is_heavy(_: &Self::Plan, _: &Model) -> bool {
        false
    }

    fn answer((texts, heat, one): Self::Plan, model: &Model, file: &Path, image: &Image) -> Answer<LocateImage> {
        let (record, maps) = answer::locate(model, model.prompt_segmenter().ok(), file, image, &texts)?;
        let maps = heat.then(|| maps.iter().map(|map| heat_json(image, &map.heat)).collect::<Vec<Value>>());
        let heat = maps.map(|maps| if one { maps.into_iter().next().unwrap_or(Value::Null) } else { Value::Array(maps) });
        Ok((record, heat))
    }
}

/// A map of 0..1 as a grey PNG.
fn heat_json(image: &Image, heat: &[f32]) -> Value {
    let grey: Vec<u8> = heat.iter().map(|v| (v.clamp(0.0, 1.0) * 255.0).round() as u8).collect();
    let png = png_grey(image.width(), image.height(), &grey);
    json!({ "width": image.width(), "height": image.height(), "png": base64::prelude::BASE64_STANDARD.encode(png) })
}

impl Verb for LabelRequest {
    type Plan = (Vec<String>, Background);
    type Record = LabelImage;

    fn plan(self, model: &Model, _: &Image, limits: &Limits) -> Result<Self::Plan, ApiError> {
        model.labeller()?;
        names(&self.classes, model, limits)?;
        let background = match self.background.as_deref() {
            None if model.has_background_channel() => Background::Thresh(None),
            None => Background::Extended,
            Some(mode) => Background::parse(mode)?,
        };
        model.check_classes(&self.classes, &background)?;
        Ok((self.classes, background))
    }

    fn needs(_: &Self::Plan, _: &Model) -> Needs {
        Needs::View
    }

    fn is_heavy(_: &Self::Plan, _: &Model) -> bool {
        false
    }

    fn answer((classes, background): Self::Plan, model: &Model, file: &Path, image: &Image) -> Answer<LabelImage> {
        Ok((answer::label(model, file, image, &classes, &background)?.0, None))
    }
}
