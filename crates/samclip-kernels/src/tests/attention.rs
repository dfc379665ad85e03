//! Tests of the attention kernels against f64 and across tiers.

use crate::isa::Isa;
use crate::testing::{close, data, every_tier};
use crate::{RelTables, TableGrads, self_attention, self_attention_backward, AttentionGrads, AttentionShape, Precision, RelPos, RowStrides, attention_backward, attention_forward};

struct Case {
    shape: AttentionShape,
    grid: Option<(usize, usize)>,
}

fn case(batch: usize, heads: usize, queries: usize, keys: usize, head_dim: usize) -> Case {
    let scale = (head_dim as f32).sqrt().recip();
    Case { shape: AttentionShape { batch, heads, queries, keys, head_dim, scale, causal: false }, grid: None }
}

fn cases() -> Vec<Case> {
    let mut all = vec![
        case(1, 1, 1, 1, 1),
        case(1, 2, 3, 5, 32),
        case(2, 4, 70, 33, 64),
        case(1, 1, 200, 600, 32),
        case(2, 5, 197, 197, 80),
    ];
    for (h, w, d) in [(14, 14, 64), (5, 3, 32), (16, 16, 32), (4, 40, 16), (27, 23, 32), (5, 32, 64), (6, 64, 64)] {
        let mut c = case(1, 2, h * w, h * w, d);
        c.grid = Some((h, w));
        all.push(c);
    }
    for n in [1, 77, 140, 530] {
        let mut c = case(1, 2, n, n, 64);
        c.shape.causal = true;
        all.push(c);
    }
    all
}

struct Data {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    rel: Option<(Vec<f32>, Vec<f32>)>,
    go: Vec<f32>,
}

fn inputs(c: &Case) -> Data {
    let s = &c.shape;
    let bh = s.batch * s.heads;
    let big = |n, seed| data(n, seed).iter().map(|v| v * 2.0).collect::<Vec<_>>();
    Data {
        q: big(bh * s.queries * s.head_dim, 1),
        k: big(bh * s.keys * s.head_dim, 2),
        v: data(bh * s.keys * s.head_dim, 3),
        rel: c.grid.map(|(h, w)| (data(bh * s.queries * h, 4), data(bh * s.queries * w, 5))),
        go: data(bh * s.queries * s.head_dim, 6),
    }
}

/// Output, log-sum-exp and the gradients [q, k, v, rel_h, rel_w], f64, N x N.
fn naive(c: &Case, x: &Data) -> Wanted {
    let s = &c.shape;
    let (nq, nk, d) = (s.queries, s.keys, s.head_dim);
    let (kh, kw) = c.grid.unwrap_or((0, 0));
    let bh = s.batch * s.heads;
    let f = |v: &[f32], i: usize| f64::from(v[i]);
    let (mut out, mut lse) = (vec![0.0; bh * nq * d], vec![0.0; bh * nq]);
    let mut g = [vec![0.0; x.q.len()], vec![0.0; x.k.len()], vec![0.0; x.v.len()], vec![0.0; bh * nq * kh], vec![0.0; bh * nq * kw]];
    for r in 0..bh * nq {
        let (b, i) = (r / nq, r % nq);
        let live = if s.causal { i + 1 + nk - nq } else { nk };
        let score: Vec<f64> = (0..live)
            .map(|j| {
                let dot: f64 = (0..d).map(|t| f(&x.q, r * d + t) * f(&x.k, (b * nk + j) * d + t)).sum();
                let bias = x.rel.as_ref().map_or(0.0, |(h, w)| f(h, r * kh + j / kw) + f(w, r * kw + j % kw));
                dot * f64::from(s.scale) + bias
            })
            .collect();
        let max = score.iter().copied().fold(f64::MIN, f64::max);
        let total: f64 = score.iter().map(|v| (v - max).exp()).sum();
        lse[r] = max + total.ln();
        let p: Vec<f64> = score.iter().map(|v| (v - lse[r]).exp()).collect();
        let dp: Vec<f64> = (0..live).map(|j| (0..d).map(|t| f(&x.go, r * d + t) * f(&x.v, (b * nk + j) * d + t)).sum()).collect();
        let delta: f64 = p.iter().zip(&dp).map(|(a, b)| a * b).sum();
        for j in 0..live {
            let ds = p[j] * (dp[j] - delta);
            for t in 0..d {
                out[r * d + t] += p[j] * f(&x.v, (b * nk + j) * d + t);
                g[0][r * d + t] += ds * f64::from(s.scale) * f(&x.k, (b * nk + j) * d + t);
                g[1][(b * nk + j) * d + t] += ds * f64::from(s.scale) * f(&x.q, r * d + t);
                g[2][(b * nk + j) * d + t] += p[j] * f(&x.go, r * d + t);
            }
            if kw > 0 {
                g[3][r * kh + j / kw] += ds;
                g[4][r * kw + j % kw] += ds;
            }
        }
    }
    (out, lse, g)
}

