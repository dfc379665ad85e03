//! WebDataset shards: grouping, patterns, masks, captions, and what is wrong with bad ones.

use samclip_data::webdataset::{WebDataset, expand};
use samclip_data::{Dataset, open};
use std::path::Path;

fn png(width: u32, value: u8) -> Vec<u8> {
    let image = samclip_image::Image::new(width as usize, 4, vec![value; width as usize * 12]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.png");
    samclip_image::write_png_rgb(&path, &image).unwrap();
    std::fs::read(path).unwrap()
}

fn shard(path: &Path, files: &[(&str, Vec<u8>)]) {
    let mut tar = tar::Builder::new(std::fs::File::create(path).unwrap());
    for (name, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        header.set_cksum();
        tar.append_data(&mut header, name, bytes.as_slice()).unwrap();
    }
    tar.finish().unwrap();
}

/// One 5 x 4 photo with a mask of its first column (column-major runs: 0 zeros, 4 ones, 16 zeros).
fn masks() -> Vec<u8> {
    br#"{"image":{"width":5,"height":4,"file_name":"b.png"},
        "annotations":[{"segmentation":{"size":[4,5],"counts":"04`0"}}]}"#
        .to_vec()
}

#[test]
fn samples_are_groups_of_files() {
    let folder = tempfile::tempdir().unwrap();
    let long = format!("{}/c.jpg.png", "deep/".repeat(40)); // longer than a tar header's name field
    shard(&folder.path().join("s-00.tar"), &[
        ("a.txt", b"a cat \n".to_vec()),
        ("a.png", png(7, 9)),
        ("a.seg.npy", vec![1, 2, 3]),
        ("b.json", masks()),
        ("b.png", png(5, 1)),
    ]);
    shard(&folder.path().join("s-01.tar"), &[
        ("b.png", png(6, 2)),
        ("only.txt", b"no photo".to_vec()),
        (&long, png(3, 3)),
    ]);
    let set = open(folder.path(), "webdataset", "s-{00..01}.tar").unwrap();
    assert_eq!(set.len(), 3, "`only` has no photo, and `c.jpg.png` is not called `png`");
    let a = set.get(0).unwrap();
    assert_eq!((a.id.as_str(), a.image.width(), a.captions), ("a", 7, vec!["a cat".to_owned()]));
    let b = set.get(1).unwrap();
    assert_eq!(b.masks.len(), 1);
    assert!(b.masks[0].data.iter().enumerate().all(|(i, &m)| m == (i % 5 == 0)));
    assert_eq!((set.get(2).unwrap().image.width(), set.get(2).unwrap().masks.len()), (6, 0));
    assert!(set.get(3).is_err());
    let whole = WebDataset::open(folder.path(), "s-*.tar").unwrap();
    assert_eq!(whole.file(0, "seg.npy").unwrap().unwrap(), [1, 2, 3]);
    assert_eq!((whole.file(1, "txt").unwrap(), whole.key(2)), (None, Some("b")));
}

#[test]
fn patterns_name_their_files_and_missing_ones() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["a-08.tar", "a-09.tar", "a-10.tar", "b.tar"] {
        shard(&folder.path().join(name), &[("x.png", png(4, 4))]);
    }
    let names = |pattern: &str| -> Vec<String> {
        let files = expand(folder.path(), pattern).unwrap();
        files.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect()
    };
    assert_eq!(names("a-{08..10}.tar"), ["a-08.tar", "a-09.tar", "a-10.tar"]);
    assert_eq!(names("{b,a-09}.tar"), ["b.tar", "a-09.tar"]);
    assert_eq!(names("a-*.tar"), ["a-08.tar", "a-09.tar", "a-10.tar"]);
    let missing = expand(folder.path(), "a-{09..11}.tar").unwrap_err().to_string();
    assert!(missing.contains("a-11.tar"), "{missing}");
    assert!(expand(folder.path(), "z*.tar").unwrap_err().to_string().contains("no file matches"));
    assert!(expand(folder.path(), "a-{09..").is_err());
}

#[test]
fn broken_shards_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.tar");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    let error = WebDataset::open(folder.path(), "broken.tar").unwrap_err().to_string();
    assert!(error.contains("not a tar shard") && error.contains("broken.tar"), "{error}");
    shard(&path, &[("x.txt", b"text".to_vec())]);
    assert!(WebDataset::open(folder.path(), "broken.tar").unwrap_err().to_string().contains("found none"));
    // a shard that goes away while the run reads it
    shard(&path, &[("x.png", png(4, 4)), ("y.png", b"no photo".to_vec())]);
    let set = WebDataset::open(folder.path(), "broken.tar").unwrap();
    let corrupt = set.get(1).unwrap_err().to_string();
    assert!(corrupt.contains("broken.tar/y"), "{corrupt}");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..520]).unwrap();
    assert!(set.get(0).unwrap_err().to_string().contains("ends inside"));
    std::fs::remove_file(&path).unwrap();
    assert!(set.get(0).unwrap_err().to_string().contains("broken.tar"));
}
