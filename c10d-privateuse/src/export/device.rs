//! Makes the table of a device from its runtime.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_void};

use c10d_core::device::{DevicePtr, DeviceRuntime, Elements};
use c10d_core::{DType, DispatchKey, Error, ErrorKind, ReduceOp, Result};

use super::catch::{caught, status};
use super::exported::{Exported, runtime};
use crate::abi::{self, Device, Why, codes};

pub(super) fn table<E: Exported>() -> Device {
    Device {
        struct_size: abi::size::<Device>(),
        device_type: device_type::<E>(),
        count: Some(count::<E>),
        allocate: Some(allocate::<E>),
        free: Some(free::<E>),
        copy_in: Some(copy_in::<E>),
        copy_out: Some(copy_out::<E>),
        copy: Some(copy::<E>),
        create_stream: Some(create_stream::<E>),
        destroy_stream: Some(destroy_stream::<E>),
        create_event: Some(create_event::<E>),
        destroy_event: Some(destroy_event::<E>),
        record: Some(record::<E>),
        wait: Some(wait::<E>),
        query: Some(query::<E>),
        retain: Some(retain::<E>),
        release: Some(release::<E>),
        allocate_host: Some(allocate_host::<E>),
        free_host: Some(free_host::<E>),
        reduces: Some(reduces::<E>),
        reduce: Some(reduce::<E>),
        identity: Some(identity::<E>),
    }
}

/// Returns the device type. This does not open the device.
fn device_type<E: Exported>() -> u32 {
    let found = E::provider().devices.iter().find(|d| d.name == E::NAME);
    let cuda = found.is_some_and(|d| d.key == DispatchKey::Cuda);
    (if cuda { codes::DEVICE_CUDA } else { codes::DEVICE_PRIVATE }) as u32
}

fn index(index: u32) -> Result<u16> {
    u16::try_from(index).map_err(|_| Error::invalid(format!("there is no device {index}")))
}

fn place(base: *const c_void, offset: u64) -> DevicePtr {
    DevicePtr { base: base.cast_mut().cast(), offset }
}

fn length(bytes: u64) -> Result<usize> {
    usize::try_from(bytes).map_err(|_| Error::invalid(format!("{bytes} bytes are too many")))
}

/// Writes the result of `f` to `to`, or the reason of its error to `why`.
///
/// # Safety
/// `to` is valid for writing, and `why` is null or valid.
unsafe fn answer<T>(to: *mut T, why: *mut Why, f: impl FnOnce() -> Result<T>) -> i32 {
    // SAFETY: the caller guarantees it.
    unsafe { status(why, || f().map(|value| to.write(value))) }
}

/// Calls a method of the runtime from a function that cannot report an error. Errors and panics are ignored.
fn quiet<E: Exported>(i: u32, f: impl FnOnce(&dyn DeviceRuntime, u16)) {
    let _ = caught(|| {
        if let (Ok(runtime), Ok(i)) = (runtime::<E>(), index(i)) {
            f(&**runtime, i);
        }
    });
}

unsafe extern "C" fn count<E: Exported>(count: *mut u32, why: *mut Why) -> i32 {
    // SAFETY: by the ABI, in this function and in all below, result pointers are valid for writing, `why` is null or
    // valid, and all other guarantees are those that the runtime needs.
    unsafe { answer(count, why, || runtime::<E>()?.count().map(u32::from)) }
}

unsafe extern "C" fn allocate<E: Exported>(i: u32, bytes: u64, base: *mut *mut c_void, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe { answer(base, why, || runtime::<E>()?.allocate(index(i)?, length(bytes)?).map(|p| p.cast())) }
}

unsafe extern "C" fn free<E: Exported>(i: u32, base: *mut c_void) {
    // SAFETY: see `count`.
    quiet::<E>(i, |runtime, i| unsafe { runtime.free(i, base.cast()) });
}

unsafe extern "C" fn copy_in<E: Exported>(
    i: u32,
    stream: u64,
    to: *mut c_void,
    offset: u64,
    from: *const c_void,
    bytes: u64,
    why: *mut Why,
) -> i32 {
    // SAFETY: see `count`.
    unsafe {
        status(why, || runtime::<E>()?.copy_in(index(i)?, stream, place(to, offset), from.cast(), length(bytes)?))
    }
}

unsafe extern "C" fn copy_out<E: Exported>(
    i: u32,
    stream: u64,
    to: *mut c_void,
    from: *const c_void,
    offset: u64,
    bytes: u64,
    why: *mut Why,
) -> i32 {
    // SAFETY: see `count`.
    unsafe {
        status(why, || runtime::<E>()?.copy_out(index(i)?, stream, to.cast(), place(from, offset), length(bytes)?))
    }
}

unsafe extern "C" fn copy<E: Exported>(
    i: u32,
    stream: u64,
    to: *mut c_void,
    to_offset: u64,
    from: *const c_void,
    from_offset: u64,
    bytes: u64,
    why: *mut Why,
) -> i32 {
    // SAFETY: see `count`.
    unsafe {
        status(why, || {
            let (to, from) = (place(to, to_offset), place(from, from_offset));
            runtime::<E>()?.copy(index(i)?, stream, to, from, length(bytes)?)
        })
    }
}

