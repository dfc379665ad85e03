//! Retrieval: each caption asks for its photo, each photo for one of its captions (CLIP_benchmark's
//! `image_retrieval_recall@k` and `text_retrieval_recall@k`; spec 5.6, 9.4).

use super::{Case, Measured, outcomes};
use crate::answers::{Answers, Offline};
use crate::EvalError;
use crate::metrics::ranking::{best_rank, recall_at};
use crate::outcome::{Outcome, Record};
use crate::summary::Summary;
use rayon::prelude::*;

pub fn measure(case: &Case, answers: Answers<'_>, index: usize) -> Measured {
    let dataset = case.dataset()?;
    let (image, captions, ms) = match answers {
        Answers::Model(roles) => {
            let embedder = roles.embedder.ok_or_else(|| case.lacks("embed sentences"))?;
            let sample = dataset.get(index)?;
            let start = std::time::Instant::now();
            let image = embedder.embed_image(&sample.image).map_err(case.failed(index))?;
            let captions = embedder.embed_texts(&sample.captions).map_err(case.failed(index))?;
            (image, captions, start.elapsed().as_secs_f64() * 1e3)
        }
        Answers::Offline(Offline::Files(files)) => {
            let (image, captions) = files.vectors(&case.id(index))?;
            let expected = dataset.captions(index)?.len();
            if captions.len() != expected || captions.iter().any(|c| c.len() != image.len()) {
                let message = format!("photo {}: expected {expected} caption vectors of the photo's length", case.id(index));
                return Err(EvalError::Mismatch(message));
            }
            (image, captions, 0.0)
        }
        // a direction of its own for every photo: only its captions point there
        Answers::Offline(Offline::Oracle) => {
            let angle = index as f64 / case.len() as f64 * std::f64::consts::TAU;
            let vector = vec![angle.cos() as f32, angle.sin() as f32];
            (vector.clone(), vec![vector; dataset.captions(index)?.len()], 0.0)
        }
        Answers::Offline(Offline::Constant) => (vec![1.0], vec![vec![1.0]; dataset.captions(index)?.len()], 0.0),
    };
    Ok((Outcome::Embedded { image, captions }, ms))
}

pub fn summarize(case: &Case, records: &[Record], summary: &mut Summary) {
    let Some(retrieval) = &case.benchmark.retrieval else { return };
    let mut images: Vec<&[f32]> = Vec::new();
    let mut captions: Vec<(usize, &[f32])> = Vec::new();
    for outcome in outcomes(records) {
        if let Outcome::Embedded { image, captions: own } = outcome {
            captions.extend(own.iter().map(|c| (images.len(), c.as_slice())));
            images.push(image);
        }
    }
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum::<f64>() as f32;
    let by_caption: Vec<Option<usize>> = captions
        .par_iter()
        .map(|(own, text)| best_rank(&images.iter().map(|image| dot(text, image)).collect::<Vec<_>>(), &[*own]))
        .collect();
    let by_image: Vec<Option<usize>> = images
        .par_iter()
        .enumerate()
        .map(|(i, image)| {
            let own: Vec<usize> = (0..captions.len()).filter(|c| captions[*c].0 == i).collect();
            best_rank(&captions.iter().map(|(_, text)| dot(text, image)).collect::<Vec<_>>(), &own)
        })
        .collect();
    for &k in &retrieval.recall {
        summary.metric(&format!("image_retrieval_recall@{k}"), recall_at(&by_caption, k));
    }
    for &k in &retrieval.recall {
        summary.metric(&format!("text_retrieval_recall@{k}"), recall_at(&by_image, k));
    }
    summary.headline = format!("image_retrieval_recall@{}", retrieval.recall[0]);
    summary.candidates = Some(captions.len());
}
