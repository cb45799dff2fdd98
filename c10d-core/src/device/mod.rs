//! Devices other than the host: what a vendor implements so that every op works on its memory.
//!
//! A runtime gives memory, copies, streams and events, and by that alone gets every op: core stages the buffers through
//! the group's CPU backend (level 0). One that also reduces on the device implements [`DeviceReduce`] (level 1). A
//! vendor with collectives of its own implements [`Backend`](crate::backend::Backend) (level 2).
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
/// A device whose copies are over when they return has no use for streams and events: it leaves out all seven functions
/// of them, from [`create_stream`](DeviceRuntime::create_stream) to [`query`](DeviceRuntime::query).
///
/// `index` says which device throughout. Work that is given to one stream runs in the order given; work on different
/// streams runs in any order, unless an event orders it. Errors are of kind `Device` and carry the vendor's own text.
///
/// No call waits for the device: copies and reductions are enqueued, and whoever needs them done asks for an event with
/// [`query`](DeviceRuntime::query). All calls may come from any thread, several at once.
///
/// # Safety
/// - Memory from `allocate` is not given out again before `free`, and with [`retain`](DeviceRuntime::retain) not before
///   the last `release`.
/// - Host memory given to a copy is not touched after the copy's stream has passed it.
/// - `query` says `true` only when everything given to the stream before `record` is over.
/// - The seven functions of streams and events are all there or all left out. Where they are left out, copies and
///   reductions are over when they return.
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

    /// What tells device `index` from every other one of any host, e.g. its UUID; `None`: nothing does. Ranks that share a
    /// device are so known to, since native collectives may not take two of them.
    fn identity(&self, index: u16) -> Option<String> {
        let _ = index;
        None
    }

    /// Which device is the one of a rank that was bound to none, where the vendor's own backend works on one device only;
    /// `None`: any. `rank` is that in the first group, and `hints` are the group's settings.
    fn default_index(&self, hints: &BTreeMap<String, String>, rank: u32) -> Result<Option<u16>> {
        let _ = (hints, rank);
        Ok(None)
    }

    /// Memory of a device, at least 64-byte aligned where that means something. `bytes` is not 0.
    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()>;

    /// Gives memory back.
    ///
    /// # Safety
    /// `base` is from `allocate`, is not freed twice, and work in flight that uses it was retained or is over.
    unsafe fn free(&self, index: u16, base: *mut ());

    /// Keeps memory allocated until `release`, also if it is freed meanwhile; `false`: the runtime cannot. With it, an
    /// operation whose device hangs can be given up without danger.
    ///
    /// # Safety
    /// `base` is memory that is not freed yet.
    unsafe fn retain(&self, index: u16, base: *mut ()) -> bool {
        let _ = (index, base);
        false
    }

    /// Undoes one `retain` that said `true`.
    ///
    /// # Safety
    /// As many as there were retains.
    unsafe fn release(&self, index: u16, base: *mut ()) {
        let _ = (index, base);
    }

    /// Host memory from which the device copies fast, e.g. page-locked; `None`: ordinary memory does as well.
    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        let _ = bytes;
        None
    }

    /// Gives such memory back.
    ///
    /// # Safety
    /// `base` and `bytes` are those of one `allocate_host`; no copy in flight uses it.
    unsafe fn free_host(&self, base: *mut u8, bytes: usize) {
        let _ = (base, bytes);
    }

    /// A stream besides the default one.
    fn create_stream(&self, index: u16) -> Result<Stream> {
        let _ = index;
        Ok(0)
    }

    /// Gives a stream back; work on it still runs.
    ///
    /// # Safety
    /// From `create_stream` of this device, once.
    unsafe fn destroy_stream(&self, index: u16, stream: Stream) {
        let _ = (index, stream);
    }

    /// A mark that is not recorded yet.
    fn create_event(&self, index: u16) -> Result<Event> {
        let _ = index;
        Ok(0)
    }

    /// Gives a mark back.
    ///
    /// # Safety
    /// From `create_event` of this device, once.
    unsafe fn destroy_event(&self, index: u16, event: Event) {
        let _ = (index, event);
    }

    /// Puts the mark behind all that was given to the stream so far; an earlier record of it is forgotten.
    ///
    /// # Safety
    /// Event and stream are this device's.
    unsafe fn record(&self, index: u16, event: Event, stream: Stream) -> Result {
        let _ = (index, event, stream);
        Ok(())
    }

    /// What is given to the stream from now on starts when the mark's last record is reached.
    ///
    /// # Safety
    /// Event and stream are this device's.
    unsafe fn wait(&self, index: u16, stream: Stream, event: Event) -> Result {
        let _ = (index, stream, event);
        Ok(())
    }

    /// Whether the mark's last record is reached. An error: something before it failed.
    ///
    /// # Safety
    /// The event is this device's.
    unsafe fn query(&self, index: u16, event: Event) -> Result<bool> {
        let _ = (index, event);
        Ok(true)
    }

    /// Refuses, with `InvalidArgument`, a stream behind which no op can run, such as another device's, or one that records
    /// a graph.
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
    /// Both places have `bytes` bytes, stay, and are used by nobody else until the stream has passed the copy.
    unsafe fn copy_in(&self, index: u16, stream: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result;

    /// Enqueues a copy from device to host.
    ///
    /// # Safety
    /// As `copy_in`.
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

/// By what elements are scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// Times this.
    Times(f64),
    /// Divided by this.
    Over(f64),
}

/// Reduction on the device (level 1).
///
/// # Safety
/// As [`DeviceRuntime`].
pub unsafe trait DeviceReduce: Send + Sync {
    /// Which element types it reduces with this op; what is not in it is reduced on the host. Only sum, product, min, max
    /// and the bitwise ops are asked for.
    fn reduces(&self, op: ReduceOp) -> DTypeSet;

    /// Enqueues `acc[i] = op(acc[i], with[i])` for `count` elements. NaN propagates in min and max; integers wrap.
    ///
    /// # Safety
    /// As [`DeviceRuntime::copy`].
    #[allow(clippy::too_many_arguments)]
    unsafe fn reduce(
        &self,
        index: u16,
        stream: Stream,
        op: ReduceOp,
        dtype: DType,
        acc: DevicePtr,
        with: DevicePtr,
        count: usize,
    ) -> Result;

    /// Which element types it scales. With them it does average and premul_sum, too; without, those are the host's.
    fn scales(&self) -> DTypeSet {
        DTypeSet::NONE
    }

    /// Enqueues the scaling of `count` elements in place, each rounded once.
    ///
    /// # Safety
    /// As [`DeviceRuntime::copy`].
    unsafe fn scale(&self, index: u16, stream: Stream, by: Scale, dtype: DType, at: DevicePtr, count: usize) -> Result {
        let _ = (index, stream, by, at, count);
        Err(Error::unsupported(format!("this device does not scale {dtype}")))
    }
}
