//! Datasets (one file each), augmentation and the seeded, resumable loader.
//!
//! The path of a training sample: file -> [`Dataset::get`] -> [`Sample`] -> [`augment::Geometry`]
//! -> [`TrainItem`] at a square side -> [`loader::Batch`]. Every random number comes from a
//! ChaCha generator seeded with (seed, epoch, index), so threads change speed, never results.

pub mod augment;
mod buckets;
pub mod captions;
mod dataset;
mod error;
pub mod file_list;
pub mod image_folder;
mod item;
pub mod labelled;
pub mod loader;
pub mod mask_folder;
pub mod names;
mod objects;
mod part;
mod pool;
pub mod prompts;
pub mod sa1b;
pub mod shapes;
pub mod tar_files;
pub mod subset;
pub mod voc;
pub mod webdataset;

pub use dataset::{Dataset, IGNORE, Sample, open};
pub use error::DataError;
pub use item::{Targets, TrainItem};
pub use part::Part;
pub use objects::{Object, components, objects};
