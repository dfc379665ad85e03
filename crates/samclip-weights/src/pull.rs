//! Fetching the official files: resumable, verified, atomic.
//!
//! The bytes go to `FILE.part` beside the final name and are hashed as they arrive; a cut connection is resumed
//! with a `Range` request, in this run or a later one. Only a file with the registered size and SHA-256 gets its
//! final name. `docs/decisions/0002` says why this is a plain HTTP client and not `hf-hub`.
//! Parity: tests/pull.rs, against a server on 127.0.0.1.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest as _, Sha256};
use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use crate::error::{Result, WeightsError};
use crate::registry::{self, Digest, OfficialModel};

/// Environment variable that the binary reads and passes to [`pull`] as `mirror`.
pub const MIRROR_VARIABLE: &str = "SAMCLIP_MIRROR";

/// Attempts in a row that bring no byte before giving up.
const ATTEMPTS: u32 = 4;
/// Redirects followed.
const REDIRECTS: usize = 8;
/// Bytes per read and write.
const CHUNK: usize = 1 << 17;

/// What the final file was held against.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verified {
    /// The registered SHA-256.
    Registry,
    /// The SHA-256 that the hub states for the pinned commit.
    Hub,
    /// Nothing but its size: neither the registry nor the source knows a digest. The file's own is given.
    Nothing(String),
}

/// A file that is in place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Where.
    pub path: PathBuf,
    /// Against what.
    pub verified: Verified,
    /// Bytes that came over the network; 0 when the file was already there.
    pub fetched: u64,
}

/// Fetches an official file into `dest_dir`, or verifies the one that is there.
///
/// `mirror` is an address below which the files lie under their registered names
/// (`MIRROR/sam_vit_b_01ec64.pth`). `progress` gets bytes done and, where known, in total.
///
/// Errors: an unknown name, no network (with advice what to put where), a wrong size or digest, an unwritable
/// folder.
pub fn pull(
    name: &str,
    dest_dir: &Path,
    mirror: Option<&str>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Pulled> {
    let model = registry::find(name).ok_or_else(|| WeightsError::UnknownModel {
        name: name.to_owned(),
        known: registry::models().iter().map(|m| m.name).collect::<Vec<_>>().join(", "),
    })?;
    pull_model(model, dest_dir, mirror, progress)
}

/// [`pull`] for an entry that need not be in the registry.
pub fn pull_model(
    model: &OfficialModel,
    dest_dir: &Path,
    mirror: Option<&str>,
    progress: &mut dyn FnMut(u64, Option<u64>),
) -> Result<Pulled> {
    let path = dest_dir.join(model.file);
    if path.exists() {
        return verify_existing(model, path);
    }
    std::fs::create_dir_all(dest_dir).map_err(WeightsError::io("cannot create the folder", dest_dir))?;
    let url = mirror.map_or_else(
        || model.url.to_owned(),
        |base| format!("{}/{}", base.trim_end_matches('/'), model.file),
    );
    let mut download = Download::open(model, &url, &path)?;
    download.run(progress)?;
    download.finish()
}

/// A file of an earlier run or one put there by hand.
fn verify_existing(model: &OfficialModel, path: PathBuf) -> Result<Pulled> {
    let mut file = File::open(&path).map_err(WeightsError::io("cannot open", &path))?;
    let mut hasher = Sha256::new();
    let size = hash_all(&mut file, &mut hasher).map_err(WeightsError::io("cannot read", &path))?;
    let found = hex(hasher);
    check(model.size, size, model.sha256(), &found, &path)?;
    let verified = if model.sha256().is_some() { Verified::Registry } else { Verified::Nothing(found) };
    Ok(Pulled { path, verified, fetched: 0 })
}

fn check(size: Option<u64>, found_size: u64, digest: Option<&str>, found: &str, path: &Path) -> Result<()> {
    let differs = |what, expected: String, found: String| WeightsError::Checksum {
        what,
        expected,
        found,
        path: path.into(),
    };
    if let Some(size) = size.filter(|&size| size != found_size) {
        return Err(differs("size", size.to_string(), found_size.to_string()));
    }
    match digest {
        Some(digest) if digest != found => Err(differs("sha-256", digest.to_owned(), found.to_owned())),
        _ => Ok(()),
    }
}

fn hash_all(file: &mut impl Read, hasher: &mut Sha256) -> std::io::Result<u64> {
    let (mut buffer, mut size) = (vec![0; CHUNK], 0);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(size),
            n => {
                hasher.update(&buffer[..n]);
                size += n as u64;
            }
        }
    }
}

