//! Photos in WebDataset tar shards: the files of a sample share the name up to the first dot.
//!
//! Format: the WebDataset library's description (webdataset/webdataset, "The WebDataset
//! Format"). Read here: a photo (`jpg`, `jpeg`, `png`, `webp`), `txt` a caption, `json` with
//! SA-1B masks; every other file stays reachable through [`WebDataset::file`]. Shards are named
//! by a pattern with `{00..99}`, `{a,b}`, `*` and `?`, relative to the data folder.
//!
//! Opening reads the headers of every shard once (a seek per file), so that samples are found by
//! index and the loader can shuffle and resume exactly; only uncompressed tar can do that.

use crate::dataset::check_index;
use crate::error::PHOTO;
use crate::tar_files::{self, Place};
use crate::{DataError, Dataset, Sample, sa1b};
use samclip_image::{DecodeLimits, Image};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Photos in tar shards.
#[derive(Debug)]
pub struct WebDataset {
    shards: Vec<PathBuf>,
    samples: Vec<(String, BTreeMap<String, Place>)>,
}

/// The largest caption or JSON that is read.
const MAX_TEXT: u64 = 64 << 20;

impl WebDataset {
    /// Opens the shards that `pattern` names below `data`.
    ///
    /// # Errors
    /// A pattern that does not parse or names nothing, a shard that is missing or no tar, and
    /// shards without a photo.
    pub fn open(data: &Path, pattern: &str) -> Result<Self, DataError> {
        Self::of_shards(expand(data, pattern)?)
    }

    /// Opens these shards, in this order.
    ///
    /// # Errors
    /// As [`WebDataset::open`].
    pub fn of_shards(shards: Vec<PathBuf>) -> Result<Self, DataError> {
        let mut samples = Vec::new();
        for (number, path) in shards.iter().enumerate() {
            index_shard(number, path, &mut samples)?;
        }
        samples.retain(|(_, files)| photo_place(files).is_some());
        match (samples.is_empty(), shards.first()) {
            (false, _) => Ok(Self { shards, samples }),
            (true, shard) => {
                let path = shard.cloned().unwrap_or_default();
                Err(DataError::format(&path, "expected photos in the tar shards, found none"))
            }
        }
    }

    /// The shards, in order.
    pub fn shards(&self) -> &[PathBuf] {
        &self.shards
    }

    /// The name of sample `index`, as in the tar.
    pub fn key(&self, index: usize) -> Option<&str> {
        self.samples.get(index).map(|(key, _)| key.as_str())
    }

    /// The bytes of a sample's file with this extension, if it has one.
    ///
    /// # Errors
    /// A shard that can no longer be read.
    pub fn file(&self, index: usize, extension: &str) -> Result<Option<Vec<u8>>, DataError> {
        check_index(self, index)?;
        let place = self.samples[index].1.get(extension);
        place.map(|&place| tar_files::read(&self.shards, place)).transpose()
    }

    fn text(&self, index: usize, extension: &str) -> Result<Option<String>, DataError> {
        let Some(&place) = self.samples[index].1.get(extension) else { return Ok(None) };
        let path = &self.shards[place.0];
        if place.2 > MAX_TEXT {
            return Err(DataError::format(path, format!("`{extension}` of {} bytes, at most {MAX_TEXT}", place.2)));
        }
        let text = String::from_utf8(tar_files::read(&self.shards, place)?);
        text.map(Some).map_err(|_| DataError::format(path, format!("`{extension}` is not UTF-8")))
    }
}

fn photo_place(files: &BTreeMap<String, Place>) -> Option<&Place> {
    files.iter().find(|(extension, _)| PHOTO.contains(&extension.as_str())).map(|(_, place)| place)
}

/// Adds the samples of one shard; files of a sample follow each other.
fn index_shard(
    number: usize,
    path: &Path,
    samples: &mut Vec<(String, BTreeMap<String, Place>)>,
) -> Result<(), DataError> {
    let first = samples.len();
    tar_files::index(number, path, &mut |name, place| {
        let (folder, base) = name.rsplit_once('/').map_or(("", name.as_str()), |(f, b)| (f, b));
        let Some((stem, extension)) = base.split_once('.').filter(|(stem, _)| !stem.is_empty()) else { return };
        let key = if folder.is_empty() { stem.to_owned() } else { format!("{folder}/{stem}") };
        // a name may come again in the next shard: that is another sample
        let open = samples.len() > first;
        match samples.last_mut().filter(|(last, _)| open && *last == key) {
            Some((_, files)) => {
                files.insert(extension.to_ascii_lowercase(), place);
            }
            None => samples.push((key, BTreeMap::from([(extension.to_ascii_lowercase(), place)]))),
        }
    })
}

/// The files that a pattern names, braces first, then `*` and `?`, sorted within each.
///
/// # Errors
/// A pattern that does not parse, or a part of it that names no file.
pub fn expand(data: &Path, pattern: &str) -> Result<Vec<PathBuf>, DataError> {
    let bad = |why: String| DataError::Config(format!("webdataset: pattern `{pattern}`: {why}"));
    let parts = match pattern.contains('{') {
        true => bracoxide::bracoxidize(pattern).map_err(|e| bad(format!("{e:?}")))?,
        false => vec![pattern.to_owned()],
    };
    let mut found = Vec::new();
    for part in parts {
        let path = data.join(&part);
        if !part.contains(['*', '?', '[']) {
            if !path.is_file() {
                let reason = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(DataError::Io { path, reason });
            }
            found.push(path);
            continue;
        }
        let files = glob::glob(&path.to_string_lossy()).map_err(|e| bad(e.to_string()))?;
        let before = found.len();
        found.extend(files.filter_map(Result::ok).filter(|f| f.is_file()));
        if found.len() == before {
            return Err(bad(format!("no file matches `{part}`")));
        }
    }
    Ok(found)
}

impl Dataset for WebDataset {
    fn name(&self) -> &str {
        "webdataset"
    }
    fn len(&self) -> usize {
        self.samples.len()
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let (key, files) = &self.samples[index];
        let Some(&place) = photo_place(files) else {
            return Err(DataError::Config(format!("webdataset: {key} has no photo")));
        };
        let path = self.shards[place.0].join(key);
        let image = Image::decode(&tar_files::read(&self.shards, place)?, &path, &DecodeLimits::default())?;
        let masks = match self.text(index, "json")? {
            // a JSON of another kind (cc12m's metadata, for one) says nothing about masks
            Some(text) if text.contains("\"segmentation\"") => {
                sa1b::masks_of(&text, (image.width(), image.height()), &path)?
            }
            _ => Vec::new(),
        };
        let captions = self.text(index, "txt")?.map(|t| t.trim().to_owned()).into_iter().collect();
        Ok(Sample { id: key.clone(), image, labels: None, masks, class_ids: Vec::new(), captions })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}
