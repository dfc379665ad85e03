//! A task's stream of batches, with what the teachers say about them.
//!
//! One thread reads and runs the teachers a batch ahead: they are frozen, so their
//! answers do not depend on the step, and small ONNX models leave cores idle that the
//! student's element-wise work leaves idle as well.

use crate::error::TrainError;
use crate::objectives::{TeacherOutputs, Wanted, seg_distill};
use crate::photo_teacher::PhotoTeacher;
use crate::recipe::Task;
use crate::teacher::Teacher;
use samclip_data::loader::{Batch, Loader, LoaderConfig, Mixing, Position, Source};
use samclip_data::{Dataset, Part, Targets};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// The teacher of everything that a task's objectives want.
pub type Teachers = BTreeMap<Wanted, Arc<Teacher>>;

/// A batch ready for a step.
pub struct Fed {
    /// The photos.
    pub batch: Batch,
    /// The teachers' outputs.
    pub teachers: TeacherOutputs,
    /// Where the batch after this one starts.
    pub position: Position,
    /// Unreadable photos so far in this session.
    pub skipped: usize,
}

/// The stream of one task.
pub struct Feed {
    /// Behind a lock only so that the trainer can be read from several threads.
    receiver: Option<Mutex<Receiver<Result<Fed, TrainError>>>>,
    thread: Option<JoinHandle<()>>,
    /// Where the next batch starts.
    pub position: Position,
    /// Unreadable photos so far in this session.
    pub skipped: usize,
}

/// The loader of a task: what this process reads of it.
pub fn loader(task: &Task, datasets: &[Arc<dyn Dataset>], seed: u64, part: Part) -> Result<Loader, TrainError> {
    let sources: Vec<Source> = datasets
        .iter()
        .zip(&task.data)
        .map(|(dataset, data)| Source { dataset: dataset.clone(), weight: data.weight, augment: None })
        .collect();
    let epoch_len = datasets.iter().map(|d| d.len()).sum();
    let config = LoaderConfig {
        seed,
        side: task.side,
        batch_size: task.batch,
        sides: task.sides.clone(),
        view: task.teacher_side,
        augment: task.augment,
        mixing: Mixing::Weighted { epoch_len },
        targets: Targets::default(),
        workers: 1,
        prefetch: 2,
        max_skipped: task.max_skipped,
    };
    Ok(Loader::of_part(sources, config, part)?)
}

impl Feed {
    /// Starts at `position`, or at the beginning.
    pub fn start(
        mut loader: Loader,
        teachers: &Teachers,
        datasets: &[Arc<dyn Dataset>],
        teacher_cache: Option<&Path>,
        position: Option<Position>,
    ) -> Result<Self, TrainError> {
        if let Some(position) = position {
            loader.seek(position)?;
        }
        let position = loader.position();
        let mut teachers = runs(teachers, datasets, teacher_cache)?;
        let (sender, receiver) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            loop {
                let fed = next(&mut loader, &mut teachers);
                let failed = fed.is_err();
                if sender.send(fed).is_err() || failed {
                    return;
                }
            }
        });
        Ok(Self { receiver: Some(Mutex::new(receiver)), thread: Some(thread), position, skipped: 0 })
    }

    /// The next batch.
    pub fn next_batch(&mut self) -> Result<Fed, TrainError> {
        let ended = || TrainError::Invalid("the data stream ended".to_owned());
        let receiver = self.receiver.as_mut().ok_or_else(ended)?;
        let receiver = receiver.get_mut().unwrap_or_else(PoisonError::into_inner);
        let fed = receiver.recv().map_err(|_| ended())??;
        self.position = fed.position;
        self.skipped = fed.skipped;
        Ok(fed)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.receiver = None; // the thread's next send fails
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn next(loader: &mut Loader, teachers: &mut [(Vec<Wanted>, Run)]) -> Result<Fed, TrainError> {
    let batch = loader.next_batch()?;
    if let Some(reason) = loader.take_last_skipped() {
        tracing::warn!("skipped {} photos so far that could not be read; the last one: {reason}", loader.skipped());
    }
    let mut all = TeacherOutputs::new();
    for (wanted, run) in teachers {
        let found = match run {
            Run::Photo(teacher) => teacher.on_batch(&batch)?,
            Run::Crop(teacher) => {
                let names: Vec<&str> = wanted.iter().map(|w| w.output.as_str()).collect();
                match names == [seg_distill::OUTPUT] && seg_distill::is_segmenter(&wanted[0].teacher) {
                    true => seg_distill::run(teacher, &batch)?,
                    false => teacher.on_batch(&batch, &names)?,
                }
            }
        };
        all.extend(wanted.iter().cloned().zip(found));
    }
    Ok(Fed { batch, teachers: all, position: loader.position(), skipped: loader.skipped() })
}

/// How a teacher is asked.
pub(crate) enum Run {
    /// On the student's crop, every time.
    Crop(Arc<Teacher>),
    /// On the whole photo, once.
    Photo(PhotoTeacher),
}

/// Outputs of the same teacher on the same input come from one run.
pub(crate) fn runs(
    teachers: &Teachers,
    datasets: &[Arc<dyn Dataset>],
    cache: Option<&Path>,
) -> Result<Vec<(Vec<Wanted>, Run)>, TrainError> {
    let all: Vec<_> = teachers.iter().collect();
    let groups = all.chunk_by(|a, b| (&a.0.teacher, a.0.photo_side) == (&b.0.teacher, b.0.photo_side));
    let run = |group: &[(&Wanted, &Arc<Teacher>)]| {
        let wanted: Vec<Wanted> = group.iter().map(|(wanted, _)| (*wanted).clone()).collect();
        let teacher = group[0].1.clone();
        let run = match wanted[0].photo_side {
            None => Run::Crop(teacher),
            Some(side) => {
                let outputs = wanted.iter().map(|w| w.output.clone()).collect();
                Run::Photo(PhotoTeacher::new(teacher, side, outputs, datasets.to_vec(), cache)?)
            }
        };
        Ok((wanted, run))
    };
    groups.map(run).collect()
}
