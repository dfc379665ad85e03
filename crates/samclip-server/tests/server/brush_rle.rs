//! Label Studio's run-length encoding: equal bytes to label-studio-sdk's, and a reader that is as simple as can be.

use base64::Engine as _;
use proptest::prelude::*;
use samclip_image::Mask;
use samclip_server::protocols::brush_rle::encode;
use serde::Deserialize;

struct Bits<'a>(&'a [u8], usize);

impl Bits<'_> {
    fn next(&mut self, bits: usize) -> usize {
        let bit = |at: usize| usize::from(self.0[at / 8] >> (7 - at % 8) & 1);
        let value = (self.1..self.1 + bits).fold(0, |value, at| value << 1 | bit(at));
        self.1 += bits;
        value
    }
}

/// The mask in a stream: set where the alpha channel is. Panics on a stream of another size.
pub fn decode(bytes: &[u8], width: usize, height: usize) -> Mask {
    let mut bits = Bits(bytes, 0);
    let count = bits.next(32);
    assert_eq!(count, width * height * 4);
    let word = bits.next(5) + 1;
    let sizes: Vec<usize> = (0..4).map(|_| bits.next(4) + 1).collect();
    let mut values = Vec::new();
    while values.len() < count {
        let repeated = bits.next(1) == 1;
        let size = sizes[bits.next(2)];
        let run = bits.next(size) + 1;
        match repeated {
            true => values.extend(std::iter::repeat_n(bits.next(word), run)),
            false => values.extend((0..run).map(|_| bits.next(word))),
        }
    }
    assert_eq!(values.len(), count);
    Mask::new(width, height, values.chunks_exact(4).map(|pixel| pixel[3] > 0).collect()).unwrap()
}

#[derive(Deserialize)]
struct Case {
    name: String,
    width: usize,
    height: usize,
    /// Eight pixels a byte, row by row.
    mask: String,
    rle: String,
}

fn bytes(text: &str) -> Vec<u8> {
    base64::prelude::BASE64_STANDARD.decode(text).unwrap()
}

#[test]
fn equal_bytes_to_the_sdk() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/label_studio/brush_rle.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert_eq!(cases.len(), 14);
    for case in cases {
        let packed = bytes(&case.mask);
        let data = (0..case.width * case.height).map(|i| packed[i / 8] >> (7 - i % 8) & 1 == 1).collect();
        let mask = Mask::new(case.width, case.height, data).unwrap();
        assert_eq!(encode(&mask), bytes(&case.rle), "{}", case.name);
        assert_eq!(decode(&bytes(&case.rle), case.width, case.height), mask, "{}", case.name);
    }
}

proptest! {
    #[test]
    fn masks_come_back(width in 1usize..40, height in 1usize..40, seed in any::<u64>(), run in 1usize..200) {
        let mut state = seed | 1;
        let mut random = || { state ^= state << 13; state ^= state >> 7; state ^= state << 17; state };
        let mut data = Vec::new();
        while data.len() < width * height {
            let set = random() % 2 == 0;
            let length = (random() as usize % run) + 1;
            data.extend(std::iter::repeat_n(set, length));
        }
        data.truncate(width * height);
        let mask = Mask { width, height, data };
        prop_assert_eq!(decode(&encode(&mask), width, height), mask);
    }
}
