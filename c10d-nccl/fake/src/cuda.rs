//! The driver API. Each function behaves as the driver's documentation describes.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::alloc::{Layout, alloc, dealloc};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;

use parking_lot::Mutex;

use crate::capture;
use crate::fault;
use crate::world::{Clock, Touch, WORLD, Work};

pub const SUCCESS: c_int = 0;
pub const INVALID_VALUE: c_int = 1;
const OUT_OF_MEMORY: c_int = 2;
pub(crate) const INVALID_CONTEXT: c_int = 201;
pub(crate) const INVALID_HANDLE: c_int = 400;
pub const NOT_READY: c_int = 600;
pub(crate) const LAUNCH_FAILED: c_int = 719;

const CONTEXT: u64 = 0x1000;

/// The devices whose primary contexts were retained. A release removes no device from this set: in the tests, another
/// caller still retains the context at every release.
static RETAINED: Mutex<BTreeSet<c_int>> = Mutex::new(BTreeSet::new());

thread_local! {
    static CURRENT: Cell<Option<u16>> = const { Cell::new(None) };
}

pub(crate) fn current() -> Option<u16> {
    CURRENT.get()
}

fn devices() -> u16 {
    fault::number("devices").map_or(8, |n| n as u16)
}

/// Returns the code for this result. Prints the error, if it is one.
pub(crate) fn said(result: Result<(), String>) -> c_int {
    match result {
        Ok(()) => SUCCESS,
        Err(why) => {
            eprintln!("fake CUDA: {why}");
            LAUNCH_FAILED
        }
    }
}

/// An address that is sent to a stream's thread.
struct At(u64);

