//! AdamW, Muon, gradient clipping and the learning-rate schedule.
//!
//! Paper: AdamW (arXiv:1711.05101) alg. 2. Reference: torch.optim.AdamW,
//! torch.nn.utils.clip_grad_norm_. Parity: `tests/losses.rs`, five clipped steps, and
//! `tests/parity_steps.rs`, twenty steps of a whole model.

mod muon;

use crate::parameters::{Parameters, TensorState};
use crate::recipe::Optimizer;
use rayon::prelude::*;
use samclip_models::ops;

/// torch's default.
const EPS: f32 = 1e-8;

/// Learning rate of `step` (from 0) out of `steps`: linear warm-up, constant, cosine
/// decay over the last `decay_steps`.
pub fn learning_rate(optimizer: &Optimizer, step: usize, steps: usize) -> f32 {
    let Optimizer { lr, final_lr, warmup_steps, decay_steps, .. } = *optimizer;
    if step < warmup_steps {
        return lr * (step + 1) as f32 / warmup_steps as f32;
    }
    let decay_start = steps.saturating_sub(decay_steps);
    if decay_steps == 0 || step < decay_start {
        return lr;
    }
    let progress = ((step - decay_start + 1) as f32 / decay_steps as f32).min(1.0);
    final_lr + 0.5 * (lr - final_lr) * (1.0 + (std::f32::consts::PI * progress).cos())
}

/// Norm of the whole gradient, f64 sum in the order of the names.
pub fn gradient_norm(parameters: &Parameters) -> f32 {
    let squares: Vec<f64> = parameters
        .tensors()
        .par_iter()
        .map(|t| t.grad.iter().map(|&g| f64::from(g) * f64::from(g)).sum())
        .collect();
    squares.iter().sum::<f64>().sqrt() as f32
}

/// One step of AdamW, or of Muon where the recipe says so, on every trainable tensor that has a gradient, after
/// scaling the gradient to `clip_norm`. Clears the gradients; returns the norm before clipping.
/// As in torch, a tensor without a gradient neither moves nor decays nor counts the step.
pub fn step(parameters: &mut Parameters, optimizer: &Optimizer, lr: f32) -> f32 {
    let norm = gradient_norm(parameters);
    let clip = (optimizer.clip_norm / (norm + 1e-6)).min(1.0);
    let precision = ops::precision();
    parameters.tensors_mut().par_iter_mut().for_each(|tensor| {
        if tensor.grad.is_empty() {
            return;
        }
        tensor.updates += 1;
        let rate = lr * tensor.lr_scale;
        let keep = 1.0 - rate * if tensor.decays { optimizer.weight_decay } else { 0.0 };
        match &optimizer.muon {
            Some(options) if tensor.muon => muon::step(tensor, precision, options.momentum, clip, rate, keep),
            _ => adamw(tensor, optimizer.betas, clip, rate, keep),
        }
        tensor.grad.clear();
        if let Some(decay) = optimizer.ema_decay {
            // torch.optim.swa_utils.AveragedModel with get_ema_multi_avg_fn: the first update copies
            let decay = if tensor.updates == 1 { 0.0 } else { decay };
            tensor.ema.iter_mut().zip(&tensor.value).for_each(|(e, w)| *e = decay * *e + (1.0 - decay) * w);
        }
    });
    norm
}

fn adamw(tensor: &mut TensorState, [beta1, beta2]: [f32; 2], clip: f32, rate: f32, keep: f32) {
    let t = tensor.updates as i32;
    let correction1 = (1.0 - f64::from(beta1).powi(t)) as f32;
    let correction2 = (1.0 - f64::from(beta2).powi(t)).sqrt() as f32;
    let size = rate / correction1;
    let value = tensor.value.iter_mut().zip(&tensor.grad);
    let moments = tensor.mean.iter_mut().zip(tensor.square.iter_mut());
    for ((w, &g), (m, v)) in value.zip(moments) {
        let g = g * clip;
        *w *= keep;
        *m += (1.0 - beta1) * (g - *m);
        *v = beta2 * *v + (1.0 - beta2) * g * g;
        *w -= size * *m / (v.sqrt() / correction2 + EPS);
    }
}

#[cfg(test)]
mod tests {
    use super::learning_rate;
    use crate::recipe::Optimizer;

    #[test]
    fn warm_up_constant_and_decay() {
        let optimizer = Optimizer {
            lr: 1.0,
            final_lr: 0.1,
            warmup_steps: 4,
            decay_steps: 10,
            betas: [0.9, 0.999],
            weight_decay: 0.0,
            clip_norm: 1.0,
            accumulate: 1,
            ema_decay: None,
            muon: None,
            groups: Vec::new(),
        };
        let rate = |step| learning_rate(&optimizer, step, 30);
        assert_eq!(rate(0), 0.25);
        assert_eq!(rate(3), 1.0);
        assert_eq!(rate(19), 1.0);
        assert!((rate(24) - 0.55).abs() < 1e-6, "half-way: {}", rate(24));
        assert!((rate(29) - 0.1).abs() < 1e-6);
    }
}
