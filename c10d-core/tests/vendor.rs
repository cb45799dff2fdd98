//! Tests a vendor's crate, whose backend serves every dense dispatch key and records its jobs. For each op and key, the
//! record must equal the arguments of the call.
#![allow(unsafe_code)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use c10d_core::backend::{Backend, Caller, Capabilities, Job, Provider, Registration};
use c10d_core::device::vendor;
use c10d_core::options::{
    AllReduceCoalescedOptions, AllReduceOptions, BarrierOptions, BroadcastOptions, Missing, MonitoredBarrierOptions,
    RecvOptions, ReduceOptions, ReduceScatterOptions, SendOptions,
};
use c10d_core::{
    Buf, BufMut, Buffers, Builder, Call, DType, Device, DispatchKey, Error, HashStore, Memory, OpKind, Outcome,
    ProcessGroup, ReduceOp, Result, Root, Span, op,
};

/// The record of one job.
#[derive(Clone, Debug, PartialEq)]
struct Seen {
    op: OpKind,
    key: DispatchKey,
    caller: Caller,
    timeout: Duration,
    dtype: Option<DType>,
    inputs: Vec<Span>,
    outputs: Vec<Span>,
    row: usize,
    reduce: ReduceOp,
    root: u32,
    peer: u32,
    tag: u32,
    wait_all_ranks: bool,
    splits: (Vec<usize>, Vec<usize>),
    device_ids: Vec<u16>,
    sparse_indices: Option<Vec<i64>>,
}

/// The records of all jobs, each with its group and rank.
static SEEN: Mutex<Vec<(Arc<str>, u32, Seen)>> = Mutex::new(Vec::new());

struct Recorder {
    group: Arc<str>,
    rank: u32,
    size: u32,
}

// SAFETY: it completes jobs at once and uses no memory.
unsafe impl Backend for Recorder {
    fn name(&self) -> &'static str {
        "recorder"
    }
    fn capabilities(&self) -> &Capabilities {
        &Capabilities::ALL
    }
    fn submit(&self, job: Job) {
        let r = job.request();
        let p = &r.params;
        let seen = Seen {
            op: r.op,
            key: r.key,
            caller: r.caller,
            timeout: r.timeout,
            dtype: r.dtype(),
            inputs: r.inputs().to_vec(),
            outputs: r.outputs().to_vec(),
            row: r.output_row(),
            reduce: p.reduce,
            root: p.root,
            peer: p.peer,
            tag: p.tag,
            wait_all_ranks: p.wait_all_ranks,
            splits: (p.input_splits().to_vec(), p.output_splits().to_vec()),
            device_ids: p.device_ids().to_vec(),
            sparse_indices: p.sparse_indices().map(|i| i.to_vec()),
        };
        SEEN.lock().unwrap().push((self.group.clone(), self.rank, seen));
        job.complete_with(Ok(Outcome { source: (self.rank + 1) % self.size, payload: None }));
    }
    fn abort(&self, _: &Error) {}
}

static PROVIDER: Provider = Provider {
    source: "vendor-recorder",
    backends: &[Registration {
        name: "recorder",
        keys: &[DispatchKey::Cpu, DispatchKey::Cuda, DispatchKey::PrivateUse1],
        priority: 1,
        probe: &|| Ok(()),
        create: &|init| Ok(Arc::new(Recorder { group: init.group.clone(), rank: init.rank, size: init.size })),
    }],
    ..Provider::EMPTY
};
c10d_core::submit!(PROVIDER);

/// A vendor's tensor. Unless its device is the CPU, its span has a handle instead of an address.
struct Tensor {
    object: Box<[u64]>,
    device: Device,
    count: u64,
}

// SAFETY: the memory of the box does not move until the drop. It has 8 bytes per element, enough for all types used
// here.
unsafe impl Buf for Tensor {
    fn span(&mut self) -> Span {
        let offset = if self.device == Device::CPU { 0 } else { 16 };
        Span::new(self.object.as_mut_ptr().cast(), offset, self.count, DType::F64, self.device)
    }
}
// SAFETY: the box is the only owner of the memory.
unsafe impl BufMut for Tensor {}

