//! A teacher that sees whole photos: crops read what the teacher says of the whole, and what is
//! kept in files is what was said.
//!
//! Needs the ONNX teachers of the development data (`SAMCLIP_DATA`, default ../shared/data).

use samclip_data::augment::{Augment, CutMix, Geometry};
use samclip_data::loader::{Batch, Loader, LoaderConfig, Mixing, Source};
use samclip_data::{DataError, Dataset, Sample, Targets};
use samclip_image::Image;
use samclip_train::photo_teacher::PhotoTeacher;
use samclip_train::teacher::Teacher;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// One photo: a bright disk on a gradient.
struct Disk;

impl Dataset for Disk {
    fn name(&self) -> &str {
        "disk"
    }
    fn len(&self) -> usize {
        1
    }
    fn get(&self, _: usize) -> Result<Sample, DataError> {
        let (w, h) = (256, 192);
        let pixel = |i: usize| {
            let (x, y) = (i % w, i / w);
            let inside = x.abs_diff(80).pow(2) + y.abs_diff(90).pow(2) < 2500;
            if inside { [250, 240, 30] } else { [x as u8 / 2, y as u8, 90] }
        };
        let image = Image::new(w, h, (0..w * h).flat_map(pixel).collect())?;
        Ok(Sample { id: "one".into(), image, labels: None, masks: vec![], class_ids: vec![], captions: vec![] })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}

fn teachers() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let data = std::env::var_os("SAMCLIP_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
    let folder = data.join("teachers");
    if !folder.is_dir() {
        eprintln!("skipped: no teachers below {} (SAMCLIP_DATA)", data.display());
        return None;
    }
    Some(folder)
}

fn batch(geometry: Geometry, hflip: f64) -> Batch {
    mixed_batch(geometry, hflip, None)
}

fn mixed_batch(geometry: Geometry, hflip: f64, cutmix: Option<CutMix>) -> Batch {
    let config = LoaderConfig {
        seed: 3,
        side: 128,
        batch_size: 1,
        sides: vec![],
        view: None,
        augment: Augment { geometry, hflip, cutmix, ..Augment::SQUASH },
        mixing: Mixing::Concat,
        targets: Targets::default(),
        workers: 0,
        prefetch: 1,
        max_skipped: 0,
    };
    let disk: Arc<dyn Dataset> = Arc::new(Disk);
    Loader::new(vec![Source::new(disk, 1.0)], config).unwrap().next_batch().unwrap()
}

fn photo_teacher(folder: &Path, cache: Option<&Path>) -> PhotoTeacher {
    let teacher = Arc::new(Teacher::open(&folder.join("deeplab_v3_mnv2_voc.onnx")).unwrap());
    PhotoTeacher::new(teacher, 257, vec!["n60".into()], vec![Arc::new(Disk)], cache).unwrap()
}

#[test]
fn what_is_kept_in_files_is_what_was_said() {
    let Some(folder) = teachers() else { return };
    let cache = tempfile::tempdir().unwrap();
    let crop = batch(Geometry::Squash, 0.0);
    let first = photo_teacher(&folder, Some(cache.path())).on_batch(&crop).unwrap();
    assert_eq!(first[0].shape, [1, 320, 8, 8]);
    assert!(first[0].values.iter().any(|v| v.abs() > 0.1));
    let files = std::fs::read_dir(cache.path()).unwrap().count();
    assert_eq!(files, 1, "one folder for one teacher");
    let second = photo_teacher(&folder, Some(cache.path())).on_batch(&crop).unwrap();
    assert_eq!(first, second);
    assert_eq!(photo_teacher(&folder, None).on_batch(&crop).unwrap(), first);
}

#[test]
fn a_mirrored_crop_reads_the_mirrored_map() {
    let Some(folder) = teachers() else { return };
    let mut teacher = photo_teacher(&folder, None);
    let plain = teacher.on_batch(&batch(Geometry::Squash, 0.0)).unwrap();
    let mirrored = teacher.on_batch(&batch(Geometry::Squash, 1.0)).unwrap();
    for (a, b) in plain[0].values.chunks(8).zip(mirrored[0].values.chunks(8)) {
        for (x, y) in a.iter().zip(b.iter().rev()) {
            assert!((x - y).abs() <= 1e-3 * x.abs().max(1.0), "{x} {y}");
        }
    }
}

#[test]
fn padding_reads_nothing() {
    let Some(folder) = teachers() else { return };
    let found = photo_teacher(&folder, None).on_batch(&batch(Geometry::Longest, 0.0)).unwrap();
    // 256 x 192 in a square of 128: the last two of eight rows are padding
    for map in found[0].values.chunks(64) {
        assert!(map[48..].iter().all(|v| *v == 0.0));
    }
}

#[test]
fn in_a_mixed_crop_every_token_reads_the_photo_that_it_shows() {
    let Some(folder) = teachers() else { return };
    let mut teacher = photo_teacher(&folder, None);
    let jitter = Geometry::LargeScaleJitter { scale: [1.5, 2.0] };
    let mixed = mixed_batch(jitter, 0.5, Some(CutMix { probability: 1.0, area: [0.3, 0.5] }));
    let pasted = mixed.items[0].pasted.unwrap();
    let read = |teacher: &mut PhotoTeacher, frame| {
        let mut plain = mixed.clone();
        (plain.items[0].frame, plain.items[0].pasted) = (frame, None);
        teacher.on_batch(&plain).unwrap()[0].values.clone()
    };
    let (own, other) = (read(&mut teacher, mixed.items[0].frame), read(&mut teacher, pasted.frame));
    let found = &teacher.on_batch(&mixed).unwrap()[0].values;
    assert!(own != other);
    for (i, value) in found.iter().enumerate() {
        let (x, y) = (i % 8 * 16 + 8, i / 8 % 8 * 16 + 8);
        assert_eq!(*value, if pasted.rect.contains(x, y) { other[i] } else { own[i] });
    }
}
