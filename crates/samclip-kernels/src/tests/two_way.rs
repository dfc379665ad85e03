//! The mask decoder's image side and upscaling against naive f64, every tier.

use crate::isa::Isa;
use crate::testing::{close, data, every_tier};
use crate::{ImageSide, Norm, PackedLinear, Precision, Update, Upscaling};

type Rows = Vec<Vec<f64>>;

fn rows(x: &[f32], width: usize) -> Rows {
    x.chunks_exact(width).map(|r| r.iter().map(|&v| f64::from(v)).collect()).collect()
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn softmax(x: &[f64]) -> Vec<f64> {
    let max = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let e: Vec<f64> = x.iter().map(|v| (v - max).exp()).collect();
    let sum: f64 = e.iter().sum();
    e.iter().map(|v| v / sum).collect()
}

fn norm(x: &[f64], n: &Norm) -> Vec<f64> {
    let mean = x.iter().sum::<f64>() / x.len() as f64;
    let var = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (var + f64::from(n.eps)).sqrt();
    x.iter().zip(n.weight.iter().zip(&n.bias)).map(|(v, (w, b))| (v - mean) * scale * f64::from(*w) + f64::from(*b)).collect()
}

fn moved(x: &Rows, pe: &Rows) -> Rows {
    x.iter().zip(pe).map(|(x, p)| x.iter().zip(p).map(|(x, p)| x + p).collect()).collect()
}

/// What one prompt's columns read.
fn read(x: &Rows, pe: &Rows, queries: &Rows) -> Vec<f64> {
    let keys = moved(x, pe);
    let one = |q: &Vec<f64>| {
        let p = softmax(&keys.iter().map(|k| dot(q, k)).collect::<Vec<_>>());
        (0..q.len()).map(|c| p.iter().zip(x).map(|(p, x)| p * x[c]).sum::<f64>()).collect::<Vec<_>>()
    };
    queries.iter().flat_map(one).collect()
}

fn updated(x: &Rows, pe: &Rows, heads: usize, [keys, values]: [&Rows; 2], bias: &[f32], shift: &[f32], n: &Norm) -> Rows {
    let one = |(x, key): (&Vec<f64>, Vec<f64>)| {
        let scores: Vec<f64> = keys.iter().zip(bias).map(|(k, b)| dot(k, &key) + f64::from(*b)).collect();
        let mut y: Vec<f64> = x.iter().zip(shift).map(|(x, s)| x + f64::from(*s)).collect();
        for h in 0..heads {
            let of_head: Vec<f64> = scores.iter().skip(h).step_by(heads).copied().collect();
            for (t, p) in softmax(&of_head).into_iter().enumerate() {
                y.iter_mut().zip(&values[t * heads + h]).for_each(|(y, v)| *y += p * v);
            }
        }
        norm(&y, n)
    };
    x.iter().zip(moved(x, pe)).map(one).collect()
}

fn linear(x: &Rows, weight: &[f32], bias: &[f32]) -> Rows {
    let w = rows(weight, x[0].len());
    x.iter().map(|x| w.iter().zip(bias).map(|(w, b)| dot(w, x) + f64::from(*b)).collect()).collect()
}

fn gelu(x: f64) -> f64 {
    let x32 = [x as f32];
    let mut y = [0.0];
    crate::gelu(&x32, &mut y);
    f64::from(y[0])
}

/// Row-major masks of one prompt: [M, 4h, 4w].
fn masks(x: &Rows, (h, w): (usize, usize), up: &Parts, hyper: &Rows) -> Vec<f64> {
    let split = |x: Rows, parts: usize| -> Rows { x.iter().flat_map(|r| r.chunks(r.len() / parts).map(<[f64]>::to_vec)).collect() };
    let first = split(linear(x, &up.first.0, &up.first.1), 4);
    let first: Rows = first.iter().map(|r| norm(r, &up.norm).into_iter().map(gelu).collect()).collect();
    let second: Rows = split(linear(&first, &up.second.0, &up.second.1), 4);
    let pixels: Rows = second.into_iter().map(|r| r.into_iter().map(gelu).collect()).collect();
    let mut out = vec![0.0; hyper.len() * 16 * h * w];
    for (i, pixel) in pixels.iter().enumerate() {
        let (token, a, b) = (i / 16, i / 4 % 4, i % 4);
        let (y, x) = (token / w * 4 + a / 2 * 2 + b / 2, token % w * 4 + a % 2 * 2 + b % 2);
        for (m, weights) in hyper.iter().enumerate() {
            out[(m * 4 * h + y) * 4 * w + x] = dot(pixel, weights);
        }
    }
    out
}

struct Parts {
    first: (Vec<f32>, Vec<f32>),
    norm: Norm,
    second: (Vec<f32>, Vec<f32>),
}

fn small(n: usize, seed: u64, scale: f32) -> Vec<f32> {
    data(n, seed).into_iter().map(|v| v * scale).collect()
}

/// `tolerance` is for what the tokens read; updates and masks are in f32 whatever reading is.
fn case(precision: Precision, tolerance: f64, prompts: usize, heads: usize, tokens: usize, grid: (usize, usize)) {
    let (dim, n, columns) = (32, grid.0 * grid.1, heads * tokens);
    let (image, pe) = (data(n * dim, 1), data(n * dim, 2));
    let all = prompts * columns * dim;
    let (queries, again) = (small(all, 3, 0.5), small(all, 4, 0.5));
    let (keys, values, key_bias) = (small(all, 5, 0.5), small(all, 6, 0.5), data(prompts * columns, 7));
    let (shift, n1) = (data(dim, 8), Norm { weight: data(dim, 9), bias: data(dim, 10), eps: 1e-5 });
    let up = Parts {
        first: (small(dim * dim, 11, 0.3), data(dim, 12)),
        norm: Norm { weight: data(8, 13), bias: data(8, 14), eps: 1e-6 },
        second: (small(16 * 8, 15, 0.5), data(16, 16)),
    };
    let hyper = data(prompts * 3 * 4, 17);

    let mut side = ImageSide::new(precision, prompts, &image, &pe, dim);
    let first = side.pass(heads, None, &queries);
    let update = Update { keys: &keys, key_bias: &key_bias, values: &values, shift: &shift, norm: &n1 };
    let second = side.pass(heads, Some(&update), &again);
    let third = side.pass(heads, Some(&update), &queries);
    let pack = |(w, b): &(Vec<f32>, Vec<f32>), k| PackedLinear::new(Precision::F32, w, k, b);
    let packed = Upscaling { first: pack(&up.first, dim), norm: up.norm.clone(), second: pack(&up.second, 8) };
    let mut logits = vec![0.0; prompts * 3 * 16 * n];
    packed.masks(&side, grid, &hyper, &vec![true; prompts], &mut logits);

    let (x, pe) = (rows(&image, dim), rows(&pe, dim));
    let of = |v: &[f32], p: usize| rows(&v[p * columns * dim..][..columns * dim], dim);
    for p in 0..prompts {
        let name = |what: &str| format!("{what}, prompt {p} of {prompts}, {heads} heads");
        let part = |v: &[f32]| v[p * columns * dim..][..columns * dim].to_vec();
        close(&name("read"), &part(&first), &read(&x, &pe, &of(&queries, p)), tolerance);
        let bias = &key_bias[p * columns..][..columns];
        let step = |x: &Rows| updated(x, &pe, heads, [&of(&keys, p), &of(&values, p)], bias, &shift, &n1);
        let x1 = step(&x);
        close(&name("read again"), &part(&second), &read(&x1, &pe, &of(&again, p)), tolerance);
        let x2 = step(&x1);
        close(&name("read a third time"), &part(&third), &read(&x2, &pe, &of(&queries, p)), tolerance);
        let want = masks(&x2, grid, &up, &rows(&hyper[p * 12..][..12], 4));
        close(&name("masks"), &logits[p * want.len()..][..want.len()], &want, 2e-6);
    }
}

#[test]
fn image_side_and_masks_match_f64() {
    every_tier(|isa| {
        for (prompts, heads, tokens, grid) in [(1, 4, 3, (10, 15)), (9, 8, 7, (16, 9)), (2, 1, 1, (1, 1)), (1, 20, 2, (30, 21))] {
            case(Precision::F32, 2e-6, prompts, heads, tokens, grid);
            let tolerance = if isa >= Isa::Avx512Bf16 { 2e-2 } else { 2e-6 };
            case(Precision::Bf16, tolerance, prompts, heads, tokens, grid);
        }
    });
}

#[test]
fn the_number_of_threads_changes_nothing() {
    every_tier(|_| {
        let (image, pe, queries) = (data(1200 * 32, 1), data(1200 * 32, 2), data(4 * 8 * 32, 3));
        let run = || ImageSide::new(Precision::Bf16, 2, &image, &pe, 32).pass(4, None, &queries);
        let on = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool").install(run);
        assert_eq!(on(1), on(3));
    });
}

#[test]
fn not_a_number_stays() {
    every_tier(|_| {
        let (mut image, pe, queries) = (data(200 * 32, 1), data(200 * 32, 2), data(8 * 32, 3));
        image[5000] = f32::NAN;
        let read = ImageSide::new(Precision::Bf16, 1, &image, &pe, 32).pass(4, None, &queries);
        assert!(read.iter().all(|v| v.is_nan()), "every token reads every image token");
    });
}
