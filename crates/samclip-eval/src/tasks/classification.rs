//! Zero-shot classification: CLIP_benchmark's acc1, acc5, mean_per_class_recall.
//!
//! Candidates are the distinct names of the classes; classes that share a name are one candidate, photos of a class
//! without a name are not asked (the report counts them).

use super::{Case, Measured, outcomes};
use crate::answers::{Answers, Offline};
use crate::metrics::mean;
use crate::metrics::ranking::{mean_per_class_recall, top_k};
use crate::outcome::{Outcome, Record};
use crate::summary::{Row, Summary};

/// Distinct names in the order of the classes, and each class's candidate.
fn candidates(case: &Case) -> (Vec<String>, Vec<Option<usize>>) {
    if case.benchmark.linear_probing.is_some() {
        // a head's outputs are the classes, whatever their names
        return (case.classes().to_vec(), (0..case.classes().len()).map(Some).collect());
    }
    let mut names: Vec<String> = Vec::new();
    let mut place = std::collections::BTreeMap::new();
    let mut find = |name: &String| {
        *place.entry(name.clone()).or_insert_with(|| {
            names.push(name.clone());
            names.len() - 1
        })
    };
    let of_class = case.names.iter().map(|name| name.as_ref().map(&mut find)).collect();
    (names, of_class)
}

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let (names, of_class) = candidates(case);
    let dataset = case.dataset()?;
    // a photo that cannot be read is found even where no model looks at it
    let sample = match answers {
        Answers::Model(_) => Some(dataset.get(index)?),
        Answers::Offline(_) => None,
    };
    let present = sample.as_ref().map_or_else(|| dataset.present(index), |s| Ok(s.class_ids.clone()))?;
    let Some(label) = present.first().and_then(|class| of_class.get(*class).copied().flatten()) else {
        return Ok((Outcome::NotAsked, 0.0));
    };
    let few: Vec<usize> = (0..names.len().min(5)).collect();
    let (top, ms) = match (answers, sample) {
        (Answers::Model(roles), Some(sample)) => {
            let answer = match (roles.probes.get(&case.benchmark.name), roles.classifier) {
                (Some(probe), _) => probe.classify(&sample.image),
                (None, Some(classifier)) if case.benchmark.linear_probing.is_none() => classifier.classify(&sample.image, &names),
                _ => return Err(case.lacks("classify")),
            };
            let answer = answer.map_err(case.failed(index))?;
            (top_k(&answer.probabilities, 5), answer.timing.encode + answer.timing.decode)
        }
        (Answers::Offline(Offline::Files(files)), _) => {
            let scores = files.scores(&case.id(index), of_class.len())?;
            // scores are by class; a candidate has its best class's
            let mut best = vec![f32::NEG_INFINITY; names.len()];
            for (candidate, score) in of_class.iter().zip(scores).filter_map(|(c, s)| c.map(|c| (c, *s))) {
                best[candidate] = best[candidate].max(score);
            }
            (top_k(&best, 5), 0.0)
        }
        (Answers::Offline(Offline::Oracle), _) => (vec![label], 0.0),
        _ => (few, 0.0),
    };
    Ok((Outcome::Classified { label, top }, ms))
}

pub fn summarize(case: &Case, records: &[Record], summary: &mut Summary) {
    let (names, _) = candidates(case);
    let answers: Vec<(usize, &[usize])> = outcomes(records)
        .filter_map(|o| match o {
            Outcome::Classified { label, top } => Some((*label, top.as_slice())),
            _ => None,
        })
        .collect();
    let share = |k: usize| mean(answers.iter().map(|(label, top)| f64::from(u8::from(top[..k.min(top.len())].contains(label)))));
    let right = |(label, top): &(usize, &[usize])| (*label, top.first() == Some(label));
    summary.metric("acc1", share(1));
    summary.metric("acc5", share(5));
    summary.metric("mean_per_class_recall", mean_per_class_recall(answers.iter().map(right)));
    summary.headline = "acc1".into();
    summary.candidates = Some(names.len());
    let mut by_class: std::collections::BTreeMap<usize, Vec<bool>> = Default::default();
    let mut confused: std::collections::BTreeMap<(usize, usize), u64> = Default::default();
    for (label, top) in &answers {
        by_class.entry(*label).or_default().push(top.first() == Some(label));
        if let Some(first) = top.first().filter(|first| *first != label) {
            *confused.entry((*label, *first)).or_default() += 1;
        }
    }
    for (label, hits) in by_class {
        let value = mean(hits.iter().map(|h| f64::from(u8::from(*h))));
        summary.per_class.push(Row::new(&names[label], hits.len(), [("recall", value)]));
    }
    let mut confused: Vec<_> = confused.into_iter().collect();
    confused.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(&b.0)));
    summary.confusions(confused.into_iter().map(|((t, p), n)| (names[t].as_str(), names[p].as_str(), n)));
}
