//! From the recipe's word to the engine's switch.

use crate::recipe::Precision;
use samclip_models::ops;

/// Sets what multiplications run in, for the whole process.
pub fn set(precision: Precision) {
    ops::set_precision(match precision {
        Precision::F32 => ops::Precision::F32,
        Precision::Bf16 => ops::Precision::Bf16,
    });
}
