//! Label Studio's run-length encoding: equal bytes to label-studio-sdk's, in both directions.

use base64::Engine as _;
use samclip_image::Mask;
use samclip_server::protocols::brush_rle::{decode, encode};
use serde::Deserialize;

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
        assert_eq!(decode(&bytes(&case.rle), case.width, case.height).unwrap(), mask, "{}", case.name);
    }
}

#[test]
fn the_editors_own_streams_are_read() {
    // One value at a time and three sizes of runs: 12 values are three pixels, of which the second is half covered.
    let bits = [
        format!("{:032b}", 12), format!("{:05b}", 7), "0010".into(), "0011".into(), "0111".into(), "1111".into(),
        "1".into(), "00".into(), "011".into(), format!("{:08b}", 0),
        "0".into(), "01".into(), format!("{:04b}", 3), format!("{:08b}", 9), format!("{:08b}", 9), format!("{:08b}", 9), format!("{:08b}", 100),
        "1".into(), "10".into(), format!("{:08b}", 3), format!("{:08b}", 255),
    ]
    .concat();
    let padded = format!("{bits}{}", "0".repeat((8 - bits.len() % 8) % 8));
    let stream: Vec<u8> = padded.as_bytes().chunks(8).map(|b| u8::from_str_radix(std::str::from_utf8(b).unwrap(), 2).unwrap()).collect();
    assert_eq!(decode(&stream, 3, 1).unwrap().data, [false, true, true]);
    assert!(decode(&stream, 4, 1).is_none() && decode(&stream[..stream.len() - 2], 3, 1).is_none());
}
