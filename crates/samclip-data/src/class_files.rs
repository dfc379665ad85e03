//! Photos with one class each, listed by a file or by numbered folders: Places365, ImageNet-v2, WebDataset shards in
//! CLIP_benchmark's layout.
//!
//! | set | layout |
//! |---|---|
//! | `places365` | `val_256/*.jpg`, `data_256/a/airfield/*.jpg`, `places365_val.txt`, `places365_train_standard.txt` (`file index`), `categories_places365.txt` (`/a/airfield 0`) |
//! | `imagenetv2` | folders `0` ... `999`, numbers and not words, so they are sorted as numbers; `classes.txt` |
//! | `wds` | `classnames.txt`, `<split>/nshards.txt`, `<split>/*.tar` with `X.jpg` (or webp, png) and `X.cls` |

use crate::dataset::{check_index, open_image};
use crate::error::{PHOTO, list_files, read_lines, read_text};
use crate::webdataset::WebDataset;
use crate::{DataError, Dataset, Sample};
use std::path::{Path, PathBuf};

/// Photos and their classes.
#[derive(Debug)]
pub struct ClassFiles {
    name: &'static str,
    files: Vec<(PathBuf, usize)>,
    shards: Option<WebDataset>,
    classes: Vec<String>,
}

/// Opens Places365's small photos, `val` or `train_standard`.
///
/// # Errors
/// A missing file, a line of another form.
pub fn places365(root: &Path, split: &str) -> Result<ClassFiles, DataError> {
    let names = root.join("categories_places365.txt");
    let mut classes = Vec::new();
    for line in read_lines(&names)? {
        let parsed = line.rsplit_once(' ').filter(|(_, i)| i.parse() == Ok(classes.len()));
        let (name, _) = parsed.ok_or_else(|| DataError::format(&names, format!("expected `/a/name {}`, found `{line}`", classes.len())))?;
        // "/a/apartment_building/outdoor": the letter is a folder, the rest are words
        let words = name.trim_start_matches('/').split_once('/').map_or(name, |(_, rest)| rest);
        classes.push(words.replace(['_', '/'], " "));
    }
    let list = root.join(format!("places365_{split}.txt"));
    // the training list names files by class folder, below a folder of another form
    let folder = root.join(if split.starts_with("train") { "data_256".to_owned() } else { format!("{split}_256") });
    let mut files = Vec::new();
    for line in read_lines(&list)? {
        let parsed = line.rsplit_once(' ').and_then(|(f, i)| Some((f.to_owned(), i.parse::<usize>().ok()?)));
        let (file, class) = parsed.filter(|(_, class)| *class < classes.len()).ok_or_else(|| {
            DataError::format(&list, format!("expected `file index` with an index below {}, found `{line}`", classes.len()))
        })?;
        files.push((folder.join(file.trim_start_matches('/')), class));
    }
    Ok(ClassFiles { name: "places365", files, shards: None, classes })
}

/// Opens ImageNet-v2 (`imagenetv2-matched-frequency-format-val` as the root).
///
/// # Errors
/// A folder whose name is no class number, no photos.
pub fn imagenetv2(root: &Path) -> Result<ClassFiles, DataError> {
    let classes = read_lines(&root.join("classes.txt"))?;
    let io = |reason| DataError::Io { path: root.to_owned(), reason };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(root).map_err(io)? {
        let folder = entry.map_err(io)?.path();
        if !folder.is_dir() {
            continue;
        }
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let class = name.parse::<usize>().ok().filter(|c| *c < classes.len());
        let class = class.ok_or_else(|| DataError::format(&folder, format!("expected a class number below {}, found `{name}`", classes.len())))?;
        files.extend(list_files(&folder, PHOTO)?.into_iter().map(|f| (f, class)));
    }
    files.sort_by(|a, b| (a.1, &a.0).cmp(&(b.1, &b.0)));
    match files.is_empty() {
        true => Err(DataError::format(root, "expected photos in numbered folders, found none")),
        false => Ok(ClassFiles { name: "imagenetv2", files, shards: None, classes }),
    }
}

/// Opens WebDataset shards in CLIP_benchmark's layout below `root`.
///
/// # Errors
/// A missing list or shard, a sample without `.cls`, a class beyond `classnames.txt`.
pub fn wds(root: &Path, split: &str) -> Result<ClassFiles, DataError> {
    let classes = read_lines(&root.join("classnames.txt"))?;
    let count = root.join(split).join("nshards.txt");
    let shards: usize = read_text(&count)?.trim().parse().map_err(|e| DataError::format(&count, format!("expected a number ({e})")))?;
    let paths = (0..shards).map(|i| root.join(split).join(format!("{i}.tar"))).collect();
    let shards = WebDataset::of_shards(paths)?;
    let mut files = Vec::new();
    for i in 0..shards.len() {
        let key = shards.key(i).unwrap_or_default();
        let fail = |what: &str| DataError::format(&root.join(split), format!("{key}: {what}"));
        let bytes = shards.file(i, "cls")?.ok_or_else(|| fail("no `.cls` beside the photo"))?;
        let class = std::str::from_utf8(&bytes).ok().and_then(|t| t.trim().parse::<usize>().ok());
        let class = class.filter(|c| *c < classes.len()).ok_or_else(|| fail("`.cls` is no index of classnames.txt"))?;
        files.push((PathBuf::from(key), class));
    }
    Ok(ClassFiles { name: "wds", files, shards: Some(shards), classes })
}

impl Dataset for ClassFiles {
    fn name(&self) -> &str {
        self.name
    }
    fn len(&self) -> usize {
        self.files.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (path, class) = &self.files[index];
        let image = match &self.shards {
            Some(shards) => shards.get(index)?.image,
            None => open_image(path)?,
        };
        let id = self.id(index).unwrap_or_default();
        Ok(Sample { id, image, labels: None, masks: Vec::new(), class_ids: vec![*class], captions: Vec::new() })
    }
    fn present(&self, index: usize) -> Result<Vec<usize>, DataError> {
        check_index(self, index)?;
        Ok(vec![self.files[index].1])
    }
    fn id(&self, index: usize) -> Option<String> {
        let (path, _) = self.files.get(index)?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        // ImageNet-v2 and Places use the same file names in many folders
        let folder = path.parent().and_then(Path::file_name).filter(|_| self.name == "imagenetv2");
        Some(folder.map_or(stem.clone(), |f| format!("{}/{stem}", f.to_string_lossy())))
    }
    fn class_names(&self) -> &[String] {
        &self.classes
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
