//! One thread that computes, behind two lanes: prompts on cached embeddings overtake encodes.
//!
//! How many requests wait is bounded where they are accepted (`engine.rs`). A job whose request has gone away is
//! passed over.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{ApiError, Kind};

/// Which queue a job waits in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Milliseconds: the decoder on a cached embedding.
    Prompt,
    /// An encoder pass, or hundreds of decoder passes.
    Heavy,
}

/// After so many prompts in a row one heavy job is taken, so that nobody waits for ever.
const PROMPTS_IN_A_ROW: usize = 32;

type Job = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Lanes {
    prompts: VecDeque<Job>,
    heavy: VecDeque<Job>,
    in_a_row: usize,
    closed: bool,
}

impl Lanes {
    fn next(&mut self) -> Option<Job> {
        let heavy_is_due = self.in_a_row >= PROMPTS_IN_A_ROW && !self.heavy.is_empty();
        if !heavy_is_due && let Some(job) = self.prompts.pop_front() {
            self.in_a_row += 1;
            return Some(job);
        }
        self.in_a_row = 0;
        self.heavy.pop_front()
    }
}

#[derive(Default)]
struct Shared {
    lanes: Mutex<Lanes>,
    wake: Condvar,
}

impl Shared {
    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        loop {
            let mut lanes = self.lanes();
            let job = loop {
                if lanes.closed {
                    return;
                }
                match lanes.next() {
                    Some(job) => break job,
                    None => lanes = self.wake.wait(lanes).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(lanes);
            job();
        }
    }
}

/// The thread; it ends with its owner.
pub struct Worker {
    shared: Arc<Shared>,
}

impl Worker {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system has no thread left.
    pub fn start() -> std::io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let theirs = shared.clone();
        std::thread::Builder::new().name("inference".to_owned()).spawn(move || theirs.work())?;
        Ok(Self { shared })
    }

    /// Runs `work` on the thread when its turn comes; if the caller goes away before that, never.
    ///
    /// # Errors
    /// `work` panicked (a defect), or the server is going down.
    pub async fn run<T: Send + 'static>(
        &self,
        lane: Lane,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, ApiError> {
        let (answer, receiver) = oneshot::channel();
        let job = Box::new(move || {
            if !answer.is_closed() {
                let _ = answer.send(std::panic::catch_unwind(AssertUnwindSafe(work)));
            }
        });
        self.push(lane, job);
        match receiver.await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(_)) => Err(ApiError::new(Kind::Internal, "the model gave up on this request")),
            Err(_) => Err(ApiError::draining()),
        }
    }

    /// Jobs that wait: prompts, heavy ones.
    pub fn waiting(&self) -> [usize; 2] {
        let lanes = self.shared.lanes();
        [lanes.prompts.len(), lanes.heavy.len()]
    }

    fn push(&self, lane: Lane, job: Job) {
        let mut lanes = self.shared.lanes();
        match lane {
            Lane::Prompt => lanes.prompts.push_back(job),
            Lane::Heavy => lanes.heavy.push_back(job),
        }
        drop(lanes);
        self.shared.wake.notify_one();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.shared.lanes().closed = true;
        self.shared.wake.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fills both lanes while the thread is held up, and returns the order in which the jobs ran.
    async fn order(heavy: usize, prompts: usize) -> Vec<(Lane, usize)> {
        let worker = Arc::new(Worker::start().unwrap());
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let (started, running) = oneshot::channel();
        let theirs = worker.clone();
        let held = tokio::spawn(async move {
            let wait = move || started.send(()).is_ok() && hold.recv().is_ok();
            theirs.run(Lane::Heavy, wait).await
        });
        running.await.unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let note = |lane: Lane, i: usize| {
            let log = log.clone();
            move || log.lock().unwrap().push((lane, i))
        };
        let jobs = (0..heavy).map(|i| worker.run(Lane::Heavy, note(Lane::Heavy, i)));
        let quick = (0..prompts).map(|i| worker.run(Lane::Prompt, note(Lane::Prompt, i)));
        let jobs: Vec<_> = jobs.chain(quick).collect();
        let release = async move { release.send(()) };
        let all = async { for job in join(jobs).await { job.unwrap(); } };
        let (held, (), sent) = tokio::join!(held, all, release);
        assert!(held.unwrap().unwrap() && sent.is_ok());
        let order = log.lock().unwrap().clone();
        order
    }

    async fn join<T>(jobs: Vec<impl Future<Output = T>>) -> Vec<T> {
        let mut jobs: Vec<_> = jobs.into_iter().map(Box::pin).collect();
        let mut done = Vec::new();
        std::future::poll_fn(|context| {
            jobs.retain_mut(|job| match job.as_mut().poll(context) {
                std::task::Poll::Ready(value) => {
                    done.push(value);
                    false
                }
                std::task::Poll::Pending => true,
            });
            if jobs.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
        done
    }

    #[tokio::test]
    async fn prompts_overtake_but_do_not_starve() {
        let order = order(2, PROMPTS_IN_A_ROW + 3).await;
        let heavy: Vec<usize> = order.iter().enumerate().filter(|(_, (l, _))| *l == Lane::Heavy).map(|(i, _)| i).collect();
        assert_eq!(heavy, [PROMPTS_IN_A_ROW, order.len() - 1], "{order:?}");
    }

    #[tokio::test]
    async fn a_request_that_went_away_is_not_computed_and_a_panic_is_an_answer() {
        let worker = Worker::start().unwrap();
        let (release, hold) = std::sync::mpsc::channel::<()>();
        let ran = Arc::new(Mutex::new(false));
        let theirs = ran.clone();
        {
            let held = worker.run(Lane::Heavy, move || hold.recv());
            let gone = worker.run(Lane::Heavy, move || *theirs.lock().unwrap() = true);
            let soon = std::time::Duration::from_millis(20);
            let _ = tokio::time::timeout(soon, async { tokio::join!(held, gone) }).await;
        }
        let _ = release.send(());
        let panicked = worker.run(Lane::Heavy, || -> () { panic!("on purpose") }).await;
        assert_eq!(panicked.unwrap_err().kind, Kind::Internal);
        assert!(!*ran.lock().unwrap());
        assert_eq!(worker.run(Lane::Prompt, || 7).await.unwrap(), 7);
    }
}
