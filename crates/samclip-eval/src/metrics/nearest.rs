//! For every pixel the nearest foreground pixel, with SciPy's choice among equals.
//!
//! Maurer, Qi, Raghavan, "A linear time algorithm for computing exact Euclidean distance transforms" (TPAMI 2003):
//! columns first, then the rows' lower envelopes. Reference: `scipy.ndimage.distance_transform_edt` with
//! `return_indices`, which the weighted F-measure reads. Of equally near pixels the one of the smallest column wins, then
//! of the smallest row. Parity: tests/metrics.rs through the weighted F-measure.

/// (index of the nearest foreground pixel, squared distance to it), row-major; (0, `u32::MAX`) without foreground.
///
/// # Panics
/// If the length is no multiple of `width`.
pub fn nearest_foreground(mask: &[bool], width: usize) -> Vec<(u32, u32)> {
    assert!(width > 0 && mask.len().is_multiple_of(width), "whole rows");
    let height = mask.len() / width;
    let rows = nearest_rows(mask, width, height);
    let mut out = vec![(0, u32::MAX); mask.len()];
    let mut envelope: Vec<(i64, i64)> = Vec::with_capacity(width); // (column, squared height)
    for y in 0..height {
        envelope.clear();
        for (x, &row) in rows[y * width..(y + 1) * width].iter().enumerate().filter(|(_, row)| **row >= 0) {
            push(&mut envelope, (x as i64, (i64::from(row) - y as i64).pow(2)));
        }
        if envelope.is_empty() {
            continue;
        }
        let mut k = 0;
        for x in 0..width {
            let far = |(column, up): (i64, i64)| (column - x as i64).pow(2) + up;
            while k + 1 < envelope.len() && far(envelope[k + 1]) < far(envelope[k]) {
                k += 1;
            }
            let column = envelope[k].0 as usize;
            let index = rows[y * width + column] as usize * width + column;
            out[y * width + x] = (index as u32, far(envelope[k]) as u32);
        }
    }
    out
}

/// Adds a column to the envelope, dropping those that it and their left neighbour hide.
fn push(envelope: &mut Vec<(i64, i64)>, (x, up): (i64, i64)) {
    while let [.., (ux, u), (vx, v)] = envelope[..] {
        let (a, b, c) = (vx - ux, x - vx, x - ux);
        if c * v - b * u - a * up - a * b * c <= 0 {
            break;
        }
        envelope.pop();
    }
    envelope.push((x, up));
}

/// The row of the nearest foreground pixel of the same column, the upper of equals; -1 in empty columns.
fn nearest_rows(mask: &[bool], width: usize, height: usize) -> Vec<i32> {
    let mut rows = vec![-1i32; mask.len()];
    for y in 0..height {
        for x in 0..width {
            let i = y * width + x;
            rows[i] = if mask[i] { y as i32 } else if y > 0 { rows[i - width] } else { -1 };
        }
    }
    for y in (0..height.saturating_sub(1)).rev() {
        for x in 0..width {
            let (i, below) = (y * width + x, rows[(y + 1) * width + x]);
            let (here, y) = (rows[i], y as i32);
            if below > y && (here < 0 || below - y < y - here) {
                rows[i] = below;
            }
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition_on_random_masks() {
        let mut state = 3u64;
        for (w, h) in [(1, 1), (1, 7), (9, 1), (17, 11), (8, 23), (40, 31)] {
            for density in [2u64, 9, 50] {
                let mut draw = || {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    (state >> 33).is_multiple_of(density)
                };
                let mask: Vec<bool> = (0..w * h).map(|_| draw()).collect();
                for (i, &(at, far)) in nearest_foreground(&mask, w).iter().enumerate() {
                    let d = |j: usize| (i % w).abs_diff(j % w).pow(2) + (i / w).abs_diff(j / w).pow(2);
                    let best = (0..w * h).filter(|&j| mask[j]).min_by_key(|&j| (d(j), j % w, j / w));
                    assert_eq!((at, far), best.map_or((0, u32::MAX), |j| (j as u32, d(j) as u32)));
                }
            }
        }
    }
}
