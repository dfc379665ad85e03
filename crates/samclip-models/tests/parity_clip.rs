//! Both towers against open_clip, stage by stage, on tiny random models (fixtures/clip).

mod clip_common;

use burn::module::Param;
use burn::tensor::{Device, Tensor, TensorData};
use clip_common::{Fixture, TOLERANCE};
use samclip_models::clip::{Clip, ClipConfig, TextConfig, VisionConfig, normalize, zero_shot};
use samclip_models::init::Init;
use samclip_models::layers::Activation;
use samclip_models::ops::Interpolation;
use samclip_models::state;

fn tiny(act: Activation) -> ClipConfig {
    let vision = VisionConfig { image_size: 64, patch_size: 16, width: 64, layers: 3, heads: 2 };
    let text = TextConfig { context_length: 16, vocab_size: 320, width: 32, layers: 2, heads: 4 };
    ClipConfig { embed_dim: 24, vision, text, act }
}

fn load(name: &str, act: Activation) -> (Fixture, Clip) {
    let fixture = Fixture::open(name, Device::default());
    let model = tiny(act).init(&mut Init::zeros(&fixture.device));
    let model = state::load(model, &fixture.weights()).expect("strict loading");
    (fixture, model)
}

fn image_stages(name: &str, act: Activation) {
    let (fixture, model) = load(name, act);
    let tower = &model.visual;
    let pixels = fixture.tensor::<4>("in.pixels");
    let (x, grid) = tower.embed(pixels.clone(), Interpolation::BicubicAntialias).unwrap();
    assert_eq!(grid, [4, 4]);
    fixture.check("out.image.embed", x.clone(), TOLERANCE);
    let mut x = tower.ln_pre.forward(x);
    fixture.check("out.image.ln_pre", x.clone(), TOLERANCE);
    for (i, block) in tower.transformer.resblocks.iter().enumerate() {
        x = block.forward(x, false);
        fixture.check(&format!("out.image.block.{i}"), x.clone(), TOLERANCE);
    }
    fixture.check("out.image.ln_post", tower.ln_post.forward(x), TOLERANCE);
    fixture.check("out.image_features", model.encode_image(pixels).unwrap(), TOLERANCE);
}

fn text_stages(name: &str, act: Activation) {
    let (fixture, model) = load(name, act);
    let tokens = fixture.ints::<2>("in.tokens");
    let mut x = model.text.embed(tokens.clone()).unwrap();
    fixture.check("out.text.embed", x.clone(), TOLERANCE);
    for (i, block) in model.text.transformer.resblocks.iter().enumerate() {
        x = block.forward(x, true);
        fixture.check(&format!("out.text.block.{i}"), x.clone(), TOLERANCE);
    }
    fixture.check("out.text.ln_final", model.text.ln_final.forward(x), TOLERANCE);
    fixture.check("out.text_features", model.encode_text(tokens.clone()).unwrap(), TOLERANCE);
    let short = model.encode_text(tokens.narrow(0, 1, 2).narrow(1, 0, 9)).unwrap(); // no padding column
    let expected = fixture.tensor::<2>("out.text_features").narrow(0, 1, 2);
    let delta = clip_common::max_delta(&clip_common::values(short), &clip_common::values(expected));
    assert!(delta <= TOLERANCE, "without padding: {delta:e}");
}

#[test]
fn image_tower_with_gelu() {
    image_stages("clip_gelu", Activation::Gelu);
}

#[test]
fn image_tower_with_quickgelu() {
    image_stages("clip_quickgelu", Activation::QuickGelu);
}

#[test]
fn text_tower_with_gelu() {
    text_stages("clip_gelu", Activation::Gelu);
}

#[test]
fn text_tower_with_quickgelu() {
    text_stages("clip_quickgelu", Activation::QuickGelu);
}

