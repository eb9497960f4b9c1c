//! The threads that kernels run on: started once, woken for each region of work, joined on drop.
//!
//! A region is a number of tasks and a function of the task's index. Threads take indices from a counter, the caller takes
//! part, and the call returns when every task is done. Workers wait for the next region by spinning for some tens of
//! microseconds, then by sleeping: the kernels of one decode step follow each other faster than a sleeping thread wakes.
//!
//! The caller waits only for workers that have joined its region. One that wakes late finds it closed and is not waited for,
//! so a busy machine costs parallelism, never a stall.

use std::any::Any;
use std::cell::UnsafeCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a worker spins for the next region before it sleeps.
const SPIN: Duration = Duration::from_micros(40);

/// A pool of threads, the calling one included.
pub struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

type Task<'a> = dyn Fn(usize) + Sync + 'a;

/// What the caller of a region and the workers have in common.
struct Shared {
    /// Number of regions opened so far, whether the last is open, and how many workers are inside: see the constants below.
    state: AtomicU64,
    /// The open region's tasks; written only while no region is open and no worker inside.
    region: UnsafeCell<Option<Region>>,
    /// Index of the next task to hand out.
    next: AtomicUsize,
    /// Held by the thread whose region it is.
    busy: AtomicBool,
    /// Workers that take part: the first ones. The others sleep.
    active: AtomicUsize,
    stop: AtomicBool,
    /// One flag per worker: it sleeps, or is about to.
    asleep: Box<[AtomicBool]>,
    /// The first panic of a task in the open region.
    panic: Mutex<Option<Box<dyn Any + Send>>>,
    /// Where the caller sleeps until the last worker has left.
    left: Condvar,
    left_lock: Mutex<()>,
}

#[derive(Clone, Copy)]
struct Region {
    run: *const Task<'static>,
    tasks: usize,
}

// SAFETY: `region` is written by the thread that holds `busy`, when the state says that no worker is inside, and read by workers
// only after they have entered through the state. What it points to is `Sync`.
unsafe impl Sync for Shared {}
// SAFETY: nothing in it belongs to one thread.
unsafe impl Send for Shared {}

/// Bits of `Shared::state`: workers inside (low), open, count of regions (high).
const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;
const COUNT: u64 = 1 << 32;

impl Pool {
    /// Starts `threads - 1` workers; fewer if the system grants fewer.
    pub fn new(threads: usize) -> Self {
        let count = threads.saturating_sub(1);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            region: UnsafeCell::new(None),
            next: AtomicUsize::new(0),
            busy: AtomicBool::new(false),
            active: AtomicUsize::new(0),
            stop: AtomicBool::new(false),
            asleep: (0..count).map(|_| AtomicBool::new(false)).collect(),
            panic: Mutex::new(None),
            left: Condvar::new(),
            left_lock: Mutex::new(()),
        });
        let start = |index: usize| {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name(format!("kernel-{}", index + 1)).spawn(move || shared.work(index)).ok()
        };
        let workers: Vec<_> = (0..count).map_while(start).collect();
        shared.active.store(workers.len(), Relaxed);
        Self { shared, workers }
    }

    /// Number of threads that take part, the calling one included.
    pub fn threads(&self) -> usize {
        self.shared.active.load(Relaxed) + 1
    }

    /// Lets only `threads` take part from the next region on, at least one and at most as many as were started.
    pub fn limit(&self, threads: usize) {
        self.shared.active.store(threads.saturating_sub(1).min(self.workers.len()), Relaxed);
    }

    /// Calls `run(0)` … `run(tasks - 1)`, each once, on any thread, and returns when all are done.
    ///
    /// If the pool is at work for another caller, or this is called from a task, everything runs in the calling thread. If a
    /// task panics, tasks not yet begun are dropped and the first panic goes on in the calling thread.
    pub fn run(&self, tasks: usize, run: &Task<'_>) {
        let active = self.threads() - 1;
        if tasks <= 1 || active == 0 || self.shared.busy.swap(true, Acquire) {
            (0..tasks).for_each(run);
            return;
        }
        let shared = &*self.shared;
        // SAFETY: only the lifetime changes. No worker touches the function after the region is closed and empty, which
        // is awaited below before `run` goes out of scope.
        let run = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(run) };
        let region = Region { run, tasks };
        // SAFETY: this thread holds `busy`, and the last region was left by all workers before `busy` was released.
        unsafe { *shared.region.get() = Some(region) };
        shared.next.store(0, Relaxed);
        let count = shared.state.load(Relaxed) & !(COUNT - 1);
        // Sequential consistency here and on `asleep`: either this thread sees the flag of a worker that is about to
        // sleep, or that worker sees the region.
        shared.state.store(count.wrapping_add(COUNT) | OPEN, SeqCst);
        for (worker, asleep) in self.workers.iter().zip(&shared.asleep).take(active.min(tasks - 1)) {
            if asleep.load(SeqCst) && asleep.swap(false, SeqCst) {
                worker.thread().unpark();
            }
        }
        shared.take_tasks(region);
        shared.close();
        let panic = lock(&shared.panic).take();
        shared.busy.store(false, Release);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }

    /// Cuts `0..len` into ranges that start at multiples of `align`, at least `min` long but for the last, a few for each
    /// thread, and calls `run` for each as [`Pool::run`] does.
    pub fn chunks(&self, len: usize, align: usize, min: usize, run: impl Fn(Range<usize>) + Sync) {
        if len == 0 {
            return;
        }
        let most = len.div_ceil(min.max(1)).min(4 * self.threads()).max(1);
        let chunk = if self.threads() == 1 { len } else { len.div_ceil(most).max(min).next_multiple_of(align.max(1)) };
        self.run(len.div_ceil(chunk), &|i| run(i * chunk..len.min((i + 1) * chunk)));
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        for worker in self.workers.drain(..) {
            worker.thread().unpark();
            // Tasks' panics are caught, so a worker ends only by `stop`.
            let _ = worker.join();
        }
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("threads", &self.threads()).finish()
    }
}

