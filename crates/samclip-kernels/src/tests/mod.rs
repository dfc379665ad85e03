//! Every kernel against naive f64, every tier; gradients against finite
//! differences of the f64 forward.
mod attention;
mod block;
mod elementwise;
mod gemm;
mod mask_runs;
mod packed;
mod rows;
mod two_way;
