//! The loader's order, exact resuming, worker independence, mixing and corrupt samples.

use samclip_data::augment::{Augment, ColorJitter, CutMix, Geometry};
use samclip_data::loader::{Batch, Loader, LoaderConfig, Mixing, Source};
use samclip_data::{DataError, Dataset, Part, Sample, Targets};
use samclip_image::{Image, LabelMap, Mask, Normalization};
use std::collections::BTreeMap;
use std::sync::Arc;

/// `len` photos whose pixels tell dataset and index; every `bad`-th cannot be read.
struct Toy {
    name: &'static str,
    len: usize,
    bad: usize,
    panics: bool,
}

impl Dataset for Toy {
    fn name(&self) -> &str {
        self.name
    }
    fn len(&self) -> usize {
        self.len
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        if self.bad > 0 && index % self.bad == 0 {
            assert!(!self.panics, "a decoder's bug");
            return Err(DataError::Config(format!("corrupt {index}")));
        }
        std::thread::sleep(std::time::Duration::from_micros((index as u64 * 37) % 300)); // finish out of order
        let (w, h) = (40, 30);
        let data = (0..w * h * 3).map(|i| (i * 7 + index * 13) as u8).collect();
        let labels = (0..w * h).map(|i| u8::from(i % w > 10) + u8::from(i / w > 20)).collect();
        let mask = Mask { width: w, height: h, data: (0..w * h).map(|i| i % 3 == 0).collect() };
        Ok(Sample {
            id: format!("{}{index}", self.name),
            image: Image::new(w, h, data)?,
            labels: Some(LabelMap { width: w, height: h, data: labels }),
            masks: vec![mask; 5],
            class_ids: vec![1, 2],
            captions: vec![],
        })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

fn source(name: &'static str, len: usize, bad: usize, weight: f64) -> Source {
    Source::new(Arc::new(Toy { name, len, bad, panics: false }) as Arc<dyn Dataset>, weight)
}

fn config(mixing: Mixing, workers: usize) -> LoaderConfig {
    let geometry = Geometry::RandomResizedCrop { scale: [0.3, 1.0], ratio: [0.75, 1.34] };
    let color = ColorJitter { brightness: 0.3, contrast: 0.3, saturation: 0.3 };
    let augment = Augment { geometry, hflip: 0.5, color, ..Augment::SQUASH };
    let targets = Targets { objects: true, min_fraction: 0.01, max_masks: 4 };
    LoaderConfig {
        seed: 5,
        side: 16,
        batch_size: 4,
        sides: vec![],
        view: None,
        augment,
        mixing,
        targets,
        workers,
        prefetch: 3,
        max_skipped: 0,
    }
}

fn loader(workers: usize) -> Loader {
    let sources = vec![source("a", 11, 0, 3.0), source("b", 6, 0, 1.0)];
    Loader::new(sources, config(Mixing::Concat, workers)).unwrap()
}

/// Everything a batch holds, for comparing bit by bit.
fn print(batch: &Batch) -> String {
    let item = |i: &samclip_data::TrainItem| {
        let masks: Vec<&Vec<bool>> = i.masks.iter().map(|m| &m.data).collect();
        format!("{} {:?} {:?} {masks:?} {:?} {:?}", i.id, i.image.data(), i.labels.as_ref().map(|l| &l.data), i.mask_classes, i.class_ids)
    };
    batch.items.iter().map(item).collect::<Vec<_>>().join("\n")
}

#[test]
fn threads_do_not_change_the_stream() {
    let mut streams = [0, 1, 2, 3].map(loader);
    for _ in 0..12 {
        let [a, b, c, d] = streams.each_mut().map(|l| print(&l.next_batch().unwrap()));
        assert!(a == b && a == c && a == d);
    }
}

#[test]
fn resuming_equals_not_stopping() {
    for workers in [0, 2] {
        let mut whole = loader(workers);
        let expected: Vec<String> = (0..14).map(|_| print(&whole.next_batch().unwrap())).collect();
        for stop in [0, 3, 4, 9] {
            // 17 samples an epoch, batches of 4: the stops lie in three epochs, one mid-batch
            let mut first = loader(workers);
            (0..stop).for_each(|_| drop(first.next_batch().unwrap()));
            let text = serde_json::to_string(&first.position()).unwrap();
            drop(first);
            let mut second = loader(workers);
            second.next_batch().unwrap(); // a position of its own, and prefetched slots to forget
            second.seek(serde_json::from_str(&text).unwrap()).unwrap();
            for expected in &expected[stop..] {
                assert_eq!(&print(&second.next_batch().unwrap()), expected);
            }
            assert_eq!(second.position(), whole.position());
        }
    }
    let mut other = loader(0);
    let mut position = other.position();
    position.seed += 1;
    assert!(other.seek(position).is_err());
}

/// Photos that are all one colour, labelled with it, so that a pixel tells whose it is.
struct Plain;

impl Dataset for Plain {
    fn name(&self) -> &str {
        "plain"
    }
    fn len(&self) -> usize {
        5
    }
    fn get(&self, index: usize) -> Result<Sample, DataError> {
        let (w, h, value) = (96, 80, index as u8 + 1);
        let labels = LabelMap { width: w, height: h, data: vec![value; w * h] };
        let image = Image::new(w, h, vec![value * 40; w * h * 3])?;
        let mask = Mask { width: w, height: h, data: vec![true; w * h] };
        Ok(Sample { id: index.to_string(), image, labels: Some(labels), masks: vec![mask], class_ids: vec![], captions: vec![] })
    }
    fn class_names(&self) -> &[String] {
        &[]
    }
    fn background(&self) -> Option<usize> {
        Some(0)
    }
}

fn mixed(probability: f64, workers: usize) -> Loader {
    let cutmix = Some(CutMix { probability, area: [0.1, 0.5] });
    let augment = Augment { geometry: Geometry::Longest, cutmix, ..Augment::SQUASH };
    let config = LoaderConfig { side: 96, view: Some(48), augment, ..config(Mixing::Concat, workers) };
    Loader::new(vec![Source::new(Arc::new(Plain) as Arc<dyn Dataset>, 1.0)], config).unwrap()
}

#[test]
fn cutmix_shows_the_other_sample_in_the_rectangle_and_nowhere_else() {
    let mut loader = mixed(1.0, 0);
    let items: Vec<_> = (0..10).flat_map(|_| loader.next_batch().unwrap().items).collect();
    for item in &items {
        let pasted = item.pasted.unwrap();
        let rect = pasted.rect;
        assert!([rect.x, rect.y, rect.w, rect.h].iter().all(|n| n % 16 == 0));
        assert!(rect.y + rect.h <= item.content.1, "no padding is pasted");
        let (own, other) = (item.index as u8 + 1, pasted.index as u8 + 1);
        let labels = item.labels.as_ref().unwrap();
        for (i, &label) in labels.data.iter().enumerate() {
            let (x, y) = (i % 96, i / 96);
            let owner = if rect.contains(x, y) { other } else { own };
            let seen = y < item.content.1;
            assert_eq!(label, if seen { owner } else { 255 }, "{x} {y}");
            assert!(!seen || item.image.data()[3 * i] == owner * 40);
            let view = item.view.as_ref().unwrap().data()[3 * (y / 2 * 48 + x / 2)];
            assert!(!seen || view == owner * 40);
        }
        let mut classes = vec![usize::from(own), usize::from(other)];
        classes.sort_unstable();
        classes.dedup();
        assert_eq!(item.class_ids, classes);
        for (class, mask) in item.mask_classes.iter().zip(&item.masks) {
            let Some(class) = class else { continue };
            // where both samples are of one class, each keeps a mask of its part
            let whole = |i: usize| usize::from(labels.data[i]) == *class;
            assert!(mask.data.iter().enumerate().all(|(i, m)| !m || whole(i)));
            let area = (0..96 * 96).filter(|&i| whole(i)).count();
            assert!(mask.area() == area || own == other);
        }
    }
    assert!(items.iter().any(|i| i.pasted.is_some_and(|p| p.index != i.index)));
    assert!(mixed(0.0, 0).next_batch().unwrap().items.iter().all(|i| i.pasted.is_none()));
}

#[test]
fn threads_do_not_change_a_mixed_stream() {
    let mut streams = [0, 2].map(|workers| mixed(0.5, workers));
    let (mut some, mut none) = (false, false);
    for _ in 0..8 {
        let [a, b] = streams.each_mut().map(|l| l.next_batch().unwrap());
        assert_eq!(print(&a), print(&b));
        a.items.iter().for_each(|i| if i.pasted.is_some() { some = true } else { none = true });
    }
    assert!(some && none);
}

#[test]
fn an_epoch_is_every_sample_once_in_a_new_order() {
    let mut loader = loader(2);
    assert_eq!(loader.epoch_len(), 17);
    let ids: Vec<String> = (0..17).flat_map(|_| loader.next_batch().unwrap().items).map(|i| i.id).collect();
    let epochs: Vec<&[String]> = ids.chunks_exact(17).collect();
    assert_eq!(epochs.len(), 4);
    for epoch in &epochs {
        let mut sorted = epoch.to_vec();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), 17);
    }
    assert!(epochs[0] != epochs[1] && epochs[1] != epochs[2]);
}

