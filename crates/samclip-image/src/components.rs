//! Connected components and the removal of small ones.
//!
//! Reference: segment_anything/utils/amg.py, `remove_small_regions` (cv2's
//! `connectedComponentsWithStats`). Parity: tests/regions.rs, equal masks.

use crate::Mask;

/// What [`remove_small_regions`] removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionMode {
    /// Small background regions are filled.
    Holes,
    /// Small foreground regions are erased; the largest stays when all are small.
    Islands,
}

/// Labels the foreground regions: `labels[pixel]` is 0 for background, else `1 + k` where regions
/// are numbered by their first pixel in reading order, and `areas[k]` is that region's size.
/// `eight` joins pixels that touch at a corner.
pub fn connected_components(mask: &Mask, eight: bool) -> (Vec<u32>, Vec<usize>) {
    label(&mask.data, mask.width, eight)
}

fn label(data: &[bool], width: usize, eight: bool) -> (Vec<u32>, Vec<usize>) {
    // First pass: provisional labels from the pixels above and to the left, merged in a forest
    // whose roots are always the smallest label.
    let mut labels = vec![0u32; data.len()];
    let mut parent = vec![0u32];
    for i in 0..data.len() {
        if !data[i] {
            continue;
        }
        let x = i % width;
        let mut best = 0;
        let mut join = |neighbour: u32| {
            if neighbour != 0 {
                best = if best == 0 {
                    root(&mut parent, neighbour)
                } else {
                    union(&mut parent, best, neighbour)
                };
            }
        };
        if x > 0 {
            join(labels[i - 1]);
        }
        if i >= width {
            join(labels[i - width]);
            if eight && x > 0 {
                join(labels[i - width - 1]);
            }
            if eight && x + 1 < width {
                join(labels[i - width + 1]);
            }
        }
        if best == 0 {
            best = parent.len() as u32;
            parent.push(best);
        }
        labels[i] = best;
    }
    // Second pass: final numbers in order of first appearance.
    let mut number = vec![0u32; parent.len()];
    let mut areas: Vec<usize> = Vec::new();
    for value in &mut labels {
        if *value != 0 {
            let root = root(&mut parent, *value) as usize;
            if number[root] == 0 {
                areas.push(0);
                number[root] = areas.len() as u32;
            }
            *value = number[root];
            areas[*value as usize - 1] += 1;
        }
    }
    (labels, areas)
}

fn root(parent: &mut [u32], mut label: u32) -> u32 {
    while parent[label as usize] != label {
        let up = parent[label as usize];
        parent[label as usize] = parent[up as usize];
        label = up;
    }
    label
}

fn union(parent: &mut [u32], a: u32, b: u32) -> u32 {
    let (a, b) = (root(parent, a), root(parent, b));
    let (low, high) = (a.min(b), a.max(b));
    parent[high as usize] = low;
    low
}

/// Removes regions smaller than `area_thresh` pixels (8-connectivity). Returns the new mask and
/// whether it changed.
pub fn remove_small_regions(mask: &Mask, area_thresh: usize, mode: RegionMode) -> (Mask, bool) {
    let holes = mode == RegionMode::Holes;
    let working: Vec<bool> = mask.data.iter().map(|&v| v != holes).collect();
    let (labels, areas) = label(&working, mask.width, true);
    if areas.iter().all(|&area| area >= area_thresh) {
        return (mask.clone(), false);
    }
    // Foreground afterwards, by label; label 0 is the background of `working`.
    let mut keep = vec![holes];
    if holes {
        keep.extend(areas.iter().map(|&area| area < area_thresh));
    } else {
        keep.extend(areas.iter().map(|&area| area >= area_thresh));
        if !keep.contains(&true) {
            let largest = areas.iter().copied().max().unwrap_or(0);
            let first = areas.iter().position(|&area| area == largest).unwrap_or(0);
            keep[first + 1] = true;
        }
    }
    let data = labels.iter().map(|&label| keep[label as usize]).collect();
    (Mask { width: mask.width, height: mask.height, data }, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(width: usize, text: &str) -> Mask {
        let data: Vec<bool> = text.chars().filter(|c| !c.is_whitespace()).map(|c| c == '#').collect();
        Mask::new(width, data.len() / width, data).unwrap()
    }

    #[test]
    fn corners_join_only_with_eight() {
        let m = mask(4, "#..# .##. #..#");
        assert_eq!(connected_components(&m, true).1, [6]);
        let (labels, areas) = connected_components(&m, false);
        assert_eq!(areas, [1, 1, 2, 1, 1]);
        assert_eq!(labels, [1, 0, 0, 2, 0, 3, 3, 0, 4, 0, 0, 5]);
    }

    #[test]
    fn arms_that_meet_late_are_one_region() {
        let m = mask(5, "#.#.# #.#.# #####");
        assert_eq!(connected_components(&m, false).1, [11]);
    }

    #[test]
    fn the_largest_island_stays_when_all_are_small() {
        let m = mask(6, "#..##. ......");
        let (out, changed) = remove_small_regions(&m, 100, RegionMode::Islands);
        assert!(changed);
        assert_eq!(out, mask(6, "...##. ......"));
        let (out, changed) = remove_small_regions(&Mask::empty(3, 3), 5, RegionMode::Islands);
        assert!(!changed && out.area() == 0);
    }
}
