//! Camouflaged objects: `<set>/Imgs/*.jpg`, `<set>/GT/*.png` for COD10K, CAMO, CHAMELEON, NC4K.
//!
//! Layout: SINet's `TestDataset`. A truth pixel above 128 is the object (some files are grey at the border).

use crate::label_pairs::{LabelPairs, photos_with};
use crate::DataError;
use std::path::Path;

/// Opens one set by its folder's name.
///
/// # Errors
/// Missing folders, no photos.
pub fn open(root: &Path, set: &str) -> Result<LabelPairs, DataError> {
    let pairs = photos_with(&root.join(set).join("Imgs"), |id| root.join(set).join("GT").join(format!("{id}.png")))?;
    let classes = vec!["background".to_owned(), "camouflaged object".to_owned()];
    let recode = std::array::from_fn(|v| Some(u8::from(v > 128)));
    Ok(LabelPairs { name: "camouflaged", pairs, classes, background: Some(0), recode, advice: "" })
}
