//! Calls of the driver that the tests make themselves.

use std::ffi::c_void;
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, Sender, channel};

use libloading::{Library, Symbol};

static DRIVER: LazyLock<Library> = LazyLock::new(|| {
    // SAFETY: it is the library that the backend has loaded.
    unsafe { Library::new("libcuda.so.1") }.unwrap()
});

fn function<T>(name: &str) -> Symbol<'static, T> {
    // SAFETY: the caller gives the driver's signature.
    unsafe { DRIVER.get(name.as_bytes()) }.unwrap()
}

/// A gate in a stream. Work that is enqueued after the gate runs only when the gate is open.
pub(crate) struct Gate(Sender<()>);

impl Gate {
    /// Puts a closed gate into the stream.
    pub(crate) fn on(stream: u64) -> Gate {
        type Launch = unsafe extern "C" fn(u64, unsafe extern "C" fn(*mut c_void), *mut c_void) -> i32;
        let (open, opened) = channel();
        let data = Box::into_raw(Box::new(opened)).cast();
        // SAFETY: the function gets this pointer once.
        assert_eq!(unsafe { function::<Launch>("cuLaunchHostFunc")(stream, wait, data) }, 0);
        Gate(open)
    }

    pub(crate) fn open(self) {
        self.0.send(()).unwrap();
    }
}

unsafe extern "C" fn wait(opened: *mut c_void) {
    // SAFETY: it comes from `Gate::on`, and is used once.
    let opened: Box<Receiver<()>> = unsafe { Box::from_raw(opened.cast()) };
    // If the test has failed, nothing opens the gate.
    let _ = opened.recv();
}

/// Whether this address is in device memory.
pub(crate) fn is_allocated(at: u64) -> bool {
    const DEVICE_ORDINAL: i32 = 9;
    type Get = unsafe extern "C" fn(*mut i32, i32, u64) -> i32;
    // SAFETY: any address is allowed; the result is one integer.
    unsafe { function::<Get>("cuPointerGetAttribute")(&mut 0, DEVICE_ORDINAL, at) == 0 }
}

/// Captures a graph on the stream while `body` runs, in the mode in which no thread may make a call that is unsafe
/// during a capture. Checks that the capture succeeds.
pub(crate) fn recording<T>(stream: u64, body: impl FnOnce() -> T) -> T {
    const GLOBAL: i32 = 0;
    let mut graph = 0u64;
    // SAFETY: these are the signatures of the driver's functions.
    unsafe {
        assert_eq!(function::<unsafe extern "C" fn(u64, i32) -> i32>("cuStreamBeginCapture_v2")(stream, GLOBAL), 0);
        let done = body();
        let end = function::<unsafe extern "C" fn(u64, *mut u64) -> i32>("cuStreamEndCapture");
        assert_eq!(end(stream, &mut graph), 0, "the capture was invalidated");
        assert_ne!(graph, 0);
        done
    }
}
