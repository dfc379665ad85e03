//! Decomposed relative positions as columns of one product.
//!
//! The vectors of a grid depend on the distance alone (`segment_anything`
//! `modeling/image_encoder.py::get_rel_pos`), so a grid of h rows has 2 h - 1 of them. A block of queries
//! times all of them holds, from another column on for each query, the terms of its keys: one dense product
//! instead of one small one for each row and column of the grid. Twin: `self_attention::Terms`.
use crate::scratch::Scratch;
use crate::self_attention::RelTables;

/// The packed vectors: those of the rows, then those of the columns, from the farthest key before a query
/// to the farthest behind.
pub(crate) struct RelPanels {
    pub(crate) words: Scratch,
    /// Columns of the rows' part and of all of it; each part fills whole panels.
    pub(crate) columns: (usize, usize),
    pub(crate) grid: (usize, usize),
}

impl RelPanels {
    /// `None` when a table does not depend on the distance alone. Queries carry `scale` and keys do not see it,
    /// so the vectors are divided by it.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn of(tables: &RelTables, scale: f32) -> Option<Self> {
        use crate::bf16::{AMX, Amx};
        use crate::engine::{Engine, Mat};
        let (h, w) = tables.grid;
        let d = tables.rows.len() / (h * h).max(1);
        let (rows, cols) = ((2 * h - 1).next_multiple_of(32), (2 * w - 1).next_multiple_of(32));
        let mut all = vec![0.0; (rows + cols) * d];
        for (table, side, first) in [(tables.rows, h, 0), (tables.cols, w, rows)] {
            let vector = |query: usize, key: usize| &table[(query * side + key) * d..][..d];
            let distance = |query: usize, key: usize| vector(query.saturating_sub(key), key.saturating_sub(query));
            if !(0..side).all(|q| (0..side).all(|k| vector(q, k) == distance(q, k))) {
                return None;
            }
            for (c, to) in all[first * d..].chunks_exact_mut(d).take(2 * side - 1).enumerate() {
                let from = distance(side - 1, c);
                to.iter_mut().zip(from).for_each(|(to, from)| *to = from / scale);
            }
        }
        let words = Scratch::take(Amx::b_words(d, rows + cols));
        // SAFETY: callers are on the AMX tier; `all` has rows + cols vectors, `words` their panels.
        unsafe { AMX.pack_b(Mat { ptr: all.as_ptr(), rs: d, cs: 1 }.t(), d, rows + cols, words.ptr()) };
        Some(Self { words, columns: (rows, rows + cols), grid: tables.grid })
    }
}

/// Where the terms of query `i` start in its row of the product: those of key rows, those of key columns.
#[cfg(target_arch = "x86_64")]
pub(crate) fn first_columns(panels: &RelPanels, i: usize) -> (usize, usize) {
    let (h, w) = panels.grid;
    (h - 1 - i / w, panels.columns.0 + w - 1 - i % w)
}
