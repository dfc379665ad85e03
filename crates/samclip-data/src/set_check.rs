//! `data check NAME DIR`: a benchmark's folder before it is evaluated on. Counts, label histogram, share of void pixels,
//! sizes, files that cannot be read, and the mistakes that people make (field notes: ADE whose labels were shifted
//! already, VOC trained without the augmented masks, COCO-Stuff with 182 ids taken for 171).

use crate::instances::Instances;
use crate::labelled::Finding;
use crate::{DataError, Dataset, IGNORE, instances, open};
use rayon::prelude::*;
use samclip_image::LabelMap;
use std::path::{Path, PathBuf};

/// How often a class occurs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ClassShare {
    /// The class.
    pub class: String,
    /// Photos that show it.
    pub photos: usize,
    /// Its share of the known pixels, for label maps.
    pub share: Option<f64>,
}

/// What the check says.
#[derive(Debug, Clone, serde::Serialize)]
pub struct SetCheck {
    /// The set.
    pub name: String,
    /// Its split.
    pub split: String,
    /// Photos found.
    pub photos: usize,
    /// Photos that the published split has, where it is known.
    pub published: Option<usize>,
    /// Photos that can be read, with their truth.
    pub usable: usize,
    /// Smallest and largest width and height.
    pub sizes: Option<[(usize, usize); 2]>,
    /// Share of pixels that nobody labelled.
    pub void_share: Option<f64>,
    /// Every class that occurs, and those that do not with 0 photos.
    pub classes: Vec<ClassShare>,
    /// Objects, for sets of objects.
    pub objects: Option<usize>,
    /// Everything odd.
    pub findings: Vec<Finding>,
}

/// (set, split, photos); the first row of a set is its usual split.
const PUBLISHED: [(&str, &str, usize); 19] = [
    ("imagenet", "val", 50_000),
    ("imagenetv2", "val", 10_000),
    ("places365", "val", 36_500),
    ("flickr30k", "test", 1_000),
    ("coco_captions", "test", 5_000),
    ("coco", "val2017", 5_000),
    ("lvis", "val", 19_809),
    ("voc", "val", 1_449),
    ("voc", "train", 1_464),
    ("voc_aug", "train_aug", 10_582),
    ("context59", "val", 5_104),
    ("context60", "val", 5_104),
    ("ade20k", "validation", 2_000),
    ("ade20k", "training", 20_210),
    ("coco_stuff", "val2017", 5_000),
    ("coco_panoptic", "val2017", 5_000),
    ("coco_things", "val2017", 5_000),
    ("cod", "COD10K", 2_026),
    ("cod", "CAMO", 250),
];

/// The split that is checked where none is named.
pub fn usual_split(name: &str) -> &'static str {
    PUBLISHED.iter().find(|row| row.0 == name).map_or("val", |row| row.1)
}

/// Whether this is a set that [`check_set`] knows.
pub fn is_set(name: &str) -> bool {
    crate::NAMES.contains(&name) || instances::NAMES.contains(&name)
}

/// What one photo says.
struct Seen {
    size: (usize, usize),
    pixels: Option<Box<[u64; 256]>>,
    present: Vec<usize>,
}

/// Checks a set below `data`.
///
/// # Errors
/// A set that cannot be opened at all.
pub fn check_set(data: &Path, name: &str, split: &str) -> Result<SetCheck, DataError> {
    let published = PUBLISHED.iter().find(|row| (row.0, row.1) == (name, split)).map(|row| row.2);
    let mut check = SetCheck {
        name: name.into(),
        split: split.into(),
        photos: 0,
        published,
        usable: 0,
        sizes: None,
        void_share: None,
        classes: Vec::new(),
        objects: None,
        findings: mistakes(data, name, split),
    };
    match name {
        "coco" | "lvis" => check_objects(&instances::open(&data.join("coco"), name, split)?, &mut check),
        _ => check_photos(open(data, name, split)?.as_ref(), data, &mut check),
    }
    if let Some(expected) = published.filter(|n| *n != check.photos) {
        let message = format!("{} photos, the published split `{split}` has {expected}", check.photos);
        check.findings.push(Finding { file: data.to_owned(), message });
    }
    Ok(check)
}

