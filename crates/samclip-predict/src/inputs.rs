//! What the user calls IMAGE: files, folders and patterns, as a list of files.

use std::path::{Path, PathBuf};

use crate::error::PredictError;

/// Ends of the file names that a folder is searched for.
const EXTENSIONS: [&str; 8] = ["jpg", "jpeg", "png", "webp", "bmp", "tif", "tiff", "jfif"];

/// Files as they are, the images of folders and the matches of patterns sorted by name; each file once.
///
/// A file that does not exist stays in the list: it is reported when its turn comes, and the others go on.
///
/// # Errors
/// A folder that cannot be read or holds no image, a malformed pattern or one that matches nothing, an empty list.
pub fn expand(arguments: &[PathBuf]) -> Result<Vec<PathBuf>, PredictError> {
    let mut files: Vec<PathBuf> = Vec::new();
    for argument in arguments {
        let found = expand_one(argument)?;
        for file in found {
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

fn expand_one(argument: &Path) -> Result<Vec<PathBuf>, PredictError> {
    if argument.is_dir() {
        return folder(argument);
    }
    match argument.to_str() {
        Some(text) if !argument.exists() && text.contains(['*', '?', '[']) => pattern(text),
        _ => Ok(vec![argument.to_owned()]),
    }
}

fn folder(path: &Path) -> Result<Vec<PathBuf>, PredictError> {
    let io = |source| PredictError::Io { action: "read the folder", source, path: path.to_owned() };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(io)? {
        let file = entry.map_err(io)?.path();
        if file.is_file() && is_image(&file) {
            files.push(file);
        }
    }
    files.sort();
    if files.is_empty() {
        return Err(PredictError::Input { what: "folder holds no image".to_owned(), path: path.to_owned() });
    }
    Ok(files)
}

fn pattern(text: &str) -> Result<Vec<PathBuf>, PredictError> {
    let error = |what: String| PredictError::Input { what, path: PathBuf::from(text) };
    let matches = glob::glob(text).map_err(|e| error(format!("malformed pattern ({e})")))?;
    let mut files: Vec<PathBuf> = matches.filter_map(Result::ok).filter(|path| path.is_file()).collect();
    files.sort();
    if files.is_empty() { Err(error("pattern matches no file".to_owned())) } else { Ok(files) }
}

fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_ascii_lowercase();
    EXTENSIONS.contains(&extension.as_str())
}

/// Names from a list file: one a line, `#` starts a comment line, empty lines are skipped.
///
/// # Errors
/// A file that cannot be read, is not UTF-8 or lists nothing.
pub fn read_names(path: &Path) -> Result<Vec<String>, PredictError> {
    let text = std::fs::read_to_string(path).map_err(|source| PredictError::Io {
        action: "read the class list",
        source,
        path: path.to_owned(),
    })?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    let names: Vec<String> = lines.map(str::to_owned).collect();
    if names.is_empty() {
        return Err(PredictError::Input { what: "class list is empty".to_owned(), path: path.to_owned() });
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_and_patterns_are_sorted_and_unique() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["b.JPG", "a.png", "notes.txt"] {
            std::fs::write(dir.path().join(name), b"x").unwrap();
        }
        let names = |files: Vec<PathBuf>| -> Vec<String> {
            files.iter().map(|f| f.file_name().unwrap().to_string_lossy().into_owned()).collect()
        };
        assert_eq!(names(expand(&[dir.path().to_owned()]).unwrap()), ["a.png", "b.JPG"]);
        let both = [dir.path().join("*.png"), dir.path().to_owned()];
        assert_eq!(names(expand(&both).unwrap()), ["a.png", "b.JPG"]);
        assert!(matches!(expand(&[dir.path().join("*.tif")]), Err(PredictError::Input { .. })));
        assert_eq!(expand(&[PathBuf::from("missing.jpg")]).unwrap().len(), 1);
    }

    #[test]
    fn class_lists_skip_comments() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("names.txt");
        std::fs::write(&path, "# animals\ncat\n\n dog \n").unwrap();
        assert_eq!(read_names(&path).unwrap(), ["cat", "dog"]);
        std::fs::write(&path, "\n").unwrap();
        assert!(read_names(&path).is_err());
    }
}
