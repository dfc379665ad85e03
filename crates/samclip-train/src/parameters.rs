//! Every tensor of a run as named f32 state: values, gradients, the optimizer's moments.
//!
//! The master copy lives here, in the order of the model's names with the auxiliary
//! tensors (`aux.*`, training only) after them; the burn module is rebuilt from it
//! after each step. So rate groups, decay rules, checkpoints and the frozen part are
//! plain loops over names.

use crate::error::TrainError;
use crate::glob;
use crate::objectives::Leaves;
use crate::recipe::{Model, Optimizer};
use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor, TensorData};
use rayon::prelude::*;
use samclip_models::state::named_values;
use samclip_weights::StateDict;

/// Prefix of tensors that exist in training only and are not exported.
pub const AUX: &str = "aux.";

/// One tensor of the run.
#[derive(Debug, Clone, PartialEq)]
pub struct TensorState {
    /// Name, the reference code's.
    pub name: String,
    /// Shape.
    pub shape: Vec<usize>,
    /// Current value.
    pub value: Vec<f32>,
    /// Gradient of this step; empty where none arrived.
    pub grad: Vec<f32>,
    /// Running mean of the gradient; empty where frozen.
    pub mean: Vec<f32>,
    /// AdamW's running mean of squares; empty where frozen and under Muon.
    pub square: Vec<f32>,
    /// Running mean of the value; empty without EMA or where frozen.
    pub ema: Vec<f32>,
    /// Updates so far: the bias correction counts those of this tensor, as torch does.
    pub updates: usize,
    /// Whether the run may change it.
    pub trainable: bool,
    /// Whether weight decay applies.
    pub decays: bool,
    /// Whether Muon updates it, not AdamW.
    pub muon: bool,
    /// Factor on the learning rate.
    pub lr_scale: f32,
}

impl TensorState {
    /// What is exported: the running mean where the recipe keeps one, else the value.
    pub fn exported(&self) -> &[f32] {
        if self.ema.is_empty() { &self.value } else { &self.ema }
    }

    fn accumulate(&mut self, grad: &[f32], scale: f32) {
        self.grad.resize(grad.len(), 0.0);
        self.grad.iter_mut().zip(grad).for_each(|(a, b)| *a += scale * b);
    }
}

/// All tensors of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct Parameters {
    tensors: Vec<TensorState>,
    /// The first `model` tensors are the module's, in its order.
    model: usize,
}

impl Parameters {
    /// The module's tensors, with the recipe's rules.
    pub fn new<M: Module>(module: &M, model: &Model, optimizer: &Optimizer) -> Self {
        Self::with_rule(module, |name| glob::any(&model.trainable, name), optimizer)
    }

    /// The same where `trainable` says which names may change.
    pub fn with_rule<M: Module>(module: &M, trainable: impl Fn(&str) -> bool, optimizer: &Optimizer) -> Self {
        let tensors: Vec<_> = named_values(module)
            .into_iter()
            .map(|(name, shape, value)| tensor(trainable(&name), name, shape, value, optimizer))
            .collect();
        Self { model: tensors.len(), tensors }
    }

    /// Adds an auxiliary tensor, `name` without the prefix.
    pub fn add_aux(
        &mut self,
        name: &str,
        shape: Vec<usize>,
        value: Vec<f32>,
        optimizer: &Optimizer,
    ) {
        self.tensors.push(tensor(true, format!("{AUX}{name}"), shape, value, optimizer));
    }

    /// Whether an auxiliary tensor of this name exists.
    pub fn has_aux(&self, name: &str) -> bool {
        self.tensors[self.model..].iter().any(|t| t.name.strip_prefix(AUX) == Some(name))
    }

    /// Auxiliary tensors that `start` has (a checkpoint does) go on from there.
    pub fn start_aux(&mut self, start: &StateDict) -> Result<(), TrainError> {
        for state in &mut self.tensors[self.model..] {
            let Some(found) = start.get(&state.name) else { continue };
            if found.shape() != state.shape {
                let (name, expected, found) = (&state.name, &state.shape, found.shape());
                return Err(TrainError::Invalid(format!("model.init: {name}: expected {expected:?}, found {found:?}")));
            }
            state.value = found.to_f32();
        }
        Ok(())
    }

