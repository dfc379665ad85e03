//! Image files: any bytes are an image within the limit, a label map, or an error; never a crash.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use samclip_image::{DecodeLimits, Image, LabelMap, Mask};

fuzz_target!(|data: &[u8]| {
    let limits = DecodeLimits { max_pixels: 1 << 16 };
    let name = Path::new("fuzz");
    if let Ok(image) = Image::decode(data, name, &limits) {
        assert!(image.width() * image.height() <= 1 << 16);
    }
    let _ = LabelMap::decode(data, name, &limits);
    let _ = Mask::decode(data, name, &limits);
});
