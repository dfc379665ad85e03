//! What one photo contributes, small enough to keep for every photo: a run is the list of them, and a report is a pure
//! function of that list. So shards, interrupted runs and whole runs end with the same report.

use crate::metrics::Overlap;
use crate::metrics::semantic::Pairs;
use crate::tally::Tally;
use serde::{Deserialize, Serialize};

/// The contribution of one photo, by task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The right candidate and the five best.
    Classified {
        /// Right candidate.
        label: usize,
        /// Best first.
        top: Vec<usize>,
    },
    /// Vectors of the photo and of its captions.
    Embedded {
        /// The photo's.
        image: Vec<f32>,
        /// The captions'.
        captions: Vec<Vec<f32>>,
    },
    /// Pixels by (truth, prediction).
    Labelled(Pairs),
    /// Class and overlap of every class asked.
    Prompted(Vec<(usize, Overlap)>),
    /// Scores of a grey map.
    Map {
        /// S-measure.
        s: f64,
        /// E-measure by threshold.
        e: Vec<f64>,
        /// At the adaptive threshold.
        e_adaptive: f64,
        /// Weighted F.
        weighted_f: f64,
        /// Mean absolute error.
        mae: f64,
    },
    /// Overlaps of every object.
    Clicked(Vec<Clicked>),
    /// Detections in COCO's results format.
    Detections {
        /// All of the photo.
        found: Vec<Detection>,
        /// Mean over the photo's objects of the best IoU with a detection of its category; none without objects.
        fit: Option<f64>,
    },
    /// Figures of the prompts-and-names protocol.
    Objects(Box<Tally>),
    /// Nothing could be asked: the photo's class has no name.
    NotAsked,
}

/// One object under box and clicks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Clicked {
    /// Its class, where objects have one.
    pub class: Option<usize>,
    /// Under the tight box.
    pub r#box: Option<Overlap>,
    /// The bands along the borders, under the tight box.
    pub boundary: Option<Overlap>,
    /// After 1, 2, ... clicks.
    pub clicks: Vec<Overlap>,
}

/// One detection.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Detection {
    /// Category id.
    pub category: u64,
    /// Certainty.
    pub score: f64,
    /// x, y, width, height.
    pub bbox: [f64; 4],
    /// Height and width of the photo.
    pub size: [u32; 2],
    /// COCO's compressed runs.
    pub counts: String,
}

/// One line of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Position in the split.
    pub index: usize,
    /// The photo's name.
    pub id: String,
    /// Milliseconds for the model's answers.
    pub ms: f64,
    /// Images that the encoder saw for them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub passes: u64,
    /// What it contributes; none for a truth that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// Why it contributes nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

impl Outcome {
    /// How good this photo alone is, 0 to 1, for the list of the worst; none where that means nothing.
    pub fn score(&self) -> Option<f64> {
        match self {
            Self::Classified { label, top } => Some(top.iter().position(|t| t == label).map_or(0.0, |rank| 1.0 / (1 + rank) as f64)),
            Self::Labelled(pairs) => {
                let all: u64 = pairs.0.iter().map(|p| p.2).sum();
                let right: u64 = pairs.0.iter().filter(|p| p.0 == p.1).map(|p| p.2).sum();
                (all > 0).then(|| right as f64 / all as f64)
            }
            Self::Prompted(classes) => crate::metrics::mean(classes.iter().filter_map(|c| c.1.iou())),
            Self::Map { s, .. } => Some(*s),
            Self::Clicked(objects) => {
                let first = |o: &Clicked| o.r#box.or(o.clicks.first().copied())?.iou();
                crate::metrics::mean(objects.iter().filter_map(first))
            }
            Self::Detections { fit, .. } => *fit,
            Self::Objects(tally) => crate::metrics::mean(tally.r#box.iter().map(|b| b.1)),
            Self::Embedded { .. } | Self::NotAsked => None,
        }
    }
}