#[test]
fn the_same_sample_is_augmented_anew_each_epoch() {
    let mut loader = loader(1);
    let mut seen: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    for item in (0..17).flat_map(|_| loader.next_batch().unwrap().items) {
        seen.entry(item.id).or_default().push(item.image.data().to_vec());
    }
    assert!(seen.values().all(|views| views.len() == 4 && views[0] != views[1] && views[1] != views[2]));
}

#[test]
fn weights_decide_the_mix_and_small_sets_go_round() {
    let sources = vec![source("a", 1000, 0, 3.0), source("b", 5, 0, 1.0)];
    let mut loader = Loader::new(sources, config(Mixing::Weighted { epoch_len: 400 }, 2)).unwrap();
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for item in (0..100).flat_map(|_| loader.next_batch().unwrap().items) {
        *count.entry(item.id).or_default() += 1;
    }
    let b: Vec<usize> = count.iter().filter(|(id, _)| id.starts_with('b')).map(|(_, &n)| n).collect();
    assert!((70..130).contains(&b.iter().sum::<usize>()), "{b:?}"); // 100 expected
    assert!(b.len() == 5 && b.iter().max().unwrap() - b.iter().min().unwrap() <= 1, "{b:?}");
    assert!(count.iter().filter(|(id, _)| id.starts_with('a')).all(|(_, &n)| n == 1));
}

