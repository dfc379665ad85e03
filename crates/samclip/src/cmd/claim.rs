//! One process at a time writes into a run directory.

use std::fs::{File, TryLockError, create_dir_all};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Name of the file whose lock says that somebody writes into its folder.
const LOCK: &str = ".samclip.lock";

/// Takes the folder, made if need be, until the result is dropped; a process that ends in whatever way gives it back.
/// Where the file system has no locks, nothing is refused.
///
/// # Errors
/// Another process has it, or the folder cannot be written.
pub fn claim(folder: &Path) -> Result<File> {
    let fail = || folder.display().to_string();
    create_dir_all(folder).with_context(fail)?;
    let file = File::create(folder.join(LOCK)).with_context(fail)?;
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => bail!("another process of samclip writes into this folder: {}", folder.display()),
        Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
    }
}

#[cfg(test)]
mod tests {
    use super::claim;

    #[test]
    fn a_folder_is_taken_once_and_given_back() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("runs/one");
        let first = claim(&out).unwrap();
        let error = claim(&out).unwrap_err().to_string();
        assert!(error.contains("another process") && error.contains("runs/one"), "{error}");
        drop(first);
        claim(&out).unwrap();
    }
}
