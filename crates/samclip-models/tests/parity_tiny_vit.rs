//! TinyViT against MobileSAM's own code, block by block (fixtures/sam/generate_tiny_vit.py).

mod common;

use burn::tensor::Tensor;
use common::{Fixture, RING_1, close};
use samclip_models::init::Init;
use samclip_models::sam::mobile_sam;
use samclip_models::state;
use samclip_models::tiny_vit::{Layer, TinyVit, TinyVitConfig};

const TINY: TinyVitConfig = TinyVitConfig {
    embed_dims: [16, 24, 32, 40],
    depths: [2, 2, 2, 1],
    num_heads: [1, 2, 4, 5],
    window_sizes: [7, 7, 5, 4],
    merge_strides: [2, 2, 1],
    out_chans: 32,
};

fn tiny(fixture: &Fixture) -> TinyVit {
    fixture.load(TINY.init(&mut Init::zeros(&fixture.device)))
}

/// The reference keeps tokens as [B, N, D] after the first layer, and a map [B, D, h, w] in it.
fn check(fixture: &Fixture, name: &str, x: Tensor<4>) {
    let [b, h, w, d] = x.dims();
    match fixture.state.get(name).map(|t| t.shape().len()) {
        Some(3) => fixture.check(name, x.reshape([b, h * w, d])),
        _ => fixture.check(name, x.permute([0, 3, 1, 2])),
    }
}

#[test]
fn every_block_agrees() {
    let fixture = Fixture::open("sam/tiny_vit");
    let model = tiny(&fixture);
    let pixels: Tensor<4> = fixture.get("pixels");
    let mut x = model.patch_embed.forward(pixels.clone());
    check(&fixture, "patch_embed", x.clone());
    for (i, layer) in model.layers.iter().enumerate() {
        let blocks: Vec<Box<dyn Fn(Tensor<4>) -> Tensor<4>>> = match layer {
            Layer::Conv(l) => l.blocks.iter().map(|b| Box::new(|x| b.forward(x)) as Box<_>).collect(),
            Layer::Basic(l) => l.blocks.iter().map(|b| Box::new(|x| b.forward(x)) as Box<_>).collect(),
        };
        let whole = layer.forward(x.clone());
        for (j, block) in blocks.iter().enumerate() {
            x = block(x);
            check(&fixture, &format!("layer.{i}.block.{j}"), x.clone());
        }
        if i < 3 {
            check(&fixture, &format!("layer.{i}.downsample"), whole.clone());
        }
        x = whole;
    }
    fixture.check("neck", model.neck.forward(x));
    fixture.check("neck", model.forward(pixels));
}

#[test]
fn a_batch_equals_each_image_alone() {
    let fixture = Fixture::open("sam/tiny_vit");
    let model = tiny(&fixture);
    let one: Tensor<4> = fixture.get("pixels");
    let batch = model.forward(Tensor::cat(vec![one.clone(), one.clone() * 0.5], 0));
    close("first of two", batch.slice([0..1]), model.forward(one), RING_1);
}

/// 10,130,092 is MobileSAM's own count with its unused head: 640 + 321,000 parameters; running
/// statistics are buffers.
#[test]
fn mobile_sam_has_the_official_number_of_parameters() {
    let model = mobile_sam(&mut Init::zeros(&Default::default()));
    let buffer = |name: &str| name.ends_with("gaussian_matrix") || name.contains(".running_");
    let shapes = state::named_shapes(&model);
    let count: usize = shapes.iter().filter(|(n, _)| !buffer(n)).map(|(_, s)| s.iter().product::<usize>()).sum();
    assert_eq!(count, 10_130_092 - 640 - 321_000);
    assert!(shapes.iter().any(|(n, s)| n == "image_encoder.layers.2.blocks.5.attn.attention_biases" && *s == [5, 196]));
    assert!(shapes.iter().any(|(n, _)| n == "image_encoder.patch_embed.seq.2.bn.running_var"));
}
