//! The fused block against the same steps as separate kernels.

use crate::testing::{close, data, every_tier};
use crate::{
    Activation, AttentionShape, Block, Init, Layout, Norm, PackedLinear, Precision, RelTables, TokenGrid, gelu, gemm,
    layer_norm, quick_gelu, self_attention,
};

/// Relative positions of a case.
#[derive(Clone, Copy, PartialEq)]
enum Rel {
    None,
    /// Of the distance alone, as SAM's.
    Distance,
    /// A vector for every pair.
    Pairs,
}

struct Case {
    tokens: TokenGrid,
    dim: usize,
    hidden: usize,
    heads: usize,
    window: usize,
    rel: Rel,
    causal: bool,
    activation: Activation,
}

struct Weights {
    linear: [(Vec<f32>, Vec<f32>); 4],
    norms: [Norm; 2],
    rel: Option<(Vec<f32>, Vec<f32>, (usize, usize))>,
}

fn case(batch: usize, grid: (usize, usize), dim: usize, heads: usize, window: usize) -> Case {
    let tokens = TokenGrid { batch, grid };
    Case { tokens, dim, hidden: 4 * dim, heads, window, rel: Rel::Distance, causal: false, activation: Activation::Gelu }
}

fn cases() -> Vec<Case> {
    let clip = Case { rel: Rel::None, activation: Activation::QuickGelu, ..case(3, (1, 50), 64, 1, 0) };
    let text = Case { rel: Rel::None, causal: true, ..case(2, (1, 77), 96, 3, 0) };
    vec![
        case(1, (16, 16), 224, 7, 8),
        case(2, (9, 11), 96, 3, 4),
        case(1, (1, 1), 32, 1, 14),
        case(1, (20, 13), 448, 7, 0),
        Case { rel: Rel::Pairs, ..case(1, (20, 13), 96, 3, 0) },
        Case { rel: Rel::Pairs, ..case(1, (9, 11), 96, 3, 4) },
        case(1, (3, 2), 40, 5, 0),
        // Two of four heads make a whole panel.
        case(1, (10, 10), 64, 4, 4),
        case(2, (9, 7), 64, 4, 0),
        clip,
        text,
    ]
}

fn weights(c: &Case) -> Weights {
    let small = |n, k: usize, seed| data(n * k, seed).iter().map(|v| v / (k as f32).sqrt()).collect::<Vec<_>>();
    let (d, h) = (c.dim, c.hidden);
    let linear = |n, k, seed| (small(n, k, seed), data(n, seed + 1));
    let norm = |seed| Norm { weight: data(d, seed), bias: data(d, seed + 1), eps: 1e-6 };
    let side = if c.window > 0 { (c.window, c.window) } else { c.tokens.grid };
    let head = d / c.heads;
    Weights {
        linear: [linear(3 * d, d, 1), linear(d, d, 3), linear(h, d, 5), linear(d, h, 7)],
        norms: [norm(11), norm(13)],
        rel: (c.rel != Rel::None).then(|| (vectors(c.rel, side.0, head, 21), vectors(c.rel, side.1, head, 22), side)),
    }
}

/// `[side, side, head]`
fn vectors(rel: Rel, side: usize, head: usize, seed: u64) -> Vec<f32> {
    if rel == Rel::Pairs {
        return data(side * side * head, seed);
    }
    let all = data((2 * side - 1) * head, seed);
    let pairs = (0..side).flat_map(|query| (0..side).map(move |key| query + side - 1 - key));
    pairs.flat_map(|at| all[at * head..][..head].to_vec()).collect()
}

fn tables(w: &Weights) -> Option<RelTables<'_>> {
    w.rel.as_ref().map(|(rows, cols, grid)| RelTables { rows, cols, grid: *grid })
}

fn fused(precision: Precision, c: &Case, w: &Weights, x: &[f32]) -> Vec<f32> {
    let pack = |i: usize, k| PackedLinear::new(precision, &w.linear[i].0, k, &w.linear[i].1);
    let block = Block {
        norm1: w.norms[0].clone(),
        qkv: pack(0, c.dim),
        proj: pack(1, c.dim),
        norm2: w.norms[1].clone(),
        fc1: pack(2, c.dim),
        fc2: pack(3, c.hidden),
        activation: c.activation,
        heads: c.heads,
        window: c.window,
        causal: c.causal,
        precision,
    };
    let mut x = x.to_vec();
    block.forward(&mut x, c.tokens, tables(w));
    x
}

