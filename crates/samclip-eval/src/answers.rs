//! Who answers: a model in its roles, files that another system wrote, the truth itself, or a constant.
//!
//! The truth as an answer must score 1.0 and the constant what can be worked out by hand: so every protocol proves itself
//! on the data at hand (`samclip eval --oracle`, `--constant`).

use crate::metrics::detection::open_detections;
use crate::outcome::Detection;
use crate::EvalError;
use samclip_image::{LabelMap, Mask, rle};
use samclip_predict::embed::Embedder;
use samclip_predict::probe::Probe;
use samclip_predict::{PromptSegmenter, SemanticSegmenter, TextLocator, ZeroShotClassifier};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A model, seen through its roles.
#[derive(Default)]
pub struct Roles<'a> {
    /// Masks for prompts.
    pub segmenter: Option<&'a dyn PromptSegmenter>,
    /// A class for every pixel.
    pub labeller: Option<&'a dyn SemanticSegmenter>,
    /// Names for photos.
    pub classifier: Option<&'a dyn ZeroShotClassifier>,
    /// Similarities on a grid.
    pub locator: Option<&'a dyn TextLocator>,
    /// Vectors of photos and sentences.
    pub embedder: Option<&'a dyn Embedder>,
    /// Heads that learnt on the model's features, by protocol.
    pub probes: BTreeMap<String, &'a dyn Probe>,
}

/// Answers that need no model; they are read by many threads.
#[derive(Debug)]
pub enum Offline {
    /// The truth.
    Oracle,
    /// The first class, the whole photo (of every category, for objects), one vector.
    Constant,
    /// What another system wrote.
    Files(Files),
}

/// Where an answer comes from.
#[derive(Clone, Copy)]
pub enum Answers<'a> {
    /// A model.
    Model(&'a Roles<'a>),
    /// No model.
    Offline(&'a Offline),
}

/// Predictions of another system.
#[derive(Debug)]
pub struct Files {
    path: PathBuf,
    detections: BTreeMap<u64, Vec<Detection>>,
    scores: BTreeMap<String, Vec<f32>>,
    images: BTreeMap<String, Vec<f32>>,
    captions: BTreeMap<String, Vec<Vec<f32>>>,
}

/// The forms of a JSON file of scores or vectors.
#[derive(serde::Deserialize)]
#[serde(untagged)]
enum Json {
    Vectors { images: BTreeMap<String, Vec<f32>>, captions: BTreeMap<String, Vec<Vec<f32>>> },
    Scores(BTreeMap<String, Vec<f32>>),
}

impl Files {
    /// A folder of PNGs (label maps, grey maps, `CLASS/ID.png` masks); COCO results JSON; JSON of scores by photo
    /// (`{"id": [..]}`) or of vectors (`{"images": {"id": [..]}, "captions": {"id": [[..]]}}`); for scores also `.npy`,
    /// [photos, classes] f32, in the order of the split.
    ///
    /// # Errors
    /// A path that is not there, a file of another form.
    pub fn open(path: &Path, ids: &[String]) -> Result<Self, EvalError> {
        let mut files = Self {
            path: path.to_owned(),
            detections: BTreeMap::new(),
            scores: BTreeMap::new(),
            images: BTreeMap::new(),
            captions: BTreeMap::new(),
        };
        if path.is_dir() {
            return Ok(files);
        }
        let io = |reason| EvalError::Io { path: path.to_owned(), reason };
        let fail = |message: String| EvalError::Protocol { message, path: path.to_owned() };
        let bytes = std::fs::read(path).map_err(io)?;
        if path.extension().is_some_and(|e| e == "npy") {
            let rows = crate::npy::rows(&bytes).map_err(fail)?;
            if rows.len() != ids.len() {
                return Err(fail(format!("expected {} rows, one a photo, found {}", ids.len(), rows.len())));
            }
            files.scores = ids.iter().cloned().zip(rows).collect();
            return Ok(files);
        }
        if bytes.iter().find(|b| !b.is_ascii_whitespace()) == Some(&b'[') {
            for (i, found) in open_detections(path)?.into_iter().enumerate() {
                let (image, detection) = detection(found).map_err(|e| fail(format!("entry {i}: {e}")))?;
                files.detections.entry(image).or_default().push(detection);
            }
            return Ok(files);
        }
        match serde_json::from_slice(&bytes).map_err(|e| fail(format!("neither scores nor vectors by photo ({e})")))? {
            Json::Vectors { images, captions } => (files.images, files.captions) = (images, captions),
            Json::Scores(scores) => files.scores = scores,
        }
        Ok(files)
    }

