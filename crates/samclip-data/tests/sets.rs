//! `data check` on the benchmarks in miniature: nothing wrong but the counts, and the usual mistakes recognised.

use samclip_data::set_check::{SetCheck, check_set, is_set, usual_split};
use samclip_testkit::miniature::{self, PHOTOS};
use std::path::Path;

fn messages(check: &SetCheck) -> Vec<&str> {
    check.findings.iter().map(|f| f.message.as_str()).filter(|m| !m.contains("published split") && !m.contains("are in no photo")).collect()
}

fn check(data: &Path, name: &str) -> SetCheck {
    let split = if name == "cod" { "CAMO" } else if name == "wds" { "wds_imagenet1k/test" } else { usual_split(name) };
    check_set(data, name, split).unwrap_or_else(|e| panic!("{name}: {e}"))
}

#[test]
fn every_layout_is_read() {
    let dir = tempfile::tempdir().unwrap();
    miniature::all(dir.path());
    let sets = [
        "imagenet", "imagenetv2", "places365", "wds", "flickr30k", "coco_captions", "coco", "lvis", "voc", "voc_aug", "context59",
        "context60", "ade20k", "coco_stuff", "coco_panoptic", "cod",
    ];
    for name in sets {
        let found = check(dir.path(), name);
        assert!(is_set(name));
        assert_eq!((found.photos, found.usable), (PHOTOS, PHOTOS), "{name}");
        assert_eq!(messages(&found), Vec::<&str>::new(), "{name}");
        assert_eq!(found.sizes, Some([(40, 30), (40, 30)]), "{name}");
        if let Some(published) = found.published {
            assert!(found.findings.iter().any(|f| f.message.contains(&format!("has {published}"))), "{name}");
        }
    }
    // two of forty columns are void, in Context without background twenty more
    let void = |name| check(dir.path(), name).void_share.unwrap();
    assert_eq!((void("voc"), void("ade20k"), void("coco_panoptic")), (0.05, 0.05, 0.05));
    assert_eq!(void("context59"), 22.0 / 40.0);
    let ade = check(dir.path(), "ade20k");
    assert_eq!((ade.classes.len(), ade.classes[0].class.as_str(), ade.classes[0].photos), (150, "thing 1", PHOTOS));
    assert!((ade.classes[0].share.unwrap() - 20.0 / 38.0).abs() < 1e-12);
    let v2 = samclip_data::open(dir.path(), "imagenetv2", "val").unwrap();
    assert_eq!(v2.get(3).unwrap().class_ids, [10]); // folders are numbers: 10 comes after 2
    let names = samclip_data::open(dir.path(), "places365", "val").unwrap();
    assert_eq!(names.class_names(), ["airfield", "apartment building outdoor", "barn"]);
}

#[test]
fn the_usual_mistakes_are_recognised() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path();
    miniature::all(data);
    // ADE whose labels were shifted before
    for k in 0..PHOTOS {
        let path = data.join(format!("ADEChallengeData2016/annotations/validation/ADE_val_{:08}.png", k + 1));
        miniature::labels(&path, k, &|class| class.map_or(255, |c| c as u8));
    }
    assert!(messages(&check(data, "ade20k"))[0].contains("shifted already"));
    // COCO-Stuff: mmseg's numbers where the published ids belong
    let stuff = |k: usize| data.join(format!("coco_stuff164k/stuffthingmaps/val2017/{k:012}.png"));
    (0..PHOTOS).for_each(|k| miniature::labels(&stuff(k), k, &|class| class.map_or(255, |c| c as u8 + 9)));
    assert!(messages(&check(data, "coco_stuff"))[0].contains("171 numbers"));
    // and the other way round
    std::fs::remove_dir_all(data.join("coco_stuff164k/stuffthingmaps")).unwrap();
    for k in 0..PHOTOS {
        let path = data.join(format!("coco_stuff164k/annotations/val2017/{k:012}_labelTrainIds.png"));
        miniature::labels(&path, k, &|class| class.map_or(255, |c| c as u8 + 175));
    }
    let found = check(data, "coco_stuff");
    assert!(messages(&found)[0].contains("182 ids") && found.usable == 0);
    // VOC without SBD's masks
    std::fs::remove_dir_all(data.join("voc/SegmentationClassAug")).unwrap();
    assert!(messages(&check_set(data, "voc", "train").unwrap())[0].contains("10,582"));
    assert_eq!(messages(&check(data, "voc")), Vec::<&str>::new());
    // Context's 459 labels
    miniature::labels(&data.join("VOC2010/SegmentationClassContext/2008_000001.png"), 1, &|class| class.map_or(0, |c| 100 + c as u8));
    let found = check(data, "context60");
    assert!(messages(&found)[0].contains("459"));
    // a truth that is cut off
    let path = data.join("voc/SegmentationClass/2007_000003.png");
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes[..40]).unwrap();
    let found = check(data, "voc");
    assert_eq!((found.usable, found.findings.iter().filter(|f| f.file == path).count()), (PHOTOS - 1, 1));
}
