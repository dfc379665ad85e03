//! Any bytes as a safetensors file; what is accepted must survive writing and reading.
//! Run: cargo +nightly fuzz run safetensors_header fuzz/corpus/safetensors_header fuzz/seeds/safetensors_header -- -max_total_time=300
//! The first byte is the size of the data part, so that the header's length need not be guessed.
#![no_main]

use libfuzzer_sys::fuzz_target;
use samclip_weights::{StateDict, to_safetensors_bytes};

fuzz_target!(|data: &[u8]| {
    drop(StateDict::from_safetensors_bytes(data));
    let Some((&size, header)) = data.split_first() else { return };
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header);
    file.resize(file.len() + usize::from(size), 1);
    let Ok(state) = StateDict::from_safetensors_bytes(&file) else { return };
    let again = StateDict::from_safetensors_bytes(&to_safetensors_bytes(&state)).unwrap();
    assert_eq!(again, state);
});
