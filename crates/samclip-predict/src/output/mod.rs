//! Masks to files: one module per format, every file written to a temporary name and renamed.

mod coco;
mod csv;
mod labelme;
mod palette;
mod png;
mod sa1b;
mod yolo;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use samclip_image::Image;

use crate::error::PredictError;
use crate::record::MaskImage;

pub use palette::write_label_map;
pub use png::write_heat;

/// A file format of masks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Format {
    /// One black and white PNG per mask.
    Png,
    /// The photo with coloured masks.
    Overlay,
    /// One COCO JSON for all images, masks as run-length encodings.
    Coco,
    /// One SA-1B JSON per image.
    Sa1b,
    /// One LabelMe JSON per image, masks as polygons.
    Labelme,
    /// One YOLO segmentation text file per image, and the list of classes.
    Yolo,
    /// One CSV per image with the columns of SAM's `amg.py`.
    Csv,
}

/// Writes masks of many images into one folder.
#[derive(Debug)]
pub struct Writer {
    folder: PathBuf,
    formats: Vec<Format>,
    stems: BTreeMap<String, usize>,
    coco: coco::Coco,
    classes: Vec<String>,
}

impl Writer {
    /// Creates the folder.
    ///
    /// # Errors
    /// A folder that cannot be created or written.
    pub fn new(folder: &Path, formats: &[Format]) -> Result<Self, PredictError> {
        create_folder(folder)?;
        let mut formats = formats.to_vec();
        formats.sort_unstable();
        formats.dedup();
        let folder = folder.to_owned();
        Ok(Self { folder, formats, stems: BTreeMap::new(), coco: coco::Coco::default(), classes: Vec::new() })
    }

    /// Writes one image's files and returns their paths.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn write(&mut self, image: &Image, record: &MaskImage) -> Result<Vec<PathBuf>, PredictError> {
        let stem = self.stem(&record.file);
        let at = |suffix: &str| self.folder.join(format!("{stem}{suffix}"));
        let mut written = Vec::new();
        for format in self.formats.clone() {
            match format {
                Format::Png => written.extend(png::write_masks(&self.folder, &stem, record)?),
                Format::Overlay => written.push(png::write_overlay(&at("_overlay.png"), image, record)?),
                Format::Sa1b => written.push(sa1b::write(&at("_sa1b.json"), record)?),
                Format::Labelme => written.push(labelme::write(&at(".json"), record)?),
                Format::Csv => written.push(csv::write(&at("_metadata.csv"), record)?),
                Format::Yolo => {
                    written.push(yolo::write(&self.folder.join(format!("{stem}.txt")), record, &mut self.classes)?);
                }
                Format::Coco => self.coco.add(record),
            }
        }
        Ok(written)
    }

    /// Writes what belongs to all images and returns the paths.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn finish(self) -> Result<Vec<PathBuf>, PredictError> {
        let mut written = Vec::new();
        if self.formats.contains(&Format::Coco) {
            written.push(self.coco.write(&self.folder.join("coco.json"))?);
        }
        if self.formats.contains(&Format::Yolo) {
            let path = self.folder.join("classes.txt");
            let list: String = self.classes.iter().map(|name| format!("{name}\n")).collect();
            written.push(write_bytes(path, list.as_bytes())?);
        }
        Ok(written)
    }

    /// The file's name without its end, with a number if another image had the same.
    pub fn stem(&mut self, file: &Path) -> String {
        let stem = file.file_stem().map_or_else(|| "image".to_owned(), |s| s.to_string_lossy().into_owned());
        let count = self.stems.entry(stem.clone()).or_insert(0);
        *count += 1;
        if *count == 1 { stem } else { format!("{stem}_{count}") }
    }

    /// The folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Creates a folder and makes sure that a file can be written in it.
///
/// # Errors
/// What the system says.
pub fn create_folder(folder: &Path) -> Result<(), PredictError> {
    let error = |source| PredictError::Io { action: "create the output folder", source, path: folder.to_owned() };
    std::fs::create_dir_all(folder).map_err(error)?;
    let probe = folder.join(format!(".samclip-{}.tmp", std::process::id()));
    std::fs::write(&probe, b"").map_err(error)?;
    std::fs::remove_file(&probe).map_err(error)
}

/// The place of a label among the names so far; a new one goes to the end.
fn number(names: &mut Vec<String>, label: &str) -> usize {
    names.iter().position(|name| name == label).unwrap_or_else(|| {
        names.push(label.to_owned());
        names.len() - 1
    })
}

fn write_bytes(path: PathBuf, bytes: &[u8]) -> Result<PathBuf, PredictError> {
    samclip_image::write_atomic(&path, bytes)?;
    Ok(path)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<PathBuf, PredictError> {
    let json = serde_json::to_vec(value).map_err(|error| PredictError::Io {
        action: "write",
        source: std::io::Error::other(error),
        path: path.to_owned(),
    })?;
    write_bytes(path.to_owned(), &json)
}

/// The file's name without its folder.
fn file_name(record: &MaskImage) -> String {
    record.file.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
