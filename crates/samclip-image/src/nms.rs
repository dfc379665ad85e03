//! Greedy non-maximum suppression. Reference: torchvision `ops.nms` (CPU kernel), in f32.
//! Parity: tests/nms.rs, equal index lists.

/// Indices of the boxes (`[x0, y0, x1, y1]`) that stay, best score first; equal scores keep their
/// order. A box goes when its IoU with a better one is strictly above `threshold`.
/// Panics when the two lengths differ.
pub fn nms(boxes: &[[f32; 4]], scores: &[f32], threshold: f32) -> Vec<usize> {
    assert_eq!(boxes.len(), scores.len(), "one score a box");
    let mut order: Vec<usize> = (0..boxes.len()).collect();
    order.sort_by(|&a, &b| scores[b].total_cmp(&scores[a]));
    let mut suppressed = vec![false; boxes.len()];
    let mut keep = Vec::new();
    for (rank, &i) in order.iter().enumerate() {
        if suppressed[i] {
            continue;
        }
        keep.push(i);
        for &j in &order[rank + 1..] {
            if !suppressed[j] && box_iou(&boxes[i], &boxes[j]) > threshold {
                suppressed[j] = true;
            }
        }
    }
    keep
}

/// IoU of two boxes `[x0, y0, x1, y1]` with continuous coordinates (no +1). NaN when both have no
/// area, which no threshold exceeds.
pub fn box_iou(a: &[f32; 4], b: &[f32; 4]) -> f32 {
    let area = |r: &[f32; 4]| (r[2] - r[0]) * (r[3] - r[1]);
    let width = (a[2].min(b[2]) - a[0].max(b[0])).max(0.0);
    let height = (a[3].min(b[3]) - a[1].max(b[1])).max(0.0);
    let both = width * height;
    both / (area(a) + area(b) - both)
}
