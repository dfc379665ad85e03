//! The datasets against the counts and facts of the development data, and against broken files.

use samclip_data::{Dataset, IGNORE, image_folder, mask_folder::MaskFolder, objects, open, sa1b::Sa1b, voc::Voc};
use samclip_image::{Image, LabelMap, write_png_palette, write_png_rgb};
use std::fs;
use std::path::Path;

#[test]
fn counts_and_classes_are_the_readmes() {
    let Some(data) = samclip_testkit::data() else { return };
    for (name, split, len, classes, background) in [
        ("voc", "train_aug", 3269, 21, Some(0)),
        ("voc", "val", 235, 21, Some(0)),
        ("ccp", "train", 803, 59, Some(0)),
        ("ccp", "val", 100, 59, Some(0)),
        ("camvid", "train", 367, 12, None),
        ("camvid", "val", 50, 12, None),
        ("bsds_sa1b", "train", 300, 0, None),
        ("bsds_sa1b", "val", 50, 0, None),
        ("imagenet_sample", "train", 999, 200, None),
        ("imagenet_sample", "val", 500, 1000, None),
        ("flickr8k", "", 100, 0, None),
    ] {
        let dataset = open(&data, name, split).unwrap();
        let found = (dataset.len(), dataset.class_names().len(), dataset.background());
        assert_eq!(found, (len, classes, background), "{name} {split}");
        let sample = dataset.get(len - 1).unwrap();
        assert!(sample.image.width() > 50 && !sample.id.is_empty());
        assert!(dataset.get(len).is_err());
    }
    assert!(open(&data, "coco", "val").is_err());
}

#[test]
fn voc_val_has_the_readmes_class_counts() {
    let Some(data) = samclip_testkit::data() else { return };
    let dataset = open(&data, "voc", "val").unwrap();
    let mut photos = [0; 21];
    for i in 0..dataset.len() {
        dataset.get(i).unwrap().class_ids.iter().for_each(|&c| photos[c] += 1);
    }
    // README, images per class in val: dog 68, cat 60, person 47, horse 41, sheep 20, cow 37, tvmonitor 3
    assert_eq!([12, 8, 15, 13, 17, 10, 20].map(|c| photos[c]), [68, 60, 47, 41, 20, 37, 3]);
    assert_eq!(photos[0], 0);
}

#[test]
fn samples_carry_what_their_format_holds() {
    let Some(data) = samclip_testkit::data() else { return };
    let bsds = open(&data, "bsds_sa1b", "val").unwrap();
    let masks: usize = (0..bsds.len()).map(|i| bsds.get(i).unwrap().masks.len()).sum();
    assert_eq!(masks, 3637);
    let sample = bsds.get(0).unwrap();
    let (w, h) = (sample.image.width(), sample.image.height());
    assert!(sample.masks.iter().all(|m| (m.width, m.height) == (w, h) && m.data.iter().filter(|&&b| b).count() >= 64));
    let camvid = open(&data, "camvid", "val").unwrap().get(0).unwrap();
    assert!(camvid.labels.unwrap().data.contains(&IGNORE)); // `unlabelled` became void
    assert!(!camvid.class_ids.contains(&11));
    let imagenet = open(&data, "imagenet_sample", "val").unwrap();
    let sample = imagenet.get(0).unwrap();
    assert_eq!((sample.class_ids[0], imagenet.class_names()[0].as_str()), (0, "tench"));
    let flickr = open(&data, "flickr8k", "").unwrap();
    assert_eq!((0..100).map(|i| flickr.get(i).unwrap().captions.len()).sum::<usize>(), 500);
    let voc = open(&data, "voc", "val").unwrap().get(0).unwrap();
    assert!(!objects(voc.labels.as_ref().unwrap(), Some(0), IGNORE, 0.01).is_empty());
}

fn write(folder: &Path, name: &str, side: usize, value: u8) {
    fs::create_dir_all(folder.join("JPEGImages")).unwrap();
    fs::create_dir_all(folder.join("SegmentationClass")).unwrap();
    fs::create_dir_all(folder.join("ImageSets/Segmentation")).unwrap();
    // a photo of 8 x 8, stored as PNG under the expected name: the content decides
    write_png_rgb(&folder.join("JPEGImages").join(format!("{name}.jpg")), &Image::new(8, 8, vec![9; 192]).unwrap()).unwrap();
    let labels = LabelMap { width: side, height: side, data: vec![value; side * side] };
    write_png_palette(&folder.join("SegmentationClass").join(format!("{name}.png")), &labels).unwrap();
}

#[test]
fn broken_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "good", 8, 20);
    write(root, "small", 7, 1);
    write(root, "value", 8, 21);
    fs::write(root.join("ImageSets/Segmentation/val.txt"), "good\nsmall\nvalue\nabsent\n").unwrap();
    let dataset = Voc::open(root, "val").unwrap();
    assert_eq!(dataset.get(0).unwrap().class_ids, [20]);
    let message = |i: usize| dataset.get(i).unwrap_err().to_string();
    assert!(message(1).contains("7 x 7") && message(1).contains("small.png"), "{}", message(1));
    assert!(message(2).contains("found 21") && message(2).contains("value.png"), "{}", message(2));
    assert!(message(3).contains("absent.jpg"), "{}", message(3));
    assert!(Voc::open(root, "train").is_err());
    assert!(MaskFolder::ccp(root, "train").is_err());
    assert!(image_folder::ImageFolder::open(&root.join("ImageSets")).is_err());
    let json = root.join("json");
    fs::create_dir(&json).unwrap();
    assert!(Sa1b::open(&json).is_err());
    let document = |name: &str| format!(r#"{{"image":{{"width":8,"height":8,"file_name":"{name}"}},"annotations":[]}}"#);
    fs::write(json.join("a.json"), document("../JPEGImages/good.jpg")).unwrap();
    fs::write(json.join("b.json"), "{").unwrap();
    let dataset = Sa1b::open(&json).unwrap();
    assert!(dataset.get(0).unwrap_err().to_string().contains("without a folder"));
    assert!(dataset.get(1).unwrap_err().to_string().contains("not SA-1B JSON"));
}

#[test]
fn file_lists_hold_pairs() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    write(root, "a", 8, 2);
    let list = root.join("list.txt");
    fs::write(&list, "JPEGImages/a.jpg SegmentationClass/a.png\nJPEGImages/a.jpg").unwrap();
    let classes: Vec<String> = ["bg", "x", "y"].map(String::from).to_vec();
    let dataset = samclip_data::file_list::FileList::open("mine", &list, root, classes, Some(0)).unwrap();
    assert_eq!((dataset.len(), dataset.name()), (2, "mine"));
    assert_eq!(dataset.get(0).unwrap().class_ids, [2]);
    assert!(dataset.get(1).unwrap().labels.is_none());
}
