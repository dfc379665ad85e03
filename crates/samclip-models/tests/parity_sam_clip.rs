//! SAM-CLIP's two heads on one backbone against PyTorch (fixtures/sam_clip/generate.py).

mod common;

use burn::tensor::Tensor;
use common::{Fixture, RING_1, close, values};
use samclip_models::init::Init;
use samclip_models::sam::{MaskDecoderConfig, SamConfig, Stem, VitDetConfig};
use samclip_models::sam_clip::{ClipHeadConfig, Pooling, SamClip, SamClipConfig};

fn tiny(fixture: &Fixture, pooling: Pooling) -> SamClip {
    let image_encoder = VitDetConfig {
        img_size: 112,
        embed_dim: 32,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 4,
        out_chans: 32,
        window_size: 3,
        global_attn_indexes: vec![1],
        stem: Stem::Patch,
    };
    let mask_decoder =
        MaskDecoderConfig { transformer_dim: 32, depth: 2, num_heads: 8, mlp_dim: 64, iou_head_hidden_dim: 32 };
    let config = SamClipConfig {
        sam: SamConfig { image_encoder, mask_decoder },
        clip_head: ClipHeadConfig { depth: 3, pooling, mlp_dim: 48, embed_dim: 24 },
    };
    fixture.load(config.init(&mut Init::zeros(&fixture.device)))
}

#[test]
fn both_heads_agree_at_the_native_and_at_another_size() {
    let fixture = Fixture::open("sam_clip/sam_clip_tiny");
    for (pooling, pooled) in [(Pooling::Max, "pooled_max"), (Pooling::Avg, "pooled_avg")] {
        let model = tiny(&fixture, pooling);
        for size in ["native", "other"] {
            let tokens = model.tokens(fixture.get(&format!("{size}.pixels")));
            fixture.check(&format!("{size}.tokens"), tokens.clone());
            fixture.check(&format!("{size}.embedding"), model.sam_embedding(tokens.clone()));
            let mut x = tokens.clone();
            for (i, block) in model.clip_head.blocks.iter().enumerate() {
                x = block.forward(x);
                fixture.check(&format!("{size}.head.block.{i}"), x.clone());
            }
            fixture.check(&format!("{size}.{pooled}"), model.clip_pooled(tokens.clone()));
            fixture.check(&format!("{size}.dense"), model.clip_dense(tokens.clone()));
            let (both_pooled, both_dense) = model.clip_both(tokens);
            fixture.check(&format!("{size}.{pooled}"), both_pooled);
            fixture.check(&format!("{size}.dense"), both_dense);
        }
    }
}

#[test]
fn embeddings_have_unit_length_and_do_not_depend_on_the_batch() {
    let fixture = Fixture::open("sam_clip/sam_clip_tiny");
    let model = tiny(&fixture, Pooling::Max);
    let pixels: Tensor<4> = fixture.get("native.pixels");
    let (pooled, dense) = model.clip_both(model.tokens(pixels.clone()));
    for length in values(dense.clone().square().sum_dim(3)) {
        assert!((length - 1.0).abs() < 1e-5, "{length}");
    }
    for i in 0..2 {
        let alone = model.clip_both(model.tokens(pixels.clone().slice([i..i + 1])));
        close(&format!("pooled of image {i}"), alone.0, pooled.clone().slice([i..i + 1]), RING_1);
        close(&format!("dense of image {i}"), alone.1, dense.clone().slice([i..i + 1]), RING_1);
    }
}
