//! Stages of parallel tasks in one queue: a thread that finds a stage's tasks all taken goes on with
//! the next stage, and waits only for the tasks whose results it reads.
use rayon::prelude::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Tasks that may run at the same time.
pub(crate) struct Stage<'a> {
    pub count: usize,
    /// So many tasks of the stage before, from its first, must be done when a task starts.
    pub needs: &'a (dyn Fn(usize) -> usize + Sync),
    pub task: &'a (dyn Fn(usize) + Sync),
}

/// Runs all tasks. They start in order, so a task that is waited for has a thread already; it must
/// not wait for other tasks of the pool itself.
pub(crate) fn run(stages: &[Stage]) {
    let done: Vec<Vec<AtomicBool>> =
        stages.iter().map(|s| (0..s.count).map(|_| AtomicBool::new(false)).collect()).collect();
    let all = stages.iter().map(|s| s.count).sum::<usize>();
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let work = || {
        loop {
            let mut i = next.fetch_add(1, Ordering::Relaxed);
            let Some(at) = stages.iter().position(|s| {
                let inside = i < s.count;
                i -= if inside { 0 } else { s.count };
                inside
            }) else {
                return;
            };
            let before = at.checked_sub(1).map_or(&[][..], |b| &done[b]);
            for flag in &before[..(stages[at].needs)(i).min(before.len())] {
                while !flag.load(Ordering::Acquire) {
                    if failed.load(Ordering::Relaxed) {
                        return;
                    }
                    std::thread::yield_now();
                }
            }
            let watch = Watch(&failed);
            (stages[at].task)(i);
            std::mem::forget(watch);
            done[at][i].store(true, Ordering::Release);
        }
    };
    (0..rayon::current_num_threads().min(all)).into_par_iter().with_max_len(1).for_each(|_| work());
}

/// Says that its task panicked: nobody waits for it.
struct Watch<'a>(&'a AtomicBool);

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::{Stage, run};
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn pool(threads: usize) -> rayon::ThreadPool {
        rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap()
    }

    #[test]
    fn a_task_starts_after_what_it_needs() {
        for threads in [1, 2, 5] {
            let (first, second) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let slow = |i: usize| {
                std::thread::sleep(std::time::Duration::from_millis(8 - i as u64));
                first.fetch_or(1 << i, Ordering::Relaxed);
            };
            let read = |i: usize| {
                let wanted = (1 << (2 * i + 2)) - 1;
                assert_eq!(first.load(Ordering::Relaxed) & wanted, wanted);
                second.fetch_add(1, Ordering::Relaxed);
            };
            let stages = [
                Stage { count: 8, needs: &|_| 0, task: &slow },
                Stage { count: 4, needs: &|i| 2 * i + 2, task: &read },
            ];
            pool(threads).install(|| run(&stages));
            assert_eq!(second.into_inner(), 4);
        }
    }

    #[test]
    fn a_panic_ends_all_and_nothing_is_nothing() {
        run(&[]);
        run(&[Stage { count: 0, needs: &|_| 0, task: &|_| unreachable!() }]);
        let fail = |i: usize| assert_ne!(i, 1, "task one fails");
        let caught = std::panic::catch_unwind(|| {
            let never = Stage { count: 9, needs: &|_| 3, task: &|_| unreachable!() };
            pool(2).install(|| run(&[Stage { count: 3, needs: &|_| 0, task: &fail }, never]));
        });
        assert!(caught.is_err());
    }
}
