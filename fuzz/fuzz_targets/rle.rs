//! COCO run-length strings: any text for a mask of bounded size is decoded or refused, and what is
//! decoded encodes to the same pixels again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use samclip_image::rle;

fuzz_target!(|data: (u8, u8, &str)| {
    let (height, width, counts) = data;
    let size = [usize::from(height), usize::from(width)];
    let Ok(runs) = rle::from_coco_string(counts, size) else { return };
    let mask = rle::decode(&runs);
    assert_eq!(mask.area(), rle::area(&runs));
    assert_eq!(mask.bbox_xywh(), rle::bbox(&runs));
    let again = rle::encode(&mask);
    assert_eq!(rle::decode(&again), mask);
    assert_eq!(rle::from_coco_string(&rle::to_coco_string(&again), size).unwrap(), again);
    assert_eq!(rle::decode(&rle::merge(&[runs, again], true).unwrap()), mask);
});
