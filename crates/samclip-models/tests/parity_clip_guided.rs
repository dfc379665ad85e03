//! CLIP-Guided SAM against a PyTorch implementation written for the test
//! (fixtures/clip_guided/generate.py), and what the method promises about its own structure.

mod common;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Gradients, Tensor};
use common::{Fixture, RING_1, close, values};
use samclip_models::clip::VisionConfig;
use samclip_models::clip_guided_sam::{
    AdapterConfig, AttentionAdapter, ClipGuidedConfig, ClipGuidedSam, GuideConfig, Inject, Look, MlpAdapter,
    PromptRules, TrainableConfig, map_prompts,
};
use samclip_models::init::Init;
use samclip_models::layers::Activation;
use samclip_models::sam::{MaskDecoderConfig, MaskOutput, PromptInput, SamConfig, Stem, VitDetConfig};
use samclip_models::state;
use samclip_weights::StateDict;

const INDEX: [usize; 3] = [0, 0, 1];

fn tiny() -> ClipGuidedConfig {
    let image_encoder = VitDetConfig {
        img_size: 96,
        embed_dim: 32,
        depth: 4,
        num_heads: 2,
        mlp_ratio: 4,
        out_chans: 32,
        window_size: 4,
        global_attn_indexes: vec![1, 3],
        stem: Stem::Patch,
    };
    let mask_decoder =
        MaskDecoderConfig { transformer_dim: 32, depth: 2, num_heads: 8, mlp_dim: 64, iou_head_hidden_dim: 32 };
    let vision = VisionConfig { image_size: 32, patch_size: 8, width: 32, layers: 7, heads: 2 };
    ClipGuidedConfig {
        sam: SamConfig { image_encoder, mask_decoder },
        clip: GuideConfig::Tower { vision, embed_dim: 20, act: Activation::QuickGelu, side: 24, surgery: true },
        adapters: AdapterConfig { bottleneck: 8, ..AdapterConfig::paper(3, 32) },
        prompts: PromptRules::PAPER,
        train: TrainableConfig { clip_blocks: 3, prompt_encoder: true, mask_decoder: true },
    }
}

/// The fixture's weights that the configuration has, strictly.
fn load(fixture: &Fixture, config: &ClipGuidedConfig) -> ClipGuidedSam {
    let model = config.init(&mut Init::zeros(&fixture.device)).expect("a valid configuration");
    let all = fixture.below("weights.");
    let mut own = StateDict::new();
    for (name, _) in state::named_shapes(&model) {
        own.insert(name.clone(), all.get(&name).unwrap_or_else(|| panic!("fixture lacks {name}")).clone());
    }
    state::load(model, &own).expect("strict loading")
}

fn open() -> Fixture {
    Fixture::open("clip_guided/clip_guided_tiny")
}

fn look(fixture: &Fixture, model: &ClipGuidedSam) -> Look {
    model.look(fixture.get("in.pixels"), fixture.get("in.clip_pixels")).expect("sizes fit")
}