/// [batch, heads, n, d] to [batch, n, heads, d] with the given gap of floats between tokens.
fn to_tokens(x: &[f32], s: &AttentionShape, n: usize, gap: usize) -> (Vec<f32>, RowStrides) {
    let width = s.heads * s.head_dim + gap;
    let st = RowStrides::token_major(n, width, s.head_dim);
    let mut y = vec![f32::NAN; s.batch * n * width];
    for (row, src) in x.chunks_exact(s.head_dim).enumerate() {
        let (b, h, i) = (row / (s.heads * n), row / n % s.heads, row % n);
        let at = st.batch * b + st.head * h + st.row * i;
        y[at..at + s.head_dim].copy_from_slice(src);
    }
    (y, st)
}

fn from_tokens(y: &[f32], s: &AttentionShape, n: usize, st: RowStrides) -> Vec<f32> {
    let mut x = Vec::new();
    for row in 0..s.batch * s.heads * n {
        let (b, h, i) = (row / (s.heads * n), row / n % s.heads, row % n);
        let at = st.batch * b + st.head * h + st.row * i;
        x.extend_from_slice(&y[at..at + s.head_dim]);
    }
    x
}

type Wanted = (Vec<f64>, Vec<f64>, [Vec<f64>; 5]);

fn check(isa: Isa, precision: Precision, c: &Case, x: &Data, (want, want_lse, grads): &Wanted, gap: usize) {
    let s = &c.shape;
    let bh = s.batch * s.heads;
    let ((q, qs), (k, ks), (v, vs)) = (to_tokens(&x.q, s, s.queries, gap), to_tokens(&x.k, s, s.keys, gap), to_tokens(&x.v, s, s.keys, gap));
    let (go, os) = to_tokens(&x.go, s, s.queries, 0);
    let rel = x.rel.as_ref().map(|(h, w)| RelPos { h, w, grid: c.grid.unwrap() });
    let (mut out, mut lse) = (vec![0.0; go.len()], vec![0.0; bh * s.queries]);
    attention_forward(precision, s, (&q, qs), (&k, ks), (&v, vs), rel, (&mut out, os), &mut lse);
    let name = format!("{isa:?} {precision:?} {s:?} {:?}", c.grid);
    let (t, tg) = if precision == Precision::Bf16 && isa >= Isa::Avx512Bf16 { (1.5e-2, 3e-2) } else { (1e-5, 1e-4) };
    close(&format!("{name} out"), &from_tokens(&out, s, s.queries, os), want, t);
    close(&format!("{name} lse"), &lse, want_lse, t);
    let (mut dq, mut dk, mut dv) = (vec![0.0; q.len()], vec![0.0; k.len()], vec![0.0; v.len()]);
    let (mut dh, mut dw) = (vec![9.0; grads[3].len()], vec![9.0; grads[4].len()]);
    let grads_out = AttentionGrads { q: &mut dq, k: &mut dk, v: &mut dv, rel: rel.is_some().then_some((&mut dh, &mut dw)) };
    attention_backward(precision, s, (&q, qs), (&k, ks), (&v, vs), rel, (&out, os), &lse, &go, grads_out);
    // With one key the gradient of the scores is zero: compare absolutely there.
    let near = |what: &str, got: &[f32], want: &[f64]| {
        let norm: f64 = want.iter().map(|v| v * v).sum::<f64>().sqrt();
        if norm < 1e-9 {
            assert!(got.iter().all(|v| v.abs() < 5e-2), "{name} {what}");
        } else {
            close(&format!("{name} {what}"), got, want, tg);
        }
    };
    near("dq", &from_tokens(&dq, s, s.queries, qs), &grads[0]);
    near("dk", &from_tokens(&dk, s, s.keys, ks), &grads[1]);
    near("dv", &from_tokens(&dv, s, s.keys, vs), &grads[2]);
    if rel.is_some() {
        near("drel_h", &dh, &grads[3]);
        near("drel_w", &dw, &grads[4]);
    }
}

