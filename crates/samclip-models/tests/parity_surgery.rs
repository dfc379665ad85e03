//! CLIP Surgery against its definition in PyTorch (fixtures/clip/generate_surgery.py, itself held
//! against the public code): features, both feature surgeries, maps, points, gradients.

mod clip_common;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use clip_common::{Fixture, TOLERANCE, values};
use samclip_models::clip::surgery::{
    feature_surgery, feature_surgery_single, image_features, similarity_map, similarity_map_to_points,
};
use samclip_models::clip::{Clip, ClipConfig, TextConfig, VisionConfig};
use samclip_models::init::Init;
use samclip_models::layers::Activation;
use samclip_models::state;

fn load(device: Device) -> (Fixture, Clip) {
    let fixture = Fixture::open("surgery", device);
    let vision = VisionConfig { image_size: 32, patch_size: 8, width: 48, layers: 8, heads: 3 };
    let text = TextConfig { context_length: 4, vocab_size: 8, width: 4, layers: 1, heads: 1 };
    let config = ClipConfig { embed_dim: 20, vision, text, act: Activation::QuickGelu };
    let model = config.init(&mut Init::seeded(0, &fixture.device));
    let mut weights = state::state_dict(&model);
    for (name, tensor) in fixture.weights() {
        weights.insert(name, tensor);
    }
    (fixture, state::load(model, &weights).expect("strict loading"))
}

#[test]
fn features_at_the_native_and_a_larger_size() {
    let (fixture, model) = load(Device::default());
    for side in [32, 96] {
        let features = image_features(&model.visual, fixture.tensor(&format!("in.pixels.{side}"))).unwrap();
        assert_eq!(features.grid, [side / 8, side / 8]);
        fixture.check(&format!("out.features.{side}"), features.tokens.clone(), TOLERANCE);
        if side == 96 {
            fixture.check("out.unit", features.unit(), TOLERANCE);
        }
    }
    // the tower is unmodified: a second pass gives the same, and plain CLIP still runs at its own size
    let again = image_features(&model.visual, fixture.tensor("in.pixels.32")).unwrap();
    fixture.check("out.features.32", again.tokens, TOLERANCE);
}

#[test]
fn feature_surgery_maps_and_points() {
    let (fixture, _) = load(Device::default());
    let (unit, text) = (fixture.tensor::<3>("out.unit"), fixture.tensor::<2>("in.text"));
    let class_set = feature_surgery(unit.clone(), text.clone());
    fixture.check("out.class_set", class_set.clone(), TOLERANCE);
    let single = feature_surgery_single(unit, text, fixture.tensor("in.empty"));
    fixture.check("out.single", single, TOLERANCE);
    fixture.check("out.map", similarity_map(class_set, [12, 12], [37, 53]), TOLERANCE);
}

#[derive(serde::Deserialize)]
struct Case {
    image: usize,
    class: usize,
    shape: [usize; 2],
    t: f32,
    down: usize,
    points: Vec<[usize; 3]>,
}

#[test]
fn points_are_equal() {
    let (fixture, _) = load(Device::default());
    let single = fixture.tensor::<3>("out.single");
    let json = std::fs::read_to_string(clip_common::path("surgery_points.json")).expect("fixture is readable");
    let cases: Vec<Case> = serde_json::from_str(&json).expect("fixture is valid");
    assert_eq!(cases.len(), 6);
    for case in cases {
        let map = single.clone().narrow(0, case.image, 1).narrow(1, 1, 144).narrow(2, case.class, 1);
        let points = similarity_map_to_points(&values(map), [12, 12], case.shape, case.t, case.down).unwrap();
        let points: Vec<_> = points.iter().map(|p| [p.x, p.y, usize::from(p.positive)]).collect();
        assert_eq!(points, case.points, "class {} of image {}", case.class, case.image);
    }
}

#[test]
fn degenerate_maps() {
    assert!(similarity_map_to_points(&[0.0; 3], [2, 2], [10, 10], 0.8, 2).is_err());
    assert!(similarity_map_to_points(&[0.0; 4], [2, 2], [10, 10], 0.8, 4).is_err());
    let flat = similarity_map_to_points(&[0.5; 16], [4, 4], [10, 10], 0.8, 2).unwrap();
    assert!(flat.is_empty(), "a constant map has no points: {flat:?}");
    let map = similarity_map(Tensor::ones([1, 5, 1], &Device::default()), [2, 2], [3, 3]);
    assert_eq!(values(map), [0.0; 9]);
}

#[test]
fn gradients_flow_through_the_surgery() {
    let (fixture, model) = load(Device::default().autodiff());
    let model = model.train();
    let direction = fixture.tensor::<3>("in.direction");
    let product =
        || image_features(&model.visual, fixture.tensor("in.pixels.24")).unwrap().tokens * direction.clone();
    let grads = product().sum().backward();
    let plain = Fixture::open("surgery", Device::default());
    let blocks = &model.visual.transformer.resblocks;
    for i in [0, 2, 7] {
        let attn = &blocks[i].attn;
        let name = format!("grad.transformer.resblocks.{i}.attn");
        let close = |name: &str, grad: Option<Tensor<2>>| {
            let grad = grad.expect("a gradient");
            let scale = values(plain.tensor::<2>(name)).iter().fold(1.0f32, |m, v| m.max(v.abs()));
            plain.check(name, grad, TOLERANCE * scale);
        };
        close(&format!("{name}.in_proj_weight"), attn.in_proj_weight.val().grad(&grads));
        close(&format!("{name}.out_proj.weight"), attn.out_proj.weight.val().grad(&grads));
    }
    let positions = model.visual.positional_embedding.val().grad(&grads).expect("a gradient");
    plain.check("grad.positional_embedding", positions, 10.0 * TOLERANCE);

    // a loss on patches alone cannot see queries and keys of the last block
    let grads = product().narrow(1, 1, 9).sum().backward();
    let last = blocks[7].attn.in_proj_weight.val().grad(&grads).expect("a gradient");
    assert!(values(last.clone().narrow(0, 0, 2 * 48)).iter().all(|g| *g == 0.0), "queries and keys");
    plain.check("patch_grad.transformer.resblocks.7.attn.in_proj_weight", last, 10.0 * TOLERANCE);
}
