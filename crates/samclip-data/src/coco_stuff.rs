//! COCO-Stuff 164k: `<split>/*.jpg`, `stuffthingmaps/<split>/*.png`, `labels.txt`.
//!
//! The published PNGs hold the COCO id less one, 0-181, of which 11 never occur; 255 is unlabelled. The 171 classes that
//! do are numbered in order. mmseg's converted files, `annotations/<split>/*_labelTrainIds.png`, hold those numbers and
//! are taken where they are there.

use crate::error::read_lines;
use crate::label_pairs::{LabelPairs, Recode, photos_with, plain};
use crate::{DataError, IGNORE};
use std::path::Path;

/// Values of the published files that no photo has (COCO ids less one).
pub const UNUSED: [u8; 11] = [11, 25, 28, 29, 44, 65, 67, 68, 70, 82, 90];

/// From the published values to 171 classes.
pub fn recode() -> Recode {
    let mut next = 0;
    let mut table = [None; 256];
    for value in (0..182u8).filter(|v| !UNUSED.contains(v)) {
        table[usize::from(value)] = Some(next);
        next += 1;
    }
    UNUSED.iter().for_each(|v| table[usize::from(*v)] = Some(IGNORE));
    table[255] = Some(IGNORE);
    table
}

/// Opens a split (`val2017`).
///
/// # Errors
/// Missing folders or `labels.txt`, no photos.
pub fn open(root: &Path, split: &str) -> Result<LabelPairs, DataError> {
    let (converted, published) = (root.join("annotations").join(split), root.join("stuffthingmaps").join(split));
    let mut pairs = photos_with(&root.join(split), |id| converted.join(format!("{id}_labelTrainIds.png")))?;
    let is_converted = pairs[0].labels.is_file();
    if !is_converted {
        pairs.iter_mut().for_each(|pair| pair.labels = published.join(format!("{}.png", pair.id)));
    }
    let classes = class_names(&root.join("labels.txt"))?;
    let (recode, advice) = match is_converted {
        true => (plain(171), "; files with 182 ids belong under stuffthingmaps/"),
        false => (recode(), ""),
    };
    Ok(LabelPairs { name: "coco_stuff", pairs, classes, background: None, recode, advice })
}

/// `labels.txt`: `id: name`, 0 is `unlabeled`; the names of the 171 ids that occur.
fn class_names(path: &Path) -> Result<Vec<String>, DataError> {
    let mut names = Vec::new();
    for line in read_lines(path)? {
        let parsed = line.split_once(':').and_then(|(id, name)| Some((id.trim().parse::<usize>().ok()?, name.trim())));
        let (id, name) = parsed.ok_or_else(|| DataError::format(path, format!("expected `id: name`, found `{line}`")))?;
        let used = (1..=182).contains(&id) && !UNUSED.contains(&(id as u8 - 1));
        if used {
            names.push(name.to_owned());
        }
    }
    match names.len() {
        171 => Ok(names),
        found => Err(DataError::format(path, format!("expected names of 171 ids that occur, found {found}"))),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_hundred_and_seventy_one_classes_in_order() {
        let table = super::recode();
        assert_eq!((table[0], table[10], table[11], table[12], table[181]), (Some(0), Some(10), Some(255), Some(11), Some(170)));
        assert_eq!((table[182], table[254], table[255]), (None, None, Some(255)));
    }
}
