//! Devices other than the host: the traits that a vendor implements so that every op works on its memory.
//!
//! A runtime provides memory, copies, streams and events. With these alone every op works: core stages the buffers
//! through the group's CPU backend (level 0). A runtime that also reduces on the device implements [`DeviceReduce`]
//! (level 1). A vendor with collectives of its own implements [`Backend`](crate::backend::Backend) (level 2).
#![allow(unsafe_code)]

mod buffer;
mod coo;
mod poll;
mod rename;
mod seat;

use std::collections::BTreeMap;
use std::time::Instant;

pub use crate::buffer::DevicePtr;
pub use crate::types::vendor;
pub use buffer::DeviceBuffer;
pub(crate) use buffer::typed;
pub use coo::DeviceCoo;
pub(crate) use poll::{late, poll};
pub use rename::rename_private_use1;
pub(crate) use seat::Seat;

use crate::types::{DType, DTypeSet, Device, ReduceOp};
use crate::{Error, Result};

/// An in-order queue of work on a device, as the runtime numbers it; 0 is the device's default stream.
pub type Stream = u64;

/// A mark in a stream, as the runtime numbers it.
pub type Event = u64;

/// A vendor's devices: memory, copies, streams, events.
///
/// If a device's copies are complete when they return, it needs no streams and events, and leaves out all seven of
/// their functions, from [`create_stream`](DeviceRuntime::create_stream) to [`query`](DeviceRuntime::query).
///
/// `index` says which device throughout. Work that is given to one stream runs in the order given; work on different
/// streams runs in any order, unless an event orders it. Errors are of kind `Device` and carry the vendor's own text.
///
/// No call waits for the device: copies and reductions are enqueued, and [`query`](DeviceRuntime::query) on an event
/// tells when they are done. All calls may come from any thread, several at once.
///
/// # Safety
/// - Memory from `allocate` is not given out again before `free`, and with [`retain`](DeviceRuntime::retain) not before
///   the last `release`.
/// - Host memory given to a copy is not touched after the copy's stream has passed it.
/// - `query` says `true` only when everything given to the stream before `record` is over.
/// - Either all seven functions of streams and events are implemented, or none. If none is, copies and reductions are
///   complete when they return.
pub unsafe trait DeviceRuntime: Send + Sync + 'static {
    /// The vendor's name for its devices, as backend maps have it (`"acme:gloo-like"`).
    fn name(&self) -> &'static str;

    /// How spans name device `index`: `Device::cuda` or, for PrivateUse1, `Device::private` with the vendor's slot
    /// (see [`vendor`]).
    fn device(&self, index: u16) -> Device {
        Device::private(vendor(self.name()), index)
    }

    /// How many devices there are now; one unless implemented.
    fn count(&self) -> Result<u16> {
        Ok(1)
    }

    /// A text that identifies device `index` among all devices of all hosts, e.g. its UUID; `None` if there is none.
    /// With it, ranks notice that they share a device, which native collectives may not support.
    fn identity(&self, index: u16) -> Option<String> {
        let _ = index;
        None
    }

    /// The device of a rank that was not bound to one, for a vendor backend that works on one device only; `None`: any.
    /// `rank` is the rank in the first group, and `hints` are the group's settings.
    fn default_index(&self, hints: &BTreeMap<String, String>, rank: u32) -> Result<Option<u16>> {
        let _ = (hints, rank);
        Ok(None)
    }

    /// Allocates memory of a device, aligned to at least 64 bytes if the device has addresses. `bytes` is not 0.
    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()>;

    /// Frees memory.
    ///
    /// # Safety
    /// `base` is from `allocate`, is not freed twice, and work in flight that uses it was retained or is over.
    unsafe fn free(&self, index: u16, base: *mut ());

    /// Keeps memory allocated until `release`, even if it is freed meanwhile; `false`: the runtime does not support it.
    /// With it, an operation can be given up safely when its device hangs.
    ///
    /// # Safety
    /// `base` is memory that is not freed yet.
    unsafe fn retain(&self, index: u16, base: *mut ()) -> bool {
        let _ = (index, base);
        false
    }

    /// Undoes one `retain` that returned `true`.
    ///
    /// # Safety
    /// It is called once for each `retain`.
    unsafe fn release(&self, index: u16, base: *mut ()) {
        let _ = (index, base);
    }

    /// Allocates host memory from which the device copies fast, e.g. page-locked memory; `None`: ordinary memory is as
    /// good.
    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        let _ = bytes;
        None
    }

    /// Frees memory of `allocate_host`.
    ///
    /// # Safety
    /// `base` and `bytes` are those of one `allocate_host`; no copy in flight uses it.
    unsafe fn free_host(&self, base: *mut u8, bytes: usize) {
        let _ = (base, bytes);
    }

    /// Creates a stream besides the default one.
    fn create_stream(&self, index: u16) -> Result<Stream> {
        let _ = index;
        Ok(0)
    }

    /// Destroys a stream. Work on it still runs.
    ///
    /// # Safety
    /// From `create_stream` of this device, once.
    unsafe fn destroy_stream(&self, index: u16, stream: Stream) {
        let _ = (index, stream);
    }

    /// Creates an event that is not recorded yet.
    fn create_event(&self, index: u16) -> Result<Event> {
        let _ = index;
        Ok(0)
    }

    /// Destroys an event.
    ///
    /// # Safety
    /// From `create_event` of this device, once.
    unsafe fn destroy_event(&self, index: u16, event: Event) {
        let _ = (index, event);
    }

    /// Records the event behind all work that the stream was given so far. An earlier record of the event is forgotten.
    ///
    /// # Safety
    /// Event and stream are this device's.
    unsafe fn record(&self, index: u16, event: Event, stream: Stream) -> Result {
        let _ = (index, event, stream);
        Ok(())
    }

    /// Makes all later work on the stream wait until the event's last record is reached.
    ///
    /// # Safety
    /// Event and stream are this device's.
    unsafe fn wait(&self, index: u16, stream: Stream, event: Event) -> Result {
        let _ = (index, stream, event);
        Ok(())
    }

    /// Whether the event's last record is reached. It is an error if work before it failed.
    ///
    /// # Safety
    /// The event is this device's.
    unsafe fn query(&self, index: u16, event: Event) -> Result<bool> {
        let _ = (index, event);
        Ok(true)
    }

    /// Rejects, with `InvalidArgument`, a stream on which no op can run, such as another device's stream or one that
    /// records a graph.
    ///
    /// # Safety
    /// The stream is one of this runtime's.
    unsafe fn check_stream(&self, index: u16, stream: Stream) -> Result {
        let _ = (index, stream);
        Ok(())
    }

    /// Enqueues a copy from host to device.
    ///
    /// # Safety
    /// Both places have `bytes` bytes. They stay allocated, and nobody else uses them until the stream has passed the
    /// copy.
    unsafe fn copy_in(&self, index: u16, stream: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result;

    /// Enqueues a copy from device to host.
    ///
    /// # Safety
    /// The same as for `copy_in`.
    unsafe fn copy_out(&self, index: u16, stream: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result;

    /// Enqueues a copy inside the device.
    ///
    /// # Safety
    /// As `copy_in`; the places do not overlap.
    unsafe fn copy(&self, index: u16, stream: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result;

    /// Reduction on the device, where the vendor has it (level 1).
    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        None
    }

    /// Waits until everything given to the stream so far is over; a `Timeout` error at the deadline.
    ///
    /// # Safety
    /// The stream is this device's.
    unsafe fn synchronize(&self, index: u16, stream: Stream, deadline: Instant) -> Result {
        // SAFETY: stream as promised; the event is ours, and is destroyed once.
        unsafe {
            let event = self.create_event(index)?;
            let done = self.record(index, event, stream).and_then(|()| {
                poll(deadline, || self.query(index, event))
                    .and_then(|done| if done { Ok(()) } else { Err(late(self.name())) })
            });
            self.destroy_event(index, event);
            done
        }
    }
}

/// Elements of one type, one behind the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elements {
    /// Their type.
    pub dtype: DType,
    /// How many.
    pub count: usize,
}

