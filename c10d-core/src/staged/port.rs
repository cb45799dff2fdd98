//! The access of an op to a device: calls of its runtime, and the streams and events for copies.

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

/// The number of rounds whose host memory is in use at once: one is copied to the host, one is at the CPU backend, and
/// one is copied to the device.
pub(super) const DEPTH: usize = 3;

/// The streams and events on one device. They are kept between ops.
pub(super) struct Port {
    pub(super) index: u16,
    /// The stream for copies from device to host.
    pub(super) out: Stream,
    /// The stream for copies from host to device.
    pub(super) back: Stream,
    /// The event recorded after the earlier work of the caller's stream.
    begin: Event,
    /// The events after the copies to the host, and after those to the device. Round `k` uses index `k % DEPTH`.
    pub(super) outs: [Event; DEPTH],
    pub(super) backs: [Event; DEPTH],
}

/// The device during one op. After the op was given up, [`Watched::call`] does not call the runtime.
#[derive(Clone, Copy)]
pub(super) struct Watched<'a> {
    pub(super) shared: &'a Shared,
    pub(super) engine: &'a Engine,
    pub(super) slot: &'a Slot,
    pub(super) index: u16,
}

impl Watched<'_> {
    /// Calls a function of the runtime, unless the op was given up.
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

    /// Returns the error for an op that was given up.
    fn cause(&self) -> Error {
        self.shared.death().map_or_else(|| self.shared.late(self.slot), |(cause, _)| cause.clone())
    }

    /// Returns an error if copies cannot wait for the op's stream.
    pub(super) fn check_stream(&self) -> Result {
        // SAFETY: the caller of [`Call::on_stream`](crate::Call::on_stream) guarantees that this device has the stream.
        self.call("check_stream", |device| unsafe { device.check_stream(self.index, self.slot.call.stream) })
    }

    /// Retains the memory of the op's spans, as far as the runtime supports that. The caller must pass the returned
    /// addresses to `release`.
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
            // SAFETY: the op is not done, so its memory is not freed.
            if self.call("retain", |device| Ok(unsafe { device.retain(self.index, *base) }))? {
                retained.push(*base);
            }
        }
        if retained.len() == bases.len() {
            self.slot.hold(Hold::Retained);
        }
        Ok(retained)
    }

    /// Releases retained memory after the device has finished with the op. The op may be complete already, so that the
    /// program does not wait for the release.
    pub(super) fn release(&self, retained: &[*mut ()]) {
        for base in retained {
            self.engine.does(Some("release"));
            let released = self.made("release", |device| {
                // SAFETY: each base was retained once.
                unsafe { device.release(self.index, *base) };
                Ok(())
            });
            if let Err(e) = released {
                contain("a tracing subscriber", || tracing::warn!(target: "c10d", "{e:?}"));
            }
        }
    }

    /// Returns the port of the device. The first call makes the port.
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

    /// Makes the copies wait for the work that was put on the caller's stream so far.
    pub(super) fn begin(&self, port: &Port) -> Result {
        let stream = self.slot.call.stream;
        self.record(port.begin, stream)?;
        for copies in [port.out, port.back] {
            // SAFETY: stream and event belong to this device.
            self.call("wait", |device| unsafe { device.wait(self.index, copies, port.begin) })?;
        }
        Ok(())
    }

    pub(super) fn record(&self, event: Event, stream: Stream) -> Result {
        // SAFETY: stream and event belong to this device.
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
    /// For each piece, its bytes from `piece.at` on are inside `host`. Until the stream has completed the copies, the
    /// host memory is not freed or used.
    pub(super) unsafe fn copy_out(&self, stream: Stream, pieces: &[Piece], host: &Host) -> Result {
        for piece in pieces {
            let span = self.span(piece);
            let size = span.dtype().size();
            let (from, bytes) = (span.address().after(piece.first * size), piece.count * size);
            let to = host.base().wrapping_add(piece.at);
            // SAFETY: the device memory belongs to the op, which is not done. The caller guarantees that the host
            // memory is valid.
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
            // SAFETY: the same as in `copy_out`.
            self.call("copy_in", |device| unsafe { device.copy_in(self.index, stream, to, from, bytes) })?;
        }
        Ok(())
    }

    /// Enqueues a copy from host memory to scratch memory.
    ///
    /// # Safety
    /// The memory at both addresses has this many bytes. Until the stream has completed the copy, this memory is not
    /// freed or used.
    pub(super) unsafe fn load(&self, stream: Stream, to: DevicePtr, host: &Host, at: usize, bytes: usize) -> Result {
        let from = host.base().wrapping_add(at);
        // SAFETY: the caller guarantees it.
        self.call("copy_in", |device| unsafe { device.copy_in(self.index, stream, to, from, bytes) })
    }

    /// Enqueues a copy from scratch memory to host memory.
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

    /// Enqueues a copy from scratch memory to a piece of the op's tensors.
    pub(super) fn move_to(&self, stream: Stream, piece: &Piece, from: DevicePtr) -> Result {
        let span = self.span(piece);
        let size = span.dtype().size();
        let (to, bytes) = (span.address().after(piece.first * size), piece.count * size);
        // SAFETY: the op is not done, so its memory is valid. The scratch memory is only used on this stream.
        self.call("copy", |device| unsafe { device.copy(self.index, stream, to, from, bytes) })
    }

    pub(super) fn reached(&self, event: Event) -> Result<bool> {
        // SAFETY: the event belongs to this device.
        self.call("query", |device| unsafe { device.query(self.index, event) })
    }

    /// Waits until the event is reached. Returns an error if the event is not reached at the op's deadline, if the
    /// runtime returns an error, or if the op was given up or the staged backend has ended.
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

    /// Waits after a failure until the device has finished all work that the op gave it. The wait ends an eighth of
    /// [`let_go`] after `end`: the op's deadline or the end of the staged backend, whichever is first, or now if that
    /// is past. Returns `false` if the device may never finish.
    pub(super) fn drained(&self, port: &Port) -> bool {
        let outer = &self.slot.call.outer;
        let now = Instant::now();
        let end = self.shared.death().map_or(outer.deadline, |(_, at)| outer.deadline.min(*at)).max(now);
        self.drained_by(port, end + let_go(outer.timeout) / 8)
    }

    /// Returns the same as `drained`, without waiting.
    pub(super) fn drained_now(&self, port: &Port) -> bool {
        self.drained_by(port, Instant::now())
    }

    fn drained_by(&self, port: &Port, limit: Instant) -> bool {
        [(port.out, port.outs[0]), (port.back, port.backs[0])].into_iter().all(|(stream, event)| {
            // If an event cannot be recorded on a stream, the stream's work may be unfinished. If the query of an event
            // fails, the device has failed, and no work runs.
            let over = || if self.slot.if_open(|| ()) { self.reached(event).or(Ok(true)) } else { Ok(false) };
            self.record(event, stream).is_ok() && poll(limit, over).unwrap_or(false)
        })
    }

    pub(super) fn close(device: &Arc<dyn DeviceRuntime>, port: &Port) {
        let events = port.outs.iter().chain(&port.backs).chain([&port.begin]);
        // SAFETY: streams and events were made by `port` on this device. No work runs on them, and this is their last
        // use.
        contain("a device's destroy_event or destroy_stream", || unsafe {
            events.for_each(|event| device.destroy_event(port.index, *event));
            device.destroy_stream(port.index, port.out);
            device.destroy_stream(port.index, port.back);
        });
    }
}
