//! Every format against PIL's pixels; hostile files against clear errors.

mod common;

use std::path::Path;

use samclip_image::{DecodeLimits, Image, ImageError, LabelMap, Mask};

fn limits() -> DecodeLimits {
    DecodeLimits::default()
}

#[test]
fn formats_equal_pil() {
    let expected = common::tensors("decode.safetensors");
    let mut compared = 0;
    for (name, pixels) in expected.iter().filter(|(name, _)| name.contains('.')) {
        let image = Image::open(&common::path("decode").join(name), &limits())
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!([image.height(), image.width()], pixels.shape[..2], "{name}");
        let differences = image.data().iter().zip(&pixels.bytes).map(|(&a, &b)| a.abs_diff(b));
        let worst = differences.clone().max().unwrap();
        let mean = differences.map(f64::from).sum::<f64>() / pixels.bytes.len() as f64;
        println!("{name}: max {worst}, mean {mean:.3}");
        // Lossy formats go through other decoders than PIL's; everything else is exact.
        let lossy = name.ends_with(".jpg") || name == "lossy.webp" || name == "jpeg_in.tif";
        let (most, most_mean) = if lossy { (4, 0.6) } else { (0, 0.0) };
        assert!(worst <= most && mean <= most_mean, "{name}: max {worst}, mean {mean}");
        compared += 1;
    }
    assert_eq!(compared, 39);
}

#[test]
fn label_maps_keep_their_numbers() {
    let expected = common::tensors("decode.safetensors");
    for (name, key) in [
        ("labels_palette.png", "labels"),
        ("labels_grey.png", "labels"),
        ("labels_two_bits.png", "labels_few"),
    ] {
        let path = common::path("decode").join(name);
        let map = LabelMap::open(&path).unwrap();
        assert_eq!(map.data, expected[key].bytes, "{name}");
        let mask = Mask::open(&path).unwrap();
        assert!(mask.data.iter().zip(&map.data).all(|(&set, &v)| set == (v != 0)));
    }
    let error = LabelMap::open(&common::path("decode/rgb.png")).unwrap_err();
    assert!(error.to_string().contains("palette or grey") && error.hint().is_some(), "{error}");
    assert!(LabelMap::open(&common::path("decode/grey.jpg")).is_err());
}

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(common::path("decode").join(name)).unwrap()
}

/// Decodes hostile bytes; returns the error after checking that it names the file.
fn refused(bytes: &[u8], name: &str) -> ImageError {
    let error = Image::decode(bytes, Path::new(name), &limits()).expect_err(name);
    let text = error.to_string();
    println!("{text}");
    assert!(text.ends_with(name), "{text}");
    for other in [
        Mask::decode(bytes, Path::new(name), &limits()).map(|_| ()),
        LabelMap::decode(bytes, Path::new(name), &limits()).map(|_| ()),
    ] {
        assert!(other.expect_err(name).to_string().ends_with(name));
    }
    error
}

#[test]
fn truncated_files_are_errors_at_any_length() {
    for name in [
        "rgb.png",
        "palette.png",
        "rgb16.png",
        "orientation_1.jpg",
        "progressive.jpg",
        "cmyk.jpg",
        "lossless.webp",
        "lossy.webp",
        "rgb.bmp",
        "palette.bmp",
        "raw.tif",
        "lzw.tif",
        "deflate.tif",
    ] {
        let whole = fixture(name);
        for percent in [3, 10, 30, 50, 70, 90, 97] {
            let cut = &whole[..whole.len() * percent / 100];
            let error = refused(cut, "cut.file");
            assert!(matches!(error, ImageError::Truncated { .. }), "{name} {percent}: {error}");
        }
    }
    // A JPEG thumbnail has its own end marker inside the header; it must not pass for the image's.
    let mut jpeg = vec![0xff, 0xd8, 0xff, 0xe1, 0, 6, 0xff, 0xd9, 0xff, 0xd9];
    jpeg.extend_from_slice(&fixture("orientation_1.jpg")[2..900]);
    assert!(matches!(refused(&jpeg, "a/thumb.jpg"), ImageError::Truncated { .. }));
}

