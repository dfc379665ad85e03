//! Objects of a semantic label map: connected components of the class masks.

use crate::dataset::present_classes;
use samclip_image::{LabelMap, Mask, connected_components};

/// A class and the mask of one of its components.
pub type Object = (usize, Mask);

/// The 8-connected components of every class mask that cover at least `min_fraction` of the
/// image, by class, then in scan order. `background` and `ignore` are no classes.
pub fn objects(labels: &LabelMap, background: Option<usize>, ignore: u8, min_fraction: f64) -> Vec<Object> {
    let (width, height) = (labels.width, labels.height);
    let least = min_fraction * (width * height) as f64;
    let mut found = Vec::new();
    for class in present_classes(labels, background) {
        if class == usize::from(ignore) {
            continue;
        }
        let data = labels.data.iter().map(|&v| usize::from(v) == class).collect();
        let (component, areas) = connected_components(&Mask { width, height, data }, true);
        for number in components_of(&component, &areas, least) {
            let data = component.iter().map(|&c| c == number).collect();
            found.push((class, Mask { width, height, data }));
        }
    }
    found
}

/// The numbers of the components of at least `least` pixels. Areas are counted here, so that
/// it does not matter whether the list of areas starts with the background.
fn components_of(component: &[u32], areas: &[usize], least: f64) -> Vec<u32> {
    let mut count = vec![0usize; areas.len() + 2];
    for &c in component {
        count[c as usize] += 1;
    }
    (1..count.len()).filter(|&c| count[c] > 0 && count[c] as f64 >= least).map(|c| c as u32).collect()
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
        assert_eq!(objects(&labels, None, 255, 0.0)[0].0, 0); // without a background, 0 is a class
        assert_eq!(objects(&labels, Some(0), 2, 0.0).len(), 2); // an ignored class is no class
    }
}
