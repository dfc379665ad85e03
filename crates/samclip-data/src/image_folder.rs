//! One folder per class, as ImageNet is stored: `<root>/<class>/X.jpg`.
//!
//! Folder names that are WordNet ids listed in `<root>/../classes.tsv` (index, wnid, name) take
//! the index and name of that file, so a part of ImageNet keeps the standard 1,000 indices.
//! Otherwise the folders, sorted, are the classes.

use crate::dataset::{check_index, open_image};
use crate::error::{PHOTO, list_files, read_lines};
use crate::{DataError, Dataset, Sample};
use std::path::{Path, PathBuf};

/// Photos with one class each.
#[derive(Debug)]
pub struct ImageFolder {
    name: String,
    files: Vec<(PathBuf, usize)>,
    classes: Vec<String>,
}

impl ImageFolder {
    /// Lists the class folders of `root`.
    ///
    /// # Errors
    /// A missing folder, no class folders, no photos, or a malformed `classes.tsv`.
    pub fn open(root: &Path) -> Result<Self, DataError> {
        let folders = class_folders(root)?;
        let table = standard_classes(root)?;
        let position = |f: &PathBuf| table.iter().position(|(wnid, _)| Some(wnid.as_str()) == folder_name(f));
        let indices: Option<Vec<usize>> = folders.iter().map(position).collect();
        let (name, classes, indices) = match indices {
            Some(indices) if !table.is_empty() => {
                ("imagenet1k", table.into_iter().map(|(_, name)| name).collect(), indices)
            }
            _ => {
                let names = folders.iter().filter_map(|f| folder_name(f)).map(str::to_owned).collect();
                ("imagenet_folders", names, (0..folders.len()).collect())
            }
        };
        let mut files = Vec::new();
        for (folder, class) in folders.iter().zip(indices) {
            files.extend(list_files(folder, PHOTO)?.into_iter().map(|f| (f, class)));
        }
        if files.is_empty() {
            return Err(DataError::format(root, "expected photos in class folders, found none"));
        }
        Ok(Self { name: name.to_owned(), files, classes })
    }
}

fn folder_name(path: &PathBuf) -> Option<&str> {
    path.file_name().and_then(|n| n.to_str())
}

fn class_folders(root: &Path) -> Result<Vec<PathBuf>, DataError> {
    let io = |reason| DataError::Io { path: root.to_owned(), reason };
    let mut folders = Vec::new();
    for entry in std::fs::read_dir(root).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.is_dir() && folder_name(&path).is_some() {
            folders.push(path);
        }
    }
    folders.sort();
    Ok(folders)
}

/// (wnid, name) in the standard order, or nothing where there is no table.
fn standard_classes(root: &Path) -> Result<Vec<(String, String)>, DataError> {
    let path = root.parent().unwrap_or(Path::new("")).join("classes.tsv");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let mut table = Vec::new();
    for line in read_lines(&path)?.into_iter().skip(1) {
        let mut fields = line.split('\t');
        let (index, wnid, name) = (fields.next(), fields.next(), fields.next());
        match (index.and_then(|i| i.parse::<usize>().ok()), wnid, name) {
            (Some(index), Some(wnid), Some(name)) if index == table.len() => {
                table.push((wnid.to_owned(), name.to_owned()));
            }
            _ => {
                let message = format!("expected `{}<tab>wnid<tab>name`, found `{line}`", table.len());
                return Err(DataError::format(&path, message));
            }
        }
    }
    Ok(table)
}

impl Dataset for ImageFolder {
    fn name(&self) -> &str {
        &self.name
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (path, class) = &self.files[index];
        let id = self.id(index).unwrap_or_default();
        let image = open_image(path)?;
        Ok(Sample { id, image, labels: None, masks: Vec::new(), class_ids: vec![*class], captions: Vec::new() })
    }
    fn present(&self, index: usize) -> Result<Vec<usize>, DataError> {
        check_index(self, index)?;
        Ok(vec![self.files[index].1])
    }
    fn id(&self, index: usize) -> Option<String> {
        let path = &self.files.get(index)?.0;
        let folder = path.parent().and_then(|p| p.file_name()).unwrap_or_default();
        Some(Path::new(folder).join(path.file_stem().unwrap_or_default()).to_string_lossy().into_owned())
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
