//! Run-time choice of the instruction set.
//!
//! `SAMCLIP_ISA=amx|avx512bf16|avx512|avx2|portable` lowers the tier (read once); a tier
//! the machine lacks is never taken. AMX needs a CPU that has it and the
//! kernel's permission for the tile state (`arch_prctl(ARCH_REQ_XCOMP_PERM)`).
use std::sync::atomic::{AtomicU8, Ordering};

/// Instruction-set tiers, slowest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Isa {
    /// Plain Rust, whatever the target's baseline is.
    Portable = 1,
    /// AVX2 and FMA.
    Avx2 = 2,
    /// AVX-512 F, BW, DQ, VL.
    Avx512 = 3,
    /// AVX-512 with BF16: dot products of bf16.
    Avx512Bf16 = 4,
    /// That and AMX bf16 tiles.
    Amx = 5,
}

static CURRENT: AtomicU8 = AtomicU8::new(0);

/// The tier in use: the best the machine has, lowered by `SAMCLIP_ISA`.
pub fn current() -> Isa {
    match CURRENT.load(Ordering::Relaxed) {
        1 => Isa::Portable,
        2 => Isa::Avx2,
        3 => Isa::Avx512,
        4 => Isa::Avx512Bf16,
        5 => Isa::Amx,
        _ => {
            let isa = from_env(best());
            CURRENT.store(isa as u8, Ordering::Relaxed);
            isa
        }
    }
}

/// Whether the tier in use multiplies bf16: elsewhere [`crate::Precision::Bf16`] is f32.
pub fn bf16() -> bool {
    current() >= Isa::Avx512Bf16
}

/// Whether the processor has AMX bf16 but the system does not grant the tile state: the next tier
/// is taken then, and the user may want to know.
pub fn amx_refused() -> bool {
    #[cfg(target_arch = "x86_64")]
    return best() < Isa::Amx && is_x86_feature_detected!("avx512bf16") && crate::amx::present();
    #[cfg(not(target_arch = "x86_64"))]
    false
}

/// Whether AMX is the tier in use and its instructions are done in software (feature `amx-emulation`).
pub fn emulated() -> bool {
    #[cfg(all(target_arch = "x86_64", target_os = "linux", feature = "amx-emulation"))]
    return current() == Isa::Amx && !crate::amx::present();
    #[cfg(not(all(target_arch = "x86_64", target_os = "linux", feature = "amx-emulation")))]
    false
}

/// The tiers this machine can run, slowest first.
pub fn available() -> Vec<Isa> {
    let best = best();
    TIERS.into_iter().map(|(_, tier)| tier).filter(|&tier| tier <= best).collect()
}

/// Slowest first.
const TIERS: [(&str, Isa); 5] = [
    ("portable", Isa::Portable),
    ("avx2", Isa::Avx2),
    ("avx512", Isa::Avx512),
    ("avx512bf16", Isa::Avx512Bf16),
    ("amx", Isa::Amx),
];

/// What `SAMCLIP_ISA` asks for; none where it is not set, or names no tier ([`unknown_choice`]).
fn choice() -> Option<Isa> {
    let wanted = std::env::var("SAMCLIP_ISA").ok()?;
    TIERS.iter().find(|(name, _)| *name == wanted).map(|&(_, tier)| tier)
}

/// The value of `SAMCLIP_ISA` where it names no tier: programs refuse it, the library takes the best tier.
pub fn unknown_choice() -> Option<String> {
    let wanted = std::env::var_os("SAMCLIP_ISA").filter(|w| !w.is_empty())?;
    choice().is_none().then(|| wanted.to_string_lossy().into_owned())
}

fn from_env(best: Isa) -> Isa {
    choice().unwrap_or(best).min(best)
}

/// Sets the tier for tests; never above what the machine has.
#[cfg(test)]
pub(crate) fn force(isa: Isa) {
    CURRENT.store(isa.min(best()) as u8, Ordering::Relaxed);
}

#[cfg(target_arch = "x86_64")]
fn best() -> Isa {
    use std::sync::OnceLock;
    static BEST: OnceLock<Isa> = OnceLock::new();
    *BEST.get_or_init(|| {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let bf16 = avx512 && is_x86_feature_detected!("avx512bf16");
        if bf16 && crate::amx::available() {
            Isa::Amx
        } else if bf16 {
            Isa::Avx512Bf16
        } else if avx512 {
            Isa::Avx512
        } else if avx2 {
            Isa::Avx2
        } else {
            Isa::Portable
        }
    })
}

#[cfg(not(target_arch = "x86_64"))]
fn best() -> Isa {
    Isa::Portable
}