#[test]
fn every_stage_agrees() {
    let fixture = open();
    let model = load(&fixture, &tiny());
    let look = look(&fixture, &model);
    fixture.check("out.p", look.patches.tokens.clone());
    let guidance = model.guide(&look.patches, &INDEX, fixture.get("in.text"));
    fixture.check("out.s", guidance.similarity.clone());
    fixture.check("out.e", guidance.e.clone().expect("a map is injected"));

    let encoder = model.encoder();
    assert_eq!(encoder.first_guided(), 1);
    let shared = look.shared.clone();
    fixture.check("out.shared", Tensor::cat(vec![shared.clone().narrow(0, 0, 1), shared.clone()], 0));
    let x = encoder.vit.blocks[0].forward(encoder.vit.embed(fixture.get("in.pixels")));
    fixture.check("out.block.0", x.clone());
    let mut x = Tensor::cat(vec![x.clone().narrow(0, 0, 1), x], 0); // images 0, 0, 1
    for i in 1..4 {
        x = encoder.block(i, x, Some(&guidance));
        fixture.check(&format!("out.block.{i}"), x.clone());
    }
    let embeddings = model.embed(&look, &INDEX, &guidance);
    fixture.check("out.embeddings", embeddings.clone());

    let prompts = map_prompts(&guidance, &model.config().prompts, model.low_res_side());
    let draws: Vec<f64> = values(fixture.get::<2>("in.draws")).into_iter().map(f64::from).collect();
    let flat = |each: &dyn Fn(usize) -> Vec<f32>| -> Vec<f32> { (0..3).flat_map(each).collect() };
    let tensor = |v: Vec<f32>, shape: &[usize]| -> Tensor<4> {
        Tensor::<1>::from_floats(v.as_slice(), &fixture.device).reshape([shape[0], shape[1], shape[2], shape[3]])
    };
    fixture.check("out.map", tensor(flat(&|i| prompts[i].map.clone()), &[3, 1, 24, 24]));
    let mask = tensor(flat(&|i| prompts[i].mask.clone().expect("dense")), &[3, 1, 24, 24]);
    fixture.check("out.mask", mask.clone());
    let points = flat(&|i| prompts[i].points(&draws[3 * i..3 * i + 3]).concat());
    let points = tensor(points, &[1, 3, 3, 2]).reshape([3, 3, 2]);
    fixture.check("out.points", points.clone());

    let labels = Tensor::ones([3, 3], &fixture.device);
    let input = PromptInput { points: Some((points, labels)), mask_input: Some(mask), boxes: None, count: 3 };
    let answer = model.decode(embeddings, &input, MaskOutput::Single);
    // logits reach 3.9, so their rounding is larger than that of the stages before: 1.05e-5 with AVX2
    let logits = fixture.get("out.logits");
    let largest = values(logits.clone()).into_iter().map(f32::abs).fold(1.0, f32::max);
    close("out.logits", answer.low_res_logits, logits, RING_1 * largest);
    fixture.check("out.iou", answer.predicted_iou);
}

#[test]
fn every_variant_of_adapters_and_injection_agrees() {
    let fixture = open();
    let none = |a: AdapterConfig| AdapterConfig { inject: Inject::NONE, ..a };
    type Change = fn(&mut ClipGuidedConfig);
    let cases: [(&str, Change); 9] = [
        ("susam_parallel", |c| c.adapters.attention = AttentionAdapter::SusamParallel),
        ("series", |c| {
            c.adapters.attention = AttentionAdapter::Series;
            c.adapters.mlp = MlpAdapter::Series;
        }),
        ("mix", |c| c.adapters.attention = AttentionAdapter::Series),
        ("lora", |c| {
            c.adapters.attention = AttentionAdapter::None;
            c.adapters.mlp = MlpAdapter::None;
            c.adapters.lora_rank = 2;
        }),
        ("sam_ptx", |c| {
            c.adapters.attention = AttentionAdapter::None;
            c.adapters.inject.text = true;
        }),
        ("vision", |c| c.adapters.inject.vision = true),
        ("similarity", |c| {
            c.adapters.inject.similarity = true;
            c.adapters.text_act = false;
        }),
        ("raw_patches", |c| {
            c.adapters.inject = Inject::ALL;
            c.adapters.p_norm = false;
        }),
        ("plain_clip", |c| {
            c.adapters.inject = Inject::ALL;
            if let GuideConfig::Tower { surgery, .. } = &mut c.clip {
                *surgery = false;
            }
        }),
    ];
    for (name, change) in cases {
        let mut config = tiny();
        config.adapters = none(config.adapters);
        change(&mut config);
        let model = load(&fixture, &config);
        let look = look(&fixture, &model);
        let guidance = model.guide(&look.patches, &INDEX, fixture.get("in.text"));
        fixture.check(&format!("variant.{name}"), model.embed(&look, &INDEX, &guidance));
    }
}