#[test]
fn the_size_in_the_header_is_checked_first() {
    let mut bomb = fixture("rgb.png");
    bomb[16..20].copy_from_slice(&60_000u32.to_be_bytes());
    bomb[20..24].copy_from_slice(&60_000u32.to_be_bytes());
    let crc = crc32(&bomb[12..29]);
    bomb[29..33].copy_from_slice(&crc.to_be_bytes());
    let error = refused(&bomb, "bomb.png");
    assert!(matches!(error, ImageError::TooManyPixels { width: 60_000, height: 60_000, .. }), "{error}");
    assert!(error.hint().unwrap().contains("--max-pixels"));

    let mut bomb = fixture("rgb.bmp");
    bomb[18..22].copy_from_slice(&60_000i32.to_le_bytes());
    bomb[22..26].copy_from_slice(&60_000i32.to_le_bytes());
    assert!(matches!(refused(&bomb, "bomb.bmp"), ImageError::TooManyPixels { .. }));

    let mut bomb = fixture("orientation_1.jpg");
    let frame = bomb.windows(2).position(|w| w == [0xff, 0xc0]).unwrap();
    bomb[frame + 5..frame + 9].copy_from_slice(&[0xea, 0x60, 0xea, 0x60]);
    assert!(matches!(refused(&bomb, "bomb.jpg"), ImageError::TooManyPixels { .. }));

    let small = DecodeLimits { max_pixels: 1199 };
    for name in ["rgb.png", "grey.jpg", "lossy.webp", "rgb.bmp", "raw.tif"] {
        let error = Image::decode(&fixture(name), Path::new(name), &small).unwrap_err();
        assert!(matches!(error, ImageError::TooManyPixels { limit: 1199, .. }), "{name}: {error}");
        let exact = DecodeLimits { max_pixels: 1200 };
        assert!(Image::decode(&fixture(name), Path::new(name), &exact).is_ok());
    }
}

#[test]
fn what_is_no_image_is_named() {
    assert!(matches!(refused(b"", "empty.png"), ImageError::Empty { .. }));
    assert!(matches!(refused(b"hello, this is text", "note.jpg"), ImageError::Format { .. }));
    let gif = refused(b"GIF89a\x01\x00\x01\x00\x00\x00\x00;", "moving.png");
    assert!(gif.to_string().contains("GIF"), "{gif}");
    refused(&[0xff, 0xd8, 0xff], "start.jpg");
    refused(b"BM", "start.bmp");
    refused(b"II*\x00\xff\xff\xff\xff", "start.tif");
    refused(b"RIFF\x04\x00\x00\x00WEBP", "start.webp");

    let mut zero = fixture("rgb.png");
    zero[16..20].copy_from_slice(&[0; 4]);
    let crc = crc32(&zero[12..29]);
    zero[29..33].copy_from_slice(&crc.to_be_bytes());
    refused(&zero, "zero.png");
    let mut zero = fixture("rgb.bmp");
    zero[18..22].copy_from_slice(&[0; 4]);
    refused(&zero, "zero.bmp");

    let missing = Image::open(Path::new("no/such/file.png"), &limits()).unwrap_err();
    assert!(missing.to_string().ends_with("no/such/file.png"), "{missing}");
    assert!(Image::open(&common::path("decode"), &limits()).is_err());
}

#[test]
fn damaged_bytes_never_panic() {
    let mut state = 11u64;
    let mut random = move || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 33) as usize
    };
    for name in ["rgb.png", "progressive.jpg", "cmyk.jpg", "lossless.webp", "rgba.bmp", "lzw.tif"] {
        let whole = fixture(name);
        for _ in 0..150 {
            let mut bytes = whole.clone();
            for _ in 0..1 + random() % 8 {
                let at = random() % bytes.len();
                bytes[at] = random() as u8;
            }
            let small = DecodeLimits { max_pixels: 1_000_000 };
            let _ = Image::decode(&bytes, Path::new(name), &small);
            let _ = LabelMap::decode(&bytes, Path::new(name), &small);
        }
    }
}

/// PNG's checksum, so that a changed header is still believed.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { c >> 1 ^ 0xedb8_8320 } else { c >> 1 })
    })
}
