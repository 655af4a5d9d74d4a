//! Work that other threads do meanwhile: kernels are compiled side by side while a list is still being recorded.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

type Job<T> = Box<dyn FnOnce() -> Result<T, String> + Send>;

/// A value that is being made.
pub(super) struct Later<T> {
    state: Mutex<State<T>>,
    ended: Condvar,
}

enum State<T> {
    Waiting(Job<T>),
    Running,
    Done(Result<T, String>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Clone + Send + 'static> Later<T> {
    /// What `job` gives, once somebody runs it.
    pub fn new(job: impl FnOnce() -> Result<T, String> + Send + 'static) -> Arc<Self> {
        Arc::new(Later {
            state: Mutex::new(State::Waiting(Box::new(job))),
            ended: Condvar::new(),
        })
    }

    /// The value. Whoever waits for what nobody has begun makes it.
    ///
    /// # Errors
    /// What the job gave.
    pub fn wait(&self) -> Result<T, String> {
        self.run();
        let mut state = lock(&self.state);
        loop {
            if let State::Done(result) = &*state {
                return result.clone();
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn end(&self, result: Result<T, String>) {
        let before = std::mem::replace(&mut *lock(&self.state), State::Done(result));
        self.ended.notify_all();
        // A job that was never run lets go of what it holds without the lock.
        drop(before);
    }
}

/// What a thread can do without knowing what comes of it.
trait Task: Send + Sync {
    /// Does it, unless somebody has begun.
    fn run(&self);
    /// Ends it with an error, unless somebody has begun.
    fn abandon(&self);
}

impl<T: Clone + Send + 'static> Task for Later<T> {
    fn run(&self) {
        let job = {
            let mut state = lock(&self.state);
            match std::mem::replace(&mut *state, State::Running) {
                State::Waiting(job) => job,
                other => {
                    *state = other;
                    return;
                }
            }
        };
        // Others wait for the end: it must come.
        let result = catch_unwind(AssertUnwindSafe(job));
        self.end(result.unwrap_or_else(|_| Err("its thread panicked".to_owned())));
    }

    fn abandon(&self) {
        let is_waiting = matches!(&*lock(&self.state), State::Waiting(_));
        if is_waiting {
            self.end(Err("the device is gone".to_owned()));
        }
    }
}

/// Threads that come when there is work, and go when there is none.
pub(super) struct Workers(Arc<Shared>);

struct Shared {
    state: Mutex<Queue>,
    gone: Condvar,
    most: usize,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Arc<dyn Task>>,
    threads: usize,
    is_over: bool,
}

impl Workers {
    /// At most `most` threads at a time.
    pub fn new(most: usize) -> Self {
        Workers(Arc::new(Shared {
            state: Mutex::default(),
            gone: Condvar::new(),
            most,
        }))
    }

    /// Has `later` made by one of the threads, or leaves it to who waits for it.
    pub fn add<T: Clone + Send + 'static>(&self, later: &Arc<Later<T>>) {
        let mut queue = lock(&self.0.state);
        if queue.is_over {
            return;
        }
        queue.tasks.push_back(later.clone());
        if queue.threads < self.0.most {
            queue.threads += 1;
            drop(queue);
            let shared = self.0.clone();
            let begun = std::thread::Builder::new()
                .name("mlx cuda compiler".to_owned())
                .spawn(move || shared.work());
            if begun.is_err() {
                self.0.leave(&mut lock(&self.0.state));
            }
        }
    }

    /// Waits until nothing runs; what has not begun will not.
    pub fn end(&self) {
        let tasks = {
            let mut queue = lock(&self.0.state);
            queue.is_over = true;
            std::mem::take(&mut queue.tasks)
        };
        tasks.iter().for_each(|t| t.abandon());
        let mut queue = lock(&self.0.state);
        while queue.threads > 0 {
            queue = self.0.gone.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Shared {
    fn work(&self) {
        loop {
            let task = {
                let mut queue = lock(&self.state);
                match queue.tasks.pop_front() {
                    Some(task) => task,
                    None => return self.leave(&mut queue),
                }
            };
            task.run();
        }
    }

    fn leave(&self, queue: &mut Queue) {
        queue.threads -= 1;
        self.gone.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;

    #[test]
    fn what_is_added_is_made_side_by_side() {
        let workers = Workers::new(3);
        // Nobody passes before all are there.
        let all = Arc::new(Barrier::new(3));
        let made: Vec<_> = (0..3)
            .map(|i| {
                let all = all.clone();
                let later = Later::new(move || {
                    all.wait();
                    Ok(i)
                });
                workers.add(&later);
                later
            })
            .collect();
        let values: Vec<_> = made.iter().map(|m| m.wait()).collect();
        assert_eq!(values, [Ok(0), Ok(1), Ok(2)]);
        workers.end();
        assert_eq!(lock(&workers.0.state).threads, 0);
    }

    #[test]
    fn who_waits_makes_what_nobody_has_begun() {
        let (later, me) = (
            Later::new(|| Ok(std::thread::current().id())),
            std::thread::current().id(),
        );
        assert_eq!(later.wait(), Ok(me));
        assert_eq!(later.wait(), Ok(me), "once");
    }

    #[test]
    fn a_panic_and_an_end_are_errors_to_who_waits() {
        let workers = Workers::new(1);
        let panics = Later::<u8>::new(|| panic!("on purpose"));
        workers.add(&panics);
        assert_eq!(panics.wait(), Err("its thread panicked".to_owned()));
        // The only thread is held, so that what comes behind it has not begun when all ends.
        let (begun, go) = (Arc::new(Barrier::new(2)), Arc::new(Barrier::new(2)));
        let held = {
            let (begun, go) = (begun.clone(), go.clone());
            Later::new(move || {
                begun.wait();
                go.wait();
                Ok(1)
            })
        };
        let behind = Later::new(|| Ok(2));
        workers.add(&held);
        workers.add(&behind);
        begun.wait();
        std::thread::scope(|scope| {
            scope.spawn(|| workers.end());
            while !lock(&workers.0.state).is_over {
                std::thread::yield_now();
            }
            // `end` abandons what waits before it waits itself.
            while matches!(&*lock(&behind.state), State::Waiting(_)) {
                std::thread::yield_now();
            }
            go.wait();
        });
        assert_eq!(held.wait(), Ok(1));
        assert_eq!(behind.wait(), Err("the device is gone".to_owned()));
        // Nothing is begun any more, but who waits still gets what it waits for.
        let late = Later::new(|| Ok(3));
        workers.add(&late);
        assert_eq!(late.wait(), Ok(3));
    }
}