fn linear(x: &[f32], (weight, bias): &(Vec<f32>, Vec<f32>), k: usize) -> Vec<f32> {
    let (m, n) = (x.len() / k, bias.len());
    let mut y = vec![0.0; m * n];
    let (a, b) = ((x, Layout::Normal), (&weight[..], Layout::Transposed));
    gemm(Precision::F32, [m, n, k], a, b, &mut y, Init::Bias(bias));
    y
}

fn norm(x: &[f32], n: &Norm) -> Vec<f32> {
    let mut y = vec![0.0; x.len()];
    layer_norm(x, &n.weight, &n.bias, n.eps, &mut y);
    y
}

/// Token of every position of every window, none where it is padding.
fn windows(c: &Case) -> Vec<Option<usize>> {
    let (h, w) = c.tokens.grid;
    if c.window == 0 {
        return (0..c.tokens.batch * h * w).map(Some).collect();
    }
    let mut all = Vec::new();
    for b in 0..c.tokens.batch {
        for y0 in (0..h).step_by(c.window) {
            for x0 in (0..w).step_by(c.window) {
                for y in y0..y0 + c.window {
                    all.extend((x0..x0 + c.window).map(|x| (y < h && x < w).then_some((b * h + y) * w + x)));
                }
            }
        }
    }
    all
}

fn separate(c: &Case, w: &Weights, x: &[f32]) -> Vec<f64> {
    let d = c.dim;
    let y = norm(x, &w.norms[0]);
    let order = windows(c);
    let gathered: Vec<f32> =
        order.iter().flat_map(|t| t.map_or(vec![0.0; d], |t| y[t * d..][..d].to_vec())).collect();
    let qkv = linear(&gathered, &w.linear[0], d);
    let n = if c.window > 0 { c.window * c.window } else { c.tokens.grid.0 * c.tokens.grid.1 };
    let head_dim = d / c.heads;
    let scale = (head_dim as f32).sqrt().recip();
    let batch = order.len() / n;
    let shape = AttentionShape { batch, heads: c.heads, queries: n, keys: n, head_dim, scale, causal: c.causal };
    let mut out = vec![0.0; order.len() * d];
    self_attention(Precision::F32, &shape, &qkv, tables(w), &mut out);
    let out = linear(&out, &w.linear[1], d);
    let mut x = x.to_vec();
    for (token, row) in order.iter().zip(out.chunks(d)) {
        if let Some(token) = token {
            x[token * d..][..d].iter_mut().zip(row).for_each(|(x, v)| *x += v);
        }
    }
    let hidden = linear(&norm(&x, &w.norms[1]), &w.linear[2], d);
    let mut active = vec![0.0; hidden.len()];
    match c.activation {
        Activation::Gelu => gelu(&hidden, &mut active),
        Activation::QuickGelu => quick_gelu(&hidden, &mut active),
    }
    let y = linear(&active, &w.linear[3], c.hidden);
    x.iter().zip(y).map(|(&x, y)| f64::from(x + y)).collect()
}

#[test]
fn the_fused_block_is_its_steps() {
    every_tier(|isa| {
        for (i, c) in cases().iter().enumerate() {
            let w = weights(c);
            let (h, width) = c.tokens.grid;
            let x = data(c.tokens.batch * h * width * c.dim, 31);
            let want = separate(c, &w, &x);
            close(&format!("{isa:?} case {i} f32"), &fused(Precision::F32, c, &w, &x), &want, 2e-6);
            close(&format!("{isa:?} case {i} bf16"), &fused(Precision::Bf16, c, &w, &x), &want, 8e-3);
        }
    });
}

#[test]
fn results_do_not_depend_on_threads() {
    every_tier(|_| {
        for window in [0, 14] {
            let c = case(1, (33, 29), 96, 3, window);
            let w = weights(&c);
            let x = data(33 * 29 * 96, 5);
            let with = |threads| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                pool.install(|| fused(Precision::Bf16, &c, &w, &x))
            };
            assert_eq!(with(1), with(3), "windows of {window}");
        }
    });
}

#[test]
fn nan_stays_nan_and_nothing_is_nothing() {
    every_tier(|_| {
        let c = case(1, (8, 8), 32, 1, 4);
        let w = weights(&c);
        let mut x = data(64 * 32, 5);
        x[0] = f32::NAN;
        assert!(fused(Precision::Bf16, &c, &w, &x)[..32].iter().all(|v| v.is_nan()));
        let none = Case { tokens: TokenGrid { batch: 0, grid: (8, 8) }, ..c };
        assert!(fused(Precision::F32, &none, &w, &[]).is_empty());
    });
}
