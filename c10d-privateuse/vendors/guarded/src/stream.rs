//! Streams: threads that run their work in order, but late and with varying delays.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::event::Event;
use crate::faults::Faults;
use crate::log::{Entry, Log};
use crate::memory::Part;
use crate::reduce::Reducer;

/// The byte that fills the target of a copy to the host until the copy has run.
const NOT_YET: u8 = 0xa5;

pub(crate) enum Task {
    CopyIn { to: Part, from: Host, entry: Entry },
    CopyOut { to: Host, from: Part, entry: Entry },
    Copy { to: Part, from: Part, entry: Entry },
    Reduce { acc: Part, with: Part, by: Reducer, entry: Entry },
    Record { event: Arc<Event>, record: u64 },
    Wait { event: Arc<Event>, record: u64 },
}

impl Task {
    fn entry(&self) -> Option<&Entry> {
        match self {
            Task::CopyIn { entry, .. }
            | Task::CopyOut { entry, .. }
            | Task::Copy { entry, .. }
            | Task::Reduce { entry, .. } => Some(entry),
            Task::Record { .. } | Task::Wait { .. } => None,
        }
    }
}

pub(crate) struct Host(pub(crate) *mut u8);

// SAFETY: the caller that enqueues a copy guarantees that the memory exists until the stream has finished the copy.
unsafe impl Send for Host {}

pub(crate) struct Stream {
    queue: Mutex<TaskQueue>,
    news: Condvar,
}

#[derive(Default)]
struct TaskQueue {
    tasks: VecDeque<Task>,
    closed: bool,
}

pub(crate) struct Env {
    pub(crate) faults: Arc<Faults>,
    pub(crate) log: Arc<Log>,
    pub(crate) index: u16,
    pub(crate) seed: u64,
}

impl Stream {
    pub(crate) fn start(env: Env) -> std::io::Result<Arc<Stream>> {
        let stream = Arc::new(Stream { queue: Mutex::default(), news: Condvar::new() });
        let mine = stream.clone();
        std::thread::Builder::new().name("guarded stream".to_owned()).spawn(move || mine.serve(&env))?;
        Ok(stream)
    }

    pub(crate) fn push(&self, task: Task) {
        self.queue.lock().tasks.push_back(task);
        self.news.notify_one();
    }

    pub(crate) fn close(&self) {
        self.queue.lock().closed = true;
        self.news.notify_one();
    }

    fn next(&self) -> Option<Task> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(task) = queue.tasks.pop_front() {
                return Some(task);
            }
            if queue.closed {
                return None;
            }
            self.news.wait(&mut queue);
        }
    }

    fn serve(&self, env: &Env) {
        let mut seed = env.seed;
        // A stream that failed skips its work and only reaches events, which report the failure.
        let mut failed: Option<String> = None;
        while let Some(task) = self.next() {
            env.faults.pass(env.index, task.entry().map(|entry| entry.what));
            match task {
                Task::Record { event, record } => event.reach(record, failed.as_deref()),
                Task::Wait { event, record } => event.wait(record),
                _ if failed.is_some() => {}
                work => {
                    fill_target(&work);
                    delay(&mut seed);
                    failed = env.faults.copy(env.index).and_then(|()| run(&work, &env.log)).err();
                }
            }
        }
    }
}

/// Fills the target of a copy to the host, so that reading the target before the copy has run gives wrong values.
fn fill_target(task: &Task) {
    if let Task::CopyOut { to, from, .. } = task {
        // SAFETY: `to` is the host memory of the copy, and the caller of the copy guarantees this length.
        let _ = from.with(|_, len| unsafe { to.0.write_bytes(NOT_YET, len) });
    }
}

/// Waits for a random time, which is often zero.
fn delay(seed: &mut u64) {
    *seed = seed.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    match *seed >> 59 {
        0 => std::thread::sleep(Duration::from_micros(700)),
        1..8 => std::thread::sleep(Duration::from_micros(50)),
        8..16 => std::thread::yield_now(),
        _ => {}
    }
}

fn run(task: &Task, log: &Log) -> Result<(), String> {
    match task {
        // SAFETY: the caller guarantees the host memory, `with` checks the device memory, and they do not overlap.
        Task::CopyIn { to, from, .. } => to.with(|to, len| unsafe { to.copy_from_nonoverlapping(from.0, len) })?,
        // SAFETY: the same as for `CopyIn`.
        Task::CopyOut { to, from, .. } => from.with(|from, len| unsafe { to.0.copy_from_nonoverlapping(from, len) })?,
        Task::Copy { to, from, .. } => {
            // SAFETY: `with` checks both parts, and the caller guarantees that they do not overlap.
            to.with(|to, len| from.with(|from, _| unsafe { to.copy_from_nonoverlapping(from, len) }))??;
        }
        Task::Reduce { acc, with, by, .. } => {
            // SAFETY: `with` checks both parts, and the caller guarantees that they do not overlap.
            acc.with(|acc, len| with.with(|with, _| unsafe { by(acc, with, len) }))??;
        }
        Task::Record { .. } | Task::Wait { .. } => {}
    }
    if let Some(entry) = task.entry() {
        log.add(Entry { ran: true, ..*entry });
    }
    Ok(())
}
