//! A teacher that sees every whole photo once: its answers are kept, and a crop reads its
//! part of them.
//!
//! A frozen teacher's answer to a photo never changes, but running it on every random crop
//! costs as much as the student. Maps are read with bilinear weights at four points per
//! token of the student; vectors (logits) are the photo's. Kept in f16, in memory for the
//! whole run (0.2 MB for a map of 17 x 17 x 320) and, if asked, as a file per photo.

use crate::error::TrainError;
use crate::export::sha256;
use crate::teacher::{Output, Teacher};
use half::f16;
use samclip_data::augment::{Frame, Rect};
use samclip_data::loader::Batch;
use samclip_data::tar_files::TarFiles;
use samclip_data::{Dataset, Sample};
use samclip_image::{Filter, Image, resize};
use samclip_weights::{DType, StateDict, TensorData, to_safetensors_bytes, write_safetensors};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Pixels per token side.
const PATCH_SIZE: usize = 16;
/// Points per token side at which a map is read.
const POINTS: usize = 2;

/// A teacher with what it said so far.
pub struct PhotoTeacher {
    teacher: Arc<Teacher>,
    /// Longest side of what it sees; 16k + 1 for maps with aligned corners, else a multiple of 32.
    side: usize,
    outputs: Vec<String>,
    datasets: Vec<Arc<dyn Dataset>>,
    /// Where answers are kept between runs: one file per photo, and shards of `samclip teach`.
    folder: Option<PathBuf>,
    shards: TarFiles,
    /// By (source, sample): one answer per output.
    kept: HashMap<(usize, usize), Vec<Kept>>,
}

/// An answer to one photo.
enum Kept {
    Vector(Vec<f16>),
    Map(Map),
}

struct Map {
    /// Rows and columns.
    size: [usize; 2],
    channels: usize,
    /// [rows, columns, channels].
    values: Vec<f16>,
    /// Grid positions per photo pixel, down and across, and the position of the photo's corner.
    step: [f32; 2],
    origin: f32,
}

impl PhotoTeacher {
    /// A teacher that has seen nothing but what `cache` holds, a folder for several teachers.
    pub fn new(
        teacher: Arc<Teacher>,
        side: usize,
        outputs: Vec<String>,
        datasets: Vec<Arc<dyn Dataset>>,
        cache: Option<&Path>,
    ) -> Result<Self, TrainError> {
        let (mut folder, mut shards) = (None, TarFiles::default());
        if let Some(cache) = cache {
            let key = format!("{} {side} {}", teacher.sha256()?, outputs.join(" "));
            let path = cache.join(&sha256(key.as_bytes())[..16]);
            std::fs::create_dir_all(&path).map_err(TrainError::io(&path))?;
            shards = TarFiles::open(tars(&path)?)?;
            folder = Some(path);
        }
        Ok(Self { teacher, side, outputs, datasets, folder, shards, kept: HashMap::new() })
    }

    /// The folder of this teacher's answers, if they are kept.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// The teacher's hash, the side it sees, and its outputs: what a manifest says.
    pub fn about(&self) -> Result<(String, usize, &[String]), TrainError> {
        Ok((self.teacher.sha256()?, self.side, &self.outputs))
    }

    /// The file of one photo's answers and its name, for a shard.
    pub fn file(&self, source: usize, index: usize) -> Result<(String, Vec<u8>), TrainError> {
        let dataset = &self.datasets[source];
        let photo = dataset.get(index)?;
        let name = file_name(dataset.as_ref(), &photo);
        let found = match self.known(&name)? {
            Some(found) => found,
            None => self.ask(&photo.image)?,
        };
        Ok((name, to_safetensors_bytes(&self.state(&found))))
    }

    /// What it says about a batch, in the order of its outputs: maps as [B, C, tokens, tokens],
    /// vectors as [B, K].
    pub fn on_batch(&mut self, batch: &Batch) -> Result<Vec<Output>, TrainError> {
        let pasted = batch.items.iter().filter_map(|item| Some((item.source, item.pasted?.index)));
        for key in batch.items.iter().map(|item| (item.source, item.index)).chain(pasted) {
            if !self.kept.contains_key(&key) {
                let answers = self.answers(key.0, key.1)?;
                self.kept.insert(key, answers);
            }
        }
        (0..self.outputs.len()).map(|output| self.read(batch, output)).collect()
    }

