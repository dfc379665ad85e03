//! Tests of the gemm kernels against f64 and across tiers.

use crate::isa::Isa;
use crate::testing::{close, data, every_tier};
use crate::{Init, Layout, Precision, column_sums, gemm};

fn naive([m, n, k]: [usize; 3], a: &[f32], at: Layout, b: &[f32], bt: Layout) -> Vec<f64> {
    let mut c = vec![0.0f64; m * n];
    for i in 0..m {
        for p in 0..k {
            let x = f64::from(if at == Layout::Normal { a[i * k + p] } else { a[p * m + i] });
            for j in 0..n {
                let y = if bt == Layout::Normal { b[p * n + j] } else { b[j * k + p] };
                c[i * n + j] += x * f64::from(y);
            }
        }
    }
    c
}

const SHAPES: &[[usize; 3]] = &[
    [1, 1, 1],
    [1, 7, 3],
    [5, 1, 33],
    [16, 16, 32],
    [31, 33, 17],
    [64, 48, 96],
    [13, 300, 65],
    [200, 70, 31],
    [193, 257, 129],
    [37, 41, 1500],
    [400, 96, 256],
];

#[test]
fn every_shape_layout_and_tier_matches_f64() {
    every_tier(|isa| {
        for (s, &dims) in SHAPES.iter().enumerate() {
            let [m, n, k] = dims;
            let (a, b) = (data(m * k, 1 + s as u64), data(k * n, 100 + s as u64));
            for at in [Layout::Normal, Layout::Transposed] {
                for bt in [Layout::Normal, Layout::Transposed] {
                    let want = naive(dims, &a, at, &b, bt);
                    for precision in [Precision::F32, Precision::Bf16] {
                        let bf16 = precision == Precision::Bf16 && isa >= Isa::Avx512Bf16;
                        let mut c = vec![f32::NAN; m * n];
                        gemm(precision, dims, (&a, at), (&b, bt), &mut c, Init::Zero);
                        let tolerance = if bf16 { 1e-2 } else { 2e-6 };
                        close(&format!("{isa:?} {precision:?} {dims:?} {at:?} {bt:?}"), &c, &want, tolerance);
                    }
                }
            }
        }
    });
}

#[test]
fn bias_and_accumulation() {
    every_tier(|isa| {
        let dims @ [m, n, k] = [70, 45, 700];
        let (a, b, bias) = (data(m * k, 3), data(k * n, 4), data(n, 5));
        let product = naive(dims, &a, Layout::Normal, &b, Layout::Normal);
        for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 1e-2)] {
            let start = data(m * n, 6);
            let mut c = start.clone();
            gemm(precision, dims, (&a, Layout::Normal), (&b, Layout::Normal), &mut c, Init::Keep);
            let want: Vec<f64> = product.iter().zip(&start).map(|(p, &s)| p + f64::from(s)).collect();
            close(&format!("{isa:?} keep"), &c, &want, tolerance);
            gemm(precision, dims, (&a, Layout::Normal), (&b, Layout::Normal), &mut c, Init::Bias(&bias));
            let want: Vec<f64> = product.iter().enumerate().map(|(i, p)| p + f64::from(bias[i % n])).collect();
            close(&format!("{isa:?} bias"), &c, &want, tolerance);
        }
    });
}

#[test]
fn empty_depth_leaves_the_start() {
    let mut c = vec![1.0; 6];
    gemm(Precision::F32, [2, 3, 0], (&[], Layout::Normal), (&[], Layout::Normal), &mut c, Init::Bias(&[1.0, 2.0, 3.0]));
    assert_eq!(c, [1.0, 2.0, 3.0, 1.0, 2.0, 3.0]);
    gemm(Precision::Bf16, [0, 3, 4], (&[], Layout::Normal), (&[0.0; 12], Layout::Normal), &mut [], Init::Zero);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    every_tier(|isa| {
        let dims @ [m, n, k] = [300, 520, 700];
        let (a, b) = (data(m * k, 3), data(k * n, 4));
        for precision in [Precision::F32, Precision::Bf16] {
            let run = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let mut c = vec![0.0; m * n];
                pool.install(|| gemm(precision, dims, (&a, Layout::Normal), (&b, Layout::Normal), &mut c, Init::Zero));
                c
            };
            assert!(run(1) == run(5), "{isa:?} {precision:?}");
        }
    });
}

#[test]
fn not_a_number_stays() {
    every_tier(|isa| {
        let mut a = data(40 * 64, 1);
        a[7 * 64 + 3] = f32::NAN;
        let b = data(64 * 40, 2);
        for precision in [Precision::F32, Precision::Bf16] {
            let mut c = vec![0.0; 1600];
            gemm(precision, [40, 40, 64], (&a, Layout::Normal), (&b, Layout::Normal), &mut c, Init::Zero);
            for (i, v) in c.iter().enumerate() {
                assert_eq!(v.is_nan(), i / 40 == 7, "{isa:?} {precision:?} row {}", i / 40);
            }
        }
    });
}

#[test]
fn column_sums_are_exact_for_small_integers() {
    let x: Vec<f32> = (0..700 * 3).map(|i| (i % 5) as f32).collect();
    let mut sums = [9.0; 3];
    column_sums(&x, &mut sums);
    let want: Vec<f32> = (0..3).map(|c| x.iter().skip(c).step_by(3).sum()).collect();
    assert_eq!(sums.to_vec(), want);
}