#[test]
fn other_image_sizes_resize_the_position_embedding() {
    for (name, act) in [("clip_gelu", Activation::Gelu), ("clip_quickgelu", Activation::QuickGelu)] {
        let (fixture, model) = load(name, act);
        for size in [96, 48] {
            let positions = model.visual.positions([size / 16, size / 16], Interpolation::BicubicAntialias);
            fixture.check(&format!("out.positions.{size}"), positions, TOLERANCE);
            let features = model.encode_image(fixture.tensor(&format!("in.pixels.{size}"))).unwrap();
            fixture.check(&format!("out.image_features.{size}"), features, TOLERANCE);
        }
    }
}

#[test]
fn the_activation_is_not_interchangeable() {
    let (fixture, model) = load("clip_gelu", Activation::QuickGelu);
    let actual = clip_common::values(model.encode_image(fixture.tensor("in.pixels")).unwrap());
    let expected = clip_common::values(fixture.tensor::<2>("out.image_features"));
    assert!(clip_common::max_delta(&actual, &expected) > 100.0 * TOLERANCE);
}

#[test]
fn an_image_in_a_batch_is_the_image_alone() {
    let (fixture, model) = load("clip_gelu", Activation::Gelu);
    let pixels = fixture.tensor::<4>("in.pixels");
    let both = model.encode_image(pixels.clone()).unwrap();
    let alone = model.encode_image(pixels.narrow(0, 1, 1)).unwrap();
    let delta = clip_common::max_delta(&clip_common::values(both.narrow(0, 1, 1)), &clip_common::values(alone));
    assert!(delta <= 1e-6, "{delta:e}");
}

#[test]
fn class_vectors_equal_open_clips() {
    let fixture = Fixture::open("zero_shot", Device::default());
    let vision = VisionConfig { image_size: 16, patch_size: 16, width: 8, layers: 1, heads: 1 };
    let text = TextConfig { context_length: 77, vocab_size: 49408, width: 32, layers: 2, heads: 4 };
    let config = ClipConfig { embed_dim: 24, vision, text, act: Activation::Gelu };
    let mut model = config.init(&mut Init::seeded(0, &fixture.device));
    let table: Vec<f32> = (0..49408u64)
        .flat_map(|id| (0..32).map(move |c| ((id * 7919 + c * 104_729) % 65_537) as f32 / 65_536.0 - 0.5))
        .collect();
    model.text.token_embedding.weight =
        Param::from_tensor(Tensor::from_data(TensorData::new(table, [49408, 32]), &fixture.device));
    let mut weights = state::state_dict(&model);
    for (name, tensor) in fixture.weights() {
        weights.insert(name, tensor);
    }
    let text = state::load(model, &weights).expect("strict loading").text;

    fixture.check("out.raw", text.encode(&["a photo of a dog."]).unwrap(), TOLERANCE);
    let names = ["dog", "traffic light", "tv monitor"];
    let classes = text.class_vectors(&names, &zero_shot::IMAGENET_TEMPLATES).unwrap();
    fixture.check("out.classes", classes, TOLERANCE);
    let templates = zero_shot::surgery_templates();
    assert_eq!(templates.len(), 85);
    fixture.check("out.empty", text.class_vectors(&[""], &templates).unwrap(), TOLERANCE);
    assert!(text.encode(&["dog", " "]).is_err());
    assert!(text.encode::<&str>(&[]).is_err());
}

#[test]
fn unfit_inputs_are_errors() {
    let (fixture, model) = load("clip_gelu", Activation::Gelu);
    let pixels = Tensor::<4>::zeros([1, 3, 64, 60], &fixture.device);
    assert!(model.encode_image(pixels).unwrap_err().to_string().contains("64x60"));
    let tokens = fixture.ints::<2>("in.tokens").repeat_dim(1, 2);
    assert!(model.encode_text(tokens).unwrap_err().to_string().contains("32 tokens"));
}

#[test]
fn normalized_rows_have_unit_length() {
    let x = Tensor::<2>::from_data([[3.0, 4.0], [0.0, 0.0]], &Device::default());
    assert_eq!(clip_common::values(normalize(x)), [0.6, 0.8, 0.0, 0.0]);
}
