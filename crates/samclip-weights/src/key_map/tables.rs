//! The key maps, one rule a line.
//!
//! References: transformers `models/sam/convert_sam_to_hf.py` and `models/clip/convert_clip_original_pytorch_to_hf.py`,
//! openai/CLIP `clip/model.py` (`build_model`), xmed-lab/CLIP_Surgery `clip/clip_surgery_model.py`,
//! ChaoningZhang/MobileSAM `mobile_sam/modeling/tiny_vit_sam.py`.

use super::Rule::{self, Alias, Concat, Drop, Rename, Transpose};

const PIXELS: &str = "preprocessing constant, not a weight";
const MASK: &str = "causal mask, rebuilt from the context length";
const FACT: &str = "a number of the architecture, known from the variant";
const INDEX: &str = "an index table, rebuilt from the grid";
const COUNTER: &str = "training counter of batch normalisation";
const CLASSIFIER: &str = "ImageNet classifier of TinyViT, not used by SAM";

pub(super) const META: &[Rule] = &[Drop("pixel_mean", PIXELS), Drop("pixel_std", PIXELS), Rename("*", "*")];

pub(super) const MOBILE_SAM: &[Rule] = &[
    Drop("pixel_mean", PIXELS),
    Drop("pixel_std", PIXELS),
    Drop("image_encoder.norm_head.*", CLASSIFIER),
    Drop("image_encoder.head.*", CLASSIFIER),
    Drop("*.attention_bias_idxs", INDEX),
    Drop("*.num_batches_tracked", COUNTER),
    Rename("*", "*"),
];

pub(super) const SAM_CLIP: &[Rule] = &[Drop("*.num_batches_tracked", COUNTER), Rename("*", "*")];

pub(super) const HF_SAM: &[Rule] = &[
    // image encoder
    Rename("vision_encoder.pos_embed", "image_encoder.pos_embed"),
    Rename("vision_encoder.patch_embed.projection.*", "image_encoder.patch_embed.proj.*"),
    Rename("vision_encoder.layers.#.layer_norm1.*", "image_encoder.blocks.#.norm1.*"),
    Rename("vision_encoder.layers.#.layer_norm2.*", "image_encoder.blocks.#.norm2.*"),
    Rename("vision_encoder.layers.#.attn.*", "image_encoder.blocks.#.attn.*"),
    Rename("vision_encoder.layers.#.mlp.*", "image_encoder.blocks.#.mlp.*"),
    Rename("vision_encoder.neck.conv1.*", "image_encoder.neck.0.*"),
    Rename("vision_encoder.neck.layer_norm1.*", "image_encoder.neck.1.*"),
    Rename("vision_encoder.neck.conv2.*", "image_encoder.neck.2.*"),
    Rename("vision_encoder.neck.layer_norm2.*", "image_encoder.neck.3.*"),
    // prompt encoder
    Rename(
        "shared_image_embedding.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    Alias(
        "prompt_encoder.shared_embedding.positional_embedding",
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
    ),
    Rename("prompt_encoder.point_embed.#.weight", "prompt_encoder.point_embeddings.#.weight"),
    Rename("prompt_encoder.not_a_point_embed.weight", "prompt_encoder.not_a_point_embed.weight"),
    Rename("prompt_encoder.no_mask_embed.weight", "prompt_encoder.no_mask_embed.weight"),
    Rename("prompt_encoder.mask_embed.conv1.*", "prompt_encoder.mask_downscaling.0.*"),
    Rename("prompt_encoder.mask_embed.layer_norm1.*", "prompt_encoder.mask_downscaling.1.*"),
    Rename("prompt_encoder.mask_embed.conv2.*", "prompt_encoder.mask_downscaling.3.*"),
    Rename("prompt_encoder.mask_embed.layer_norm2.*", "prompt_encoder.mask_downscaling.4.*"),
    Rename("prompt_encoder.mask_embed.conv3.*", "prompt_encoder.mask_downscaling.6.*"),
    // mask decoder
    Rename("mask_decoder.iou_token.weight", "mask_decoder.iou_token.weight"),
    Rename("mask_decoder.mask_tokens.weight", "mask_decoder.mask_tokens.weight"),
    Rename("mask_decoder.transformer.layers.#.layer_norm1.*", "mask_decoder.transformer.layers.#.norm1.*"),
    Rename("mask_decoder.transformer.layers.#.layer_norm2.*", "mask_decoder.transformer.layers.#.norm2.*"),
    Rename("mask_decoder.transformer.layers.#.layer_norm3.*", "mask_decoder.transformer.layers.#.norm3.*"),
    Rename("mask_decoder.transformer.layers.#.layer_norm4.*", "mask_decoder.transformer.layers.#.norm4.*"),
    Rename("mask_decoder.transformer.layers.*", "mask_decoder.transformer.layers.*"),
    Rename("mask_decoder.transformer.layer_norm_final_attn.*", "mask_decoder.transformer.norm_final_attn.*"),
    Rename(
        "mask_decoder.transformer.final_attn_token_to_image.*",
        "mask_decoder.transformer.final_attn_token_to_image.*",
    ),
    Rename("mask_decoder.upscale_conv1.*", "mask_decoder.output_upscaling.0.*"),
    Rename("mask_decoder.upscale_layer_norm.*", "mask_decoder.output_upscaling.1.*"),
    Rename("mask_decoder.upscale_conv2.*", "mask_decoder.output_upscaling.3.*"),
    Rename(
        "mask_decoder.output_hypernetworks_mlps.#.proj_in.*",
        "mask_decoder.output_hypernetworks_mlps.#.layers.0.*",
    ),
    Rename(
        "mask_decoder.output_hypernetworks_mlps.#.layers.0.*",
        "mask_decoder.output_hypernetworks_mlps.#.layers.1.*",
    ),
    Rename(
        "mask_decoder.output_hypernetworks_mlps.#.proj_out.*",
        "mask_decoder.output_hypernetworks_mlps.#.layers.2.*",
    ),
    Rename("mask_decoder.iou_prediction_head.proj_in.*", "mask_decoder.iou_prediction_head.layers.0.*"),
    Rename("mask_decoder.iou_prediction_head.layers.0.*", "mask_decoder.iou_prediction_head.layers.1.*"),
    Rename("mask_decoder.iou_prediction_head.proj_out.*", "mask_decoder.iou_prediction_head.layers.2.*"),
];

