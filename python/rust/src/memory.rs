//! Tensors of other libraries as buffers, and their owners.
#![allow(unsafe_code)]

use std::ffi::c_void;

use c10d::buffer::Span;
use c10d::{Buf, BufMut, DType, Device, Element};

/// Memory that the caller does not use until the op is finished.
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
// SAFETY: as above; nothing else uses the memory of outputs.
unsafe impl BufMut for Lent {}

impl Lent {
    /// `count` elements at `data`.
    ///
    /// # Safety
    /// The memory remains, and nothing else uses it (inputs: writes to it), until the value is dropped.
    pub(crate) unsafe fn new(data: *mut c_void, count: u64, dtype: DType, device: Device) -> Lent {
        let data = match (count, data.is_null()) {
            (0, true) => std::ptr::without_provenance_mut(dtype.align()),
            _ => data.cast(),
        };
        Lent { span: Span::new(data, 0, count, dtype, device), _owner: None }
    }

    /// Gives the owner of a whole call's memory to one of its buffers.
    pub(crate) fn owned_by(&mut self, owner: Owner) {
        self._owner = Some(owner);
    }
}

/// Calls a function when nothing uses a call's memory any more.
pub(crate) struct Owner {
    release: unsafe extern "C" fn(*mut c_void),
    owner: *mut c_void,
}

// SAFETY: the header demands that `release` may be called on any thread.
unsafe impl Send for Owner {}

impl Owner {
    /// Calls `release(owner)` on drop.
    ///
    /// # Safety
    /// `release` may be called with `owner`, once, on any thread.
    pub(crate) unsafe fn new(release: unsafe extern "C" fn(*mut c_void), owner: *mut c_void) -> Owner {
        Owner { release, owner }
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // SAFETY: the caller of `new` guarantees it; this is the only call.
        unsafe { (self.release)(self.owner) }
    }
}

/// A function to be called once when something has happened.
pub(crate) struct Callback {
    function: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
}

// SAFETY: the header demands that the function may be called on any thread.
unsafe impl Send for Callback {}

impl Callback {
    /// # Safety
    /// `function` may be called with `context`, once, on any thread.
    pub(crate) unsafe fn new(function: unsafe extern "C" fn(*mut c_void), context: *mut c_void) -> Callback {
        Callback { function, context }
    }

    pub(crate) fn call(self) {
        // SAFETY: the caller of `new` guarantees it; the value is consumed.
        unsafe { (self.function)(self.context) }
    }
}

/// An array in C. Null is an empty one.
///
/// # Safety
/// `data` points to `len` values that stay as they are for `'a`.
pub(crate) unsafe fn slice<'a, T>(data: *const T, len: usize) -> &'a [T] {
    if data.is_null() || len == 0 {
        return &[];
    }
    // SAFETY: the caller guarantees it.
    unsafe { std::slice::from_raw_parts(data, len) }
}

/// The values at this address, which the maker of an [`Entries`](crate::sparse::Entries) answers for, as a vector.
pub(crate) fn copied<T: Element>(values: *const c_void, count: usize) -> Vec<T> {
    let mut out: Vec<T> = Vec::with_capacity(count);
    // SAFETY: `abi::c10drs_sparse_all_reduce` was promised `count` values of the type there, and calls for that type
    // alone; they need no alignment. The vector has room for them.
    unsafe {
        std::ptr::copy_nonoverlapping(values.cast::<u8>(), out.as_mut_ptr().cast::<u8>(), count * size_of::<T>());
        out.set_len(count);
    }
    out
}