    /// All tensors, the module's first.
    pub fn tensors(&self) -> &[TensorState] {
        &self.tensors
    }

    /// Refuses a pattern, named by its key, that matches no tensor: it would do nothing, silently.
    pub fn require<'a>(&self, patterns: impl IntoIterator<Item = (&'static str, &'a str)>) -> Result<(), TrainError> {
        for (key, pattern) in patterns {
            let name = pattern.strip_prefix('!').unwrap_or(pattern);
            if !self.tensors.iter().any(|t| glob::matches(name, &t.name)) {
                return Err(TrainError::Invalid(format!("{key}: `{pattern}` matches no tensor")));
            }
        }
        Ok(())
    }

    /// All tensors, the module's first.
    pub fn tensors_mut(&mut self) -> &mut [TensorState] {
        &mut self.tensors
    }

    /// The module's tensors in its order.
    pub fn model_tensors(&self) -> &[TensorState] {
        &self.tensors[..self.model]
    }

    /// Number of trainable values of the module.
    pub fn trainable_count(&self) -> usize {
        let trainable = self.model_tensors().iter().filter(|t| t.trainable);
        trainable.map(|t| t.value.len()).sum()
    }

    /// An auxiliary tensor as a fresh leaf of the graph.
    pub fn aux_leaf<const D: usize>(&self, name: &str, device: &Device) -> Option<Tensor<D>> {
        let state = self.tensors[self.model..].iter().find(|t| t.name.strip_prefix(AUX) == Some(name))?;
        let data = TensorData::new(state.value.clone(), state.shape.clone());
        Some(Tensor::from_data(data, device).require_grad())
    }

    /// Gradients of the trainable tensors, by position; none where none arrived.
    pub fn collect<M: Module>(
        &self,
        module: &M,
        leaves: &Leaves,
        grads: &mut Gradients,
    ) -> Vec<Option<Vec<f32>>> {
        let mut out: Vec<Option<Vec<f32>>> = vec![None; self.tensors.len()];
        let mut visitor = Collect { next: 0, tensors: &self.tensors, out: &mut out, grads };
        module.visit(&mut visitor);
        for (i, state) in self.tensors.iter().enumerate().skip(self.model) {
            let name = state.name.strip_prefix(AUX).unwrap_or_default();
            let matrix = leaves.matrices.iter().find(|(n, _)| n == name);
            let vector = leaves.vectors.iter().find(|(n, _)| n == name);
            out[i] = match (matrix, vector) {
                (Some((_, leaf)), _) => leaf.grad_remove(grads).map(values),
                (_, Some((_, leaf))) => leaf.grad_remove(grads).map(values),
                _ => None,
            };
        }
        out
    }

    /// Adds `scale` times gradients that [`Parameters::collect`] gave.
    pub fn accumulate(&mut self, grads: Vec<Option<Vec<f32>>>, scale: f32) {
        let pairs: Vec<_> = self.tensors.iter_mut().zip(grads).collect();
        pairs.into_par_iter().for_each(|(state, grad)| {
            if let Some(grad) = grad {
                state.accumulate(&grad, scale);
            }
        });
    }

    /// The module with the current values; only trainable tensors take gradients.
    pub fn apply<M: Module>(&self, module: M, device: &Device) -> M {
        module.map(&mut Apply { next: 0, tensors: &self.tensors, device: device.clone(), read: |t| &t.value })
    }

    /// The first tensor whose value is not finite, with the value found.
    pub fn non_finite_value(&self) -> Option<(&str, f32)> {
        self.tensors.iter().filter(|t| t.trainable).find_map(|t| {
            let bad = t.value.iter().find(|v| !v.is_finite())?;
            Some((t.name.as_str(), *bad))
        })
    }

    /// As [`Parameters::apply`] where the frozen tensors of `module` are already in place: they are not
    /// copied again.
    pub fn refresh<M: Module>(&self, module: M, device: &Device) -> M {
        module.map(&mut Refresh(Apply { next: 0, tensors: &self.tensors, device: device.clone(), read: |t| &t.value }))
    }

    /// As [`Parameters::refresh`] with what is exported: running means where the recipe keeps them.
    pub fn refresh_exported<M: Module>(&self, module: M, device: &Device) -> M {
        module.map(&mut Refresh(Apply { next: 0, tensors: &self.tensors, device: device.clone(), read: TensorState::exported }))
    }

    /// The first tensor whose gradient is not finite, with the value found.
    pub fn non_finite_gradient(&self) -> Option<(&str, f32)> {
        self.tensors.iter().find_map(|t| {
            let bad = t.grad.iter().find(|g| !g.is_finite())?;
            Some((t.name.as_str(), *bad))
        })
    }
}

