//! Heads on painted features: what is linear is learnt, what needs context needs a pyramid, a seed gives one head.

use burn::tensor::{Device, Tensor, TensorData};
use samclip_models::probe::{ProbeHead, ProbeHeadConfig, upsample_aligned};
use samclip_models::state::state_dict;
use samclip_train::TrainError;
use samclip_train::probe::store::{FeatureMap, FeatureStore};
use samclip_train::probe::{Fitted, ProbeSet, ProbeTraining, UNKNOWN, fit};

const SIDE: usize = 6;
const WIDTH: usize = 4;

/// A number in [-1, 1) that looks random.
fn noise(i: usize) -> f32 {
    let mut x = (i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x ^= x >> 31;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

/// Class of a cell: by its own first channel, or (`context`) by the sign of the photo's mean of the second.
fn photo(index: usize, context: bool) -> (FeatureMap, Vec<u16>) {
    let sign = if index % 2 == 0 { 1.0 } else { -1.0 };
    let value = |i: usize| match i % WIDTH {
        0 => noise(index * 1000 + i) * 2.0,
        1 => 0.15 * sign + noise(index * 1000 + i),
        _ => noise(index * 1000 + i),
    };
    let values: Vec<f32> = (0..SIDE * SIDE * WIDTH).map(value).collect();
    let class = |cell: usize| if context { u16::from(sign > 0.0) } else { u16::from(values[cell * WIDTH] > 0.0) };
    let labels = (0..SIDE * SIDE).map(|cell| if cell == index % 36 { UNKNOWN } else { class(cell) }).collect();
    (FeatureMap { values, shape: [SIDE, SIDE, WIDTH] }, labels)
}

fn training(head: ProbeHeadConfig, rates: Vec<f32>) -> ProbeTraining {
    ProbeTraining { head, classes: 2, steps: 120, batch: 8, rates, weight_decay: 1e-4, label_side: SIDE, seed: 3 }
}

fn run(training: &ProbeTraining, context: bool) -> Fitted {
    let dir = tempfile::tempdir().unwrap();
    let encode = |i: usize| Ok::<_, TrainError>(photo(i, context).0);
    let features = FeatureStore::fill(dir.path(), 60, (0, 1), encode, &mut |_, _| {}).unwrap();
    let labels: Vec<Vec<u16>> = (0..60).map(|i| photo(i, context).1).collect();
    let mut last = (0, 0);
    let fitted = fit(training, &ProbeSet { features: &features, labels: &labels }, &mut |done, all| last = (done, all)).unwrap();
    assert_eq!(last.0, last.1);
    fitted
}

/// Share of right cells on photos that were not learnt from.
fn accuracy(head: &ProbeHead, context: bool) -> f64 {
    let (mut right, mut known) = (0, 0);
    for index in 100..140 {
        let (map, labels) = photo(index, context);
        let x = Tensor::<4>::from_data(TensorData::new(map.values, vec![1, SIDE, SIDE, WIDTH]), &Device::default());
        let logits = upsample_aligned(head.forward(x), [SIDE, SIDE]).try_into_vec_as::<f32>().unwrap();
        for (row, label) in logits.chunks_exact(2).zip(labels).filter(|(_, l)| *l != UNKNOWN) {
            right += usize::from(u16::from(row[1] > row[0]) == label);
            known += 1;
        }
    }
    right as f64 / known as f64
}

fn deeplab() -> ProbeHeadConfig {
    ProbeHeadConfig::DeeplabV3 { channels: 8, rates: [1, 2, 3], dropout: 0.1 }
}

fn psp() -> ProbeHeadConfig {
    ProbeHeadConfig::PspNet { channels: 8, pool_channels: 4, pools: vec![1, 2, 3, 6], dropout: 0.1 }
}

#[test]
fn a_linear_head_learns_what_a_token_says_and_nothing_of_its_surroundings() {
    let own = run(&training(ProbeHeadConfig::Linear {}, vec![0.05]), false);
    let around = run(&training(ProbeHeadConfig::Linear {}, vec![0.05]), true);
    let found = [accuracy(&own.head, false), accuracy(&around.head, true)];
    println!("linear: own {:.3}, context {:.3}", found[0], found[1]);
    assert!(found[0] > 0.95 && found[1] < 0.7, "{found:?}");
}

#[test]
fn pyramids_learn_the_surroundings() {
    for (name, head) in [("deeplab_v3", deeplab()), ("psp_net", psp())] {
        let found = accuracy(&run(&training(head, vec![0.01]), true).head, true);
        println!("{name}: context {found:.3}");
        assert!(found > 0.85, "{name}: {found}");
    }
}

#[test]
fn a_seed_gives_one_head_whatever_the_threads() {
    let values = |seed: u64, threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let training = ProbeTraining { seed, steps: 12, ..training(deeplab(), vec![0.01]) };
        let state = pool.install(|| state_dict(&run(&training, true).head));
        state.iter().map(|(name, tensor)| (name.to_owned(), tensor.to_f32())).collect::<Vec<_>>()
    };
    let first = values(1, 1);
    assert!(first.iter().any(|(name, v)| name.ends_with("running_var") && v.iter().any(|x| (x - 1.0).abs() > 1e-3)));
    assert_eq!(values(1, 3), first);
    assert_ne!(values(2, 1), first);
}

#[test]
fn of_several_rates_the_best_on_photos_kept_apart_is_taken() {
    let fitted = run(&ProbeTraining { steps: 40, ..training(ProbeHeadConfig::Linear {}, vec![1e-6, 0.05]) }, false);
    assert_eq!((fitted.rate, fitted.swept.len()), (0.05, 2));
    assert!(fitted.swept[1].1 > fitted.swept[0].1 + 0.05, "{:?}", fitted.swept);
}

#[test]
fn what_does_not_fit_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let encode = |i: usize| Ok::<_, TrainError>(photo(i, false).0);
    let features = FeatureStore::fill(dir.path(), 4, (0, 1), encode, &mut |_, _| {}).unwrap();
    let fails = |training: &ProbeTraining, labels: &[Vec<u16>]| {
        fit(training, &ProbeSet { features: &features, labels }, &mut |_, _| {}).unwrap_err().to_string()
    };
    let labels: Vec<Vec<u16>> = (0..4).map(|i| photo(i, false).1).collect();
    let good = training(ProbeHeadConfig::Linear {}, vec![0.05]);
    assert!(fails(&good, &labels[..3]).contains("expected 36 labels for each of 4 photos"));
    assert!(fails(&ProbeTraining { classes: 0, ..good.clone() }, &labels).contains("at least two classes"));
    assert!(fails(&ProbeTraining { batch: 1, ..good.clone() }, &labels).contains("a batch of two"));
    assert!(fails(&ProbeTraining { rates: vec![f32::INFINITY], ..good.clone() }, &labels).contains("not finite"));
    let odd = ProbeHeadConfig::PspNet { channels: 8, pool_channels: 0, pools: vec![1], dropout: 0.1 };
    assert!(fails(&ProbeTraining { head: odd, ..good }, &labels).contains("positive sizes"));
}
