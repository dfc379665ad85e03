//! Each operation and its gradients against the plain twin, on the same device.

use burn::tensor::{Device, Distribution, Tensor};

use super::{Precision, RelPosBias, plain, set_precision};

/// The switch is for the whole process: tests of this module take turns.
static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());

fn device() -> Device {
    Device::default().autodiff()
}

fn values<const D: usize>(t: &Tensor<D>) -> Vec<f32> {
    t.clone().into_data().try_to_vec::<f32>().unwrap()
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let num: f64 = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2)).sum();
    let den: f64 = b.iter().map(|&b| f64::from(b).powi(2)).sum();
    (num / den.max(1e-30)).sqrt()
}

/// Output, then the gradients of all inputs, of `f` at random inputs of these shapes.
fn run<const N: usize>(shapes: [Vec<usize>; N], f: &dyn Fn(&[Tensor<4>]) -> Tensor<4>) -> Vec<Vec<f32>> {
    let device = device();
    let inputs: Vec<Tensor<4>> = shapes
        .iter()
        .enumerate()
        .map(|(i, s)| {
            let n: usize = s.iter().product();
            let data: Vec<f32> = (0..n).map(|j| (((j * 7919 + i * 104_729) % 2003) as f32 / 1001.5 - 1.0) * 1.5).collect();
            let shape: [usize; 4] = s.clone().try_into().unwrap();
            Tensor::<1>::from_floats(data.as_slice(), &device).reshape(shape).detach().require_grad()
        })
        .collect();
    let y = f(&inputs);
    // A loss with a different slope for every element.
    let n = y.dims().iter().product::<usize>();
    let slope: Vec<f32> = (0..n).map(|j| ((j * 31 + 7) % 97) as f32 / 48.0 - 1.0).collect();
    let slope = Tensor::<1>::from_floats(slope.as_slice(), &device).reshape(y.dims());
    let grads = (y.clone() * slope).sum().backward();
    let mut all = vec![values(&y)];
    all.extend(inputs.iter().map(|x| values(&x.grad(&grads).expect("a gradient"))));
    all
}

fn compare<const N: usize>(
    name: &str,
    shapes: [Vec<usize>; N],
    fast: &dyn Fn(&[Tensor<4>]) -> Tensor<4>,
    twin: &dyn Fn(&[Tensor<4>]) -> Tensor<4>,
) {
    let _guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let want = run(shapes.clone(), twin);
    for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 3e-2)] {
        set_precision(precision);
        let got = run(shapes.clone(), fast);
        set_precision(Precision::F32);
        for (i, (g, w)) in got.iter().zip(&want).enumerate() {
            let d = distance(g, w);
            assert!(d <= tolerance, "{name} {precision:?}, tensor {i}: {d:e}");
        }
    }
}

fn flat<const D: usize>(t: &Tensor<4>) -> Tensor<D> {
    let keep: Vec<usize> = t.dims()[4 - D..].to_vec();
    t.clone().reshape(<[usize; D]>::try_from(keep).unwrap())
}

/// bf16 is for products outside of `in_f32`; what panics inside leaves nothing behind.
#[test]
fn products_inside_in_f32_are_those_of_f32() {
    let _guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let linear = || {
        let device = Device::default();
        let of = |n: usize, step: f32| Tensor::<1>::from_floats((0..n).map(|i| (i as f32 * step).sin()).collect::<Vec<_>>().as_slice(), &device);
        values(&super::linear(of(7 * 96, 0.37).reshape([7, 96]), of(40 * 96, 0.11).reshape([40, 96]), None))
    };
    let want = linear();
    set_precision(Precision::Bf16);
    let rounded = linear();
    let inside = super::in_f32(linear);
    let nested = super::in_f32(|| {
        super::in_f32(linear);
        linear()
    });
    assert!(std::panic::catch_unwind(|| super::in_f32(|| panic!("on purpose"))).is_err());
    let after = linear();
    set_precision(Precision::F32);
    assert_eq!((inside == want, nested == want, after == rounded), (true, true, true));
    assert_eq!(rounded != want, samclip_kernels::isa::bf16(), "bf16 rounds where the processor has it");
}

#[test]
fn linear_with_and_without_bias() {
    let shapes = || [vec![2, 3, 5, 24], vec![1, 1, 40, 24], vec![1, 1, 1, 40]];
    compare(
        "linear",
        shapes(),
        &|x| super::linear(x[0].clone(), flat(&x[1]), Some(flat(&x[2]))),
        &|x| plain::linear(x[0].clone(), flat(&x[1]), Some(flat(&x[2]))),
    );
    let [x, w, _] = shapes();
    // A transposed input is not dense.
    compare(
        "linear, no bias, strided",
        [vec![2, 24, 5, 3], w],
        &|x| super::linear(x[0].clone().swap_dims(1, 3), flat(&x[1]), None),
        &|x| plain::linear(x[0].clone().swap_dims(1, 3), flat(&x[1]), None),
    );
    drop(x);
}

#[test]
fn layer_norm_and_activations() {
    compare(
        "layer norm",
        [vec![2, 3, 7, 37], vec![1, 1, 1, 37], vec![1, 1, 1, 37]],
        &|x| super::layer_norm(x[0].clone(), flat(&x[1]), flat(&x[2]), 1e-6),
        &|x| plain::layer_norm(x[0].clone(), flat(&x[1]), flat(&x[2]), 1e-6),
    );
    compare("gelu", [vec![1, 3, 7, 37]], &|x| super::gelu(x[0].clone()), &|x| plain::gelu(x[0].clone()));
    compare("quick gelu", [vec![1, 3, 7, 37]], &|x| super::quick_gelu(x[0].clone()), &|x| plain::quick_gelu(x[0].clone()));
}