fn tensor(
    trainable: bool,
    name: String,
    shape: Vec<usize>,
    value: Vec<f32>,
    optimizer: &Optimizer,
) -> TensorState {
    let trainable = trainable && !is_buffer(&name);
    let moments = if trainable { value.len() } else { 0 };
    let lr_scale = optimizer
        .groups
        .iter()
        .rev()
        .find(|group| glob::matches(&group.pattern, &name))
        .map_or(1.0, |group| group.lr_scale);
    let decays = decays(&name, &shape);
    let muon = trainable && decays && optimizer.muon.as_ref().is_some_and(|m| glob::any(&m.patterns, &name));
    let ema = optimizer.ema_decay.filter(|_| trainable).map_or_else(Vec::new, |_| value.clone());
    TensorState {
        ema,
        updates: 0,
        decays,
        muon,
        grad: Vec::new(),
        mean: vec![0.0; moments],
        square: vec![0.0; if muon { 0 } else { moments }],
        name,
        shape,
        value,
        trainable,
        lr_scale,
    }
}

/// SAM's random Fourier matrix is drawn once and never learnt.
fn is_buffer(name: &str) -> bool {
    name.ends_with("positional_encoding_gaussian_matrix")
}

/// Weights of linear layers and convolutions decay; norms, biases, positions and
/// learnt tokens do not (spec 5.3).
fn decays(name: &str, shape: &[usize]) -> bool {
    let token = ["pos_embed", "rel_pos_", "_token", "point_embed", "_embed.weight", "mask_tokens"];
    shape.len() >= 2 && name.ends_with("weight") && !token.iter().any(|part| name.contains(part))
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_into_vec().expect("gradients are f32")
}

struct Collect<'a> {
    next: usize,
    tensors: &'a [TensorState],
    out: &'a mut [Option<Vec<f32>>],
    grads: &'a mut Gradients,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let i = self.next;
        self.next += 1;
        if self.tensors[i].trainable {
            self.out[i] = param.val().grad_remove(self.grads).map(values);
        }
    }
}

struct Apply<'a> {
    next: usize,
    tensors: &'a [TensorState],
    device: Device,
    read: fn(&TensorState) -> &[f32],
}

impl ModuleMapper for Apply<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let state = &self.tensors[self.next];
        self.next += 1;
        let data = TensorData::new((self.read)(state).to_vec(), state.shape.clone());
        let fresh = Tensor::from_data(data, &self.device).set_require_grad(state.trainable);
        param.map(|_| fresh)
    }
}

struct Refresh<'a>(Apply<'a>);

impl ModuleMapper for Refresh<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if self.0.tensors[self.0.next].trainable {
            return self.0.map_float(param);
        }
        self.0.next += 1;
        param
    }
}

#[cfg(test)]
mod tests {
    use super::decays;

    #[test]
    fn only_matrices_and_convolutions_decay() {
        assert!(decays("image_encoder.blocks.0.attn.qkv.weight", &[12, 4]));
        assert!(decays("image_encoder.neck.2.weight", &[8, 8, 3, 3]));
        assert!(decays("aux.feature_distill.weight", &[8, 8]));
        for (name, shape) in [
            ("image_encoder.blocks.0.attn.qkv.bias", vec![12]),
            ("image_encoder.blocks.0.norm1.weight", vec![12]),
            ("image_encoder.pos_embed", vec![1, 4, 4, 12]),
            ("image_encoder.blocks.0.attn.rel_pos_h", vec![7, 4]),
            ("prompt_encoder.point_embeddings.0.weight", vec![1, 12]),
            ("prompt_encoder.not_a_point_embed.weight", vec![1, 12]),
            ("prompt_encoder.no_mask_embed.weight", vec![1, 12]),
            ("mask_decoder.iou_token.weight", vec![1, 12]),
            ("mask_decoder.mask_tokens.weight", vec![4, 12]),
        ] {
            assert!(!decays(name, &shape), "{name}");
        }
    }
}
