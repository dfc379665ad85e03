//! The loop on a toy dataset with models whose score is known: one that knows the truth, one that
//! answers nothing, one that fills boxes, one that breaks the rules.

use samclip_data::{DataError, Dataset, IGNORE, Sample};
use samclip_eval::boxes::Boxes;
use samclip_eval::{Protocol, Report, Subject, evaluate};
use samclip_image::{Image, LabelMap, Mask};
use samclip_predict::roles::{Classification, MaskPrediction, Segmentation, Timing};
use samclip_predict::{PredictError, Prompt, PromptSegmenter, SegmentOptions, ZeroShotClassifier};
use std::cell::RefCell;

const CLASSES: [&str; 6] = ["background", "dog", "cat", "cow", "horse", "sheep"];
const NAMES: [Option<&str>; 6] = [None, Some("puppy"), Some("cat"), Some("cow"), Some("pony"), Some("sheep")];

fn strings(list: &[&str]) -> Vec<String> {
    list.iter().map(|s| (*s).to_owned()).collect()
}

/// Six photos of 20 x 10: an L of class 1 + i % 5 with a void rim, a small object of class 2 on photo 3.
struct Toy(Vec<String>);

impl Toy {
    fn labels(index: usize) -> LabelMap {
        let class = 1 + (index % 5) as u8;
        let mut data = vec![0u8; 200];
        for y in 0..10 {
            for x in 0..20 {
                let inside = (2..6).contains(&x) && (1..9).contains(&y) || (6..12).contains(&x) && (6..9).contains(&y);
                let rim = x == 12 && (6..9).contains(&y);
                data[y * 20 + x] = if inside { class } else if rim { IGNORE } else { 0 };
            }
        }
        if index == 3 {
            (15..18).for_each(|x| data[2 * 20 + x] = 2);
        }
        LabelMap { width: 20, height: 10, data }
    }
}

