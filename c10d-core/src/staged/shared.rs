//! The data that the threads of a staged backend share: device, CPU backend, queues, ops in flight, and the error that
//! ended the backend.

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
    /// The largest number of bytes of a round's inputs or outputs, whichever are larger.
    pub(super) chunk: usize,
    pub(super) collectives: Engine,
    pub(super) messages: Engine,
    pub(super) flight: Mutex<Flight>,
    /// Signalled when the ops in flight change or the backend ends.
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

    /// Returns the error that ended the backend, and the time of the end, if the backend has ended.
    pub(super) fn death(&self) -> Option<&(Error, Instant)> {
        self.dead.get()
    }

    /// Returns the properties of the call and the group on which a plan depends.
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

    /// Returns the error that ended the backend, if any.
    pub(super) fn alive(&self) -> Result {
        self.dead.get().map_or(Ok(()), |(cause, _)| Err(cause.clone()))
    }

    /// Ends the backend and its steps at the CPU backend, without completing jobs. Later causes are ignored.
    pub(super) fn die(&self, cause: &Error) {
        if self.dead.set((cause.clone(), Instant::now())).is_ok() {
            contain("a backend's abort", || self.cpu.abort(cause));
            // No thread is between its check of `dead` and its wait while this thread has the lock. So no thread misses
            // the notification.
            drop(self.flight.lock());
            self.changed.notify_all();
            self.collectives.rouse();
            self.messages.rouse();
        }
    }

    /// Adds an op to those in flight. The first op starts the watchdog.
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

    /// Removes an op that is done from those in flight.
    pub(super) fn leave(&self, slot: &Arc<Slot>) {
        self.flight.lock().slots.retain(|s| !Arc::ptr_eq(s, slot));
        self.changed.notify_all();
    }

    /// Returns the queue of the thread that runs an op.
    pub(super) fn engine(&self, slot: &Slot) -> &Engine {
        if slot.call.op.is_p2p() { &self.messages } else { &self.collectives }
    }

    /// Returns the name of an op's device in errors.
    pub(super) fn device_of(&self, slot: &Slot) -> String {
        let span = slot.call.outputs.first().or(slot.call.inputs.first());
        let name = || caught(|| self.device.name().to_owned()).unwrap_or_else(|_| "?".to_owned());
        span.map_or_else(name, |span| span.device().to_string())
    }

    /// For a late collective `slot`, returns the op and the sequence number of the collective that is at the CPU
    /// backend. `slot` waits for that collective, since collectives run one at a time.
    fn in_front(&self, slot: &Slot) -> Option<(OpKind, u64)> {
        let flight = self.flight.lock();
        let first = flight.slots.iter().find(|s| s.at_cpu() && !s.call.op.is_p2p())?;
        (!slot.call.op.is_p2p()).then_some((first.call.op, first.call.outer.seq))
    }

    /// Returns the error of an op that is not done in time. The error says what the op waits for.
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
                let what = format!(
                    "backend {} did not complete a step of the staged op in time; this is a bug in that \
                        backend",
                    self.cpu.name()
                );
                Error::new(ErrorKind::Internal, what)
            }
            None => {
                let what = match self.in_front(slot) {
                    Some((op, seq)) => format!("this op waits for {op} seq {seq}, which still waits for other ranks"),
                    None => format!("device {device} did not finish its work in time"),
                };
                Error::new(ErrorKind::Timeout, what)
            }
        };
        error.phase(Phase::Transfer)
    }
}
