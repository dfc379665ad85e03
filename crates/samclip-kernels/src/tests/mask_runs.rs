//! Runs of resized logits against the whole map, every tier.

use crate::testing::{data, every_tier};
use crate::{Axis, MaskRuns, Resize};

/// Half-pixel bilinear taps.
fn taps(from: usize, to: usize) -> Vec<(usize, usize, f32)> {
    let tap = |i: usize| {
        let at = ((i as f32 + 0.5) * from as f32 / to as f32 - 0.5).max(0.0);
        let low = (at as usize).min(from - 1);
        (low, (low + 1).min(from - 1), at - low as f32)
    };
    (0..to).map(tap).collect()
}

fn stretch(x: &[f32], (h, w): (usize, usize), (to_h, to_w): (usize, usize)) -> Vec<f32> {
    let wide: Vec<Vec<f32>> = (0..h)
        .map(|y| taps(w, to_w).iter().map(|&(a, b, t)| x[y * w + a] * (1.0 - t) + x[y * w + b] * t).collect())
        .collect();
    let row = |&(a, b, t): &(usize, usize, f32)| (0..to_w).map(|i| wide[a][i] * (1.0 - t) + wide[b][i] * t).collect::<Vec<_>>();
    taps(h, to_h).iter().flat_map(row).collect()
}

/// Column by column, pixel by pixel.
fn naive(map: &[f32], (h, w): (usize, usize), offset: f32) -> MaskRuns {
    let (mut runs, mut value) = (MaskRuns { counts: vec![0], ..MaskRuns::default() }, false);
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (x, y) in (0..w).flat_map(|x| (0..h).map(move |y| (x, y))) {
        let v = map[y * w + x];
        if (v > 0.0) != value {
            value = !value;
            runs.counts.push(0);
        }
        *runs.counts.last_mut().unwrap() += 1;
        if v > 0.0 {
            found.push((x, y));
        }
        runs.above += usize::from(v > offset);
        runs.around += usize::from(v > -offset);
    }
    runs.area = found.len();
    let ends = |of: fn(&(usize, usize)) -> usize| (found.iter().map(of).min().unwrap_or(0), found.iter().map(of).max().unwrap_or(0));
    let ((x0, x1), (y0, y1)) = (ends(|p| p.0), ends(|p| p.1));
    runs.bbox = [x0, y0, x1, y1];
    runs
}

#[test]
fn runs_match_the_whole_map() {
    every_tier(|isa| {
        for (seed, (side, between, to)) in
            [(16, (48, 70), (37, 53)), (33, (64, 39), (100, 61)), (8, (8, 8), (1, 1)), (5, (31, 33), (64, 97))].into_iter().enumerate()
        {
            let axis = |from: usize, to: usize| Axis::new(from, taps(from, to).into_iter());
            let resize = Resize {
                input: [axis(side, between.0), axis(side, between.1)],
                original: [axis(between.0, to.0), axis(between.1, to.1)],
            };
            for shift in [-2.0, -0.3, 0.0, 2.0] {
                let low: Vec<f32> = data(side * side, seed as u64).iter().map(|v| v + shift).collect();
                let map = stretch(&stretch(&low, (side, side), between), between, to);
                assert_eq!(resize.runs(&low, 0.2), naive(&map, to, 0.2), "{isa:?} {side} {between:?} {to:?} {shift}");
            }
        }
    });
}