/// A call and its expected record.
struct Case<'a> {
    pg: &'a ProcessGroup,
    device: Device,
    form: Caller,
    want: Seen,
}

impl Case<'_> {
    fn tensor(&self, count: usize) -> (Tensor, Span) {
        let mut t = Tensor { object: vec![0; count.max(1)].into(), device: self.device, count: count as u64 };
        let span = t.span();
        (t, span)
    }

    fn input(&mut self, count: usize) -> Tensor {
        let (tensor, span) = self.tensor(count);
        self.want.inputs.push(span);
        tensor
    }

    fn output(&mut self, count: usize) -> Tensor {
        let (tensor, span) = self.tensor(count);
        self.want.outputs.push(span);
        tensor
    }

    fn inputs(&mut self, counts: &[usize]) -> Vec<Tensor> {
        counts.iter().map(|n| self.input(*n)).collect()
    }

    fn outputs(&mut self, counts: &[usize]) -> Vec<Tensor> {
        counts.iter().map(|n| self.output(*n)).collect()
    }

    fn go<B: Buffers + 'static>(&self, call: Call<B>) -> Result<B::Back> {
        match self.form {
            Caller::Waits => Ok(self.pg.run(call)?),
            Caller::Continues => Ok(self.pg.start(call).wait()?),
        }
    }

    /// Calls the op with options that all differ from their defaults.
    fn issue(&mut self) -> Result {
        let (n, me) = (self.pg.size() as usize, self.pg.rank());
        let (timeout, other) = (self.want.timeout, (me + 1) % n as u32);
        let premul = ReduceOp::PreMulSum(0.25);
        let uneven: Vec<usize> = (0..n).map(|r| r + 1).collect();
        let own = me as usize + 1;
        let op = self.want.op;
        if op.reduces() {
            self.want.reduce = premul;
        }
        if op.is_rooted() {
            self.want.root = n as u32 - 1;
        }
        let root = self.want.root;
        let at_root = me == root;
        match op {
            OpKind::Send => {
                (self.want.peer, self.want.tag) = (other, 7);
                let x = self.input(3);
                self.go(op::send(x, other, SendOptions::default().with_tag(7)).timeout(timeout)).map(drop)
            }
            OpKind::Recv => {
                (self.want.peer, self.want.tag) = (other, 8);
                let x = self.output(3);
                self.go(op::recv(x, other, RecvOptions::default().with_tag(8)).timeout(timeout)).map(drop)
            }
            OpKind::RecvAnySource => {
                self.want.tag = 9;
                let x = self.output(3);
                let (_, from) = self.go(op::recv_any_source(x, RecvOptions::from(9)).timeout(timeout))?;
                assert_eq!(from, other, "the sender that the backend returned");
                Ok(())
            }
            OpKind::Broadcast => {
                let x = self.output(4);
                let options = BroadcastOptions::from(root).with_root_tensor(0);
                self.go(op::broadcast(x, options).timeout(timeout)).map(drop)
            }
            OpKind::AllReduce => {
                let indices: Arc<[i64]> = [3, 1, 4].into();
                self.want.sparse_indices = Some(indices.to_vec());
                let x = self.output(4);
                let options = AllReduceOptions::new(premul).with_sparse_indices(Some(indices));
                self.go(op::all_reduce(x, options).timeout(timeout)).map(drop)
            }
            OpKind::AllReduceCoalesced => {
                let x = self.outputs(&[4, 0, 5]);
                let options = AllReduceCoalescedOptions::new(premul);
                self.go(op::all_reduce_coalesced(x, options).timeout(timeout)).map(drop)
            }
            OpKind::Reduce => {
                let x = self.output(4);
                self.go(op::reduce(x, ReduceOptions::new(premul), root).timeout(timeout)).map(drop)
            }
            OpKind::AllGather => {
                let (x, y) = (self.input(own), self.outputs(&uneven));
                self.go(op::all_gather(x, y).timeout(timeout)).map(drop)
            }
            OpKind::AllGatherInto => {
                let (x, y) = (self.input(2), self.output(2 * n));
                self.go(op::all_gather_into(x, y).timeout(timeout)).map(drop)
            }
            OpKind::AllGatherCoalesced => {
                self.want.row = n;
                let x = self.inputs(&[own, own]);
                let y = vec![self.outputs(&uneven), self.outputs(&uneven)];
                self.go(op::all_gather_coalesced(x, y).timeout(timeout)).map(drop)
            }
            OpKind::AllGatherIntoCoalesced => {
                let (x, y) = (self.inputs(&[1, 2]), self.outputs(&[n, 2 * n]));
                self.go(op::all_gather_into_coalesced(x, y).timeout(timeout)).map(drop)
            }
            OpKind::ReduceScatter => {
                let (x, y) = (self.inputs(&uneven), self.output(own));
                self.go(op::reduce_scatter(x, y, ReduceScatterOptions::new(premul)).timeout(timeout)).map(drop)
            }
            OpKind::ReduceScatterInto => {
                let (x, y) = (self.input(2 * n), self.output(2));
                let options = ReduceScatterOptions::new(premul);
                self.go(op::reduce_scatter_into(x, y, options).timeout(timeout)).map(drop)
            }
            OpKind::ReduceScatterIntoCoalesced => {
                let (x, y) = (self.inputs(&[n, 2 * n]), self.outputs(&[1, 2]));
                let options = ReduceScatterOptions::new(premul);
                self.go(op::reduce_scatter_into_coalesced(x, y, options).timeout(timeout)).map(drop)
            }
            OpKind::Gather => {
                let x = self.input(own);
                let root = if at_root { Root::Me(self.outputs(&uneven)) } else { Root::At(root) };
                let (_, outputs) = self.go(op::gather(x, root).timeout(timeout))?;
                assert_eq!(outputs.is_some(), at_root);
                Ok(())
            }
            OpKind::Scatter => {
                let root = if at_root { Root::Me(self.inputs(&uneven)) } else { Root::At(root) };
                let y = self.output(own);
                self.go(op::scatter(root, y).timeout(timeout)).map(drop)
            }
            OpKind::AllToAll => {
                let (x, y) = (self.inputs(&uneven), self.outputs(&vec![own; n]));
                self.go(op::all_to_all(x, y).timeout(timeout)).map(drop)
            }
            OpKind::AllToAllSingle => {
                let (sum, outs) = (uneven.iter().sum(), vec![own; n]);
                self.want.splits = (uneven.clone(), outs.clone());
                let (x, y) = (self.input(sum), self.output(own * n));
                self.go(op::all_to_all_single(x, y).splits(&uneven, &outs).timeout(timeout)).map(drop)
            }
            OpKind::Barrier => {
                if self.device != Device::CPU {
                    self.want.device_ids = vec![1, 0];
                }
                let ids = self.want.device_ids.clone();
                self.go(op::barrier(BarrierOptions::default().with_device_ids(ids)).timeout(timeout))
            }
            OpKind::MonitoredBarrier => {
                self.want.wait_all_ranks = true;
                let options = MonitoredBarrierOptions::from(Missing::All);
                self.go(op::monitored_barrier(options).timeout(timeout))
            }
        }
    }
}

