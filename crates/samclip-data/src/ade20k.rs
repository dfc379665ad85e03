//! ADE20K (SceneParse150): `images/<split>`, `annotations/<split>`, `objectInfo150.txt`.
//!
//! Layout: ADEChallengeData2016 as published (splits `training`, `validation`). The PNGs hold 0 for "other" and
//! 1-150; 0 becomes void and the classes move down by one, as in mmseg's `reduce_zero_label`.

use crate::error::read_lines;
use crate::label_pairs::{LabelPairs, photos_with, reduced};
use crate::DataError;
use std::path::Path;

/// Opens a split.
///
/// # Errors
/// Missing folders, no photos, a class list of another form.
pub fn open(root: &Path, split: &str) -> Result<LabelPairs, DataError> {
    let classes = class_names(&root.join("objectInfo150.txt"))?;
    let labels = root.join("annotations").join(split);
    let pairs = photos_with(&root.join("images").join(split), |id| labels.join(format!("{id}.png")))?;
    let recode = reduced(classes.len());
    Ok(LabelPairs { name: "ade20k", pairs, classes, background: None, recode, advice: "" })
}

/// The first alias of every class: `Idx Ratio Train Val Name`, separated by tabs, with a header.
fn class_names(path: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for line in read_lines(path)?.into_iter().skip(1) {
        let name = line.split('\t').nth(4).and_then(|n| n.split([',', ';']).next()).map(str::trim).filter(|n| !n.is_empty());
        let name = name.ok_or_else(|| DataError::format(path, format!("expected five columns, found `{line}`")))?;
        names.push(name.to_owned());
    }
    match names.is_empty() {
        true => Err(DataError::format(path, "expected classes below the header, found none")),
        false => Ok(names),
    }
}
