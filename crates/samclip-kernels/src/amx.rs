//! AMX tiles: bf16 products, f32 sums. Inline assembly because the intrinsics
//! are unstable; the tile layouts are those of Intel's Optimization Reference
//! Manual, chapter "Intel AMX".
//!
//! The two tiles that a step of a block reads lie side by side (`bf16.rs`), so that each operand is one stream.
use crate::attention::Forward;
use crate::bf16::Products;
use crate::bf16_pack::mask;
use crate::engine::Start;
use crate::simd::Simd;
use std::arch::asm;
use std::arch::x86_64::*;

const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
const XFEATURE_XTILEDATA: libc::c_long = 18;

/// True when the CPU has AMX bf16.
pub(crate) fn present() -> bool {
    // Leaf 7, sub-leaf 0, EDX: bit 22 AMX-BF16, bit 24 AMX-TILE.
    let leaf = __cpuid_count(7, 0);
    (leaf.edx >> 22) & 1 == 1 && (leaf.edx >> 24) & 1 == 1
}

/// True when, beyond that, the system grants the tile state.
pub(crate) fn available() -> bool {
    #[cfg(all(target_os = "linux", feature = "amx-emulation"))]
    if !present() {
        return crate::amx_emulated::install();
    }
    present() && request_permission()
}

#[cfg(target_os = "linux")]
fn request_permission() -> bool {
    // SAFETY: the call takes two integers and touches no memory; the permission
    // belongs to the process and threads inherit it.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn request_permission() -> bool {
    false
}

#[repr(C, align(64))]
struct TileConfig {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIG: TileConfig = TileConfig {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

/// AMX; only made where [`crate::isa::Isa::Amx`] is the tier.
#[derive(Clone, Copy)]
pub(crate) struct Tiles;

impl Products for Tiles {
    #[inline(always)]
    unsafe fn begin(self) {
        // SAFETY: the tier guarantees AMX; the configuration is a valid palette 1.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIG, options(nostack, readonly)) }
    }

    #[inline(always)]
    unsafe fn end(self) {
        // SAFETY: returns the tile state to its initial value.
        unsafe { asm!("tilerelease", options(nostack, nomem)) }
    }

    #[inline(always)]
    unsafe fn mul(
        self, [m, n, k]: [usize; 3], a: *const u16, b: *const u16, c: *mut f32, ldc: usize, start: Start, next: Option<*const u16>,
    ) {
        // SAFETY: contract of the trait.
        unsafe { mul(m, n, k, a, b, c, ldc, start, next) }
    }

