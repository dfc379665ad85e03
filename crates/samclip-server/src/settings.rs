//! What a server is told: limits, model, key. Flags win over environment, environment over the file.

use std::path::{Path, PathBuf};

use samclip_predict::ModelSpec;
use serde::Deserialize;

/// Everything that a server is told.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Address to listen on.
    pub host: String,
    /// Port; 0 takes a free one.
    pub port: u16,
    /// The served model.
    pub model: ModelSpec,
    /// Adapter files that a request may choose by name.
    pub adapters: Vec<PathBuf>,
    /// Who knows it may ask; nobody is asked for a key where there is none.
    pub api_key: Option<String>,
    /// Origins of other pages that may ask (`*`: all).
    pub cors: Vec<String>,
    /// Label Studio's server, whose files tasks name.
    pub label_studio: Option<LabelStudio>,
    /// The names that CVAT's detector looks for.
    pub detector_labels: Vec<String>,
    /// Folder of the page instead of the built-in one.
    pub assets: Option<PathBuf>,
    /// Limits.
    pub limits: Limits,
}

/// Where Label Studio runs, and how it knows us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LabelStudio {
    /// `http://host:8080`.
    pub url: String,
    /// The legacy token of a user.
    pub key: Option<String>,
}

/// What a request and all of them together may take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one body.
    pub max_body: usize,
    /// Bytes of all bodies that are being received.
    pub max_receiving: usize,
    /// Pixels of one image, by its header.
    pub max_pixels: u64,
    /// Prompts, names or points in one request.
    pub max_prompts: usize,
    /// Requests that are accepted and not yet answered.
    pub queue: usize,
    /// Seconds until an accepted request is given up.
    pub deadline: u64,
    /// Seconds that a stopping server takes to finish what it has accepted.
    pub grace: u64,
    /// Bytes for images and embeddings.
    pub cache: u64,
    /// Connections at the same time; more wait.
    pub connections: usize,
    /// Seconds for the header of a request, and for its body.
    pub patience: u64,
}

impl Limits {
    /// 20 MB bodies, 50 megapixels, a queue of 64, half a minute.
    pub const STANDARD: Self = Self {
        max_body: 20 << 20,
        max_receiving: 512 << 20,
        max_pixels: 50_000_000,
        max_prompts: 256,
        queue: 64,
        deadline: 30,
        grace: 30,
        cache: 1 << 30,
        connections: 2048,
        patience: 30,
    };
}

/// The file of `samclip serve --config`: every key is a flag's name.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
#[expect(missing_docs, reason = "each key is the flag of the same name")]
pub struct FileSettings {
    pub host: Option<String>,
    pub port: Option<u16>,
    pub model: Option<String>,
    pub weights: Option<PathBuf>,
    pub text_table: Option<PathBuf>,
    pub clip_weights: Option<PathBuf>,
    pub precision: Option<String>,
    pub device: Option<String>,
    pub threads: Option<u16>,
    pub adapter: Option<Vec<PathBuf>>,
    pub adapters: Option<PathBuf>,
    pub api_key: Option<String>,
    pub api_key_file: Option<PathBuf>,
    pub cors: Option<Vec<String>>,
    pub label_studio_url: Option<String>,
    pub label_studio_key: Option<String>,
    pub detector_labels: Option<Vec<String>>,
    pub max_body_mb: Option<u64>,
    pub max_pixels: Option<u64>,
    pub max_prompts: Option<usize>,
    pub queue: Option<usize>,
    pub deadline: Option<u64>,
    pub grace: Option<u64>,
    pub cache_mb: Option<u64>,
    pub connections: Option<usize>,
    pub log: Option<String>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The system refused.
    #[error("cannot read the configuration ({source}): {path}", path = .path.display())]
    Read {
        /// What the system said.
        source: std::io::Error,
        /// The file.
        path: PathBuf,
    },
    /// It does not parse.
    #[error("configuration line {line}: {message}: {path}", path = .path.display())]
    Parse {
        /// From 1.
        line: usize,
        /// What is wrong.
        message: String,
        /// The key that was perhaps meant.
        nearest: Option<String>,
        /// The file.
        path: PathBuf,
    },
}

impl ConfigError {
    /// Advice.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Parse { nearest: Some(key), .. } => Some(format!("did you mean `{key}`?")),
            _ => None,
        }
    }
}

impl FileSettings {
    /// Reads a file.
    ///
    /// # Errors
    /// A file that cannot be read, an unknown key, a value of the wrong type.
    pub fn open(path: &Path) -> Result<Self, ConfigError> {
        let read = |source| ConfigError::Read { source, path: path.to_owned() };
        Self::parse(&std::fs::read_to_string(path).map_err(read)?, path)
    }

    /// Parses a file's text; `path` is for messages.
    ///
    /// # Errors
    /// An unknown key, a value of the wrong type.
    pub fn parse(text: &str, path: &Path) -> Result<Self, ConfigError> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start.min(text.len()));
            let quoted: Vec<&str> = error.message().split('`').skip(1).step_by(2).collect();
            let nearest = match quoted.split_first() {
                Some((key, known)) if error.message().starts_with("unknown field") => known
                    .iter()
                    .max_by(|a, b| strsim::jaro_winkler(key, a).total_cmp(&strsim::jaro_winkler(key, b)))
                    .map(|key| (*key).to_owned()),
                _ => None,
            };
            let message = error.message().split(", expected one of").next().unwrap_or_default().to_owned();
            ConfigError::Parse { line: text[..start].matches('\n').count() + 1, message, nearest, path: path.to_owned() }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_keys_are_refused_with_line_and_nearest_name() {
        let parse = |text: &str| FileSettings::parse(text, Path::new("serve.toml"));
        assert_eq!(parse("port = 9000\ncors = [\"*\"]").unwrap().port, Some(9000));
        let error = parse("port = 9000\nqeue = 3\n").unwrap_err();
        assert_eq!(error.to_string(), "configuration line 2: unknown field `qeue`: serve.toml");
        assert_eq!(error.hint().unwrap(), "did you mean `queue`?");
        assert!(parse("port = \"x\"").unwrap_err().to_string().starts_with("configuration line 1: invalid type"));
    }
}
