//! Vector exp, erfc, normal distribution and logistic function, f32 grade.
//!
//! `exp`: Cody-Waite reduction and the degree-6 polynomial of Cephes `expf`.
//! `erfc`: exp(-z^2) times a degree-9 polynomial in (z-2)/(z+2) over (1+2z)
//! (the form of Shepherd and Laframboise, 1981), fitted here to 3e-8 relative
//! on 0..10.5, so that the tail keeps its relative accuracy.
use crate::simd::Simd;

const EXP_LOW: f32 = -87.33;

#[inline(always)]
fn horner<S: Simd, const N: usize>(s: S, x: S::V, c: [f32; N]) -> S::V {
    let mut p = s.splat(c[N - 1]);
    for &k in c[..N - 1].iter().rev() {
        p = s.fma(p, x, s.splat(k));
    }
    p
}

/// e^x; zero below -87.33, saturates above 88.3; NaN stays NaN.
#[inline(always)]
pub(crate) fn exp<S: Simd>(s: S, x: S::V) -> S::V {
    let low = s.splat(EXP_LOW);
    let c = s.min(s.splat(88.3), s.max(low, x));
    let n = s.round(s.mul(c, s.splat(std::f32::consts::LOG2_E)));
    let f = s.fma(n, s.splat(-0.693_359_375), c);
    let f = s.fma(n, s.splat(2.121_944_4e-4), f);
    let p = horner(s, f, [0.5, 1.666_666_5e-1, 4.166_579_6e-2, 8.333_452e-3, 1.398_2e-3, 1.987_569_1e-4]);
    let y = s.add(s.fma(p, s.mul(f, f), f), s.splat(1.0));
    s.select_lt(x, low, s.splat(0.0), s.scale2(y, n))
}

/// The standard normal distribution: (cumulative, density) at `x`.
#[inline(always)]
pub(crate) fn normal<S: Simd>(s: S, x: S::V) -> (S::V, S::V) {
    let zero = s.splat(0.0);
    // Past 14 the density is zero in f32; the clamp keeps infinities out.
    let ax = s.min(s.splat(14.0), s.select_lt(x, zero, s.sub(zero, x), x));
    let z = s.mul(ax, s.splat(std::f32::consts::FRAC_1_SQRT_2));
    // exp(-x^2/2) with the rounding error of the square carried along.
    let half = s.mul(ax, s.splat(0.5));
    let h = s.mul(half, ax);
    let low = s.fma(half, ax, s.sub(zero, h));
    let e = exp(s, s.sub(zero, h));
    let e = s.sub(e, s.mul(e, low));
    let two = s.splat(2.0);
    let one = s.splat(1.0);
    let t = s.div(s.sub(z, two), s.add(z, two));
    let p = horner(
        s,
        t,
        [
            1.276_978_4, -0.092_764_02, -0.166_031_2, 0.164_056_08, -0.054_206_17, -0.008_063_729,
            0.008_636_29, 0.001_321_059_9, -0.001_233_005_8, -0.000_405_091_82,
        ],
    );
    let upper = s.div(s.mul(s.mul(e, s.splat(0.5)), p), s.fma(two, z, one));
    let cdf = s.select_lt(x, zero, upper, s.sub(one, upper));
    (cdf, s.mul(e, s.splat(0.398_942_3)))
}

/// 1 / (1 + e^-x)
#[inline(always)]
pub(crate) fn logistic<S: Simd>(s: S, x: S::V) -> S::V {
    let one = s.splat(1.0);
    s.div(one, s.add(one, exp(s, s.sub(s.splat(0.0), x))))
}
