//! The state that the threads of one staged backend share: its parts, its end, and its ops in flight.

use std::sync::{Arc, OnceLock};
use std::time::Instant;

use crate::sync::{Condvar, Mutex};

use super::engine::Engine;
use super::plan::CallShape;
use super::slot::Call;
use super::{Slot, watchdog};
use crate::backend::Backend;
use crate::catalog::OpKind;
use crate::device::DeviceRuntime;
use crate::panics::{caught, contain};
use crate::process::spawn;
use crate::{Error, ErrorKind, Phase, Result};

pub(super) struct Shared {
    pub(super) device: Arc<dyn DeviceRuntime>,
    pub(super) cpu: Arc<dyn Backend>,
    pub(super) rank: u32,
    pub(super) world: u32,
    /// Bytes of the larger side of a round.
    pub(super) chunk: usize,
    pub(super) collectives: Engine,
    pub(super) messages: Engine,
    pub(super) flight: Mutex<Flight>,
    /// Signalled when the ops in flight change or the backend dies.
    pub(super) changed: Condvar,
    dead: OnceLock<(Error, Instant)>,
}

/// The ops that are not done.
#[derive(Default)]
pub(super) struct Flight {
    pub(super) slots: Vec<Arc<Slot>>,
    pub(super) has_watchdog: bool,
    pub(super) closed: bool,
}

impl Shared {
    pub(super) fn new(
        device: Arc<dyn DeviceRuntime>,
        cpu: Arc<dyn Backend>,
        (rank, world): (u32, u32),
        chunk: usize,
    ) -> Shared {
        Shared {
            device,
            cpu,
            rank,
            world,
            chunk,
            collectives: Engine::default(),
            messages: Engine::default(),
            flight: Mutex::default(),
            changed: Condvar::new(),
            dead: OnceLock::new(),
        }
    }

    /// The cause that ended the backend, and the time.
    pub(super) fn death(&self) -> Option<&(Error, Instant)> {
        self.dead.get()
    }

    /// The facts that a plan depends on: those of the call, with its counts, and those of the group.
    pub(super) fn facts<'a>(&self, call: &Call, inputs: &'a [usize], outputs: &'a [usize]) -> CallShape<'a> {
        CallShape {
            op: call.op,
            rank: self.rank as usize,
            world: self.world as usize,
            root: call.params.root as usize,
            size: call.dtype.map_or(1, |dtype| dtype.size()),
            inputs,
            outputs,
        }
    }

    /// Returns an error after the backend's end.
    pub(super) fn alive(&self) -> Result {
        self.dead.get().map_or(Ok(()), |(cause, _)| Err(cause.clone()))
    }

    /// Ends the backend and its jobs at the CPU backend with its first cause. It completes no job.
    pub(super) fn die(&self, cause: &Error) {
        if self.dead.set((cause.clone(), Instant::now())).is_ok() {
            contain("a backend's abort", || self.cpu.abort(cause));
            // The lock ensures that no thread is between its check and its wait.
            drop(self.flight.lock());
            self.changed.notify_all();
            self.collectives.rouse();
            self.messages.rouse();
        }
    }

    /// Counts an op as in flight; the first one starts the watchdog.
    pub(super) fn enter(self: &Arc<Self>, slot: &Arc<Slot>) -> Result {
        let mut flight = self.flight.lock();
        if !flight.has_watchdog {
            let shared = self.clone();
            spawn("c10d staged watchdog", move || watchdog::watch(&shared))?;
            flight.has_watchdog = true;
        }
        flight.slots.push(slot.clone());
        drop(flight);
        self.changed.notify_all();
        Ok(())
    }

    /// Removes an op that is done.
    pub(super) fn leave(&self, slot: &Arc<Slot>) {
        self.flight.lock().slots.retain(|s| !Arc::ptr_eq(s, slot));
        self.changed.notify_all();
    }

    /// The thread that runs an op.
    pub(super) fn engine(&self, slot: &Slot) -> &Engine {
        if slot.call.op.is_p2p() { &self.messages } else { &self.collectives }
    }

    /// The name of an op's device in errors.
    pub(super) fn device_of(&self, slot: &Slot) -> String {
        let span = slot.call.outputs.first().or(slot.call.inputs.first());
        let name = || caught(|| self.device.name().to_owned()).unwrap_or_else(|_| "?".to_owned());
        span.map_or_else(name, |span| span.device().to_string())
    }

    /// The collective for which this one waits, if it is at the CPU backend.
    fn in_front(&self, slot: &Slot) -> Option<(OpKind, u64)> {
        let flight = self.flight.lock();
        let first = flight.slots.iter().find(|s| s.at_cpu() && !s.call.op.is_p2p())?;
        (!slot.call.op.is_p2p()).then_some((first.call.op, first.call.outer.seq))
    }

    /// Why an op is not done although its time is over.
    pub(super) fn late(&self, slot: &Slot) -> Error {
        let device = self.device_of(slot);
        let error = match self.engine(slot).doing() {
            Some((call, time)) => {
                let time = time.as_secs_f64();
                let what =
                    format!("device {device} has been stuck in {call} for {time:.1} s: its driver does not return");
                Error::new(ErrorKind::Device, what)
            }
            None if slot.at_cpu() => {
                let what =
                    format!("backend {} did not give the staged op back in time: a defect of it", self.cpu.name());
                Error::new(ErrorKind::Internal, what)
            }
            None => {
                let what = match self.in_front(slot) {
                    Some((op, seq)) => format!("{op} seq {seq}, which comes first, still waits for other ranks"),
                    None => format!("device {device} did not get through with its work in time"),
                };
                Error::new(ErrorKind::Timeout, what)
            }
        };
        error.phase(Phase::Transfer)
    }
}
