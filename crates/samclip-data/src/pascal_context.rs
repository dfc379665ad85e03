//! PASCAL Context: VOC2010's photos with 59 classes, or 60 with the background.
//!
//! Layout: mmseg's conversion inside VOC2010: `JPEGImages`, `SegmentationClassContext` (0 background, 1-59),
//! `ImageSets/SegmentationContext/<split>.txt`. With 59 classes the background is void.

use crate::error::read_lines;
use crate::label_pairs::{LabelPairs, Pair, plain, reduced};
use crate::DataError;
use std::path::Path;

/// The 59 classes in the order of the label values.
pub const CLASSES: [&str; 59] = [
    "aeroplane", "bag", "bed", "bedclothes", "bench", "bicycle", "bird", "boat", "book", "bottle", "building", "bus",
    "cabinet", "car", "cat", "ceiling", "chair", "cloth", "computer", "cow", "cup", "curtain", "dog", "door", "fence",
    "floor", "flower", "food", "grass", "ground", "horse", "keyboard", "light", "motorbike", "mountain", "mouse", "person",
    "plate", "platform", "pottedplant", "road", "rock", "sheep", "shelves", "sidewalk", "sign", "sky", "snow", "sofa",
    "table", "track", "train", "tree", "truck", "tvmonitor", "wall", "water", "window", "wood",
];

/// Opens a split with 60 classes (`background`) or 59.
///
/// # Errors
/// A missing or empty list.
pub fn open(root: &Path, split: &str, background: bool) -> Result<LabelPairs, DataError> {
    let list = root.join("ImageSets/SegmentationContext").join(format!("{split}.txt"));
    let pair = |id: String| Pair {
        photo: root.join("JPEGImages").join(format!("{id}.jpg")),
        labels: root.join("SegmentationClassContext").join(format!("{id}.png")),
        id,
    };
    let pairs = read_lines(&list)?.into_iter().map(pair).collect();
    let first = background.then_some("background");
    let classes: Vec<String> = first.into_iter().chain(CLASSES).map(str::to_owned).collect();
    let advice = "; Context's 459 labels must be converted to 60 first";
    Ok(match background {
        true => LabelPairs { name: "context60", pairs, recode: plain(60), classes, background: Some(0), advice },
        false => LabelPairs { name: "context59", pairs, recode: reduced(59), classes, background: None, advice },
    })
}
