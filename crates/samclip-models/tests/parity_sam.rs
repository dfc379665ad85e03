//! SAM against segment-anything, stage by stage, on a tiny seeded model (fixtures/sam/generate.py).

mod common;

use burn::tensor::Tensor;
use common::{Fixture, RING_1, close, max_delta, sam, tiny_sam, values};
use samclip_models::init::Init;
use samclip_models::ops::{self, Interpolation};
use samclip_models::sam::{
    Block, ImageEncoder, MaskLogits, MaskOutput, PromptInput, Sam, SamConfig, VitDet, VitDetConfig, rel_pos_rows,
};
use samclip_models::state;

fn vit_det(sam: &Sam) -> &VitDet {
    match &sam.image_encoder {
        ImageEncoder::VitDet(encoder) => encoder,
        ImageEncoder::TinyVit(_) => unreachable!("the tiny model is a ViTDet"),
    }
}

fn channels_first(x: Tensor<4>) -> Tensor<4> {
    x.permute([0, 3, 1, 2])
}

/// The prompts of the fixture; each part is optional.
fn prompts(fixture: &Fixture, points: bool, boxes: bool, mask: bool) -> PromptInput {
    PromptInput {
        points: points.then(|| (fixture.get("points"), fixture.get("labels"))),
        boxes: boxes.then(|| fixture.get("boxes")),
        mask_input: mask.then(|| fixture.get("mask_input")),
        count: 3,
    }
}

#[test]
fn image_encoder_agrees_at_each_seam() {
    let fixture = Fixture::open("sam/sam_tiny");
    let sam = sam(&fixture);
    let encoder = vit_det(&sam);
    for (prefix, pixels) in [("encoder", "pixels"), ("encoder_other", "pixels_other")] {
        let pixels: Tensor<4> = fixture.get(pixels);
        fixture.check(&format!("{prefix}.patch_embed"), encoder.patch_embed.forward(pixels.clone()));
        let mut x = encoder.embed(pixels.clone());
        for (i, block) in encoder.blocks.iter().enumerate() {
            x = block.forward(x);
            fixture.check(&format!("{prefix}.block.{i}"), x.clone());
        }
        fixture.check(&format!("{prefix}.neck"), encoder.neck.forward(x));
        fixture.check(&format!("{prefix}.neck"), sam.encode(pixels));
    }
}

#[test]
fn prompt_encoder_and_mask_decoder_agree_for_every_combination_of_prompts() {
    let fixture = Fixture::open("sam/sam_tiny");
    let sam = sam(&fixture);
    let embedding = fixture.get::<4>("encoder.neck").slice([0..1]);
    fixture.check("dense_pe", channels_first(sam.prompt_encoder.dense_pe([7, 7])));
    for (case, points, boxes, mask) in [
        ("points", true, false, false),
        ("boxes", false, true, false),
        ("points_boxes", true, true, false),
        ("mask", false, false, true),
        ("points_mask", true, false, true),
        ("all", true, true, true),
    ] {
        let prompts = prompts(&fixture, points, boxes, mask);
        match sam.prompt_encoder.sparse(&prompts, [112, 112]) {
            Some(sparse) => fixture.check(&format!("{case}.sparse"), sparse),
            None => assert!(!points && !boxes, "{case}: no tokens"),
        }
        let dense = channels_first(sam.prompt_encoder.dense(&prompts, [7, 7])).expand([3, 32, 7, 7]);
        fixture.check(&format!("{case}.dense"), dense);
        two_way_layers_agree(&fixture, &sam, case, &prompts, embedding.clone());

        let all = sam.decode(embedding.clone(), &[0, 0, 0], &prompts, MaskOutput::All);
        fixture.check(&format!("{case}.low_res_logits"), all.low_res_logits.clone());
        fixture.check(&format!("{case}.iou"), all.predicted_iou.clone());
        for (output, range) in [(MaskOutput::Single, 0..1), (MaskOutput::Multi, 1..4)] {
            let part = sam.decode(embedding.clone(), &[0, 0, 0], &prompts, output);
            let want = all.low_res_logits.clone().slice([0..3, range.clone()]);
            close(&format!("{case} {output:?}"), part.low_res_logits, want, RING_1);
            close(&format!("{case} {output:?} iou"), part.predicted_iou, all.predicted_iou.clone().slice([0..3, range]), RING_1);
        }
    }
}

