//! Painted shapes with their masks: data for smoke runs and tests that need no file.
//!
//! Every photo is a pure function of its index: three discs, squares or triangles of different
//! colours on a noisy ground. Class-less, so it needs no names.

use crate::dataset::check_index;
use crate::{DataError, Dataset, Sample};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use samclip_image::{Image, Mask};

/// Photos of painted shapes.
#[derive(Debug)]
pub struct Shapes {
    len: usize,
}

/// Width and height of a photo.
const SIZE: (usize, usize) = (96, 80);
const SHAPES: usize = 3;

impl Shapes {
    /// `split` is the number of photos.
    ///
    /// # Errors
    /// A split that is not a number of photos.
    pub fn open(split: &str) -> Result<Self, DataError> {
        match split.parse() {
            Ok(len) if len > 0 => Ok(Self { len }),
            _ => Err(DataError::Config(format!("shapes: expected a number of photos as split, found `{split}`"))),
        }
    }
}

fn inside(kind: u32, [x, y]: [i32; 2], [cx, cy]: [i32; 2], r: i32) -> bool {
    let (dx, dy) = (x - cx, y - cy);
    match kind {
        0 => dx * dx + dy * dy <= r * r,
        1 => dx.abs() <= r && dy.abs() <= r,
        _ => dy.abs() <= r && dx.abs() * 2 <= dy + r,
    }
}

impl Dataset for Shapes {
    fn name(&self) -> &str {
        "shapes"
    }
    fn len(&self) -> usize {
        self.len
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        check_index(self, index)?;
        let mut rng = ChaCha8Rng::seed_from_u64(index as u64);
        let (w, h) = SIZE;
        let ground: [u8; 3] = rng.random();
        let noise = |rng: &mut ChaCha8Rng, v: u8| (v / 2).saturating_add(rng.random_range(0..32));
        let mut data: Vec<u8> = (0..w * h).flat_map(|_| ground.map(|v| noise(&mut rng, v))).collect();
        let mut masks = vec![Mask { width: w, height: h, data: vec![false; w * h] }; SHAPES];
        for i in 0..SHAPES {
            let (kind, r) = (rng.random_range(0..3), rng.random_range(8..20));
            let centre = [rng.random_range(10..w as i32 - 10), rng.random_range(10..h as i32 - 10)];
            let colour: [u8; 3] = rng.random();
            for p in (0..w * h).filter(|p| inside(kind, [(p % w) as i32, (p / w) as i32], centre, r)) {
                data[p * 3..p * 3 + 3].copy_from_slice(&colour);
                masks.iter_mut().for_each(|m| m.data[p] = false); // a later shape hides an earlier one
                masks[i].data[p] = true;
            }
        }
        let image = Image::new(w, h, data)?;
        masks.retain(|m| m.area() > 0);
        let id = format!("shapes{index}");
        Ok(Sample { id, image, labels: None, masks, class_ids: Vec::new(), captions: Vec::new() })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn photos_are_a_function_of_their_index() {
        let shapes = Shapes::open("5").unwrap();
        let (a, b, c) = (shapes.get(1).unwrap(), shapes.get(1).unwrap(), shapes.get(2).unwrap());
        assert!(a.image.data() == b.image.data() && a.image.data() != c.image.data());
        assert!(!a.masks.is_empty() && a.masks.iter().all(|m| m.area() > 0));
        assert!(shapes.get(5).is_err());
        assert!(Shapes::open("many").is_err() && Shapes::open("0").is_err());
    }
}
