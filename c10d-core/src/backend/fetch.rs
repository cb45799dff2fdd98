//! What a kernel for the host reads of a device's memory.
#![allow(unsafe_code)]

use super::Request;
use crate::device::{DeviceRuntime, typed};
use crate::types::Element;
use crate::{Error, Result};

impl Request {
    /// A copy, in host memory, of the elements of an input on a device of this runtime. Ordered behind what was given to
    /// the request's stream.
    pub fn fetch<T: Element>(&self, i: usize, runtime: &dyn DeviceRuntime) -> Result<Vec<T>> {
        let span = self.inputs().get(i).filter(|span| span.dtype() == T::DTYPE);
        let span = span.ok_or_else(|| Error::invalid(format!("there is no input {i} of {}", T::DTYPE)))?;
        let index = span.device().index();
        if span.device() != runtime.device(index) {
            let (here, name) = (span.device(), runtime.name());
            return Err(Error::invalid(format!("the input is on {here}, not on a device of {name}")));
        }
        // SAFETY: of this device, by the caller's word.
        unsafe { runtime.check_stream(index, self.stream) }?;
        let mut bytes = vec![0u8; span.bytes()].into_boxed_slice();
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        // SAFETY: the input has as many bytes and is the call's until its job is completed; the host's side stays until
        // the stream has passed the copy, or for ever.
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
