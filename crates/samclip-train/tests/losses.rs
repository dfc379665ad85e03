//! Values and gradients of the losses, and AdamW, against PyTorch (fixtures/losses).

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor, TensorData};
use samclip_train::losses;
use samclip_train::optim;
use samclip_train::parameters::Parameters;
use samclip_train::recipe::{Group, Model, Muon, Optimizer};
use serde_json::Value;

fn fixture() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/losses/losses.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|v| v.as_f64().unwrap() as f32).collect()
}

fn close(name: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (i, (f, e)) in found.iter().zip(expected).enumerate() {
        assert!((f - e).abs() <= tolerance * e.abs().max(1.0), "{name}[{i}]: {f} for {e}");
    }
}

/// Runs `loss(x, y) -> (value, gradient)` on a case of the fixture.
fn check(case: &str, loss: impl Fn(&[f32], &[f32]) -> (f32, Vec<f32>)) {
    let fixture = fixture();
    let case_data = &fixture[case];
    let other = if case_data["y"].is_null() { &case_data["labels"] } else { &case_data["y"] };
    let (value, grad) = loss(&floats(&case_data["x"]), &floats(other));
    close(case, &[value], &[case_data["value"].as_f64().unwrap() as f32], 2e-6);
    let expected = floats(&case_data["grad"]);
    assert!(expected.iter().any(|g| g.abs() > 1e-5), "{case}: a gradient of zeros proves nothing");
    close(case, &grad, &expected, 2e-6);
}

#[test]
fn focal_and_dice_on_hard_and_soft_targets() {
    for case in ["focal", "focal_soft"] {
        check(case, |x, y| {
            let mut grad = vec![0.0; x.len()];
            (losses::focal(x, y, 0.25, Some(&mut grad), 1.0), grad)
        });
    }
    for case in ["dice", "dice_soft"] {
        check(case, |x, y| {
            let mut grad = vec![0.0; x.len()];
            (losses::dice(x, y, Some(&mut grad), 1.0), grad)
        });
    }
}

#[test]
fn contrastive_is_clips() {
    check("contrastive", |x, y| {
        let (value, grad, right) = losses::contrastive(x, y, 16, 14.0);
        assert!((0.0..=1.0).contains(&right));
        (value, grad)
    });
    let rows = [1.0, 0.0, 0.0, 1.0];
    assert_eq!(losses::contrastive(&rows, &rows, 2, 100.0).2, 1.0, "every image is nearest to its own text");
    assert_eq!(losses::contrastive(&rows, &[0.0, 1.0, 1.0, 0.0], 2, 100.0).2, 0.0);
}

#[test]
fn affinity_is_a_divergence_over_the_names() {
    check("affinity", |x, y| losses::affinity(x, y, 7));
    let rows = [0.5, -1.0, 2.0, 0.0, 3.0, 1.0];
    let (value, grad) = losses::affinity(&rows, &rows, 3);
    assert!(value.abs() < 1e-6 && grad.iter().all(|g| g.abs() < 1e-6), "no loss towards itself: {value} {grad:?}");
}

#[test]
fn standardized_channels_are_batch_norms() {
    let case = &fixture()["standardize"];
    let mut rows = floats(&case["x"]);
    losses::standardize(&mut rows, 4);
    close("standardize", &rows, &floats(&case["value"]), 1e-5);
}

#[test]
fn mask_loss_is_the_weighted_sum() {
    let fixture = fixture();
    let (x, y) = (floats(&fixture["focal"]["x"]), floats(&fixture["focal"]["y"]));
    let mut grad = vec![0.0; x.len()];
    let loss = losses::mask_loss(&x, &y, losses::MaskWeights::SAM, Some(&mut grad), 0.5);
    let (focal, dice) = (floats(&fixture["focal"]["grad"]), floats(&fixture["dice"]["grad"]));
    let expected: Vec<f32> = focal.iter().zip(&dice).map(|(f, d)| 0.5 * (20.0 * f + d)).collect();
    close("gradient", &grad, &expected, 1e-5);
    assert!((loss.total - 20.0 * loss.focal - loss.dice).abs() < 1e-6);
}

#[test]
fn cross_entropies() {
    let labels = |y: &[f32]| y.iter().map(|&l| l as u8).collect::<Vec<_>>();
    check("cross_entropy", |x, y| {
        let (value, grad, counted) = losses::cross_entropy(x, 7, &labels(y));
        assert_eq!(counted, 22);
        (value, grad)
    });
    check("soft_cross_entropy", |x, y| {
        let mut grad = vec![0.0; x.len()];
        (losses::soft_cross_entropy(x, y, &mut grad), grad)
    });
    check("sigmoid_cross_entropy", |x, y| {
        let mut grad = vec![0.0; x.len()];
        (losses::sigmoid_cross_entropy(x, y, &mut grad), grad)
    });
    check("dense", |x, y| {
        let up = losses::resize_bilinear(x, (3, 5), 4, (12, 20));
        let (value, grad, _) = losses::cross_entropy(&up, 4, &labels(y));
        (value, losses::resize_bilinear_backward(&grad, (3, 5), 4, (12, 20)))
    });
}

