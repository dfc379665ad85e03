//! A run: every photo of a shard once, each protocol's record appended as it is measured.
//!
//! Protocols on the same photos are asked photo by photo, so that a model with an embedding cache encodes each photo once
//! for all of them. A truth that cannot be read is a record that says so; everything else that fails ends the run.

use crate::answers::{Answers, Offline, Roles};
use crate::benchmark::AnyProtocol;
use crate::boxes::Boxes;
use crate::outcome::{Outcome, Record};
use crate::protocol::Protocol;
use crate::records::{Header, RecordFile, file_name};
use crate::report::Report;
use crate::run::{Subject, check, measure_offline, measure_photo};
use crate::summary::{Summary, worst};
use crate::tally::Tally;
use crate::tasks::Case;
use crate::EvalError;
use rayon::prelude::*;
use samclip_data::Dataset;
use samclip_data::names::name_map;
use samclip_predict::passes;
use std::collections::BTreeSet;
use std::path::Path;

/// The prompts-and-names protocol with its data.
pub struct ObjectsCase {
    /// What is measured.
    pub protocol: Protocol,
    /// On what.
    pub dataset: Box<dyn Dataset>,
    /// The text name of every class.
    pub names: Vec<Option<String>>,
    /// A detector's boxes that stand for names.
    pub boxes: Option<Boxes>,
}

/// A protocol with its data.
pub enum Job {
    /// Prompts and names on the photos of a semantic set.
    Objects(Box<ObjectsCase>),
    /// One task.
    Benchmark(Box<Case>),
}

/// Either kind of report.
#[derive(Debug, Clone, PartialEq)]
pub enum AnyReport {
    /// Of the prompts-and-names protocol.
    Objects(Box<Report>),
    /// Of a benchmark.
    Benchmark(Box<Summary>),
}

impl Job {
    /// Opens the data of a protocol below `data`.
    ///
    /// # Errors
    /// What the data or the protocol's names report.
    pub fn open(protocol: AnyProtocol, data: &Path) -> Result<Self, EvalError> {
        Ok(match protocol {
            AnyProtocol::Benchmark(benchmark) => Self::Benchmark(Box::new(Case::open(*benchmark, data)?)),
            AnyProtocol::Objects(protocol) => {
                let dataset = samclip_data::open(data, &protocol.dataset, &protocol.split)?;
                let names = name_map(dataset.as_ref(), &data.join("text"))?;
                check(&protocol, dataset.as_ref(), &names)?;
                Self::Objects(Box::new(ObjectsCase { protocol: *protocol, dataset, names, boxes: None }))
            }
        })
    }

    /// The protocol.
    pub fn protocol(&self) -> AnyProtocol {
        match self {
            Self::Objects(case) => AnyProtocol::Objects(Box::new(case.protocol.clone())),
            Self::Benchmark(case) => AnyProtocol::Benchmark(Box::new(case.benchmark.clone())),
        }
    }