#[test]
fn forward_and_gradients_match_f64() {
    for c in cases() {
        let x = inputs(&c);
        let want = naive(&c, &x);
        every_tier(|isa| {
            for precision in [Precision::F32, Precision::Bf16] {
                check(isa, precision, &c, &x, &want, 0);
            }
        });
    }
}

#[test]
fn strided_rows_leave_the_gaps_alone() {
    let c = case(2, 3, 40, 50, 32);
    let x = inputs(&c);
    let want = naive(&c, &x);
    every_tier(|isa| check(isa, Precision::F32, &c, &x, &want, 64));
}

/// The analytic f64 gradients above against finite differences of the f64 loss.
#[test]
fn the_reference_gradients_are_the_derivatives() {
    let mut c = case(1, 1, 6, 6, 4);
    c.grid = Some((2, 3));
    let x = inputs(&c);
    let loss = |x: &Data| -> f64 { naive(&c, x).0.iter().zip(&x.go).map(|(o, &g)| o * f64::from(g)).sum() };
    let grads = naive(&c, &x).2;
    let h = 1.0 / 1024.0;
    for which in 0..5 {
        let mut y = inputs(&c);
        let n = grads[which].len();
        let numeric: Vec<f32> = (0..n)
            .map(|i| {
                let mut at = |delta: f32| {
                    let rel = y.rel.as_mut().unwrap();
                    let v = match which {
                        0 => &mut y.q,
                        1 => &mut y.k,
                        2 => &mut y.v,
                        3 => &mut rel.0,
                        _ => &mut rel.1,
                    };
                    let keep = v[i];
                    v[i] = keep + delta;
                    let step = f64::from(v[i]) - f64::from(keep);
                    let l = loss(&y);
                    let rel = y.rel.as_mut().unwrap();
                    match which {
                        0 => y.q[i] = keep,
                        1 => y.k[i] = keep,
                        2 => y.v[i] = keep,
                        3 => rel.0[i] = keep,
                        _ => rel.1[i] = keep,
                    }
                    (l, step)
                };
                let ((hi, up), (lo, down)) = (at(h), at(-h));
                ((hi - lo) / (up - down)) as f32
            })
            .collect();
        close(&format!("gradient {which}"), &numeric, &grads[which], 1e-5);
    }
}

