//! Tests that the fake libraries reject calls that would give a wrong result or hang on a real device.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_int};
use std::sync::LazyLock;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use c10d_core::device::DevicePtr;
use libloading::{Library, Symbol};

use crate::common;
use common::driver::Gate;
use common::{SECOND, cuda, with_fake};

const SUCCESS: c_int = 0;
const IN_PROGRESS: c_int = 7;
const F32: c_int = 7;
const SUM: c_int = 0;

type Comm = u64;
type Id = [u8; 128];

static NCCL: LazyLock<Library> = LazyLock::new(|| {
    // SAFETY: the backend has already loaded this library, so its constructors have run.
    unsafe { Library::new("libnccl.so.2") }.unwrap()
});

fn function<T>(name: &str) -> Symbol<'static, T> {
    // SAFETY: the caller gives NCCL's signature.
    unsafe { NCCL.get(name.as_bytes()) }.unwrap()
}

#[repr(C)]
#[derive(Clone, Copy)]
struct UniqueId(Id);

/// The same as `NCCL_CONFIG_INITIALIZER`, but not blocking.
#[repr(C)]
struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
    rest: [c_int; 15],
}

/// Makes a communicator with this number of ranks, all on device 0. Returns the handle of each rank.
fn met(size: c_int) -> Vec<Comm> {
    type GetId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
    type Init = unsafe extern "C" fn(*mut Comm, c_int, UniqueId, c_int, *mut Config) -> c_int;
    type State = unsafe extern "C" fn(Comm, *mut c_int) -> c_int;
    // This makes device 0 the current device of this thread.
    memory(0);
    let mut id = UniqueId([0; 128]);
    // SAFETY: the call writes one value.
    assert_eq!(unsafe { function::<GetId>("ncclGetUniqueId")(&mut id) }, SUCCESS);
    let begin = |rank| {
        let mut config = Config {
            size: size_of::<Config>(),
            magic: 0xcafe_beef,
            version: 22809,
            blocking: 0,
            rest: [c_int::MIN; 15],
        };
        let mut comm = 0;
        // SAFETY: the call writes one value, and reads the settings during the call.
        let begun = unsafe { function::<Init>("ncclCommInitRankConfig")(&mut comm, size, id, rank, &mut config) };
        assert_eq!(begun, IN_PROGRESS);
        comm
    };
    let comms: Vec<Comm> = (0..size).map(begin).collect();
    let is_ready = |comm: &Comm| {
        let mut state = IN_PROGRESS;
        // SAFETY: the call writes one value.
        assert_eq!(unsafe { function::<State>("ncclCommGetAsyncError")(*comm, &mut state) }, SUCCESS);
        state == SUCCESS
    };
    let until = Instant::now() + 60 * SECOND;
    while !comms.iter().all(is_ready) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    comms
}

/// Allocates 64 bytes of device memory, and never frees them.
fn memory(device: u16) -> u64 {
    cuda().allocate(device, 64).unwrap() as u64
}

fn sum(comm: Comm, at: u64, stream: u64) -> c_int {
    type AllReduce = unsafe extern "C" fn(u64, u64, usize, c_int, c_int, Comm, u64) -> c_int;
    // SAFETY: the memory, the communicator and the stream exist until the end of the process.
    unsafe { function::<AllReduce>("ncclAllReduce")(at, at, 16, F32, SUM, comm, stream) }
}

/// Sends or receives a message of eight elements by the function `name`.
fn message(name: &str, comm: Comm, at: u64, peer: c_int, stream: u64) -> c_int {
    type Message = unsafe extern "C" fn(u64, usize, c_int, c_int, Comm, u64) -> c_int;
    // SAFETY: the memory, the communicator and the stream exist until the end of the process.
    unsafe { function::<Message>(name)(at, 8, F32, peer, comm, stream) }
}

fn group(calls: impl FnOnce() -> c_int) -> c_int {
    type Bracket = unsafe extern "C" fn() -> c_int;
    // SAFETY: the function has no arguments.
    let bracket = |name: &str| unsafe { function::<Bracket>(name)() };
    assert_eq!((bracket("ncclGroupStart"), calls()), (SUCCESS, SUCCESS));
    bracket("ncclGroupEnd")
}

