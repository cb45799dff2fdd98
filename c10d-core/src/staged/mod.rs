//! Staging: ops on a device's memory through the CPU backend, by a pipeline of copies between device and host.
//!
//! A separate thread runs the collectives in the order in which they were submitted, and another thread runs the
//! messages. If a call of the device's driver never returns, the op is given up: its caller gets an error in time, and
//! the thread and the memory that the device may use are leaked. Memory can be leaked if it is host memory of the
//! pipeline, or device memory that was retained or that the op owns. If an op has borrowed device memory that cannot be
//! retained, its caller waits until the driver's call returns.
#![allow(unsafe_code)]

mod announce;
mod collective;
mod engine;
mod host;
mod messages;
mod parcel;
mod plan;
mod port;
mod reduction;
mod shared;
mod slot;
mod watchdog;

use std::sync::Arc;
use std::time::{Duration, Instant};

use shared::Shared;
use slot::Slot;

use crate::backend::{AlgorithmInfo, Backend, Capabilities, GroupInit, Job, JobId, let_go};
use crate::catalog::OpKind;
use crate::device::DeviceRuntime;
use crate::types::{DType, DispatchKey, ReduceOp};
use crate::{Error, ErrorKind, Phase, Result};

/// The number of bytes of a round if the hint `staged.chunk` does not set it.
const CHUNK: usize = 1 << 20;

/// The longest time for which `cancel` waits for the messages' thread, which may be inside a call of the device's
/// driver.
const ANSWER: Duration = Duration::from_secs(1);

/// A backend for a device's memory on top of a CPU backend. It copies an op's buffers to the host, runs the op there,
/// and copies the results back.
///
/// The hint `staged.chunk` sets the number of bytes of a round (default: 1 MiB). All ranks must use the same value.
pub struct Staged {
    name: &'static str,
    shared: Arc<Shared>,
    capabilities: Capabilities,
}

impl Staged {
    /// Makes a backend for the memory of `device` on top of `cpu`, a CPU backend of the same group that has no other
    /// user. `name` is the backend's name in errors.
    ///
    /// # Errors
    /// `InvalidArgument` if the hint `staged.chunk` is not a positive number.
    pub fn new(
        name: &'static str,
        device: Arc<dyn DeviceRuntime>,
        cpu: Arc<dyn Backend>,
        init: &GroupInit,
    ) -> Result<Staged> {
        let chunk = match init.hint("staged.chunk") {
            None => CHUNK,
            Some(text) => text.parse().ok().filter(|bytes| *bytes > 0).ok_or_else(|| {
                Error::invalid(format!("staged.chunk is {text:?}; it must be a number of bytes, at least 1"))
            })?,
        };
        let capabilities = *cpu.capabilities_on(DispatchKey::Cpu);
        let shared = Arc::new(Shared::new(device, cpu, (init.rank, init.size), chunk));
        Ok(Staged { name, shared, capabilities })
    }

    /// Waits until no op is in flight. Returns an error if an op is still in flight at `deadline`.
    fn drained(&self, deadline: Instant) -> Result {
        let mut flight = self.shared.flight.lock();
        while !flight.slots.is_empty() {
            if self.shared.changed.wait_until(&mut flight, deadline).timed_out() && !flight.slots.is_empty() {
                drop(flight);
                let what = "operations that were started are still in flight";
                let error = || Error::new(ErrorKind::Timeout, what).phase(Phase::Complete);
                return Err(self.shared.cpu.overdue().unwrap_or_else(error));
            }
        }
        Ok(())
    }

    fn start(&self, slot: &Arc<Slot>) -> Result {
        self.shared.alive()?;
        self.shared.enter(slot)?;
        let shared = self.shared.clone();
        let pushed = if slot.call.op.is_p2p() {
            self.shared.messages.push(slot.clone(), "c10d staged p2p", move || messages::serve(&shared))
        } else {
            self.shared.collectives.push(slot.clone(), "c10d staged", move || collective::serve(&shared))
        };
        pushed.map_err(|(_, error)| error)
    }
}

// SAFETY: 1. Only the thread that runs a job and the device use the job's spans, and the device has finished with them
// when the thread completes the job. A job that is given up is completed earlier, while the device may still use its
// memory. This is done only if the memory stays allocated, because it was retained or because the op that owns it is
// leaked. 2. The watchdog ends every job in flight well within the allowed time after the job's deadline or `abort`,
// except if the job's memory is borrowed and could not be retained. No lock is held while a job is completed.
unsafe impl Backend for Staged {
    fn name(&self) -> &'static str {
        self.name
    }

    fn capabilities(&self) -> &Capabilities {
        &self.capabilities
    }

    fn submit(&self, job: Job) {
        let slot = Arc::new(Slot::new(job));
        if let Err(error) = self.start(&slot) {
            slot.finish(Err(error));
            self.shared.leave(&slot);
        }
    }

    /// Cancels one message. Waits for a short time until the device has completed the message's copies, and returns the
    /// job. If the copies take longer, returns no job: the message ends as cancelled after them. If it is too late to
    /// cancel the message, returns no job.
    fn cancel(&self, jobs: &[JobId]) -> Result<Vec<Job>> {
        let [id] = jobs else {
            return Err(Error::unsupported("messages on a device's memory can only be cancelled one at a time"));
        };
        let slot = self.shared.flight.lock().slots.iter().find(|slot| slot.id == *id).cloned();
        let Some(slot) = slot.filter(|slot| slot.call.op.is_p2p()) else { return Ok(Vec::new()) };
        slot.ask();
        self.shared.messages.rouse();
        let until = Instant::now() + let_go(slot.call.outer.timeout).min(ANSWER);
        Ok(slot.answer_by(until)?.into_iter().collect())
    }

    fn abort(&self, cause: &Error) {
        self.shared.die(cause);
    }

    fn failure(&self) -> Option<Error> {
        self.shared.death().map(|(cause, _)| cause.clone()).or_else(|| self.shared.cpu.failure())
    }

    fn waits(&self) -> Option<Box<dyn FnOnce() -> String + Send>> {
        self.shared.cpu.waits()
    }

    fn refused(&self, op: OpKind, error: &Error) {
        self.shared.cpu.refused(op, error);
    }

    fn lost(&self) -> Vec<u32> {
        self.shared.cpu.lost()
    }

    fn shutdown(&self, deadline: Instant) -> Result {
        let drained = self.drained(deadline);
        drained.and(self.shared.cpu.shutdown(deadline))
    }

    fn leave(&self, deadline: Instant) -> Result {
        self.drained(deadline)?;
        self.shared.cpu.leave(deadline)
    }

    fn device(&self) -> Option<Arc<dyn DeviceRuntime>> {
        Some(self.shared.device.clone())
    }

    fn bytes_sent(&self) -> Option<u64> {
        self.shared.cpu.bytes_sent()
    }

    fn algorithm(&self, op: OpKind, bytes: usize, dtype: DType, reduce: ReduceOp) -> Option<AlgorithmInfo> {
        // A larger op has several rounds, whose algorithms may differ.
        (bytes <= self.shared.chunk).then(|| self.shared.cpu.algorithm(op, bytes, dtype, reduce)).flatten()
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        // The threads first complete the ops that were started.
        self.shared.collectives.close();
        self.shared.messages.close();
        self.shared.flight.lock().closed = true;
        self.shared.changed.notify_all();
    }
}
