//! Outlines of masks as polygons, for LabelMe and YOLO files.
//!
//! The outline runs along the borders between pixels, with the foreground to its right, so that
//! rasterising it again (`rle::from_polygons`) gives the same pixels. Holes are not represented,
//! as in those two formats.

use crate::{Mask, connected_components};

/// The outer contour of every 8-connected region, in reading order: corners `[x, y]` in pixels
/// (0 is the left or top border of the first pixel), clockwise on the screen, not closed.
pub fn polygons(mask: &Mask) -> Vec<Vec<[f32; 2]>> {
    let (labels, areas) = connected_components(mask, true);
    let mut next = 1;
    let mut out = Vec::with_capacity(areas.len());
    for (i, &label) in labels.iter().enumerate() {
        if label == next {
            out.push(trace(mask, i % mask.width, i / mask.width));
            next += 1;
        }
    }
    out
}

/// Right, down, left, up.
const STEPS: [(i64, i64); 4] = [(1, 0), (0, 1), (-1, 0), (0, -1)];

/// Follows the border from the top left corner of a region's first pixel.
fn trace(mask: &Mask, x0: usize, y0: usize) -> Vec<[f32; 2]> {
    let (w, h) = (mask.width as i64, mask.height as i64);
    let set = |x: i64, y: i64| (0..w).contains(&x) && (0..h).contains(&y) && mask.data[(y * w + x) as usize];
    let start = (x0 as i64, y0 as i64);
    let (mut x, mut y) = start;
    let mut heading = 0;
    let mut ring = vec![[x as f32, y as f32]];
    loop {
        (x, y) = (x + STEPS[heading].0, y + STEPS[heading].1);
        if (x, y) == start && closes(heading, &set, start) {
            return ring;
        }
        // The two pixels ahead of this corner. A filled left one is followed first: that keeps
        // regions together that touch at a corner only.
        let (left, right) = ahead(heading, x, y);
        let turned = if set(left.0, left.1) {
            (heading + 3) % 4
        } else if set(right.0, right.1) {
            heading
        } else {
            (heading + 1) % 4
        };
        if turned != heading {
            ring.push([x as f32, y as f32]);
            heading = turned;
        }
    }
}

/// A region's first corner is only ever left to the right, so arriving there upwards ends the walk.
fn closes(heading: usize, set: &impl Fn(i64, i64) -> bool, (x, y): (i64, i64)) -> bool {
    heading == 3 && !set(x, y - 1)
}

/// The pixels left and right of the line that continues `heading` from the corner `(x, y)`.
fn ahead(heading: usize, x: i64, y: i64) -> ((i64, i64), (i64, i64)) {
    match heading {
        0 => ((x, y - 1), (x, y)),
        1 => ((x, y), (x - 1, y)),
        2 => ((x - 1, y), (x - 1, y - 1)),
        _ => ((x - 1, y - 1), (x, y - 1)),
    }
}

/// Leaves out corners that lie within `tolerance` pixels of the simplified ring
/// (Douglas-Peucker). A ring never gets fewer than three corners.
pub fn simplify_polygon(ring: &[[f32; 2]], tolerance: f32) -> Vec<[f32; 2]> {
    if ring.len() <= 4 || tolerance <= 0.0 {
        return ring.to_vec();
    }
    // Split the ring at the corner farthest from the first one, then treat two open lines.
    let far = farthest(ring, |p| distance(p, ring[0])).0;
    let mut keep = vec![false; ring.len() + 1];
    let closed: Vec<[f32; 2]> = ring.iter().chain(&ring[..1]).copied().collect();
    (keep[0], keep[far]) = (true, true);
    let mut open = vec![(0, far), (far, ring.len())];
    while let Some((a, b)) = open.pop() {
        if b - a < 2 {
            continue;
        }
        let (at, off) = farthest(&closed[a + 1..b], |p| to_segment(p, closed[a], closed[b]));
        if off > tolerance {
            let at = a + 1 + at;
            keep[at] = true;
            open.extend([(a, at), (at, b)]);
        }
    }
    let kept: Vec<_> = ring.iter().zip(&keep).filter(|(_, k)| **k).map(|(p, _)| *p).collect();
    if kept.len() < 3 { ring.to_vec() } else { kept }
}

