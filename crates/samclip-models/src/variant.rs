//! The model names that users type, one spelling each.

use std::fmt;
use std::str::FromStr;

use crate::ModelError;

/// A model that samclip knows by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the variants are the names themselves")]
pub enum Variant {
    SamVitB,
    SamVitL,
    SamVitH,
    MobileSam,
    ClipVitB16,
    ClipVitL14,
    ClipVitB16Quickgelu,
    ClipVitL14Quickgelu,
    SamClipVitB,
    SamClipNano,
}

impl Variant {
    /// Every variant with its name.
    pub const ALL: [(Self, &'static str); 10] = [
        (Self::SamVitB, "sam_vit_b"),
        (Self::SamVitL, "sam_vit_l"),
        (Self::SamVitH, "sam_vit_h"),
        (Self::MobileSam, "mobile_sam"),
        (Self::ClipVitB16, "clip_vit_b16"),
        (Self::ClipVitL14, "clip_vit_l14"),
        (Self::ClipVitB16Quickgelu, "clip_vit_b16_quickgelu"),
        (Self::ClipVitL14Quickgelu, "clip_vit_l14_quickgelu"),
        (Self::SamClipVitB, "sam_clip_vit_b"),
        (Self::SamClipNano, "sam_clip_nano"),
    ];

    /// The name that users type.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(v, _)| *v == self).map_or("", |(_, name)| name)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Variant {
    type Err = ModelError;

    fn from_str(name: &str) -> Result<Self, ModelError> {
        Self::ALL.iter().find(|(_, n)| *n == name).map(|(v, _)| *v).ok_or_else(|| ModelError::UnknownVariant {
            name: name.to_string(),
            known: Self::ALL.map(|(_, n)| n).join(", "),
        })
    }
}
