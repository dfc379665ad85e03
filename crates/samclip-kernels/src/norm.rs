//! Layer normalisation over the last axis (Ba et al., 2016), forward and
//! backward; the backward computes mean and variance again.
use crate::scratch::SharedPtr;
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};
use rayon::prelude::*;

/// Rows of one task; fixed, so that sums over rows have a fixed order.
const ROWS: usize = 64;

/// `y = (x - mean) / sqrt(var + eps) * weight + bias` for rows of `weight.len()`.
///
/// # Panics
/// When the slices do not have matching lengths.
pub fn layer_norm(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    let n = weight.len();
    check(n, &[x.len(), y.len()], &[bias.len()]);
    if n == 0 {
        return;
    }
    y.par_chunks_mut(ROWS * n).zip(x.par_chunks(ROWS * n)).for_each(|(y, x)| {
        dispatch(Forward { x, weight, bias, eps, y });
    });
}

/// Gradients of [`layer_norm`]: `dx` like `x`, `dweight` and `dbias` like the
/// parameters (overwritten).
///
/// # Panics
/// When the slices do not have matching lengths.
pub fn layer_norm_backward(
    x: &[f32],
    weight: &[f32],
    dy: &[f32],
    eps: f32,
    dx: &mut [f32],
    dweight: &mut [f32],
    dbias: &mut [f32],
) {
    let n = weight.len();
    check(n, &[x.len(), dy.len(), dx.len()], &[dweight.len(), dbias.len()]);
    if n == 0 {
        return;
    }
    let tasks = x.len().div_ceil(ROWS * n);
    // [task][dweight, dbias]
    let mut partial = vec![0.0f32; tasks * 2 * n];
    dx.par_chunks_mut(ROWS * n)
        .zip(x.par_chunks(ROWS * n))
        .zip(dy.par_chunks(ROWS * n))
        .zip(partial.par_chunks_mut(2 * n))
        .for_each(|(((dx, x), dy), part)| {
            let part = SharedPtr::of(part);
            dispatch(Backward { x, weight, dy, eps, dx, part });
        });
    dweight.fill(0.0);
    dbias.fill(0.0);
    for part in partial.chunks_exact(2 * n) {
        dweight.iter_mut().zip(&part[..n]).for_each(|(a, b)| *a += b);
        dbias.iter_mut().zip(&part[n..]).for_each(|(a, b)| *a += b);
    }
}

fn check(n: usize, rows: &[usize], params: &[usize]) {
    assert!(params.iter().all(|&p| p == n), "layer_norm: parameters have different lengths");
    let equal = rows.iter().all(|&r| r == rows[0]);
    assert!(equal && (n == 0 || rows[0] % n == 0), "layer_norm: not rows of {n}");
}

struct Forward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    y: &'a mut [f32],
}

/// Mean and 1 / sqrt(var + eps) of a row, two passes.
///
/// # Safety
/// `x` covers `n` floats.
#[inline(always)]
unsafe fn moments<S: Simd>(s: S, x: *const f32, n: usize, eps: f32) -> (f32, f32) {
    let (mut sum, mut sq) = (s.splat(0.0), s.splat(0.0));
    let whole = n / S::N * S::N;
    let mut j = 0;
    // SAFETY: contract above.
    unsafe {
        while j < n {
            sum = s.add(sum, load_upto(s, x.add(j), n - j));
            j += S::N;
        }
        let mean = s.sum(sum) / n as f32;
        let m = s.splat(mean);
        j = 0;
        while j < whole {
            let c = s.sub(s.load(x.add(j)), m);
            sq = s.fma(c, c, sq);
            j += S::N;
        }
        let mut var = s.sum(sq);
        for j in whole..n {
            let c = *x.add(j) - mean;
            var += c * c;
        }
        (mean, 1.0 / (var / n as f32 + eps).sqrt())
    }
}

