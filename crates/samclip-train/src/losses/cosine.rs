//! Distances between embeddings: cosine, and smooth L1.
//!
//! Paper: SAM-CLIP eq. 1 (`1 - cos`); features as AM-RADIO (arXiv:2312.06709)
//! balances them. Reference: torch `cosine_similarity`, `smooth_l1_loss`.
//! Parity: `tests/losses.rs`.

const EPS: f32 = 1e-8;

/// Mean over the rows of `1 - cos(student, teacher)`, both `[n, width]`; returns the
/// value and the gradient with respect to the student.
pub fn cosine(student: &[f32], teacher: &[f32], width: usize) -> (f32, Vec<f32>) {
    let n = student.len() / width;
    let mut grad = vec![0.0; student.len()];
    let mut sum = 0.0f64;
    for ((s, t), g) in student.chunks(width).zip(teacher.chunks(width)).zip(grad.chunks_mut(width)) {
        let dot: f32 = s.iter().zip(t).map(|(a, b)| a * b).sum();
        let norm = |v: &[f32]| v.iter().map(|x| x * x).sum::<f32>().sqrt().max(EPS);
        let (ns, nt) = (norm(s), norm(t));
        let cos = dot / (ns * nt);
        sum += f64::from(1.0 - cos);
        for ((g, &a), &b) in g.iter_mut().zip(s).zip(t) {
            *g = (cos * a / (ns * ns) - b / (ns * nt)) / n as f32;
        }
    }
    ((sum / n as f64) as f32, grad)
}

/// [`cosine`] towards a teacher whose per-channel mean over the batch is removed:
/// post-activation feature maps share a large constant part that carries nothing.
pub fn centred_cosine(student: &[f32], teacher: &[f32], width: usize) -> (f32, Vec<f32>) {
    let n = teacher.len() / width;
    let mut mean = vec![0.0f32; width];
    for row in teacher.chunks(width) {
        mean.iter_mut().zip(row).for_each(|(m, &t)| *m += t);
    }
    mean.iter_mut().for_each(|m| *m /= n as f32);
    let centred: Vec<f32> =
        teacher.chunks(width).flat_map(|row| row.iter().zip(&mean).map(|(t, m)| t - m)).collect();
    cosine(student, &centred, width)
}

/// Brings every channel of `rows` `[n, width]` to mean 0 and variance 1.
///
/// Deviation: UNIC (arXiv:2408.05088) keeps running statistics; these are the batch's, so that nothing has to
/// be stored.
pub fn standardize(rows: &mut [f32], width: usize) {
    let n = (rows.len() / width).max(1) as f64;
    let (mut mean, mut square) = (vec![0.0f64; width], vec![0.0f64; width]);
    rows.chunks(width).for_each(|row| mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / n));
    for row in rows.chunks(width) {
        square.iter_mut().zip(row).zip(&mean).for_each(|((s, x), m)| *s += (f64::from(*x) - m).powi(2) / n);
    }
    for row in rows.chunks_mut(width) {
        for ((x, m), s) in row.iter_mut().zip(&mean).zip(&square) {
            *x = ((f64::from(*x) - m) / (s + f64::from(EPS)).sqrt()) as f32;
        }
    }
}

/// Smooth L1 (beta 1), mean over all elements; returns value and gradient.
pub fn smooth_l1(student: &[f32], teacher: &[f32]) -> (f32, Vec<f32>) {
    let n = student.len() as f32;
    let mut sum = 0.0f64;
    let grad = student
        .iter()
        .zip(teacher)
        .map(|(&s, &t)| {
            let d = s - t;
            sum += f64::from(if d.abs() < 1.0 { 0.5 * d * d } else { d.abs() - 0.5 });
            d.clamp(-1.0, 1.0) / n
        })
        .collect();
    ((sum / f64::from(n)) as f32, grad)
}
