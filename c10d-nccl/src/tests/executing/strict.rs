//! What a device would answer with a wrong result or a hang is refused behind the traits, too.
#![allow(unsafe_code)]

use std::ffi::c_void;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime};
use c10d_core::{Buf, DType, Memory};
use c10d_fake_nccl::Cpu;
use c10d_fake_nccl::cuda::{SUCCESS, cuLaunchHostFunc, cuMemHostAlloc};

use super::cuda::FakeCuda;
use super::nccl::FakeNccl;
use crate::cuda::CudaApi;
use crate::kernels::scaler;
use crate::nccl::{Call, Comm, Config, DataType, NcclApi, NcclResult, RedOp};

const SECOND: Duration = Duration::from_secs(1);

/// A communicator of so many ranks, all on device 0.
fn met(nccl: &dyn NcclApi, size: i32) -> Vec<Comm> {
    FakeCuda.enter(0).unwrap();
    let ids = [nccl.unique_id().unwrap()];
    let comms: Vec<_> = (0..size).map(|rank| nccl.init(size, &ids, rank, &Config::NONBLOCKING)).collect();
    assert!(comms.iter().all(|(begun, _)| *begun == NcclResult::IN_PROGRESS));
    let comms: Vec<Comm> = comms.into_iter().map(|(_, comm)| comm).collect();
    let until = Instant::now() + 60 * SECOND;
    // SAFETY: alive.
    while comms.iter().any(|comm| unsafe { nccl.async_error(*comm) } != Ok(NcclResult::SUCCESS)) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    comms
}

#[test]
fn wrong_calls_are_refused() {
    let nccl = FakeNccl(Cpu::own());
    let comm = met(&nccl, 1)[0];
    let memory = |device: u16| FakeCuda.allocate(device, 64).unwrap() as u64;
    let (here, there, own, other) = (memory(0), memory(1), FakeCuda.create_stream(0), FakeCuda.create_stream(0));
    let (own, other, foreign) = (own.unwrap(), other.unwrap(), FakeCuda.create_stream(1).unwrap());
    let call = |at: u64, stream: u64| Call { from: at, to: at, count: 16, dtype: DataType::F32, comm, stream };
    // SAFETY: all stays until the end of the process, here and below.
    let sum = |at: u64, stream: u64| unsafe { nccl.all_reduce(call(at, stream), RedOp::SUM) };
    let refused = |result: NcclResult, why: &str| {
        assert_ne!(result, NcclResult::SUCCESS, "{why}");
        let words = nccl.last_error(comm);
        assert!(words.contains(why), "{words}");
    };
    // SAFETY: as above.
    refused(unsafe { nccl.send(call(here, own), 0) }, "a message outside of a group");
    refused(sum(here, foreign), "a stream that is not of the communicator's device");
    refused(sum(there, own), "memory of device 1 on a stream of device 0");
    assert_eq!(sum(here, own), NcclResult::SUCCESS);
    refused(sum(here, other), "a race");
    let mark = FakeCuda.create_event(0).unwrap();
    // SAFETY: all are device 0's.
    unsafe {
        FakeCuda.record(0, mark, own).unwrap();
        FakeCuda.wait(0, other, mark).unwrap();
    }
    assert_eq!(sum(here, other), NcclResult::SUCCESS, "in order");
}

