//! Features of a frozen backbone on disk: encoded once, read in any order.
//!
//! A folder of shards, `features-00003-of-00014.safetensors` with one tensor `features` [n, h, w, D] in f16. A shard
//! appears when it is complete, so the same call goes on where it stopped; processes that share the folder start at
//! different shards and take what the others have made.

use crate::error::TrainError;
use half::f16;
use samclip_weights::{DType, StateDict, TensorData, write_safetensors};
use std::path::{Path, PathBuf};

/// Values of a shard at most: 8 MB in f16, a minute's work of a small model.
const SHARD_VALUES: usize = 1 << 22;
/// Photos of a shard at most.
const SHARD_PHOTOS: usize = 256;
const NAME: &str = "features";

/// Features of one photo.
#[derive(Debug, Clone, PartialEq)]
pub struct FeatureMap {
    /// Row by row.
    pub values: Vec<f32>,
    /// Rows, columns, width.
    pub shape: [usize; 3],
}

/// Features of the photos 0 to `len`.
pub struct FeatureStore {
    shards: Vec<StateDict>,
    per_shard: usize,
    len: usize,
    shape: [usize; 3],
}

impl FeatureStore {
    /// Opens `folder` and encodes what is not there. `part` (i of n) says where this process begins; `progress` is told
    /// how many photos of how many there are.
    ///
    /// # Errors
    /// What `encode` reports, a folder that cannot be written, photos with features of different sizes.
    pub fn fill<E: From<TrainError>>(
        folder: &Path,
        len: usize,
        part: (usize, usize),
        mut encode: impl FnMut(usize) -> Result<FeatureMap, E>,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Result<Self, E> {
        std::fs::create_dir_all(folder).map_err(TrainError::io(folder))?;
        if len == 0 {
            return Err(TrainError::Invalid("no photos to learn from".into()).into());
        }
        let shape = encode(0)?.shape;
        let per_shard = (SHARD_VALUES / shape.iter().product::<usize>().max(1)).clamp(1, SHARD_PHOTOS);
        let count = len.div_ceil(per_shard);
        let mut shards: Vec<Option<StateDict>> = (0..count).map(|_| None).collect();
        let first = part.0 * count / part.1.max(1);
        let mut done = 0;
        for k in (first..count).chain(0..first) {
            let photos = k * per_shard..((k + 1) * per_shard).min(len);
            let path = folder.join(format!("features-{k:05}-of-{count:05}.safetensors"));
            let wanted = [photos.len(), shape[0], shape[1], shape[2]];
            done += photos.len();
            if read(&path, wanted).is_none() {
                write(&path, photos, shape, &mut encode)?;
            }
            shards[k] = Some(read(&path, wanted).ok_or_else(|| damaged(&path))?);
            progress(done, len);
        }
        Ok(Self { shards: shards.into_iter().flatten().collect(), per_shard, len, shape })
    }

    /// Number of photos.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows, columns, width.
    pub fn shape(&self) -> [usize; 3] {
        self.shape
    }

    /// Appends the features of a photo to `out`.
    pub fn read(&self, index: usize, out: &mut Vec<f32>) {
        let size = 2 * self.shape.iter().product::<usize>();
        let shard = self.shards[index / self.per_shard].get(NAME);
        let bytes = shard.map_or(&[][..], |tensor| &tensor.bytes()[index % self.per_shard * size..][..size]);
        out.extend(bytes.as_chunks::<2>().0.iter().map(|b| f16::from_le_bytes(*b).to_f32()));
    }
}

fn damaged(path: &Path) -> TrainError {
    TrainError::Checkpoint { path: path.to_owned(), message: "features that were just written do not read back".into() }
}

/// A shard that is there and whole.
fn read(path: &Path, shape: [usize; 4]) -> Option<StateDict> {
    let state = StateDict::open(path).ok()?;
    let tensor = state.get(NAME)?;
    (tensor.shape() == shape && tensor.dtype() == DType::F16).then_some(state)
}

fn write<E: From<TrainError>>(
    path: &PathBuf,
    photos: std::ops::Range<usize>,
    shape: [usize; 3],
    encode: &mut impl FnMut(usize) -> Result<FeatureMap, E>,
) -> Result<(), E> {
    let n = photos.len();
    let mut values = Vec::with_capacity(n * shape.iter().product::<usize>());
    for index in photos {
        let map = encode(index)?;
        if map.shape != shape {
            let message = format!("photo {index}: features of {:?}, the first photo's are {shape:?}", map.shape);
            return Err(TrainError::Invalid(message).into());
        }
        values.extend(map.values);
    }
    let mut state = StateDict::new();
    state.insert(NAME, TensorData::from_f32_as(DType::F16, &[n, shape[0], shape[1], shape[2]], &values));
    Ok(write_safetensors(path, &state).map_err(TrainError::from)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(index: usize) -> FeatureMap {
        FeatureMap { values: (0..12).map(|v| ((index * 12 + v) % 1000) as f32 / 8.0).collect(), shape: [2, 2, 3] }
    }

    #[test]
    fn whole_shards_are_kept_and_damaged_ones_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let fill = |part| {
            let mut encoded = Vec::new();
            let encode = |i: usize| {
                encoded.push(i);
                Ok::<_, TrainError>(map(i))
            };
            let store = FeatureStore::fill(dir.path(), 2050, part, encode, &mut |_, _| {}).unwrap();
            (store, encoded)
        };
        let (store, encoded) = fill((1, 3));
        assert_eq!((store.len(), store.shape(), encoded.len()), (2050, [2, 2, 3], 2051)); // photo 0 says the sizes
        assert_eq!(encoded[1], 768); // nine shards: process 1 of 3 begins at the fourth
        let mut found = Vec::new();
        [5, 2049].iter().for_each(|i| store.read(*i, &mut found));
        assert_eq!(found, [map(5).values, map(2049).values].concat());
        assert_eq!(fill((0, 1)).1, [0]);
        std::fs::write(dir.path().join("features-00008-of-00009.safetensors"), b"torn").unwrap();
        assert_eq!(fill((0, 1)).1, [0, 2048, 2049]);
    }
}