/// The factor or divisor of a scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Multiplied by this number.
    Times(f64),
    /// Divided by this number.
    Over(f64),
}

/// Reduction on the device (level 1).
///
/// # Safety
/// The same as for [`DeviceRuntime`].
pub unsafe trait DeviceReduce: Send + Sync {
    /// The element types that it reduces with this operation; other types are reduced on the host. It is asked only for
    /// sum, product, min, max and the bitwise operations.
    fn reduces(&self, op: ReduceOp) -> DTypeSet;

    /// Enqueues `acc[i] = op(acc[i], with[i])` for these elements. NaN propagates in min and max; integers wrap.
    ///
    /// # Safety
    /// The same as for [`DeviceRuntime::copy`].
    unsafe fn reduce(
        &self,
        index: u16,
        stream: Stream,
        op: ReduceOp,
        elements: Elements,
        acc: DevicePtr,
        with: DevicePtr,
    ) -> Result;

    /// The element types that it scales. For these types it does average and premul_sum, too; for others the host does.
    fn scales(&self) -> DTypeSet {
        DTypeSet::NONE
    }

    /// Enqueues the scaling of these elements in place, each rounded once.
    ///
    /// # Safety
    /// The same as for [`DeviceRuntime::copy`].
    unsafe fn scale(&self, index: u16, stream: Stream, by: Scale, elements: Elements, at: DevicePtr) -> Result {
        let _ = (index, stream, by, at);
        Err(Error::unsupported(format!("this device does not scale {}", elements.dtype)))
    }
}
