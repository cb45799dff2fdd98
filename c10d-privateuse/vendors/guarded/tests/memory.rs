//! Tests that the guarded device detects wrong use.
#![allow(unsafe_code)]

use crate::common;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime};
use c10d_guarded::Guarded;
use common::CAP;

const FOLLOW: &str = "C10D_GUARDED_FOLLOW";

#[test]
fn following_an_address_on_the_host_is_a_segmentation_fault() {
    if std::env::var_os(FOLLOW).is_some() {
        let base = Guarded::new("followed").allocate(0, 64).unwrap().cast::<u8>();
        // SAFETY: there is none: the access is forbidden, and ends this process on purpose.
        let _ = unsafe { base.read_volatile() };
        return;
    }
    let name = "memory::following_an_address_on_the_host_is_a_segmentation_fault";
    let program = std::env::current_exe().unwrap();
    let output = Command::new(program).args(["--exact", name]).env(FOLLOW, "1").output().unwrap();
    const SIGSEGV: i32 = 11;
    assert_eq!(output.status.signal(), Some(SIGSEGV), "{output:?}");
}

#[test]
fn memory_is_not_used_after_its_free() {
    let runtime = Arc::new(Guarded::new("freed"));
    let deadline = Instant::now() + CAP;
    let base = runtime.allocate(0, 64).unwrap();
    let place = DevicePtr { base, offset: 0 };
    let bytes = [7u8; 64];
    // A copy that was enqueued before the memory is freed is detected when it runs.
    runtime.stall(0);
    // SAFETY: the host's bytes exist. The device's memory is freed too early on purpose.
    unsafe {
        runtime.copy_in(0, 0, place, bytes.as_ptr(), 64).unwrap();
        runtime.free(0, base);
        runtime.recover();
        let error = runtime.synchronize(0, 0, deadline).unwrap_err().to_string();
        assert!(error.contains("freed before the work on it ran"), "{error}");
        // A copy that is enqueued after the memory was freed is detected at once.
        let error = runtime.copy_in(0, 0, place, bytes.as_ptr(), 64).unwrap_err().to_string();
        assert!(error.contains("is not memory of this device, or was freed"), "{error}");
    }
    let next = runtime.allocate(0, 64).unwrap();
    assert_ne!(next, base, "addresses are not given out twice");
}

#[test]
fn retained_memory_stays_until_the_last_release() {
    let runtime = Guarded::new("retained");
    let deadline = Instant::now() + CAP;
    let base = runtime.allocate(0, 64).unwrap();
    let place = DevicePtr { base, offset: 0 };
    let (bytes, mut back) = ([7u8; 64], [0u8; 64]);
    // SAFETY: the host memory exists, and the device memory is retained while it is used.
    unsafe {
        assert!(runtime.retain(0, base));
        runtime.free(0, base);
        runtime.copy_in(0, 0, place, bytes.as_ptr(), 64).unwrap();
        runtime.copy_out(0, 0, back.as_mut_ptr(), place, 64).unwrap();
        runtime.synchronize(0, 0, deadline).unwrap();
        assert_eq!((bytes, runtime.allocations()), (back, 1));
        runtime.release(0, base);
    }
    assert_eq!(runtime.allocations(), 0);
}

#[test]
fn copies_beyond_an_allocation_are_rejected() {
    let runtime = Guarded::new("ends");
    let base = runtime.allocate(0, 64).unwrap();
    let bytes = [0u8; 65];
    for (offset, len) in [(0, 65), (1, 64), (64, 1)] {
        // SAFETY: the call is rejected before it uses anything.
        let refused = unsafe { runtime.copy_in(0, 0, DevicePtr { base, offset }, bytes.as_ptr(), len) };
        assert!(refused.is_err(), "{len} bytes at {offset}");
    }
}

#[test]
fn streams_do_not_wait_for_each_other_without_an_event() {
    let runtime: Arc<dyn DeviceRuntime> = Arc::new(Guarded::new("apart"));
    let mut early = 0;
    for turn in 0..200u8 {
        let x = DeviceBuffer::from_slice(&runtime, 0, &[turn; 1 << 16], CAP).unwrap();
        assert_eq!(x.to_vec::<u8>(CAP).unwrap(), [turn; 1 << 16]);
        let base = x_base(&x);
        let (stream, mut seen) = (runtime.create_stream(0).unwrap(), vec![0u8; 1 << 16]);
        let new = [turn.wrapping_add(1); 1 << 16];
        // SAFETY: all memory exists until both streams have finished.
        unsafe {
            runtime.copy_in(0, 0, base, new.as_ptr(), new.len()).unwrap();
            runtime.copy_out(0, stream, seen.as_mut_ptr(), base, seen.len()).unwrap();
            for stream in [0, stream] {
                runtime.synchronize(0, stream, Instant::now() + CAP).unwrap();
            }
            runtime.destroy_stream(0, stream);
        }
        early += usize::from(seen != new);
    }
    assert!(early > 0, "no copy ran early, so tests would not notice a missing event");
}

fn x_base(buffer: &DeviceBuffer) -> DevicePtr {
    use c10d_core::{Buf, Memory};
    let mut buffer = buffer;
    match buffer.span().memory() {
        Memory::Opaque { handle: base, offset, .. } => DevicePtr { base, offset },
        other => panic!("{other:?}"),
    }
}
