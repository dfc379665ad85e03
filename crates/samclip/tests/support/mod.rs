//! The binary, a folder that goes away, and a SAM-CLIP so small that it runs in milliseconds.

#[allow(dead_code, reason = "not every test file trains")]
pub mod runs;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use samclip_models::init::Init;
use samclip_models::sam::{MaskDecoderConfig, SamConfig, Stem, VitDetConfig};
use samclip_models::sam_clip::{ClipHeadConfig, Pooling, SamClipConfig};
use samclip_models::{Device, state};
use samclip_weights::{StateDict, write_safetensors};

/// A photo of the repository.
#[allow(dead_code, reason = "not every test file reads photos")]
pub fn photo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// Runs the binary in a folder.
pub fn samclip(folder: &Path, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_samclip")).args(args).current_dir(folder).output().expect("the binary starts")
}

/// What the binary said on stderr.
pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The JSON document on stdout.
#[allow(dead_code, reason = "not every test file reads JSON")]
pub fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", stderr(output)))
}

/// Sizes of the small model: 64 px, text space of the built-in names.
pub fn tiny_config() -> SamClipConfig {
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
pub fn tiny_state() -> StateDict {
    let config = tiny_config();
    let mut state = state::state_dict(&config.init(&mut Init::seeded(7, &Device::default())));
    state.metadata.insert("config".to_owned(), serde_json::to_string(&config).expect("sizes serialise"));
    state
}

/// The small model as a file.
pub fn tiny_weights(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.safetensors");
    write_safetensors(&path, &tiny_state()).expect("the folder can be written");
    path
}
