//! Label Studio's run-length encoding of brush masks. It is not COCO's.
//!
//! A stream of bits: 32 for the number of values, 5 for the word size less one, four times 4 for the sizes of run
//! lengths less one; then runs of one bit (1: one value repeated, 0: values one by one), 2 bits for which size the
//! length has, the length less one, and the value (or values). The values are a mask as RGBA, row by row, all four
//! channels alike. Reference: label_studio_sdk/converter/brush.py (`mask2rle`, `decode_rle`), after thi.ng/rle-pack.
//! Parity: tests/server/brush_rle.rs, equal bytes.

use samclip_image::Mask;

/// Sizes of run lengths, in bits.
const SIZES: [u32; 4] = [3, 4, 8, 16];
const WORD: u32 = 8;
const CHANNELS: usize = 4;

#[derive(Default)]
struct Bits {
    bytes: Vec<u8>,
    pending: u64,
    count: u32,
}

impl Bits {
    fn push(&mut self, value: u64, bits: u32) {
        self.pending = (self.pending << bits) | value;
        self.count += bits;
        while self.count >= 8 {
            self.count -= 8;
            self.bytes.push((self.pending >> self.count) as u8);
        }
        self.pending &= (1 << self.count) - 1;
    }

    /// Zeros up to a whole byte; a whole byte of them where nothing is left over, as the reference does.
    fn finish(mut self) -> Vec<u8> {
        self.push(0, 8 - self.count);
        self.bytes
    }
}

/// A mask in Label Studio's form: 255 where it is set.
pub fn encode(mask: &Mask) -> Vec<u8> {
    let mut bits = Bits::default();
    bits.push((mask.data.len() * CHANNELS) as u64 & 0xffff_ffff, 32);
    bits.push(u64::from(WORD - 1), 5);
    SIZES.iter().for_each(|size| bits.push(u64::from(size - 1), 4));
    for run in mask.data.chunk_by(|a, b| a == b) {
        push_run(&mut bits, run.len() * CHANNELS, if run[0] { 255 } else { 0 });
    }
    bits.finish()
}

fn push_run(bits: &mut Bits, mut length: usize, value: u64) {
    let size = SIZES.iter().position(|size| length <= 1 << size).unwrap_or(3);
    while length > 0 {
        let part = length.min(1 << SIZES[size]);
        bits.push(1, 1);
        bits.push(size as u64, 2);
        bits.push(part as u64 - 1, SIZES[size]);
        bits.push(value, WORD);
        length -= part;
    }
}