/// Calls the op once, and checks that the backend got one job, with the caller's arguments.
fn check_row(pg: &ProcessGroup, device: Device, op: OpKind, form: Caller) {
    let want = Seen {
        op,
        key: device.key(),
        caller: form,
        timeout: Duration::from_secs(100 + op as u64),
        dtype: (!matches!(op, OpKind::Barrier | OpKind::MonitoredBarrier)).then_some(DType::F64),
        inputs: Vec::new(),
        outputs: Vec::new(),
        row: 0,
        reduce: ReduceOp::Sum,
        root: 0,
        peer: 0,
        tag: 0,
        wait_all_ranks: false,
        splits: Default::default(),
        device_ids: Vec::new(),
        sparse_indices: None,
    };
    let mut case = Case { pg, device, form, want };
    case.issue().unwrap_or_else(|e| panic!("{op} on {device}: {e}"));
    let mut seen = SEEN.lock().unwrap();
    let mut mine = seen.extract_if(.., |(group, rank, _)| **group == *pg.name() && *rank == pg.rank());
    let first = mine.next().unwrap_or_else(|| panic!("{op} on {device} did not reach the backend")).2;
    assert_eq!(first, case.want, "rank {}", pg.rank());
    assert!(mine.next().is_none(), "{op} on {device} reached the backend twice");
}

