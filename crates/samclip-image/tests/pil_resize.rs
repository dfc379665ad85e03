//! `resize` against PIL.Image.resize: 0 difference for every filter, odd sizes, up and down.

mod common;

use samclip_image::{Filter, resize};

#[test]
fn every_byte_equals_pil() {
    let tensors = common::tensors("pil_resize.safetensors");
    let mut compared = 0;
    for (name, expected) in tensors.iter().filter(|(name, _)| !name.starts_with("source")) {
        let parts: Vec<&str> = name.split('.').collect();
        let filter = match parts[0] {
            "nearest" => Filter::Nearest,
            "bilinear" => Filter::Bilinear,
            _ => Filter::Bicubic,
        };
        let source = tensors[&format!("source.{}", parts[1])].image();
        let (height, width) = common::pair(parts[2]);
        let out = resize(&source, width, height, filter);
        let wrong = out.data().iter().zip(&expected.bytes).filter(|(a, b)| a != b).count();
        assert_eq!((out.data().len(), wrong), (expected.bytes.len(), 0), "{name}");
        compared += 1;
    }
    assert_eq!(compared, 63);
}
