//! Files: read-only mapping, format by first bytes, atomic writing.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use memmap2::Mmap;

use crate::error::{Result, WeightsError};

/// What the first bytes say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Safetensors,
    Zip,
    /// The layouts before PyTorch 1.6.
    Legacy(&'static str),
    /// With a few words on what it looks like.
    Unknown(String),
}

/// Guesses the format; each reader then checks its own in full.
pub(crate) fn sniff(bytes: &[u8]) -> Format {
    if bytes.starts_with(b"PK\x03\x04") {
        return Format::Zip;
    }
    if bytes.get(8) == Some(&b'{') {
        return Format::Safetensors;
    }
    // Protocol byte, then a frame or the LONG1 magic number of `torch.serialization._legacy_save`.
    if bytes.first() == Some(&0x80) && bytes.get(1).is_some_and(|p| (1..=5).contains(p)) {
        return Format::Legacy("pickle stream");
    }
    if bytes.get(257..262) == Some(b"ustar") {
        return Format::Legacy("tar");
    }
    Format::Unknown(match bytes {
        [] => "empty file".into(),
        _ if bytes.starts_with(b"version https://git-lfs") => "a Git LFS pointer, not the file itself".into(),
        _ if bytes.starts_with(b"<") => "looks like a web page".into(),
        _ if bytes.starts_with(b"\x1f\x8b") => "gzip".into(),
        _ => format!("first bytes {:02x?}", &bytes[..bytes.len().min(8)]),
    })
}

/// Maps a file read-only; an empty file gives empty bytes.
pub(crate) fn map(path: &Path) -> Result<Bytes> {
    let file = File::open(path).map_err(WeightsError::io("cannot open", path))?;
    let meta = file.metadata().map_err(WeightsError::io("cannot read", path))?;
    if !meta.is_file() {
        let source = std::io::Error::other("not a regular file");
        return Err(WeightsError::Io { action: "cannot read", source, path: path.into() });
    }
    if meta.len() == 0 {
        return Ok(Bytes::new());
    }
    #[expect(
        unsafe_code,
        reason = "mapping is the only way to open a 2.5 GB checkpoint without reading it whole"
    )]
    // SAFETY: the mapping is private and read-only and only ever seen as `&[u8]`, for which any content is
    // valid. Another process that truncates or rewrites the file meanwhile breaks this, as for every reader
    // that maps files; our own writers never do it: they rename a finished file into place.
    let map = unsafe { memmap2::MmapOptions::new().map_copy_read_only(&file) };
    Ok(Bytes::from_owner(Mapped::new(map.map_err(WeightsError::io("cannot map", path))?)))
}

/// The files that are mapped now, by address.
static MAPPED: Mutex<Vec<Range<usize>>> = Mutex::new(Vec::new());

/// A mapped file that is known to [`unload`].
struct Mapped(Mmap);

impl Mapped {
    fn new(map: Mmap) -> Self {
        MAPPED.lock().unwrap_or_else(PoisonError::into_inner).push(addresses(&map));
        Self(map)
    }
}

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        let range = addresses(&self.0);
        MAPPED.lock().unwrap_or_else(PoisonError::into_inner).retain(|mapped| *mapped != range);
    }
}

fn addresses<T>(values: &[T]) -> Range<usize> {
    let Range { start, end } = values.as_ptr_range();
    start.addr()..end.addr()
}

/// Says that `values` will not be read for a while: where they are of a mapped file, the process gives up their
/// whole pages, and reading them again brings them back from the file. Elsewhere nothing happens.
pub fn unload<T>(values: &[T]) {
    let wanted = addresses(values);
    // Held, so that no mapping goes while its pages are given up.
    let mapped = MAPPED.lock().unwrap_or_else(PoisonError::into_inner);
    if mapped.iter().any(|map| map.start <= wanted.start && wanted.end <= map.end) {
        give_up(wanted);
    }
}