/// A mark that one stream reaches when another has reached its later record.
#[test]
fn an_event_is_that_of_its_last_record() {
    let nccl = FakeNccl(Cpu::own());
    let comms = met(&nccl, 2);
    let at = FakeCuda.allocate(0, 64).unwrap() as u64;
    let stream = || FakeCuda.create_stream(0).unwrap();
    let (held, free, sending) = (stream(), stream(), stream());
    let soon = || Instant::now() + 60 * SECOND;
    let message = |rank: usize, stream: u64| {
        let place = at + 32 * rank as u64;
        let call = Call { from: place, to: place, count: 8, dtype: DataType::F32, comm: comms[rank], stream };
        nccl.group_start();
        // SAFETY: all stays until the end of the process, here and below.
        let said = if rank == 0 { unsafe { nccl.recv(call, 1) } } else { unsafe { nccl.send(call, 0) } };
        assert_eq!((said, nccl.group_end()), (NcclResult::SUCCESS, NcclResult::SUCCESS));
    };
    message(0, held);
    let mark = FakeCuda.create_event(0).unwrap();
    // SAFETY: all are device 0's.
    unsafe {
        FakeCuda.record(0, mark, held).unwrap();
        assert!(!FakeCuda.query(0, mark).unwrap(), "nothing was sent");
        FakeCuda.record(0, mark, free).unwrap();
        FakeCuda.synchronize(0, free, soon()).unwrap();
        assert!(FakeCuda.query(0, mark).unwrap());
        message(1, sending);
        FakeCuda.synchronize(0, held, soon()).unwrap();
        assert!(FakeCuda.query(0, mark).unwrap(), "the earlier record takes nothing back");
    }
}

unsafe extern "C" fn wait(opened: *mut c_void) {
    // SAFETY: what the test gives it, once.
    let opened: Box<Receiver<()>> = unsafe { Box::from_raw(opened.cast()) };
    let _ = opened.recv();
}

/// Copies of page-locked memory are all late; before one of pageable memory the driver may wait for the stream.
#[test]
fn a_copy_of_pageable_memory_waits() {
    const HELD: Duration = Duration::from_millis(100);
    FakeCuda.enter(0).unwrap();
    let (stream, base) = (FakeCuda.create_stream(0).unwrap(), FakeCuda.allocate(0, 8).unwrap() as u64);
    let ((open, opened), (tell, told)) = (channel(), channel());
    let (mut locked, opened) = (0u64, Box::into_raw(Box::new(opened)));
    // SAFETY: the function's own data; writes its answer.
    let done = unsafe { (cuLaunchHostFunc(stream, wait, opened.cast()), cuMemHostAlloc(&mut locked, 8, 0)) };
    assert_eq!(done, (SUCCESS, SUCCESS));
    let write = move |value: u64| {
        // SAFETY: eight bytes of ours, which the device does not read before the stream goes on.
        unsafe { (locked as *mut u64).write_volatile(value) }
    };
    write(1);
    std::thread::spawn(move || {
        let (place, back) = (DevicePtr { base: base as *mut (), offset: 0 }, Box::leak(Box::new(0u64)));
        // SAFETY: all stays until the end of the process.
        unsafe { FakeCuda.copy_in(0, stream, place, locked as *const u8, 8) }.unwrap();
        tell.send(0).unwrap();
        // SAFETY: as above.
        unsafe { FakeCuda.copy_out(0, stream, (&raw mut *back).cast(), place, 8) }.unwrap();
        tell.send(0).unwrap();
        // SAFETY: as above.
        unsafe { FakeCuda.synchronize(0, stream, Instant::now() + 60 * SECOND) }.unwrap();
        tell.send(*back).unwrap();
    });
    told.recv_timeout(60 * SECOND).expect("the stream is not waited for");
    assert!(told.recv_timeout(HELD).is_err(), "the stream is waited for");
    write(2);
    open.send(()).unwrap();
    told.recv_timeout(60 * SECOND).expect("the stream goes on");
    assert_eq!(told.recv_timeout(60 * SECOND), Ok(2), "copied late");
}

#[test]
fn kernels_run() {
    let (cuda, factor) = (Arc::new(FakeCuda) as Arc<dyn DeviceRuntime>, 0.5f64);
    let x = DeviceBuffer::from_slice(&cuda, 0, &[3f32; 1000], SECOND).unwrap();
    let Memory::Cuda(at) = (&x).span().memory() else { panic!("CUDA's memory") };
    // SAFETY: what the kernel takes; the buffer stays.
    unsafe { FakeCuda.launch(0, 0, scaler(DType::F32).unwrap(), 1000, &[0, factor.to_bits(), at, 1000]) }.unwrap();
    assert_eq!(x.to_vec::<f32>(SECOND).unwrap(), [1.5; 1000]);
}
