//! Preprocessing and postprocessing against SAM (ResizeLongestSide, Sam.preprocess,
//! Sam.postprocess_masks), open_clip's eval transform and CLIP Surgery's squash: max |Δ| <= 1e-6.

mod common;

use samclip_image::{
    Filter, Normalization, postprocess_logits, prepare_clip, prepare_sam, prepare_squash, preprocess_shape,
};

const SIZES: [&str; 5] = ["37x53", "90x41", "64x64", "20x21", "131x76"];

#[test]
fn sam_pixels_points_boxes_and_logits() {
    let tensors = common::tensors("preprocess.safetensors");
    for (size, side) in SIZES.iter().flat_map(|s| [(s, 64), (s, 96)]) {
        let image = tensors[&format!("{size}.source")].image();
        let prepared = prepare_sam(&image, side);
        let get = |what: &str| &tensors[&format!("{size}.{what}.{side}")].floats;
        assert!(common::max_difference(&prepared.pixels, get("sam")) <= 1e-6, "{size} {side}");

        let t = prepared.transform;
        for (from, to) in get("points").chunks_exact(2).zip(get("points_input").chunks_exact(2)) {
            assert!(common::max_difference(&t.point_to_input([from[0], from[1]]), to) <= 1e-5);
        }
        for (from, to) in get("boxes").chunks_exact(4).zip(get("boxes_input").chunks_exact(4)) {
            let from = [from[0], from[1], from[2], from[3]];
            assert!(common::max_difference(&t.box_to_input(from), to) <= 1e-5);
        }
        let logits = postprocess_logits(get("low"), side / 4, &t);
        let difference = common::max_difference(&logits, get("logits"));
        println!("{size} {side}: logits max |Δ| {difference:e}");
        let scale = get("logits").iter().fold(1f32, |m, v| m.max(v.abs()));
        assert!(difference <= 1e-6 * scale, "{size} {side}: {difference}");
    }
}

#[test]
fn clip_pixels() {
    let tensors = common::tensors("preprocess.safetensors");
    for size in SIZES {
        let image = tensors[&format!("{size}.source")].image();
        let clip = prepare_clip(&image, 48);
        let expected = &tensors[&format!("{size}.clip.48")].floats;
        assert!(common::max_difference(&clip.pixels, expected) <= 1e-6, "{size}");
        let squash = prepare_squash(&image, 56, Filter::Bicubic, &Normalization::CLIP);
        let expected = &tensors[&format!("{size}.squash.56")].floats;
        assert!(common::max_difference(&squash.pixels, expected) <= 1e-6, "{size}");
    }
}

#[test]
fn longest_side_rounds_as_the_reference() {
    let shapes: Vec<[usize; 5]> = common::json("preprocess_shapes.json");
    assert_eq!(shapes.len(), 300);
    for [h, w, side, out_h, out_w] in shapes {
        assert_eq!(preprocess_shape(h, w, side), (out_h, out_w), "{h} x {w} to {side}");
    }
}