#[unsafe(no_mangle)]
pub extern "C" fn cuInit(_: c_uint) -> c_int {
    if devices() == 0 { 100 } else { SUCCESS }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetCount(count: *mut c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *count = c_int::from(devices() as i16) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGet(device: *mut c_int, ordinal: c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *device = ordinal };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid_v2(uuid: *mut [u8; 16], device: c_int) -> c_int {
    // Every process has the same devices, so the UUID depends only on the device's number.
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *uuid = [device as u8; 16] };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetUuid(uuid: *mut [u8; 16], device: c_int) -> c_int {
    // SAFETY: the caller guarantees the same of these arguments.
    unsafe { cuDeviceGetUuid_v2(uuid, device) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxRetain(context: *mut u64, device: c_int) -> c_int {
    RETAINED.lock().insert(device);
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *context = CONTEXT + device as u64 };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDriverGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *version = fault::number("driver").map_or(12_000, |v| v as c_int) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDevicePrimaryCtxGetState(device: c_int, flags: *mut c_uint, active: *mut c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe {
        *flags = 0;
        *active = c_int::from(RETAINED.lock().contains(&device));
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuDevicePrimaryCtxRelease_v2(_: c_int) -> c_int {
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuDeviceGetAttribute(answer: *mut c_int, attribute: c_int, _: c_int) -> c_int {
    /// The major number of the compute capability.
    const MAJOR: c_int = 75;
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *answer = if attribute == MAJOR { 9 } else { 0 } };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetCurrent(context: *mut u64) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *context = current().map_or(0, |device| CONTEXT + u64::from(device)) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSynchronize() -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    if let Some(code) = capture::forbids("cuCtxSynchronize") {
        return code;
    }
    let streams = WORLD.lock().streams(device);
    streams.into_iter().for_each(pass);
    SUCCESS
}

/// Waits until a stream has finished its work, and records that the host knows this.
fn pass(stream: u64) {
    if let Some(clock) = reach(stream) {
        // Work that the host knows to be finished precedes all work that is enqueued later.
        WORLD.lock().saw(&clock);
    }
}

/// Waits until a stream has finished its work, and returns the clock of the finished work.
fn reach(stream: u64) -> Option<Clock> {
    let (sender, receiver) = crossbeam_channel::bounded(1);
    let tell = move || {
        let _ = sender.send(());
    };
    let mut world = WORLD.lock();
    world.enqueue(stream, &[], Box::new(tell)).ok()?;
    let clock = world.clock(stream);
    drop(world);
    receiver.recv().ok()?;
    Some(clock)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamSynchronize(stream: u64) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    if let Some(code) = capture::forbids("cuStreamSynchronize") {
        return code;
    }
    let Some(stream) = WORLD.lock().stream(stream, device) else { return INVALID_HANDLE };
    pass(stream);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuCtxSetCurrent(context: u64) -> c_int {
    CURRENT.set(context.checked_sub(CONTEXT).map(|d| d as u16));
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuCtxGetStreamPriorityRange(least: *mut c_int, greatest: *mut c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe {
        *least = 0;
        *greatest = -5;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(code: c_int, name: *mut *const c_char) -> c_int {
    let text = match code {
        INVALID_VALUE => c"CUDA_ERROR_INVALID_VALUE",
        OUT_OF_MEMORY => c"CUDA_ERROR_OUT_OF_MEMORY",
        INVALID_CONTEXT => c"CUDA_ERROR_INVALID_CONTEXT",
        INVALID_HANDLE => c"CUDA_ERROR_INVALID_HANDLE",
        LAUNCH_FAILED => c"CUDA_ERROR_LAUNCH_FAILED",
        100 => c"CUDA_ERROR_NO_DEVICE",
        900 => c"CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED",
        _ => c"CUDA_ERROR_UNKNOWN",
    };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *name = text.as_ptr() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(_: c_int, text: *mut *const c_char) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *text = c"the simulated driver returned an error".as_ptr() };
    SUCCESS
}

static SIZES: LazyLock<Mutex<HashMap<u64, Layout>>> = LazyLock::new(Mutex::default);
/// The page-locked host memory: the sizes by address.
static LOCKED: LazyLock<Mutex<BTreeMap<u64, usize>>> = LazyLock::new(Mutex::default);

fn take(bytes: usize) -> Option<u64> {
    let layout = Layout::from_size_align(bytes.max(1), 256).ok()?;
    // SAFETY: the size is not 0.
    let at = unsafe { alloc(layout) };
    if at.is_null() {
        return None;
    }
    // As on a device, new memory is not zero.
    // SAFETY: the memory was just allocated with this length.
    unsafe { at.write_bytes(0xa5, bytes) };
    SIZES.lock().insert(at as u64, layout);
    Some(at as u64)
}

/// Frees memory. Returns `false` if nothing is allocated at this address.
fn give(at: u64) -> bool {
    let Some(layout) = SIZES.lock().remove(&at) else { return false };
    // SAFETY: the memory was allocated with this layout, and is freed only once, since its entry was removed.
    unsafe { dealloc(at as *mut u8, layout) };
    true
}

/// The size of a device's memory, which `cuMemGetInfo` always reports as free.
const MEMORY: usize = 80 << 30;

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) -> c_int {
    if current().is_none() {
        return INVALID_CONTEXT;
    }
    // SAFETY: the caller guarantees that both pointers may be written.
    unsafe { (*free, *total) = (MEMORY, MEMORY) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemAlloc_v2(at: *mut u64, bytes: usize) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    if let Some(code) = capture::forbids("cuMemAlloc") {
        return code;
    }
    if bytes > isize::MAX as usize / 2 {
        return OUT_OF_MEMORY;
    }
    let Some(base) = take(bytes) else { return OUT_OF_MEMORY };
    WORLD.lock().allocate(device, base, bytes);
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *at = base };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFree_v2(at: u64) -> c_int {
    if let Some(code) = capture::forbids("cuMemFree") {
        return code;
    }
    let Some((in_use, streams)) = WORLD.lock().free(at) else { return INVALID_VALUE };
    if fault::word("freed").is_none() {
        // The real function also waits for the whole device.
        streams.into_iter().for_each(pass);
    } else if in_use {
        eprintln!("fake CUDA: memory at {at:#x} is freed while streams may be using it");
        std::process::abort();
    }
    if give(at) { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostAlloc(at: *mut u64, bytes: usize, _: c_uint) -> c_int {
    if current().is_none() {
        return INVALID_CONTEXT;
    }
    if let Some(code) = capture::forbids("cuMemHostAlloc") {
        return code;
    }
    let lockable = fault::word("locked").as_deref() != Some("none");
    let Some(base) = lockable.then(|| take(bytes)).flatten() else { return OUT_OF_MEMORY };
    LOCKED.lock().insert(base, bytes);
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *at = base };
    SUCCESS
}

fn is_locked(at: u64, bytes: usize) -> bool {
    LOCKED.lock().range(..=at).next_back().is_some_and(|(base, len)| at - base + bytes as u64 <= *len as u64)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemFreeHost(at: u64) -> c_int {
    if current().is_none() {
        return INVALID_CONTEXT;
    }
    if let Some(code) = capture::forbids("cuMemFreeHost") {
        return code;
    }
    LOCKED.lock().remove(&at);
    if give(at) { SUCCESS } else { INVALID_VALUE }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuMemHostGetFlags(flags: *mut c_uint, at: u64) -> c_int {
    if !SIZES.lock().contains_key(&at) || WORLD.lock().device_of(at).is_some() {
        return INVALID_VALUE;
    }
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *flags = 0 };
    SUCCESS
}

fn copy(to: u64, from: u64, bytes: usize, stream: u64, touches: &[Touch]) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    let (to, from) = (At(to), At(from));
    let work: Work = Box::new(move || {
        let (to, from) = (&to, &from);
        // SAFETY: the caller guarantees that both sides exist until the stream has finished the copy.
        unsafe { std::ptr::copy(from.0 as *const u8, to.0 as *mut u8, bytes) };
    });
    let mut world = WORLD.lock();
    let Some(stream) = world.stream(stream, device) else { return INVALID_HANDLE };
    said(world.enqueue(stream, touches, work))
}

/// Called before a copy to or from host memory. If the memory is pageable, the real driver may or may not wait for the
/// stream, and a caller must rely on neither. So this function waits for the stream, but does not record that the host
/// knows earlier work to be finished.
fn before_copy(host: u64, bytes: usize, stream: u64) {
    if !is_locked(host, bytes)
        && let Some(device) = current()
    {
        let stream = WORLD.lock().stream(stream, device);
        stream.and_then(reach);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyHtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> c_int {
    before_copy(from, bytes, stream);
    copy(to, from, bytes, stream, &[Touch { at: to, bytes, writes: true }])
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoHAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> c_int {
    before_copy(to, bytes, stream);
    copy(to, from, bytes, stream, &[Touch { at: from, bytes, writes: false }])
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemcpyDtoDAsync_v2(to: u64, from: u64, bytes: usize, stream: u64) -> c_int {
    let touches = [Touch { at: to, bytes, writes: true }, Touch { at: from, bytes, writes: false }];
    copy(to, from, bytes, stream, &touches)
}

#[unsafe(no_mangle)]
pub extern "C" fn cuMemsetD8Async(at: u64, value: u8, bytes: usize, stream: u64) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    let to = At(at);
    let work: Work = Box::new(move || {
        let to = &to;
        // SAFETY: the same as in `copy`.
        unsafe { (to.0 as *mut u8).write_bytes(value, bytes) };
    });
    let mut world = WORLD.lock();
    let Some(stream) = world.stream(stream, device) else { return INVALID_HANDLE };
    said(world.enqueue(stream, &[Touch { at, bytes, writes: true }], work))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuPointerGetAttribute(answer: *mut c_void, _: c_int, at: u64) -> c_int {
    let Some(device) = WORLD.lock().device_of(at) else { return INVALID_VALUE };
    // SAFETY: the only attribute is the device's number, and the caller guarantees that an integer may be written.
    unsafe { *answer.cast::<c_int>() = c_int::from(device as i16) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreateWithPriority(stream: *mut u64, _: c_uint, _: c_int) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *stream = WORLD.lock().create_stream(device) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamCreate(stream: *mut u64, flags: c_uint) -> c_int {
    // SAFETY: the caller guarantees the same of these arguments.
    unsafe { cuStreamCreateWithPriority(stream, flags, 0) }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamDestroy_v2(stream: u64) -> c_int {
    if WORLD.lock().destroy_stream(stream) { SUCCESS } else { INVALID_HANDLE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuLaunchHostFunc(
    stream: u64,
    function: unsafe extern "C" fn(*mut c_void),
    data: *mut c_void,
) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    let data = At(data as u64);
    let work: Work = Box::new(move || {
        let data = &data;
        // SAFETY: the caller guarantees that its function may be called with its argument.
        unsafe { function(data.0 as *mut c_void) }
    });
    let mut world = WORLD.lock();
    let Some(stream) = world.stream(stream, device) else { return INVALID_HANDLE };
    said(world.enqueue(stream, &[], work))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamGetCtx(stream: u64, context: *mut u64) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    let mut world = WORLD.lock();
    let stream = world.stream(stream, device);
    let Some(device) = stream.and_then(|s| world.stream_device(s)) else { return INVALID_HANDLE };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *context = CONTEXT + u64::from(device) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamWaitEvent(stream: u64, event: u64, _: c_uint) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    capture::joins(event);
    let mut world = WORLD.lock();
    let Some(stream) = world.stream(stream, device) else { return INVALID_HANDLE };
    said(world.wait(stream, event))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuEventCreate(event: *mut u64, _: c_uint) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *event = WORLD.lock().create_event(device) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventDestroy_v2(event: u64) -> c_int {
    if WORLD.lock().destroy_event(event) { SUCCESS } else { INVALID_HANDLE }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventRecord(event: u64, stream: u64) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    if capture::records(event, stream) {
        return SUCCESS;
    }
    let mut world = WORLD.lock();
    let Some(stream) = world.stream(stream, device) else { return INVALID_HANDLE };
    if world.event_device(event) != world.stream_device(stream) {
        return INVALID_HANDLE;
    }
    said(world.record(event, stream))
}

#[unsafe(no_mangle)]
pub extern "C" fn cuEventQuery(event: u64) -> c_int {
    if let Some(code) = capture::forbids("cuEventQuery") {
        return code;
    }
    if crate::nccl::launched_past("query") {
        fault::hang();
    }
    if crate::nccl::launched_past("lost") {
        return LAUNCH_FAILED;
    }
    match WORLD.lock().query(event) {
        Some(true) => SUCCESS,
        Some(false) => NOT_READY,
        None => INVALID_HANDLE,
    }
}
