//! Foreground maps: S-measure, E-measure, weighted F-measure, mean absolute error.
//!
//! Papers: Fan et al. ICCV 2017 (S), Fan et al. IJCAI 2018 (E), Margolin et al. CVPR 2014 (weighted F); spec 9.3.
//! Reference: PySODMetrics `sod_metrics.py`. Parity: tests/metrics.rs, |Δ| <= 1e-6. All but the weighted F are
//! functions of how many pixels have which of 256 grey values in which quarter of the photo, so they are computed
//! from counts. Deviation: a quarter of one grey value has a variance of exactly zero here; the reference's sum of
//! floats may leave 1e-33, which its zero tests then see.

use super::nearest::nearest_foreground;

/// The double nearest above 1, less 1 (the reference's guard against division by zero).
const EPS: f64 = f64::EPSILON;

/// The scores of one predicted map.
#[derive(Debug, Clone, PartialEq)]
pub struct MapScores {
    /// S-measure, alpha 0.5.
    pub s: f64,
    /// E-measure with the prediction cut at 255, 254, ... 0 of 255.
    pub e: Vec<f64>,
    /// E-measure with the prediction cut at twice its mean.
    pub e_adaptive: f64,
    /// Weighted F-measure, beta 1.
    pub weighted_f: f64,
    /// Mean absolute error.
    pub mae: f64,
}

/// Pixels by quarter, truth and grey value.
struct Counts([[[u64; 256]; 2]; 4]);

impl Counts {
    /// `truth` splits at its centroid: quarters are left/right of `cx`, above/below `cy`.
    fn of(predicted: &[u8], truth: &[bool], width: usize, (cx, cy): (usize, usize)) -> Self {
        let mut counts = [[[0u64; 256]; 2]; 4];
        for (y, (p, t)) in predicted.chunks_exact(width).zip(truth.chunks_exact(width)).enumerate() {
            let half = 2 * usize::from(y >= cy);
            for (x, (&p, &t)) in p.iter().zip(t).enumerate() {
                counts[half + usize::from(x >= cx)][usize::from(t)][usize::from(p)] += 1;
            }
        }
        Self(counts)
    }

    fn all(&self, truth: usize) -> [u64; 256] {
        std::array::from_fn(|v| self.0.iter().map(|q| q[truth][v]).sum())
    }
}

/// Scores a grey map (0-255) of the truth's size. The map is stretched to 0..1 unless it is constant.
///
/// # Panics
/// If the lengths do not fit `width`.
pub fn map_scores(predicted: &[u8], truth: &[bool], width: usize) -> MapScores {
    assert!(predicted.len() == truth.len() && truth.len().is_multiple_of(width), "maps of one size");
    let height = truth.len() / width;
    let value = grey_values(predicted);
    let center = centroid(truth, width, height);
    let counts = Counts::of(predicted, truth, width, center);
    let (background, foreground) = (counts.all(0), counts.all(1));
    let total = truth.len() as f64;
    let sum = |c: &[u64; 256], f: &dyn Fn(f64) -> f64| -> f64 { c.iter().zip(&value).map(|(n, v)| *n as f64 * f(*v)).sum() };
    let mae = (sum(&background, &|v| v) + sum(&foreground, &|v| 1.0 - v)) / total;
    let mean = (sum(&background, &|v| v) + sum(&foreground, &|v| v)) / total;
    let threshold = (2.0 * mean).min(1.0);
    let above = |c: &[u64; 256]| c.iter().zip(&value).filter(|(_, v)| **v >= threshold).map(|(n, _)| *n).sum::<u64>();
    let areas = (foreground.iter().sum(), truth.len() as u64);
    MapScores {
        s: s_measure(&counts, &value, (mean, width, height), center),
        e: e_curve(&foreground, &background, &value, areas),
        e_adaptive: e_measure(above(&foreground), above(&background), areas),
        weighted_f: weighted_f(predicted, truth, width, &value),
        mae,
    }
}

/// What each grey value stands for after stretching, in the reference's order of operations.
fn grey_values(predicted: &[u8]) -> [f64; 256] {
    let (low, high) = predicted.iter().fold((255, 0), |(low, high), &v| (v.min(low), v.max(high)));
    let unit = |v: u8| f64::from(v) / 255.0;
    let stretch = |v: f64| if low == high { v } else { (v - unit(low)) / (unit(high) - unit(low)) };
    std::array::from_fn(|v| stretch(unit(v as u8)))
}

/// One past the centroid of the truth, rounded half to even: (x, y).
fn centroid(truth: &[bool], width: usize, height: usize) -> (usize, usize) {
    let (mut n, mut xs, mut ys) = (0u64, 0u64, 0u64);
    for (y, row) in truth.chunks_exact(width).enumerate() {
        for (x, _) in row.iter().enumerate().filter(|(_, t)| **t) {
            (n, xs, ys) = (n + 1, xs + x as u64, ys + y as u64);
        }
    }
    let at = |sum: u64, side: usize| match n {
        0 => (side as f64 / 2.0).round_ties_even(),
        n => (sum as f64 / n as f64).round_ties_even(),
    };
    (at(xs, width) as usize + 1, at(ys, height) as usize + 1)
}