/// On the autodiff device SAM's own blocks take their steps one by one, as the guided ones do.
#[test]
fn zero_adapters_leave_sams_encoder_as_it_is_bit_for_bit() {
    let device = Device::default().autodiff();
    let fixture = Fixture { device: device.clone(), ..open() };
    for config in [tiny(), ClipGuidedConfig { adapters: AdapterConfig::paper(4, 32), ..tiny() }] {
        let start = config.init(&mut Init::seeded(3, &device)).unwrap();
        let mut weights = state::state_dict(&start);
        for (name, tensor) in fixture.below("weights.").iter().filter(|(name, _)| !name.starts_with("adapters.")) {
            weights.insert(name, tensor.clone());
        }
        let model = state::load(start, &weights).unwrap();
        let look = look(&fixture, &model);
        let guidance = model.guide(&look.patches, &[0, 1], fixture.get::<2>("in.text").narrow(0, 0, 2));
        let guided = values(model.embed(&look, &[0, 1], &guidance));
        let sam = values(model.image_encoder.forward(fixture.get("in.pixels")));
        assert!(sam.iter().any(|v| v.abs() > 0.1));
        assert_eq!(guided, sam);
    }
}

#[test]
fn one_look_serves_all_classes_and_pairs_do_not_depend_on_each_other() {
    let fixture = open();
    let model = load(&fixture, &tiny());
    let (look, text) = (look(&fixture, &model), fixture.get::<2>("in.text"));
    for pair in 0..3 {
        let own = text.clone().narrow(0, pair, 1);
        let guidance = model.guide(&look.patches, &[INDEX[pair]], own);
        let alone = model.embed(&look, &[INDEX[pair]], &guidance);
        close("alone", alone, fixture.get::<4>("out.embeddings").narrow(0, pair, 1), RING_1);
    }
}

/// Largest gradient over all tensors whose name begins with a prefix; none where none arrives.
struct Largest<'a> {
    path: Vec<String>,
    prefix: &'a str,
    grads: &'a Gradients,
    found: Option<f32>,
}

impl ModuleVisitor for Largest<'_> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if !self.path.join(".").starts_with(self.prefix) {
            return;
        }
        if let Some(grad) = param.val().grad(self.grads) {
            let largest = values(grad).iter().fold(0.0f32, |m, g| m.max(g.abs()));
            self.found = Some(self.found.unwrap_or(0.0).max(largest));
        }
    }
}

/// What reaches CLIP when the masks (semi-automatic prompts included) are differentiated.
fn gradient_at_clip(change: fn(&mut ClipGuidedConfig), zero_up: bool) -> Option<f32> {
    let device = Device::default().autodiff();
    let fixture = Fixture { device: device.clone(), ..open() };
    let mut config = tiny();
    change(&mut config);
    let mut model = load(&fixture, &config);
    if zero_up {
        for semantic in model.adapters.iter_mut().filter_map(|a| a.semantic.as_mut()) {
            let w_up = &mut semantic.adapter.w_up.weight;
            *w_up = Param::from_tensor(w_up.val().zeros_like());
        }
    }
    let look = look(&fixture, &model);
    let guidance = model.guide(&look.patches, &INDEX, fixture.get("in.text"));
    let prompts = map_prompts(&guidance, &config.prompts, 24);
    let masks: Vec<f32> = prompts.iter().flat_map(|p| p.mask.clone().expect("dense")).collect();
    let points: Vec<f32> = prompts.iter().flat_map(|p| p.points(&[0.1, 0.5, 0.9]).concat()).collect();
    let mask = Tensor::<1>::from_floats(masks.as_slice(), &device).reshape([3, 1, 24, 24]);
    let points = Tensor::<1>::from_floats(points.as_slice(), &device).reshape([3, 3, 2]);
    let labels = Tensor::ones([3, 3], &device);
    let input = PromptInput { points: Some((points, labels)), mask_input: Some(mask), boxes: None, count: 3 };
    let logits = model.decode(model.embed(&look, &INDEX, &guidance), &input, MaskOutput::Single).low_res_logits;
    let grads = logits.square().mean().backward();
    let largest = |prefix| {
        let mut visitor = Largest { path: vec![], prefix, grads: &grads, found: None };
        model.visit(&mut visitor);
        visitor.found
    };
    assert!(largest("mask_decoder.").is_some_and(|g| g > 0.0), "the masks are differentiated");
    largest("clip.")
}

