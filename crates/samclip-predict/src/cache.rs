//! Encode once, prompt many: image embeddings on disk or in another store.
//!
//! On disk: one safetensors file per image, model, precision and kind of input. The name is made of the SHA-256 of the
//! decoded pixels and of the weights, so a changed photo or model never finds an old embedding. Files are written
//! to a temporary name and renamed; one that does not read back is encoded afresh.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use samclip_image::Image;
use samclip_weights::{StateDict, TensorData};
use sha2::{Digest, Sha256};

use crate::error::PredictError;

/// Where embeddings are kept between two prompts: a folder, or the memory of a server.
pub trait EmbeddingStore: std::fmt::Debug + Send + Sync {
    /// The tensors stored under this name.
    fn get(&self, name: &str) -> Option<StateDict>;

    /// Whether [`EmbeddingStore::get`] would find something, without reading it.
    fn contains(&self, name: &str) -> bool;

    /// Stores tensors under a name.
    ///
    /// # Errors
    /// A folder that cannot be written.
    fn put(&self, name: &str, tensors: StateDict) -> Result<(), PredictError>;
}

/// One safetensors file per name.
#[derive(Debug)]
struct Folder(PathBuf);

impl Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.0.join(format!("{name}.safetensors"))
    }
}

impl EmbeddingStore for Folder {
    fn get(&self, name: &str) -> Option<StateDict> {
        StateDict::open(&self.path(name)).ok()
    }

    fn contains(&self, name: &str) -> bool {
        self.path(name).is_file()
    }

    fn put(&self, name: &str, tensors: StateDict) -> Result<(), PredictError> {
        Ok(samclip_weights::write_safetensors(&self.path(name), &tensors)?)
    }
}

/// The embeddings of one model in a store.
#[derive(Debug, Clone)]
pub struct EmbeddingCache {
    store: Arc<dyn EmbeddingStore>,
    model: String,
}

impl EmbeddingCache {
    /// Opens (and creates) the folder for a model, named by its variant, the hash of its weights and its precision.
    ///
    /// # Errors
    /// A folder that cannot be created.
    pub fn open(folder: &Path, variant: &str, weights_sha256: &str, precision: &str) -> Result<Self, PredictError> {
        std::fs::create_dir_all(folder).map_err(|source| PredictError::Io {
            action: "create the cache folder",
            source,
            path: folder.to_owned(),
        })?;
        Ok(Self::over(Arc::new(Folder(folder.to_owned())), variant, weights_sha256, precision))
    }

    /// The same in another store.
    pub fn over(store: Arc<dyn EmbeddingStore>, variant: &str, weights_sha256: &str, precision: &str) -> Self {
        let weights = weights_sha256.get(..16).unwrap_or(weights_sha256);
        Self { store, model: format!("{variant}-{weights}-{precision}") }
    }

    /// The tensors stored for this image and kind of input, if all of `names` are there.
    pub fn get(&self, image: &Image, kind: &str, names: &[&str]) -> Option<StateDict> {
        let state = self.store.get(&self.name(image, kind))?;
        names.iter().all(|name| state.get(name).is_some()).then_some(state)
    }

    /// Whether something is stored for this image and kind of input.
    pub fn contains(&self, image: &Image, kind: &str) -> bool {
        self.store.contains(&self.name(image, kind))
    }

    /// Stores tensors for this image and kind of input.
    ///
    /// # Errors
    /// A folder that cannot be written.
    pub fn put(&self, image: &Image, kind: &str, tensors: Vec<(&str, Vec<usize>, &[f32])>) -> Result<(), PredictError> {
        let mut state = StateDict::new();
        for (name, shape, values) in tensors {
            state.insert(name, TensorData::from_f32(&shape, values));
        }
        self.store.put(&self.name(image, kind), state)
    }

    fn name(&self, image: &Image, kind: &str) -> String {
        format!("{}-{}-{kind}", image_key(image), self.model)
    }
}

/// The first half of [`content_hash`], worked out once per image.
pub fn image_key(image: &Image) -> &str {
    let hash = image.content_id(content_hash);
    hash.get(..32).unwrap_or(hash)
}

/// SHA-256 of size and pixels.
pub fn content_hash(image: &Image) -> String {
    let mut hasher = Sha256::new();
    hasher.update((image.width() as u64).to_le_bytes());
    hasher.update((image.height() as u64).to_le_bytes());
    hasher.update(image.data());
    hex(&hasher.finalize())
}

/// SHA-256 of a file.
///
/// # Errors
/// A file that cannot be read.
pub fn file_hash(path: &Path) -> Result<String, PredictError> {
    let io = |source| PredictError::Io { action: "read", source, path: path.to_owned() };
    let mut file = std::fs::File::open(path).map_err(io)?;
    let mut hasher = Sha256::new();
    std::io::copy(&mut file, &mut hasher).map_err(io)?;
    Ok(hex(&hasher.finalize()))
}

/// SHA-256 of bytes.
pub fn bytes_hash(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_was_stored_for_the_same_pixels_only() {
        let dir = tempfile::tempdir().unwrap();
        let cache = EmbeddingCache::open(dir.path(), "m", "0123456789abcdef0", "f32").unwrap();
        let image = Image::new(2, 1, vec![1, 2, 3, 4, 5, 6]).unwrap();
        let other = Image::new(1, 2, vec![1, 2, 3, 4, 5, 6]).unwrap();
        assert!(cache.get(&image, "sam", &["x"]).is_none());
        cache.put(&image, "sam", vec![("x", vec![2], &[1.0, -2.0])]).unwrap();
        assert_eq!(cache.get(&image, "sam", &["x"]).unwrap().get("x").unwrap().to_f32(), [1.0, -2.0]);
        assert!(cache.get(&image, "sam", &["x", "y"]).is_none());
        assert!(cache.get(&image, "clip", &["x"]).is_none());
        assert!(cache.get(&other, "sam", &["x"]).is_none());
        let file = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&file, b"damaged").unwrap();
        assert!(cache.get(&image, "sam", &["x"]).is_none());
    }
}
