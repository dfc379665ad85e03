//! Each output format against its published shape.

use samclip_image::rle;
use serde_json::Value;

use super::*;
use crate::record::{MaskRecord, PromptRecord, Segmentation};
use crate::roles::Timing;

/// A 6 x 4 image with a 3 x 2 block named `dog` and an unnamed one-pixel mask.
fn record(file: &str) -> MaskImage {
    let block = |x0: usize, y0: usize, w: usize, h: usize| samclip_image::Mask {
        width: 6,
        height: 4,
        data: (0..24).map(|i| (x0..x0 + w).contains(&(i % 6)) && (y0..y0 + h).contains(&(i / 6))).collect(),
    };
    let mask = |text: Option<&str>, m: samclip_image::Mask, points: Vec<[f64; 3]>| MaskRecord {
        text: text.map(str::to_owned),
        prompt: PromptRecord { kind: "point".to_owned(), points, bbox: None },
        segmentation: Segmentation::new(&rle::encode(&m)),
        bbox: m.bbox_xywh(),
        area: m.area(),
        predicted_iou: 0.5,
        stability_score: 0.25,
        score: 0.75,
        crop_box: None,
        rle: rle::encode(&m),
    };
    let masks = vec![mask(Some("dog"), block(1, 1, 3, 2), vec![]), mask(None, block(5, 3, 1, 1), vec![[5.0, 3.0, 1.0]])];
    MaskImage { file: file.into(), width: 6, height: 4, masks, timing_ms: Timing::default() }
}

fn image() -> Image {
    Image::new(6, 4, (0..72).collect()).unwrap()
}

const ALL: [Format; 7] =
    [Format::Png, Format::Overlay, Format::Coco, Format::Sa1b, Format::Labelme, Format::Yolo, Format::Csv];

fn write_all(files: &[&str]) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path(), &ALL).unwrap();
    for file in files {
        writer.write(&image(), &record(file)).unwrap();
    }
    writer.finish().unwrap();
    let names = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.collect();
    names.sort();
    (dir, names)
}

fn json(dir: &tempfile::TempDir, name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(dir.path().join(name)).unwrap()).unwrap()
}

#[test]
fn every_format_writes_its_files_and_nothing_else() {
    let (_dir, names) = write_all(&["a/cat.jpg"]);
    let expected = [
        "cat.json", "cat.txt", "cat_0.png", "cat_1.png", "cat_metadata.csv", "cat_overlay.png", "cat_sa1b.json",
        "classes.txt", "coco.json",
    ];
    assert_eq!(names, expected);
}

#[test]
fn images_of_one_name_do_not_overwrite_each_other() {
    let (_dir, names) = write_all(&["a/cat.jpg", "b/cat.png"]);
    assert!(names.contains(&"cat_0.png".to_owned()) && names.contains(&"cat_2_0.png".to_owned()), "{names:?}");
}

#[test]
fn masks_read_back() {
    let (dir, _) = write_all(&["cat.jpg"]);
    let mask = samclip_image::Mask::open(&dir.path().join("cat_0.png")).unwrap();
    assert_eq!(rle::encode(&mask), record("cat.jpg").masks[0].rle);
}

#[test]
fn coco_has_images_categories_and_masks() {
    let (dir, _) = write_all(&["cat.jpg", "dog.jpg"]);
    let coco = json(&dir, "coco.json");
    assert_eq!(coco["images"].as_array().unwrap().len(), 2);
    let annotations = coco["annotations"].as_array().unwrap();
    assert_eq!(annotations.len(), 4);
    assert_eq!(annotations[2]["image_id"], 2);
    assert_eq!(annotations[0]["segmentation"]["size"], serde_json::json!([4, 6]));
    assert_eq!(annotations[0]["bbox"], serde_json::json!([1.0, 1.0, 3.0, 2.0]));
    assert_eq!(annotations[0]["area"], 6);
    let names: Vec<_> = coco["categories"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["dog", "object"]);
}

#[test]
fn a_name_that_was_not_found_keeps_its_number_and_has_no_annotation() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = Writer::new(dir.path(), &ALL).unwrap();
    let mut record = record("cat.jpg");
    let empty = samclip_image::Mask { width: 6, height: 4, data: vec![false; 24] };
    let dog = &mut record.masks[0];
    (dog.rle, dog.area, dog.bbox) = (rle::encode(&empty), 0, empty.bbox_xywh());
    dog.segmentation = Segmentation::new(&dog.rle);
    writer.write(&image(), &record).unwrap();
    writer.finish().unwrap();
    let coco = json(&dir, "coco.json");
    assert_eq!(coco["categories"][0]["name"], "dog");
    let annotations = coco["annotations"].as_array().unwrap();
    assert_eq!((annotations.len(), &annotations[0]["id"]), (1, &serde_json::json!(1)));
    assert_eq!(annotations[0]["category_id"], 2, "the unnamed object's");
    assert_eq!(std::fs::read_to_string(dir.path().join("classes.txt")).unwrap(), "dog\nobject\n");
    let yolo = std::fs::read_to_string(dir.path().join("cat.txt")).unwrap();
    assert!(yolo.lines().all(|line| line.starts_with("1 ")), "{yolo}");
}

#[test]
fn sa1b_labelme_yolo_and_csv_hold_the_same_masks() {
    let (dir, _) = write_all(&["cat.jpg"]);
    let sa1b = json(&dir, "cat_sa1b.json");
    assert_eq!(sa1b["image"]["file_name"], "cat.jpg");
    assert_eq!(sa1b["annotations"][1]["point_coords"], serde_json::json!([[5.0, 3.0]]));
    assert_eq!(sa1b["annotations"][0]["crop_box"], serde_json::json!([0, 0, 6, 4]));
    let labelme = json(&dir, "cat.json");
    assert_eq!(labelme["shapes"][0]["label"], "dog");
    assert_eq!(labelme["imageHeight"], 4);
    assert!(labelme["shapes"][0]["points"].as_array().unwrap().len() >= 3);
    let yolo = std::fs::read_to_string(dir.path().join("cat.txt")).unwrap();
    let first: Vec<f32> = yolo.lines().next().unwrap().split(' ').map(|v| v.parse().unwrap()).collect();
    assert!(first[0] == 0.0 && first.len() >= 7 && first[1..].iter().all(|v| (0.0..=1.0).contains(v)), "{yolo}");
    assert_eq!(std::fs::read_to_string(dir.path().join("classes.txt")).unwrap().lines().next(), Some("dog"));
    let csv = std::fs::read_to_string(dir.path().join("cat_metadata.csv")).unwrap();
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines[0], csv::COLUMNS);
    assert_eq!(lines[1], "0,6,1,1,3,2,,,0.5,0.25,0,0,6,4");
    assert_eq!(lines[2], "1,1,5,3,1,1,5,3,0.5,0.25,0,0,6,4");
}

#[test]
fn a_label_map_follows_voc_with_background() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("label.png");
    let labels = samclip_image::LabelMap { width: 3, height: 1, data: vec![0, 1, 2] };
    write_label_map(&path, &labels, 2, true).unwrap();
    assert_eq!(samclip_image::LabelMap::open(&path).unwrap().data, [1, 2, 0]);
    write_label_map(&path, &labels, 3, false).unwrap();
    assert_eq!(samclip_image::LabelMap::open(&path).unwrap().data, [0, 1, 2]);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, b"x").unwrap();
    let error = Writer::new(&file.join("out"), &ALL).unwrap_err();
    assert!(error.to_string().contains("cannot create the output folder"), "{error}");
    assert!(error.hint().is_some());
}
