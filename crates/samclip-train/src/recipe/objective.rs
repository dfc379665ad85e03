//! What a task learns: the rows `[[task.objective]]` of a recipe.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// What a task learns.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Objective {
    /// Promptable masks by simulated prompts (spec 2.9).
    MaskSupervision(MaskSupervision),
    /// Class per token from labels, against text vectors.
    DenseText(DenseText),
    /// Class of the photo, against text vectors.
    PooledText(PooledText),
    /// A teacher's feature map through a linear layer that exists in training only.
    FeatureDistill(FeatureDistill),
    /// A segmentation teacher's classes as dense labels, where photos have none.
    SegDistill(SegDistill),
    /// The image embedding of a teacher (SAM-CLIP eq. 1).
    ClipDistill(ClipDistill),
    /// The masks of a promptable teacher, prompt by prompt (SAM-CLIP eq. 2): the replay.
    SamDistill(SamDistill),
    /// The photos' captions, against a frozen text tower.
    Contrastive(Contrastive),
}

impl Objective {
    /// Name in the log.
    pub fn name(&self) -> &'static str {
        match self {
            Self::MaskSupervision(_) => "mask_supervision",
            Self::DenseText(_) => "dense_text",
            Self::PooledText(_) => "pooled_text",
            Self::FeatureDistill(_) => "feature_distill",
            Self::SegDistill(_) => "seg_distill",
            Self::ClipDistill(_) => "clip_distill",
            Self::SamDistill(_) => "sam_distill",
            Self::Contrastive(_) => "contrastive",
        }
    }

    /// Its name in the log: with the linear layer's where the recipe names one, since a task may have several guides.
    pub fn label(&self) -> String {
        match self {
            Self::FeatureDistill(FeatureDistill { head: Some(head), .. }) => format!("{} {head}", self.name()),
            _ => self.name().to_owned(),
        }
    }
}

impl Objective {
    /// Whether the objective compares with text vectors.
    pub fn reads_text(&self) -> bool {
        self.reads_both() || matches!(self, Self::ClipDistill(o) if o.affinity > 0.0)
    }

    /// Whether the objective asks for both outputs of the CLIP head, which one pass gives.
    pub fn reads_both(&self) -> bool {
        match self {
            Self::DenseText(_) | Self::PooledText(_) | Self::SegDistill(_) => true,
            Self::MaskSupervision(o) => o.text_prompts > 0,
            Self::FeatureDistill(_) | Self::ClipDistill(_) | Self::SamDistill(_) | Self::Contrastive(_) => false,
        }
    }

    /// The model of ours that the objective asks while it runs: a SAM for masks, a CLIP for captions.
    pub fn native_teacher(&self) -> Option<&PathBuf> {
        match self {
            Self::SamDistill(o) => Some(&o.teacher),
            Self::Contrastive(o) => Some(&o.teacher),
            _ => None,
        }
    }

    /// Whether the student learns what a teacher says of the photo.
    pub fn has_teacher(&self) -> bool {
        match self {
            Self::FeatureDistill(_) | Self::SegDistill(_) | Self::ClipDistill(_) | Self::SamDistill(_) => true,
            Self::MaskSupervision(_) | Self::DenseText(_) | Self::PooledText(_) | Self::Contrastive(_) => false,
        }
    }
}

/// Options of the promptable masks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaskSupervision {
    /// Weight of the whole term.
    pub weight: f32,
    /// Masks per image that start from a point; three outputs, the best one learns.
    pub point_prompts: usize,
    /// Masks per image that start from a noisy box; output 0.
    pub box_prompts: usize,
    /// Masks per image that start from the CLIP head's own map of a class: a mask
    /// prompt and points, as the composition of both heads asks (spec 5.6); output 0.
    pub text_prompts: usize,
    /// Rounds in all: after the first, a click into the error and the last logits.
    pub rounds: usize,
    /// Share of first clicks at the centre of the mask instead of anywhere in it.
    pub center_click: f32,
    /// Smallest mask, as a share of the image.
    pub min_area: f32,
    /// Largest mask, as a share of the image.
    pub max_area: f32,
    /// Weights of the losses.
    pub focal: f32,
    /// Weight of the dice loss.
    pub dice: f32,
    /// Weight of the predicted IoU's square error.
    pub iou: f32,
}

/// Options of the dense text alignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DenseText {
    /// Weight of the term.
    pub weight: f32,
    /// The token logits are resized by this factor before the loss.
    pub upsample: usize,
}

/// Options of the pooled text alignment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PooledText {
    /// Weight of the label term.
    pub weight: f32,
    /// How several labels share a photo.
    pub multi_label: MultiLabel,
    /// Weight of the cosine to the teacher's convex combination of text vectors; 0 is off.
    pub conse_weight: f32,
    /// The ONNX classifier, relative to the data folder; used where `conse_weight > 0`.
    pub teacher: PathBuf,
    /// See [`FeatureDistill::photo_side`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photo_side: Option<usize>,
}