/// The packed form against the unpacked one with relative terms from naive sums.
#[test]
fn packed_self_attention_matches_its_parts() {
    every_tier(|isa| {
        for grid in [None, Some((3, 5)), Some((16, 16))] {
            let n = grid.map_or(21, |(h, w)| h * w);
            let mut c = case(2, 3, n, n, 32);
            c.grid = grid;
            let (s, d) = (c.shape, 32);
            let (gh, gw) = grid.unwrap_or((0, 0));
            let mut x = inputs(&c);
            let (rows, cols) = (data(gh * gh * d, 8), data(gw * gw * d, 9));
            let dot = |i: usize, t: &[f32]| -> f64 { (0..d).map(|c| f64::from(x.q[i * d + c]) * f64::from(t[c])).sum() };
            let term = |i: usize, k: usize, row: bool| {
                let (y, x) = (i % n / gw, i % n % gw);
                dot(i, if row { &rows[(y * gh + k) * d..] } else { &cols[(x * gw + k) * d..] }) as f32
            };
            x.rel = grid.map(|_| {
                let h = (0..s.batch * s.heads * n * gh).map(|j| term(j / gh, j % gh, true)).collect();
                (h, (0..s.batch * s.heads * n * gw).map(|j| term(j / gw, j % gw, false)).collect())
            });
            let (want, _, mut g) = naive(&c, &x);
            // Through the terms into the queries and the tables.
            let (mut drows, mut dcols) = (vec![0.0f64; rows.len()], vec![0.0f64; cols.len()]);
            for i in 0..s.batch * s.heads * n {
                for k in 0..gh + gw {
                    let (row, k) = (k < gh, if k < gh { k } else { k - gh });
                    let ds = if row { g[3][i * gh + k] } else { g[4][i * gw + k] };
                    let at = if row { (i % n / gw * gh + k) * d } else { (i % n % gw * gw + k) * d };
                    for t in 0..d {
                        g[0][i * d + t] += ds * f64::from(if row { rows[at + t] } else { cols[at + t] });
                        if row { drows[at + t] += ds * f64::from(x.q[i * d + t]) } else { dcols[at + t] += ds * f64::from(x.q[i * d + t]) }
                    }
                }
            }
            let width = s.heads * d;
            let st = RowStrides::token_major(n, 3 * width, d);
            let mut qkv = vec![0.0; s.batch * n * 3 * width];
            for (p, part) in [&x.q, &x.k, &x.v].into_iter().enumerate() {
                for (row, src) in part.chunks_exact(d).enumerate() {
                    let at = st.batch * (row / (s.heads * n)) + st.head * (row / n % s.heads) + st.row * (row % n) + p * width;
                    qkv[at..at + d].copy_from_slice(src);
                }
            }
            let (go, os) = to_tokens(&x.go, &s, n, 0);
            for precision in [Precision::F32, Precision::Bf16] {
                let bf16 = precision == Precision::Bf16 && isa >= Isa::Avx512Bf16;
                let (t, tg) = if bf16 { (1.5e-2, 3e-2) } else { (1e-5, 1e-4) };
                let tables = grid.map(|grid| RelTables { rows: &rows, cols: &cols, grid });
                let mut out = vec![f32::NAN; go.len()];
                let saved = self_attention(precision, &s, &qkv, tables, &mut out);
                let name = format!("{isa:?} {precision:?} {grid:?}");
                close(&format!("{name} out"), &from_tokens(&out, &s, n, os), &want, t);
                let mut dqkv = vec![f32::NAN; qkv.len()];
                let (mut dr, mut dc) = (vec![f32::NAN; rows.len()], vec![f32::NAN; cols.len()]);
                let tg_out = grid.map(|_| TableGrads { rows: &mut dr, cols: &mut dc });
                self_attention_backward(precision, &s, &qkv, tables, &saved, &out, &go, &mut dqkv, tg_out);
                for p in 0..3 {
                    close(&format!("{name} part {p}"), &from_tokens(&dqkv[p * width..], &s, n, st), &g[p], tg);
                }
                close(&format!("{name} rows"), &dr, &drows, tg);
                close(&format!("{name} cols"), &dc, &dcols, tg);
            }
        }
    });
}

/// The maximum rises far after many keys: what the earlier ones gave must shrink with it.
#[test]
fn late_keys_that_win_make_the_early_ones_small() {
    every_tier(|isa| {
        for precision in [Precision::F32, Precision::Bf16] {
            let c = case(1, 2, 70, 600, 64);
            let mut x = inputs(&c);
            x.q.fill(1.0);
            for (i, row) in x.k.chunks_exact_mut(64).enumerate() {
                row.fill(if i % 600 < 300 { 0.0 } else { 1.5 });
            }
            let s = &c.shape;
            let (want, want_lse, _) = naive(&c, &x);
            let dense = |n| RowStrides::head_major(s.heads, n, s.head_dim);
            let (q, k, v) = ((&x.q[..], dense(70)), (&x.k[..], dense(600)), (&x.v[..], dense(600)));
            let (mut out, mut lse) = (vec![0.0; x.q.len()], vec![0.0; 140]);
            attention_forward(precision, s, q, k, v, None, (&mut out, dense(70)), &mut lse);
            let t = if precision == Precision::Bf16 && isa >= Isa::Avx512Bf16 { 1.5e-2 } else { 1e-5 };
            close(&format!("{isa:?} {precision:?} out"), &out, &want, t);
            close(&format!("{isa:?} {precision:?} lse"), &lse, &want_lse, t);
        }
    });
}

