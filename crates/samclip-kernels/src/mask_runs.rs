//! Low-resolution mask logits to the runs of the mask at another size, row by row.
//!
//! Two bilinear resizes one after the other, as SAM does (`segment_anything` `modeling/sam.py`,
//! `postprocess_masks`; PyTorch's order: columns before rows), threshold, column-major runs
//! (COCO), bounding box and the counts of the stability score (`utils/amg.py`) - without any map of
//! the size of the image. Twin: `samclip-image`'s `postprocess_logits` and `rle::encode`.
use crate::simd::{Kernel, Simd, Unit, dispatch, load_upto, store_upto};

/// Positions of one axis: two source indices and the weight of the second for each.
#[derive(Clone, Debug, Default)]
pub struct Axis {
    low: Vec<i32>,
    high: Vec<i32>,
    /// Of the first and of the second.
    weights: [Vec<f32>; 2],
    source: usize,
}

impl Axis {
    /// Taps (low, high, weight of high) into `source` positions.
    ///
    /// # Panics
    /// When an index is not below `source`.
    pub fn new(source: usize, taps: impl Iterator<Item = (usize, usize, f32)>) -> Self {
        let mut axis = Self { source, ..Self::default() };
        for (low, high, weight) in taps {
            assert!(low < source && high < source, "mask runs: a tap outside of {source} positions");
            axis.low.push(low as i32);
            axis.high.push(high as i32);
            axis.weights[0].push(1.0 - weight);
            axis.weights[1].push(weight);
        }
        axis
    }

    fn len(&self) -> usize {
        self.low.len()
    }
}

/// Two resizes, each by rows and columns.
#[derive(Clone, Debug)]
pub struct Resize {
    /// To the model's input.
    pub input: [Axis; 2],
    /// To the image.
    pub original: [Axis; 2],
}

/// A mask as runs, with what the filters of `everything` ask about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MaskRuns {
    /// Column-major runs, background first.
    pub counts: Vec<u32>,
    /// Foreground pixels.
    pub area: usize,
    /// First and last column and row (x0, y0, x1, y1); zeros where the mask is empty.
    pub bbox: [usize; 4],
    /// Pixels above `+ offset`.
    pub above: usize,
    /// Pixels above `- offset`.
    pub around: usize,
}

impl Resize {
    /// The runs of `logits > 0`, `logits` a map of the source size of `input`, row-major.
    ///
    /// # Panics
    /// When the map has another size, or the second resize does not start where the first ends.
    pub fn runs(&self, logits: &[f32], offset: f32) -> MaskRuns {
        let [rows, columns] = &self.input;
        assert_eq!(logits.len(), rows.source * columns.source, "mask runs: logits of another size");
        let between = [rows.len(), columns.len()];
        assert_eq!(between, [self.original[0].source, self.original[1].source], "mask runs: resizes do not meet");
        dispatch(Runs { resize: self, logits, offset })
    }
}

struct Runs<'a> {
    resize: &'a Resize,
    logits: &'a [f32],
    offset: f32,
}

/// The last two rows of a resize's horizontal half, by index.
struct Pair {
    rows: [Vec<f32>; 2],
    index: [usize; 2],
}

impl Pair {
    fn new(width: usize) -> Self {
        Self { rows: [vec![0.0; width], vec![0.0; width]], index: [usize::MAX; 2] }
    }
}

impl Kernel for Runs<'_> {
    type Output = MaskRuns;
    #[inline(always)]
    fn run<S: Simd>(self, s: S, _unit: Unit) -> MaskRuns {
        let Resize { input: [rows1, columns1], original: [rows2, columns2] } = self.resize;
        let (height, width) = (rows2.len(), columns2.len());
        let (mut first, mut second) = (Pair::new(columns1.len()), Pair::new(width));
        let (mut between, mut row) = (vec![0.0; columns1.len()], vec![0.0; width]);
        let mut found = Found::new(height, width);
        for y in 0..height {
            for source in [rows2.low[y] as usize, rows2.high[y] as usize] {
                if second.index[source % 2] == source {
                    continue;
                }
                for origin in [rows1.low[source] as usize, rows1.high[source] as usize] {
                    if first.index[origin % 2] != origin {
                        let from = &self.logits[origin * columns1.source..][..columns1.source];
                        across(s, from, columns1, &mut first.rows[origin % 2]);
                        first.index[origin % 2] = origin;
                    }
                }
                down(s, &first, rows1, source, &mut between);
                across(s, &between, columns2, &mut second.rows[source % 2]);
                second.index[source % 2] = source;
            }
            down(s, &second, rows2, y, &mut row);
            found.add(s, y, &row, self.offset);
        }
        found.finish()
    }
}

/// One row at the positions of an axis.
#[inline(always)]
fn across<S: Simd>(s: S, from: &[f32], axis: &Axis, to: &mut [f32]) {
    let n = to.len();
    for j in (0..n).step_by(S::N) {
        // SAFETY: indices are below the axis' source length, which is `from`'s; j + live <= n.
        unsafe {
            let live = (n - j).min(S::N);
            let low = s.gather(from.as_ptr(), axis.low.as_ptr().add(j), live);
            let high = s.gather(from.as_ptr(), axis.high.as_ptr().add(j), live);
            let a = s.mul(low, load_upto(s, axis.weights[0].as_ptr().add(j), live));
            let b = s.mul(high, load_upto(s, axis.weights[1].as_ptr().add(j), live));
            store_upto(s, to.as_mut_ptr().add(j), s.add(a, b), live);
        }
    }
}