#[test]
fn distances_between_embeddings() {
    check("cosine", |x, y| losses::cosine(x, y, 16));
    check("centred_cosine", |x, y| losses::centred_cosine(x, y, 16));
    check("smooth_l1", losses::smooth_l1);
}

#[derive(Module, Debug)]
struct Layer {
    weight: Param<Tensor<2>>,
    bias: Param<Tensor<1>>,
}

/// What the fixture's AdamW and Muon share.
fn optimizer() -> Optimizer {
    Optimizer {
        lr: 1e-2,
        final_lr: 1e-2,
        warmup_steps: 0,
        decay_steps: 0,
        betas: [0.9, 0.999],
        weight_decay: 0.1,
        clip_norm: 1.0,
        accumulate: 1,
        ema_decay: None,
        muon: None,
        groups: vec![],
    }
}

#[test]
fn five_clipped_adamw_steps_in_two_groups() {
    let fixture = fixture();
    let adamw = &fixture["adamw"];
    let device = Device::flex().autodiff();
    let start = |key: &str, shape: Vec<usize>| TensorData::new(floats(&adamw["start"][key]), shape);
    let layer = Layer {
        weight: Param::from_tensor(Tensor::from_data(start("w", vec![4, 3]), &device)),
        bias: Param::from_tensor(Tensor::from_data(start("b", vec![4]), &device)),
    };
    let model = Model {
        variant: "sam_clip_nano".into(),
        sizes: None,
        img_size: None,
        init: "fresh".into(),
        trainable: vec!["*".into()],
        text_table: None,
        fresh: vec![],
        copies: vec![],
        logit_scale: 1.0,
        background_logit: None,
        asked_logit: 0.0,
        classify_tokens: None,
    };
    let optimizer = Optimizer {
        ema_decay: Some(0.9),
        groups: vec![Group { pattern: "bias".into(), lr_scale: 0.5 }],
        ..optimizer()
    };
    let mut parameters = Parameters::new(&layer, &model, &optimizer);
    for step in adamw["steps"].as_array().unwrap() {
        parameters.tensors_mut()[0].grad = floats(&step["g_w"]);
        parameters.tensors_mut()[1].grad = floats(&step["g_b"]);
        let norm = optim::step(&mut parameters, &optimizer, 1e-2);
        close("norm", &[norm], &[step["norm"].as_f64().unwrap() as f32], 1e-5);
        close("weight", &parameters.tensors()[0].value, &floats(&step["w"]), 2e-6);
        close("bias", &parameters.tensors()[1].value, &floats(&step["b"]), 2e-6);
        close("mean weight", &parameters.tensors()[0].ema, &floats(&step["ema_w"]), 2e-6);
        close("mean bias", &parameters.tensors()[1].ema, &floats(&step["ema_b"]), 2e-6);
    }
}

#[derive(Module, Debug)]
struct Pair {
    wide_weight: Param<Tensor<2>>,
    tall_weight: Param<Tensor<2>>,
}

#[test]
fn five_muon_steps_of_a_wide_and_a_tall_matrix() {
    let fixture = fixture();
    let (start, device) = (&fixture["muon"]["start"], Device::flex().autodiff());
    let matrix = |key: &str, shape: [usize; 2]| {
        Param::from_tensor(Tensor::from_data(TensorData::new(floats(&start[key]), shape.to_vec()), &device))
    };
    let pair = Pair { wide_weight: matrix("wide", [4, 6]), tall_weight: matrix("tall", [6, 4]) };
    let optimizer = Optimizer {
        clip_norm: f32::INFINITY,
        muon: Some(Muon { patterns: vec!["*".into()], momentum: 0.95 }),
        ..optimizer()
    };
    let mut parameters = Parameters::with_rule(&pair, |_| true, &optimizer);
    for step in fixture["muon"]["steps"].as_array().unwrap() {
        for (tensor, key) in parameters.tensors_mut().iter_mut().zip(["g_wide", "g_tall"]) {
            assert!(tensor.muon && tensor.square.is_empty());
            tensor.grad = floats(&step[key]);
        }
        optim::step(&mut parameters, &optimizer, 1e-2);
        close("wide", &parameters.tensors()[0].value, &floats(&step["wide"]), 5e-6);
        close("tall", &parameters.tensors()[1].value, &floats(&step["tall"]), 5e-6);
    }
}