impl Kernel for Forward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let n = self.weight.len();
        for r in 0..self.x.len() / n {
            // SAFETY: row r of x and y; parameters have n floats.
            unsafe {
                let (x, y) = (self.x.as_ptr().add(r * n), self.y.as_mut_ptr().add(r * n));
                row(s, x, (self.weight, self.bias, self.eps), y);
            }
        }
    }
}

/// One row of [`layer_norm`].
///
/// # Safety
/// `x` and `y` cover the floats of the parameters.
#[inline(always)]
unsafe fn row<S: Simd>(s: S, x: *const f32, (weight, bias, eps): (&[f32], &[f32], f32), y: *mut f32) {
    let n = weight.len();
    // SAFETY: contract above.
    unsafe {
        let (mean, rstd) = moments(s, x, n, eps);
        let (mean, rstd) = (s.splat(mean), s.splat(rstd));
        let mut j = 0;
        while j < n {
            let left = n - j;
            let h = s.mul(s.sub(load_upto(s, x.add(j), left), mean), rstd);
            let w = load_upto(s, weight.as_ptr().add(j), left);
            let b = load_upto(s, bias.as_ptr().add(j), left);
            store_upto(s, y.add(j), s.fma(h, w, b), left);
            j += S::N;
        }
    }
}

/// [`row`] with the parameters of a block.
///
/// # Safety
/// As there.
#[inline(always)]
pub(crate) unsafe fn norm_row<S: Simd>(s: S, x: *const f32, norm: &crate::block::Norm, y: *mut f32) {
    // SAFETY: contract above.
    unsafe { row(s, x, (&norm.weight, &norm.bias, norm.eps), y) }
}

struct Backward<'a> {
    x: &'a [f32],
    weight: &'a [f32],
    dy: &'a [f32],
    eps: f32,
    dx: &'a mut [f32],
    /// `[dweight, dbias]` of this task.
    part: SharedPtr,
}

impl Kernel for Backward<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) {
        let n = self.weight.len();
        let weight = self.weight.as_ptr();
        for r in 0..self.x.len() / n {
            // SAFETY: row r of x, dy, dx; weight has n floats, part 2 n.
            unsafe {
                let (x, dy) = (self.x.as_ptr().add(r * n), self.dy.as_ptr().add(r * n));
                let dx = self.dx.as_mut_ptr().add(r * n);
                let (dw, db) = (self.part.get(), self.part.get().add(n));
                let (mean, rstd) = moments(s, x, n, self.eps);
                let (mv, rv) = (s.splat(mean), s.splat(rstd));
                let (mut sg, mut sgh) = (s.splat(0.0), s.splat(0.0));
                let mut j = 0;
                while j < n {
                    let left = n - j;
                    let h = s.mul(s.sub(load_upto(s, x.add(j), left), mv), rv);
                    let d = load_upto(s, dy.add(j), left);
                    let g = s.mul(d, load_upto(s, weight.add(j), left));
                    // Lanes past the end have d = 0 and so g = 0.
                    sg = s.add(sg, g);
                    sgh = s.fma(g, h, sgh);
                    store_upto(s, dw.add(j), s.fma(d, h, load_upto(s, dw.add(j), left)), left);
                    store_upto(s, db.add(j), s.add(d, load_upto(s, db.add(j), left)), left);
                    j += S::N;
                }
                let (a, b) = (s.splat(s.sum(sg) / n as f32), s.splat(s.sum(sgh) / n as f32));
                j = 0;
                while j < n {
                    let left = n - j;
                    let h = s.mul(s.sub(load_upto(s, x.add(j), left), mv), rv);
                    let g = s.mul(load_upto(s, dy.add(j), left), load_upto(s, weight.add(j), left));
                    let v = s.mul(rv, s.sub(s.sub(g, a), s.mul(h, b)));
                    store_upto(s, dx.add(j), v, left);
                    j += S::N;
                }
            }
        }
    }
}