    /// From the folder, or from the teacher.
    fn answers(&self, source: usize, index: usize) -> Result<Vec<Kept>, TrainError> {
        let dataset = &self.datasets[source];
        let photo = dataset.get(index)?;
        let size = [photo.image.height(), photo.image.width()];
        let name = file_name(dataset.as_ref(), &photo);
        let found = match self.known(&name)? {
            Some(found) => found,
            None => {
                let found = self.ask(&photo.image)?;
                if let Some(folder) = &self.folder {
                    write_safetensors(&folder.join(&name), &self.state(&found))?;
                }
                found
            }
        };
        found.into_iter().map(|output| self.kept(output, size)).collect()
    }

    fn stored(&self, state: &StateDict) -> Result<Vec<Output>, TrainError> {
        let missing = |name: &String| TrainError::Invalid(format!("a teacher's cached answer lacks `{name}`"));
        let read = |name: &String| {
            let tensor = state.get(name).ok_or_else(|| missing(name))?;
            Ok(Output { values: tensor.to_f32(), shape: tensor.shape().to_vec() })
        };
        self.outputs.iter().map(read).collect()
    }

    /// What a shard or a file says.
    fn known(&self, name: &str) -> Result<Option<Vec<Output>>, TrainError> {
        if let Some(bytes) = self.shards.get(name)? {
            return self.stored(&StateDict::from_safetensors_bytes(&bytes)?).map(Some);
        }
        let file = self.folder.as_ref().map(|folder| folder.join(name)).filter(|file| file.exists());
        file.map(|file| self.stored(&StateDict::open(&file)?)).transpose()
    }

    fn state(&self, found: &[Output]) -> StateDict {
        let mut state = StateDict::new();
        for (name, output) in self.outputs.iter().zip(found) {
            let tensor = TensorData::from_f32_as(DType::F16, &output.shape, &output.values);
            state.insert(name.clone(), tensor);
        }
        state
    }

    /// Width and height of what the teacher sees of a photo of this height and width.
    fn resized(&self, [height, width]: [usize; 2]) -> [usize; 2] {
        let scale = self.side as f32 / width.max(height) as f32;
        [height, width].map(|n| ((n as f32 * scale).round() as usize).clamp(1, self.side))
    }

    /// Whether a map's corner lies on the photo's corner pixel.
    fn aligned(&self) -> bool {
        self.side % PATCH_SIZE == 1
    }

    fn kept(&self, output: Output, photo: [usize; 2]) -> Result<Kept, TrainError> {
        match *output.shape.as_slice() {
            [1, channels, h, w] => {
                let seen = self.resized(photo);
                let stride = match self.aligned() {
                    true => PATCH_SIZE as f32,
                    false if self.teacher.wants_square() => (self.side / h) as f32,
                    false => (self.padded(seen[0]) / h) as f32,
                };
                let step = [0, 1].map(|axis| seen[axis] as f32 / photo[axis] as f32 / stride);
                let values = channels_last(&output.values, channels, h * w);
                let origin = if self.aligned() { -0.5 / stride } else { -0.5 };
                Ok(Kept::Map(Map { size: [h, w], channels, values, step, origin }))
            }
            [1, _] => Ok(Kept::Vector(output.values.iter().map(|&v| f16::from_f32(v)).collect())),
            _ => Err(TrainError::Invalid(format!("a teacher's output of shape {:?}", output.shape))),
        }
    }

    fn padded(&self, n: usize) -> usize {
        match self.aligned() {
            true => (n - 1).div_ceil(PATCH_SIZE) * PATCH_SIZE + 1,
            false => n.next_multiple_of(2 * PATCH_SIZE),
        }
    }

