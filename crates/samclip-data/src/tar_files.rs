//! Files inside uncompressed tar archives, found by name without unpacking.

use crate::DataError;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where a file lies: the archive's number, first byte, length.
pub(crate) type Place = (usize, u64, u64);

/// Calls `each` with name and place of every file of an archive, in its order.
pub(crate) fn index(
    number: usize,
    path: &Path,
    each: &mut dyn FnMut(String, Place),
) -> Result<(), DataError> {
    let io = |reason| DataError::Io { path: path.to_owned(), reason };
    let broken = |e: std::io::Error| DataError::format(path, format!("not a tar shard ({e})"));
    let file = File::open(path).map_err(io)?;
    let mut archive = tar::Archive::new(file);
    for entry in archive.entries_with_seek().map_err(broken)? {
        let entry = entry.map_err(broken)?;
        if entry.header().entry_type().is_file() {
            let name = entry.path().map_err(broken)?.to_string_lossy().into_owned();
            each(name, (number, entry.raw_file_position(), entry.size()));
        }
    }
    Ok(())
}

/// The bytes of a file.
pub(crate) fn read(archives: &[PathBuf], (number, start, length): Place) -> Result<Vec<u8>, DataError> {
    let path = &archives[number];
    let io = |reason| DataError::Io { path: path.clone(), reason };
    let mut file = File::open(path).map_err(io)?;
    file.seek(SeekFrom::Start(start)).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes).map_err(io)?;
    match bytes.len() as u64 == length {
        true => Ok(bytes),
        false => Err(DataError::format(path, "the tar shard ends inside a file")),
    }
}

/// The files of several archives; of equal names the last counts.
#[derive(Debug, Default)]
pub struct TarFiles {
    archives: Vec<PathBuf>,
    places: BTreeMap<String, Place>,
}

impl TarFiles {
    /// Reads the headers of these archives.
    ///
    /// # Errors
    /// A file that cannot be read or is no tar.
    pub fn open(archives: Vec<PathBuf>) -> Result<Self, DataError> {
        let mut places = BTreeMap::new();
        for (number, path) in archives.iter().enumerate() {
            index(number, path, &mut |name, place| {
                places.insert(name, place);
            })?;
        }
        Ok(Self { archives, places })
    }

    /// The bytes of a file, none where there is none of this name.
    ///
    /// # Errors
    /// An archive that can no longer be read.
    pub fn get(&self, name: &str) -> Result<Option<Vec<u8>>, DataError> {
        self.places.get(name).map(|&place| read(&self.archives, place)).transpose()
    }

    /// Number of files.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether there is no file.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }
}
