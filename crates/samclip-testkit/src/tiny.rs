//! A SAM-CLIP so small that it runs in milliseconds.

use std::path::{Path, PathBuf};

use samclip_models::Device;
use samclip_models::init::Init;
use samclip_models::sam::{MaskDecoderConfig, SamConfig, Stem, VitDetConfig};
use samclip_models::sam_clip::{ClipHeadConfig, Pooling, SamClipConfig};
use samclip_models::state::state_dict;
use samclip_weights::{StateDict, write_safetensors};

/// Sizes of the small model: 64 px, text space of the built-in names.
pub fn config() -> SamClipConfig {
    let image_encoder = VitDetConfig {
        img_size: 64,
        embed_dim: 32,
        depth: 2,
        num_heads: 2,
        mlp_ratio: 2,
        out_chans: 32,
        window_size: 2,
        global_attn_indexes: vec![1],
        stem: Stem::Patch,
    };
    let mask_decoder =
        MaskDecoderConfig { transformer_dim: 32, depth: 1, num_heads: 2, mlp_dim: 32, iou_head_hidden_dim: 32 };
    let clip_head = ClipHeadConfig { depth: 1, pooling: Pooling::Max, mlp_dim: 32, embed_dim: 512 };
    SamClipConfig { sam: SamConfig { image_encoder, mask_decoder }, clip_head }
}

/// The small model with seeded values.
pub fn state() -> StateDict {
    let config = config();
    let mut state = state_dict(&config.init(&mut Init::seeded(7, &Device::default())));
    state.metadata.insert("config".to_owned(), serde_json::to_string(&config).expect("sizes serialise"));
    state
}

/// The small model as a file.
pub fn weights(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.safetensors");
    write_safetensors(&path, &state()).expect("the folder can be written");
    path
}