fn check_photos(set: &dyn Dataset, data: &Path, check: &mut SetCheck) {
    let look = |index: usize| -> Result<Seen, DataError> {
        let sample = set.get(index)?;
        let pixels = sample.labels.as_ref().map(histogram);
        Ok(Seen { size: (sample.image.width(), sample.image.height()), pixels, present: sample.class_ids })
    };
    let seen: Vec<Result<Seen, DataError>> = (0..set.len()).into_par_iter().map(look).collect();
    let names = set.class_names();
    let (mut pixels, mut photos, mut any_labels) = ([0u64; 256], vec![0usize; names.len()], false);
    check.photos = set.len();
    for (index, seen) in seen.into_iter().enumerate() {
        match seen {
            Err(error) => check.findings.push(unreadable(&error, set.id(index), data)),
            Ok(seen) => {
                check.usable += 1;
                grow(&mut check.sizes, seen.size);
                if let Some(own) = &seen.pixels {
                    any_labels = true;
                    pixels.iter_mut().zip(own.iter()).for_each(|(sum, n)| *sum += n);
                }
                for class in seen.present {
                    photos.get_mut(class).into_iter().for_each(|n| *n += 1);
                }
            }
        }
    }
    sum_up(set, data, (&pixels, &photos, any_labels), check);
}

/// Shares of classes, and what is odd about them.
fn sum_up(set: &dyn Dataset, data: &Path, (pixels, photos, any_labels): (&[u64; 256], &[usize], bool), check: &mut SetCheck) {
    let names = set.class_names();
    let all: u64 = pixels.iter().sum();
    let known = (all - pixels[usize::from(IGNORE)]).max(1) as f64;
    check.void_share = any_labels.then(|| pixels[usize::from(IGNORE)] as f64 / all.max(1) as f64);
    let share = |c: usize| any_labels.then(|| pixels[c.min(255)] as f64 / known);
    let class = |(c, class): (usize, &String)| ClassShare { class: class.clone(), photos: photos[c], share: share(c) };
    check.classes = names.iter().enumerate().map(class).collect();
    let absent = (0..names.len()).filter(|c| photos[*c] == 0 && Some(*c) != set.background()).count();
    if absent > 0 {
        let message = format!("{absent} of {} classes are in no photo: a subset, or labels of another coding", names.len());
        check.findings.push(Finding { file: data.to_owned(), message });
    }
    if check.void_share.is_some_and(|share| share > 0.75) {
        let message = "more than three quarters of the pixels are void: the labels may be of another coding".to_owned();
        check.findings.push(Finding { file: data.to_owned(), message });
    }
}

fn check_objects(set: &Instances, check: &mut SetCheck) {
    check.photos = set.photos.len();
    check.objects = Some(set.photos.iter().map(|p| p.objects.len()).sum());
    let look = |photo: &instances::InstancePhoto| -> Result<(), DataError> {
        photo.open()?;
        photo.objects.iter().try_for_each(|object| photo.runs(object).map(|_| ()))
    };
    let seen: Vec<Result<(), DataError>> = set.photos.par_iter().map(look).collect();
    for (photo, seen) in set.photos.iter().zip(seen) {
        grow(&mut check.sizes, photo.size);
        match seen {
            Ok(()) => check.usable += 1,
            Err(error) => check.findings.push(unreadable(&error, Some(photo.id.to_string()), &photo.path)),
        }
    }
    let photos = |id: u64| set.photos.iter().filter(|p| p.objects.iter().any(|o| o.category == id)).count();
    let class = |(id, name): &(u64, String)| ClassShare { class: name.clone(), photos: photos(*id), share: None };
    check.classes = set.categories.iter().map(class).collect();
}

fn unreadable(error: &DataError, id: Option<String>, fallback: &Path) -> Finding {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((message, path)) if path.contains(['/', '\\']) => Finding { file: PathBuf::from(path), message: message.to_owned() },
        _ => Finding { file: fallback.to_owned(), message: format!("{}: {text}", id.unwrap_or_default()) },
    }
}

