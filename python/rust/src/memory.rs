//! Buffers in the memory of other libraries' tensors, and the owners of that memory.
#![allow(unsafe_code)]

use std::ffi::c_void;

use c10d::buffer::Span;
use c10d::{Buf, BufMut, DType, Device, Element};

/// A buffer in the caller's memory. Until the op is finished, the caller does not write to it, and does not read it if
/// it is an output.
pub(crate) struct Lent {
    span: Span,
    _owner: Option<Owner>,
}

// SAFETY: the caller of `Lent::new` guarantees that the memory remains until the value is dropped.
unsafe impl Buf for Lent {
    fn span(&mut self) -> Span {
        self.span
    }
}
// SAFETY: the caller of `Lent::new` also guarantees that nothing else uses the memory of an output.
unsafe impl BufMut for Lent {}

impl Lent {
    /// Makes a buffer of the `count` elements at `offset` bytes from `data`, which may be null if `count` is 0.
    ///
    /// # Safety
    /// Until the value is dropped, the memory must remain valid. Nothing else may write to it, and, if the buffer is an
    /// output, nothing else may read it.
    pub(crate) unsafe fn new(data: *mut c_void, offset: u64, count: u64, dtype: DType, device: Device) -> Lent {
        let data = match (count, data.is_null()) {
            (0, true) => std::ptr::without_provenance_mut(dtype.align()),
            _ => data.cast(),
        };
        Lent { span: Span::new(data, offset, count, dtype, device), _owner: None }
    }

    /// Keeps `owner`, which owns the memory of the whole call, until this buffer is dropped.
    pub(crate) fn owned_by(&mut self, owner: Owner) {
        self._owner = Some(owner);
    }
}

/// The owner of a call's memory. When dropped, it calls a function that releases the memory.
pub(crate) struct Owner {
    release: unsafe extern "C" fn(*mut c_void),
    owner: *mut c_void,
}

// SAFETY: `c10d_rs.h` requires that `release` may be called on any thread.
unsafe impl Send for Owner {}

impl Owner {
    /// Makes an owner that calls `release(owner)` when it is dropped.
    ///
    /// # Safety
    /// One call of `release(owner)`, on any thread, must be sound.
    pub(crate) unsafe fn new(release: unsafe extern "C" fn(*mut c_void), owner: *mut c_void) -> Owner {
        Owner { release, owner }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the caller of `new` guarantees that one call is sound, and a value is dropped once.
        unsafe { (self.release)(self.owner) }
    }
}

/// A function that is called at most once, when an event has happened.
pub(crate) struct Callback {
    function: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
}

// SAFETY: `c10d_rs.h` requires that the function may be called on any thread.
unsafe impl Send for Callback {}

impl Callback {
    /// # Safety
    /// One call of `function(context)`, on any thread, must be sound.
    pub(crate) unsafe fn new(function: unsafe extern "C" fn(*mut c_void), context: *mut c_void) -> Callback {
        Callback { function, context }
    }

    pub(crate) fn call(self) {
        // SAFETY: the caller of `new` guarantees that one call is sound, and `self` is consumed.
        unsafe { (self.function)(self.context) }
    }
}

/// Returns an array of C as a slice, which is empty if `data` is null.
///
/// # Safety
/// If `data` is not null, it must point to `len` values that do not change during `'a`.
pub(crate) unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if data.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: `data` is not null, so the caller guarantees `len` valid values.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// Copies the values of an [`Entries`](crate::sparse::Entries) into a vector. The values need not be aligned.
pub(crate) fn copied<T: Element>(values: *const c_void, count: usize) -> Vec<T> {
    let mut out: Vec<T> = Vec::with_capacity(count);
    // SAFETY: the caller of `abi::c10drs_sparse_all_reduce` guarantees `count` values of this type at the address. They
    // are copied as bytes, so their alignment does not matter. The vector has room for `count` values, and all are
    // written before `set_len`.
    unsafe {
        std::ptr::copy_nonoverlapping(values.cast::<u8>(), out.as_mut_ptr().cast::<u8>(), count * size_of::<T>());
        out.set_len(count);
    }
    out
}