fn hex(hasher: Sha256) -> String {
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Why an attempt ended without the whole file.
enum Cut {
    /// Worth another attempt.
    Again(String),
    /// Not worth one.
    Final(String),
    /// A local fault.
    Io(std::io::Error),
}

struct Download<'a> {
    model: &'a OfficialModel,
    agent: Agent,
    url: &'a str,
    path: &'a Path,
    part: PathBuf,
    file: File,
    hasher: Sha256,
    /// Bytes in `part`, all of them hashed.
    have: u64,
    total: Option<u64>,
    fetched: u64,
    /// The SHA-256 that the source states.
    stated: Option<String>,
}

impl<'a> Download<'a> {
    fn open(model: &'a OfficialModel, url: &'a str, path: &'a Path) -> Result<Self> {
        let part = PathBuf::from(format!("{}.part", path.display()));
        let fail = |e| WeightsError::io("cannot write", &part)(e);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&part)
            .map_err(fail)?;
        file.try_lock().map_err(|e| fail(std::io::Error::other(format!("another pull writes it ({e})"))))?;
        let mut hasher = Sha256::new();
        let have = hash_all(&mut file, &mut hasher).map_err(fail)?;
        let agent = Agent::config_builder()
            .max_redirects(0) // followed here: the hub states the digest on the first answer only
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(20)))
            .timeout_recv_response(Some(Duration::from_secs(60)))
            .timeout_per_read(Some(Duration::from_secs(60)))
            .build()
            .into();
        Ok(Self {
            model,
            agent,
            url,
            path,
            part,
            file,
            hasher,
            have,
            total: model.size,
            fetched: 0,
            stated: None,
        })
    }

    fn run(&mut self, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<()> {
        let mut failures = 0;
        loop {
            let before = self.have;
            let reason = match self.attempt(progress) {
                Ok(()) => return Ok(()),
                Err(Cut::Io(source)) => {
                    return Err(WeightsError::io("cannot write", &self.part)(source));
                }
                Err(Cut::Final(reason)) => return Err(self.offline(reason)),
                Err(Cut::Again(reason)) => reason,
            };
            failures = if self.have > before { 1 } else { failures + 1 };
            if failures >= ATTEMPTS {
                return Err(self.offline(reason));
            }
            std::thread::sleep(Duration::from_millis(200 * 3u64.pow(failures - 1)));
        }
    }

    /// One request; `Ok` when the source has no more bytes.
    fn attempt(&mut self, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<(), Cut> {
        let response = self.request()?;
        let length = header_number(response.headers(), "content-length");
        match response.status().as_u16() {
            200 => {
                self.restart().map_err(Cut::Io)?;
                self.total = self.total.or(length);
            }
            206 => {
                let (start, total) = content_range(response.headers());
                if start != Some(self.have) {
                    self.restart().map_err(Cut::Io)?;
                    return Err(Cut::Again("the server answered another range than asked for".into()));
                }
                self.total = self.total.or(total);
            }
            // Nothing after what we have: complete, or not the file it was; the digest decides.
            416 if self.have > 0 => return Ok(()),
            status @ (408 | 429 | 500..=599) => {
                return Err(Cut::Again(format!("the server answered {status}")));
            }
            status => return Err(Cut::Final(format!("the server answered {status}"))),
        }
        self.copy(response.into_body(), progress)
    }

    fn copy(&mut self, body: Body, progress: &mut dyn FnMut(u64, Option<u64>)) -> Result<(), Cut> {
        let mut reader = body.into_with_config().limit(u64::MAX).reader();
        let mut buffer = vec![0; CHUNK];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => break,
                Ok(n) => n,
                Err(e) => {
                    return Err(Cut::Again(format!("the connection broke after {} bytes ({e})", self.have)));
                }
            };
            self.file.write_all(&buffer[..n]).map_err(Cut::Io)?;
            self.hasher.update(&buffer[..n]);
            self.have += n as u64;
            self.fetched += n as u64;
            if self.model.size.is_some_and(|size| self.have > size) {
                return Ok(()); // too long already; the size check says so
            }
            progress(self.have, self.total);
        }
        match self.total {
            Some(total) if self.have < total => {
                Err(Cut::Again(format!("the connection ended at {} of {total} bytes", self.have)))
            }
            _ => Ok(()),
        }
    }

    /// Asks for what is missing, following redirects and noting the digest that the hub states.
    fn request(&mut self) -> Result<Response<Body>, Cut> {
        let mut url = self.url.to_owned();
        for _ in 0..REDIRECTS {
            let mut request = self.agent.get(&url);
            if self.have > 0 {
                request = request.header("Range", format!("bytes={}-", self.have));
            }
            let response = request.call().map_err(|e| match e {
                ureq::Error::BadUri(_) | ureq::Error::Http(_) => Cut::Final(e.to_string()),
                e => Cut::Again(e.to_string()),
            })?;
            let etag = response.headers().get("x-linked-etag").and_then(|v| v.to_str().ok());
            let etag = etag.map(|tag| tag.trim_matches('"').to_ascii_lowercase());
            if let Some(tag) =
                etag.filter(|tag| tag.len() == 64 && tag.bytes().all(|b| b.is_ascii_hexdigit()))
            {
                self.stated = Some(tag);
            }
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let to = response.headers().get("location").and_then(|v| v.to_str().ok());
            url = join(&url, to.ok_or_else(|| Cut::Final("a redirect without an address".into()))?);
        }
        Err(Cut::Final(format!("more than {REDIRECTS} redirects")))
    }

    fn restart(&mut self) -> std::io::Result<()> {
        self.file.set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        self.hasher = Sha256::new();
        self.have = 0;
        Ok(())
    }

    /// Verifies and gives the file its name; a wrong one is deleted, so that a resume cannot build on it.
    fn finish(self) -> Result<Pulled> {
        let found = hex(self.hasher);
        let (digest, verified) = match (self.model.digest, self.stated) {
            (Digest::Sha256(hex), _) => (Some(hex.to_owned()), Verified::Registry),
            (Digest::Hub, Some(stated)) => (Some(stated), Verified::Hub),
            (Digest::Hub, None) => (None, Verified::Nothing(found.clone())),
        };
        if let Err(e) = check(self.model.size, self.have, digest.as_deref(), &found, self.path) {
            drop(self.file);
            std::fs::remove_file(&self.part).map_err(WeightsError::io("cannot delete", &self.part))?;
            return Err(e);
        }
        self.file.sync_all().map_err(WeightsError::io("cannot write", &self.part))?;
        std::fs::rename(&self.part, self.path).map_err(WeightsError::io("cannot rename to", self.path))?;
        Ok(Pulled { path: self.path.to_path_buf(), verified, fetched: self.fetched })
    }

    fn offline(&self, reason: String) -> WeightsError {
        let digest = match self.model.digest {
            Digest::Sha256(hex) => format!(", sha-256 {hex}"),
            Digest::Hub => String::new(),
        };
        let size = self.model.size.map_or_else(String::new, |size| format!(" ({size} bytes{digest})"));
        let advice = format!(
            "without a network, fetch {}{size} elsewhere and put it at {}; or name a mirror that has `{}` in {MIRROR_VARIABLE}. Run the command again to resume",
            self.model.url,
            self.path.display(),
            self.model.file,
        );
        WeightsError::Download { url: self.url.to_owned(), reason, advice }
    }
}