    fn ask(&self, photo: &Image) -> Result<Vec<Output>, TrainError> {
        let [height, width] = self.resized([photo.height(), photo.width()]);
        let (columns, rows) = match self.teacher.wants_square() {
            true => (self.side, self.side),
            false => (self.padded(width), self.padded(height)),
        };
        let input = self.teacher.normalization();
        let resized = resize(photo, width, height, Filter::Bilinear);
        let mut pixels = vec![0.0; 3 * rows * columns]; // zero is the mean colour
        for (c, plane) in pixels.chunks_exact_mut(rows * columns).enumerate() {
            for (line, out) in resized.data().chunks_exact(3 * width).zip(plane.chunks_exact_mut(columns)) {
                for (value, pixel) in out.iter_mut().zip(line.chunks_exact(3)) {
                    *value = (f32::from(pixel[c]) / input.scale - input.mean[c]) / input.std[c];
                }
            }
        }
        let names: Vec<&str> = self.outputs.iter().map(String::as_str).collect();
        self.teacher.run(pixels, [1, 3, rows, columns], &names)
    }

    fn read(&self, batch: &Batch, output: usize) -> Result<Output, TrainError> {
        let grid = batch.side / PATCH_SIZE;
        let mut values = Vec::new();
        let mut shape = vec![batch.items.len()];
        for item in &batch.items {
            let begin = values.len();
            let width = self.kept[&(item.source, item.index)][output].read(&item.frame, grid, &mut values);
            if let Some(pasted) = &item.pasted {
                let mut other = Vec::new();
                self.kept[&(item.source, pasted.index)][output].read(&pasted.frame, grid, &mut other);
                mix(&mut values[begin..], &other, &width, pasted.rect, batch.side);
            }
            shape.truncate(1);
            shape.extend(width);
        }
        match values.len() == shape.iter().product::<usize>() {
            true => Ok(Output { values, shape }),
            false => Err(TrainError::Invalid("a teacher's answers differ in shape".to_owned())),
        }
    }
}

/// Tokens in the rectangle say what the teacher says of the other photo; vectors are mixed by the rectangle's share of
/// the square.
fn mix(values: &mut [f32], other: &[f32], shape: &[usize], rect: Rect, side: usize) {
    let part = (rect.w * rect.h) as f32 / (side * side) as f32;
    let &[_, grid, _] = shape else {
        values.iter_mut().zip(other).for_each(|(v, o)| *v += part * (o - *v));
        return;
    };
    for (map, other) in values.chunks_mut(grid * grid).zip(other.chunks(grid * grid)) {
        for (token, (v, o)) in map.iter_mut().zip(other).enumerate() {
            if rect.contains(token % grid * PATCH_SIZE, token / grid * PATCH_SIZE) {
                *v = *o;
            }
        }
    }
}

/// Depends on the photo, not on where it is in its dataset.
fn file_name(dataset: &dyn Dataset, photo: &Sample) -> String {
    let size = [photo.image.height(), photo.image.width()];
    let id = sha256(format!("{} {} {size:?}", dataset.name(), photo.id).as_bytes());
    format!("{}.safetensors", &id[..24])
}

fn tars(folder: &Path) -> Result<Vec<PathBuf>, TrainError> {
    let entries = std::fs::read_dir(folder).map_err(TrainError::io(folder))?;
    let paths = entries.map(|e| e.map(|e| e.path())).collect::<Result<Vec<_>, _>>();
    let mut paths = paths.map_err(TrainError::io(folder))?;
    paths.retain(|p| p.extension().is_some_and(|e| e == "tar"));
    paths.sort();
    Ok(paths)
}

impl Kept {
    /// Adds what it says of a crop; its shape.
    fn read(&self, frame: &Frame, grid: usize, values: &mut Vec<f32>) -> Vec<usize> {
        match self {
            Self::Vector(vector) => {
                values.extend(vector.iter().map(|v| v.to_f32()));
                vec![vector.len()]
            }
            Self::Map(map) => {
                values.extend(map.read(frame, grid));
                vec![map.channels, grid, grid]
            }
        }
    }
}