    #[inline(always)]
    unsafe fn attend<S: Simd>(self, s: S, head: Forward) {
        // SAFETY: contract of the trait.
        unsafe { head.run_amx(s) }
    }
}

#[repr(align(64))]
struct Block([f32; 1024]);

/// Blocks of 32 x 32 over packed panels. With `next`, panels of B are on their way into the second-level
/// cache while the one before is multiplied; `next` is what follows the last one.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
#[allow(clippy::too_many_arguments)]
unsafe fn mul(
    m: usize, n: usize, k: usize, a: *const u16, b: *const u16, c: *mut f32, ldc: usize, start: Start, next: Option<*const u16>,
) {
    let kt = k.div_ceil(32);
    let mut scratch = Block([0.0; 1024]);
    for j in (0..n).step_by(32) {
        let after = next.map(|next| if j + 32 < n { b.wrapping_add((j + 32) * kt * 32) } else { next });
        for i in (0..m).step_by(32) {
            // SAFETY: panels are padded to 32 in both directions, so four tiles
            // exist for every block; C is only touched inside m x n.
            unsafe {
                let (ap, bp, cp) = (a.add(i * kt * 32), b.add(j * kt * 32), c.add(i * ldc + j));
                let (from, stride) = match start {
                    Start::Zero => (std::ptr::null(), 0),
                    Start::Add => (cp.cast_const(), ldc),
                    Start::Bias(bias) => (bias.add(j), 0),
                };
                if i + 32 <= m && j + 32 <= n {
                    let after = after.map(|after| after.wrapping_add(i / 32 * (kt - 1) * AHEAD));
                    match (from.is_null(), after) {
                        (true, _) => block(ap, bp, kt, cp, ldc * 4),
                        (false, None) => block_from(ap, bp, kt, cp, ldc * 4, from, stride * 4),
                        (false, Some(after)) => block_ahead(ap, bp, kt, cp, ldc * 4, from, stride * 4, after),
                    }
                } else {
                    match m - i <= 16 {
                        true => half_block(ap, bp, kt, scratch.0.as_mut_ptr()),
                        false => block(ap, bp, kt, scratch.0.as_mut_ptr(), 128),
                    }
                    write_back(&scratch.0, cp, ldc, [32.min(m - i), 32.min(n - j)], from, stride);
                }
            }
        }
    }
}

/// C = block + `from` (nothing where null), whose rows are `stride` apart.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn write_back(
    block: &[f32; 1024],
    c: *mut f32,
    ldc: usize,
    [rows, cols]: [usize; 2],
    from: *const f32,
    stride: usize,
) {
    let (m0, m1) = (mask(cols.min(16)), mask(cols.saturating_sub(16)));
    for r in 0..rows {
        // SAFETY: masked lanes are not accessed; rows and cols are inside C.
        unsafe {
            let p = c.add(r * ldc);
            let q = p.wrapping_add(16);
            let mut v0 = _mm512_load_ps(block.as_ptr().add(r * 32));
            let mut v1 = _mm512_load_ps(block.as_ptr().add(r * 32 + 16));
            if !from.is_null() {
                let f = from.add(r * stride);
                v0 = _mm512_add_ps(v0, _mm512_maskz_loadu_ps(m0, f));
                v1 = _mm512_add_ps(v1, _mm512_maskz_loadu_ps(m1, f.wrapping_add(16)));
            }
            _mm512_mask_storeu_ps(p, m0, v0);
            _mm512_mask_storeu_ps(q, m1, v1);
        }
    }
}

/// bf16 elements that a step of [`block_ahead`] fetches: six cache lines. Blocks over the usual 192 rows
/// together fetch the whole next panel.
const AHEAD: usize = 192;

/// Empty instructions behind an AMX instruction. Where the core's other hardware thread is busy, AMX instructions
/// in close order hold each other up; with others between them they do not, and on a core of its own the others
/// cost nothing (docs/decisions/0015).
macro_rules! rest {
    (4) => {
        ".fill 4, 1, 0x90\n"
    };
    (8) => {
        ".fill 8, 1, 0x90\n"
    };
}
pub(crate) use rest;

/// The instructions of a 32 x 32 block after its four C tiles have their start: loads of a step stand between
/// the products of the one before, `$fetch` follows them.
macro_rules! full_block {
    ($($fetch:literal),*) => {
        concat!(
            "tileloadd tmm4, [{a} + {s}*1]\n", rest!(4),
            "tileloadd tmm6, [{b} + {s}*1]\n", rest!(4),
            "tileloadd tmm5, [{a} + {s}*1 + 1024]\n", rest!(4),
            "tileloadd tmm7, [{b} + {s}*1 + 1024]\n", rest!(4),
            "dec {kt}\n",
            "jz 3f\n",
            "2:\n",
            "add {a}, 2048\nadd {b}, 2048\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n", rest!(8),
            "tdpbf16ps tmm2, tmm5, tmm6\n", rest!(8),
            "tileloadd tmm6, [{b} + {s}*1]\n", rest!(4),
            "tdpbf16ps tmm1, tmm4, tmm7\n", rest!(8),
            "tileloadd tmm4, [{a} + {s}*1]\n", rest!(4),
            "tdpbf16ps tmm3, tmm5, tmm7\n", rest!(8),
            "tileloadd tmm5, [{a} + {s}*1 + 1024]\n", rest!(4),
            "tileloadd tmm7, [{b} + {s}*1 + 1024]\n", rest!(4),
            $($fetch,)*
            "dec {kt}\n",
            "jnz 2b\n",
            "3:\n",
            "tdpbf16ps tmm0, tmm4, tmm6\n", rest!(8),
            "tdpbf16ps tmm2, tmm5, tmm6\n", rest!(8),
            "tdpbf16ps tmm1, tmm4, tmm7\n", rest!(8),
            "tdpbf16ps tmm3, tmm5, tmm7\n", rest!(8),
            "tilestored [{c} + {l}*1], tmm0\n", rest!(4),
            "tilestored [{c} + {l}*1 + 64], tmm1\n", rest!(4),
            "tilestored [{c2} + {l}*1], tmm2\n", rest!(4),
            "tilestored [{c2} + {l}*1 + 64], tmm3\n", rest!(4),
        )
    };
}

/// Runs `$start` and then `$block` with the operands that every block has, and `$more`.
macro_rules! run_block {
    ($start:expr, $block:expr, ($a:ident, $b:ident, $kt:ident, $c:ident, $stride:ident), $($more:tt)*) => {
        asm!(
            $start,
            $block,
            a = inout(reg) $a => _,
            b = inout(reg) $b => _,
            kt = inout(reg) $kt => _,
            s = in(reg) 64usize,
            c = in(reg) $c,
            c2 = in(reg) $c.cast::<u8>().wrapping_add(16 * $stride),
            l = in(reg) $stride,
            $($more)*
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    };
}

/// Loads of the four C tiles.
macro_rules! from_rows {
    () => {
        concat!(
            "tileloadd tmm0, [{f} + {fl}*1]\n", rest!(4),
            "tileloadd tmm1, [{f} + {fl}*1 + 64]\n", rest!(4),
            "tileloadd tmm2, [{f2} + {fl}*1]\n", rest!(4),
            "tileloadd tmm3, [{f2} + {fl}*1 + 64]\n", rest!(4),
        )
    };
}

/// 32 x 32 of C over `kt` tiles of depth, stored with a row stride in bytes.
#[inline(always)]
unsafe fn block(a: *const u16, b: *const u16, kt: usize, c: *mut f32, stride: usize) {
    // SAFETY: two panels of kt >= 1 tiles follow `a` and `b`; C covers 32 x 32.
    unsafe {
        run_block!("tilezero tmm0\ntilezero tmm1\ntilezero tmm2\ntilezero tmm3", full_block!(), (a, b, kt, c, stride),);
    }
}

/// [`block`] added to `from`, whose rows are `from_stride` bytes apart (0 repeats one row).
#[inline(always)]
unsafe fn block_from(
    a: *const u16, b: *const u16, kt: usize, c: *mut f32, stride: usize, from: *const f32, from_stride: usize,
) {
    // SAFETY: as `block`; `from` covers 32 columns of 32 rows, or of one.
    unsafe {
        run_block!(from_rows!(), full_block!(), (a, b, kt, c, stride),
            f = in(reg) from,
            f2 = in(reg) from.cast::<u8>().wrapping_add(16 * from_stride),
            fl = in(reg) from_stride,
        );
    }
}

/// [`block_from`] that asks for [`AHEAD`] elements of `next` at each step but the first.
#[inline(always)]
#[allow(clippy::too_many_arguments)]
unsafe fn block_ahead(
    a: *const u16, b: *const u16, kt: usize, c: *mut f32, stride: usize, from: *const f32, from_stride: usize, next: *const u16,
) {
    // SAFETY: as `block_from`; a fetch of any address is allowed.
    unsafe {
        run_block!(
            from_rows!(),
            full_block!(
                "prefetcht1 [{p}]\nprefetcht1 [{p} + 64]\nprefetcht1 [{p} + 128]\n",
                "prefetcht1 [{p} + 192]\nprefetcht1 [{p} + 256]\nprefetcht1 [{p} + 320]\nadd {p}, 384\n"
            ),
            (a, b, kt, c, stride),
            f = in(reg) from,
            f2 = in(reg) from.cast::<u8>().wrapping_add(16 * from_stride),
            fl = in(reg) from_stride,
            p = inout(reg) next => _,
        );
    }
}

/// The upper 16 x 32 of a block, stored with a row stride of 128 bytes.
#[inline(always)]
unsafe fn half_block(a: *const u16, b: *const u16, kt: usize, c: *mut f32) {
    // SAFETY: one panel of kt tiles follows `a`, two follow `b`; C covers 16 x 32.
    unsafe {
        asm!(
            "tilezero tmm0", "tilezero tmm1",
            "tileloadd tmm4, [{a} + {s}*1]", rest!(4),
            "tileloadd tmm6, [{b} + {s}*1]", rest!(4),
            "tileloadd tmm7, [{b} + {s}*1 + 1024]", rest!(4),
            "dec {kt}",
            "jz 3f",
            "2:",
            "add {a}, 2048", "add {b}, 2048",
            "tdpbf16ps tmm0, tmm4, tmm6", rest!(8),
            "tileloadd tmm6, [{b} + {s}*1]", rest!(4),
            "tdpbf16ps tmm1, tmm4, tmm7", rest!(8),
            "tileloadd tmm4, [{a} + {s}*1]", rest!(4),
            "tileloadd tmm7, [{b} + {s}*1 + 1024]", rest!(4),
            "dec {kt}",
            "jnz 2b",
            "3:",
            "tdpbf16ps tmm0, tmm4, tmm6", rest!(8),
            "tdpbf16ps tmm1, tmm4, tmm7", rest!(8),
            "tilestored [{c} + {l}*1], tmm0",
            "tilestored [{c} + {l}*1 + 64], tmm1",
            a = inout(reg) a => _,
            b = inout(reg) b => _,
            kt = inout(reg) kt => _,
            s = in(reg) 64usize,
            c = in(reg) c,
            l = in(reg) 128usize,
            out("tmm0") _, out("tmm1") _, out("tmm4") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        );
    }
}
