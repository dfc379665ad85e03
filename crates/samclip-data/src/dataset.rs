//! What every dataset gives: a name, a length, class names and samples by index.

use crate::{DataError, captions, file_list, image_folder, mask_folder, sa1b, shapes, voc, webdataset};
use crate::{ade20k, camouflaged, class_files, coco_panoptic, coco_stuff, karpathy, labelled, pascal_context};
use samclip_image::{DecodeLimits, Image, LabelMap, Mask};
use std::path::Path;

/// The label value that belongs to no class and is left out of losses and metrics.
pub const IGNORE: u8 = 255;

/// One annotated photo, in original pixels.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Stable name within the dataset (file stem or relative path).
    pub id: String,
    /// The photo.
    pub image: Image,
    /// Class index per pixel, [`IGNORE`] where nobody knows.
    pub labels: Option<LabelMap>,
    /// Class-less segments or instances.
    pub masks: Vec<Mask>,
    /// Classes that are present, ascending, background excluded.
    pub class_ids: Vec<usize>,
    /// Sentences about the photo.
    pub captions: Vec<String>,
}

/// A list of annotated photos. Order, shuffling and resuming are the loader's business.
pub trait Dataset: Send + Sync {
    /// The dataset's name, as recipes and reports spell it.
    fn name(&self) -> &str;
    /// Number of samples.
    fn len(&self) -> usize;
    /// Whether there are no samples.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Reads sample `index`.
    ///
    /// # Errors
    /// A missing or corrupt file, a mask of another size than its photo, an index beyond the end.
    fn get(&self, index: usize) -> Result<Sample, DataError>;
    /// The sample's name without reading it, where the data set knows it.
    fn id(&self, _index: usize) -> Option<String> {
        None
    }
    /// The classes present in sample `index`, as [`Sample::class_ids`]; data sets that can do so leave the
    /// photo alone.
    ///
    /// # Errors
    /// As [`Dataset::get`].
    fn present(&self, index: usize) -> Result<Vec<usize>, DataError> {
        Ok(self.get(index)?.class_ids)
    }
    /// The label map of sample `index`; data sets that can do so leave the photo alone.
    ///
    /// # Errors
    /// As [`Dataset::get`].
    fn labels(&self, index: usize) -> Result<Option<LabelMap>, DataError> {
        Ok(self.get(index)?.labels)
    }
    /// The sentences about sample `index`; data sets that can do so leave the photo alone.
    ///
    /// # Errors
    /// As [`Dataset::get`].
    fn captions(&self, index: usize) -> Result<Vec<String>, DataError> {
        Ok(self.get(index)?.captions)
    }
    /// Class names; the index is the label value. Empty for class-less data.
    fn class_names(&self) -> &[String];
    /// The class that means "none of the others", if the dataset has one.
    fn background(&self) -> Option<usize>;
}

/// Opens one of the known datasets below `data` by the name that recipes use:
/// `voc`, `ccp`, `camvid`, `bsds_sa1b`, `imagenet_sample`, `flickr8k`; `sa1b` (the split is a
/// folder of JSON files and photos), `file_list` (the split is a list of photos, its paths below
/// `data`), `webdataset` (the split names tar shards: a pattern with `*`, `{0000..0099}`) and
/// `shapes` (painted on the spot; the split is their number); and the benchmarks in their published
/// layouts: `imagenet`, `imagenetv2`, `places365`, `wds`, `flickr30k`, `coco_captions`, `voc_aug`, `context59`,
/// `context60`, `ade20k`, `coco_stuff`, `coco_panoptic`, `coco_things` (instances painted, spec 8.1),
/// `cod` (the split is the set's folder).
///
/// # Errors
/// An unknown name, or what the dataset's own `open` reports.
pub fn open(data: &Path, name: &str, split: &str) -> Result<Box<dyn Dataset>, DataError> {
    let root = data.join(name);
    Ok(match name {
        "voc" => Box::new(voc::Voc::open(&root, split)?),
        "ccp" => Box::new(mask_folder::MaskFolder::ccp(&root, split)?),
        "camvid" => Box::new(mask_folder::MaskFolder::camvid(&root, split)?),
        "bsds_sa1b" => Box::new(sa1b::Sa1b::open(&root.join(split))?),
        "imagenet_sample" | "imagenet" => Box::new(image_folder::ImageFolder::open(&root.join(split))?),
        "flickr8k" => Box::new(captions::Captions::open(&root)?),
        "sa1b" => Box::new(sa1b::Sa1b::open(&data.join(split))?),
        "file_list" => {
            let list = data.join(split);
            Box::new(file_list::FileList::open("file_list", &list, data, Vec::new(), None)?)
        }
        "webdataset" => Box::new(webdataset::WebDataset::open(data, split)?),
        "shapes" => Box::new(shapes::Shapes::open(split)?),
        "imagenetv2" => Box::new(class_files::imagenetv2(&root)?),
        "places365" => Box::new(class_files::places365(&root, split)?),
        "wds" => {
            let (set, part) = split.rsplit_once('/').unwrap_or((split, "test"));
            Box::new(class_files::wds(&data.join(set), part)?)
        }
        "flickr30k" => Box::new(karpathy::open("flickr30k", &root, "dataset_flickr30k.json", "flickr30k-images", split)?),
        "coco_captions" => Box::new(karpathy::open("coco_captions", &data.join("coco"), "dataset_coco.json", "val2014", split)?),
        "voc_aug" => Box::new(voc::Voc::open_aug(&data.join("voc"), split)?),
        "context59" | "context60" => Box::new(pascal_context::open(&data.join("VOC2010"), split, name == "context60")?),
        "ade20k" => Box::new(ade20k::open(&data.join("ADEChallengeData2016"), split)?),
        "coco_stuff" => Box::new(coco_stuff::open(&data.join("coco_stuff164k"), split)?),
        "coco_panoptic" => Box::new(coco_panoptic::open(&data.join("coco"), split)?),
        "coco_things" => {
            let (root, file) = (data.join("coco"), format!("annotations/instances_{split}.json"));
            Box::new(labelled::Coco::open_in(&root.join(file), Some(&root.join(split)))?)
        }
        "cod" => Box::new(camouflaged::open(&data.join("TestDataset"), split)?),
        _ => return Err(DataError::Config(unknown(name))),
    })
}

