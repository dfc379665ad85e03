//! `data check`: reads every photo and label once and lists what is wrong, with file names.

use super::{Labelled, open};
use crate::error::{PHOTO, list_files};
use crate::mask_folder::MaskFolder;
use crate::{DataError, Dataset, IGNORE};
use rayon::prelude::*;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Something wrong, and where.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The file to repair.
    pub file: PathBuf,
    /// What is wrong with it.
    pub message: String,
}

/// How often a class occurs.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct ClassCount {
    /// The class.
    pub class: String,
    /// Photos that show it.
    pub photos: usize,
    /// Its share of all labelled pixels.
    pub share: f64,
}

/// What the check says.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Check {
    /// COCO, VOC, mask folder or LabelMe.
    pub form: &'static str,
    /// Photos.
    pub photos: usize,
    /// Photos that can be read, with labels.
    pub usable: usize,
    /// Every class, in the order of the label values, the background left out.
    pub classes: Vec<ClassCount>,
    /// Share of pixels that nobody labelled (255, void classes, crowds).
    pub ignore_share: f64,
    /// Everything wrong.
    pub findings: Vec<Finding>,
    /// Indices of photos that cannot be trained on.
    #[serde(skip)]
    pub bad: Vec<usize>,
}

/// What one photo says: pixels by label value, or what is wrong with it.
type Counted = Result<Box<[u64; 256]>, DataError>;

/// Checks the labels at `path`; `wanted` are the classes that training will ask for (empty: all).
///
/// # Errors
/// Labels that cannot be opened at all, see [`open`].
pub fn check(path: &Path, split: &str, wanted: &[String]) -> Result<(Labelled, Check), DataError> {
    let data = open(path, split)?;
    let mut findings = data.findings();
    let (mut pixels, mut photos, mut bad) = ([0u64; 256], [0usize; 256], Vec::new());
    let counted: Vec<Counted> = (0..data.len()).into_par_iter().map(|i| count(&data, i)).collect();
    for (index, counts) in counted.into_iter().enumerate() {
        match counts {
            Err(error) => {
                findings.push(finding(&error, root(path)));
                bad.push(index);
            }
            Ok(counts) => {
                let labelled = |v: usize| counts[v] > 0 && Some(v) != data.background();
                if !(0..usize::from(IGNORE)).any(labelled) {
                    let file = data.file(index);
                    findings.push(Finding { file, message: "an empty mask: no class in it".to_owned() });
                    bad.push(index);
                }
                for (v, count) in counts.iter().enumerate() {
                    pixels[v] += count;
                    photos[v] += usize::from(*count > 0);
                }
            }
        }
    }
    let total = pixels.iter().sum::<u64>().max(1) as f64;
    let known = total - pixels[usize::from(IGNORE)] as f64;
    let class = |(v, name): (usize, &String)| ClassCount {
        class: name.clone(),
        photos: photos[v],
        share: pixels[v] as f64 / known.max(1.0),
    };
    let foreground = data.class_names().iter().enumerate().filter(|(v, _)| Some(*v) != data.background());
    let classes: Vec<ClassCount> = foreground.map(class).collect();
    findings.extend(class_findings(&classes, wanted, path));
    let usable = data.len() - bad.len();
    let ignore_share = 1.0 - known / total;
    let check = Check { form: data.form(), photos: data.len(), usable, classes, ignore_share, findings, bad };
    Ok((data, check))
}

/// The folder of the labels: a file's folder, or the folder itself.
fn root(path: &Path) -> &Path {
    if path.is_dir() { path } else { path.parent().unwrap_or(path) }
}

fn count(data: &Labelled, index: usize) -> Counted {
    let sample = data.get(index)?;
    let mut counts = Box::new([0u64; 256]);
    if let Some(labels) = &sample.labels {
        labels.data.iter().for_each(|v| counts[usize::from(*v)] += 1);
    }
    Ok(counts)
}

/// Classes that no photo shows (of those that are wanted), and wanted ones that do not exist.
fn class_findings(classes: &[ClassCount], wanted: &[String], path: &Path) -> Vec<Finding> {
    let finding = |message: String| Finding { file: path.to_owned(), message };
    let asked = |c: &&ClassCount| wanted.is_empty() || wanted.contains(&c.class);
    let empty = classes.iter().filter(asked).filter(|c| c.photos == 0);
    let mut found: Vec<_> = empty.map(|c| finding(format!("class `{}` is in no photo", c.class))).collect();
    let known = |name: &&String| !classes.iter().any(|c| c.class == **name);
    found.extend(wanted.iter().filter(known).map(|name| finding(format!("there is no class `{name}`"))));
    found
}

/// An error as a finding: the file at the end of its message, and the rest of it.
fn finding(error: &DataError, data: &Path) -> Finding {
    let text = error.to_string();
    match text.rsplit_once(": ") {
        Some((message, path)) if Path::new(path).starts_with(data) => {
            let missing = !Path::new(path).exists();
            let message = if missing { "the file is missing" } else { message }.to_owned();
            Finding { file: PathBuf::from(path), message }
        }
        _ => Finding { file: data.to_owned(), message: text },
    }
}

/// What a mask folder alone shows: photos of one name, photos without a mask, masks without a photo.
pub(super) fn mask_folder(folder: &MaskFolder) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut stems: BTreeMap<String, PathBuf> = BTreeMap::new();
    for photo in folder.photos() {
        let stem = photo.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(other) = stems.insert(stem.clone(), photo.clone()) {
            let message = format!("shares its mask with {}: two photos named {stem}", other.display());
            found.push(Finding { file: photo.clone(), message });
        }
    }
    let masks = list_files(folder.masks(), PHOTO).unwrap_or_default();
    for mask in masks {
        let stem = mask.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if !stems.contains_key(&stem) {
            found.push(Finding { file: mask, message: "a mask without a photo".to_owned() });
        }
    }
    found
}
