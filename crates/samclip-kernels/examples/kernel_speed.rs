//! Times the kernels on shapes of training a small ViT and of SAM ViT-B.
//! `cargo run --release -p samclip-kernels --example kernel_speed`
use samclip_kernels::{
    AttentionGrads, AttentionShape, Init, Layout, Precision, RelPos, RowStrides, attention_backward, attention_forward,
    gelu, gelu_backward, gemm, isa, layer_norm, layer_norm_backward,
};
use std::time::Instant;

fn time(name: &str, flops: f64, mut f: impl FnMut()) {
    f();
    let mut t: Vec<f64> = (0..9)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    t.sort_by(f64::total_cmp);
    println!("{name:46} median {:8.3} ms  best {:8.3} ms  {:7.1} GFLOP/s", t[4] * 1e3, t[0] * 1e3, flops / t[4] / 1e9);
}

fn fill(n: usize) -> Vec<f32> {
    (0..n as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 8) as f32 / 8_388_608.0 - 1.0).collect()
}

fn attention(precision: Precision, batch: usize, heads: usize, side: usize, hd: usize, rel_pos: bool) {
    let n = side * side;
    let shape = AttentionShape { batch, heads, queries: n, keys: n, head_dim: hd, scale: (hd as f32).powf(-0.5), causal: false };
    let width = heads * hd;
    let qkv = fill(batch * n * 3 * width);
    let st = RowStrides::token_major(n, 3 * width, hd);
    let os = RowStrides::token_major(n, width, hd);
    let rows = batch * heads * n;
    let (h, w) = (fill(rows * side), fill(rows * side));
    let rel = rel_pos.then_some(RelPos { h: &h, w: &w, grid: (side, side) });
    let (q, k, v) = ((&qkv[..], st), (&qkv[width..], st), (&qkv[2 * width..], st));
    let (mut out, mut lse) = (vec![0.0; batch * n * width], vec![0.0; rows]);
    let flops = 4.0 * (rows * n * hd) as f64;
    let name = format!("{batch}x{heads} heads of {hd}, {side}x{side} {precision:?}{}", if rel_pos { " rel" } else { "" });
    time(&format!("attention {name}"), flops, || {
        attention_forward(precision, &shape, q, k, v, rel, (&mut out, os), &mut lse);
    });
    let go = fill(out.len());
    let len = qkv.len();
    let (mut dq, mut dk, mut dv) = (vec![0.0; len], vec![0.0; len], vec![0.0; len]);
    let (mut dh, mut dw) = (vec![0.0; h.len()], vec![0.0; w.len()]);
    time(&format!("  backward {name}"), flops * 2.5, || {
        let grads = AttentionGrads { q: &mut dq, k: &mut dk, v: &mut dv, rel: rel_pos.then_some((&mut dh, &mut dw)) };
        attention_backward(precision, &shape, q, k, v, rel, (&out, os), &lse, &go, grads);
    });
}

fn main() {
    println!("tier {:?}", isa::current());
    for precision in [Precision::F32, Precision::Bf16] {
        for (dims @ [m, n, k], la, lb, name) in [
            ([4096, 1024, 256], Layout::Normal, Layout::Transposed, "x Wt"),
            ([4096, 256, 1024], Layout::Normal, Layout::Normal, "dy W"),
            ([1024, 256, 4096], Layout::Transposed, Layout::Normal, "dyt x"),
            ([4096, 2304, 768], Layout::Normal, Layout::Transposed, "SAM-B qkv"),
        ] {
            let (a, b, mut c) = (fill(m * k), fill(k * n), vec![0.0; m * n]);
            time(&format!("gemm {name} {dims:?} {precision:?}"), 2.0 * (m * n * k) as f64, || {
                gemm(precision, dims, (&a, la), (&b, lb), &mut c, Init::Zero);
            });
        }
        attention(precision, 16, 8, 16, 32, true);
        attention(precision, 1, 12, 64, 64, true);
        attention(precision, 25, 12, 14, 64, true);
    }
    let (x, mut y) = (fill(4096 * 1024), vec![0.0; 4096 * 1024]);
    let dy = fill(x.len());
    time("gelu 4096x1024", 0.0, || gelu(&x, &mut y));
    time("gelu backward 4096x1024", 0.0, || gelu_backward(&x, &dy, &mut y));
    let (w, b) = (fill(256), fill(256));
    time("layer_norm 16384x256", 0.0, || layer_norm(&x, &w, &b, 1e-6, &mut y));
    let (mut dw, mut db) = (vec![0.0; 256], vec![0.0; 256]);
    time("layer_norm backward 16384x256", 0.0, || layer_norm_backward(&x, &w, &dy, 1e-6, &mut y, &mut dw, &mut db));
}
