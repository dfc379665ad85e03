//! Worker threads that read a stream ahead of its consumer.

use crate::buckets::Cursor;
use crate::loader::Stream;
use crate::{DataError, TrainItem};
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

/// Threads that read ahead of the consumer.
pub(crate) struct Pool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// The next slot that nobody has begun, and where it lies in its batch.
    next: u64,
    cursor: Cursor,
    /// The first slot that may not be begun yet.
    end: u64,
    ready: BTreeMap<u64, Result<TrainItem, DataError>>,
    stop: bool,
}

impl Pool {
    pub fn start(stream: &Arc<Stream>, (slot, cursor): (u64, Cursor), workers: usize, window: u64) -> Self {
        let state = State { next: slot, cursor, end: slot + window, ready: BTreeMap::new(), stop: false };
        let shared = Arc::new(Shared { state: Mutex::new(state), changed: Condvar::new() });
        let spawn = |_| {
            let (stream, shared) = (stream.clone(), shared.clone());
            std::thread::spawn(move || shared.work(&stream))
        };
        Self { threads: (0..workers).map(spawn).collect(), shared }
    }

    /// Waits for `slot` and moves the window one on.
    pub fn take(&self, slot: u64) -> Result<TrainItem, DataError> {
        let mut state = lock(&self.shared.state);
        loop {
            if let Some(read) = state.ready.remove(&slot) {
                state.end += 1;
                self.shared.changed.notify_all();
                return read;
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn work(&self, stream: &Stream) {
        let mut state = lock(&self.state);
        loop {
            if state.stop {
                return;
            }
            if state.next >= state.end {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let slot = state.next;
            state.next += 1;
            let Some(side) = state.cursor.advance(&stream.buckets) else {
                state.end += 1; // another process reads it
                continue;
            };
            drop(state);
            let read = stream.read(slot, side);
            state = lock(&self.state);
            state.ready.insert(slot, read);
            self.changed.notify_all();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        lock(&self.shared.state).stop = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
