//! A user's labelled photos, in whichever of four forms they are.
//!
//! | form | recognised by |
//! |---|---|
//! | COCO | a `.json` file with `annotations`, or a folder with exactly one |
//! | VOC | a folder with `ImageSets/Segmentation` |
//! | mask folder | a folder with `classes.txt`, `images/` and `masks/` (at the top or below the split) |
//! | LabelMe | a folder of photos with a `.json` of `shapes` beside each |

mod check;
mod coco;
mod label_me;
mod paint;

use crate::error::{PHOTO, list_files};
use crate::mask_folder::MaskFolder;
use crate::voc::Voc;
use crate::{DataError, Dataset, Sample};
use std::path::{Path, PathBuf};

pub use check::{Check, ClassCount, Finding, check};
pub use coco::Coco;
pub use label_me::LabelMe;

/// Class names that mean "none of the others".
const BACKGROUND: [&str; 4] = ["background", "_background_", "__background__", "null"];
/// Class names that mean "nobody knows".
const VOID: [&str; 5] = ["void", "ignore", "__ignore__", "unlabelled", "unlabeled"];

/// Labelled photos of one of the four forms.
#[derive(Debug)]
pub enum Labelled {
    /// COCO's instances, painted.
    Coco(Coco),
    /// PASCAL VOC's folders.
    Voc(Voc),
    /// Photos, masks, `classes.txt`.
    Masks(MaskFolder),
    /// LabelMe's shapes, painted.
    LabelMe(LabelMe),
}

/// Opens `path` in the form that it has; `split` chooses among VOC's lists or the folders of a mask
/// folder, and is not looked at elsewhere.
///
/// # Errors
/// A path of no known form, or what the form's own `open` reports.
pub fn open(path: &Path, split: &str) -> Result<Labelled, DataError> {
    if path.is_file() {
        return Ok(Labelled::Coco(Coco::open(path)?));
    }
    if !path.is_dir() {
        let reason = std::io::Error::from(std::io::ErrorKind::NotFound);
        return Err(DataError::Io { path: path.to_owned(), reason });
    }
    if path.join("ImageSets/Segmentation").is_dir() {
        return Ok(Labelled::Voc(Voc::open(path, split)?));
    }
    if path.join("classes.txt").is_file() && (path.join("images").is_dir() || path.join(split).join("images").is_dir()) {
        return Ok(Labelled::Masks(open_masks(path, split)?));
    }
    let jsons = list_files(path, &["json"])?;
    let coco: Vec<_> = jsons.iter().filter(|json| coco::is_coco(json)).collect();
    match coco.as_slice() {
        [json] => return Ok(Labelled::Coco(Coco::open(json)?)),
        [] => {}
        several => {
            let message = format!("expected one COCO file, found {}; name one of them", several.len());
            return Err(DataError::format(path, message));
        }
    }
    match !jsons.is_empty() && !list_files(path, PHOTO)?.is_empty() {
        true => Ok(Labelled::LabelMe(LabelMe::open(path)?)),
        false => Err(DataError::format(
            path,
            "no labels of a known form: expected a COCO file, VOC's ImageSets/Segmentation, classes.txt with images/ \
             and masks/, or LabelMe's .json beside each photo",
        )),
    }
}

/// A mask folder whose background and void classes are known by their usual names.
fn open_masks(path: &Path, split: &str) -> Result<MaskFolder, DataError> {
    let classes = crate::error::read_lines(&path.join("classes.txt"))?;
    let find = |names: &[&str]| classes.iter().find(|c| names.contains(&c.to_lowercase().as_str())).cloned();
    let (background, void) = (find(&BACKGROUND), find(&VOID));
    let split = if path.join("images").is_dir() { "" } else { split };
    MaskFolder::open("masks", path, split, background.as_deref(), void.as_deref())
}

impl Labelled {
    /// What a person calls the form.
    pub fn form(&self) -> &'static str {
        match self {
            Self::Coco(_) => "COCO",
            Self::Voc(_) => "VOC",
            Self::Masks(_) => "mask folder",
            Self::LabelMe(_) => "LabelMe",
        }
    }

    /// The photo's file, or the label file that stands for it.
    fn file(&self, index: usize) -> PathBuf {
        match self {
            Self::Coco(d) => d.photo(index),
            Self::Voc(d) => d.photo(index),
            Self::Masks(d) => d.photos()[index].clone(),
            Self::LabelMe(d) => d.label_file(index),
        }
    }

    fn inner(&self) -> &dyn Dataset {
        match self {
            Self::Coco(d) => d,
            Self::Voc(d) => d,
            Self::Masks(d) => d,
            Self::LabelMe(d) => d,
        }
    }

    /// Everything that is wrong with the label files themselves, before a photo is read.
    fn findings(&self) -> Vec<Finding> {
        match self {
            Self::Coco(d) => d.findings(),
            Self::Masks(d) => check::mask_folder(d),
            Self::LabelMe(d) => d.findings(),
            Self::Voc(_) => Vec::new(),
        }
    }
}

impl Dataset for Labelled {
    fn name(&self) -> &str {
        self.inner().name()
    }
    fn len(&self) -> usize {
        self.inner().len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        self.inner().get(index)
    }
    fn id(&self, index: usize) -> Option<String> {
        self.inner().id(index)
    }
    fn class_names(&self) -> &[String] {
        self.inner().class_names()
    }
    fn background(&self) -> Option<usize> {
        self.inner().background()
    }
}
