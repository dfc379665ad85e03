//! The benchmarks' folders in miniature: the published layout of each, with a handful of painted photos.
//!
//! Every label map is 40 x 30 and has the same shape, so that what a constant answer scores can be worked out by hand:
//! columns 0-19 class 0, 20-29 class 1, 30-37 class 2 + (photo mod 4), 38-39 void. With [`PHOTOS`] photos six classes occur.
//! Panics on a folder that cannot be written: tests only.

use image::codecs::jpeg::JpegEncoder;
use samclip_image::{LabelMap, Mask, rle, write_png_mask, write_png_palette, write_png_rgb};
use serde_json::json;
use std::path::Path;

/// Photos of every set.
pub const PHOTOS: usize = 4;
/// Width of every photo.
pub const WIDTH: usize = 40;
/// Height of every photo.
pub const HEIGHT: usize = 30;
/// Pixels whose truth is known.
pub const KNOWN: f64 = 38.0 * 30.0;

/// The class of a column of photo `k`; none where it is void.
pub fn class_at(x: usize, k: usize) -> Option<usize> {
    match x {
        0..20 => Some(0),
        20..30 => Some(1),
        30..38 => Some(2 + k % 4),
        _ => None,
    }
}

fn make(path: &Path) {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).unwrap();
    }
}

fn put(path: &Path, text: &str) {
    make(path);
    std::fs::write(path, text).unwrap();
}

/// A JPEG whose colours follow the columns' classes.
pub fn photo_bytes(k: usize) -> Vec<u8> {
    let pixel = |i: usize| {
        let (x, y) = (i % WIDTH, i / WIDTH);
        let class = class_at(x, k).map_or(7, |c| c);
        [(30 + 35 * class) as u8, (200 - 25 * class) as u8, (y * 8) as u8]
    };
    let data: Vec<u8> = (0..WIDTH * HEIGHT).flat_map(pixel).collect();
    let mut out = Vec::new();
    JpegEncoder::new_with_quality(&mut out, 92).encode(&data, WIDTH as u32, HEIGHT as u32, image::ExtendedColorType::Rgb8).unwrap();
    out
}

/// Writes photo `k`.
pub fn photo(path: &Path, k: usize) {
    make(path);
    std::fs::write(path, photo_bytes(k)).unwrap();
}

/// Writes the label map of photo `k`; `raw` says what a class (or none) is in the file.
pub fn labels(path: &Path, k: usize, raw: &dyn Fn(Option<usize>) -> u8) {
    make(path);
    let data = (0..WIDTH * HEIGHT).map(|i| raw(class_at(i % WIDTH, k))).collect();
    write_png_palette(path, &LabelMap { width: WIDTH, height: HEIGHT, data }).unwrap();
}

/// Class `c` of photo `k` as a mask.
pub fn mask(k: usize, c: usize) -> Mask {
    Mask { width: WIDTH, height: HEIGHT, data: (0..WIDTH * HEIGHT).map(|i| class_at(i % WIDTH, k) == Some(c)).collect() }
}

/// Values as they are, void 255.
fn plain(class: Option<usize>) -> u8 {
    class.map_or(255, |c| c as u8)
}

/// Every set below `data`.
pub fn all(data: &Path) {
    classification(data);
    captions(data);
    objects(data);
    voc(data, PHOTOS);
    context(data);
    ade20k(data);
    coco_stuff(data);
    panoptic(data);
    camouflaged(data);
    folders(data);
    segments(data);
    sample(data);
}

/// PASCAL VOC 2012 with SBD's masks.
pub fn voc(data: &Path, photos: usize) {
    let root = data.join("voc");
    let ids: Vec<String> = (0..photos).map(|k| format!("2007_{k:06}")).collect();
    for (k, id) in ids.iter().enumerate() {
        photo(&root.join(format!("JPEGImages/{id}.jpg")), k);
        labels(&root.join(format!("SegmentationClass/{id}.png")), k, &plain);
        labels(&root.join(format!("SegmentationClassAug/{id}.png")), k, &plain);
    }
    for split in ["val", "train", "train_aug"] {
        put(&root.join(format!("ImageSets/Segmentation/{split}.txt")), &(ids.join("\n") + "\n"));
    }
}

