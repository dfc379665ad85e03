//! Element-wise kernels: exact GELU, QuickGELU, softmax over rows, addition.
//!
//! GELU is x Phi(x) with the erf of `torch.nn.functional.gelu` (Hendrycks and
//! Gimpel, 2016); QuickGELU is x sigmoid(1.702 x), `clip/model.py::QuickGELU`.
use crate::block::Activation;
use crate::math::{exp, logistic, normal};
use crate::scratch::SharedPtr;
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};
use rayon::prelude::*;

/// Elements of one task.
const TASK: usize = 1 << 14;

/// An element-wise function of up to two inputs.
trait Op: Copy + Send + Sync {
    const TWO: bool;
    fn apply<S: Simd>(self, s: S, x: S::V, y: S::V) -> S::V;
}

struct Map<'a, O> {
    op: O,
    x: &'a [f32],
    y: &'a [f32],
    dst: &'a mut [f32],
}

impl<O: Op> Kernel for Map<'_, O> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let n = self.dst.len();
        let (px, py, pd) = (self.x.as_ptr(), self.y.as_ptr(), self.dst.as_mut_ptr());
        let mut j = 0;
        while j < n {
            // SAFETY: x (and y where it is used) have the length of dst.
            unsafe {
                let x = load_upto(s, px.add(j), n - j);
                let y = if O::TWO { load_upto(s, py.add(j), n - j) } else { x };
                store_upto(s, pd.add(j), self.op.apply(s, x, y), n - j);
            }
            j += S::N;
        }
    }
}

fn map<O: Op>(op: O, x: &[f32], y: &[f32], dst: &mut [f32]) {
    assert_eq!(x.len(), dst.len(), "element-wise: lengths differ");
    assert!(!O::TWO || y.len() == dst.len(), "element-wise: lengths differ");
    if dst.len() <= TASK {
        return dispatch(Map { op, x, y, dst });
    }
    dst.par_chunks_mut(TASK).enumerate().for_each(|(i, dst)| {
        let range = i * TASK..i * TASK + dst.len();
        let y = if O::TWO { &y[range.clone()] } else { &[][..] };
        dispatch(Map { op, x: &x[range], y, dst });
    });
}

macro_rules! op {
    ($name:ident, $two:expr, |$s:ident, $x:ident, $y:ident| $body:expr) => {
        #[derive(Clone, Copy)]
        struct $name;
        impl Op for $name {
            const TWO: bool = $two;
            #[inline(always)]
            fn apply<S: Simd>(self, $s: S, $x: S::V, $y: S::V) -> S::V {
                $body
            }
        }
    };
}

op!(Gelu, false, |s, x, _y| s.mul(x, normal(s, x).0));
op!(GeluBackward, true, |s, x, dy| {
    let (cdf, pdf) = normal(s, x);
    s.mul(dy, s.fma(x, pdf, cdf))
});
op!(QuickGelu, false, |s, x, _y| s.mul(x, logistic(s, s.mul(x, s.splat(1.702)))));
op!(QuickGeluBackward, true, |s, x, dy| {
    let k = s.splat(1.702);
    let g = logistic(s, s.mul(x, k));
    let slope = s.fma(s.mul(s.mul(k, x), g), s.sub(s.splat(1.0), g), g);
    s.mul(dy, slope)
});
op!(Add, true, |s, x, y| s.add(x, y));

/// `y = x Phi(x)`, exact erf.
///
/// # Panics
/// When the lengths differ (so do all functions of this module).
pub fn gelu(x: &[f32], y: &mut [f32]) {
    map(Gelu, x, &[], y);
}

/// One map in place, on this thread.
///
/// # Safety
/// `x` covers `n` floats.
#[inline(always)]
unsafe fn in_place<S: Simd, O: Op>(s: S, op: O, x: *mut f32, n: usize) {
    let mut j = 0;
    while j < n {
        // SAFETY: contract above.
        unsafe {
            let v = load_upto(s, x.add(j), n - j);
            store_upto(s, x.add(j), op.apply(s, v, v), n - j);
        }
        j += S::N;
    }
}

/// An MLP's activation in place, on this thread.
///
/// # Safety
/// `x` covers `n` floats.
#[inline(always)]
pub(crate) unsafe fn activate<S: Simd>(s: S, activation: Activation, x: *mut f32, n: usize) {
    // SAFETY: contract above.
    unsafe {
        match activation {
            Activation::Gelu => in_place(s, Gelu, x, n),
            Activation::QuickGelu => in_place(s, QuickGelu, x, n),
        }
    }
}

/// `out = a + b`; `out` may be `a`.
///
/// # Safety
/// All cover `n` floats.
#[inline(always)]
pub(crate) unsafe fn sum<S: Simd>(s: S, a: *const f32, b: *const f32, out: *mut f32, n: usize) {
    for j in (0..n).step_by(S::N) {
        // SAFETY: contract above.
        unsafe { store_upto(s, out.add(j), s.add(load_upto(s, a.add(j), n - j), load_upto(s, b.add(j), n - j)), n - j) };
    }
}

/// `dx = dy (Phi(x) + x phi(x))`
pub fn gelu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    map(GeluBackward, x, dy, dx);
}

/// `y = x sigmoid(1.702 x)`
pub fn quick_gelu(x: &[f32], y: &mut [f32]) {
    map(QuickGelu, x, &[], y);
}

/// Gradient of [`quick_gelu`].
pub fn quick_gelu_backward(x: &[f32], dy: &[f32], dx: &mut [f32]) {
    map(QuickGeluBackward, x, dy, dx);
}

/// `out = a + b`
pub fn add(a: &[f32], b: &[f32], out: &mut [f32]) {
    map(Add, a, b, out);
}

/// Softmax of every row of `width`, in place.
pub fn softmax_rows(x: &mut [f32], width: usize) {
    if width == 0 {
        return;
    }
    assert_eq!(x.len() % width, 0, "softmax: not a whole number of rows");
    let rows = (TASK / width).max(1);
    x.par_chunks_mut(rows * width).for_each(|x| dispatch(Softmax { x: SharedPtr::of(x), rows: x.len() / width, width }));
}

struct Softmax {
    x: SharedPtr,
    rows: usize,
    width: usize,
}

impl Kernel for Softmax {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let n = self.width;
        for r in 0..self.rows {
            // SAFETY: the chunk has rows x width floats and belongs to this task.
            unsafe {
                let p = self.x.get().add(r * n);
                let row = std::slice::from_raw_parts_mut(p, n);
                let max = row.iter().fold(f32::NEG_INFINITY, |a, &b| if b > a { b } else { a });
                let mv = s.splat(max);
                let mut total = s.splat(0.0);
                let mut j = 0;
                while j < n {
                    let e = exp(s, s.sub(load_upto(s, p.add(j), n - j), mv));
                    store_upto(s, p.add(j), e, n - j);
                    total = s.add(total, load_upto(s, p.add(j), n - j));
                    j += S::N;
                }
                crate::attention::scale_row(s, p, p, n, 1.0 / s.sum(total));
            }
        }
    }
}
