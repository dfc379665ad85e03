//! `rle` against pycocotools: equal strings, areas, boxes, IoUs, merges and rasterised polygons.

mod common;

use samclip_image::{Mask, polygons, rle};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    masks: Vec<Encoded>,
    pairs: Vec<Pair>,
    polygons: Vec<Polygon>,
}

#[derive(Deserialize)]
struct Encoded {
    size: [usize; 2],
    mask: String,
    counts: String,
    area: usize,
    bbox: [f64; 4],
}

#[derive(Deserialize)]
struct Pair {
    size: [usize; 2],
    a: String,
    b: String,
    iou: f64,
    crowd_iou: f64,
    union: String,
    intersection: String,
}

#[derive(Deserialize)]
struct Polygon {
    size: [usize; 2],
    polygons: Vec<Vec<f64>>,
    counts: String,
}

fn fixture() -> Fixture {
    common::json("coco_rle.json")
}

#[test]
fn masks_encode_to_the_same_string_and_back() {
    for case in fixture().masks {
        let [height, width] = case.size;
        let data = case.mask.chars().map(|c| c == '1').collect();
        let mask = Mask::new(width, height, data).unwrap();
        let encoded = rle::encode(&mask);
        assert_eq!(rle::to_coco_string(&encoded), case.counts);
        assert_eq!(rle::from_coco_string(&case.counts, case.size).unwrap(), encoded);
        assert_eq!(rle::decode(&encoded), mask);
        assert_eq!((rle::area(&encoded), mask.area()), (case.area, case.area));
        assert_eq!((rle::bbox(&encoded), mask.bbox_xywh()), (case.bbox, case.bbox));
    }
}

#[test]
fn overlaps_and_merges_agree() {
    for case in fixture().pairs {
        let [a, b] = [&case.a, &case.b].map(|s| rle::from_coco_string(s, case.size).unwrap());
        assert_eq!(rle::iou(&a, &b, false), case.iou);
        assert_eq!(rle::iou(&a, &b, true), case.crowd_iou);
        assert_eq!(rle::decode(&a).iou(&rle::decode(&b)), case.iou);
        let both = [a, b];
        assert_eq!(rle::to_coco_string(&rle::merge(&both, false).unwrap()), case.union);
        assert_eq!(rle::to_coco_string(&rle::merge(&both, true).unwrap()), case.intersection);
    }
}

#[test]
fn polygons_cover_the_same_pixels() {
    let cases = fixture().polygons;
    assert_eq!(cases.len(), 120);
    for case in cases {
        let [height, width] = case.size;
        let encoded = rle::from_polygons(&case.polygons, height, width).unwrap();
        assert_eq!(rle::to_coco_string(&encoded), case.counts);
        // Our own outlines of it, rasterised again, cover every pixel of it.
        let mask = rle::decode(&encoded);
        let rings: Vec<Vec<f64>> = polygons(&mask)
            .iter()
            .map(|ring| ring.iter().flatten().map(|&v| f64::from(v)).collect())
            .collect();
        if !rings.is_empty() {
            let again = rle::decode(&rle::from_polygons(&rings, height, width).unwrap());
            assert!(mask.data.iter().zip(&again.data).all(|(a, b)| !a || *b));
        }
    }
}

proptest::proptest! {
    #[test]
    fn any_mask_survives_the_round_trip(width in 1usize..24, bits in proptest::collection::vec(proptest::bool::ANY, 1..400)) {
        let height = bits.len().div_ceil(width);
        let mut data = bits;
        data.resize(height * width, false);
        let mask = Mask::new(width, height, data).unwrap();
        let text = rle::to_coco_string(&rle::encode(&mask));
        proptest::prop_assert_eq!(rle::decode(&rle::from_coco_string(&text, [height, width]).unwrap()), mask);
    }

    #[test]
    fn any_string_is_decoded_or_refused(text in ".{0,40}", height in 0usize..50, width in 0usize..50) {
        if let Ok(runs) = rle::from_coco_string(&text, [height, width]) {
            proptest::prop_assert_eq!(rle::decode(&runs).area(), rle::area(&runs));
        }
    }
}
