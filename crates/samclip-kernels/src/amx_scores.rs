//! Scores of a block of queries against a chunk of keys.
//!
//! For heads of 64 the queries stay in four tile registers while the keys pass: half as many loads as a
//! block of 32 x 32 has, and loads are what AMX waits for (docs/decisions/0015).
use crate::amx::rest;
use crate::bf16::AMX;
use crate::engine::{Engine, Start};
use std::arch::asm;

/// 32 queries against the keys of one tile column: where its two tiles of depth lie, and where the scores go.
macro_rules! sixteen_keys {
    ($near:literal, $far:literal, $to:literal) => {
        concat!(
            "tilezero tmm0\ntilezero tmm1\n",
            "tileloadd tmm2, [{k} + {s}*1 + ", $near, "]\n", rest!(4),
            "tileloadd tmm3, [{k} + {s}*1 + ", $far, "]\n", rest!(4),
            "tdpbf16ps tmm0, tmm4, tmm2\n", rest!(8),
            "tdpbf16ps tmm1, tmm6, tmm2\n", rest!(8),
            "tdpbf16ps tmm0, tmm5, tmm3\n", rest!(8),
            "tdpbf16ps tmm1, tmm7, tmm3\n", rest!(8),
            "tilestored [{c} + {l}*1 + ", $to, "], tmm0\n", rest!(4),
            "tilestored [{d} + {l}*1 + ", $to, "], tmm1\n", rest!(4),
        )
    };
}

/// `to = queries keys^T`; `q`: packed rows, `k`: packed columns of `depth`, rows of `to` are `stride` floats apart.
///
/// # Safety
/// Both follow the layout of `amx.rs`; `begin` has run on this thread; `to` has room for rows and keys rounded up
/// to 32.
#[inline]
pub(crate) unsafe fn scores(
    q: *const f32, k: *const f32, depth: usize, (rows, keys): (usize, usize), to: *mut f32, stride: usize,
) {
    if depth != 64 {
        // SAFETY: contract above.
        return unsafe { AMX.mul(rows, keys, depth, q, k, to, stride, Start::Zero) };
    }
    for i in (0..rows).step_by(32) {
        // SAFETY: panels of 32 rows or columns and two tiles of depth, 256 floats each; contract above.
        unsafe {
            asm!(
                concat!("tileloadd tmm4, [{q} + {s}*1]\n", rest!(4)),
                concat!("tileloadd tmm6, [{q} + {s}*1 + 1024]\n", rest!(4)),
                concat!("tileloadd tmm5, [{q} + {s}*1 + 2048]\n", rest!(4)),
                concat!("tileloadd tmm7, [{q} + {s}*1 + 3072]\n", rest!(4)),
                "2:",
                sixteen_keys!(0, 2048, 0),
                sixteen_keys!(1024, 3072, 64),
                "add {k}, 4096", "add {c}, 128", "add {d}, 128",
                "dec {n}",
                "jnz 2b",
                q = in(reg) q.add(i * 32),
                k = inout(reg) k => _,
                s = in(reg) 64usize,
                n = inout(reg) keys.div_ceil(32) => _,
                c = inout(reg) to.add(i * stride) => _,
                d = inout(reg) to.add((i + 16) * stride) => _,
                l = in(reg) stride * 4,
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}
