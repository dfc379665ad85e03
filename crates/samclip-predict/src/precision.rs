//! `--precision`: the number format of the matrix products.

use samclip_kernels::isa;
use samclip_models::ops;

use crate::error::PredictError;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// bf16 where the processor multiplies it natively (AMX, AVX-512 BF16), f32 elsewhere.
    Auto,
    /// 32-bit floating point.
    F32,
    /// bf16 products, f32 sums.
    Bf16,
}

impl Precision {
    /// Sets the precision of the process and returns what it became.
    ///
    /// # Errors
    /// bf16 asked for on a processor without bf16 products.
    pub fn apply(self) -> Result<&'static str, PredictError> {
        let native = isa::bf16();
        let bf16 = match self {
            Self::F32 => false,
            Self::Auto => native,
            Self::Bf16 if native => true,
            Self::Bf16 => return Err(PredictError::Precision),
        };
        ops::set_precision(if bf16 { ops::Precision::Bf16 } else { ops::Precision::F32 });
        Ok(if bf16 { "bf16" } else { "f32" })
    }
}
