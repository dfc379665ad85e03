//! A user's labels in four forms: the same two photos read alike in each of them, and everything that
//! can be wrong with labels is found with the name of the file.

use samclip_data::labelled::{Check, Finding, check, open};
use samclip_data::subset::Subset;
use samclip_data::{Dataset, IGNORE, Sample};
use samclip_image::{Image, LabelMap, Mask, rle, write_png_palette, write_png_rgb};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;

const W: usize = 12;
const H: usize = 10;

/// Photo a: a 4 x 3 cat at (2, 1). Photo b: a 5 x 5 dog at (5, 4) with a 2 x 2 cat on it.
fn labels() -> [LabelMap; 2] {
    let mut a = LabelMap { width: W, height: H, data: vec![0; W * H] };
    let mut b = a.clone();
    let fill = |map: &mut LabelMap, x0: usize, y0: usize, w: usize, h: usize, value: u8| {
        (y0..y0 + h).for_each(|y| map.data[y * W + x0..y * W + x0 + w].fill(value));
    };
    fill(&mut a, 2, 1, 4, 3, 1);
    fill(&mut b, 5, 4, 5, 5, 2);
    fill(&mut b, 6, 5, 2, 2, 1);
    [a, b]
}

fn photo(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let data = (0..W * H).flat_map(|i| [i as u8, 7, 200]).collect();
    write_png_rgb(path, &Image::new(W, H, data).unwrap()).unwrap();
}

fn square(x0: f64, y0: f64, w: f64, h: f64) -> Vec<f64> {
    vec![x0, y0, x0 + w, y0, x0 + w, y0 + h, x0, y0 + h]
}

fn write(path: &Path, value: &Value) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, value.to_string()).unwrap();
}

fn coco_document() -> Value {
    let cat = Mask { width: W, height: H, data: labels()[1].data.iter().map(|v| *v == 1).collect() };
    let counts = rle::to_coco_string(&rle::encode(&cat));
    json!({
        "images": [
            { "id": 7, "file_name": "a.png", "width": W, "height": H },
            { "id": 9, "file_name": "b.png", "width": W, "height": H },
        ],
        "categories": [{ "id": 30, "name": "dog" }, { "id": 20, "name": "cat" }],
        "annotations": [
            { "id": 1, "image_id": 7, "category_id": 20, "iscrowd": 0, "segmentation": [square(2.0, 1.0, 4.0, 3.0)] },
            { "id": 2, "image_id": 9, "category_id": 20, "iscrowd": 0, "segmentation": { "counts": counts, "size": [H, W] } },
            { "id": 3, "image_id": 9, "category_id": 30, "iscrowd": 0, "segmentation": [square(5.0, 4.0, 5.0, 5.0)] },
        ],
    })
}

fn coco(root: &Path, document: &Value) -> std::path::PathBuf {
    photo(&root.join("images/a.png"));
    photo(&root.join("images/b.png"));
    let file = root.join("labels.json");
    write(&file, document);
    file
}

fn label_me(root: &Path) {
    let shape = |label: &str, kind: &str, points: Value| json!({ "label": label, "shape_type": kind, "points": points });
    let dog = shape("dog", "polygon", json!([[5.0, 4.0], [10.0, 4.0], [10.0, 9.0], [5.0, 9.0]]));
    let files = [
        ("a", json!([shape("cat", "rectangle", json!([[2.0, 1.0], [6.0, 4.0]]))])),
        ("b", json!([shape("cat", "polygon", json!([[6.0, 5.0], [8.0, 5.0], [8.0, 7.0], [6.0, 7.0]])), dog])),
    ];
    for (name, shapes) in files {
        photo(&root.join(format!("{name}.png")));
        let file = json!({ "imagePath": format!("{name}.png"), "imageWidth": W, "imageHeight": H, "shapes": shapes });
        write(&root.join(format!("{name}.json")), &file);
    }
}

fn mask_folder(root: &Path) {
    fs::create_dir_all(root.join("masks")).unwrap();
    fs::write(root.join("classes.txt"), "background\ncat\ndog\nvoid\n").unwrap();
    for (name, labels) in ["a", "b"].into_iter().zip(labels()) {
        photo(&root.join(format!("images/{name}.png")));
        write_png_palette(&root.join(format!("masks/{name}.png")), &labels).unwrap();
    }
}

fn voc(root: &Path) {
    fs::create_dir_all(root.join("ImageSets/Segmentation")).unwrap();
    fs::create_dir_all(root.join("SegmentationClass")).unwrap();
    fs::write(root.join("ImageSets/Segmentation/train.txt"), "a\nb\n").unwrap();
    fs::write(root.join("classes.txt"), "background\ncat\ndog\n").unwrap();
    for (name, labels) in ["a", "b"].into_iter().zip(labels()) {
        photo(&root.join(format!("JPEGImages/{name}.jpg")));
        write_png_palette(&root.join(format!("SegmentationClass/{name}.png")), &labels).unwrap();
    }
}