fn s_measure(counts: &Counts, value: &[f64; 256], (mean, width, height): (f64, usize, usize), center: (usize, usize)) -> f64 {
    let (background, foreground) = (counts.all(0), counts.all(1));
    let (n0, n1) = (background.iter().sum::<u64>(), foreground.iter().sum::<u64>());
    if n1 == 0 {
        return 1.0 - mean;
    }
    if n0 == 0 {
        return mean;
    }
    let share = n1 as f64 / (n0 + n1) as f64;
    let inverse: [f64; 256] = std::array::from_fn(|v| 1.0 - value[v]);
    let object = s_object(&foreground, value) * share + s_object(&background, &inverse) * (1.0 - share);
    let (cx, cy) = (center.0.min(width), center.1.min(height));
    let area = (width * height) as f64;
    let part = |w: usize, h: usize| (w * h) as f64 / area;
    let (lt, rt, lb) = (part(cx, cy), part(width - cx, cy), part(cx, height - cy));
    let weights = [lt, rt, lb, 1.0 - lt - rt - lb];
    // a quarter without pixels (a centroid in the last row or column) has no weight; NumPy's NaN is not copied
    let filled = counts.0.iter().zip(weights).filter(|(quarter, _)| quarter.iter().flatten().any(|n| *n > 0));
    let region: f64 = filled.map(|(quarter, weight)| ssim(quarter, value) * weight).sum();
    (0.5 * object + 0.5 * region).max(0.0)
}

/// Mean and sum of squared differences of the values that `counts` hold.
fn moments(counts: &[u64; 256], value: &[f64; 256]) -> (f64, f64, f64) {
    let n: u64 = counts.iter().sum();
    let kinds = counts.iter().filter(|c| **c > 0).count();
    let mean = match (kinds, counts.iter().position(|c| *c > 0)) {
        (1, Some(only)) => value[only],
        _ => counts.iter().zip(value).map(|(c, v)| *c as f64 * v).sum::<f64>() / n.max(1) as f64,
    };
    let square = counts.iter().zip(value).map(|(c, v)| *c as f64 * (v - mean) * (v - mean)).sum();
    (n as f64, mean, square)
}

fn s_object(counts: &[u64; 256], value: &[f64; 256]) -> f64 {
    let (n, mean, square) = moments(counts, value);
    let std = if n > 1.0 { (square / (n - 1.0)).sqrt() } else { 0.0 };
    2.0 * mean / (mean * mean + 1.0 + std + EPS)
}

/// Structural similarity of one quarter.
fn ssim(quarter: &[[u64; 256]; 2], value: &[f64; 256]) -> f64 {
    let both: [u64; 256] = std::array::from_fn(|v| quarter[0][v] + quarter[1][v]);
    let (n, x, square) = moments(&both, value);
    let inside: u64 = quarter[1].iter().sum();
    let y = inside as f64 / n;
    let (n1, n0) = (inside as f64, n - inside as f64);
    let sum = |c: &[u64; 256]| c.iter().zip(value).map(|(c, v)| *c as f64 * (v - x)).sum::<f64>();
    let unbiased = n - 1.0 + EPS;
    let (var_x, var_y) = (square / unbiased, (n1 * (1.0 - y) * (1.0 - y) + n0 * y * y) / unbiased);
    let covariance = (sum(&quarter[1]) * (1.0 - y) - sum(&quarter[0]) * y) / unbiased;
    let a = 4.0 * x * y * covariance;
    let b = (x * x + y * y) * (var_x + var_y);
    match (a != 0.0, b == 0.0) {
        (true, _) => a / (b + EPS),
        (false, true) => 1.0,
        (false, false) => 0.0,
    }
}

/// E-measure for the thresholds 255, 254, ... 0 on the value times 255, cut to an integer.
fn e_curve(foreground: &[u64; 256], background: &[u64; 256], value: &[f64; 256], areas: (u64, u64)) -> Vec<f64> {
    let mut by_level = [[0u64; 256]; 2];
    for v in 0..256 {
        let level = (value[v] * 255.0) as usize;
        by_level[0][level.min(255)] += background[v];
        by_level[1][level.min(255)] += foreground[v];
    }
    let (mut hit, mut extra) = (0, 0);
    (0..256).rev().map(|level| {
        hit += by_level[1][level];
        extra += by_level[0][level];
        e_measure(hit, extra, areas)
    }).collect()
}

/// E-measure of a binary map: `hit` predicted pixels on the object, `extra` beside it; (object's pixels, all).
fn e_measure(hit: u64, extra: u64, (object, all): (u64, u64)) -> f64 {
    let predicted = hit + extra;
    let n = all as f64;
    let sum = if object == 0 {
        (all - predicted) as f64
    } else if object == all {
        predicted as f64
    } else {
        let (p, g) = (predicted as f64 / n, object as f64 / n);
        let parts = [(hit, 1.0 - p, 1.0 - g), (extra, 1.0 - p, -g), (object - hit, -p, 1.0 - g)];
        let rest = (all - predicted - (object - hit), -p, -g);
        let term = |(count, a, b): (u64, f64, f64)| {
            let aligned = 2.0 * (a * b) / (a * a + b * b + EPS);
            (aligned + 1.0) * (aligned + 1.0) / 4.0 * count as f64
        };
        parts.into_iter().chain([rest]).map(term).sum()
    };
    sum / (n - 1.0 + EPS)
}