fn grow(sizes: &mut Option<[(usize, usize); 2]>, (w, h): (usize, usize)) {
    let [low, high] = sizes.unwrap_or([(w, h), (w, h)]);
    *sizes = Some([(low.0.min(w), low.1.min(h)), (high.0.max(w), high.1.max(h))]);
}

fn histogram(labels: &LabelMap) -> Box<[u64; 256]> {
    let mut counts = Box::new([0u64; 256]);
    labels.data.iter().for_each(|v| counts[usize::from(*v)] += 1);
    counts
}

/// Values that the first label files of a folder hold, before any recoding.
fn raw_values(folder: &Path) -> Option<[u64; 256]> {
    let files = crate::error::list_files(folder, &["png"]).ok()?;
    let maps: Vec<_> = files.iter().take(200).filter_map(|f| LabelMap::open(f).ok()).map(|m| histogram(&m)).collect();
    let sum = |v: usize| maps.iter().map(|m| m[v]).sum();
    (!maps.is_empty()).then(|| std::array::from_fn(sum))
}

/// The usual mistakes of a set, seen in the files themselves.
fn mistakes(data: &Path, name: &str, split: &str) -> Vec<Finding> {
    let found = match name {
        "ade20k" => shifted_ade(&data.join("ADEChallengeData2016/annotations").join(split)),
        "coco_stuff" => stuff_ids(&data.join("coco_stuff164k"), split),
        "voc" => unaugmented_voc(&data.join("voc"), split),
        "context59" | "context60" => all_of_context(&data.join("VOC2010/SegmentationClassContext")),
        _ => None,
    };
    found.map(|(file, message)| Finding { file, message: message.to_owned() }).into_iter().collect()
}

/// Published files: 0 other, 1-150. Files with 255 and class 0, and without 150, were shifted by somebody already.
fn shifted_ade(folder: &Path) -> Option<(PathBuf, &'static str)> {
    let values = raw_values(folder)?;
    let shifted = values[255] > 0 && values[150] == 0 && values[1..150].iter().any(|n| *n > 0);
    shifted.then(|| (folder.to_owned(), "the labels seem shifted already (255 occurs, 150 does not): the published files hold 0 for other and 1-150; use those, they are shifted on reading"))
}

/// Published maps hold ids up to 181; 171 numbers without gaps are mmseg's conversion in the wrong folder.
fn stuff_ids(root: &Path, split: &str) -> Option<(PathBuf, &'static str)> {
    let folder = root.join("stuffthingmaps").join(split);
    if let Some(values) = raw_values(&folder) {
        let unused = crate::coco_stuff::UNUSED.iter().any(|v| values[usize::from(*v)] > 0);
        let high = values[171..182].iter().any(|n| *n > 0);
        return (unused && !high).then_some((folder, "ids that no published file has occur, and none above 170: these are mmseg's 171 numbers; they belong under annotations/ as *_labelTrainIds.png"));
    }
    let folder = root.join("annotations").join(split);
    let values = raw_values(&folder)?;
    let high = values[171..182].iter().any(|n| *n > 0);
    high.then_some((folder, "values above 170 in *_labelTrainIds.png: these are COCO's 182 ids; they belong under stuffthingmaps/"))
}

fn unaugmented_voc(root: &Path, split: &str) -> Option<(PathBuf, &'static str)> {
    let missing = split.starts_with("train") && !root.join("SegmentationClassAug").is_dir();
    missing.then(|| (root.join("SegmentationClassAug"), "no augmented masks: VOC's own `train` has 1,464 photos, the papers train on `train_aug` with 10,582 (SBD)"))
}

fn all_of_context(folder: &Path) -> Option<(PathBuf, &'static str)> {
    let values = raw_values(folder)?;
    let many = values[60..255].iter().any(|n| *n > 0);
    many.then(|| (folder.to_owned(), "values above 59: these are Context's 459 labels; convert them to 59 classes and background first"))
}