#[test]
fn gradients_reach_clip_through_the_injected_map_and_through_nothing_else() {
    let reaches = |change, zero_up| gradient_at_clip(change, zero_up).unwrap_or(0.0);
    assert!(reaches(|_| {}, false) > 1e-6, "all three");
    assert!(reaches(|c| c.adapters.inject = Inject { vision: true, ..Inject::NONE }, false) > 1e-6, "vision");
    assert!(reaches(|c| c.adapters.inject = Inject { similarity: true, ..Inject::NONE }, false) > 1e-6, "similarity");
    // Each cut leaves the mask prompt and the points, which come from CLIP too, and the text.
    assert_eq!(reaches(|c| c.adapters.inject = Inject { text: true, ..Inject::NONE }, false), 0.0, "text only");
    assert_eq!(reaches(|c| c.adapters.inject = Inject::NONE, false), 0.0, "no injection");
    assert_eq!(reaches(|c| c.adapters.blocks = 0, false), 0.0, "no adapters");
    assert_eq!(reaches(|_| {}, true), 0.0, "adapters that give nothing");
}

#[test]
fn only_what_the_paper_names_is_trainable() {
    let config = tiny();
    let model = config.init(&mut Init::zeros(&Device::default())).unwrap();
    let names: Vec<String> = state::named_shapes(&model).into_iter().map(|(name, _)| name).collect();
    let trainable: Vec<&String> = names.iter().filter(|name| config.is_trainable(name)).collect();
    let clip: Vec<&&String> = trainable.iter().filter(|name| name.starts_with("clip.")).collect();
    assert_eq!(clip.len(), 3 * 4, "weights and biases of two projections in three blocks: {clip:?}");
    assert!(clip.iter().all(|name| name.contains(".attn.") && !name.contains("resblocks.3.")));
    assert!(!trainable.iter().any(|name| name.starts_with("image_encoder.")));
    assert!(!trainable.iter().any(|name| name.contains("gaussian")));
    let adapters = names.iter().filter(|name| name.starts_with("adapters.")).count();
    assert_eq!(trainable.iter().filter(|name| name.starts_with("adapters.")).count(), adapters);
    let frozen = TrainableConfig { clip_blocks: 0, prompt_encoder: false, mask_decoder: false };
    let config = ClipGuidedConfig { train: frozen, ..config };
    assert!(names.iter().filter(|name| config.is_trainable(name)).all(|name| name.starts_with("adapters.")));
}

#[test]
fn the_nano_variant_guides_itself_and_bad_configurations_are_refused() {
    let mut config = ClipGuidedConfig::nano();
    config.adapters.blocks = 2;
    let device = Device::default();
    let model = config.init(&mut Init::seeded(1, &device)).unwrap();
    let pixels = Tensor::<4>::ones([1, 3, 256, 256], &device) * 0.3;
    let look = model.look(pixels.clone(), pixels).unwrap();
    let text = Tensor::<2>::ones([2, 512], &device);
    let guidance = model.guide(&look.patches, &[0, 0], text);
    assert_eq!(guidance.grid, [16, 16]);
    assert_eq!(model.embed(&look, &[0, 0], &guidance).dims(), [2, 128, 16, 16]);
    let refused = |change: fn(&mut ClipGuidedConfig), says: &str| {
        let mut config = ClipGuidedConfig::nano();
        change(&mut config);
        let message = config.check().unwrap_err().to_string();
        assert!(message.contains(says), "{message}");
    };
    refused(|c| c.adapters.blocks = 8, "7 blocks");
    refused(|c| c.train.clip_blocks = 10, "9 blocks");
    refused(|c| c.adapters.mlp = MlpAdapter::Series, "parallel");
    refused(|c| c.prompts.tau_mask = 1.5, "0..1");
}
