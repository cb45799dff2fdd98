//! Copies of device memory for kernels that run on the host.
#![allow(unsafe_code)]

use super::Request;
use crate::device::{DeviceRuntime, typed};
use crate::types::Element;
use crate::{Error, Result};

impl Request {
    /// Copies the elements of input `i`, which must be on a device of this runtime, to host memory. The copy runs after
    /// all work that is already on the request's stream.
    ///
    /// # Errors
    /// `InvalidArgument` if there is no input `i` with elements of type `T`, or if the input is not on a device of this
    /// runtime. Otherwise the errors of the runtime.
    pub fn fetch<T: Element>(&self, i: usize, runtime: &dyn DeviceRuntime) -> Result<Vec<T>> {
        let span = self.inputs().get(i).filter(|span| span.dtype() == T::DTYPE);
        let span = span.ok_or_else(|| Error::invalid(format!("there is no input {i} of {}", T::DTYPE)))?;
        let index = span.device().index();
        if span.device() != runtime.device(index) {
            let (here, name) = (span.device(), runtime.name());
            return Err(Error::invalid(format!("the input is on {here}, not on a device of {name}")));
        }
        // SAFETY: the caller of [`Call::on_stream`](crate::Call::on_stream) guarantees that the stream belongs to this
        // device.
        unsafe { runtime.check_stream(index, self.stream) }?;
        let mut bytes = vec![0u8; span.bytes()].into_boxed_slice();
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        // SAFETY: the input has this many bytes, and stays allocated until the job is completed. The host buffer is not
        // freed before the copy is complete. If it is not known whether the copy is complete, the buffer is leaked.
        let done = unsafe {
            runtime
                .copy_out(index, self.stream, bytes.as_mut_ptr(), span.address(), bytes.len())
                .and_then(|()| runtime.synchronize(index, self.stream, self.deadline()))
        };
        match done {
            Ok(()) => Ok(typed(bytes.into_vec(), span.count())),
            Err(e) => {
                std::mem::forget(bytes);
                Err(e)
            }
        }
    }
}
