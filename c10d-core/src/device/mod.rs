//! Devices other than the host: the traits that a vendor implements so that all ops work on the memory of its devices.
//!
//! There are three levels of support. At level 0 a runtime provides memory, copies, streams and events; core then runs
//! all ops on dense buffers through the group's CPU backend. At level 1 the runtime also implements [`DeviceReduce`],
//! which reduces on the device. At level 2 the vendor implements its own collectives as a
//! [`Backend`](crate::backend::Backend).
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

/// The number that the runtime gives to a stream. A stream is an in-order queue of work on a device. 0 is the device's
/// default stream.
pub type Stream = u64;

/// The number that the runtime gives to an event. An event is a mark in a stream.
pub type Event = u64;

/// A vendor's devices: memory, copies, streams, events.
///
/// A device whose copies are complete when the functions return needs no streams and events. Its runtime implements
/// none of the seven functions from [`create_stream`](DeviceRuntime::create_stream) to [`query`](DeviceRuntime::query).
///
/// In all functions, `index` is the number of the device. The work of one stream runs in the order in which it was
/// enqueued. Work of different streams runs in any order, unless an event orders it. Unless a function's documentation
/// says otherwise, errors are of kind `Device` and have the vendor's own text.
///
/// No function except [`synchronize`](DeviceRuntime::synchronize) waits for the device. Copies and reductions are
/// enqueued, and [`query`](DeviceRuntime::query) on an event returns whether they are done. Any thread may call any
/// function, and several threads may call functions at once.
///
/// # Safety
/// - `allocate` does not return the same memory again before `free`. If the memory was retained
///   ([`retain`](DeviceRuntime::retain)), `allocate` does not return it before the last `release`, either.
/// - The runtime does not use the host memory of a copy after the stream has completed the copy.
/// - `query` returns `true` only when all work that was enqueued in the stream before `record` has completed.
/// - Either all seven functions of streams and events are implemented, or none. If none is implemented, copies and
///   reductions are complete when the functions return.
pub unsafe trait DeviceRuntime: Send + Sync + 'static {
    /// Returns the vendor's name for its devices, which is used in backend maps (`"acme:gloo-like"`).
    fn name(&self) -> &'static str;

    /// Returns device `index` as a [`Device`]: `Device::cuda` or, for PrivateUse1, `Device::private` with the vendor's
    /// slot (see [`vendor`]).
    fn device(&self, index: u16) -> Device {
        Device::private(vendor(self.name()), index)
    }

    /// Returns the number of devices that are present now. The default is one.
    fn count(&self) -> Result<u16> {
        Ok(1)
    }

    /// Returns a text that identifies device `index` among all devices of all hosts, e.g. its UUID; `None` if the
    /// runtime has no such text. Ranks use the text to notice that they share a device. A vendor's backend may not
    /// support such sharing.
    fn identity(&self, index: u16) -> Option<String> {
        let _ = index;
        None
    }

    /// Returns the device of a rank that was not bound to a device, for a vendor backend that works on one device only.
    /// `None` if the rank may use any device. `rank` is the rank in the group that the builder made, and `hints` are
    /// the group's settings.
    fn default_index(&self, hints: &BTreeMap<String, String>, rank: u32) -> Result<Option<u16>> {
        let _ = (hints, rank);
        Ok(None)
    }

    /// Allocates memory of a device, aligned to at least 64 bytes if the device has addresses. `bytes` is not 0.
    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()>;

    /// Frees memory.
    ///
    /// # Safety
    /// `base` was returned by `allocate` and is not freed twice. If work in flight uses the memory, the memory is
    /// retained.
    unsafe fn free(&self, index: u16, base: *mut ());

    /// Keeps memory allocated until `release`, even if `free` is called before. Returns `false` if the runtime does not
    /// support this. If the runtime supports it, core can safely end an operation whose device hangs.
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
    /// `release` is called once for each `retain` that returned `true`.
    unsafe fn release(&self, index: u16, base: *mut ()) {
        let _ = (index, base);
    }

    /// Allocates host memory from which the device copies fast, e.g. page-locked memory. `None` means that copies from
    /// ordinary memory are as fast.
    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        let _ = bytes;
        None
    }

    /// Frees memory of `allocate_host`.
    ///
    /// # Safety
    /// `base` and `bytes` are those of one call of `allocate_host`. No copy in flight uses the memory.
    unsafe fn free_host(&self, base: *mut u8, bytes: usize) {
        let _ = (base, bytes);
    }

    /// Creates a stream besides the default stream.
    fn create_stream(&self, index: u16) -> Result<Stream> {
        let _ = index;
        Ok(0)
    }

    /// Destroys a stream. Work that was enqueued in the stream still runs.
    ///
    /// # Safety
    /// The stream was returned by `create_stream` of this device, and is destroyed once.
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
    /// The event was returned by `create_event` of this device, and is destroyed once.
    unsafe fn destroy_event(&self, index: u16, event: Event) {
        let _ = (index, event);
    }

    /// Records the event after all work that was enqueued in the stream so far. An earlier record of the event is
    /// replaced.
    ///
    /// # Safety
    /// Event and stream belong to this device.
    unsafe fn record(&self, index: u16, event: Event, stream: Stream) -> Result {
        let _ = (index, event, stream);
        Ok(())
    }

    /// Makes all work that is enqueued in the stream later wait until the event's last record is reached.
    ///
    /// # Safety
    /// Event and stream belong to this device.
    unsafe fn wait(&self, index: u16, stream: Stream, event: Event) -> Result {
        let _ = (index, stream, event);
        Ok(())
    }

    /// Returns whether the event's last record is reached, or an error if work before the record failed.
    ///
    /// # Safety
    /// The event belongs to this device.
    unsafe fn query(&self, index: u16, event: Event) -> Result<bool> {
        let _ = (index, event);
        Ok(true)
    }

    /// Returns `InvalidArgument` for a stream on which no op can run, such as the stream of another device or a stream
    /// that is recording a graph.
    ///
    /// # Safety
    /// The stream belongs to this runtime.
    unsafe fn check_stream(&self, index: u16, stream: Stream) -> Result {
        let _ = (index, stream);
        Ok(())
    }

    /// Enqueues a copy from host to device.
    ///
    /// # Safety
    /// The memory at both addresses has `bytes` bytes. Until the stream has completed the copy, this memory stays
    /// allocated, and no other code uses it.
    unsafe fn copy_in(&self, index: u16, stream: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result;

    /// Enqueues a copy from device to host.
    ///
    /// # Safety
    /// The same as for `copy_in`.
    unsafe fn copy_out(&self, index: u16, stream: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result;

    /// Enqueues a copy inside the device.
    ///
    /// # Safety
    /// The same as for `copy_in`. In addition, the two memory ranges do not overlap.
    unsafe fn copy(&self, index: u16, stream: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result;

    /// Returns the reductions on the device, if the vendor has implemented them (level 1).
    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        None
    }

    /// Waits until all work that was enqueued in the stream so far is complete. At the deadline it returns a `Timeout`
    /// error.
    ///
    /// # Safety
    /// The stream belongs to this device.
    unsafe fn synchronize(&self, index: u16, stream: Stream, deadline: Instant) -> Result {
        // SAFETY: the caller guarantees that the stream belongs to the device. The event is made here, and is destroyed
        // once.
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

/// Contiguous elements of one type.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Elements {
    /// The element type.
    pub dtype: DType,
    /// The number of elements.
    pub count: usize,
}

/// The factor or divisor of a scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// The elements are multiplied by this number.
    Times(f64),
    /// The elements are divided by this number.
    Over(f64),
}

/// Reduction on the device (level 1).
///
/// # Safety
/// The same as for [`DeviceRuntime`].
pub unsafe trait DeviceReduce: Send + Sync {
    /// Returns the element types that the device can reduce with this operation. Other types are reduced on the host.
    /// The function is only called for sum, product, min, max and the bitwise operations.
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

    /// Returns the element types that the device can scale. For these types average and premul_sum run on the device,
    /// for others on the host.
    fn scales(&self) -> DTypeSet {
        DTypeSet::NONE
    }

    /// Enqueues the scaling of these elements in place. Each result is rounded once.
    ///
    /// # Safety
    /// The same as for [`DeviceRuntime::copy`].
    unsafe fn scale(&self, index: u16, stream: Stream, by: Scale, elements: Elements, at: DevicePtr) -> Result {
        let _ = (index, stream, by, at);
        Err(Error::unsupported(format!("this device cannot scale elements of type {}", elements.dtype)))
    }
}
