//! Objects with categories in COCO's and LVIS's JSON, kept as runs: for boxes and masks, not for label maps.
//!
//! Layout: `annotations/instances_<split>.json` and `<split>/*.jpg` (COCO), `annotations/lvis_v1_<split>.json` with
//! the photos named by `coco_url` (LVIS). Average precision is computed from the same file (`samclip-eval`).

use crate::coco_json::{File, Picture, Segmentation};
use crate::dataset::open_image;
use crate::error::read_text;
use crate::DataError;
use samclip_image::{Image, rle};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The names that [`open`] knows.
pub const NAMES: [&str; 2] = ["coco", "lvis"];

/// One object.
#[derive(Debug, Clone, PartialEq)]
pub struct Instance {
    /// Category id, as in the file.
    pub category: u64,
    /// x, y, width, height.
    pub bbox: [f64; 4],
    /// Many objects in one region, not to be counted.
    pub crowd: bool,
    shape: Segmentation,
}

/// One photo.
#[derive(Debug, Clone)]
pub struct InstancePhoto {
    /// Id, as in the file.
    pub id: u64,
    /// Where it lies.
    pub path: PathBuf,
    /// Width and height, as the file says.
    pub size: (usize, usize),
    /// Its objects, in the file's order.
    pub objects: Vec<Instance>,
}

/// A set of photos with objects.
#[derive(Debug)]
pub struct Instances {
    /// The annotation file.
    pub file: PathBuf,
    /// Photos, by ascending id.
    pub photos: Vec<InstancePhoto>,
    /// Category ids and names, ascending.
    pub categories: Vec<(u64, String)>,
}

/// Opens `coco` (split `val2017`) or `lvis` (split `val`) below `root`.
///
/// # Errors
/// A missing file, JSON of another form, an object of a photo that is not there.
pub fn open(root: &Path, name: &str, split: &str) -> Result<Instances, DataError> {
    let file = root.join("annotations").join(match name {
        "lvis" => format!("lvis_v1_{split}.json"),
        _ => format!("instances_{split}.json"),
    });
    let fail = |message: String| DataError::format(&file, message);
    let parsed: File = serde_json::from_str(&read_text(&file)?).map_err(|e| fail(format!("not COCO's objects ({e})")))?;
    let mut photos: BTreeMap<u64, InstancePhoto> = BTreeMap::new();
    for image in parsed.images {
        let path = root.join(place(&image, split).ok_or_else(|| fail(format!("image {} names no file", image.id)))?);
        photos.insert(image.id, InstancePhoto { id: image.id, path, size: (image.width, image.height), objects: Vec::new() });
    }
    for a in parsed.annotations {
        let photo = photos.get_mut(&a.image_id).ok_or_else(|| fail(format!("an object of image {}, which is not there", a.image_id)))?;
        let bbox = a.bbox.ok_or_else(|| fail(format!("annotation {} has no `bbox`", a.id)))?;
        photo.objects.push(Instance { category: a.category_id, bbox, crowd: a.iscrowd != 0, shape: a.segmentation });
    }
    let mut categories: Vec<(u64, String)> = parsed.categories.into_iter().map(|c| (c.id, c.name)).collect();
    categories.sort();
    Ok(Instances { file, photos: photos.into_values().collect(), categories })
}

/// `val2017/X.jpg`: LVIS names folder and file by `coco_url`, COCO the file alone.
fn place(image: &Picture, split: &str) -> Option<PathBuf> {
    if let Some(url) = &image.coco_url {
        let mut parts = url.rsplit('/');
        if let (Some(file), Some(folder)) = (parts.next(), parts.next()) {
            return Some(Path::new(folder).join(file));
        }
    }
    let name = Path::new(&image.file_name).file_name()?;
    Some(Path::new(split).join(name))
}

impl InstancePhoto {
    /// Reads the photo and checks its size.
    ///
    /// # Errors
    /// A missing or corrupt file, another size than the annotations say.
    pub fn open(&self) -> Result<Image, DataError> {
        let image = open_image(&self.path)?;
        let size = (image.width(), image.height());
        match size == self.size {
            true => Ok(image),
            false => Err(DataError::SizeMismatch { mask: self.size, image: size, path: self.path.clone() }),
        }
    }

    /// The runs of an object.
    ///
    /// # Errors
    /// Polygons or runs that do not fit the photo.
    pub fn runs(&self, object: &Instance) -> Result<rle::Rle, DataError> {
        let (width, height) = self.size;
        object.shape.runs(height, width).map_err(|e| DataError::format(&self.path, format!("an object's mask: {e}")))
    }
}
