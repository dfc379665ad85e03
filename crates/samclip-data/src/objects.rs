//! Objects of a semantic label map: connected components of the class masks.

use crate::IGNORE;
use samclip_image::{LabelMap, Mask};

/// A class and the mask of one of its components.
pub type Object = (usize, Mask);

/// The 8-connected components of every class mask that cover at least `min_fraction` of the
/// image, by class, then in scan order. `background` and `ignore` are no classes.
pub fn objects(labels: &LabelMap, background: Option<usize>, ignore: u8, min_fraction: f64) -> Vec<Object> {
    components(labels, background, ignore, min_fraction, true)
}

/// [`objects`] with a choice of neighbours: 8 (`eight`) or 4.
pub fn components(
    labels: &LabelMap,
    background: Option<usize>,
    ignore: u8,
    min_fraction: f64,
    eight: bool,
) -> Vec<Object> {
    let (width, height) = (labels.width, labels.height);
    let (component, areas) = label_components(labels, eight);
    let least = (min_fraction * (width * height) as f64).max(1.0);
    let is_class = |v: u8| Some(usize::from(v)) != background && v != ignore && v != IGNORE;
    // first pixels in scan order, then by class: components keep the scan order within a class
    let mut wanted: Vec<(u8, u32)> = Vec::new();
    let mut seen = vec![false; areas.len()];
    for (&c, &value) in component.iter().zip(&labels.data) {
        if !std::mem::replace(&mut seen[c as usize], true) && is_class(value) && areas[c as usize] as f64 >= least {
            wanted.push((value, c));
        }
    }
    wanted.sort_by_key(|w| w.0);
    let mask = |number| component.iter().map(|&c| c == number).collect();
    wanted.into_iter().map(|(class, c)| (usize::from(class), Mask { width, height, data: mask(c) })).collect()
}

/// The component of every pixel (regions of equal labels, all classes in one pass) and the
/// areas: union-find over the left and upper neighbours.
fn label_components(labels: &LabelMap, eight: bool) -> (Vec<u32>, Vec<usize>) {
    let (width, data) = (labels.width, &labels.data);
    let mut component = vec![0u32; data.len()];
    let mut parent: Vec<u32> = Vec::new();
    for i in 0..data.len() {
        let (x, y) = (i % width, i / width);
        let left = (x > 0).then(|| i - 1);
        let up = (y > 0).then(|| i - width);
        let corners = [(eight && y > 0 && x > 0).then(|| i - width - 1), (eight && y > 0 && x + 1 < width).then(|| i - width + 1)];
        let mut own = None;
        for j in [left, up, corners[0], corners[1]].into_iter().flatten().filter(|&j| data[j] == data[i]) {
            let root = find(&mut parent, component[j]);
            match own {
                None => own = Some(root),
                Some(other) if other != root => {
                    let (low, high) = (other.min(root), other.max(root));
                    parent[high as usize] = low;
                    own = Some(low);
                }
                Some(_) => {}
            }
        }
        component[i] = own.unwrap_or_else(|| {
            parent.push(parent.len() as u32);
            parent.len() as u32 - 1
        });
    }
    let mut areas = vec![0; parent.len()];
    for c in &mut component {
        *c = find(&mut parent, *c);
        areas[*c as usize] += 1;
    }
    (component, areas)
}

/// The root of a component, halving the path on the way.
fn find(parent: &mut [u32], mut c: u32) -> u32 {
    while parent[c as usize] != c {
        parent[c as usize] = parent[parent[c as usize] as usize];
        c = parent[c as usize];
    }
    c
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn components_split_by_class_void_and_size() {
        // two 1s touching diagonally are one object, the void column cuts the 2s in two
        #[rustfmt::skip]
        let data = vec![
            1, 0, 2, 255, 2,
            0, 1, 2, 255, 2,
            0, 0, 0, 255, 0,
            3, 0, 0,   0, 0,
        ];
        let labels = LabelMap { width: 5, height: 4, data };
        let found = objects(&labels, Some(0), 255, 0.1);
        let summary: Vec<(usize, usize)> =
            found.iter().map(|(c, m)| (*c, m.data.iter().filter(|&&b| b).count())).collect();
        assert_eq!(summary, [(1, 2), (2, 2), (2, 2)]); // class 3 covers 1 of 20 pixels: too small
        assert!(found[1].1.data[2] && found[2].1.data[4]);
        assert_eq!(objects(&labels, Some(0), 255, 0.0).len(), 4);
        assert_eq!(components(&labels, Some(0), 255, 0.0, false).len(), 5); // the 1s fall apart
        assert_eq!(objects(&labels, None, 255, 0.0)[0].0, 0); // without a background, 0 is a class
        assert_eq!(objects(&labels, Some(0), 2, 0.0).len(), 2); // an ignored class is no class
    }

    #[test]
    fn one_pass_finds_what_each_class_on_its_own_has() {
        use rand::{Rng, SeedableRng};
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(8);
        for eight in [false, true] {
            for (width, height) in [(1, 1), (1, 9), (13, 1), (31, 17), (40, 40)] {
                let data = (0..width * height).map(|_| rng.random_range(0..3)).collect();
                let labels = LabelMap { width, height, data };
                let found = components(&labels, Some(0), IGNORE, 0.0, eight);
                let mut expected: Vec<Object> = Vec::new();
                for class in 1..3 {
                    let data = labels.data.iter().map(|&v| v == class).collect();
                    let (of, _) = samclip_image::connected_components(&Mask { width, height, data }, eight);
                    let mut numbers: Vec<u32> = Vec::new();
                    of.iter().filter(|&&n| n > 0).for_each(|n| if !numbers.contains(n) { numbers.push(*n) });
                    for n in numbers {
                        let data = of.iter().map(|&o| o == n).collect();
                        expected.push((usize::from(class), Mask { width, height, data }));
                    }
                }
                assert_eq!(found, expected);
            }
        }
    }
}