/// Loss over the names of a data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MultiLabel {
    /// Softmax; the present names share the mass equally.
    Softmax,
    /// One sigmoid per name, against the background logit.
    Sigmoid,
}

/// Options of the feature distillation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureDistill {
    /// Weight of the term.
    pub weight: f32,
    /// The ONNX model, relative to the data folder.
    pub teacher: PathBuf,
    /// Its output or any value inside it, `[N, C, h, w]`.
    pub output: String,
    /// The teacher sees each whole photo once, its longest side resized to this, and the
    /// answer is kept in memory as f16; a crop reads its part of the map. Absent: the
    /// teacher sees the student's crop every time, and its map must have the student's
    /// tokens, or a quarter of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photo_side: Option<usize>,
    /// Share of the smooth L1 distance beside the centred cosine.
    pub smooth_l1: f32,
    /// The teacher's channels are brought to mean 0 and variance 1 first, so that teachers with large
    /// numbers do not outweigh the others (UNIC, RADIO).
    #[serde(default, skip_serializing_if = "is_false")]
    pub standardize: bool,
    /// Name of the linear layer; objectives with the same name share it. Absent: `output`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub head: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl FeatureDistill {
    /// Name of the linear layer.
    pub fn head(&self) -> &str {
        self.head.as_deref().unwrap_or(&self.output)
    }
}

/// Options of the segmentation teacher.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SegDistill {
    /// Weight of the term.
    pub weight: f32,
    /// The ONNX model, relative to the data folder; VOC's 21 classes.
    pub teacher: PathBuf,
    /// Pixels below this probability are ignored.
    pub min_probability: f32,
    /// The token logits are resized by this factor before the loss.
    pub upsample: usize,
}

/// Options of the image embedding's distillation (spec 5.2): cosine distance of the pooled,
/// normalised outputs; beside the paper, how the teacher sees the names of the run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClipDistill {
    /// Weight of the term.
    pub weight: f32,
    /// An ONNX file, or a checkpoint of CLIP or SAM-CLIP. Relative to the data folder; a path
    /// that begins with `.` is relative to the recipe, `{runs}/` stands for other runs.
    pub teacher: PathBuf,
    /// `image_embedding` of a CLIP, `pooled` of a SAM-CLIP, or an output of the ONNX file, [N, E].
    pub output: String,
    /// See [`FeatureDistill::photo_side`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub photo_side: Option<usize>,
    /// Weight of the divergence of the student's softmax over the names of all data of the run, at `model.logit_scale`,
    /// from the teacher's (ours; 0 as in the paper). Image embeddings of one teacher are much alike, and the cosine alone
    /// says little about how they differ.
    #[serde(default, skip_serializing_if = "super::is_zero")]
    pub affinity: f32,
}

/// What the student's masks are compared with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillTargets {
    /// The teacher's probabilities.
    Soft,
    /// The teacher's masks.
    Hard,
}

/// Which of the four mask tokens are compared, each with the teacher's of the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DistillOutputs {
    /// All four.
    All,
    /// Token 0.
    Single,
    /// Tokens 1 to 3.
    Multi,
}

/// Options of the masks' distillation (spec 5.2).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SamDistill {
    /// Weight of the whole term: the paper's lambda.
    pub weight: f32,
    /// A checkpoint of SAM or SAM-CLIP; paths as in [`ClipDistill::teacher`].
    pub teacher: PathBuf,
    /// Masks per image that are asked for with a click.
    pub point_prompts: usize,
    /// Masks per image that are asked for with a noisy box.
    pub box_prompts: usize,
    /// Share of clicks at the centre of the mask instead of anywhere in it.
    pub center_click: f32,
    /// Smallest mask that gives a prompt, as a share of the image.
    pub min_area: f32,
    /// Largest mask that gives a prompt, as a share of the image.
    pub max_area: f32,
    /// Soft or hard targets.
    pub targets: DistillTargets,
    /// Mask tokens.
    pub outputs: DistillOutputs,
    /// Weight of the focal loss.
    pub focal: f32,
    /// Weight of the dice loss.
    pub dice: f32,
    /// Weight of the square error between the predicted IoUs; 0 is off (the paper's).
    pub iou: f32,
    /// Weight of the distance between the image embeddings, 0.9 cosine + 0.1 smooth L1 per
    /// position; 0 is off (the paper's).
    pub neck: f32,
}

/// Options of the contrastive loss between photos and captions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contrastive {
    /// Weight of the term.
    pub weight: f32,
    /// A checkpoint of CLIP, whose text tower reads the captions; paths as in [`ClipDistill::teacher`].
    pub teacher: PathBuf,
    /// Factor on the cosines; CLIP's ends at 100.
    pub logit_scale: f32,
}
