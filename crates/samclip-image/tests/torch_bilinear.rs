//! `bilinear` against torch.nn.functional.interpolate: max |Δ| <= 1e-6 of the largest value.

mod common;

use samclip_image::bilinear;

#[test]
fn equals_torch() {
    let tensors = common::tensors("torch_bilinear.safetensors");
    let mut compared = 0;
    for (name, expected) in tensors.iter().filter_map(|(n, t)| Some((n.strip_prefix("out.")?, t))) {
        let parts: Vec<&str> = name.split('.').collect();
        let ((h, w), (out_h, out_w)) = (common::pair(parts[0]), common::pair(parts[1]));
        let (row_step, column_step): (usize, usize) = (parts[2].parse().unwrap(), parts[3].parse().unwrap());
        let source = &tensors[&format!("source.{name}")].floats;
        let out = bilinear(source, h, w, out_h, out_w);
        assert_eq!(out.len(), out_h * out_w);
        let picked: Vec<f32> = (0..out_h)
            .step_by(row_step)
            .flat_map(|y| (0..out_w).step_by(column_step).map(move |x| y * out_w + x))
            .map(|i| out[i])
            .collect();
        let scale = source.iter().fold(1f32, |m, v| m.max(v.abs()));
        let difference = common::max_difference(&picked, &expected.floats);
        println!("{name}: max |Δ| {difference:e}, largest value {scale}");
        assert!(difference <= 1e-6 * scale, "{name}: {difference}");
        compared += 1;
    }
    assert_eq!(compared, 9);
}
