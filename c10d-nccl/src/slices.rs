//! Slices of the crate cudarc as buffers.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::{Buf, BufMut, Device, Element, Error, Result, Span};
use cudarc::driver::sys::CUstreamCaptureStatus;
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice};

use crate::cuda::failed;

/// A slice of cudarc as a buffer for collectives. [`on_device`] makes it.
///
/// `&CudaSlice<T>` and [`CudaView`] can be read. `&mut CudaSlice<T>`, [`CudaViewMut`] and, for calls that own their
/// buffers, `CudaSlice<T>` can also be written. `T` is any element type, such as `f32` or `half::bf16`.
///
/// # Order
/// The op runs after the work that was enqueued on the slice's stream before the call, and after the uses of the slice
/// on other streams, if cudarc has recorded them. When a blocking call or `Work::wait` returns, the device has finished
/// the op, so any stream may use the slice. If the stream is capturing a graph, the call is rejected.
///
/// [`Call::on_stream`](c10d_core::Call::on_stream) is not needed. If it is used, it must give the slice's own stream.
#[derive(Debug)]
pub struct OnDevice<B> {
    slice: B,
    after: Vec<Arc<CudaStream>>,
}

/// Makes a buffer from a slice.
///
/// ```no_run
/// use c10d_core::{ProcessGroup, ReduceOp, op};
/// use c10d_nccl::on_device;
/// use cudarc::driver::CudaContext;
///
/// # fn f(pg: ProcessGroup) -> Result<(), Box<dyn std::error::Error>> {
/// let stream = CudaContext::new(0)?.new_stream()?;
/// let mut x = stream.clone_htod(&[1f32; 1024])?;
/// pg.all_reduce(on_device(&mut x), ReduceOp::Sum)?;
/// // This broadcasts a part of the slice.
/// pg.broadcast(on_device(x.slice_mut(..512)), 0)?;
/// // This call does not wait.
/// let work = pg.start(op::all_reduce(on_device(x), ReduceOp::Avg));
/// let x = work.wait()?.into_inner();
/// # Ok(()) }
/// ```
pub fn on_device<B>(slice: B) -> OnDevice<B> {
    OnDevice { slice, after: Vec::new() }
}

impl<B> OnDevice<B> {
    /// Makes the op also run after the work that is on this stream so far.
    pub fn after(mut self, stream: &Arc<CudaStream>) -> Self {
        self.after.push(stream.clone());
        self
    }

    /// Returns the slice.
    pub fn into_inner(self) -> B {
        self.slice
    }

    /// Makes the slice's own stream wait for the streams that were given to `after`. Returns an error if one of these
    /// streams or the own stream is capturing a graph.
    fn gather(&self, own: &CudaStream) -> Result {
        for stream in self.after.iter().map(|s| &**s).chain([own]) {
            match stream.capture_status().map_err(|e| failed("asking whether a stream is capturing a graph", e))? {
                CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_NONE => {}
                _ => {
                    return Err(Error::invalid(
                        "the slice's stream, or a stream that was given to `after`, is capturing a graph; a collective \
                         cannot be part of a graph",
                    ));
                }
            }
        }
        self.after.iter().try_for_each(|stream| own.join(stream)).map_err(|e| failed("having a slice's stream wait", e))
    }
}

/// Makes the default stream wait for a slice's stream. An op runs after the work of the default stream, unless the call
/// gives another stream.
fn lead(own: &CudaStream) -> Result {
    // cudarc stores errors of its own events until `check_err` is called.
    let done = own.context().check_err().and_then(|()| match own.cu_stream().is_null() {
        true => Ok(()),
        false => own.context().default_stream().join(own),
    });
    done.map_err(|e| failed("having the default stream wait for a slice's stream", e))
}

fn span<T: Element>(at: u64, count: usize, stream: &CudaStream) -> Span {
    let device = Device::cuda(stream.context().ordinal() as u16);
    Span::new(at as *mut (), 0, count as u64, T::DTYPE, device)
}

macro_rules! buf {
    ($([$($generics:tt)*] $type:ty, $pointer:ident;)*) => {$(
        // SAFETY: the value borrows or owns the allocation, which does not move. cudarc would record an event when the
        // pointer is not used any more. This is not needed, since the device has finished the op before the value can
        // be used again.
        unsafe impl<$($generics)*> Buf for OnDevice<$type> {
            fn span(&mut self) -> Span {
                let (own, count) = (self.slice.stream().clone(), self.slice.len());
                // This makes the slice's stream wait for the uses of the slice that cudarc has recorded.
                let (at, record) = self.slice.$pointer(&own);
                std::mem::forget(record);
                span::<T>(at, count, &own)
            }

            fn ready(&mut self) -> Result<Span> {
                let own = self.slice.stream().clone();
                self.gather(&own)?;
                let span = self.span();
                lead(&own).map(|()| span)
            }
        }
    )*};
}

buf! {
    [T: Element] &CudaSlice<T>, device_ptr;
    [T: Element] CudaView<'_, T>, device_ptr;
    [T: Element] &mut CudaSlice<T>, device_ptr_mut;
    [T: Element] CudaViewMut<'_, T>, device_ptr_mut;
    [T: Element] CudaSlice<T>, device_ptr_mut;
}

// SAFETY: the value is an exclusive borrow.
unsafe impl<T: Element> BufMut for OnDevice<&mut CudaSlice<T>> {}
// SAFETY: the value is an exclusive borrow.
unsafe impl<T: Element> BufMut for OnDevice<CudaViewMut<'_, T>> {}
// SAFETY: the value is the only owner.
unsafe impl<T: Element> BufMut for OnDevice<CudaSlice<T>> {}
