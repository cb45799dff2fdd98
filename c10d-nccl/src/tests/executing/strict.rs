//! What a device would answer with a wrong result or a hang is refused behind the traits, too.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Buf, DType, Memory};
use c10d_fake_nccl::Cpu;

use super::cuda::FakeCuda;
use super::nccl::FakeNccl;
use crate::cuda::CudaApi;
use crate::kernels::scaler;
use crate::nccl::{Comm, Config, DataType, NcclApi, NcclResult, RawCall, RedOp};

const SECOND: Duration = Duration::from_secs(1);

/// A communicator of one rank, on device 0.
fn alone(nccl: &dyn NcclApi) -> Comm {
    FakeCuda.enter(0).unwrap();
    let id = nccl.unique_id().unwrap();
    let (begun, comm) = nccl.init(1, &[id], 0, &Config::NONBLOCKING);
    assert_eq!(begun, NcclResult::IN_PROGRESS);
    let until = Instant::now() + 60 * SECOND;
    // SAFETY: alive.
    while unsafe { nccl.async_error(comm) } != Ok(NcclResult::SUCCESS) {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(1));
    }
    comm
}

#[test]
fn wrong_calls_are_refused() {
    let nccl = FakeNccl(Cpu::own());
    let comm = alone(&nccl);
    let memory = |device: u16| FakeCuda.allocate(device, 64).unwrap() as u64;
    let (here, there, own, other) = (memory(0), memory(1), FakeCuda.create_stream(0), FakeCuda.create_stream(0));
    let (own, other, foreign) = (own.unwrap(), other.unwrap(), FakeCuda.create_stream(1).unwrap());
    let call = |at: u64, stream: u64| RawCall { from: at, to: at, count: 16, dtype: DataType::F32, comm, stream };
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

#[test]
fn kernels_run() {
    let (cuda, factor) = (Arc::new(FakeCuda) as Arc<dyn DeviceRuntime>, 0.5f64);
    let x = DeviceBuffer::from_slice(&cuda, 0, &[3f32; 1000], SECOND).unwrap();
    let Memory::Cuda(at) = (&x).span().memory() else { panic!("CUDA's memory") };
    // SAFETY: what the kernel takes; the buffer stays.
    unsafe { FakeCuda.launch(0, 0, scaler(DType::F32).unwrap(), 1000, &[0, factor.to_bits(), at, 1000]) }.unwrap();
    assert_eq!(x.to_vec::<f32>(SECOND).unwrap(), [1.5; 1000]);
}
