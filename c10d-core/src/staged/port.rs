//! The access to one device for one op: watched calls of its runtime, and the streams and events of the copies.

use std::sync::Arc;
use std::time::Instant;

use super::engine::Engine;
use super::host::Host;
use super::plan::{Operand, Piece};
use super::shared::Shared;
use super::slot::{Hold, Slot};
use crate::backend::let_go;
use crate::buffer::Span;
use crate::device::{DevicePtr, DeviceRuntime, Event, Stream, poll};
use crate::panics::{caught, contain};
use crate::{Error, ErrorKind, Phase, Result};

/// Rounds whose host memory is in use at once: one is copied out, one is at the CPU backend, one is copied back.
pub(super) const DEPTH: usize = 3;

/// Streams and events on one device, which are kept between ops.
pub(super) struct Port {
    pub(super) index: u16,
    /// Device to host.
    pub(super) out: Stream,
    /// Host to device.
    pub(super) back: Stream,
    /// The event after the work that the caller's stream had before the op.
    begin: Event,
    pub(super) outs: [Event; DEPTH],
    pub(super) backs: [Event; DEPTH],
}

/// The device during one op. No call is made after the op was given up, and the watchdog knows which call is being
/// made.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    pub(super) shared: &'a Shared,
    pub(super) engine: &'a Engine,
    pub(super) slot: &'a Slot,
    pub(super) index: u16,
}