#[test]
fn four_forms_read_alike() {
    let dir = tempfile::tempdir().unwrap();
    let root = |name: &str| dir.path().join(name);
    coco(&root("coco"), &coco_document());
    label_me(&root("labelme"));
    mask_folder(&root("masks"));
    voc(&root("voc"));
    for (path, form) in [
        (root("coco/labels.json"), "COCO"),
        (root("coco"), "COCO"),
        (root("labelme"), "LabelMe"),
        (root("masks"), "mask folder"),
        (root("voc"), "VOC"),
    ] {
        let data = open(&path, "train").unwrap();
        assert_eq!((data.form(), data.len(), data.background()), (form, 2, Some(0)), "{form}");
        assert_eq!(data.class_names()[..3], ["background", "cat", "dog"], "{form}");
        for (i, expected) in labels().iter().enumerate() {
            let Sample { labels, class_ids, .. } = data.get(i).unwrap();
            assert_eq!(labels.as_ref(), Some(expected), "{form}, photo {i}");
            assert_eq!(class_ids, if i == 0 { vec![1] } else { vec![1, 2] }, "{form}");
        }
        let (_, report) = check(&path, "train", &[]).unwrap();
        let void = report.classes.iter().any(|c| c.class == "void");
        let expected: Vec<Finding> = Vec::new();
        let findings: Vec<Finding> = report.findings.into_iter().filter(|f| !(void && f.message.contains("`void`"))).collect();
        assert_eq!(findings, expected, "{form}");
    }
}

#[test]
fn crowds_and_void_are_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let mut document = coco_document();
    document["annotations"][2]["iscrowd"] = json!(1);
    document["annotations"][2]["segmentation"] = json!({ "counts": [0, W * H], "size": [H, W] });
    let file = coco(dir.path(), &document);
    let labels = open(&file, "").unwrap().get(1).unwrap().labels.unwrap();
    assert!(labels.data.iter().all(|v| *v == IGNORE || *v == 1), "the smaller cat stays on top");
    let (_, report) = check(&file, "", &[]).unwrap();
    assert!((report.ignore_share - (W * H - 4) as f64 / (2 * W * H) as f64).abs() < 1e-9, "{}", report.ignore_share);
}

/// The findings of a check as `message: file name`.
fn found(report: &Check) -> Vec<String> {
    let line = |f: &Finding| format!("{}: {}", f.message, f.file.file_name().unwrap().to_string_lossy());
    report.findings.iter().map(line).collect()
}

fn has(report: &Check, message: &str, file: &str) {
    let lines = found(report);
    assert!(lines.iter().any(|l| l.contains(message) && l.ends_with(file)), "`{message}` of {file} is not in {lines:#?}");
}

#[test]
fn wrong_coco_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let mut document = coco_document();
    let annotation = |id: u64, image: u64, category: u64, segmentation: Value| {
        json!({ "id": id, "image_id": image, "category_id": category, "segmentation": segmentation })
    };
    document["annotations"] = json!([
        annotation(1, 7, 20, json!([square(2.0, 1.0, 4.0, 3.0)])),
        annotation(2, 7, 20, json!([[1.0, 1.0, 5.0, 5.0]])),
        annotation(3, 7, 20, json!({ "counts": "not a run\u{7f}", "size": [H, W] })),
        annotation(4, 7, 20, json!({ "counts": [5, 3], "size": [H, W] })),
        annotation(5, 7, 20, json!({ "counts": [W * H], "size": [H, W] })),
        annotation(6, 7, 20, json!({ "counts": [50], "size": [5, 10] })),
        annotation(7, 99, 20, json!([square(2.0, 1.0, 4.0, 3.0)])),
        annotation(8, 7, 77, json!([square(2.0, 1.0, 4.0, 3.0)])),
        annotation(8, 7, 20, json!("none")),
    ]);
    document["images"][1]["id"] = json!(7);
    let file = coco(dir.path(), &document);
    let (data, report) = check(&file, "", &[]).unwrap();
    for message in [
        "image id 7 is used twice: a.png and b.png",
        "annotation id 8 is used twice",
        "annotation 2 of a.png: a polygon of 4 numbers, expected at least three points",
        "annotation 3 of a.png: ",
        "annotation 4 of a.png: ",
        "annotation 5 of a.png: an empty mask",
        "annotation 6 of a.png: runs for 10 x 5 pixels, the image has 12 x 10",
        "annotation 7 belongs to image 99, which is not in the file",
        "annotation 8 has category 77, which is not in the file",
        "annotation 8 of a.png: expected polygons, or runs",
        "class `dog` is in no photo",
    ] {
        has(&report, message, "labels.json");
    }
    assert!(!report.bad.is_empty());
    for &index in &report.bad {
        let nothing = data.get(index).map_or(true, |s| s.class_ids.is_empty());
        assert!(nothing, "photo {index} cannot be trained on");
    }
}

