//! Camouflaged objects: `<set>/Imgs/*.jpg`, `<set>/GT/*.png` for COD10K, CAMO, CHAMELEON, NC4K.
//!
//! Layout: SINet's `TestDataset`. A truth pixel above 128 is the object (some files are grey at the border).

use crate::error::{PHOTO, list_files};
use crate::label_pairs::{LabelPairs, Pair};
use crate::DataError;
use std::path::Path;

/// Opens one set by its folder's name.
///
/// # Errors
/// Missing folders, no photos.
pub fn open(root: &Path, set: &str) -> Result<LabelPairs, DataError> {
    let folder = root.join(set).join("Imgs");
    let photos = list_files(&folder, PHOTO)?;
    if photos.is_empty() {
        return Err(DataError::format(&folder, "expected photos, found none"));
    }
    let pair = |photo: std::path::PathBuf| {
        let id = photo.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Pair { labels: root.join(set).join("GT").join(format!("{id}.png")), id, photo }
    };
    let classes = vec!["background".to_owned(), "camouflaged object".to_owned()];
    let recode = std::array::from_fn(|v| Some(u8::from(v > 128)));
    let pairs = photos.into_iter().map(pair).collect();
    Ok(LabelPairs { name: "camouflaged", pairs, classes, background: Some(0), recode, advice: "" })
}
