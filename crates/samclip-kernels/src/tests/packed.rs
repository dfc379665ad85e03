//! Packed weights as they go to a file and come back.

use std::sync::Arc;

use crate::testing::{data, every_tier};
use crate::{PackedBytes, PackedLinear, Precision};

/// Words of a layout, mixed into one number (FNV-1a).
fn digest(words: &[u8]) -> u64 {
    words.iter().fold(0xcbf2_9ce4_8422_2325, |h, &b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// Files hold packed words under the name of their order: whoever changes the order must raise `packed::ORDER`.
#[test]
fn an_order_of_words_keeps_its_name() {
    let weight = data(70 * 420, 3);
    every_tier(|isa| {
        for precision in [Precision::F32, Precision::Bf16] {
            let packed = PackedLinear::new(precision, &weight, 420, &[]);
            let layout = PackedLinear::layout(precision);
            let known = match layout.as_str() {
                "amx-bf16-1" => 11_827_088_838_985_587_781,
                "f32x16-1" => 2_636_825_254_474_169_094,
                "f32x8-1" => 1_084_897_264_913_261_026,
                other => panic!("{isa:?} {precision:?}: {other} is not known"),
            };
            assert_eq!(digest(packed.words()), known, "{isa:?} {precision:?}: {layout}");
        }
    });
}

/// Bytes from some place on, so that they do not start at a cache line.
struct Behind(Vec<u8>, usize);

impl AsRef<[u8]> for Behind {
    fn as_ref(&self) -> &[u8] {
        &self.0[self.1..]
    }
}

#[test]
fn words_come_back_from_wherever_they_lie() {
    let (weight, bias) = (data(70 * 420, 3), data(70, 4));
    every_tier(|isa| {
        for precision in [Precision::F32, Precision::Bf16] {
            let packed = PackedLinear::new(precision, &weight, 420, &bias);
            assert_eq!(packed.words().len(), PackedLinear::packed_len(precision, (70, 420)));
            for shift in 0..3 {
                let mut bytes = vec![0; shift];
                bytes.extend_from_slice(packed.words());
                let bytes: PackedBytes = Arc::new(Behind(bytes, shift));
                let back = PackedLinear::from_words(precision, (70, 420), &bias, &bytes).unwrap();
                assert_eq!(back.words(), packed.words(), "{isa:?} {precision:?}");
                assert!(back.fits(precision));
                let error = PackedLinear::from_words(precision, (70, 421), &bias, &bytes).map(|_| ());
                assert_eq!(error.is_err(), PackedLinear::packed_len(precision, (70, 421)) != packed.words().len());
            }
            let short: PackedBytes = Arc::new(packed.words()[64..].to_vec());
            assert!(PackedLinear::from_words(precision, (70, 420), &bias, &short).is_err());
        }
    });
}