#[test]
fn wrong_calls_are_refused() {
    with_fake("wrong_calls_are_refused", "", || {
        let comm = met(1)[0];
        let stream = |device| cuda().create_stream(device).unwrap();
        let (here, there, own, other, foreign) = (memory(0), memory(1), stream(0), stream(0), stream(1));
        let refused = |result: c_int, why: &str| {
            assert_ne!(result, SUCCESS, "{why}");
            // SAFETY: it returns a string that ends with a zero.
            let words = unsafe {
                CStr::from_ptr(function::<unsafe extern "C" fn(Comm) -> *const c_char>("ncclGetLastError")(comm))
            };
            assert!(words.to_string_lossy().contains(why), "{words:?}");
        };
        refused(message("ncclSend", comm, here, 0, own), "a message outside of a group");
        refused(sum(comm, here, foreign), "a stream that is not of the communicator's device");
        refused(sum(comm, there, own), "memory of device 1 on a stream of device 0");
        assert_eq!(sum(comm, here, own), SUCCESS);
        refused(sum(comm, here, other), "a race");
        let mark = cuda().create_event(0).unwrap();
        // SAFETY: all belong to device 0.
        unsafe {
            cuda().record(0, mark, own).unwrap();
            cuda().wait(0, other, mark).unwrap();
        }
        assert_eq!(sum(comm, here, other), SUCCESS, "in order");
    });
}

#[test]
fn a_query_refers_to_the_last_record_of_an_event() {
    with_fake("a_query_refers_to_the_last_record_of_an_event", "", || {
        let comms = met(2);
        let (cuda, at) = (cuda(), memory(0));
        let stream = || cuda.create_stream(0).unwrap();
        let (held, free, sending) = (stream(), stream(), stream());
        let soon = || Instant::now() + 60 * SECOND;
        assert_eq!(group(|| message("ncclRecv", comms[0], at, 1, held)), SUCCESS);
        let mark = cuda.create_event(0).unwrap();
        // SAFETY: all belong to device 0.
        unsafe {
            cuda.record(0, mark, held).unwrap();
            assert!(!cuda.query(0, mark).unwrap(), "nothing was sent");
            cuda.record(0, mark, free).unwrap();
            cuda.synchronize(0, free, soon()).unwrap();
            assert!(cuda.query(0, mark).unwrap());
            assert_eq!(group(|| message("ncclSend", comms[1], at + 32, 0, sending)), SUCCESS);
            cuda.synchronize(0, held, soon()).unwrap();
            assert!(cuda.query(0, mark).unwrap(), "the earlier record does not reset the event");
        }
    });
}

/// The call for a copy of page-locked memory returns at once, and the copy runs when the stream reaches it. In the call
/// for a copy of pageable memory, the driver may wait until the stream reaches the copy.
#[test]
fn a_copy_of_pageable_memory_waits() {
    const HELD: Duration = Duration::from_millis(100);
    with_fake("a_copy_of_pageable_memory_waits", "", || {
        let (base, stream) = (memory(0), cuda().create_stream(0).unwrap());
        let locked = cuda().allocate_host(8).unwrap() as u64;
        let write = move |value: u64| {
            // SAFETY: these eight bytes belong to the test, and the device does not read them before the stream
            // continues.
            unsafe { (locked as *mut u64).write_volatile(value) }
        };
        let (gate, (tell, told)) = (Gate::on(stream), channel());
        write(1);
        std::thread::spawn(move || {
            let (place, back) = (DevicePtr { base: base as *mut (), offset: 0 }, Box::leak(Box::new(0u64)));
            // SAFETY: everything exists until the end of the process.
            unsafe { cuda().copy_in(0, stream, place, locked as *const u8, 8) }.unwrap();
            tell.send(0).unwrap();
            // SAFETY: the same as above.
            unsafe { cuda().copy_out(0, stream, (&raw mut *back).cast(), place, 8) }.unwrap();
            tell.send(0).unwrap();
            // SAFETY: the same as above.
            unsafe { cuda().synchronize(0, stream, Instant::now() + 60 * SECOND) }.unwrap();
            tell.send(*back).unwrap();
        });
        told.recv_timeout(60 * SECOND).expect("a copy of page-locked memory does not wait for the stream");
        assert!(told.recv_timeout(HELD).is_err(), "a copy of pageable memory waits for the stream");
        write(2);
        gate.open();
        told.recv_timeout(60 * SECOND).expect("the stream continues");
        assert_eq!(told.recv_timeout(60 * SECOND), Ok(2), "the copy runs after the gate is opened");
    });
}