/// Forward against f64 for one head, in bf16 and f32 on every tier.
fn forward_is_right(c: &Case, x: &Data) {
    let s = &c.shape;
    let (want, want_lse, _) = naive(c, x);
    let dense = |n| RowStrides::head_major(s.heads, n, s.head_dim);
    let (queries, keys) = (dense(s.queries), dense(s.keys));
    every_tier(|isa| {
        for precision in [Precision::F32, Precision::Bf16] {
            let rel = x.rel.as_ref().map(|(h, w)| RelPos { h, w, grid: c.grid.unwrap() });
            let (mut out, mut lse) = (vec![0.0; x.q.len()], vec![0.0; s.heads * s.queries]);
            attention_forward(precision, s, (&x.q, queries), (&x.k, keys), (&x.v, keys), rel, (&mut out, queries), &mut lse);
            let t = if precision == Precision::Bf16 && isa >= Isa::Avx512Bf16 { 1.5e-2 } else { 1e-5 };
            close(&format!("{isa:?} {precision:?} out"), &out, &want, t);
            close(&format!("{isa:?} {precision:?} lse"), &lse, &want_lse, t);
        }
    });
}

/// Long queries and long keys that hardly meet: |q| |k| is hundreds of powers of two above every score.
#[test]
fn scores_far_below_their_bound_lose_nothing() {
    for grid in [None, Some((14, 14)), Some((10, 32))] {
        let n = grid.map_or(330, |(h, w)| h * w);
        let mut c = case(1, 2, n, n, 64);
        c.grid = grid;
        let mut x = inputs(&c);
        // Powers of two: the rounding of the long parts is none.
        x.q.chunks_exact_mut(64).for_each(|row| (row[0], row[1]) = (64.0, 0.0));
        x.k.chunks_exact_mut(64).for_each(|row| (row[0], row[1]) = (0.0, 64.0));
        forward_is_right(&c, &x);
        // And with one key alone that is that long: the rest keep their weight.
        let mut x = inputs(&c);
        x.k[64..128].fill(0.0);
        x.k[64 + 7] = -2048.0;
        x.q.chunks_exact_mut(64).for_each(|row| row[7] = 0.25);
        forward_is_right(&c, &x);
    }
}

/// A NaN in one head's keys, queries or terms reaches that head's rows and no other's.
#[test]
fn not_a_number_stays() {
    for grid in [None, Some((5, 32)), Some((14, 14)), Some((3, 40))] {
        let n = grid.map_or(100, |(h, w)| h * w);
        let mut c = case(1, 2, n, n, 64);
        c.grid = grid;
        let s = &c.shape;
        let rows = RowStrides::head_major(2, n, 64);
        for place in 0..4 {
            let mut x = inputs(&c);
            match (place, &mut x.rel) {
                (0, _) => x.q[5 * 64 + 3] = f32::NAN,
                (1, _) => x.k[5 * 64 + 3] = f32::NAN,
                (2, Some((h, _))) => h[1] = f32::NAN,
                (3, Some((_, w))) => w[1] = f32::NAN,
                _ => continue,
            }
            every_tier(|isa| {
                let rel = x.rel.as_ref().map(|(h, w)| RelPos { h, w, grid: grid.unwrap() });
                let (mut out, mut lse) = (vec![0.0; x.q.len()], vec![0.0; 2 * n]);
                attention_forward(Precision::Bf16, s, (&x.q, rows), (&x.k, rows), (&x.v, rows), rel, (&mut out, rows), &mut lse);
                let (first, second) = out.split_at(n * 64);
                assert!(second.iter().all(|v| v.is_finite()), "{isa:?} {grid:?} {place}: another head");
                let row = if place == 0 { 5 } else { 0 };
                assert!(first[row * 64..][..64].iter().all(|v| v.is_nan()), "{isa:?} {grid:?} {place}: its row");
                assert_eq!(first[64 * 7].is_nan(), place == 1, "{isa:?} {grid:?} {place}: another row");
            });
        }
    }
}
