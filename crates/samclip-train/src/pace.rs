//! The rhythm of a training loop: means to the log, and when a checkpoint is due.

use crate::error::TrainError;
use crate::inputs::Observer;
use crate::recipe::Checkpoint;
use crate::report::{Means, StepReport};
use crate::run_log::{Line, RunLog};
use std::path::Path;
use std::time::Instant;

/// Between two lines of the log and two checkpoints.
pub(crate) struct Pace {
    log: RunLog,
    means: Means,
    saved: Instant,
}

impl Pace {
    /// Goes on with the log of a run directory after `step`.
    pub fn open(run: &Path, step: usize) -> Result<Self, TrainError> {
        Ok(Self { log: RunLog::open(run, step)?, means: Means::default(), saved: Instant::now() })
    }

    /// Counts a step that took so many `seconds`; `at` is (steps done, steps in all, seconds in all).
    /// A line is written every `every` steps and after the last one.
    pub fn step(
        &mut self,
        report: StepReport,
        seconds: f64,
        (step, steps, all): (usize, usize, f64),
        every: usize,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        self.means.add(report);
        self.means.seconds += seconds;
        observer.step(step, steps);
        if step % every == 0 || step == steps {
            let line = std::mem::take(&mut self.means).line(step, steps, all);
            self.log.write(&line)?;
            observer.log(&line);
        }
        Ok(())
    }

    /// Whether a checkpoint is due after `step`; its time then counts from now.
    pub fn checkpoint(&mut self, step: usize, rule: &Checkpoint) -> bool {
        let due = step % rule.every_steps == 0 || self.saved.elapsed().as_secs_f32() / 60.0 >= rule.every_minutes;
        if due {
            self.saved = Instant::now();
        }
        due
    }

    /// All lines of the run so far.
    pub fn lines(&self) -> &[Line] {
        self.log.lines()
    }
}
