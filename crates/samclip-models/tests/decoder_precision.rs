//! The mask decoder with bf16 products: f32 where rounding would stay in the mask (docs/decisions/0017).
//!
//! The precision is the process's, so this test has a process of its own.

mod common;

use common::{Fixture, sam, values};
use samclip_models::ops::{Precision, set_precision};
use samclip_models::sam::{MaskOutput, PromptInput};

/// Relative L2 of the logits. What the tokens read from the image may round; with the tokens in bf16 it is 1e-2.
const CLOSE: f32 = 3e-3;

#[test]
fn bf16_masks_stay_near_those_of_f32() {
    let fixture = Fixture::open("sam/sam_tiny");
    let sam = sam(&fixture);
    let embedding = fixture.get::<4>("encoder.neck").slice([0..1]);
    let prompts = PromptInput {
        points: Some((fixture.get("points"), fixture.get("labels"))),
        boxes: Some(fixture.get("boxes")),
        mask_input: None,
        count: 3,
    };
    let decode = |precision| {
        set_precision(precision);
        values(sam.decode(embedding.clone(), &[0, 0, 0], &prompts, MaskOutput::All).low_res_logits)
    };
    let (want, got) = (decode(Precision::F32), decode(Precision::Bf16));
    let square = |x: &mut dyn Iterator<Item = f32>| x.map(|v| v * v).sum::<f32>();
    let distance = (square(&mut got.iter().zip(&want).map(|(g, w)| g - w)) / square(&mut want.iter().copied())).sqrt();
    println!("relative L2 of bf16's logits: {distance:e}");
    assert!(distance <= CLOSE, "{distance:e}");
    assert_eq!(distance > 0.0, samclip_kernels::isa::bf16(), "bf16 is used where the processor has it");
}