    /// Number of photos in the split.
    pub fn len(&self) -> usize {
        match self {
            Self::Objects(case) => case.dataset.len(),
            Self::Benchmark(case) => case.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A photo's name.
    pub fn id(&self, index: usize) -> String {
        match self {
            Self::Objects(case) => case.dataset.id(index).unwrap_or_else(|| format!("{index:06}")),
            Self::Benchmark(case) => case.id(index),
        }
    }

    fn measure(&self, answers: Answers<'_>, index: usize) -> Result<(Outcome, f64), EvalError> {
        match (self, answers) {
            (Self::Benchmark(case), _) => case.measure(answers, index),
            (Self::Objects(case), Answers::Model(roles)) => {
                let subject = Subject {
                    name: String::new(),
                    segmenter: roles.segmenter,
                    classifier: roles.classifier,
                    boxes: case.boxes.as_ref(),
                };
                let tally = measure_photo(&case.protocol, case.dataset.as_ref(), &case.names, &subject, index)?;
                let ms = tally.milliseconds();
                Ok((Outcome::Objects(Box::new(tally.untimed())), ms))
            }
            (Self::Objects(case), Answers::Offline(offline @ (Offline::Oracle | Offline::Constant))) => {
                let oracle = matches!(offline, Offline::Oracle);
                let tally = measure_offline(&case.protocol, case.dataset.as_ref(), &case.names, oracle, index)?;
                Ok((Outcome::Objects(Box::new(tally)), 0.0))
            }
            (Self::Objects(case), Answers::Offline(Offline::Files(_))) => {
                Err(EvalError::Mismatch(format!("{} asks a model by prompts: it takes no predictions", case.protocol.name)))
            }
        }
    }

    /// Measures one photo; a truth that cannot be read becomes a record of its own.
    fn record(&self, answers: Answers<'_>, index: usize) -> Result<Record, EvalError> {
        let id = self.id(index);
        let before = passes::so_far();
        let measured = self.measure(answers, index);
        let passes = if matches!(answers, Answers::Model(_)) { passes::so_far() - before } else { 0 };
        match measured {
            Ok((outcome, ms)) => Ok(Record { index, id, ms, passes, outcome: Some(outcome), failed: None }),
            Err(EvalError::Data(error)) => Ok(Record { index, id, ms: 0.0, passes: 0, outcome: None, failed: Some(error.to_string()) }),
            Err(error) => Err(error),
        }
    }

    /// The report of a run's records, in the order of the photos.
    ///
    /// # Errors
    /// Detections that do not fit the truth.
    pub fn report(&self, header: &Header, records: &[Record]) -> Result<AnyReport, EvalError> {
        match self {
            Self::Benchmark(case) => {
                let mut summary = Summary::new(&case.benchmark, header, records);
                case.summarize(records, &mut summary)?;
                summary.compare(&case.benchmark.expected);
                Ok(AnyReport::Benchmark(Box::new(summary)))
            }
            Self::Objects(case) => {
                let mut tally = Tally::new(case.dataset.class_names().len());
                let mut scored = 0;
                for record in records {
                    if let Some(Outcome::Objects(own)) = &record.outcome {
                        tally.merge(own);
                        scored += 1;
                    }
                }
                let mut report = tally.report(&case.protocol, case.dataset.as_ref(), (&header.model, header.texts), scored);
                report.worst = worst(records);
                report.failures = records.iter().filter_map(|r| r.failed.clone().map(|f| format!("{}: {f}", r.id))).collect();
                Ok(AnyReport::Objects(Box::new(report)))
            }
        }
    }
}

/// A job, what it belongs to, and what is measured already.
pub struct Run {
    /// The job.
    pub job: Job,
    /// What the records belong to.
    pub header: Header,
    /// Its records.
    pub records: Vec<Record>,
    file: Option<RecordFile>,
}

/// Shard `i` of `n`: the photos whose position is `i` modulo `n`.
pub type Shard = (usize, usize);

impl Run {
    /// A run in memory, or one that continues in `folder`.
    ///
    /// # Errors
    /// Records of another run in the folder.
    pub fn open(job: Job, header: Header, folder: Option<&Path>, shard: Shard) -> Result<Self, EvalError> {
        let (mut file, mut records) = (None, Vec::new());
        if let Some(folder) = folder {
            let io = |reason: std::io::Error| EvalError::Records { message: reason.to_string(), path: folder.to_owned() };
            std::fs::create_dir_all(folder).map_err(io)?;
            let (opened, found) = RecordFile::open(&folder.join(file_name(shard)), &header)?;
            (file, records) = (Some(opened), found);
        }
        Ok(Self { job, header, records, file })
    }

    /// The photos of the shard that are not measured yet.
    fn pending(&self, (i, n): Shard) -> Vec<usize> {
        let done: BTreeSet<usize> = self.records.iter().map(|r| r.index).collect();
        let photos = self.header.limit.unwrap_or(usize::MAX).min(self.job.len());
        (0..photos).filter(|index| index % n == i && !done.contains(index)).collect()
    }

    fn keep(&mut self, record: Record) -> Result<(), EvalError> {
        if let Some(file) = &mut self.file {
            file.append(&record)?;
        }
        self.records.push(record);
        Ok(())
    }

    /// The report.
    ///
    /// # Errors
    /// See [`Job::report`].
    pub fn report(&mut self) -> Result<AnyReport, EvalError> {
        self.records.sort_by_key(|r| r.index);
        self.job.report(&self.header, &self.records)
    }
}

/// Asks a model. `progress` is told after every photo how many photos times protocols of how many are done.
///
/// # Errors
/// A model that fails or lacks a role, records that cannot be written.
pub fn ask_model(runs: &mut [Run], roles: &Roles<'_>, shard: Shard, progress: &mut dyn FnMut(usize, usize)) -> Result<(), EvalError> {
    let pending: Vec<Vec<usize>> = runs.iter().map(|run| run.pending(shard)).collect();
    let total = pending.iter().map(Vec::len).sum();
    let mut groups: Vec<((String, String), Vec<usize>)> = Vec::new();
    for (r, run) in runs.iter().enumerate() {
        let protocol = run.job.protocol();
        let key = (protocol.data().0.to_owned(), protocol.data().1.to_owned());
        match groups.iter_mut().find(|g| g.0 == key) {
            Some(group) => group.1.push(r),
            None => groups.push((key, vec![r])),
        }
    }
    let mut done = 0;
    for (_, members) in groups {
        let photos: BTreeSet<usize> = members.iter().flat_map(|r| pending[*r].iter().copied()).collect();
        for index in photos {
            for &r in members.iter().filter(|r| pending[**r].binary_search(&index).is_ok()) {
                let record = runs[r].job.record(Answers::Model(roles), index)?;
                runs[r].keep(record)?;
                done += 1;
            }
            progress(done, total);
        }
    }
    Ok(())
}

/// Photos that are scored together: their label maps are in memory at once.
const BATCH: usize = 32;

/// Scores answers that need no model, on all threads; the order of the records is the photos'.
///
/// # Errors
/// A prediction that is missing or does not fit, records that cannot be written.
pub fn ask_offline(runs: &mut [Run], offline: &Offline, shard: Shard, progress: &mut dyn FnMut(usize, usize)) -> Result<(), EvalError> {
    let pending: Vec<Vec<usize>> = runs.iter().map(|run| run.pending(shard)).collect();
    let total = pending.iter().map(Vec::len).sum();
    let mut done = 0;
    for (run, indices) in runs.iter_mut().zip(&pending) {
        for batch in indices.chunks(BATCH) {
            let job = &run.job;
            let found: Vec<_> = batch.par_iter().map(|&index| job.record(Answers::Offline(offline), index)).collect();
            for record in found {
                run.keep(record?)?;
            }
            done += batch.len();
            progress(done, total);
        }
    }
    Ok(())
}
