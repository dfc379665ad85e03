//! Exact Euclidean distance to the background.
//!
//! Felzenszwalb & Huttenlocher, "Distance Transforms of Sampled Functions" (2012): one
//! one-dimensional lower envelope of parabolas per column, then per row. The field takes its
//! maximum as the most interior click of an object.

use rayon::prelude::*;

use crate::Mask;

/// Distance of every foreground pixel to the nearest background pixel centre, row-major; 0 on
/// background. Everything outside the image counts as background, so the maximum is interior.
pub fn distance_transform(mask: &Mask) -> Vec<f32> {
    let (h, w) = mask.size();
    // Columns need no envelope: the nearest background above or below is a running count.
    let mut squared = vec![0u64; h * w];
    for x in 0..w {
        let mut run = 0u64;
        for y in 0..h {
            run = if mask.data[y * w + x] { run + 1 } else { 0 };
            squared[y * w + x] = run;
        }
        let mut run = 0u64;
        for y in (0..h).rev() {
            run = if mask.data[y * w + x] { run + 1 } else { 0 };
            let up = squared[y * w + x].min(run);
            squared[y * w + x] = up * up;
        }
    }
    let mut out = vec![0f32; h * w];
    out.par_chunks_exact_mut(w).zip(squared.par_chunks_exact(w)).for_each(|(out, row)| {
        // One column of background on either side.
        let mut padded = Vec::with_capacity(w + 2);
        padded.push(0);
        padded.extend_from_slice(row);
        padded.push(0);
        for (value, d) in out.iter_mut().zip(&lower_envelope(&padded)[1..]) {
            *value = (*d as f64).sqrt() as f32;
        }
    });
    out
}

/// `min over q of (p - q)^2 + f[q]` for every `p`.
fn lower_envelope(f: &[u64]) -> Vec<u64> {
    let n = f.len();
    let height = |q: usize| f[q] as f64 + (q * q) as f64;
    let mut vertex = vec![0usize; n];
    let mut from = vec![f64::NEG_INFINITY; n + 1];
    let mut last = 0;
    from[1] = f64::INFINITY;
    for q in 1..n {
        let crossing = loop {
            let v = vertex[last];
            let s = (height(q) - height(v)) / (2 * (q - v)) as f64;
            if s > from[last] || last == 0 {
                break s;
            }
            last -= 1;
        };
        last += 1;
        vertex[last] = q;
        from[last] = crossing;
        from[last + 1] = f64::INFINITY;
    }
    let mut k = 0;
    (0..n)
        .map(|p| {
            while from[k + 1] < p as f64 {
                k += 1;
            }
            (p.abs_diff(vertex[k])).pow(2) as u64 + f[vertex[k]]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition_on_random_masks() {
        let mut state = 7u64;
        for (w, h) in [(1, 1), (1, 9), (9, 1), (17, 11), (8, 23)] {
            for density in [2, 10, 60] {
                let mut draw = || {
                    state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    !(state >> 33).is_multiple_of(density)
                };
                let mask = Mask::new(w, h, (0..w * h).map(|_| draw()).collect()).unwrap();
                assert_eq!(distance_transform(&mask), by_definition(&mask));
            }
        }
    }

    fn by_definition(mask: &Mask) -> Vec<f32> {
        let (h, w) = (mask.height as i64, mask.width as i64);
        let inside =
            |x: i64, y: i64| (0..w).contains(&x) && (0..h).contains(&y) && mask.data[(y * w + x) as usize];
        let mut out = Vec::new();
        for (y, x) in (0..h).flat_map(|y| (0..w).map(move |x| (y, x))) {
            let nearest = (-1..=h)
                .flat_map(|v| (-1..=w).map(move |u| (u, v)))
                .filter(|&(u, v)| !inside(u, v))
                .map(|(u, v)| (u - x).pow(2) + (v - y).pow(2))
                .min()
                .unwrap();
            out.push((nearest as f64).sqrt() as f32);
        }
        out
    }
}
