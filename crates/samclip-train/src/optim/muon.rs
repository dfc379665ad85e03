//! Muon: a matrix moves along its orthogonalized momentum.
//!
//! Source: Jordan et al., "Muon: An optimizer for hidden layers in neural networks" (2024); the rate as in
//! Moonlight (arXiv:2502.16982) §2.2, so that it and the weight decay are AdamW's. Reference: torch.optim.Muon with
//! `adjust_lr_fn="match_rms_adamw"`. Parity: `tests/losses.rs`. As in Jordan's code, and beyond torch's, the kernel
//! of a convolution is the matrix [out, in * height * width].

use crate::parameters::TensorState;
use samclip_kernels::{Init, Layout, Precision, gemm};

/// Coefficients of the quintic iteration, steepest at zero.
const QUINTIC: [f32; 3] = [3.4445, -4.7750, 2.0315];
/// Iterations.
const STEPS: usize = 5;
/// Least norm that is divided by.
const EPS: f32 = 1e-7;
/// Root mean square of AdamW's update of a matrix, by experience.
const RMS: f32 = 0.2;

/// One step of a matrix whose momentum is `tensor.mean`; the gradient counts `clip` times. `rate` and `keep` are
/// AdamW's: the learning rate, and what weight decay leaves of the value.
pub(super) fn step(tensor: &mut TensorState, precision: Precision, momentum: f32, clip: f32, rate: f32, keep: f32) {
    let rows = tensor.shape[0];
    let columns = tensor.value.len() / rows;
    let mut update: Vec<f32> = tensor
        .mean
        .iter_mut()
        .zip(&tensor.grad)
        .map(|(m, &g)| {
            let g = g * clip;
            *m += (1.0 - momentum) * (g - *m);
            g + momentum * (*m - g)
        })
        .collect();
    orthogonalize(&mut update, rows, columns, precision);
    let size = rate * RMS * (rows.max(columns) as f32).sqrt();
    for (w, u) in tensor.value.iter_mut().zip(&update) {
        *w = *w * keep - size * u;
    }
}

/// A row-major matrix becomes one with the same singular vectors, whose singular values lie near 1.
fn orthogonalize(x: &mut [f32], rows: usize, columns: usize, precision: Precision) {
    let norm = x.iter().map(|&v| f64::from(v) * f64::from(v)).sum::<f64>().sqrt() as f32;
    let scale = 1.0 / norm.max(EPS);
    x.iter_mut().for_each(|v| *v *= scale);
    // the Gram matrix of the shorter side
    let wide = rows <= columns;
    let (n, depth) = if wide { (rows, columns) } else { (columns, rows) };
    let (plain, turned) = if wide { (Layout::Normal, Layout::Transposed) } else { (Layout::Transposed, Layout::Normal) };
    let [a, b, c] = QUINTIC;
    let (mut gram, mut factor) = (vec![0.0; n * n], vec![0.0; n * n]);
    let mut next = vec![0.0; x.len()];
    for _ in 0..STEPS {
        gemm(precision, [n, n, depth], (x, plain), (x, turned), &mut gram, Init::Zero);
        gemm(precision, [n, n, n], (&gram, Layout::Normal), (&gram, Layout::Normal), &mut factor, Init::Zero);
        factor.iter_mut().zip(&gram).for_each(|(f, g)| *f = b * g + c * *f);
        match wide {
            true => gemm(precision, [n, depth, n], (&factor, Layout::Normal), (x, Layout::Normal), &mut next, Init::Zero),
            false => gemm(precision, [depth, n, n], (x, Layout::Normal), (&factor, Layout::Normal), &mut next, Init::Zero),
        }
        x.iter_mut().zip(&next).for_each(|(x, n)| *x = a * *x + n);
    }
}

#[cfg(test)]
mod tests {
    use super::orthogonalize;
    use samclip_kernels::Precision;

    /// Both ways round: the rows, or the columns where they are fewer, have squared lengths near 1 and stand nearly at
    /// right angles.
    #[test]
    fn the_result_is_nearly_orthogonal_whichever_side_is_shorter() {
        for [rows, columns] in [[3, 8], [8, 3], [5, 5]] {
            let mut x: Vec<f32> = (0..rows * columns).map(|i| ((i * i * 7 + 3 * i) % 23) as f32 - 11.0).collect();
            orthogonalize(&mut x, rows, columns, Precision::F32);
            let n = rows.min(columns);
            let (along, across) = if rows <= columns { (columns, 1) } else { (1, columns) };
            let dot = |i: usize, j: usize| -> f32 {
                let depth = rows.max(columns);
                (0..depth).map(|d| x[i * along + d * across] * x[j * along + d * across]).sum()
            };
            for i in 0..n {
                assert!((0.4..1.6).contains(&dot(i, i)), "{rows} x {columns}: {}", dot(i, i));
                (0..i).for_each(|j| assert!(dot(i, j).abs() < 0.5, "{rows} x {columns}: {}", dot(i, j)));
            }
        }
    }

    #[test]
    fn a_gradient_of_zeros_moves_nothing() {
        let mut x = vec![0.0; 12];
        orthogonalize(&mut x, 3, 4, Precision::F32);
        assert_eq!(x, vec![0.0; 12]);
    }
}
