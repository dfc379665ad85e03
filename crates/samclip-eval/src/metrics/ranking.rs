//! Classification and retrieval: top-k, mean recall by class, recall at k.
//!
//! Definitions: CLIP_benchmark's `zeroshot_classification` (acc1, acc5, mean_per_class_recall) and `zeroshot_retrieval`;
//! spec 9.4. Equal scores rank by index, NaN last. Parity: tests/metrics.rs, equal to a NumPy version.

use super::mean;

/// The indices of the `k` largest scores, best first; the lower index first among equals, NaN last.
pub fn top_k(scores: &[f32], k: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..scores.len()).collect();
    let key = |i: usize| if scores[i].is_nan() { f32::NEG_INFINITY } else { scores[i] };
    let compare = |&a: &usize, &b: &usize| key(b).total_cmp(&key(a)).then(scores[a].is_nan().cmp(&scores[b].is_nan())).then(a.cmp(&b));
    let k = k.min(order.len());
    if k > 0 && k < order.len() {
        order.select_nth_unstable_by(k - 1, compare);
    }
    order.truncate(k);
    order.sort_by(compare);
    order
}

/// Mean over the classes that occur of the share of their samples that are right: `(class, right)` each.
pub fn mean_per_class_recall(answers: impl IntoIterator<Item = (usize, bool)>) -> Option<f64> {
    let mut by_class: std::collections::BTreeMap<usize, (u64, u64)> = Default::default();
    for (class, right) in answers {
        let (all, hits) = by_class.entry(class).or_default();
        (*all, *hits) = (*all + 1, *hits + u64::from(right));
    }
    mean(by_class.values().map(|(all, hits)| *hits as f64 / *all as f64))
}

/// The rank, from 0, of the best of `wanted` among `scores`; none where `wanted` is empty.
pub fn best_rank(scores: &[f32], wanted: &[usize]) -> Option<usize> {
    let best = |&&a: &&usize, &&b: &&usize| scores[a].total_cmp(&scores[b]).then(b.cmp(&a));
    let &target = wanted.iter().filter(|w| **w < scores.len()).max_by(best)?;
    let ahead = |(i, s): (usize, &f32)| s.total_cmp(&scores[target]).is_gt() || (*s == scores[target] && i < target);
    Some(scores.iter().enumerate().filter(|(i, s)| *i != target && ahead((*i, s))).count())
}

/// The share of queries whose best answer is among the first `k`.
pub fn recall_at(ranks: &[Option<usize>], k: usize) -> Option<f64> {
    mean(ranks.iter().map(|rank| f64::from(u8::from(rank.is_some_and(|r| r < k)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_by_hand() {
        let scores = [0.2, 0.9, f32::NAN, 0.9, 0.1];
        assert_eq!(top_k(&scores, 3), [1, 3, 0]);
        assert_eq!(top_k(&scores, 9), [1, 3, 0, 4, 2]);
        assert_eq!((best_rank(&[0.2, 0.9, 0.9], &[2]), best_rank(&[0.2, 0.9, 0.9], &[0, 2])), (Some(1), Some(1)));
        assert_eq!((best_rank(&[0.2, 0.9, 0.9], &[0]), best_rank(&[0.2], &[])), (Some(2), None));
        assert_eq!(recall_at(&[Some(0), Some(4), Some(5), None], 5), Some(0.5));
        // class 7: 1 of 2, class 3: 2 of 2
        assert_eq!(mean_per_class_recall([(7, true), (3, true), (7, false), (3, true)]), Some(0.75));
        assert_eq!(mean_per_class_recall([]), None);
    }
}