#[test]
fn corrupt_samples_are_skipped_up_to_the_limit() {
    for panics in [false, true] {
        let make = |max_skipped, workers| {
            let toy = Toy { name: "a", len: 12, bad: 5, panics }; // 0, 5 and 10 are corrupt
            let sources = vec![Source::new(Arc::new(toy) as Arc<dyn Dataset>, 1.0)];
            Loader::new(sources, LoaderConfig { max_skipped, ..config(Mixing::Concat, workers) }).unwrap()
        };
        let mut loader = make(6, 2);
        let ids: Vec<String> = (0..4).flat_map(|_| loader.next_batch().unwrap().items).map(|i| i.id).collect();
        assert_eq!(ids.len(), 16);
        assert!(!ids.iter().any(|i| ["a0", "a5", "a10"].contains(&i.as_str())));
        assert!((3..=6).contains(&loader.skipped()));
        let mut strict = make(2, 1);
        let error = (0..4).find_map(|_| strict.next_batch().err()).unwrap();
        assert!(error.to_string().contains("the limit is 2"), "{error}");
        assert!(error.hint().is_some());
    }
}

#[test]
fn items_hold_masks_classes_and_normalised_pixels() {
    let mut loader = loader(0);
    let batch = loader.next_batch().unwrap();
    for item in &batch.items {
        assert!(item.masks.len() <= 4 && item.masks.len() == item.mask_classes.len());
        for (mask, class) in item.masks.iter().zip(&item.mask_classes) {
            let Some(class) = class else { continue };
            let labels = &item.labels.as_ref().unwrap().data;
            assert!(mask.data.iter().zip(labels).all(|(&m, &l)| !m || usize::from(l) == *class));
        }
    }
    let pixels = batch.pixels(&Normalization { mean: [127.5; 3], std: [127.5; 3], scale: 1.0 });
    assert_eq!(pixels.len(), 4 * 3 * 16 * 16);
    let (b, c, y, x) = (2, 1, 5, 9);
    let value = f32::from(batch.items[b].image.data()[(y * 16 + x) * 3 + c]) / 127.5 - 1.0;
    assert!((pixels[((b * 3 + c) * 16 + y) * 16 + x] - value).abs() < 1e-6);
}

