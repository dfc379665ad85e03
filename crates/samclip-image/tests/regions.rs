//! `remove_small_regions` against SAM's (cv2), component areas against cv2.

mod common;

use samclip_image::{RegionMode, connected_components, remove_small_regions};

#[test]
fn small_regions_go_as_in_sam() {
    let tensors = common::tensors("regions.safetensors");
    let mut compared = [0; 2];
    for (name, expected) in tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("out.")?, t))) {
        let parts: Vec<&str> = name.split('.').collect();
        let mode = if parts[1] == "holes" { RegionMode::Holes } else { RegionMode::Islands };
        let mask = tensors[&format!("mask.{name}")].mask();
        let (out, changed) = remove_small_regions(&mask, parts[2].parse().unwrap(), mode);
        assert_eq!((out, changed), (expected.mask(), parts[3] == "1"), "{name}");
        compared[usize::from(changed)] += 1;
    }
    assert!(compared[0] > 0 && compared[1] > 20, "{compared:?}");
}

#[test]
fn areas_equal_cv2() {
    let tensors = common::tensors("regions.safetensors");
    for i in 0..24 {
        let mask = tensors[&format!("areas_mask.{i}")].mask();
        for eight in [false, true] {
            let (labels, mut areas) = connected_components(&mask, eight);
            for (k, &area) in areas.iter().enumerate() {
                assert_eq!(labels.iter().filter(|&&l| l as usize == k + 1).count(), area);
            }
            areas.sort_unstable();
            let expected = &tensors[&format!("areas.{i}.{}", if eight { 8 } else { 4 })].floats;
            let areas: Vec<f32> = areas.iter().map(|&a| a as f32).collect();
            assert_eq!(&areas, expected);
        }
    }
}
