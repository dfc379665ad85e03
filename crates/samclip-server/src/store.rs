//! Photos and their embeddings in memory, least recently used first out, within one budget of bytes.
//!
//! A photo's key is the hash of its decoded pixels; what was decoded from the same bytes before is not decoded
//! again. An embedding may be evicted while its photo stays (it is encoded again) and the other way round (the
//! client is told that the key is unknown and sends the photo again).

use std::sync::Arc;

use moka::policy::EvictionPolicy;
use moka::sync::Cache;
use samclip_image::Image;
use samclip_predict::PredictError;
use samclip_predict::cache::{EmbeddingStore, bytes_hash, image_key};
use samclip_weights::StateDict;

/// A decoded photo under its key.
#[derive(Debug, Clone)]
pub struct Photo {
    /// The hash of its pixels.
    pub key: String,
    /// The pixels.
    pub image: Arc<Image>,
}

impl Photo {
    /// Names a photo by its pixels.
    pub fn new(image: Image) -> Self {
        Self { key: image_key(&image).to_owned(), image: Arc::new(image) }
    }
}

#[derive(Debug, Clone)]
enum Entry {
    Photo(Arc<Image>),
    /// From the hash of a file's bytes to the photo's key.
    Alias(String),
    Tensors(StateDict),
}

impl Entry {
    fn bytes(&self) -> usize {
        match self {
            Self::Photo(image) => image.data().len(),
            Self::Alias(key) => key.len(),
            Self::Tensors(state) => state.iter().map(|(_, tensor)| tensor.bytes().len()).sum(),
        }
    }
}

/// The cache.
#[derive(Debug)]
pub struct Store {
    entries: Cache<String, Entry>,
}

/// Name and book-keeping of an entry, roughly.
const OVERHEAD: usize = 256;

impl Store {
    /// With a budget of bytes.
    pub fn new(budget: u64) -> Self {
        let weigh = |name: &String, entry: &Entry| -> u32 {
            u32::try_from(entry.bytes() + name.len() + OVERHEAD).unwrap_or(u32::MAX)
        };
        let cache = Cache::builder().max_capacity(budget).weigher(weigh).eviction_policy(EvictionPolicy::lru());
        Self { entries: cache.build() }
    }

    /// The photo of a key.
    pub fn photo(&self, key: &str) -> Option<Photo> {
        match self.entries.get(&photo_name(key))? {
            Entry::Photo(image) => Some(Photo { key: key.to_owned(), image }),
            _ => None,
        }
    }

    /// The photo that these bytes were decoded to before, or what `decode` makes of them.
    ///
    /// # Errors
    /// What `decode` says.
    pub fn photo_of<E>(&self, bytes: &[u8], decode: impl FnOnce() -> Result<Image, E>) -> Result<Photo, E> {
        let alias = format!("bytes-{}", bytes_hash(bytes));
        if let Some(Entry::Alias(key)) = self.entries.get(&alias)
            && let Some(photo) = self.photo(&key)
        {
            return Ok(photo);
        }
        let photo = Photo::new(decode()?);
        self.entries.insert(photo_name(&photo.key), Entry::Photo(photo.image.clone()));
        self.entries.insert(alias, Entry::Alias(photo.key.clone()));
        Ok(photo)
    }

    /// Bytes and number of entries.
    pub fn usage(&self) -> (u64, u64) {
        self.entries.run_pending_tasks();
        (self.entries.weighted_size(), self.entries.entry_count())
    }
}

fn photo_name(key: &str) -> String {
    format!("photo-{key}")
}

impl EmbeddingStore for Store {
    fn get(&self, name: &str) -> Option<StateDict> {
        match self.entries.get(name)? {
            Entry::Tensors(state) => Some(state),
            _ => None,
        }
    }

    fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    fn put(&self, name: &str, tensors: StateDict) -> Result<(), PredictError> {
        self.entries.insert(name.to_owned(), Entry::Tensors(tensors));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(value: u8) -> Image {
        Image::new(100, 100, vec![value; 30_000]).unwrap()
    }

    #[test]
    fn the_least_recently_used_goes_first() {
        let store = Store::new(100_000);
        let add = |value: u8| store.photo_of(&[value], || Ok::<_, ()>(image(value))).unwrap();
        let first = add(1);
        let second = add(2);
        assert!(store.photo(&first.key).is_some());
        for value in 3..5 {
            store.usage();
            assert!(store.photo(&first.key).is_some());
            add(value);
        }
        assert!(store.usage().0 <= 100_000);
        assert!(store.photo(&first.key).is_some() && store.photo(&second.key).is_none());
    }

    #[test]
    fn the_same_bytes_are_decoded_once() {
        let store = Store::new(1 << 20);
        let key = store.photo_of(b"x", || Ok::<_, ()>(image(1))).unwrap().key;
        let again = store.photo_of(b"x", || Err(())).unwrap();
        assert_eq!(again.key, key);
        assert_eq!(store.photo_of(b"y", || Err(7)).unwrap_err(), 7);
    }
}