#[test]
fn wrong_configurations_are_errors() {
    let with = |change: fn(&mut LoaderConfig)| {
        let mut c = config(Mixing::Concat, 0);
        change(&mut c);
        Loader::new(vec![source("a", 3, 0, 1.0)], c).err()
    };
    assert!(with(|_| ()).is_none());
    assert!(with(|c| c.side = 0).is_some());
    assert!(with(|c| c.batch_size = 0).is_some());
    assert!(with(|c| c.augment.hflip = 2.0).is_some());
    assert!(with(|c| c.mixing = Mixing::Weighted { epoch_len: 0 }).is_some());
    assert!(Loader::new(vec![], config(Mixing::Concat, 0)).is_err());
    assert!(Loader::new(vec![source("a", 0, 0, 1.0)], config(Mixing::Concat, 0)).is_err());
    assert!(Loader::new(vec![source("a", 1, 0, 0.0)], config(Mixing::Concat, 0)).is_err());
}

fn bucket_loader(workers: usize, bad: usize) -> Loader {
    let config = LoaderConfig { sides: vec![16, 32], view: Some(24), max_skipped: 1000, ..config(Mixing::Concat, workers) };
    Loader::new(vec![source("a", 23, bad, 1.0)], config).unwrap()
}

#[test]
fn several_sides_are_exact_with_threads_corrupt_samples_and_resuming() {
    for bad in [0, 3] {
        let mut whole = bucket_loader(0, bad);
        let batches: Vec<Batch> = (0..30).map(|_| whole.next_batch().unwrap()).collect();
        for batch in &batches {
            assert_eq!(batch.items.len(), if batch.side == 16 { 4 } else { 1 });
            assert!(batch.items.iter().all(|i| i.image.width() == batch.side));
            assert!(batch.items.iter().all(|i| i.view.as_ref().unwrap().width() == 24));
            assert_eq!(batch.view(&Normalization::SAM).1, 24);
        }
        assert!(batches.iter().any(|b| b.side == 16) && batches.iter().any(|b| b.side == 32));
        for stop in [0, 7, 13] {
            let mut first = bucket_loader(2, bad);
            (0..stop).for_each(|_| drop(first.next_batch().unwrap()));
            let mut second = bucket_loader(3, bad);
            second.seek(first.position()).unwrap();
            for expected in &batches[stop..] {
                assert_eq!(print(&second.next_batch().unwrap()), print(expected));
            }
        }
        assert_eq!(whole.take_last_skipped().is_some(), bad > 0);
        assert!(whole.take_last_skipped().is_none());
    }
}

#[test]
fn processes_share_batches_without_moving_a_sample() {
    let config = || LoaderConfig { sides: vec![16, 32], max_skipped: 1000, ..config(Mixing::Concat, 2) };
    let of = |rank, ranks| {
        Loader::of_part(vec![source("a", 23, 3, 1.0)], config(), Part { rank, ranks, shards: 4 }).unwrap()
    };
    let mut whole = of(0, 1);
    let mut parts: Vec<Loader> = (0..2).map(|rank| of(rank, 2)).collect();
    for _ in 0..20 {
        let expected = whole.next_batch().unwrap();
        let found: Vec<Batch> = parts.iter_mut().map(|p| p.next_batch().unwrap()).collect();
        assert!(found.iter().all(|b| (b.side, b.size) == (expected.side, expected.items.len())));
        let items = found.into_iter().flat_map(|b| b.items).collect();
        assert_eq!(print(&Batch { items, ..expected.clone() }), print(&expected));
        assert!(parts.iter().all(|p| p.position() == whole.position()));
    }
    assert_eq!(parts.iter().map(Loader::skipped).sum::<usize>(), whole.skipped());
    let many = Part { rank: 0, ranks: 8, shards: 8 };
    assert!(Loader::of_part(vec![source("a", 23, 0, 1.0)], config(), many).is_err());
}