    fn missing(&self, what: &str, id: &str) -> EvalError {
        EvalError::Protocol { message: format!("no {what} for photo {id}"), path: self.path.clone() }
    }

    /// Where a photo's PNG lies.
    fn png(&self, class: Option<&str>, id: &str) -> PathBuf {
        let folder = class.map_or(self.path.clone(), |class| self.path.join(class));
        folder.join(format!("{}.png", id.replace('/', "_")))
    }

    /// A photo's grey or label map.
    ///
    /// # Errors
    /// A missing file, colours, another size than the truth.
    pub fn map(&self, id: &str, size: (usize, usize)) -> Result<LabelMap, EvalError> {
        let path = self.png(None, id);
        let map = LabelMap::open(&path).map_err(|e| EvalError::Prediction { message: e.to_string() })?;
        match (map.width, map.height) == size {
            true => Ok(map),
            false => Err(EvalError::Protocol { message: format!("expected {} x {} pixels, found {} x {}", size.0, size.1, map.width, map.height), path }),
        }
    }

    /// A photo's mask of a class.
    ///
    /// # Errors
    /// A missing file, another size than the truth.
    pub fn mask(&self, class: &str, id: &str, size: (usize, usize)) -> Result<Mask, EvalError> {
        let path = self.png(Some(class), id);
        let mask = Mask::open(&path).map_err(|e| EvalError::Prediction { message: e.to_string() })?;
        match (mask.width, mask.height) == size {
            true => Ok(mask),
            false => Err(EvalError::Protocol { message: format!("expected {} x {} pixels, found {} x {}", size.0, size.1, mask.width, mask.height), path }),
        }
    }

    /// A photo's scores.
    ///
    /// # Errors
    /// A photo without scores, or with another number of them.
    pub fn scores(&self, id: &str, classes: usize) -> Result<&[f32], EvalError> {
        let scores = self.scores.get(id).ok_or_else(|| self.missing("scores", id))?;
        match scores.len() == classes {
            true => Ok(scores),
            false => Err(EvalError::Protocol { message: format!("photo {id}: expected {classes} scores, found {}", scores.len()), path: self.path.clone() }),
        }
    }

    /// The vectors of a photo and its captions.
    ///
    /// # Errors
    /// A photo without them.
    pub fn vectors(&self, id: &str) -> Result<(Vec<f32>, Vec<Vec<f32>>), EvalError> {
        let image = self.images.get(id).ok_or_else(|| self.missing("vector", id))?;
        let captions = self.captions.get(id).ok_or_else(|| self.missing("caption vectors", id))?;
        Ok((image.clone(), captions.clone()))
    }

    /// A photo's detections; a photo without any has none.
    pub fn detections(&self, image: u64) -> &[Detection] {
        self.detections.get(&image).map_or(&[], Vec::as_slice)
    }
}

/// A COCO result as we keep it. Without a mask it is a box alone (`counts` is empty).
pub fn detection(found: hotcoco::Annotation) -> Result<(u64, Detection), String> {
    use hotcoco::Segmentation as S;
    let encode = |runs: rle::Rle| (runs.size.map(|v| v as u32), rle::to_coco_string(&runs), rle::bbox(&runs));
    let made = match found.segmentation {
        Some(S::CompressedRle { size, counts }) => {
            encode(rle::from_coco_string(&counts, size.map(|v| v as usize)).map_err(|e| e.to_string())?)
        }
        Some(S::UncompressedRle { size, counts }) => {
            encode(rle::from_counts(counts, size.map(|v| v as usize)).map_err(|e| e.to_string())?)
        }
        Some(_) => return Err("polygons are not scored; give runs (`size`, `counts`)".into()),
        None => ([0, 0], String::new(), found.bbox.unwrap_or_default()),
    };
    let (size, counts, bbox) = made;
    let bbox = found.bbox.unwrap_or(bbox);
    Ok((found.image_id, Detection { category: found.category_id, score: found.score.unwrap_or(0.0), bbox, size, counts }))
}