impl Watched<'_> {
    /// Makes a call of the runtime.
    pub(super) fn call<T>(
        &self,
        name: &'static str,
        call: impl FnOnce(&Arc<dyn DeviceRuntime>) -> Result<T>,
    ) -> Result<T> {
        if !self.slot.if_open(|| self.engine.does(Some(name))) {
            return Err(self.cause());
        }
        self.made(name, call)
    }

    fn made<T>(&self, name: &'static str, call: impl FnOnce(&Arc<dyn DeviceRuntime>) -> Result<T>) -> Result<T> {
        let done = caught(|| call(&self.shared.device));
        self.engine.does(None);
        let device = || self.shared.device_of(self.slot);
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(mut e)) => {
                let report = e.report_mut();
                report.what = format!("device {}: {name}: {}", device(), report.what);
                report.phase.get_or_insert(Phase::Transfer);
                Err(e)
            }
            Err(words) => {
                let what = format!("the runtime of device {} panicked in {name}: {words}", device());
                Err(Error::new(ErrorKind::Device, what))
            }
        }
    }

    /// Why the op was given up.
    fn cause(&self) -> Error {
        self.shared.death().map_or_else(|| self.shared.late(self.slot), |(cause, _)| cause.clone())
    }

    /// Rejects a stream on which the copies cannot wait.
    pub(super) fn check_stream(&self) -> Result {
        // SAFETY: the caller promises that the stream is one of this device.
        self.call("check_stream", |device| unsafe { device.check_stream(self.index, self.slot.call.stream) })
    }

    /// Retains the memory of the op's spans. `release` releases it.
    pub(super) fn retain(&self) -> Result<Vec<*mut ()>> {
        let mut bases: Vec<*mut ()> = Vec::new();
        let call = &self.slot.call;
        for base in call.inputs.iter().chain(&call.outputs).filter(|s| s.count() > 0).map(|s| s.address().base) {
            if !bases.contains(&base) {
                bases.push(base);
            }
        }
        self.slot.hold(Hold::Borrowed);
        let mut retained = Vec::with_capacity(bases.len());
        for base in &bases {
            // SAFETY: the op is not over, so its memory is not freed.
            if self.call("retain", |device| Ok(unsafe { device.retain(self.index, *base) }))? {
                retained.push(*base);
            }
        }
        if retained.len() == bases.len() {
            self.slot.hold(Hold::Retained);
        }
        Ok(retained)
    }

    /// Undoes `retain` after the device has finished with the op. The op may be done already, so that its result does
    /// not wait for this.
    pub(super) fn release(&self, retained: &[*mut ()]) {
        for base in retained {
            self.engine.does(Some("release"));
            let released = self.made("release", |device| {
                // SAFETY: retained once each.
                unsafe { device.release(self.index, *base) };
                Ok(())
            });
            if let Err(e) = released {
                contain("a tracing subscriber", || tracing::warn!(target: "c10d", "{e:?}"));
            }
        }
    }

    /// The device's port among these, made at the first call.
    pub(super) fn port<'p>(&self, ports: &'p mut Vec<Port>) -> Result<&'p Port> {
        let at = match ports.iter().position(|port| port.index == self.index) {
            Some(at) => at,
            None => {
                ports.push(self.new_port()?);
                ports.len() - 1
            }
        };
        Ok(&ports[at])
    }

    fn new_port(&self) -> Result<Port> {
        let index = self.index;
        let stream = || self.call("create_stream", |device| device.create_stream(index));
        let event = || self.call("create_event", |device| device.create_event(index));
        Ok(Port {
            index,
            out: stream()?,
            back: stream()?,
            begin: event()?,
            outs: [event()?, event()?, event()?],
            backs: [event()?, event()?, event()?],
        })
    }

    /// Makes the copies wait for the work that the caller's stream has so far.
    pub(super) fn begin(&self, port: &Port) -> Result {
        let stream = self.slot.call.stream;
        self.record(port.begin, stream)?;
        for copies in [port.out, port.back] {
            // SAFETY: both are of this device.
            self.call("wait", |device| unsafe { device.wait(self.index, copies, port.begin) })?;
        }
        Ok(())
    }

    pub(super) fn record(&self, event: Event, stream: Stream) -> Result {
        // SAFETY: both are of this device: the port's, or the request's.
        self.call("record", |device| unsafe { device.record(self.index, event, stream) })
    }

    fn span(&self, piece: &Piece) -> &Span {
        match piece.operand {
            Operand::Input => &self.slot.call.inputs[piece.tensor],
            Operand::Output => &self.slot.call.outputs[piece.tensor],
        }
    }

    /// Enqueues copies to host memory.
    ///
    /// # Safety
    /// The pieces lie within the host memory, which stays and is not used until the stream has passed the copies.
    pub(super) unsafe fn copy_out(&self, stream: Stream, pieces: &[Piece], host: &Host) -> Result {
        for piece in pieces {
            let span = self.span(piece);
            let size = span.dtype().size();
            let (from, bytes) = (span.address().after(piece.first * size), piece.count * size);
            let to = host.base().wrapping_add(piece.at);
            // SAFETY: the device memory belongs to the op, which is not done; our caller promises the same for the host
            // memory.
            self.call("copy_out", |device| unsafe { device.copy_out(self.index, stream, to, from, bytes) })?;
        }
        Ok(())
    }

    /// Enqueues copies from host memory.
    ///
    /// # Safety
    /// The same as for `copy_out`.
    pub(super) unsafe fn copy_in(&self, stream: Stream, pieces: &[Piece], host: &Host) -> Result {
        for piece in pieces {
            let span = self.span(piece);
            let size = span.dtype().size();
            let (to, bytes) = (span.address().after(piece.first * size), piece.count * size);
            let from = host.base().wrapping_add(piece.at);
            // SAFETY: as in `copy_out`.
            self.call("copy_in", |device| unsafe { device.copy_in(self.index, stream, to, from, bytes) })?;
        }
        Ok(())
    }

    /// Enqueues a copy of host memory to scratch memory of ours.
    ///
    /// # Safety
    /// Both have this many bytes there, and nobody uses them until the stream has passed the copy.
    pub(super) unsafe fn load(&self, stream: Stream, to: DevicePtr, host: &Host, at: usize, bytes: usize) -> Result {
        let from = host.base().wrapping_add(at);
        // SAFETY: the caller guarantees it.
        self.call("copy_in", |device| unsafe { device.copy_in(self.index, stream, to, from, bytes) })
    }

    /// Enqueues a copy of scratch memory to host memory.
    ///
    /// # Safety
    /// The same as for `load`.
    pub(super) unsafe fn unload(
        &self,
        stream: Stream,
        from: DevicePtr,
        host: &Host,
        at: usize,
        bytes: usize,
    ) -> Result {
        let to = host.base().wrapping_add(at);
        // SAFETY: the caller guarantees it.
        self.call("copy_out", |device| unsafe { device.copy_out(self.index, stream, to, from, bytes) })
    }

    /// Enqueues a copy from scratch memory to the place of a piece of the op.
    pub(super) fn move_to(&self, stream: Stream, piece: &Piece, from: DevicePtr) -> Result {
        let span = self.span(piece);
        let size = span.dtype().size();
        let (to, bytes) = (span.address().after(piece.first * size), piece.count * size);
        // SAFETY: the op is not done, so its memory is valid, and the scratch memory belongs to the stream.
        self.call("copy", |device| unsafe { device.copy(self.index, stream, to, from, bytes) })
    }

    /// Whether the mark is reached.
    pub(super) fn reached(&self, event: Event) -> Result<bool> {
        // SAFETY: of this device.
        self.call("query", |device| unsafe { device.query(self.index, event) })
    }

    /// Waits for an event until the op's deadline, while the backend lives.
    pub(super) fn wait_for(&self, event: Event, what: &str) -> Result {
        let reached = poll(self.slot.call.outer.deadline, || {
            self.shared.alive()?;
            self.reached(event)
        })?;
        if reached {
            return Ok(());
        }
        let what = format!("device {} did not finish {what} in time", self.shared.device_of(self.slot));
        Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Transfer))
    }

    /// After a failure, waits for a limited time until the device has finished everything that the op gave it. `false`:
    /// it did not, and may never.
    pub(super) fn drained(&self, port: &Port) -> bool {
        let outer = &self.slot.call.outer;
        let now = Instant::now();
        let end = self.shared.death().map_or(outer.deadline, |(_, at)| outer.deadline.min(*at)).max(now);
        self.drained_by(port, end + let_go(outer.timeout) / 8)
    }

    /// The same, without waiting.
    pub(super) fn drained_now(&self, port: &Port) -> bool {
        self.drained_by(port, Instant::now())
    }

    fn drained_by(&self, port: &Port, limit: Instant) -> bool {
        [(port.out, port.outs[0]), (port.back, port.backs[0])].into_iter().all(|(stream, event)| {
            // If a stream accepts no event, its pending work is unknown. A device error at an event is an end, too:
            // nothing runs any more.
            let over = || if self.slot.if_open(|| ()) { self.reached(event).or(Ok(true)) } else { Ok(false) };
            self.record(event, stream).is_ok() && poll(limit, over).unwrap_or(false)
        })
    }

    /// Destroys streams and events.
    pub(super) fn close(device: &Arc<dyn DeviceRuntime>, port: &Port) {
        let events = port.outs.iter().chain(&port.backs).chain([&port.begin]);
        // SAFETY: made by `port` on this device, nothing runs on them, and they are not used again.
        contain("a device's destroy_event or destroy_stream", || unsafe {
            events.for_each(|event| device.destroy_event(port.index, *event));
            device.destroy_stream(port.index, port.out);
            device.destroy_stream(port.index, port.back);
        });
    }
}
