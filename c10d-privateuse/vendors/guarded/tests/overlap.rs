//! Tests that copies run while the CPU backend transfers data. The CPU backend of these tests fails the op if the
//! copies do not run in time.
#![allow(unsafe_code)]

use crate::common;

use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use c10d_core::backend::{Backend, Capabilities, DeviceRegistration, Job, Provider, Registration};
use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime};
use c10d_core::{Buf, Builder, DType, DispatchKey, Error, ErrorKind, Memory, OpKind, ProcessGroup, ReduceOp, Result};
use c10d_guarded::{Guarded, What};
use common::CAP;

type Runtime = LazyLock<Arc<Guarded>>;

static EVEN: Runtime = LazyLock::new(|| Arc::new(Guarded::new("even")));
static UNEVEN: Runtime = LazyLock::new(|| Arc::new(Guarded::new("uneven")));
/// The number of rounds of each op.
const ROUNDS: usize = 8;
/// The number of elements in a round.
const EACH: usize = 256;

/// A backend for one rank. It ends a transfer only after the device has done the work that an overlapping pipeline does
/// during this transfer.
struct Holding {
    runtime: &'static Runtime,
    op: OpKind,
    /// The value of the fingerprint's field `step` in the first round.
    first: usize,
}

/// Waits until the log has the expected entry.
fn until(what: &str, reached: impl Fn() -> bool) -> Result {
    let end = Instant::now() + CAP;
    while !reached() {
        if Instant::now() > end {
            return Err(Error::new(ErrorKind::Timeout, format!("{what} did not overlap the transfer")));
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Returns how many of these copies were enqueued or, if `ran` is true, have run.
fn count(runtime: &Runtime, what: What, ran: bool) -> usize {
    runtime.log().iter().filter(|entry| entry.what == what && entry.ran == ran).count()
}

// SAFETY: the backend completes a job after the wait, which has a time limit. It does not use the memory afterwards.
unsafe impl Backend for Holding {
    fn name(&self) -> &'static str {
        "holding"
    }
    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }
    fn submit(&self, job: Job) {
        let request = job.request();
        let mut result = Ok(());
        if request.op == self.op {
            let round = usize::from(request.fingerprint.step) - self.first;
            let count = |what, ran| count(self.runtime, what, ran);
            if round + 1 < ROUNDS {
                result = until("the next round's copy to the host", || count(What::CopyOut, true) > round + 1);
            }
            if round == 1 {
                // Until `recover` below, no copy to the device runs. So the transfer of round 1 did not wait for the
                // copy of round 0.
                let given = until("the previous round's copy to the device", || count(What::CopyIn, false) == 1);
                assert_eq!(count(What::CopyIn, true), 0);
                result = result.and(given);
                self.runtime.recover();
            }
            for (from, to) in request.inputs().iter().zip(request.outputs()) {
                let (bytes, from, to) = (from.bytes(), from.host_ptr().unwrap(), to.host_ptr().unwrap());
                // SAFETY: in a group of one rank, an output is as long as its input, and both belong to the job.
                unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
            }
        }
        job.complete(result);
    }
    fn abort(&self, _: &Error) {}
}

static PROVIDER: Provider = Provider {
    source: "overlap",
    devices: &[
        DeviceRegistration { name: "even", key: DispatchKey::PrivateUse1, open: &|| Ok(EVEN.clone()) },
        DeviceRegistration { name: "uneven", key: DispatchKey::PrivateUse1, open: &|| Ok(UNEVEN.clone()) },
    ],
    backends: &[
        Registration {
            name: "holding",
            keys: &[DispatchKey::Cpu],
            priority: 1,
            probe: &|| Ok(()),
            create: &|_| Ok(Arc::new(Holding { runtime: &EVEN, op: OpKind::AllReduce, first: 0 })),
        },
        Registration {
            name: "holding-lists",
            keys: &[DispatchKey::Cpu],
            priority: 2,
            probe: &|| Ok(()),
            create: &|_| Ok(Arc::new(Holding { runtime: &UNEVEN, op: OpKind::AllGather, first: 1 })),
        },
    ],
    ..Provider::EMPTY
};

/// Runs `body` on a group of one rank and a device that delays its copies, and checks the copies.
fn copies_overlap(runtime: &Runtime, map: &str, body: impl FnOnce(&ProcessGroup, DeviceBuffer) -> DeviceBuffer) {
    let chunk = (EACH * 4).to_string();
    let builder = Builder::new().providers(&[&PROVIDER]).backend(map).hint("staged.chunk", &chunk);
    let pg = builder.timeout(3 * CAP).build().unwrap();
    let mine: Vec<f32> = (0..ROUNDS * EACH).map(|i| i as f32).collect();
    let device: Arc<dyn DeviceRuntime> = (**runtime).clone();
    let x = DeviceBuffer::from_slice(&device, 0, &mine, CAP).unwrap();
    runtime.start_log();
    runtime.hold(0, What::CopyIn);
    let done = body(&pg, x);
    assert_eq!((count(runtime, What::CopyOut, true), count(runtime, What::CopyIn, true)), (ROUNDS, ROUNDS));
    assert_eq!(done.to_vec::<f32>(CAP).unwrap(), mine);
}

#[test]
fn copies_go_on_while_the_cpu_transfers() {
    copies_overlap(&EVEN, "even:holding", |pg, mut x| {
        pg.all_reduce(&mut x, ReduceOp::Sum).unwrap();
        x
    });
}

#[test]
fn copies_of_lists_of_any_lengths_overlap_too() {
    copies_overlap(&UNEVEN, "uneven:holding-lists", |pg, x| {
        let device: Arc<dyn DeviceRuntime> = UNEVEN.clone();
        let mut y = DeviceBuffer::new(&device, 0, DType::F32, ROUNDS * EACH).unwrap();
        pg.all_gather(&x, vec![&mut y]).unwrap();
        y
    });
}

#[test]
fn an_op_begins_after_the_earlier_work_of_its_stream() {
    let (runtime, builder) = staged!("ordered");
    let pg = builder.build().unwrap();
    let device: Arc<dyn DeviceRuntime> = runtime;
    let mut x = DeviceBuffer::from_slice(&device, 0, &[0u32; 64], CAP).unwrap();
    let mut y = DeviceBuffer::from_slice(&device, 0, &[0u32; 64], CAP).unwrap();
    let Memory::Opaque { handle: base, .. } = x.span().memory() else { panic!("a vendor's memory") };
    for turn in 0..20u32 {
        let values: Vec<[u32; 64]> = (0..20).map(|i| [turn * 100 + i; 64]).collect();
        for value in &values {
            // SAFETY: both places have this number of bytes, and exist until the op below has ended. The op runs after
            // this work.
            unsafe { device.copy_in(0, 0, DevicePtr { base, offset: 0 }, value.as_ptr().cast(), 256) }.unwrap();
        }
        pg.all_gather_into(&x, &mut y).unwrap();
        assert_eq!(y.to_vec::<u32>(CAP).unwrap(), [turn * 100 + 19; 64]);
    }
}