#[test]
fn convolution() {
    for stride in [1, 2] {
        compare(
            "conv3x3",
            [vec![2, 9, 8, 5], vec![6, 5, 3, 3], vec![1, 1, 1, 6]],
            &|x| super::conv3x3(x[0].clone(), x[1].clone(), Some(flat(&x[2])), stride),
            &|x| plain::conv3x3(x[0].clone(), x[1].clone(), Some(flat(&x[2])), stride),
        );
        compare(
            "conv3x3, no bias",
            [vec![2, 9, 8, 5], vec![6, 5, 3, 3]],
            &|x| super::conv3x3(x[0].clone(), x[1].clone(), None, stride),
            &|x| plain::conv3x3(x[0].clone(), x[1].clone(), None, stride),
        );
    }
}

#[test]
fn attention_of_every_kind() {
    let token = |t: &Tensor<4>| t.clone().swap_dims(1, 2);
    compare(
        "cross attention, token-major inputs",
        [vec![2, 11, 3, 32], vec![2, 40, 3, 32], vec![2, 40, 3, 32]],
        &|x| super::attention(token(&x[0]), token(&x[1]), token(&x[2]), 0.2, None, false),
        &|x| plain::attention(token(&x[0]), token(&x[1]), token(&x[2]), 0.2, None, false),
    );
    compare(
        "causal attention",
        [vec![1, 2, 21, 16], vec![1, 2, 21, 16], vec![1, 2, 21, 16]],
        &|x| super::attention(x[0].clone(), x[1].clone(), x[2].clone(), 0.3, None, true),
        &|x| plain::attention(x[0].clone(), x[1].clone(), x[2].clone(), 0.3, None, true),
    );
    let rel = |x: &[Tensor<4>]| Some(RelPosBias { rel_h: x[3].clone(), rel_w: x[4].clone() });
    compare(
        "relative positions",
        [vec![2, 2, 30, 16], vec![2, 2, 30, 16], vec![2, 2, 30, 16], vec![2, 2, 30, 5], vec![2, 2, 30, 6]],
        &|x| super::attention(x[0].clone(), x[1].clone(), x[2].clone(), 0.25, rel(x), false),
        &|x| plain::attention(x[0].clone(), x[1].clone(), x[2].clone(), 0.25, rel(x), false),
    );
}

#[test]
fn packed_self_attention() {
    let tables = |x: &[Tensor<4>]| Some((flat(&x[1]), flat(&x[2])));
    compare(
        "self attention with relative positions",
        [vec![1, 2, 30, 96], vec![1, 5, 5, 16], vec![1, 6, 6, 16]],
        &|x| super::self_attention(flat(&x[0]), 2, 0.25, tables(x), false).unsqueeze(),
        &|x| plain::self_attention(flat(&x[0]), 2, 0.25, tables(x), false).unsqueeze(),
    );
    compare(
        "causal self attention",
        [vec![1, 2, 21, 96]],
        &|x| super::self_attention(flat(&x[0]), 2, 0.25, None, true).unsqueeze(),
        &|x| plain::self_attention(flat(&x[0]), 2, 0.25, None, true).unsqueeze(),
    );
}

#[test]
fn without_gradients_the_same_values() {
    let _guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let device = Device::default();
    let x = Tensor::<3>::random([2, 5, 16], Distribution::Normal(0.0, 1.0), &device);
    let w = Tensor::<2>::random([8, 16], Distribution::Normal(0.0, 1.0), &device);
    let fast = super::linear(x.clone(), w.clone(), None);
    let twin = plain::linear(x, w, None);
    assert!(distance(&values(&fast), &values(&twin)) < 1e-5);
}

/// A cached packed weight must not outlive the tensors it was made from.
#[test]
fn a_block_with_other_weights_packs_again() {
    let _guard = LOCK.lock().unwrap_or_else(|e| e.into_inner());
    let device = Device::default();
    let numbers = |n: usize, seed: usize| (0..n).map(|i| ((i * 31 + seed * 17) % 23) as f32 / 23.0 - 0.5).collect::<Vec<_>>();
    let vector = |n: usize, seed| Tensor::<1>::from_floats(numbers(n, seed).as_slice(), &device);
    let matrix = |o: usize, i: usize, seed| (vector(o * i, seed).reshape([o, i]), vector(o, seed + 1));
    let weights = |seed: usize| super::BlockWeights {
        norm1: (vector(32, seed), vector(32, 1)),
        qkv: matrix(96, 32, seed + 2),
        proj: matrix(32, 32, seed + 3),
        norm2: (vector(32, 4), vector(32, 5)),
        fc1: matrix(64, 32, seed + 6),
        fc2: matrix(32, 64, seed + 7),
    };
    let shape = super::BlockShape {
        heads: 2,
        window: 0,
        causal: false,
        activation: super::BlockActivation::Gelu,
        eps: 1e-6,
    };
    let x = vector(5 * 32, 9).reshape([1, 5, 32]);
    let run = |seed, cache: &super::BlockCache| {
        let y = super::block(&x, || weights(seed), || None, shape, cache).expect("the CPU has the block");
        self::values(&y)
    };
    let cache = super::BlockCache::default();
    let first = run(1, &cache);
    let other = run(2, &cache);
    assert_ne!(first, other);
    assert_eq!(other, run(2, &super::BlockCache::default()));
    assert_eq!(first, run(1, &cache));
    let tracked = Tensor::<3>::zeros([1, 5, 32], &self::device());
    assert!(super::block(&tracked, || weights(1), || None, shape, &cache).is_none());
}
