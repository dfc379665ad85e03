//! Any bytes as the pickle of a PyTorch or TorchScript archive (the first bit chooses).
//! Run: cargo +nightly fuzz run pickle fuzz/corpus/pickle fuzz/seeds/pickle -- -max_total_time=300 -rss_limit_mb=2048
#![no_main]

use std::io::{Cursor, Write};
use std::path::Path;

use libfuzzer_sys::fuzz_target;
use samclip_weights::{StateDict, detect_layout, to_canonical};
use zip::write::{SimpleFileOptions, ZipWriter};

fuzz_target!(|data: &[u8]| {
    let Some((&first, pickle)) = data.split_first() else { return };
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    let mut add = |name: &str, bytes: &[u8]| {
        let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
        zip.start_file(name, options).unwrap();
        zip.write_all(bytes).unwrap();
    };
    add("archive/data.pkl", pickle);
    for key in 0..13 {
        add(&format!("archive/data/{key}"), &[0x3c; 256]);
    }
    if first & 1 == 1 {
        add("archive/constants.pkl", b"\x80\x02).");
        add("archive/code/__torch__.py", b"class M(Module):\n  __parameters__ = [\"w\", ]\n  __buffers__ = []\n");
    }
    let bytes = zip.finish().unwrap().into_inner();
    let Ok((state, _)) = StateDict::from_bytes(bytes.into(), Path::new("fuzz.pth")) else { return };
    for (_, tensor) in state.iter() {
        let shape: usize = tensor.shape().iter().product();
        assert_eq!(shape * tensor.dtype().size(), tensor.bytes().len());
    }
    if let Some(layout) = detect_layout(&state) {
        drop(to_canonical(state, layout));
    }
});