fn two_way_layers_agree(fixture: &Fixture, sam: &Sam, case: &str, prompts: &PromptInput, embedding: Tensor<4>) {
    let decoder = &sam.mask_decoder;
    let dense = sam.prompt_encoder.dense(prompts, [7, 7]);
    let image = (embedding.permute([0, 2, 3, 1]) + dense).expand([3, 7, 7, 32]).reshape([3, 49, 32]);
    let image_pe = sam.prompt_encoder.dense_pe([7, 7]).reshape([1, 49, 32]);
    let own = Tensor::cat(vec![decoder.iou_token.weight.val(), decoder.mask_tokens.weight.val()], 0);
    let own = own.unsqueeze_dim::<3>(0).expand([3, 5, 32]);
    let tokens = match sam.prompt_encoder.sparse(prompts, [112, 112]) {
        Some(sparse) => Tensor::cat(vec![own, sparse], 1),
        None => own,
    };
    let mut state = (tokens.clone(), image.clone());
    for (i, layer) in decoder.transformer.layers.iter().enumerate() {
        state = layer.forward(state.0, state.1, tokens.clone(), image_pe.clone());
        fixture.check(&format!("{case}.layer.{i}.queries"), state.0.clone());
        fixture.check(&format!("{case}.layer.{i}.keys"), state.1.clone());
    }
    let (queries, _) = decoder.transformer.forward(image, image_pe, tokens);
    fixture.check(&format!("{case}.queries"), queries);
}

#[test]
fn paired_prompts_equal_one_by_one() {
    let fixture = Fixture::open("sam/sam_tiny");
    let sam = sam(&fixture);
    let embeddings: Tensor<4> = fixture.get("encoder.neck"); // two images
    let prompts = prompts(&fixture, true, false, false);
    let together = sam.decode(embeddings.clone(), &[1, 0, 1], &prompts, MaskOutput::All);
    for i in 0..3 {
        let (logits, iou) = (together.low_res_logits.clone(), together.predicted_iou.clone());
        fixture.check(&format!("pairs.{i}.low_res_logits"), logits.slice([i..i + 1]));
        fixture.check(&format!("pairs.{i}.iou"), iou.slice([i..i + 1]));
    }
    // And the same through this implementation, one image and one prompt at a time.
    let (points, labels) = prompts.points.clone().expect("points");
    for (i, image) in [1usize, 0, 1].into_iter().enumerate() {
        let one = PromptInput {
            points: Some((points.clone().slice([i..i + 1]), labels.clone().slice([i..i + 1]))),
            count: 1,
            ..PromptInput::default()
        };
        let alone = sam.decode(embeddings.clone().slice([image..image + 1]), &[0], &one, MaskOutput::All);
        let want = together.low_res_logits.clone().slice([i..i + 1]);
        close(&format!("prompt {i} alone"), alone.low_res_logits, want, RING_1);
    }
}

/// Prompts with a mask above the limit answer as without it; the others may be left out, and are here.
#[test]
fn a_limit_of_predicted_iou_leaves_out_whole_prompts_only() {
    let fixture = Fixture::open("sam/sam_tiny");
    let sam = sam(&fixture);
    let embedding = fixture.get::<4>("encoder.neck").slice([0..1]);
    let prompts = prompts(&fixture, true, false, false);
    let all = sam.decode(embedding.clone(), &[0; 3], &prompts, MaskOutput::Multi);
    let best: Vec<f32> = all.predicted_iou.clone().max_dim(1).into_data().try_into_vec().unwrap();
    let mut sorted = best.clone();
    sorted.sort_by(f32::total_cmp);
    let some = sam.decode_above(embedding, &[0; 3], &prompts, MaskOutput::Multi, sorted[0]);
    assert_eq!(some.predicted_iou.to_data(), all.predicted_iou.to_data());
    for (i, &iou) in best.iter().enumerate() {
        let map = |of: &MaskLogits| of.low_res_logits.clone().slice([i..i + 1]);
        let want = if iou > sorted[0] { map(&all) } else { map(&all).zeros_like() };
        assert_eq!(map(&some).into_data(), want.into_data(), "prompt {i}");
    }
}

/// The kept position embedding of a model that trains is not handed to the model without gradients.
#[test]
fn the_kept_position_embedding_lives_with_its_model() {
    use burn::module::Module;
    let training = tiny_sam().init(&mut Init::seeded(0, &samclip_models::Device::flex().autodiff())).prompt_encoder;
    for _ in 0..2 {
        assert!(ops::tracks_gradients(&training.dense_pe([4, 5])));
        assert!(!ops::tracks_gradients(&training.valid().dense_pe([4, 5])));
    }
}

#[test]
fn a_batch_of_images_equals_each_image_alone() {
    let fixture = Fixture::open("sam/sam_tiny");
    let sam = sam(&fixture);
    let pixels: Tensor<4> = fixture.get("pixels");
    let batch = sam.encode(pixels.clone());
    for i in 0..2 {
        let alone = sam.encode(pixels.clone().slice([i..i + 1]));
        close(&format!("image {i}"), alone, batch.clone().slice([i..i + 1]), RING_1);
    }
}

