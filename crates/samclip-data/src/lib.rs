//! Datasets (one file each), augmentation and the seeded, resumable loader.
//!
//! The path of a training sample: file -> [`Dataset::get`] -> [`Sample`] -> [`augment::Geometry`]
//! -> [`TrainItem`] at a square side -> [`loader::Batch`]. Every random number comes from a
//! ChaCha generator seeded with (seed, epoch, index), so threads change speed, never results.

pub mod ade20k;
pub mod augment;
mod buckets;
pub mod camouflaged;
pub mod captions;
pub mod class_files;
mod coco_json;
pub mod coco_panoptic;
pub mod coco_stuff;
mod dataset;
mod error;
pub mod file_list;
pub mod image_folder;
pub mod instances;
mod item;
pub mod karpathy;
pub mod label_pairs;
pub mod labelled;
pub mod loader;
pub mod mask_folder;
pub mod names;
mod objects;
mod part;
pub mod pascal_context;
mod pool;
pub mod prompts;
pub mod sa1b;
pub mod set_check;
pub mod shapes;
pub mod tar_files;
pub mod subset;
pub mod voc;
pub mod webdataset;

pub use dataset::{Dataset, IGNORE, NAMES, Sample, open, present_classes};
pub use error::DataError;
pub use item::{Targets, TrainItem};
pub use part::Part;
pub use objects::{Object, components, objects};