pub(super) const OPENAI_CLIP: &[Rule] = &[
    Drop("input_resolution", FACT),
    Drop("context_length", FACT),
    Drop("vocab_size", FACT),
    Drop("attn_mask", MASK),
    Rename("*", "*"),
];

pub(super) const CLIP_SURGERY: &[Rule] = &[
    Drop("input_resolution", FACT),
    Drop("context_length", FACT),
    Drop("vocab_size", FACT),
    Drop("attn_mask", MASK),
    Rename(
        "visual.transformer.resblocks.#.attn.qkv.weight",
        "visual.transformer.resblocks.#.attn.in_proj_weight",
    ),
    Rename(
        "visual.transformer.resblocks.#.attn.qkv.bias",
        "visual.transformer.resblocks.#.attn.in_proj_bias",
    ),
    Rename("visual.transformer.resblocks.#.attn.proj.*", "visual.transformer.resblocks.#.attn.out_proj.*"),
    Rename("*", "*"),
];

pub(super) const HF_CLIP: &[Rule] = &[
    Rename("logit_scale", "logit_scale"),
    // image tower
    Drop("vision_model.embeddings.position_ids", INDEX),
    Rename("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    Rename("vision_model.embeddings.patch_embedding.weight", "visual.conv1.weight"),
    Rename("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    Rename("vision_model.pre_layrnorm.*", "visual.ln_pre.*"),
    Rename("vision_model.encoder.layers.#.layer_norm1.*", "visual.transformer.resblocks.#.ln_1.*"),
    Rename("vision_model.encoder.layers.#.layer_norm2.*", "visual.transformer.resblocks.#.ln_2.*"),
    Rename("vision_model.encoder.layers.#.mlp.fc1.*", "visual.transformer.resblocks.#.mlp.c_fc.*"),
    Rename("vision_model.encoder.layers.#.mlp.fc2.*", "visual.transformer.resblocks.#.mlp.c_proj.*"),
    Rename(
        "vision_model.encoder.layers.#.self_attn.out_proj.*",
        "visual.transformer.resblocks.#.attn.out_proj.*",
    ),
    Concat(
        [
            "vision_model.encoder.layers.#.self_attn.q_proj.weight",
            "vision_model.encoder.layers.#.self_attn.k_proj.weight",
            "vision_model.encoder.layers.#.self_attn.v_proj.weight",
        ],
        "visual.transformer.resblocks.#.attn.in_proj_weight",
    ),
    Concat(
        [
            "vision_model.encoder.layers.#.self_attn.q_proj.bias",
            "vision_model.encoder.layers.#.self_attn.k_proj.bias",
            "vision_model.encoder.layers.#.self_attn.v_proj.bias",
        ],
        "visual.transformer.resblocks.#.attn.in_proj_bias",
    ),
    Rename("vision_model.post_layernorm.*", "visual.ln_post.*"),
    Transpose("visual_projection.weight", "visual.proj"),
    // text tower
    Drop("text_model.embeddings.position_ids", INDEX),
    Rename("text_model.embeddings.token_embedding.weight", "token_embedding.weight"),
    Rename("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    Rename("text_model.encoder.layers.#.layer_norm1.*", "transformer.resblocks.#.ln_1.*"),
    Rename("text_model.encoder.layers.#.layer_norm2.*", "transformer.resblocks.#.ln_2.*"),
    Rename("text_model.encoder.layers.#.mlp.fc1.*", "transformer.resblocks.#.mlp.c_fc.*"),
    Rename("text_model.encoder.layers.#.mlp.fc2.*", "transformer.resblocks.#.mlp.c_proj.*"),
    Rename("text_model.encoder.layers.#.self_attn.out_proj.*", "transformer.resblocks.#.attn.out_proj.*"),
    Concat(
        [
            "text_model.encoder.layers.#.self_attn.q_proj.weight",
            "text_model.encoder.layers.#.self_attn.k_proj.weight",
            "text_model.encoder.layers.#.self_attn.v_proj.weight",
        ],
        "transformer.resblocks.#.attn.in_proj_weight",
    ),
    Concat(
        [
            "text_model.encoder.layers.#.self_attn.q_proj.bias",
            "text_model.encoder.layers.#.self_attn.k_proj.bias",
            "text_model.encoder.layers.#.self_attn.v_proj.bias",
        ],
        "transformer.resblocks.#.attn.in_proj_bias",
    ),
    Rename("text_model.final_layer_norm.*", "ln_final.*"),
    Transpose("text_projection.weight", "text_projection"),
];