#[cfg(target_os = "linux")]
fn give_up(range: Range<usize>) {
    const PAGE: usize = 4096;
    let (start, end) = (range.start.next_multiple_of(PAGE), range.end / PAGE * PAGE);
    if start < end {
        #[expect(unsafe_code, reason = "memmap2's advice needs the mapping itself, which its bytes own")]
        // SAFETY: whole pages of a live private mapping that is never written: their content is the file's, before and
        // after. An error (pages of another size) leaves them as they are.
        unsafe {
            libc::madvise(std::ptr::without_provenance_mut(start), end - start, libc::MADV_DONTNEED);
        }
    }
}

#[cfg(not(target_os = "linux"))]
fn give_up(_: Range<usize>) {}

/// Writes through a temporary file in the same directory and renames it: whole or not at all.
pub(crate) fn write_atomically(
    path: &Path,
    write: impl FnOnce(&mut dyn Write) -> std::io::Result<()>,
) -> Result<()> {
    let dir = directory_of(path);
    let fail = WeightsError::io("cannot write", path);
    (|| {
        let mut temp = temp_file(&dir)?;
        let mut out = std::io::BufWriter::with_capacity(1 << 20, temp.as_file_mut());
        write(&mut out)?;
        out.flush()?;
        drop(out);
        temp.as_file().sync_all()?;
        temp.persist(path).map_err(|e| e.error)?;
        Ok(())
    })()
    .map_err(fail)
}

fn temp_file(dir: &Path) -> std::io::Result<tempfile::NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".samclip-").suffix(".tmp");
    // Temporary files are private by default; a checkpoint is an ordinary file (the umask still applies).
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(dir)
}

/// The parent directory, `.` for a bare file name.
pub(crate) fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir.to_path_buf(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        assert_eq!(sniff(b"PK\x03\x04abc"), Format::Zip);
        assert_eq!(sniff(b"\x02\0\0\0\0\0\0\0{}"), Format::Safetensors);
        assert_eq!(sniff(b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."), Format::Legacy("pickle stream"));
        for (bytes, word) in [
            (&b""[..], "empty"),
            (b"<!DOCTYPE html>", "web page"),
            (b"version https://git-lfs.github.com", "LFS"),
        ] {
            assert!(matches!(sniff(bytes), Format::Unknown(s) if s.contains(word)));
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let err = write_atomically(&path, |out| {
            out.write_all(b"half")?;
            Err(std::io::Error::other("disk on fire"))
        });
        assert!(err.unwrap_err().to_string().contains("disk on fire"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        write_atomically(&path, |out| out.write_all(b"whole")).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
    }

    /// Bytes in memory of the mapping that holds `bytes`.
    #[cfg(target_os = "linux")]
    fn resident(bytes: &[u8]) -> usize {
        let start = format!("{:x}-", bytes.as_ptr().addr());
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let line = maps.lines().skip_while(|line| !line.starts_with(&start)).find(|line| line.starts_with("Rss:"));
        line.unwrap().split_whitespace().nth(1).unwrap().parse::<usize>().unwrap() * 1024
    }

    #[test]
    fn unloaded_bytes_come_back_and_others_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        let content: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &content).unwrap();
        let bytes = map(&path).unwrap();
        assert_eq!(bytes, content);
        unload(&bytes[10..99_000]);
        #[cfg(target_os = "linux")]
        assert!(resident(&bytes) <= 16 * 1024, "{} bytes of the mapping are in memory", resident(&bytes));
        assert_eq!(bytes, content);
        #[cfg(target_os = "linux")]
        assert!(resident(&bytes) >= content.len(), "what was read is in memory again");
        // Memory that is no mapping keeps what it holds.
        unload(&content);
        assert_eq!(bytes, content);
        let range = addresses(&bytes);
        let known = || MAPPED.lock().unwrap().contains(&range);
        assert!(known());
        drop(bytes);
        assert!(!known());
    }

    #[test]
    fn a_directory_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        assert!(map(dir.path()).is_err());
    }
}