#[test]
fn every_registered_row_gets_the_callers_arguments() {
    let devices = [Device::CPU, Device::cuda(2), Device::private(vendor("recorder"), 1)];
    let mut rows = 0;
    for device in devices {
        let ops: Vec<OpKind> = OpKind::ALL.iter().copied().filter(|op| op.row().keys.contains(device.key())).collect();
        rows += ops.len();
        for size in [1, 3] {
            let store = Arc::new(HashStore::new());
            std::thread::scope(|s| {
                for rank in 0..size {
                    let (store, ops) = (store.clone(), &ops);
                    s.spawn(move || {
                        let b = Builder::new().name(&format!("{device} of {size}")).device(device);
                        let pg = b.rank(rank).size(size).store(store).backend("recorder").build().unwrap();
                        for &op in ops.iter().filter(|op| size > 1 || !op.is_p2p()) {
                            check_row(&pg, device, op, Caller::Waits);
                            check_row(&pg, device, op, Caller::Continues);
                        }
                    });
                }
            });
        }
    }
    assert_eq!(rows, 58, "a dense row was left out");
}

#[test]
fn a_device_handle_is_never_a_host_address() {
    for (device, is_host) in
        [(Device::CPU, true), (Device::cuda(0), false), (Device::private(vendor("recorder"), 0), false)]
    {
        let span = Tensor { object: vec![0; 4].into(), device, count: 4 }.span();
        assert_eq!(span.host_ptr().is_some(), is_host);
        assert_eq!(matches!(span.memory(), Memory::Host(_)), is_host);
        if device.kind() == c10d_core::DeviceKind::PrivateUse1 {
            assert!(matches!(span.memory(), Memory::Opaque { vendor, offset: 16, .. } if vendor == device.vendor()));
        }
    }
}

/// A barrier uses an accelerator if its options name devices, else the bound device, else the CPU.
#[test]
fn a_barrier_uses_named_devices_else_the_bound_device_else_the_cpu() {
    let key = |device: Option<Device>, ids: &[u16], name: &str| {
        let b = Builder::new().name(name);
        let pg = device.into_iter().fold(b, |b, d| b.device(d)).build().unwrap();
        pg.run(op::barrier(BarrierOptions::default().with_device_ids(ids.to_vec()))).unwrap();
        let seen = SEEN.lock().unwrap();
        seen.iter().rev().find(|(group, ..)| **group == *name).unwrap().2.key
    };
    assert_eq!(key(None, &[], "a"), DispatchKey::Cpu);
    assert_eq!(key(None, &[0], "b"), DispatchKey::Cuda);
    assert_eq!(key(Some(Device::private(0, 0)), &[], "c"), DispatchKey::PrivateUse1);
    assert_eq!(key(Some(Device::private(0, 0)), &[1], "d"), DispatchKey::PrivateUse1);
    assert_eq!(key(Some(Device::CPU), &[1], "e"), DispatchKey::Cuda);
    assert_eq!(key(Some(Device::cuda(1)), &[], "f"), DispatchKey::Cuda);
}
