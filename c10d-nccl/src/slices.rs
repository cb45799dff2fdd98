//! cudarc's slices as buffers.
#![allow(unsafe_code)]

use std::sync::Arc;

use c10d_core::{Buf, BufMut, Device, Element, Span};
use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, DeviceSlice};

/// A slice of cudarc's as a buffer for collectives; [`on_device`] makes it.
///
/// There are `&CudaSlice<T>` and [`CudaView`] to be read, `&mut CudaSlice<T>`, [`CudaViewMut`] and, for calls that own their
/// buffers, `CudaSlice<T>` to be written as well; `T` is any element type, such as `f32` or `half::bf16`.
///
/// # Order
/// The op runs after everything that the slice's stream was given before the call, and after what cudarc knows to use the
/// slice on other streams. When the call returns, or the work is done, the device has passed the op: any stream may use the
/// slice.
#[derive(Debug)]
pub struct OnDevice<B> {
    slice: B,
    after: Vec<Arc<CudaStream>>,
}

/// This slice as a buffer.
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
/// // A part of it, and without waiting.
/// pg.broadcast(on_device(x.slice_mut(..512)), 0)?;
/// let work = pg.start(op::all_reduce(on_device(x), ReduceOp::Avg));
/// let x = work.wait()?.into_inner();
/// # Ok(()) }
/// ```
pub fn on_device<B>(slice: B) -> OnDevice<B> {
    OnDevice { slice, after: Vec::new() }
}

impl<B> OnDevice<B> {
    /// The op runs after what this stream was given so far, too.
    pub fn after(mut self, stream: &Arc<CudaStream>) -> Self {
        self.after.push(stream.clone());
        self
    }

    /// The slice.
    pub fn into_inner(self) -> B {
        self.slice
    }

    /// Has the default stream, behind which the op runs unless the call says otherwise, wait for these.
    fn join(&self, own: &Arc<CudaStream>) -> Arc<CudaStream> {
        let default = own.context().default_stream();
        for stream in self.after.iter().chain([own]).filter(|s| !s.cu_stream().is_null()) {
            // What goes wrong here stays with the context, and shows at the op's own calls.
            own.context().record_err(default.join(stream));
        }
        default
    }
}

fn span<T: Element>(at: u64, count: usize, stream: &CudaStream) -> Span {
    let device = Device::cuda(stream.context().ordinal() as u16);
    Span::new(at as *mut (), 0, count as u64, T::DTYPE, device)
}

macro_rules! buf {
    ($([$($generics:tt)*] $type:ty, $pointer:ident;)*) => {$(
        // SAFETY: the allocation is borrowed or owned by the value and does not move; the event that cudarc would record
        // when the pointer's user is through is not needed, since the op is over on the device before the value is free.
        unsafe impl<$($generics)*> Buf for OnDevice<$type> {
            fn span(&mut self) -> Span {
                let own = self.slice.stream().clone();
                let default = self.join(&own);
                let count = self.slice.len();
                let (at, record) = self.slice.$pointer(&default);
                std::mem::forget(record);
                span::<T>(at, count, &own)
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

// SAFETY: an exclusive borrow or sole ownership.
unsafe impl<T: Element> BufMut for OnDevice<&mut CudaSlice<T>> {}
// SAFETY: as above.
unsafe impl<T: Element> BufMut for OnDevice<CudaViewMut<'_, T>> {}
// SAFETY: as above.
unsafe impl<T: Element> BufMut for OnDevice<CudaSlice<T>> {}
