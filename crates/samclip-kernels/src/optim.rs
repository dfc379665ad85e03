//! One fused AdamW step over a parameter (Loshchilov and Hutter, 2019,
//! algorithm 2; `torch.optim.AdamW`).
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};
use rayon::prelude::*;

/// Hyperparameters of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamW {
    /// Learning rate of this step.
    pub lr: f32,
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub eps: f32,
    /// Decoupled decay: `p -= lr * weight_decay * p`.
    pub weight_decay: f32,
    /// Number of this step, from 1.
    pub step: u32,
}

const TASK: usize = 1 << 14;

/// Updates `param` and both moments in place from `grad * grad_scale`.
///
/// # Panics
/// When the slices differ in length.
pub fn adamw_step(o: &AdamW, grad: &[f32], grad_scale: f32, param: &mut [f32], m: &mut [f32], v: &mut [f32]) {
    let n = param.len();
    assert!(grad.len() == n && m.len() == n && v.len() == n, "adamw: lengths differ");
    let correct = |beta: f32| (1.0 - f64::from(beta).powi(o.step as i32)) as f32;
    let (c1, c2) = (correct(o.beta1), correct(o.beta2));
    param
        .par_chunks_mut(TASK)
        .zip(grad.par_chunks(TASK))
        .zip(m.par_chunks_mut(TASK))
        .zip(v.par_chunks_mut(TASK))
        .for_each(|(((p, g), m), v)| dispatch(Step { o: *o, c1, c2, scale: grad_scale, p, g, m, v }));
}

struct Step<'a> {
    o: AdamW,
    c1: f32,
    c2: f32,
    scale: f32,
    p: &'a mut [f32],
    g: &'a [f32],
    m: &'a mut [f32],
    v: &'a mut [f32],
}

impl Kernel for Step<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let (o, n) = (self.o, self.p.len());
        let (b1, b2) = (s.splat(o.beta1), s.splat(o.beta2));
        let (a1, a2) = (s.splat(1.0 - o.beta1), s.splat(1.0 - o.beta2));
        let (decay, rate) = (s.splat(1.0 - o.lr * o.weight_decay), s.splat(o.lr / self.c1));
        let (root, eps, scale) = (s.splat(1.0 / self.c2.sqrt()), s.splat(o.eps), s.splat(self.scale));
        let (pp, pg, pm, pv) = (self.p.as_mut_ptr(), self.g.as_ptr(), self.m.as_mut_ptr(), self.v.as_mut_ptr());
        let mut j = 0;
        while j < n {
            let left = n - j;
            // SAFETY: the four slices have n elements.
            unsafe {
                let g = s.mul(scale, load_upto(s, pg.add(j), left));
                let m = s.fma(b1, load_upto(s, pm.add(j), left), s.mul(a1, g));
                let v = s.fma(b2, load_upto(s, pv.add(j), left), s.mul(a2, s.mul(g, g)));
                let step = s.div(s.mul(rate, m), s.fma(s.sqrt(v), root, eps));
                let p = s.sub(s.mul(decay, load_upto(s, pp.add(j), left)), step);
                store_upto(s, pm.add(j), m, left);
                store_upto(s, pv.add(j), v, left);
                store_upto(s, pp.add(j), p, left);
            }
            j += S::N;
        }
    }
}