fn farthest(points: &[[f32; 2]], measure: impl Fn([f32; 2]) -> f32) -> (usize, f32) {
    let mut best = (0, -1.0);
    for (i, &point) in points.iter().enumerate() {
        let value = measure(point);
        if value > best.1 {
            best = (i, value);
        }
    }
    best
}

fn distance(a: [f32; 2], b: [f32; 2]) -> f32 {
    (a[0] - b[0]).hypot(a[1] - b[1])
}

fn to_segment(p: [f32; 2], a: [f32; 2], b: [f32; 2]) -> f32 {
    let (dx, dy) = (b[0] - a[0], b[1] - a[1]);
    let length = dx * dx + dy * dy;
    if length == 0.0 {
        return distance(p, a);
    }
    let t = (((p[0] - a[0]) * dx + (p[1] - a[1]) * dy) / length).clamp(0.0, 1.0);
    distance(p, [a[0] + t * dx, a[1] + t * dy])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{RegionMode, remove_small_regions, rle};

    fn draw(rings: &[Vec<[f32; 2]>], w: usize, h: usize) -> Mask {
        let flat: Vec<Vec<f64>> =
            rings.iter().map(|r| r.iter().flatten().map(|&v| f64::from(v)).collect()).collect();
        if flat.is_empty() {
            return Mask::empty(w, h);
        }
        rle::decode(&rle::from_polygons(&flat, h, w).unwrap())
    }

    #[test]
    fn a_square_has_four_corners() {
        let mut mask = Mask::empty(5, 4);
        for i in [6, 7, 11, 12] {
            mask.data[i] = true;
        }
        assert_eq!(polygons(&mask), [vec![[1.0, 1.0], [3.0, 1.0], [3.0, 3.0], [1.0, 3.0]]]);
    }

    #[test]
    fn rasterised_outlines_are_the_mask_with_holes_filled() {
        let mut state = 3u64;
        for round in 0..200 {
            let (w, h) = (1 + round % 17, 1 + round % 13);
            let mut bit = || {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                (state >> 40) % 100 < 20 + (round as u64 * 7) % 75
            };
            let mask = Mask::new(w, h, (0..w * h).map(|_| bit()).collect()).unwrap();
            // Holes: background that 4-connectivity cannot reach from outside.
            let outside = Mask::new(w, h, mask.data.iter().map(|v| !v).collect()).unwrap();
            let outside = outside.uncrop(0, 0, w, h);
            let (labels, _) = connected_components(&frame(&outside), false);
            let filled = (0..w * h).map(|i| labels[(i / w + 1) * (w + 2) + i % w + 1] != labels[0]).collect();
            let filled = Mask::new(w, h, filled).unwrap();
            assert_eq!(draw(&polygons(&mask), w, h), filled, "round {round}");
        }
    }

    /// A border of foreground around a mask.
    fn frame(mask: &Mask) -> Mask {
        let (w, h) = (mask.width + 2, mask.height + 2);
        let inner = mask.uncrop(1, 1, w, h);
        let data = (0..w * h).map(|i| {
            let (x, y) = (i % w, i / w);
            inner.data[i] || x == 0 || y == 0 || x == w - 1 || y == h - 1
        });
        Mask::new(w, h, data.collect()).unwrap()
    }

    #[test]
    fn simplified_disks_stay_close() {
        let disk = Mask::new(
            101,
            101,
            (0..101i32 * 101).map(|i| (i % 101 - 50).pow(2) + (i / 101 - 50).pow(2) < 1600).collect(),
        )
        .unwrap();
        let ring = &polygons(&disk)[0];
        let simple = simplify_polygon(ring, 1.0);
        assert!(simple.len() * 4 < ring.len() && simple.len() > 8, "{}", simple.len());
        assert!(draw(&[simple], 101, 101).iou(&disk) > 0.97);
        assert!(!remove_small_regions(&disk, 10, RegionMode::Holes).1);
    }
}
