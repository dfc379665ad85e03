//! Every class of every dataset maps to a name of the text table, or explicitly to none.

use samclip_data::names::{CAMVID, CCP, Entry, IMAGENET_FOLDERS, VOC, imagenet1k, name_map};
use samclip_data::{open, voc};
use std::collections::BTreeSet;

#[test]
fn all_names_are_in_the_table() {
    let Some(data) = samclip_testkit::data() else { return };
    let text = std::fs::read_to_string(data.join("text/names.txt")).unwrap();
    let names: BTreeSet<&str> = text.lines().collect();
    let entries: Vec<Entry> = [VOC, CCP, CAMVID, IMAGENET_FOLDERS].concat();
    for (class, name, also) in entries {
        for name in name.iter().chain(also.iter()) {
            assert!(names.contains(name), "{class} -> {name} is not in names.txt");
        }
        assert!(name.is_some() || also.is_empty(), "{class} has synonyms but no name");
    }
    let imagenet = imagenet1k(&data.join("text/imagenet1k_to_name.tsv")).unwrap();
    assert_eq!((imagenet.len(), imagenet.iter().flatten().count()), (1000, 875));
    assert!(imagenet.iter().flatten().all(|n| names.contains(n.as_str())));
    for (name, split) in [("voc", "val"), ("ccp", "val"), ("camvid", "val"), ("imagenet_sample", "train"), ("imagenet_sample", "val")] {
        let dataset = open(&data, name, split).unwrap();
        let map = name_map(dataset.as_ref(), &data.join("text")).unwrap();
        assert_eq!(map.len(), dataset.class_names().len(), "{name}");
        assert!(map.iter().flatten().all(|n| names.contains(n.as_str())), "{name} {split}: {map:?}");
    }
}

#[test]
fn voc_covers_all_classes_with_distinct_names() {
    assert!(VOC.iter().map(|e| e.0).eq(voc::CLASSES));
    let names: BTreeSet<_> = VOC.iter().filter_map(|e| e.1).collect();
    assert_eq!(names.len(), 20);
}