/// The names that [`open`] knows.
pub const NAMES: [&str; 24] = [
    "voc", "ccp", "camvid", "bsds_sa1b", "imagenet_sample", "flickr8k", "sa1b", "file_list", "webdataset", "shapes",
    "imagenet", "imagenetv2", "places365", "wds", "flickr30k", "coco_captions", "voc_aug", "context59", "context60",
    "ade20k", "coco_stuff", "coco_panoptic", "coco_things", "cod",
];

fn unknown(name: &str) -> String {
    format!("unknown dataset `{name}`, expected one of {}", NAMES.join(", "))
}

pub(crate) fn open_image(path: &Path) -> Result<Image, DataError> {
    Ok(Image::open(path, &DecodeLimits::default())?)
}

/// Reads a label map and checks its size against the photo and its values against the classes.
/// `void` is a label value that stands for "unknown" in the file; it becomes [`IGNORE`].
pub(crate) fn open_labels(
    path: &Path,
    image: &Image,
    classes: usize,
    void: Option<usize>,
) -> Result<LabelMap, DataError> {
    let mut labels = LabelMap::open(path)?;
    check_size(&labels, image, path)?;
    if let Some(void) = void {
        labels.data.iter_mut().filter(|v| usize::from(**v) == void).for_each(|v| *v = IGNORE);
    }
    check_values(&labels, classes, path)?;
    Ok(labels)
}

/// Every value is a class or [`IGNORE`].
pub(crate) fn check_values(labels: &LabelMap, classes: usize, path: &Path) -> Result<(), DataError> {
    match labels.data.iter().find(|v| usize::from(**v) >= classes && **v != IGNORE) {
        Some(v) => Err(DataError::format(path, format!("expected label values below {classes} or 255, found {v}"))),
        None => Ok(()),
    }
}

/// A label map is as large as its photo.
pub(crate) fn check_size(labels: &LabelMap, image: &Image, path: &Path) -> Result<(), DataError> {
    let (mask, photo) = ((labels.width, labels.height), (image.width(), image.height()));
    match mask == photo {
        true => Ok(()),
        false => Err(DataError::SizeMismatch { mask, image: photo, path: path.to_owned() }),
    }
}

/// The classes of a label map, ascending, without background and [`IGNORE`].
pub fn present_classes(labels: &LabelMap, background: Option<usize>) -> Vec<usize> {
    let mut seen = [false; 256];
    for &value in &labels.data {
        seen[usize::from(value)] = true;
    }
    (0..usize::from(IGNORE)).filter(|&c| seen[c] && Some(c) != background).collect()
}

pub(crate) fn check_index(dataset: &dyn Dataset, index: usize) -> Result<(), DataError> {
    if index < dataset.len() {
        return Ok(());
    }
    Err(DataError::OutOfRange { dataset: dataset.name().into(), index, len: dataset.len() })
}