#[test]
fn a_windowed_block_at_28_is_four_calls_at_14() {
    let fixture = Fixture::open("sam/windows_28");
    let config = VitDetConfig { depth: 1, window_size: 14, img_size: 224, global_attn_indexes: vec![], ..tiny_sam().image_encoder };
    let encoder = config.init(&mut Init::zeros(&fixture.device));
    let block: Block = fixture.load(encoder.blocks.into_iter().next().expect("one block"));
    let x: Tensor<4> = fixture.get("x");
    let y = block.forward(x.clone());
    fixture.check("y", y.clone());
    fixture.check("y_21", block.forward(fixture.get("x_21")));
    for (row, col) in [(0, 0), (0, 14), (14, 0), (14, 14)] {
        let part = |t: &Tensor<4>| t.clone().slice([0..1, row..row + 14, col..col + 14]);
        close(&format!("window at {row}, {col}"), block.forward(part(&x)), part(&y), RING_1);
    }
}

#[test]
fn relative_positions_are_kept_at_their_size_and_interpolated_elsewhere() {
    let fixture = Fixture::open("sam/rel_pos");
    let table: Tensor<2> = fixture.get("table"); // [127, 8]
    let same = ops::resize_rows(table.clone(), 127, Interpolation::Bilinear);
    assert_eq!(values(same), values(table.clone()), "127 -> 127 is the identity");
    for length in [27, 55, 63, 159] {
        let rows = ops::resize_rows(table.clone(), length, Interpolation::Bilinear);
        fixture.check(&format!("rows.{length}"), rows);
    }
    for size in [14, 28] {
        fixture.check(&format!("size.{size}"), rel_pos_rows(table.clone(), size));
    }
    let first = rel_pos_rows(table, 64).slice([0..1]).reshape([64, 8]);
    close("size.64.first_row", first, fixture.get("size.64.first_row"), 0.0);
}

#[test]
fn resampling_agrees_with_torch_interpolate() {
    let fixture = Fixture::open("sam/resample");
    let x: Tensor<4> = fixture.get("x");
    for (h, w) in [(14, 14), (7, 11), (16, 16), (21, 28), (40, 5)] {
        for (name, mode) in [
            ("bilinear", Interpolation::Bilinear),
            ("bicubic", Interpolation::Bicubic),
            ("bicubic_aa", Interpolation::BicubicAntialias),
        ] {
            let name = format!("{name}.{h}x{w}");
            fixture.check(&name, ops::resize_2d(x.clone(), [h, w], mode));
        }
    }
}

/// A wrong activation, epsilon or padding order must fail these tests: the tolerance is far below
/// what such a change moves. Tanh-GELU, for one, moves it by three orders of magnitude.
#[test]
fn the_tolerance_would_catch_a_wrong_activation() {
    let fixture = Fixture::open("sam/windows_28");
    let x: Tensor<4> = fixture.get("x");
    let cubic = x.clone() + x.clone().powi_scalar(3) * 0.044715;
    let tanh = (cubic * (2.0 / std::f64::consts::PI).sqrt()).tanh().add_scalar(1.0) * x.clone() * 0.5;
    assert!(max_delta(ops::gelu(x), tanh) > 10.0 * RING_1);
}

/// Spec §2.1: encoder and total of the official checkpoints, the Gaussian matrix being a buffer.
#[test]
fn parameter_counts_are_the_official_ones() {
    for (config, encoder, total) in [
        (SamConfig::vit_b(), 89_670_912, 93_735_472),
        (SamConfig::vit_l(), 308_278_272, 312_342_832),
        (SamConfig::vit_h(), 637_026_048, 641_090_608),
    ] {
        let shapes = shapes_of(&config);
        let count = |prefix: &str| -> usize {
            let own = shapes.iter().filter(|(name, _)| name.starts_with(prefix) && !name.ends_with("gaussian_matrix"));
            own.map(|(_, shape)| shape.iter().product::<usize>()).sum()
        };
        assert_eq!(count("image_encoder."), encoder);
        assert_eq!(count("prompt_encoder."), 6_220);
        assert_eq!(count("mask_decoder."), 4_058_340);
        assert_eq!(count(""), total);
    }
}

/// Names and shapes of a model of which only one block of each kind is built: all windowed blocks
/// are alike, and so are the global ones. ViT-H itself would take 2.5 GB.
fn shapes_of(config: &SamConfig) -> Vec<(String, Vec<usize>)> {
    state::named_shapes(&config.init(&mut Init::zeros(&Default::default())))
}
