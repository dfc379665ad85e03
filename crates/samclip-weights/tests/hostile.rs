//! Archives that lie. Each must end in an error that says what is wrong, quickly and in little memory.

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};

use samclip_weights::{StateDict, WeightsError};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

fn archive(records: &[(&str, &[u8])]) -> Vec<u8> {
    archive_with(records, CompressionMethod::Stored)
}

fn archive_with(records: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    for (name, bytes) in records {
        zip.start_file(*name, SimpleFileOptions::default().compression_method(method)).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

fn open(bytes: Vec<u8>) -> Result<StateDict, WeightsError> {
    StateDict::from_bytes(bytes.into(), Path::new("hostile.pth")).map(|(state, _)| state)
}

fn error(bytes: Vec<u8>) -> String {
    open(bytes).unwrap_err().to_string()
}

fn int(v: i64) -> Vec<u8> {
    let mut out = vec![0x8a, 8];
    out.extend(v.to_le_bytes());
    out
}

fn text(s: &str) -> Vec<u8> {
    let mut out = vec![b'X'];
    out.extend((s.len() as u32).to_le_bytes());
    out.extend(s.as_bytes());
    out
}

/// `_rebuild_tensor_v2` over storage `0`, as `torch.save` writes it.
fn tensor(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    let tuple = |values: &[i64]| {
        let mut out = vec![b'('];
        out.extend(values.iter().flat_map(|&v| int(v)));
        out.push(b't');
        out
    };
    let mut out = b"ctorch._utils\n_rebuild_tensor_v2\n((".to_vec();
    out.extend(text("storage"));
    out.extend(b"ctorch\nFloatStorage\n");
    for part in [text("0"), text("cpu"), int(numel)] {
        out.extend(part);
    }
    out.extend(b"tQ");
    out.extend(int(offset));
    out.extend(tuple(shape));
    out.extend(tuple(strides));
    out.extend(b"\x89NtR");
    out
}

fn dict(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut out = b"\x80\x02}(".to_vec();
    for (key, value) in entries {
        out.extend(text(key));
        out.extend(value);
    }
    out.extend(b"u.");
    out
}

fn checkpoint(pickle: &[u8], storage: &[u8]) -> Vec<u8> {
    archive(&[("archive/data.pkl", pickle), ("archive/data/0", storage)])
}

fn one(numel: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    checkpoint(&dict(&[("w", tensor(numel, offset, shape, strides))]), &[0; 24])
}

#[test]
fn the_builder_makes_valid_archives() {
    let state = open(one(6, 0, &[2, 3], &[3, 1])).unwrap();
    assert_eq!(state.get("w").unwrap().shape(), [2, 3]);
    assert_eq!(open(one(6, 1, &[2, 2], &[0, 2])).unwrap().get("w").unwrap().numel(), 4);
    assert_eq!(open(one(6, 99, &[0, 7], &[1, 1])).unwrap().get("w").unwrap().numel(), 0);
}

#[test]
fn views_outside_their_storage() {
    let max = i64::MAX;
    let cases: [(&str, Vec<u8>); 8] = [
        ("offset", one(6, 1, &[2, 3], &[3, 1])),
        ("stride", one(6, 0, &[2, 3], &[4, 1])),
        ("shape", one(6, 0, &[7], &[1])),
        ("shape overflows", one(6, 0, &[max, max], &[0, 0])),
        ("stride overflows", one(6, 0, &[3], &[max])),
        ("offset overflows", one(6, max, &[3], &[max])),
        ("storage larger than its record", one(7, 0, &[7], &[1])),
        ("storage overflows", one(max, 0, &[1], &[1])),
    ];
    for (what, bytes) in cases {
        let message = error(bytes);
        assert!(message.contains("tensor `w`"), "{what}: {message}");
    }
    assert!(error(one(6, 0, &[-2], &[1])).contains("expected a size"));
    assert!(error(one(6, 0, &[2], &[-1])).contains("expected a size"));
}

#[test]
fn an_expanded_view_cannot_take_all_memory() {
    // 4 TB from 24 bytes.
    let message = error(one(6, 0, &[1 << 40], &[0]));
    assert!(message.contains("far more memory than the file"), "{message}");
    // Many medium ones share one budget.
    let many: Vec<(String, Vec<u8>)> =
        (0..40).map(|i| (format!("w{i}"), tensor(6, 0, &[40_000], &[0]))).collect();
    let many: Vec<(&str, Vec<u8>)> = many.iter().map(|(n, t)| (n.as_str(), t.clone())).collect();
    assert!(error(checkpoint(&dict(&many), &[0; 24])).contains("far more memory"));
}

#[test]
fn what_the_dict_may_hold() {
    let w = || tensor(6, 0, &[6], &[1]);
    assert!(error(checkpoint(&dict(&[("w", w()), ("w", w())]), &[0; 24])).contains("`w` occurs twice"));
    assert!(error(checkpoint(&dict(&[("w", int(3))]), &[0; 24])).contains("entry `w` is an int"));
    assert!(error(checkpoint(b"\x80\x02K\x01.", &[])).contains("expected a dict"));
    assert!(error(checkpoint(b"\x80\x02}(K\x01K\x02u.", &[])).contains("a key is an int"));
    // A dict that holds itself, also under the name of a wrapper.
    for key in ["a", "state_dict"] {
        let recursive = [b"\x80\x02}q\0".to_vec(), text(key), b"h\0s.".to_vec()].concat();
        assert!(error(checkpoint(&recursive, &[])).contains("is a dict"));
    }
}

#[test]
fn a_pickle_that_calls_the_shell() {
    for (module, name) in
        [("posix", "system"), ("os", "system"), ("builtins", "exec"), ("subprocess", "Popen")]
    {
        let marker = std::env::temp_dir().join("samclip-hostile-marker");
        let command = format!("touch {}", marker.display());
        let pickle =
            [format!("c{module}\n{name}\n").into_bytes(), text(&command), b"\x85R.".to_vec()].concat();
        let e = open(checkpoint(&pickle, &[])).unwrap_err();
        assert!(
            matches!(&e, WeightsError::ForbiddenGlobal { global, .. } if *global == format!("{module}.{name}")),
            "{e}"
        );
        assert!(!marker.exists());
    }
}

#[test]
fn archives_that_lie() {
    let pickle = dict(&[("w", tensor(6, 0, &[6], &[1]))]);
    let compressed = archive_with(
        &[("archive/data.pkl", &pickle), ("archive/data/0", &[0; 24])],
        CompressionMethod::Deflated,
    );
    assert!(error(compressed).contains("compressed, expected stored"));
    assert!(error(archive(&[("archive/data.pkl", &pickle)])).contains("no record `data/0`"));
    assert!(error(archive(&[("readme.txt", b"hello")])).contains("0 records named"));
    let two = archive(&[("a/data.pkl", &pickle), ("b/data.pkl", &pickle)]);
    assert!(error(two).contains("2 records named"));
    let big = archive(&[("a/data.pkl", &pickle), ("a/data/0", &[0; 24]), ("a/byteorder", b"big")]);
    assert!(error(big).contains("big-endian"));
}

#[test]
fn truncation_at_every_length() {
    let whole = one(6, 0, &[2, 3], &[3, 1]);
    for n in 0..whole.len() {
        assert!(open(whole[..n].to_vec()).is_err(), "{n} of {} bytes", whole.len());
    }
}

#[test]
fn every_single_bit_flip_is_survived() {
    let whole = one(6, 0, &[2, 3], &[3, 1]);
    for i in 0..whole.len() * 8 {
        let mut bytes = whole.clone();
        bytes[i / 8] ^= 1 << (i % 8);
        // Either outcome is fine (names and values carry no checksum here); a panic is not.
        drop(open(bytes));
    }
}

#[test]
fn torchscript_modules_that_recurse_or_explode() {
    let module = |body: &[u8]| {
        let pickle = [b"\x80\x02".as_slice(), body, b"."].concat();
        archive(&[("m/data.pkl", &pickle), ("m/constants.pkl", b"\x80\x02).")])
    };
    let object = b"c__torch__\nM\n)\x81";
    // A module that is its own child.
    let own = [object.as_slice(), b"q\0}", &text("c"), b"h\0sb"].concat();
    let message = error(module(&own));
    assert!(message.contains("nested more than") || message.contains("a name of more"), "{message}");
    // Two children each, 40 levels: 2^40 paths.
    let mut body = [object.as_slice(), b"}bq\0"].concat();
    for i in 1..=40u8 {
        body.extend(object);
        body.extend(b"}(");
        for name in ["a", "b"] {
            body.extend(text(name));
            body.extend([b'h', i - 1]);
        }
        body.extend(b"ubq");
        body.push(i);
    }
    let message = error(module(&body));
    assert!(message.contains("attributes"), "{message}");
    assert!(error(module(b"K\x01")).contains("expected a module"));
    // TorchScript's names exist only in TorchScript archives.
    let plain = checkpoint(&[b"\x80\x02".as_slice(), object, b"."].concat(), &[]);
    assert!(matches!(open(plain), Err(WeightsError::ForbiddenGlobal { .. })));
}

#[test]
fn a_source_bomb_in_torchscript_is_bounded() {
    let pickle = [b"\x80\x02c__torch__\nM\n)\x81}".as_slice(), b"b."].concat();
    let zeros = vec![b' '; 64 << 20];
    let bytes = archive_with(&[("m/code/__torch__.py", &zeros)], CompressionMethod::Deflated);
    assert!(bytes.len() < 1 << 20);
    let mut zip = ZipWriter::new_append(Cursor::new(bytes)).unwrap();
    for (name, record) in [("m/data.pkl", pickle.as_slice()), ("m/constants.pkl", b"\x80\x02).")] {
        zip.start_file(name, SimpleFileOptions::default().compression_method(CompressionMethod::Stored))
            .unwrap();
        zip.write_all(record).unwrap();
    }
    let message = error(zip.finish().unwrap().into_inner());
    assert!(message.contains("sources beyond"), "{message}");
}

#[test]
fn files_that_are_not_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let mut tar = vec![0; 512];
    tar[257..262].copy_from_slice(b"ustar");
    for (path, word) in [
        (file("empty.pth", b""), "empty"),
        (file("page.pth", b"<!DOCTYPE html>"), "web page"),
        (file("pointer.pth", b"version https://git-lfs.github.com/spec/v1\n"), "LFS"),
        (file("old.tar", &tar), "old PyTorch format (tar)"),
        (file("zip.pth", b"PK\x03\x04garbage"), "invalid zip"),
        (dir.path().join("absent.pth"), "cannot open"),
        (dir.path().to_path_buf(), "not a regular file"),
    ] {
        let e = StateDict::open(&path).unwrap_err();
        assert!(e.to_string().contains(word), "{e}");
        assert!(e.to_string().ends_with(&path.display().to_string()), "path last: {e}");
    }
}
