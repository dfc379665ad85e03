//! The file of a run: a header line, then one line a photo, appended as it is measured.
//!
//! A run that was killed continues: whole lines count, a torn last one is cut off. Shards are files of the same header;
//! [`merge`] wants every photo exactly once.

use crate::outcome::Record;
use crate::EvalError;
use serde::{Deserialize, Serialize};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, Write};
use std::path::{Path, PathBuf};

/// What the records belong to; two files of one run have equal headers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Header {
    /// Version of the format.
    pub samclip_records: u32,
    /// The resolved protocol.
    pub protocol: String,
    /// Who answered.
    pub model: String,
    /// What answered: hashes of weights, boxes or predictions, with precision and side.
    pub weights: String,
    /// `model`, `oracle`, `constant` or `files`.
    pub answers: String,
    /// Number of photos in the split.
    pub in_split: usize,
    /// The first photos only.
    pub limit: Option<usize>,
    /// Whether names were asked (prompts-and-names protocol).
    pub texts: bool,
}

/// An open file of records.
#[derive(Debug)]
pub struct RecordFile {
    file: File,
    path: PathBuf,
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> EvalError {
    move |reason| EvalError::Records { message: reason.to_string(), path: path.to_owned() }
}

/// The file of shard `i` of `n`.
pub fn file_name((i, n): (usize, usize)) -> String {
    format!("records-{i}of{n}.jsonl")
}

impl RecordFile {
    /// Opens or creates a file and gives what it already holds.
    ///
    /// # Errors
    /// A file of another run, a damaged line that is not the last.
    pub fn open(path: &Path, header: &Header) -> Result<(Self, Vec<Record>), EvalError> {
        let fail = io(path);
        let mut file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).map_err(&fail)?;
        let (found, records, end) = read(&file, path)?;
        match found {
            None => {
                file.set_len(0).map_err(&fail)?;
                file.rewind().map_err(&fail)?;
                let line = serde_json::to_string(header).map_err(|e| EvalError::Records { message: e.to_string(), path: path.to_owned() })?;
                file.write_all((line + "\n").as_bytes()).map_err(&fail)?;
            }
            Some(found) if found != *header => {
                let message = format!("records of another run ({} by {}); choose another folder", name_of(&found.protocol), found.model);
                return Err(EvalError::Records { message, path: path.to_owned() });
            }
            Some(_) => {
                file.set_len(end).map_err(&fail)?;
                file.seek(std::io::SeekFrom::End(0)).map_err(&fail)?;
            }
        }
        Ok((Self { file, path: path.to_owned() }, records))
    }

    /// Appends a record; one write, so that a kill leaves at most one torn line.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, record: &Record) -> Result<(), EvalError> {
        let fail = io(&self.path);
        let line = serde_json::to_string(record).map_err(|e| EvalError::Records { message: e.to_string(), path: self.path.clone() })?;
        self.file.write_all((line + "\n").as_bytes()).map_err(fail)
    }
}

fn name_of(protocol: &str) -> &str {
    protocol.lines().find_map(|l| l.strip_prefix("name = ")).unwrap_or("?").trim_matches('"')
}

/// Header, records, and where the last whole line ends.
fn read(file: &File, path: &Path) -> Result<(Option<Header>, Vec<Record>, u64), EvalError> {
    let mut reader = BufReader::new(file);
    let (mut header, mut records, mut end, mut number) = (None, Vec::new(), 0u64, 0usize);
    let mut line = String::new();
    loop {
        line.clear();
        let n = reader.read_line(&mut line).map_err(io(path))?;
        if n == 0 || !line.ends_with('\n') {
            return Ok((header, records, end)); // the end, or a torn line
        }
        number += 1;
        let damaged = |e: serde_json::Error| EvalError::Records { message: format!("line {number} is damaged ({e})"), path: path.to_owned() };
        match header {
            None => header = Some(serde_json::from_str(&line).map_err(damaged)?),
            Some(_) => records.push(serde_json::from_str(&line).map_err(damaged)?),
        }
        end += n as u64;
    }
}

/// The records of a run from the files of its shards, in the order of the photos.
///
/// # Errors
/// No files, headers that differ, a photo twice, a photo missing.
pub fn merge(files: &[PathBuf]) -> Result<(Header, Vec<Record>), EvalError> {
    let mut all: Option<Header> = None;
    let mut records: Vec<Record> = Vec::new();
    for path in files {
        let fail = |message: String| EvalError::Records { message, path: path.clone() };
        let file = File::open(path).map_err(io(path))?;
        let (header, found, _) = read(&file, path)?;
        let header = header.ok_or_else(|| fail("no header".into()))?;
        if all.as_ref().is_some_and(|first| *first != header) {
            return Err(fail("records of another run than the first file".into()));
        }
        all = Some(header);
        records.extend(found);
    }
    let Some(header) = all else {
        return Err(EvalError::Mismatch("no record files (records-*.jsonl) to merge".into()));
    };
    records.sort_by_key(|r| r.index);
    let wanted = header.limit.unwrap_or(usize::MAX).min(header.in_split);
    for (expected, record) in records.iter().enumerate() {
        if record.index != expected {
            let what = if record.index < expected { format!("photo {} is there twice", record.index) } else { format!("photo {expected} is missing") };
            return Err(EvalError::Mismatch(format!("{what}: {} shards do not make one run", files.len())));
        }
    }
    if records.len() != wanted {
        return Err(EvalError::Mismatch(format!("{} of {wanted} photos are there: a shard is missing or not finished", records.len())));
    }
    Ok((header, records))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header { samclip_records: 1, protocol: "name = \"p\"\n".into(), model: "m".into(), weights: "w".into(), answers: "oracle".into(), in_split: 3, limit: None, texts: false }
    }

    fn record(index: usize) -> Record {
        Record { index, id: format!("p{index}"), ms: 0.25, passes: 1, outcome: None, failed: Some("x".into()) }
    }

    #[test]
    fn a_torn_line_is_cut_and_the_rest_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(file_name((0, 1)));
        let (mut file, none) = RecordFile::open(&path, &header()).unwrap();
        assert!(none.is_empty());
        file.append(&record(0)).unwrap();
        file.append(&record(1)).unwrap();
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 5]).unwrap();
        let (mut file, kept) = RecordFile::open(&path, &header()).unwrap();
        assert_eq!(kept, [record(0)]);
        file.append(&record(1)).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        let other = Header { model: "other".into(), ..header() };
        assert!(RecordFile::open(&path, &other).unwrap_err().to_string().contains("another run (p by m)"));
    }

    #[test]
    fn shards_must_make_one_run() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, indices: &[usize]| {
            let path = dir.path().join(name);
            let (mut file, _) = RecordFile::open(&path, &header()).unwrap();
            indices.iter().for_each(|i| file.append(&record(*i)).unwrap());
            path
        };
        let (a, b, c) = (write("a", &[0, 2]), write("b", &[1]), write("c", &[2]));
        assert_eq!(merge(&[a.clone(), b.clone()]).unwrap().1.len(), 3);
        assert!(merge(&[a.clone()]).unwrap_err().to_string().contains("photo 1 is missing"));
        assert!(merge(&[b.clone()]).unwrap_err().to_string().contains("photo 0 is missing"));
        assert!(merge(&[a, b, c]).unwrap_err().to_string().contains("photo 2 is there twice"));
        assert!(merge(&[]).is_err());
    }
}
