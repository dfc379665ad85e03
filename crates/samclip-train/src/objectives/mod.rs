//! Objectives: from one encoder pass to named losses and one scalar to differentiate.
//!
//! Several objectives of a task share the backbone's tokens and the CLIP head's
//! outputs; each returns its terms and a surrogate scalar whose gradient with respect
//! to the model's outputs is the loss's (see [`inject`]). One backward per task.

mod clip_distill;
pub mod clip_guided;
mod contrastive;
mod dense_text;
mod feature_distill;
mod mask_supervision;
mod pooled_text;
mod sam_distill;
pub(crate) mod seg_distill;

use crate::error::TrainError;
use crate::native::Native;
use crate::parameters::Parameters;
use crate::recipe::{Objective, Task};
use crate::feed::Teachers;
use crate::teacher::Output;
use crate::vocabulary::{Classes, TextSource, Vocabulary};
use burn::tensor::{Device, Tensor, TensorData};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use samclip_data::loader::Batch;
use samclip_models::sam_clip::SamClip;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(crate) use dense_text::class_logits;

/// Teachers that are models of ours, by the path in the recipe.
pub type Natives = BTreeMap<PathBuf, Arc<Native>>;

/// Outputs of the frozen teachers on one batch.
pub type TeacherOutputs = BTreeMap<Wanted, Output>;

/// An output of a teacher that an objective asks for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wanted {
    /// The ONNX file, relative to the data folder.
    pub teacher: PathBuf,
    /// Longest side of the whole photo that the teacher sees; none where it sees the crop.
    pub photo_side: Option<usize>,
    /// Name of the value.
    pub output: String,
}

impl Wanted {
    fn new(teacher: &Path, photo_side: Option<usize>, output: &str) -> Self {
        Self { teacher: teacher.to_owned(), photo_side, output: output.to_owned() }
    }
}

/// The part of the teachers' outputs that belongs to the images of `range`.
pub fn shard_outputs(
    outputs: &TeacherOutputs,
    images: usize,
    range: std::ops::Range<usize>,
) -> TeacherOutputs {
    let cut = |output: &Output| {
        let each = output.values.len() / images;
        let mut shape = output.shape.clone();
        shape[0] = range.len();
        Output { values: output.values[range.start * each..range.end * each].to_vec(), shape }
    };
    outputs.iter().map(|(key, output)| (key.clone(), cut(output))).collect()
}

/// A loss term of one objective.
#[derive(Debug, Clone, PartialEq)]
pub struct Term {
    /// Name within the objective.
    pub name: &'static str,
    /// Unweighted value.
    pub value: f32,
    /// Weight in the total.
    pub weight: f32,
}

/// What an objective answers.
#[derive(Default)]
pub struct Loss {
    /// The terms, for the log.
    pub terms: Vec<Term>,
    /// Scalar whose gradient is the weighted total's; none where nothing can learn.
    pub surrogate: Option<Tensor<1>>,
}

impl Loss {
    /// Weighted sum of the terms.
    fn total(&self) -> f32 {
        self.terms.iter().map(|term| term.value * term.weight).sum()
    }

    /// Adds a term.
    pub fn term(&mut self, name: &'static str, value: f32, weight: f32) {
        self.terms.push(Term { name, value, weight });
    }

    /// Adds a part of the surrogate.
    pub fn add(&mut self, part: Tensor<1>) {
        self.surrogate = Some(match self.surrogate.take() {
            Some(sum) => sum + part,
            None => part,
        });
    }
}

/// `sum(output * grad)`: its gradient with respect to `output` is `grad`, so a loss
/// whose gradient was computed by hand joins the graph.
pub fn inject<const D: usize>(output: Tensor<D>, grad: Vec<f32>) -> Tensor<1> {
    let shape = output.dims().to_vec();
    let grad = Tensor::from_data(TensorData::new(grad, shape), &output.device());
    (output * grad).sum()
}

/// A constant tensor.
pub fn constant<const D: usize>(values: Vec<f32>, shape: [usize; D], device: &Device) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values, shape.to_vec()), device)
}

/// Values of a tensor, row-major.
pub fn values<const D: usize>(tensor: &Tensor<D>) -> Vec<f32> {
    tensor.to_data().try_into_vec().expect("activations are f32")
}