impl Shared {
    fn take_tasks(&self, region: Region) {
        let work = || {
            loop {
                let task = self.next.fetch_add(1, Relaxed);
                if task >= region.tasks {
                    return;
                }
                // SAFETY: the region is open or its caller is in `close`, so the function lives.
                unsafe { (*region.run)(task) };
            }
        };
        if let Err(panic) = catch_unwind(AssertUnwindSafe(work)) {
            self.next.store(region.tasks, Relaxed);
            lock(&self.panic).get_or_insert(panic);
        }
    }

    /// Lets no worker enter any more and waits until all have left.
    fn close(&self) {
        let mut state = self.state.fetch_and(!OPEN, AcqRel);
        let mut spins = 0;
        while state & INSIDE != 0 && spins < 2000 {
            std::hint::spin_loop();
            spins += 1;
            state = self.state.load(Acquire);
        }
        if state & INSIDE != 0 {
            let mut guard = lock(&self.left_lock);
            while self.state.load(Acquire) & INSIDE != 0 {
                guard = self.left.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// A worker's life.
    fn work(&self, index: usize) {
        let mut seen = 0;
        while self.await_region(index, &mut seen) {
            // SAFETY: this worker is counted as inside, so the region stays as it is.
            if let Some(region) = unsafe { *self.region.get() } {
                self.take_tasks(region);
            }
            let before = self.state.fetch_sub(1, AcqRel);
            if before & INSIDE == 1 && before & OPEN == 0 {
                // The lock orders this after the caller's check, which it may have made before the subtraction.
                drop(lock(&self.left_lock));
                self.left.notify_all();
            }
        }
    }

    /// Waits for a region newer than `seen` and enters it; `false` when the pool goes away.
    fn await_region(&self, index: usize, seen: &mut u64) -> bool {
        let mut begun = Instant::now();
        loop {
            for _ in 0..64 {
                if self.enter(index, seen) {
                    return true;
                }
                std::hint::spin_loop();
            }
            if begun.elapsed() < SPIN {
                continue;
            }
            self.asleep[index].store(true, SeqCst);
            if self.stop.load(SeqCst) {
                return false;
            }
            if self.enter(index, seen) {
                self.asleep[index].store(false, SeqCst);
                return true;
            }
            std::thread::park();
            self.asleep[index].store(false, SeqCst);
            begun = Instant::now();
        }
    }

    /// Counts this worker as inside the open region, unless it has been there or takes no part.
    fn enter(&self, index: usize, seen: &mut u64) -> bool {
        if index >= self.active.load(Relaxed) {
            return false;
        }
        let mut state = self.state.load(SeqCst);
        while state & OPEN != 0 && state / COUNT != *seen {
            match self.state.compare_exchange_weak(state, state + 1, AcqRel, Acquire) {
                Ok(_) => {
                    *seen = state / COUNT;
                    return true;
                }
                Err(now) => state = now,
            }
        }
        false
    }
}

/// A lock whose data stay valid whatever panicked while it was held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(pool: &Pool, tasks: usize) {
        let done: Vec<_> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
        pool.run(tasks, &|i| {
            done[i].fetch_add(1, Relaxed);
        });
        assert!(done.iter().all(|n| n.load(Relaxed) == 1));
    }

    #[test]
    fn every_task_runs_once() {
        for threads in [0, 1, 2, 3, 8] {
            let pool = Pool::new(threads);
            assert_eq!(pool.threads(), threads.max(1));
            for tasks in [0, 1, 2, 7, 100] {
                count(&pool, tasks);
            }
            for _ in 0..2000 {
                count(&pool, 3);
            }
        }
    }

    #[test]
    fn a_limit_keeps_workers_out_until_it_is_raised() {
        let pool = Pool::new(3);
        for (limit, threads) in [(2, 2), (1, 1), (0, 1), (9, 3), (2, 2)] {
            pool.limit(limit);
            assert_eq!(pool.threads(), threads);
            let seen = Mutex::new(std::collections::HashSet::new());
            for _ in 0..200 {
                count(&pool, 7);
                pool.run(7, &|_| {
                    lock(&seen).insert(std::thread::current().id());
                });
            }
            assert!(lock(&seen).len() <= threads);
        }
    }

    #[test]
    fn wakes_after_sleep() {
        let pool = Pool::new(3);
        for pause in [0, 20, 100, 3000] {
            for _ in 0..20 {
                std::thread::sleep(Duration::from_micros(pause));
                count(&pool, 5);
            }
        }
    }

    #[test]
    fn workers_take_part() {
        let pool = Pool::new(2);
        let (main, other) = (std::thread::current().id(), AtomicBool::new(false));
        pool.run(2, &|_| {
            if std::thread::current().id() != main {
                assert_eq!(std::thread::current().name(), Some("kernel-1"));
                other.store(true, SeqCst);
            }
            let begun = Instant::now();
            while !other.load(SeqCst) && begun.elapsed() < Duration::from_secs(20) {
                std::thread::yield_now();
            }
        });
        assert!(other.load(SeqCst));
    }

    #[test]
    fn nested_and_concurrent_calls_run_inline() {
        let pool = Pool::new(3);
        let sum = AtomicUsize::new(0);
        pool.run(4, &|_| {
            pool.run(10, &|i| {
                sum.fetch_add(i, Relaxed);
            });
        });
        assert_eq!(sum.load(Relaxed), 4 * 45);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..300).for_each(|_| count(&pool, 9)));
            }
        });
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_survives() {
        let pool = Pool::new(3);
        for bad in 0..8 {
            let outcome = catch_unwind(AssertUnwindSafe(|| pool.run(8, &|i| assert!(i != bad, "task {bad}"))));
            let message = *outcome.unwrap_err().downcast::<String>().unwrap();
            assert_eq!(message, format!("task {bad}"));
            count(&pool, 20);
        }
    }

    #[test]
    fn chunks_cover_the_range() {
        let pool = Pool::new(2);
        for (len, align, min) in [(0, 4, 1), (1, 4, 1), (100, 16, 1), (1000, 16, 300), (1000, 16, 5000), (64, 1, 1)] {
            let parts = Mutex::new(Vec::new());
            pool.chunks(len, align, min, |range| lock(&parts).push((range.start, range.end)));
            let mut parts = parts.into_inner().unwrap();
            parts.sort_unstable();
            let mut at = 0;
            for (start, end) in parts {
                assert!(start == at && start % align == 0 && end > start && (end == len || end - start >= min));
                at = end;
            }
            assert_eq!(at, len);
        }
    }
}