fn header_number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

/// Start and total of `Content-Range: bytes START-END/TOTAL`.
fn content_range(headers: &HeaderMap) -> (Option<u64>, Option<u64>) {
    let text = headers.get("content-range").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let (range, total) = text.trim_start_matches("bytes ").split_once('/').unwrap_or((text, ""));
    let start = range.split('-').next().unwrap_or_default();
    (start.trim().parse().ok(), total.trim().parse().ok())
}

/// A redirect's address, which may be relative to the host.
fn join(base: &str, to: &str) -> String {
    if to.contains("://") {
        return to.to_owned();
    }
    let host_end = base.find("://").map_or(0, |i| i + 3);
    if to.starts_with("//") {
        return format!("{}{to}", &base[..host_end.saturating_sub(2)]);
    }
    if to.starts_with('/') {
        let end = base[host_end..].find('/').map_or(base.len(), |i| host_end + i);
        return format!("{}{to}", &base[..end]);
    }
    let end = base.rfind('/').filter(|&i| i >= host_end).map_or(base.len(), |i| i);
    format!("{}/{to}", &base[..end])
}

#[cfg(test)]
mod tests {
    use super::join;

    #[test]
    fn redirect_addresses() {
        let base = "https://host.example/a/b?x=1";
        assert_eq!(join(base, "https://other/c"), "https://other/c");
        assert_eq!(join(base, "//other/c"), "https://other/c");
        assert_eq!(join(base, "/c/d"), "https://host.example/c/d");
        assert_eq!(join(base, "c"), "https://host.example/a/c");
        assert_eq!(join("http://host", "/c"), "http://host/c");
    }
}