/// Context in mmseg's form inside VOC2010.
pub fn context(data: &Path) {
    let root = data.join("VOC2010");
    let ids: Vec<String> = (0..PHOTOS).map(|k| format!("2008_{k:06}")).collect();
    for (k, id) in ids.iter().enumerate() {
        photo(&root.join(format!("JPEGImages/{id}.jpg")), k);
        labels(&root.join(format!("SegmentationClassContext/{id}.png")), k, &plain);
    }
    put(&root.join("ImageSets/SegmentationContext/val.txt"), &ids.join("\n"));
}

/// ADE20K: files hold the class plus one, 0 for none.
pub fn ade20k(data: &Path) {
    let root = data.join("ADEChallengeData2016");
    for k in 0..PHOTOS {
        photo(&root.join(format!("images/validation/ADE_val_{:08}.jpg", k + 1)), k);
        let raw = |class: Option<usize>| class.map_or(0, |c| c as u8 + 1);
        labels(&root.join(format!("annotations/validation/ADE_val_{:08}.png", k + 1)), k, &raw);
    }
    let rows: Vec<String> = (1..=150).map(|i| format!("{i}\t0.01\t100\t10\tthing {i}, alias")).collect();
    put(&root.join("objectInfo150.txt"), &format!("Idx\tRatio\tTrain\tVal\tName\n{}\n", rows.join("\n")));
}

/// COCO-Stuff: files hold the COCO id less one.
pub fn coco_stuff(data: &Path) {
    let root = data.join("coco_stuff164k");
    for k in 0..PHOTOS {
        photo(&root.join(format!("val2017/{k:012}.jpg")), k);
        labels(&root.join(format!("stuffthingmaps/val2017/{k:012}.png")), k, &plain);
    }
    let rows: Vec<String> = (0..=182).map(|i| format!("{i}: stuff {i}")).collect();
    put(&root.join("labels.txt"), &rows.join("\n"));
}

/// COCO Panoptic: segment ids as colours.
pub fn panoptic(data: &Path) {
    let root = data.join("coco");
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for k in 0..PHOTOS {
        let name = format!("{k:012}");
        photo(&root.join(format!("val2017/{name}.jpg")), k);
        let id = |class: usize| 1000 * (k as u32 + 1) + 300 * class as u32 + 7;
        let colour = |i: usize| class_at(i % WIDTH, k).map_or([0; 3], |c| [id(c) as u8, (id(c) >> 8) as u8, (id(c) >> 16) as u8]);
        let data = (0..WIDTH * HEIGHT).flat_map(colour).collect();
        let path = root.join(format!("annotations/panoptic_val2017/{name}.png"));
        make(&path);
        write_png_rgb(&path, &samclip_image::Image::new(WIDTH, HEIGHT, data).unwrap()).unwrap();
        images.push(json!({"id": k, "file_name": format!("{name}.jpg"), "width": WIDTH, "height": HEIGHT}));
        let segments: Vec<_> = [0, 1, 2 + k % 4].iter().map(|c| json!({"id": id(*c), "category_id": 10 + 5 * c, "iscrowd": 0})).collect();
        annotations.push(json!({"image_id": k, "file_name": format!("{name}.png"), "segments_info": segments}));
    }
    let categories: Vec<_> = (0..133).map(|c| json!({"id": 10 + 5 * c, "name": format!("category {c}"), "isthing": 1})).collect();
    let file = json!({"images": images, "annotations": annotations, "categories": categories});
    put(&root.join("annotations/panoptic_val2017.json"), &file.to_string());
}

/// SINet's TestDataset: the object is columns 20-29.
pub fn camouflaged(data: &Path) {
    for set in ["CHAMELEON", "CAMO", "COD10K"] {
        let root = data.join("TestDataset").join(set);
        for k in 0..PHOTOS {
            photo(&root.join(format!("Imgs/animal-{k}.jpg")), k);
            let path = root.join(format!("GT/animal-{k}.png"));
            make(&path);
            write_png_mask(&path, &mask(k, 1)).unwrap();
        }
    }
}

