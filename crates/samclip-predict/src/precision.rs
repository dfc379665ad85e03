//! `--precision`: the number format of the matrix products.

use crate::error::PredictError;

/// What the user asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Precision {
    /// bf16 where the processor multiplies it natively, f32 elsewhere.
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
    /// bf16 asked for on a processor without bf16 matrix units.
    pub fn apply(self) -> Result<&'static str, PredictError> {
        match self {
            Self::F32 | Self::Auto => Ok("f32"),
            Self::Bf16 => Err(PredictError::Precision),
        }
    }
}