impl Dataset for Toy {
    fn name(&self) -> &str {
        "toy"
    }
    fn len(&self) -> usize {
        6
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let labels = Self::labels(index);
        let mut class_ids: Vec<usize> = labels.data.iter().map(|&v| usize::from(v)).filter(|v| (1..255).contains(v)).collect();
        class_ids.sort_unstable();
        class_ids.dedup();
        let image = Image::new(20, 10, vec![index as u8; 600])?; // the colour tells the photo
        Ok(Sample { id: format!("p{index}"), image, labels: Some(labels), masks: vec![], class_ids, captions: vec![] })
    }
    fn class_names(&self) -> &[String] {
        &self.0
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Oracle,
    Empty,
    FillBox,
    WrongSize,
}

struct Known {
    kind: Kind,
    asked: RefCell<Vec<usize>>,
}

impl Known {
    fn answer(&self, photo: usize, prompt: &Prompt) -> Mask {
        let labels = Toy::labels(photo);
        let mask = |f: &dyn Fn(usize) -> bool| Mask { width: 20, height: 10, data: (0..200).map(f).collect() };
        let class = match (&prompt.text, prompt.bbox, prompt.points.first()) {
            (Some(text), ..) => NAMES.iter().position(|n| *n == Some(text.as_str())).unwrap() as u8,
            (_, Some([x0, y0, ..]), _) if y0 == 2.0 => labels.data[y0 as usize * 20 + x0 as usize],
            (_, Some([x0, y0, ..]), _) => labels.data[(y0 as usize + 1) * 20 + x0 as usize],
            (_, _, Some(point)) => labels.data[point.y as usize * 20 + point.x as usize],
            _ => panic!("an empty prompt"),
        };
        match (self.kind, prompt.bbox) {
            (Kind::WrongSize, _) => Mask { width: 1, height: 1, data: vec![true] },
            (Kind::Empty, _) => mask(&|_| false),
            (Kind::FillBox, Some([x0, y0, x1, y1])) => mask(&|i| {
                let (x, y) = ((i % 20) as f32, (i / 20) as f32);
                x >= x0 && x < x1 && y >= y0 && y < y1
            }),
            // the oracle also marks the void rim: it must not matter
            _ => mask(&|i| labels.data[i] == class || (labels.data[i] == IGNORE && class != 0)),
        }
    }
}

impl PromptSegmenter for Known {
    fn segment(&self, image: &Image, prompts: &[Prompt], _: &SegmentOptions) -> Result<Segmentation, PredictError> {
        self.asked.borrow_mut().push(prompts.iter().filter(|p| p.text.is_some()).count());
        let photo = usize::from(image.data()[0]);
        let predict = |(prompt, p)| MaskPrediction { prompt, mask: self.answer(photo, p), predicted_iou: 1.0, stability_score: 1.0, score: 1.0 };
        Ok(Segmentation { masks: prompts.iter().enumerate().map(predict).collect(), timing: Timing::default() })
    }
}

impl ZeroShotClassifier for Known {
    fn classify(&self, image: &Image, classes: &[String]) -> Result<Classification, PredictError> {
        assert_eq!(classes, strings(&["puppy", "cat", "cow", "pony", "sheep"]));
        let right = usize::from(image.data()[0]) % 5;
        let right = if self.kind == Kind::Oracle { right } else { (right + 2) % 5 };
        let probabilities = (0..5).map(|i| if i == right { 0.6 } else { 0.1 }).collect();
        Ok(Classification { probabilities, timing: Timing::default() })
    }
}

fn protocol() -> Protocol {
    Protocol::parse(include_str!("../../../protocols/voc_subset_nano.toml")).unwrap()
}

fn run(kind: Kind, protocol: &Protocol, limit: Option<usize>, text: bool) -> Result<(Report, Vec<usize>), String> {
    let dataset = Toy(strings(&CLASSES));
    let model = Known { kind, asked: RefCell::default() };
    let classifier = text.then_some(&model as _);
    let subject = Subject { name: "known".into(), segmenter: Some(&model), classifier, boxes: None };
    let names: Vec<Option<String>> = NAMES.iter().map(|n| n.map(str::to_owned)).collect();
    let mut calls = 0;
    let report = evaluate(protocol, &dataset, &names, &subject, limit, &mut |_, _| calls += 1).map_err(|e| e.to_string())?;
    assert_eq!(calls, report.photos);
    Ok((report, model.asked.into_inner()))
}

fn values(report: &Report) -> [Option<f64>; 4] {
    [&report.r#box, &report.click, &report.text, &report.classify].map(|f| f.as_ref().map(|f| f.value))
}

#[test]
fn the_truth_scores_one_and_nothing_scores_zero() {
    let (report, _) = run(Kind::Oracle, &protocol(), None, true).unwrap();
    assert_eq!(values(&report), [Some(1.0); 4]);
    assert!(report.reached() && report.floors.len() == 4);
    assert_eq!((report.photos, report.objects), (6, 7));
    let (report, _) = run(Kind::Empty, &protocol(), None, true).unwrap();
    assert_eq!(values(&report), [Some(0.0); 4]);
    assert!(!report.reached());
}

#[test]
fn a_filled_box_scores_as_computed_by_hand() {
    let (report, _) = run(Kind::FillBox, &protocol(), None, true).unwrap();
    // the L has 4 x 8 + 6 x 3 = 50 pixels in a box of 10 x 8 (no void inside); the bar of 3 fills its box
    let expected = (6.0 * 50.0 / 80.0 + 1.0) / 7.0;
    assert!((report.r#box.as_ref().unwrap().value - expected).abs() < 1e-12);
    assert_eq!(report.baselines.fill_box, report.r#box.as_ref().unwrap().value);
    let cat = report.r#box.as_ref().unwrap().per_class.iter().find(|c| c.class == "cat").unwrap().clone();
    assert_eq!((cat.count, cat.value), (2, (50.0 / 80.0 + 1.0) / 2.0)); // photo 1 and the bar of photo 3
    // the whole photo as the mask of dog (2 photos): 50 of 200 - 3 void; of cat: (50 + 3) of 2 * 197; of the others 50 of 197
    let whole = (3.0 * 50.0 / 197.0 + 50.0 / 197.0 + 53.0 / 394.0) / 5.0;
    assert!((report.baselines.whole_photo - whole).abs() < 1e-12);
    assert!((report.baselines.most_frequent_class - 2.0 / 6.0).abs() < 1e-12); // dog: photos 0 and 5
}

#[test]
fn names_are_asked_alone_or_all_together() {
    let mut protocol = protocol();
    let (_, asked) = run(Kind::Oracle, &protocol, None, true).unwrap();
    assert!(asked.iter().all(|&n| n <= 1) && asked.iter().sum::<usize>() == 7);
    protocol.text.ask = samclip_eval::protocol::Ask::ClassList;
    let (report, asked) = run(Kind::Oracle, &protocol, None, true).unwrap();
    assert!(asked.iter().all(|&n| n == 0 || n == 5) && asked.iter().sum::<usize>() == 30);
    assert_eq!(values(&report), [Some(1.0); 4]);
}

#[test]
fn limits_missing_roles_and_wrong_answers() {
    let (report, _) = run(Kind::Oracle, &protocol(), Some(2), true).unwrap();
    assert_eq!((report.photos, report.photos_in_split, report.floors.len()), (2, 6, 0));
    let (report, _) = run(Kind::Oracle, &protocol(), None, false).unwrap();
    assert_eq!(values(&report), [Some(1.0), Some(1.0), None, None]);
    assert!(!report.reached()); // a floor without a figure is not reached
    let message = run(Kind::WrongSize, &protocol(), None, true).unwrap_err();
    assert!(message.contains("p0") && message.contains("found 1 x 1"), "{message}");
    let mut unknown = protocol();
    unknown.text.mean_over.push("zebra".into());
    assert!(run(Kind::Oracle, &unknown, None, true).unwrap_err().contains("zebra"));
}

#[test]
fn reports_say_the_figures_the_floors_and_the_classes() {
    let (report, _) = run(Kind::FillBox, &protocol(), None, true).unwrap();
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["box"]["per_class"][0]["class"], "dog");
    assert_eq!(json["floors"][0]["figure"], "box");
    let text = report.to_markdown();
    assert!(text.contains("**0.679**") && text.contains("0.62 reached") && text.contains("| cat | 2 | 0.812 |"), "{text}");
    let (limited, _) = run(Kind::FillBox, &protocol(), Some(1), true).unwrap();
    assert!(limited.to_markdown().contains("1 photos of 6 (limited run, no floors)"));
}

/// Photo 0 (dog, "puppy"): its box in two halves. Photo 5 (dog): the box at a score below the limit.
#[test]
fn a_detectors_boxes_stand_for_names() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("boxes.json");
    let read = |text: &str| {
        std::fs::write(&file, text).unwrap();
        Boxes::open(&file).map_err(|e| e.to_string())
    };
    let entry = |photo: &str, b: &str, score: f32| format!(r#"{{"photo":"{photo}","label":"puppy","box":{b},"score":{score}}}"#);
    let list = [entry("p0", "[2,1,6,9]", 0.9), entry("p0", "[6,6,12,99]", 0.4), entry("p5", "[2,1,12,9]", 0.2)];
    let boxes = read(&format!("[{}]", list.join(","))).unwrap();
    let model = Known { kind: Kind::FillBox, asked: RefCell::default() };
    let subject = Subject { name: "boxes".into(), segmenter: Some(&model), classifier: None, boxes: Some(&boxes) };
    let names: Vec<Option<String>> = NAMES.iter().map(|n| n.map(str::to_owned)).collect();
    let report = evaluate(&protocol(), &Toy(strings(&CLASSES)), &names, &subject, None, &mut |_, _| {}).unwrap();
    let text = report.text.unwrap();
    let dog = text.per_class.iter().find(|c| c.class == "dog").unwrap();
    // photo 0: 4 x 8 and 6 x 4 (cut at the border) cover the 50 pixels and 6 below them; photo 5 finds none of 50
    assert_eq!((dog.count, dog.value), (2, 50.0 / (56.0 + 50.0)));
    assert!(text.per_class.iter().filter(|c| c.class != "dog").all(|c| c.value == 0.0));

    assert!(read("[{}]").unwrap_err().contains("boxes: "));
    assert!(read(&format!("[{}]", entry("p0", "[6,1,2,9]", 0.9))).unwrap_err().contains("entry 0 (puppy on p0)"));
}
