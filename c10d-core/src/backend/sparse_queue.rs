//! The calls of a sparse lane that were started, and the thread that runs them, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::sync::{Condvar, Mutex};

use super::{Backend, Composed, Job, KernelContext, Origin};
use crate::panics::{caught, contain};
use crate::{Error, ErrorKind, Phase, Result};

/// A queue of calls with one thread behind it, which starts with the first call and ends after the last one.
#[derive(Default)]
pub(crate) struct SparseQueue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<QueueState>,
    /// A call came, or the queue was closed.
    news: Condvar,
    /// Nothing is queued, and nothing runs.
    idle: Condvar,
}

#[derive(Default)]
struct QueueState {
    calls: VecDeque<(Job, Composed)>,
    /// Queued, or running.
    pending: usize,
    has_thread: bool,
    closed: bool,
}

impl SparseQueue {
    /// Queues a call. The first one starts the thread.
    pub(crate) fn push(&self, job: Job, kernel: Composed, ctx: &KernelContext<'_>) {
        let mut state = self.0.state.lock();
        if !state.has_thread {
            let (shared, info, backend, size) = (self.0.clone(), ctx.info.clone(), ctx.backend.clone(), ctx.size);
            let thread = std::thread::Builder::new().name("c10d sparse".to_owned());
            if let Err(e) = thread.spawn(move || serve(&shared, &info, &backend, size)) {
                drop(state);
                let what = "cannot start the thread that started sparse calls need";
                return job.complete(Err(Error::new(ErrorKind::Resource, what).caused_by(e)));
            }
            state.has_thread = true;
        }
        state.calls.push_back((job, kernel));
        state.pending += 1;
        drop(state);
        self.0.news.notify_one();
    }

    /// Waits until nothing is queued and nothing runs. Stays so as long as nobody pushes, which the lane's turn sees to.
    pub(crate) fn wait_idle(&self, deadline: Instant) -> Result {
        let mut state = self.0.state.lock();
        while state.pending > 0 {
            if self.0.idle.wait_until(&mut state, deadline).timed_out() && state.pending > 0 {
                let what = "sparse calls that were started before are still in flight";
                return Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Announce));
            }
        }
        Ok(())
    }
}

impl Drop for SparseQueue {
    fn drop(&mut self) {
        // What was started is still run.
        self.0.state.lock().closed = true;
        self.0.news.notify_one();
    }
}

fn serve(shared: &Shared, info: &Arc<Origin>, backend: &Arc<dyn Backend>, size: u32) {
    let ctx = KernelContext { info, backend, size, queue: None };
    loop {
        let mut state = shared.state.lock();
        let (job, kernel) = loop {
            match state.calls.pop_front() {
                Some(call) => break call,
                None if state.closed => return,
                None => shared.news.wait(&mut state),
            }
        };
        drop(state);
        let result = caught(|| kernel(&ctx, job.request())).unwrap_or_else(|words| {
            let what = format!("the kernel of a sparse call panicked: {words}");
            let error = info.described(Error::new(ErrorKind::Internal, what));
            contain("a backend's abort", || backend.abort(&error));
            Err(error)
        });
        job.complete_with(result);
        shared.state.lock().pending -= 1;
        shared.idle.notify_all();
    }
}
