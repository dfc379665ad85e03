//! The machine's limits as this program reaches them: matrix products in each precision, and copying memory.

use std::time::Instant;

use rayon::prelude::*;
use samclip_kernels::isa;
use samclip_kernels::{Init, Layout, Precision, gemm};

use super::{Bench, BenchSpec, Details, gflops};

/// Side of the square matrices.
const SIDE: usize = 4096;
/// Floats of the copied buffer: far beyond any cache.
const COPY: usize = 64 << 20;

/// Achieved GEMM peak (f32, and bf16 where the processor multiplies it) and copy bandwidth. The figures are in the details;
/// the time of a run is their sum and means nothing.
pub fn peak(spec: &BenchSpec) -> Bench {
    let side = spec.size.unwrap_or(SIDE).max(1);
    let a: Vec<f32> = (0..side * side).map(|i| (i % 251) as f32 / 251.0 - 0.5).collect();
    let mut c = vec![0.0; side * side];
    let source = vec![1.0f32; COPY];
    let mut target = vec![0.0f32; COPY];
    let run = move || {
        let mut details = Details::from([("gemm_f32_gflops", product(Precision::F32, side, &a, &mut c))]);
        if isa::bf16() {
            details.insert("gemm_bf16_gflops", product(Precision::Bf16, side, &a, &mut c));
        }
        details.insert("copy_gb_per_s", copy(&source, &mut target));
        Ok(details)
    };
    Bench::of("", "none", [side, 1], None, Box::new(run))
}

/// GFLOP/s of one square product.
fn product(precision: Precision, side: usize, a: &[f32], c: &mut [f32]) -> f64 {
    let start = Instant::now();
    gemm(precision, [side; 3], (a, Layout::Normal), (a, Layout::Transposed), c, Init::Zero);
    gflops((side as u64).pow(3), start.elapsed().as_secs_f64())
}

/// GB/s read and written together.
fn copy(source: &[f32], target: &mut [f32]) -> f64 {
    const PIECE: usize = 1 << 20;
    let start = Instant::now();
    target.par_chunks_mut(PIECE).zip(source.par_chunks(PIECE)).for_each(|(t, s)| t.copy_from_slice(s));
    2.0 * size_of_val(source) as f64 / start.elapsed().as_secs_f64() / 1e9
}
