//! Streams that record a graph, and what nobody may do meanwhile, as the driver's documentation has it. What is recorded is
//! dropped: only whether the recording comes to a good end is of interest here.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::cell::Cell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::sync::LazyLock;
use std::thread::{ThreadId, current};

use parking_lot::Mutex;

use crate::cuda::{INVALID_HANDLE, INVALID_VALUE, SUCCESS};

/// The modes of a thread. A recording here is always of the first.
const GLOBAL: c_int = 0;
const RELAXED: c_int = 2;

const UNSUPPORTED: c_int = 900;
const INVALIDATED: c_int = 901;
const UNJOINED: c_int = 904;

struct Capture {
    thread: ThreadId,
    /// What its end will say.
    end: c_int,
}

#[derive(Default)]
struct Captures {
    /// By their streams.
    running: HashMap<u64, Capture>,
    /// The events that were recorded on such a stream, and which one it was.
    events: HashMap<u64, u64>,
}

static CAPTURES: LazyLock<Mutex<Captures>> = LazyLock::new(Mutex::default);

thread_local! {
    static MODE: Cell<c_int> = const { Cell::new(GLOBAL) };
}

/// A call that is unsafe during a recording: what it answers if it is forbidden to this thread now, which breaks the
/// recording.
pub(crate) fn forbids(call: &str) -> Option<c_int> {
    let (mode, mut captures) = (MODE.get(), CAPTURES.lock());
    let heeds = |c: &&mut Capture| mode == GLOBAL || mode != RELAXED && c.thread == current().id();
    let mut broken = None;
    for capture in captures.running.values_mut().filter(heeds) {
        eprintln!("fake CUDA: {call} breaks the recording of a graph");
        capture.end = INVALIDATED;
        broken = Some(UNSUPPORTED);
    }
    broken
}

/// Whether the record of this event on this stream is a part of a graph.
pub(crate) fn records(event: u64, stream: u64) -> bool {
    let Captures { running, events } = &mut *CAPTURES.lock();
    events.remove(&event);
    let recorded = running.contains_key(&stream);
    if recorded {
        events.insert(event, stream);
    }
    recorded
}

/// A stream that waits for such an event takes part in the recording; nobody here brings it back.
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
    // SAFETY: the caller's integer, here and below.
    unsafe { *graph = if capture.end == SUCCESS { stream } else { 0 } };
    capture.end
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuStreamIsCapturing(stream: u64, status: *mut c_int) -> c_int {
    let status_of = |c: &Capture| if c.end == INVALIDATED { 2 } else { 1 };
    // SAFETY: as above.
    unsafe { *status = CAPTURES.lock().running.get(&stream).map_or(0, status_of) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuThreadExchangeStreamCaptureMode(mode: *mut c_int) -> c_int {
    // SAFETY: as above.
    unsafe { *mode = MODE.replace(*mode) };
    SUCCESS
}
