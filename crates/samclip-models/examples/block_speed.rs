//! Forward and backward of one transformer block with the kernels and with the plain tensors.
//! `cargo run --release -p samclip-models --example block_speed`
//!
//! CPU seconds of the process beside wall time: the former stays meaningful on a busy machine.

use std::time::Instant;

use burn::tensor::{Device, Tensor};
use samclip_models::ops::{self, Precision, plain};

const BATCH: usize = 16;
const SIDE: usize = 16;
const DIM: usize = 256;
const HEADS: usize = 8;

struct Weights {
    norm: [Tensor<1>; 4],
    qkv: (Tensor<2>, Tensor<1>),
    rel: (Tensor<3>, Tensor<3>),
    proj: (Tensor<2>, Tensor<1>),
    up: (Tensor<2>, Tensor<1>),
    down: (Tensor<2>, Tensor<1>),
}

fn random<const D: usize>(shape: [usize; D], scale: f32, device: &Device) -> Tensor<D> {
    let n: usize = shape.iter().product();
    let data: Vec<f32> =
        (0..n as u32).map(|i| ((i.wrapping_mul(2_654_435_761) >> 9) as f32 / 4_194_304.0 - 1.0) * scale).collect();
    Tensor::<1>::from_floats(data.as_slice(), device).reshape(shape).detach().require_grad()
}

impl Weights {
    fn new(device: &Device) -> Self {
        let linear = |o, i| (random([o, i], 0.05, device), random([o], 0.01, device));
        let c = DIM / HEADS;
        Self {
            norm: [0; 4].map(|_| random([DIM], 1.0, device)),
            qkv: linear(3 * DIM, DIM),
            rel: (random([SIDE, SIDE, c], 0.02, device), random([SIDE, SIDE, c], 0.02, device)),
            proj: linear(DIM, DIM),
            up: linear(4 * DIM, DIM),
            down: linear(DIM, 4 * DIM),
        }
    }

    fn block(&self, x: Tensor<3>, kernels: bool) -> Tensor<3> {
        let linear = |x: Tensor<3>, p: &(Tensor<2>, Tensor<1>)| {
            let f = if kernels { ops::linear } else { plain::linear };
            f(x, p.0.clone(), Some(p.1.clone()))
        };
        let norm = |x: Tensor<3>, i: usize| {
            let f = if kernels { ops::layer_norm } else { plain::layer_norm };
            f(x, self.norm[i].clone(), self.norm[i + 1].clone(), 1e-6)
        };
        let attention = if kernels { ops::self_attention } else { plain::self_attention };
        let gelu = if kernels { ops::gelu } else { plain::gelu };
        let scale = ((DIM / HEADS) as f64).powf(-0.5);
        let y = attention(linear(norm(x.clone(), 0), &self.qkv), HEADS, scale, Some(self.rel.clone()), false);
        let x = x + linear(y, &self.proj);
        let y = linear(gelu(linear(norm(x.clone(), 2), &self.up)), &self.down);
        x + y
    }
}

/// User and system CPU time of this process, seconds.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields: Vec<f64> =
        stat.rsplit(')').next().unwrap_or("").split_whitespace().map(|f| f.parse().unwrap_or(0.0)).collect();
    (fields.get(11).unwrap_or(&0.0) + fields.get(12).unwrap_or(&0.0)) / 100.0
}

fn main() {
    let device = Device::default().autodiff();
    let weights = Weights::new(&device);
    let x = random([BATCH, SIDE * SIDE, DIM], 1.0, &device);
    let mut base = None;
    for (name, kernels, precision) in [
        ("plain tensors", false, Precision::F32),
        ("kernels, f32", true, Precision::F32),
        ("kernels, bf16 products", true, Precision::Bf16),
    ] {
        ops::set_precision(precision);
        let step = || {
            let y = weights.block(x.clone(), kernels);
            drop(y.sum().backward());
        };
        step();
        let mut wall = vec![];
        let start = cpu();
        for _ in 0..9 {
            let t = Instant::now();
            step();
            wall.push(t.elapsed().as_secs_f64() * 1e3);
        }
        let cpu = (cpu() - start) / 9.0 * 1e3;
        wall.sort_by(f64::total_cmp);
        let base = *base.get_or_insert((wall[4], cpu));
        println!(
            "{name:24} median {:8.1} ms ({:.2}x)  best {:8.1} ms  cpu {cpu:8.1} ms ({:.2}x)",
            wall[4],
            base.0 / wall[4],
            wall[0],
            base.1 / cpu
        );
    }
}