/// What stays the same over all steps of a task.
pub struct TaskSetup {
    /// The recipe's task.
    pub task: Task,
    /// Classes of each source of the task, in its order.
    pub classes: Vec<Classes>,
    /// VOC's classes, for the segmentation teacher.
    pub voc: Option<Classes>,
    /// ImageNet's class vectors `[1000, E]` and which exist, for the pooled teacher.
    pub imagenet: Option<(Vec<f32>, Vec<bool>)>,
    /// Seed of the auxiliary tensors.
    pub seed: u64,
}

impl TaskSetup {
    /// What the objectives want of the teachers, each once.
    pub fn wanted(task: &Task) -> BTreeSet<Wanted> {
        let one = |objective: &Objective| match objective {
            Objective::FeatureDistill(o) => Some(Wanted::new(&o.teacher, o.photo_side, &o.output)),
            Objective::PooledText(o) if o.conse_weight > 0.0 => {
                Some(Wanted::new(&o.teacher, o.photo_side, pooled_text::OUTPUT))
            }
            Objective::SegDistill(o) => Some(Wanted::new(&o.teacher, None, seg_distill::OUTPUT)),
            Objective::ClipDistill(o) => Some(Wanted::new(&o.teacher, o.photo_side, &o.output)),
            _ => None,
        };
        task.objectives.iter().filter_map(one).collect()
    }

    /// Text classes of the task's sources.
    pub fn new(
        task: &Task,
        datasets: &[Arc<dyn samclip_data::Dataset>],
        text: &TextSource,
        vocabulary: &mut Vocabulary,
        seed: u64,
    ) -> Result<Self, TrainError> {
        let classes = datasets.iter().map(|d| text.add(vocabulary, d)).collect::<Result<_, _>>()?;
        let mut setup = Self { task: task.clone(), classes, voc: None, imagenet: None, seed };
        for objective in &task.objectives {
            if text.is_none() && objective.reads_text() {
                let message = format!("task {}: {} needs model.text_table", task.name, objective.name());
                return Err(TrainError::Invalid(message));
            }
            match objective {
                Objective::SegDistill(_) => setup.voc = Some(text.add_voc(vocabulary)?),
                Objective::PooledText(o) if o.conse_weight > 0.0 => setup.imagenet = Some(text.imagenet()?),
                _ => {}
            }
        }
        Ok(setup)
    }
}

/// One step of one task: the batch, the shared activations, and where randomness comes from.
pub struct Step<'a> {
    /// The student.
    pub model: &'a SamClip,
    /// Master state (auxiliary tensors).
    pub parameters: &'a Parameters,
    /// Where the student lives, with autodiff.
    pub device: &'a Device,
    /// The setup of the task.
    pub setup: &'a TaskSetup,
    /// All names of the run.
    pub vocabulary: &'a Vocabulary,
    /// The recipe's `logit_scale` and `background_logit`.
    pub scale: (f32, f32),
    /// The photos.
    pub batch: &'a Batch,
    /// The photos as the student sees them, [B, 3, S, S].
    pub pixels: Tensor<4>,
    /// The teachers that are models of ours.
    pub natives: &'a Natives,
    /// What the teachers say about them.
    pub teachers: &'a TeacherOutputs,
    /// The backbone's tokens, `[B, h, w, D]`.
    pub tokens: Tensor<4>,
    /// Pooled `[B, E]` and dense `[B, h, w, E]`, computed once.
    pub clip: OnceCell<(Tensor<2>, Tensor<4>)>,
    /// Prompts are drawn from here.
    pub rng: ChaCha8Rng,
    /// Auxiliary leaves of this step, whose gradients the loop collects.
    pub leaves: Leaves,
}

/// Auxiliary leaves by name.
#[derive(Default)]
pub struct Leaves {
    /// Matrices.
    pub matrices: Vec<(String, Tensor<2>)>,
    /// Vectors.
    pub vectors: Vec<(String, Tensor<1>)>,
}