/// Photos and masks in folders: Clothing Co-Parsing (255 is void) and CamVid (`unlabelled` is void).
pub fn folders(data: &Path) {
    let ccp = ["null", "hat", "dress", "jacket", "boots", "jeans"];
    let camvid = ["sky", "building", "pole", "road", "pavement", "tree", "signsymbol", "fence", "car", "pedestrian", "bicyclist", "unlabelled"];
    for (set, classes, void) in [("ccp", &ccp[..], 255), ("camvid", &camvid[..], 11)] {
        let root = data.join(set);
        put(&root.join("classes.txt"), &classes.join("\n"));
        for k in 0..PHOTOS {
            photo(&root.join(format!("val/images/{k:04}.jpg")), k);
            labels(&root.join(format!("val/masks/{k:04}.png")), k, &|class| class.map_or(void, |c| c as u8));
        }
    }
}

/// BSDS in SA-1B's form: three class-less segments a photo.
pub fn segments(data: &Path) {
    let root = data.join("bsds_sa1b/val");
    for k in 0..PHOTOS {
        photo(&root.join(format!("{k}.jpg")), k);
        let segment = |c: usize| {
            let runs = rle::encode(&mask(k, c));
            json!({"segmentation": {"size": runs.size, "counts": rle::to_coco_string(&runs)}})
        };
        let annotations: Vec<_> = [0, 1, 2 + k % 4].map(segment).to_vec();
        let file = json!({"image": {"file_name": format!("{k}.jpg"), "width": WIDTH, "height": HEIGHT}, "annotations": annotations});
        put(&root.join(format!("{k}.json")), &file.to_string());
    }
}

/// The ImageNet sample: `val` as [`classification`]'s with names of the text table, `train` with five photos of each of three
/// folders; Flickr8k's photos with captions.
pub fn sample(data: &Path) {
    let root = data.join("imagenet_sample");
    for k in 0..PHOTOS {
        photo(&root.join(format!("val/n0000000{}/{k}.JPEG", k % 3)), k);
    }
    let rows: Vec<String> = (0..3).map(|i| format!("{i}\tn0000000{i}\tanimal {i}")).collect();
    put(&root.join("classes.tsv"), &format!("index\twnid\tname\n{}\n", rows.join("\n")));
    let names = ["dog", "cat", "cow"];
    let rows: Vec<String> = names.iter().enumerate().map(|(i, name)| format!("{i}\tanimal {i}\t{name}")).collect();
    put(&data.join("text/imagenet1k_to_name.tsv"), &format!("index\tclass\tname\n{}\n", rows.join("\n")));
    for (c, name) in names.iter().enumerate() {
        (0..5).for_each(|i| photo(&root.join(format!("train/{name}/{i}.jpg")), c));
    }
    let mut list = "image\tcaption\n".to_owned();
    for k in 0..PHOTOS {
        photo(&data.join(format!("flickr8k/images/{k}.jpg")), k);
        (0..5).for_each(|i| list += &format!("{k}.jpg\tcaption {i} of photo {k}\n"));
    }
    put(&data.join("flickr8k/captions.tsv"), &list);
}

/// COCO's and LVIS's objects: three boxes a photo (one crowd in COCO), one photo without any.
pub fn objects(data: &Path) {
    let root = data.join("coco");
    let (mut images, mut annotations) = (Vec::new(), Vec::new());
    for k in 0..PHOTOS {
        let name = format!("{k:012}.jpg");
        photo(&root.join("val2017").join(&name), k);
        images.push(json!({"id": k + 7, "file_name": name, "coco_url": format!("http://images.example/val2017/{name}"), "width": WIDTH,
            "height": HEIGHT, "neg_category_ids": [90], "not_exhaustive_category_ids": []}));
        if k == 2 {
            continue; // a photo without objects
        }
        for (c, crowd) in [(0, 0), (1, 0), (2 + k % 4, 0), (1, 1)] {
            let runs = rle::encode(&mask(k, c));
            let counts = if crowd == 1 { json!(runs.counts) } else { json!(rle::to_coco_string(&runs)) };
            annotations.push(json!({"id": annotations.len() + 1, "image_id": k + 7, "category_id": 3 * c + 1, "iscrowd": crowd,
                "segmentation": {"size": runs.size, "counts": counts}, "bbox": rle::bbox(&runs), "area": rle::area(&runs)}));
        }
    }
    let category = |c: usize| {
        let frequency = ["f", "c", "r"][c % 3];
        json!({"id": 3 * c + 1, "name": format!("kind {c}"), "frequency": frequency, "image_count": 1, "instance_count": 1})
    };
    let mut categories: Vec<_> = (0..6).map(category).collect();
    categories.push(json!({"id": 90, "name": "absent", "frequency": "r"}));
    let file = |annotations: &[serde_json::Value]| json!({"images": images, "annotations": annotations, "categories": categories}).to_string();
    put(&root.join("annotations/instances_val2017.json"), &file(&annotations));
    annotations.retain(|a| a["iscrowd"] == 0); // LVIS has no crowds
    put(&root.join("annotations/lvis_v1_val.json"), &file(&annotations));
}