unsafe extern "C" fn create_stream<E: Exported>(i: u32, stream: *mut u64, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe { answer(stream, why, || runtime::<E>()?.create_stream(index(i)?)) }
}

unsafe extern "C" fn destroy_stream<E: Exported>(i: u32, stream: u64) {
    // SAFETY: see `count`.
    quiet::<E>(i, |runtime, i| unsafe { runtime.destroy_stream(i, stream) });
}

unsafe extern "C" fn create_event<E: Exported>(i: u32, event: *mut u64, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe { answer(event, why, || runtime::<E>()?.create_event(index(i)?)) }
}

unsafe extern "C" fn destroy_event<E: Exported>(i: u32, event: u64) {
    // SAFETY: see `count`.
    quiet::<E>(i, |runtime, i| unsafe { runtime.destroy_event(i, event) });
}

unsafe extern "C" fn record<E: Exported>(i: u32, event: u64, stream: u64, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe { status(why, || runtime::<E>()?.record(index(i)?, event, stream)) }
}

unsafe extern "C" fn wait<E: Exported>(i: u32, stream: u64, event: u64, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe { status(why, || runtime::<E>()?.wait(index(i)?, stream, event)) }
}

unsafe extern "C" fn query<E: Exported>(i: u32, event: u64, reached: *mut u32, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe { answer(reached, why, || runtime::<E>()?.query(index(i)?, event).map(u32::from)) }
}

unsafe extern "C" fn retain<E: Exported>(i: u32, base: *mut c_void, why: *mut Why) -> i32 {
    // SAFETY: see `count`.
    unsafe {
        status(why, || {
            let kept = runtime::<E>()?.retain(index(i)?, base.cast());
            if kept { Ok(()) } else { Err(Error::unsupported("the device does not count the owners of this memory")) }
        })
    }
}

unsafe extern "C" fn release<E: Exported>(i: u32, base: *mut c_void) {
    // SAFETY: see `count`.
    quiet::<E>(i, |runtime, i| unsafe { runtime.release(i, base.cast()) });
}

unsafe extern "C" fn allocate_host<E: Exported>(bytes: u64) -> *mut c_void {
    let base = caught(|| runtime::<E>().ok()?.allocate_host(length(bytes).ok()?));
    base.ok().flatten().map_or(std::ptr::null_mut(), |base| base.cast())
}

unsafe extern "C" fn free_host<E: Exported>(base: *mut c_void, bytes: u64) {
    // SAFETY: see `count`.
    quiet::<E>(0, |runtime, _| unsafe { runtime.free_host(base.cast(), bytes as usize) });
}

fn operation(code: u32) -> Option<ReduceOp> {
    ReduceOp::from_code(u8::try_from(code).ok()?, 1.0)
}

unsafe extern "C" fn reduces<E: Exported>(op: u32) -> u32 {
    let set = caught(|| Some(codes::bits(runtime::<E>().ok()?.reduction()?.reduces(operation(op)?))));
    set.ok().flatten().unwrap_or(0)
}

unsafe extern "C" fn reduce<E: Exported>(
    i: u32,
    stream: u64,
    op: u32,
    dtype: u32,
    acc: *mut c_void,
    acc_offset: u64,
    with: *const c_void,
    with_offset: u64,
    count: u64,
    why: *mut Why,
) -> i32 {
    // SAFETY: see `count`.
    unsafe {
        status(why, || {
            let runtime = runtime::<E>()?;
            let dtype = u8::try_from(dtype).ok().and_then(DType::from_code);
            let (Some(reduction), Some(op), Some(dtype)) = (runtime.reduction(), operation(op), dtype) else {
                return Err(Error::unsupported("the device does not have this operation for this element type"));
            };
            let (acc, with) = (place(acc, acc_offset), place(with, with_offset));
            let elements = Elements { dtype, count: length(count)? };
            reduction.reduce(index(i)?, stream, op, elements, acc, with)
        })
    }
}

unsafe extern "C" fn identity<E: Exported>(
    i: u32,
    text: *mut c_char,
    capacity: u64,
    len: *mut u64,
    why: *mut Why,
) -> i32 {
    let tell = || {
        let nothing = || Error::unsupported("the device has no identity");
        let identity = runtime::<E>()?.identity(index(i)?).ok_or_else(nothing)?;
        // SAFETY: see `count`.
        unsafe { len.write(identity.len() as u64) };
        if identity.len() as u64 > capacity {
            return Err(Error::new(ErrorKind::Resource, format!("the identity has {} bytes", identity.len())));
        }
        // SAFETY: see `count`; the check above ensures that there is enough room.
        unsafe { std::ptr::copy_nonoverlapping(identity.as_ptr(), text.cast::<u8>(), identity.len()) };
        Ok(())
    };
    // SAFETY: see `count`.
    unsafe { status(why, tell) }
}