/// Row `y` of an axis from the two that it lies between.
#[inline(always)]
fn down<S: Simd>(s: S, pair: &Pair, axis: &Axis, y: usize, to: &mut [f32]) {
    let [a, b] = [axis.low[y], axis.high[y]].map(|i| pair.rows[i as usize % 2].as_ptr());
    let [wa, wb] = [s.splat(axis.weights[0][y]), s.splat(axis.weights[1][y])];
    let n = to.len();
    for j in (0..n).step_by(S::N) {
        // SAFETY: rows of a pair have the length of `to`.
        unsafe {
            let (a, b) = (load_upto(s, a.add(j), n - j), load_upto(s, b.add(j), n - j));
            store_upto(s, to.as_mut_ptr().add(j), s.add(s.mul(a, wa), s.mul(b, wb)), n - j);
        }
    }
}

/// What the rows so far have shown.
struct Found {
    height: usize,
    width: usize,
    /// Foreground of the row before, 32 pixels a word.
    before: Vec<u32>,
    /// Columns with foreground.
    columns: Vec<u32>,
    /// Where a column changes: (column, row), by rows.
    changes: Vec<(u32, u32)>,
    rows: Option<(usize, usize)>,
    area: usize,
    above: usize,
    around: usize,
}

impl Found {
    fn new(height: usize, width: usize) -> Self {
        let words = width.div_ceil(32);
        let (before, columns) = (vec![0; words], vec![0; words]);
        Self { height, width, before, columns, changes: Vec::new(), rows: None, area: 0, above: 0, around: 0 }
    }

    #[inline(always)]
    fn add<S: Simd>(&mut self, s: S, y: usize, row: &[f32], offset: f32) {
        let (zero, high, low) = (s.splat(0.0), s.splat(offset), s.splat(-offset));
        let mut any = 0;
        for (word, x0) in (0..row.len()).step_by(32).enumerate() {
            let mut bits = 0u32;
            for j in (x0..row.len().min(x0 + 32)).step_by(S::N) {
                let live = (row.len() - j).min(S::N);
                let mask = if live == 32 { u32::MAX } else { (1u32 << live) - 1 };
                // SAFETY: j + live <= the row's length.
                let v = unsafe { load_upto(s, row.as_ptr().add(j), live) };
                bits |= (s.above(v, zero) & mask) << (j - x0);
                self.above += (s.above(v, high) & mask).count_ones() as usize;
                self.around += (s.above(v, low) & mask).count_ones() as usize;
            }
            let mut changed = bits ^ self.before[word];
            while changed != 0 {
                self.changes.push((x0 as u32 + changed.trailing_zeros(), y as u32));
                changed &= changed - 1;
            }
            self.before[word] = bits;
            self.columns[word] |= bits;
            self.area += bits.count_ones() as usize;
            any |= bits;
        }
        if any != 0 {
            self.rows = Some((self.rows.map_or(y, |r| r.0), y));
        }
    }

    fn finish(self) -> MaskRuns {
        let x = |word: usize, bit: u32| word * 32 + bit as usize;
        let first = self.columns.iter().position(|&w| w != 0).map_or(0, |i| x(i, self.columns[i].trailing_zeros()));
        let last = self.columns.iter().rposition(|&w| w != 0).map_or(0, |i| x(i, 31 - self.columns[i].leading_zeros()));
        let (top, bottom) = self.rows.unwrap_or_default();
        MaskRuns {
            counts: self.counts(),
            area: self.area,
            bbox: [first, top, last, bottom],
            above: self.above,
            around: self.around,
        }
    }

    /// Changes by columns, as lengths.
    fn counts(&self) -> Vec<u32> {
        let mut ends = vec![0usize; self.width + 1];
        self.changes.iter().for_each(|&(x, _)| ends[x as usize + 1] += 1);
        (0..self.width).for_each(|x| ends[x + 1] += ends[x]);
        let (mut at, mut rows) = (ends.clone(), vec![0u32; self.changes.len()]);
        for &(x, y) in &self.changes {
            rows[at[x as usize]] = y;
            at[x as usize] += 1;
        }
        // Positions where foreground begins or ends; one twice is none.
        let mut turns: Vec<usize> = Vec::with_capacity(rows.len() + 2);
        let mut turn = |position: usize| match turns.last() {
            Some(&last) if last == position => drop(turns.pop()),
            _ => turns.push(position),
        };
        for x in 0..self.width {
            let column = &rows[ends[x]..ends[x + 1]];
            column.iter().for_each(|&y| turn(x * self.height + y as usize));
            if column.len() % 2 == 1 {
                turn((x + 1) * self.height);
            }
        }
        let total = self.width * self.height;
        if turns.last() != Some(&total) {
            turns.push(total);
        }
        let mut from = 0;
        turns.iter().map(|&to| u32::try_from(to - std::mem::replace(&mut from, to)).expect("fewer than 2^32 pixels")).collect()
    }
}
