//! Tests of the elementwise kernels against f64 and across tiers.

use crate::isa::Isa;
use crate::testing::{close, data, every_tier};
use crate::{AdamW, adamw_step, add, gelu, gelu_backward, quick_gelu, quick_gelu_backward, softmax_rows};

/// erfc by its continued fraction (large z) or series (small z), f64.
fn erfc(z: f64) -> f64 {
    if z < 0.0 {
        return 2.0 - erfc(-z);
    }
    if z < 2.5 {
        let (mut term, mut sum) = (z, z);
        for n in 1..200 {
            term *= -z * z / n as f64;
            sum += term / (2 * n + 1) as f64;
        }
        return 1.0 - sum * 2.0 / std::f64::consts::PI.sqrt();
    }
    let mut f = z;
    for n in (1..200).rev() {
        f = z + n as f64 / 2.0 / f;
    }
    (-z * z).exp() / (f * std::f64::consts::PI.sqrt())
}

fn phi(x: f64) -> f64 {
    0.5 * erfc(-x / std::f64::consts::SQRT_2)
}

fn pdf(x: f64) -> f64 {
    (-x * x / 2.0).exp() / (2.0 * std::f64::consts::PI).sqrt()
}

fn grid() -> Vec<f32> {
    (-9000..=9000).map(|i| i as f32 / 1000.0).chain([0.0, 1e-30, -1e-30]).collect()
}

/// Every value within a relative error, so that the tails count.
fn each(what: &str, x: &[f32], got: &[f32], want: impl Fn(f64) -> f64, tolerance: f64, absolute: f64) {
    for (&x, &g) in x.iter().zip(got) {
        let w = want(f64::from(x));
        let error = (f64::from(g) - w).abs();
        assert!(error <= tolerance * w.abs() + absolute, "{what} at {x}: {g}, expected {w}");
    }
}

#[test]
fn gelu_is_exact_into_the_tail() {
    every_tier(|isa| {
        // Without a fused multiply-add the rounding of x^2 stays in the tail.
        let tail = if isa == Isa::Portable { 4e-6 } else { 1e-6 };
        let x = grid();
        let mut y = vec![0.0; x.len()];
        gelu(&x, &mut y);
        each(&format!("{isa:?} gelu"), &x, &y, |x| x * phi(x), tail, 1e-37);
        let ones = vec![1.0; x.len()];
        gelu_backward(&x, &ones, &mut y);
        each(&format!("{isa:?} gelu'"), &x, &y, |x| phi(x) + x * pdf(x), 1e-6, 3e-7);
    });
}

#[test]
fn quick_gelu_and_its_slope() {
    every_tier(|isa| {
        let x = grid();
        let sigmoid = |x: f64| 1.0 / (1.0 + (-1.702 * x).exp());
        let mut y = vec![0.0; x.len()];
        quick_gelu(&x, &mut y);
        each(&format!("{isa:?} quick gelu"), &x, &y, |x| x * sigmoid(x), 3e-6, 1e-30);
        let dy = vec![2.0; x.len()];
        quick_gelu_backward(&x, &dy, &mut y);
        let slope = |x: f64| 2.0 * (sigmoid(x) + 1.702 * x * sigmoid(x) * (1.0 - sigmoid(x)));
        each(&format!("{isa:?} quick gelu'"), &x, &y, slope, 3e-6, 1e-6);
    });
}

#[test]
fn specials_pass_through() {
    every_tier(|isa| {
        let x = [f32::NAN, f32::INFINITY, 100.0, -100.0, f32::MAX];
        let mut y = [0.0; 5];
        gelu(&x, &mut y);
        assert!(y[0].is_nan(), "{isa:?}");
        assert_eq!(&y[1..], &[f32::INFINITY, 100.0, 0.0, f32::MAX], "{isa:?}");
        quick_gelu(&x, &mut y);
        assert!(y[0].is_nan(), "{isa:?}");
        assert_eq!(y[2], 100.0, "{isa:?}");
    });
}

#[test]
fn softmax_of_odd_widths() {
    every_tier(|isa| {
        for width in [1, 3, 8, 17, 100, 4097] {
            let mut x: Vec<f32> = data(5 * width, 7).iter().map(|v| v * 20.0).collect();
            let mut want = Vec::new();
            for row in x.chunks_exact(width) {
                let m = row.iter().copied().fold(f32::MIN, f32::max);
                let e: Vec<f64> = row.iter().map(|&v| f64::from(v - m).exp()).collect();
                let sum: f64 = e.iter().sum();
                want.extend(e.iter().map(|v| v / sum));
            }
            softmax_rows(&mut x, width);
            close(&format!("{isa:?} softmax {width}"), &x, &want, 1e-6);
        }
    });
}

#[test]
fn addition() {
    every_tier(|_| {
        let (a, b) = (data(40_003, 1), data(40_003, 2));
        let mut c = vec![0.0; a.len()];
        add(&a, &b, &mut c);
        assert!(c.iter().zip(a.iter().zip(&b)).all(|(&c, (&a, &b))| c == a + b));
    });
}

#[test]
fn adamw_follows_the_algorithm() {
    every_tier(|isa| {
        let n = 1003;
        let mut p = data(n, 1);
        let (mut m, mut v) = (vec![0.0f32; n], vec![0.0f32; n]);
        let mut q: Vec<f64> = p.iter().map(|&x| x.into()).collect();
        let (mut qm, mut qv) = (vec![0.0f64; n], vec![0.0f64; n]);
        for step in 1..=5 {
            let g = data(n, 10 + u64::from(step));
            let o = AdamW { lr: 1e-2, beta1: 0.9, beta2: 0.95, eps: 1e-8, weight_decay: 0.1, step };
            adamw_step(&o, &g, 0.5, &mut p, &mut m, &mut v);
            for i in 0..n {
                let g = f64::from(g[i]) * 0.5;
                q[i] *= 1.0 - 1e-2 * 0.1;
                qm[i] = 0.9 * qm[i] + 0.1 * g;
                qv[i] = 0.95 * qv[i] + 0.05 * g * g;
                let (mh, vh) = (qm[i] / (1.0 - 0.9f64.powi(step as i32)), qv[i] / (1.0 - 0.95f64.powi(step as i32)));
                q[i] -= 1e-2 * mh / (vh.sqrt() + 1e-8);
            }
        }
        close(&format!("{isa:?} adamw"), &p, &q, 1e-6);
    });
}