#[test]
fn wrong_mask_folders_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    mask_folder(root);
    let map = |width: usize, height: usize, value: u8| LabelMap { width, height, data: vec![value; width * height] };
    for (name, labels) in [("size", map(H, W, 1)), ("range", map(W, H, 9)), ("empty", map(W, H, 0))] {
        photo(&root.join(format!("images/{name}.png")));
        write_png_palette(&root.join(format!("masks/{name}.png")), &labels).unwrap();
    }
    photo(&root.join("images/alone.png"));
    photo(&root.join("images/a.bmp"));
    write_png_palette(&root.join("masks/orphan.png"), &map(W, H, 1)).unwrap();
    fs::write(root.join("masks/b.png"), b"not a picture").unwrap();
    let wanted = ["cat", "dog", "horse"].map(String::from);
    let (data, report) = check(root, "train", &wanted).unwrap();
    has(&report, "mask is 10 x 12 but the photo is 12 x 10", "size.png");
    has(&report, "expected label values below 4 or 255, found 9", "range.png");
    has(&report, "an empty mask", "empty.png");
    has(&report, "the file is missing", "alone.png");
    has(&report, "two photos named a", "a.png");
    has(&report, "a mask without a photo", "orphan.png");
    has(&report, "not an image that can be read", "b.png");
    has(&report, "class `dog` is in no photo", root.file_name().unwrap().to_str().unwrap());
    has(&report, "there is no class `horse`", root.file_name().unwrap().to_str().unwrap());
    assert_eq!((report.photos, report.usable), (7, 2), "{:?}", found(&report));
    let good: Vec<usize> = (0..data.len()).filter(|i| !report.bad.contains(i)).collect();
    let rest = Subset::new(Arc::new(data), good).unwrap();
    assert!((0..rest.len()).all(|i| rest.get(i).is_ok_and(|s| !s.class_ids.is_empty())));
}

#[test]
fn wrong_label_me_files_are_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    label_me(dir.path());
    let shapes = json!([
        { "label": "cat", "shape_type": "polygon", "points": [[1.0, 1.0], [5.0, 5.0]] },
        { "label": "cat", "shape_type": "circle", "points": [[1.0, 1.0], [5.0, 5.0]] },
        { "label": "cat", "shape_type": "rectangle", "points": [[1.0, 1.0]] },
    ]);
    let file = json!({ "imagePath": "b.png", "imageWidth": W, "imageHeight": H, "shapes": shapes });
    write(&dir.path().join("c.json"), &file);
    let (_, report) = check(dir.path(), "", &[]).unwrap();
    has(&report, "photo b.png has a second file", "c.json");
    has(&report, "shape 0 (cat): a polygon of 4 numbers", "c.json");
    has(&report, "shape 1 (cat): a shape of type circle", "c.json");
    has(&report, "shape 2 (cat): a rectangle of 1 points", "c.json");
    write(&dir.path().join("d.json"), &json!({ "shapes": 3 }));
    assert!(check(dir.path(), "", &[]).unwrap_err().to_string().ends_with("d.json"));
}

#[test]
fn what_is_no_labelled_data_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let message = |path: &Path| open(path, "train").unwrap_err().to_string();
    assert!(message(dir.path()).contains("no labels of a known form"));
    assert!(message(&dir.path().join("nowhere")).contains("cannot read"));
    let file = dir.path().join("x.json");
    fs::write(&file, "{").unwrap();
    assert!(message(&file).contains("COCO: "));
    write(&file, &json!({ "images": [], "annotations": [], "categories": [] }));
    assert!(message(&file).contains("expected images, found none"));
    write(&dir.path().join("y.json"), &json!({ "images": [], "annotations": [], "categories": [] }));
    assert!(message(dir.path()).contains("expected one COCO file, found 2"));
}

#[test]
fn a_low_label_split_is_read_as_published() {
    let dir = tempfile::tempdir().unwrap();
    voc(dir.path());
    let list = dir.path().join("split.txt");
    let read = |text: &str| {
        fs::write(&list, text).unwrap();
        Subset::of_list(Arc::new(open(dir.path(), "train").unwrap()), &list)
    };
    let split = read("JPEGImages/b.jpg SegmentationClass/b.png\n").unwrap();
    assert_eq!((split.len(), split.get(0).unwrap().id.as_str()), (1, "b"));
    assert_eq!(read("b\na").unwrap().get(1).unwrap().id, "a");
    let message = |text: &str| read(text).err().unwrap().to_string();
    assert!(message("JPEGImages/z.jpg SegmentationClass/z.png\n").contains("line 1: voc has no photo `JPEGImages/z.jpg`"));
    assert!(message("a\nb\na\n").contains("line 3: `a` is named twice"));
}

#[test]
fn the_development_data_passes_the_check() {
    let Some(data) = samclip_testkit::data() else { return };
    let (_, report) = check(&data.join("camvid"), "val", &["car".to_owned()]).unwrap();
    assert_eq!((report.photos, report.usable), (50, 50));
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert!(report.ignore_share > 0.0 && report.ignore_share < 0.2, "{}", report.ignore_share);
}