impl Map {
    /// [C, grid, grid]: means over the points of each token; zero where all lie on padding.
    fn read(&self, frame: &Frame, grid: usize) -> Vec<f32> {
        let cell = (frame.side / grid) as f32;
        let mut out = vec![0.0; self.channels * grid * grid];
        let mut sum = vec![0.0f32; self.channels];
        for token in 0..grid * grid {
            let (row, column) = ((token / grid) as f32, (token % grid) as f32);
            sum.fill(0.0);
            let mut points = 0.0f32;
            for i in 0..POINTS * POINTS {
                let at = |n: usize| (n as f32 + 0.5) / POINTS as f32;
                let (y, x) = ((row + at(i / POINTS)) * cell, (column + at(i % POINTS)) * cell);
                if let Some(point) = frame.source_point([x, y]) {
                    self.add(point, &mut sum);
                    points += 1.0;
                }
            }
            for (value, sum) in out[token..].iter_mut().step_by(grid * grid).zip(&sum) {
                *value = sum / points.max(1.0);
            }
        }
        out
    }

    /// Adds the bilinear value at a point of the photo.
    fn add(&self, [x, y]: [f32; 2], sum: &mut [f32]) {
        let [rows, columns] = self.size;
        let at = |p: f32, step: f32, n: usize| {
            let position = (p * step + self.origin).clamp(0.0, (n - 1) as f32);
            let low = (position as usize).min(n - 1);
            (low, (low + 1).min(n - 1), position - low as f32)
        };
        let (y0, y1, fy) = at(y, self.step[0], rows);
        let (x0, x1, fx) = at(x, self.step[1], columns);
        for (row, column, weight) in [
            (y0, x0, (1.0 - fy) * (1.0 - fx)),
            (y0, x1, (1.0 - fy) * fx),
            (y1, x0, fy * (1.0 - fx)),
            (y1, x1, fy * fx),
        ] {
            let line = &self.values[(row * columns + column) * self.channels..][..self.channels];
            for (sum, value) in sum.iter_mut().zip(line) {
                *sum += weight * value.to_f32();
            }
        }
    }
}

fn channels_last(values: &[f32], channels: usize, positions: usize) -> Vec<f16> {
    let at = |p: usize| values[p..].iter().step_by(positions).take(channels);
    (0..positions).flat_map(at).map(|&v| f16::from_f32(v)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A map whose two channels are the photo's x and y.
    fn ramp() -> Map {
        let values = (0..25 * 25).flat_map(|i| [(i % 25) as f32 * 16.0 + 0.5, (i / 25) as f32 * 16.0 + 0.5]);
        let values = values.map(f16::from_f32).collect();
        Map { size: [25, 25], channels: 2, values, step: [1.0 / 16.0; 2], origin: -0.5 / 16.0 }
    }

    #[test]
    fn a_crop_reads_its_part_of_the_map() {
        let frame = Frame { x0: 64, y0: 32, w: 256, h: 128, out_w: 128, out_h: 128, side: 128, flip: false };
        let read = ramp().read(&frame, 8);
        // token (row 2, column 3): centre (56, 40) of the square -> x 64 + 112, y 32 + 40
        assert!((read[2 * 8 + 3] - 176.0).abs() < 0.2 && (read[64 + 2 * 8 + 3] - 72.0).abs() < 0.2);
        let flipped = ramp().read(&Frame { flip: true, ..frame }, 8);
        assert!((flipped[2 * 8 + 4] - read[2 * 8 + 3]).abs() < 0.2);
    }

    #[test]
    fn vectors_are_mixed_by_area_and_maps_by_place() {
        let rect = Rect { x: 16, y: 0, w: 16, h: 32 };
        let mut vector = [1.0, 3.0];
        mix(&mut vector, &[5.0, 3.0], &[2], rect, 64);
        assert_eq!(vector, [1.5, 3.0], "512 of 4096 pixels");
        let mut map = [0.0; 16];
        mix(&mut map, &[1.0; 16], &[1, 4, 4], rect, 64);
        assert_eq!(map.iter().enumerate().filter(|(_, v)| **v == 1.0).map(|(i, _)| i).collect::<Vec<_>>(), [1, 5]);
    }

    #[test]
    fn padding_reads_nothing() {
        let frame = Frame { x0: 0, y0: 0, w: 384, h: 192, out_w: 128, out_h: 64, side: 128, flip: false };
        let read = ramp().read(&frame, 8);
        assert!(read[64 + 4 * 8..].iter().all(|v| *v == 0.0));
        assert!(read[1] > 0.0);
    }
}
