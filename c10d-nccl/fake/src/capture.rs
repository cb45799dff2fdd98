//! Streams that are capturing a graph, and the calls that the driver's documentation forbids during a capture. No graph
//! is made, since only the success of the capture is tested.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::LazyLock;
use std::thread::{ThreadId, current};

use parking_lot::Mutex;

use crate::cuda::{INVALID_HANDLE, INVALID_VALUE, SUCCESS};

/// The capture modes of a thread. In this library, a capture always begins in the mode `GLOBAL`.
const GLOBAL: c_int = 0;
const RELAXED: c_int = 2;

const UNSUPPORTED: c_int = 900;
const INVALIDATED: c_int = 901;
const UNJOINED: c_int = 904;

struct Capture {
    thread: ThreadId,
    /// The result at the end of the capture.
    end: c_int,
}

#[derive(Default)]
struct Captures {
    /// The running captures, by stream.
    running: HashMap<u64, Capture>,
    /// The events that were recorded on a capturing stream, with that stream.
    events: HashMap<u64, u64>,
}

static CAPTURES: LazyLock<Mutex<Captures>> = LazyLock::new(Mutex::default);

thread_local! {
    static MODE: Cell<c_int> = const { Cell::new(GLOBAL) };
}

/// Must be called by each function that is unsafe during a capture. If running captures forbid this thread to call such
/// functions, these captures become invalid, and this function returns the error.
pub(crate) fn forbids(call: &str) -> Option<c_int> {
    let (mode, mut captures) = (MODE.get(), CAPTURES.lock());
    let heeds = |c: &&mut Capture| mode == GLOBAL || mode != RELAXED && c.thread == current().id();
    let mut broken = None;
    for capture in captures.running.values_mut().filter(heeds) {
        eprintln!("fake CUDA: {call} invalidates the capture of a graph");
        capture.end = INVALIDATED;
        broken = Some(UNSUPPORTED);
    }
    broken
}

/// Records an event. Returns whether the record becomes part of a graph, because the stream is capturing one.
pub(crate) fn records(event: u64, stream: u64) -> bool {
    let Captures { running, events } = &mut *CAPTURES.lock();
    events.remove(&event);
    let recorded = running.contains_key(&stream);
    if recorded {
        events.insert(event, stream);
    }
    recorded
}

/// Called when a stream waits for an event. If the event is part of a capture, the stream joins the capture. CUDA
/// requires that such a stream is joined back before the capture ends. This library assumes that the stream is never
/// joined back, so the capture fails.
pub(crate) fn joins(event: u64) {
    let Captures { running, events } = &mut *CAPTURES.lock();
    if let Some(capture) = events.get(&event).and_then(|stream| running.get_mut(stream)) {
        capture.end = UNJOINED;
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn cuStreamBeginCapture_v2(stream: u64, mode: c_int) -> c_int {
    if stream == 0 || mode != GLOBAL {
        return INVALID_VALUE;
    }
    CAPTURES.lock().running.insert(stream, Capture { thread: current().id(), end: SUCCESS });
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamEndCapture(stream: u64, graph: *mut u64) -> c_int {
    let Some(capture) = CAPTURES.lock().running.remove(&stream) else { return INVALID_HANDLE };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *graph = if capture.end == SUCCESS { stream } else { 0 } };
    capture.end
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: u64, status: *mut c_int) -> c_int {
    let status_of = |c: &Capture| if c.end == INVALIDATED { 2 } else { 1 };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *status = CAPTURES.lock().running.get(&stream).map_or(0, status_of) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be read and written.
    unsafe { *mode = MODE.replace(*mode) };
    SUCCESS
}
