//! CPU kernels over slices with run-time dispatch, each with a portable twin.
//!
//! Slices in, slices out; no framework type. Every kernel is one generic body
//! over [`simd::Simd`], compiled for AVX-512, AVX2+FMA and plain Rust, and
//! chosen at run time ([`isa`]). Matrix products additionally have two paths that
//! multiply in bf16 and accumulate in f32 ([`Precision::Bf16`]): AMX and AVX-512 BF16.
//! Results do not depend on the number of threads: work is cut by shape, and
//! every output element is summed in one fixed order.
//!
//! This is the only crate of the workspace that may use `unsafe`.
#![allow(unsafe_code)]
#![warn(unsafe_op_in_unsafe_fn)]

mod activation;
#[cfg(target_arch = "x86_64")]
mod amx;
#[cfg(target_arch = "x86_64")]
mod amx_attention;
#[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "amx-emulation"))]
mod amx_emulated;
#[cfg(target_arch = "x86_64")]
mod amx_scores;
#[cfg(target_arch = "x86_64")]
mod amx_softmax;
mod attention;
mod attention_backward;
#[cfg(target_arch = "x86_64")]
mod bf16;
#[cfg(target_arch = "x86_64")]
mod bf16_pack;
#[cfg(target_arch = "x86_64")]
mod bf16_rows;
mod block;
mod block_attention;
mod conv;
#[cfg(target_arch = "x86_64")]
mod dots;
mod engine;
mod gemm;
pub mod isa;
mod mask_runs;
mod math;
mod memory;
mod norm;
mod optim;
mod packed;
mod relative;
mod scratch;
mod self_attention;
mod simd;
mod stages;
mod two_way;
mod upscaling;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use activation::{add, gelu, gelu_backward, quick_gelu, quick_gelu_backward, softmax_rows};
pub use attention::{AttentionShape, RelPos, RowStrides, attention_forward};
pub use block::{Activation, Block, Norm, TokenGrid};
pub use attention_backward::{AttentionGrads, attention_backward};
pub use conv::{Conv3x3, col2im_3x3, conv3x3, conv3x3_backward, im2col_3x3};
pub use engine::Precision;
pub use gemm::{Init, Layout, column_sums, gemm};
pub use mask_runs::{Axis, MaskRuns, Resize};
pub use memory::{HugePages, keep_freed};
pub use norm::{layer_norm, layer_norm_backward};
pub use optim::{AdamW, adamw_step};
pub use packed::{Bytes as PackedBytes, PackedLinear};
pub use two_way::{ImageSide, Update};
pub use upscaling::Upscaling;
pub use self_attention::{RelTables, Saved, TableGrads, self_attention, self_attention_backward};
