//! Tests of the rows kernels against f64 and across tiers.

use crate::testing::{close, data, every_tier};
use crate::{Conv3x3, Precision, conv3x3, conv3x3_backward, col2im_3x3, im2col_3x3, layer_norm, layer_norm_backward};

fn norm64(x: &[f64], w: &[f32], b: &[f32], eps: f64) -> Vec<f64> {
    let n = w.len();
    let mut y = Vec::new();
    for row in x.chunks_exact(n) {
        let mean = row.iter().sum::<f64>() / n as f64;
        let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n as f64;
        let r = 1.0 / (var + eps).sqrt();
        y.extend(row.iter().enumerate().map(|(i, v)| (v - mean) * r * f64::from(w[i]) + f64::from(b[i])));
    }
    y
}

#[test]
fn layer_norm_and_its_gradients() {
    every_tier(|isa| {
        for (rows, n) in [(1, 5), (3, 16), (150, 37), (7, 256)] {
            let x: Vec<f32> = data(rows * n, 1).iter().map(|v| 3.0 * v + 10.0).collect();
            let (w, b, dy) = (data(n, 2), data(n, 3), data(rows * n, 4));
            let wide: Vec<f64> = x.iter().map(|&v| v.into()).collect();
            let mut y = vec![0.0; x.len()];
            layer_norm(&x, &w, &b, 1e-5, &mut y);
            close(&format!("{isa:?} {rows}x{n} forward"), &y, &norm64(&wide, &w, &b, 1e-5), 2e-6);
            let (mut dx, mut dw, mut db) = (vec![0.0; x.len()], vec![9.0; n], vec![9.0; n]);
            layer_norm_backward(&x, &w, &dy, 1e-5, &mut dx, &mut dw, &mut db);
            let loss = |x: &[f64], w: &[f32]| -> f64 {
                norm64(x, w, &b, 1e-5).iter().zip(&dy).map(|(y, &d)| y * f64::from(d)).sum()
            };
            // Finite differences of the f64 forward on a spread of elements.
            let picks: Vec<usize> = (0..x.len()).step_by(x.len() / 23 + 1).collect();
            let want: Vec<f64> = picks
                .iter()
                .map(|&i| {
                    let (mut hi, mut lo) = (wide.clone(), wide.clone());
                    hi[i] += 1e-5;
                    lo[i] -= 1e-5;
                    (loss(&hi, &w) - loss(&lo, &w)) / 2e-5
                })
                .collect();
            let got: Vec<f32> = picks.iter().map(|&i| dx[i]).collect();
            close(&format!("{isa:?} {rows}x{n} dx"), &got, &want, 1e-4);
            let ones = vec![1.0f32; n];
            let zeros = vec![0.0f32; n];
            let unit = norm64(&wide, &ones, &zeros, 1e-5);
            let sum = |f: &dyn Fn(usize) -> f64| -> Vec<f64> {
                (0..n).map(|c| (0..rows).map(|r| f(r * n + c)).sum()).collect()
            };
            close("dweight", &dw, &sum(&|i| unit[i] * f64::from(dy[i])), 1e-5);
            close("dbias", &db, &sum(&|i| f64::from(dy[i])), 1e-5);
        }
    });
}

#[test]
fn patches_are_the_neighbourhoods() {
    for stride in [1, 2] {
        for (h, w) in [(1, 1), (4, 5), (7, 6)] {
            let c = Conv3x3 { batch: 2, height: h, width: w, channels: 3, stride };
            let x = data(2 * h * w * 3, 1);
            let (m, k) = c.patches();
            let mut p = vec![f32::NAN; m * k];
            im2col_3x3(&c, &x, &mut p);
            let (oh, ow) = c.output();
            for (i, &got) in p.iter().enumerate() {
                let (row, t, ch) = (i / k, i % k / 3, i % 3);
                let (b, oy, ox) = (row / (oh * ow), row / ow % oh, row % ow);
                let (y, x0) = ((oy * stride + t / 3) as isize - 1, (ox * stride + t % 3) as isize - 1);
                let inside = y >= 0 && x0 >= 0 && y < h as isize && x0 < w as isize;
                let want = if inside { x[((b * h + y as usize) * w + x0 as usize) * 3 + ch] } else { 0.0 };
                assert_eq!(got, want);
            }
            // <im2col x, p> = <x, col2im p> for any p: the adjoint.
            let q = data(m * k, 2);
            let mut dx = vec![f32::NAN; x.len()];
            col2im_3x3(&c, &q, &mut dx);
            let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(a, b)| f64::from(a * b)).sum() };
            assert!((dot(&p, &q) - dot(&x, &dx)).abs() < 1e-4, "stride {stride}, {h} x {w}");
        }
    }
}

/// The convolution and its gradients are linear: three inner products agree.
#[test]
fn convolution_and_its_adjoints() {
    every_tier(|isa| {
        // 19 images make groups of several images and a smaller last one.
        for (batch, side, channels, out, stride) in [(2, 5, 3, 7, 1), (19, 64, 4, 5, 2)] {
            let c = Conv3x3 { batch, height: side, width: side, channels, stride };
            let (m, k) = c.patches();
            let (x, w, bias) = (data(batch * side * side * channels, 1), data(out * k, 2), data(out, 3));
            let mut y = vec![f32::NAN; m * out];
            conv3x3(Precision::F32, &c, &x, &w, Some(&bias), &mut y);
            let mut patches = vec![0.0; m * k];
            im2col_3x3(&c, &x, &mut patches);
            let want: Vec<f64> = (0..m * out)
                .map(|i| {
                    let (row, o) = (i / out, i % out);
                    let dot: f64 = (0..k).map(|t| f64::from(patches[row * k + t]) * f64::from(w[o * k + t])).sum();
                    dot + f64::from(bias[o])
                })
                .collect();
            close(&format!("{isa:?} conv"), &y, &want, 2e-6);
            let dy = data(m * out, 4);
            let (mut dx, mut dw, mut db) = (vec![f32::NAN; x.len()], vec![f32::NAN; w.len()], vec![f32::NAN; out]);
            conv3x3_backward(Precision::F32, &c, &x, &w, &dy, Some(&mut dx), &mut dw, Some(&mut db));
            let dot = |a: &[f32], b: &[f32]| -> f64 { a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum() };
            let linear: f64 = (0..m * out).map(|i| (want[i] - f64::from(bias[i % out])) * f64::from(dy[i])).sum();
            let near = |got: f64, what: &str| assert!((got - linear).abs() < 1e-4 * linear.abs().max(1.0), "{isa:?} {what}: {got} {linear}");
            near(dot(&x, &dx), "dx");
            near(dot(&w, &dw), "dw");
            let sums: Vec<f64> = (0..out).map(|o| dy.iter().skip(o).step_by(out).map(|&v| f64::from(v)).sum()).collect();
            close("dbias", &db, &sums, 1e-5);
        }
    });
}