/// Half of the 7 x 7 Gaussian with sigma 5, normalised along one axis: offsets 0 to 3.
fn gaussian() -> [f64; 4] {
    let raw: [f64; 4] = std::array::from_fn(|i| (-((i * i) as f64) / 50.0).exp());
    let sum = raw[0] + 2.0 * (raw[1] + raw[2] + raw[3]);
    raw.map(|v| v / sum)
}

fn weighted_f(predicted: &[u8], truth: &[bool], width: usize, value: &[f64; 256]) -> f64 {
    let area = truth.iter().filter(|t| **t).count();
    if area == 0 {
        return 0.0;
    }
    let height = truth.len() / width;
    let nearest = nearest_foreground(truth, width);
    let error = |i: usize| (value[usize::from(predicted[i])] - f64::from(u8::from(truth[i]))).abs();
    // a background pixel stands for its nearest object pixel
    let depend: Vec<f64> = (0..truth.len()).map(|i| error(nearest[i].0 as usize)).collect();
    let smooth = smoothed(&depend, truth, width, height);
    let (mut on, mut off) = (0.0, 0.0);
    for i in 0..truth.len() {
        let e = error(i);
        if truth[i] {
            on += e.min(smooth[i]);
        } else if e > 0.0 {
            off += e * (2.0 - (0.5f64.ln() / 5.0 * f64::from(nearest[i].1).sqrt()).exp());
        }
    }
    let hit = area as f64 - on;
    let recall = 1.0 - on / area as f64;
    let precision = hit / (hit + off + EPS);
    2.0 * recall * precision / (recall + precision + EPS)
}

/// The Gaussian mean of `map`, zero outside the photo, on the rows and columns that hold the object.
fn smoothed(map: &[f64], truth: &[bool], width: usize, height: usize) -> Vec<f64> {
    let k = gaussian();
    let rows: Vec<bool> = truth.chunks_exact(width).map(|row| row.contains(&true)).collect();
    let near = |y: usize| (y.saturating_sub(3)..=(y + 3).min(height - 1)).any(|y| rows[y]);
    let mut across = vec![0.0; map.len()];
    for y in (0..height).filter(|&y| near(y)) {
        let row = &map[y * width..(y + 1) * width];
        let out = &mut across[y * width..(y + 1) * width];
        for (x, out) in out.iter_mut().enumerate() {
            let at = |x: Option<usize>| x.and_then(|x| row.get(x)).copied().unwrap_or(0.0);
            *out = k[0] * row[x] + (1..4).map(|d| k[d] * (at(x.checked_sub(d)) + at(Some(x + d)))).sum::<f64>();
        }
    }
    let mut out = vec![0.0; map.len()];
    for y in (0..height).filter(|&y| rows[y]) {
        for d in 0..4usize {
            let sides = [y.checked_sub(d), Some(y + d).filter(|_| d > 0)];
            for from in sides.into_iter().flatten().filter(|&from| from < height) {
                let (source, target) = (&across[from * width..(from + 1) * width], &mut out[y * width..(y + 1) * width]);
                target.iter_mut().zip(source).for_each(|(t, s)| *t += k[d] * s);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(width: usize, height: usize, r2: i64) -> Vec<bool> {
        let at = |i: usize| ((i % width) as i64 - 12, (i / width) as i64 - 9);
        (0..width * height).map(|i| at(i).0.pow(2) + at(i).1.pow(2) <= r2).collect()
    }

    #[test]
    fn the_truth_is_perfect_and_its_inverse_is_not() {
        let truth = disk(30, 20, 36);
        let same: Vec<u8> = truth.iter().map(|t| 255 * u8::from(*t)).collect();
        let scores = map_scores(&same, &truth, 30);
        assert!((scores.s - 1.0).abs() < 1e-9 && scores.mae == 0.0 && (scores.weighted_f - 1.0).abs() < 1e-12);
        assert!((scores.e[0] - 600.0 / 599.0).abs() < 1e-9); // the reference divides by n - 1
        let inverse: Vec<u8> = same.iter().map(|v| 255 - v).collect();
        let scores = map_scores(&inverse, &truth, 30);
        assert!(scores.mae == 1.0 && scores.weighted_f.abs() < 1e-9 && scores.s < 0.1 && scores.e[0] < 1e-6);
    }

    #[test]
    fn empty_and_full_truths_have_their_own_rules() {
        let map = [0u8, 255, 255, 255];
        let scores = map_scores(&map, &[false; 4], 2);
        assert_eq!((scores.s, scores.mae, scores.weighted_f), (0.25, 0.75, 0.0));
        let scores = map_scores(&map, &[true; 4], 2);
        assert_eq!((scores.s, scores.mae), (0.75, 0.25));
    }
}