impl Step<'_> {
    /// Pooled and dense outputs of the CLIP head.
    pub fn clip(&self) -> &(Tensor<2>, Tensor<4>) {
        self.clip.get_or_init(|| self.model.clip_both(self.tokens.clone()))
    }

    /// Pooled output of the CLIP head, without the dense one if no objective of the task wants it.
    pub fn pooled(&self) -> Tensor<2> {
        match self.setup.task.objectives.iter().any(Objective::reads_both) {
            true => self.clip().0.clone(),
            false => self.model.clip_pooled(self.tokens.clone()),
        }
    }

    /// A constant tensor on the student's device.
    pub fn constant<const D: usize>(&self, values: Vec<f32>, shape: [usize; D]) -> Tensor<D> {
        constant(values, shape, self.device)
    }

    /// Text vectors of `columns` as `[E, K]`.
    pub fn text(&self, columns: &[usize]) -> Tensor<2> {
        let dim = self.vocabulary.dim;
        let mut matrix = vec![0.0; dim * columns.len()];
        for (k, &column) in columns.iter().enumerate() {
            for e in 0..dim {
                matrix[e * columns.len() + k] = self.vocabulary.vectors[column * dim + e];
            }
        }
        self.constant(matrix, [dim, columns.len()])
    }

    /// Runs every objective of the task.
    pub fn losses(&mut self) -> Result<Vec<(String, Loss)>, TrainError> {
        let setup = self.setup;
        let mut all = Vec::new();
        for objective in &setup.task.objectives {
            let loss = match objective {
                Objective::MaskSupervision(o) => mask_supervision::loss(self, o),
                Objective::DenseText(o) => dense_text::loss(self, o),
                Objective::PooledText(o) => pooled_text::loss(self, o)?,
                Objective::FeatureDistill(o) => feature_distill::loss(self, o)?,
                Objective::SegDistill(o) => seg_distill::loss(self, o)?,
                Objective::ClipDistill(o) => clip_distill::loss(self, o)?,
                Objective::SamDistill(o) => sam_distill::loss(self, o)?,
                Objective::Contrastive(o) => contrastive::loss(self, o)?,
            };
            all.push((objective.label(), loss));
        }
        let of_teachers = setup.task.objectives.iter().zip(&mut all).filter(|(o, _)| o.has_teacher());
        drop_teachers(of_teachers.map(|(_, (_, loss))| loss).collect(), setup.task.teacher_dropping, &mut self.rng);
        Ok(all)
    }
}

/// Teacher dropping (UNIC, arXiv:2408.05088): the teacher that the student is farthest from always teaches,
/// each of the others is silent with a chance.
///
/// Deviation: chances are drawn for each part of a batch, where the paper draws for each image.
fn drop_teachers(losses: Vec<&mut Loss>, chance: f32, rng: &mut impl Rng) {
    if chance <= 0.0 {
        return;
    }
    let far = losses.iter().map(|loss| loss.total()).fold(f32::NEG_INFINITY, f32::max);
    for loss in losses {
        if rng.random::<f32>() < chance && loss.total() < far {
            loss.surrogate = None;
            loss.terms.iter_mut().for_each(|term| term.weight = 0.0);
        }
    }
}

/// Adds the auxiliary tensors that a task's objectives need.
pub fn add_aux(
    parameters: &mut Parameters,
    recipe: &crate::recipe::Recipe,
    setup: &TaskSetup,
    width: usize,
    teachers: &Teachers,
) -> Result<(), TrainError> {
    for objective in &setup.task.objectives {
        if let Objective::FeatureDistill(options) = objective {
            feature_distill::add_aux(parameters, recipe, setup, options, width, teachers)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{Loss, drop_teachers};
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn the_farthest_teacher_is_never_dropped() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        let mut silent = [0; 3];
        for _ in 0..1000 {
            let mut losses: [Loss; 3] = Default::default();
            for (loss, (value, weight)) in losses.iter_mut().zip([(0.9, 1.0), (0.5, 3.0), (1.4, 1.0)]) {
                loss.term("cosine", value, weight);
            }
            drop_teachers(losses.iter_mut().collect(), 0.5, &mut rng);
            silent.iter_mut().zip(&losses).for_each(|(n, loss)| *n += i32::from(loss.terms[0].weight == 0.0));
        }
        assert_eq!(silent[1], 0, "3 x 0.5 is the largest");
        assert!((450..550).contains(&silent[0]) && (450..550).contains(&silent[2]), "{silent:?}");
    }
}