/// ImageNet, ImageNet-v2, Places365, WebDataset shards: photo `k` has class `k mod 3` (v2: also class 10).
pub fn classification(data: &Path) {
    let root = data.join("imagenet");
    let wnids: Vec<String> = (0..3).map(|c| format!("n0000000{c}")).collect();
    for k in 0..PHOTOS {
        photo(&root.join(format!("val/{}/ILSVRC2012_val_{k:08}.JPEG", wnids[k % 3])), k);
    }
    let rows: Vec<String> = wnids.iter().enumerate().map(|(i, w)| format!("{i}\t{w}\tanimal {i}")).collect();
    put(&root.join("classes.tsv"), &format!("index\twnid\tname\n{}\n", rows.join("\n")));
    let root = data.join("imagenetv2");
    for (k, class) in [0, 1, 2, 10].into_iter().enumerate() {
        photo(&root.join(format!("{class}/{k}.jpeg")), k);
    }
    put(&root.join("classes.txt"), &(0..11).map(|i| format!("animal {i}")).collect::<Vec<_>>().join("\n"));
    let root = data.join("places365");
    put(&root.join("categories_places365.txt"), "/a/airfield 0\n/a/apartment_building/outdoor 1\n/b/barn 2\n");
    let mut list = String::new();
    for k in 0..PHOTOS {
        photo(&root.join(format!("val_256/Places365_val_{k:08}.jpg")), k);
        list += &format!("Places365_val_{k:08}.jpg {}\n", k % 3);
    }
    put(&root.join("places365_val.txt"), &list);
    let root = data.join("wds_imagenet1k");
    put(&root.join("classnames.txt"), "animal 0\nanimal 1\nanimal 2\n");
    put(&root.join("test/nshards.txt"), "2\n");
    for shard in 0..2 {
        let mut tar = tar::Builder::new(std::fs::File::create(root.join(format!("test/{shard}.tar"))).unwrap());
        for k in 2 * shard..2 * shard + 2 {
            for (extension, bytes) in [("cls", (k % 3).to_string().into_bytes()), ("jpg", photo_bytes(k))] {
                let mut header = tar::Header::new_gnu();
                header.set_size(bytes.len() as u64);
                header.set_mode(0o644);
                tar.append_data(&mut header, format!("s{k:07}.{extension}"), bytes.as_slice()).unwrap();
            }
        }
        tar.finish().unwrap();
    }
}

/// Karpathy's splits of Flickr30k and COCO, five captions a photo, and one photo of another split.
pub fn captions(data: &Path) {
    for (root, file, folder) in [("flickr30k", "dataset_flickr30k.json", "flickr30k-images"), ("coco", "dataset_coco.json", "val2014")] {
        let mut images = Vec::new();
        for k in 0..=PHOTOS {
            let name = format!("{folder}_{k}.jpg");
            photo(&data.join(root).join(folder).join(&name), k);
            let sentences: Vec<_> = (0..5).map(|i| json!({"raw": format!("caption {i} of photo {k}")})).collect();
            let split = if k < PHOTOS { "test" } else { "val" };
            let mut image = json!({"filename": name, "split": split, "sentences": sentences, "imgid": k});
            if root == "coco" {
                image["filepath"] = json!(folder);
            }
            images.push(image);
        }
        put(&data.join(root).join(file), &json!({"images": images, "dataset": root}).to_string());
    }
}
