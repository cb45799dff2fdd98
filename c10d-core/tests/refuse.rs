//! Tests that invalid calls are rejected before a backend gets them.
#![allow(unsafe_code)]

use crate::common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use c10d_core::backend::{Capabilities, Params, Shape};
use c10d_core::{
    DType, DTypeSet, Device, DispatchKey, Error, ErrorKind, HashStore, OpKind, Outcome, Phase, ProcessGroup, RawSpans,
    ReduceOp, Result, Root, Span, Status, op,
};
use common::{builder, puppet};

const N: usize = 3;
const ME: usize = 1;

/// Returns the group of rank 1 of 3. Its backend counts jobs and completes them at once.
fn group_of_three(reached: Arc<AtomicUsize>) -> ProcessGroup {
    let b = builder(move |_| {
        let reached = reached.clone();
        puppet(move |job| {
            reached.fetch_add(1, Ordering::SeqCst);
            job.complete(Ok(()));
        })
    });
    let b = b.size(N as u32).store(Arc::new(HashStore::new()));
    std::thread::scope(|s| {
        let threads: Vec<_> =
            (0..N as u32).map(|r| (b.clone().rank(r), s)).map(|(b, s)| s.spawn(move || b.build().unwrap())).collect();
        threads.into_iter().map(|t| t.join().unwrap()).nth(ME).unwrap()
    })
}

/// A group whose backend must get no invalid call, and memory for the tensors.
struct Refusals {
    pg: ProcessGroup,
    reached: Arc<AtomicUsize>,
    memory: Vec<f64>,
}

impl Refusals {
    fn new() -> Refusals {
        let reached = Arc::default();
        Refusals { pg: group_of_three(Arc::clone(&reached)), reached, memory: vec![0.0; 1 << 12] }
    }

    /// Returns a span that begins `place` times 32 elements after the start of the memory.
    fn span(&mut self, place: usize, count: usize) -> Span {
        Span::host(self.memory[place * 32..][..count].as_mut_ptr(), count)
    }

    fn submit(&self, op: OpKind, params: Params, spans: RawSpans) -> Result<Outcome> {
        // SAFETY: the memory outlives the work, which the backend completes at once; no other code uses it until then.
        unsafe { self.pg.submit_raw(op, params, None, spans) }.wait().map_err(Error::from)
    }

    /// Returns whether the backend got a job since the last call of this function.
    fn reached(&self) -> bool {
        self.reached.swap(0, Ordering::SeqCst) > 0
    }

    #[track_caller]
    fn refuses<T>(&self, result: Result<T>, words: &str) {
        let Err(e) = result else { panic!("was accepted, expected {words:?}") };
        let report = e.report();
        assert_eq!((e.kind(), e.status()), (&ErrorKind::InvalidArgument, Status::Rejected), "{e}");
        assert!(e.to_string().contains(words), "{e} lacks {words:?}");
        assert_eq!((report.rank, report.phase, report.seq), (Some(ME as u32), Some(Phase::Validate), None), "{e}");
        assert!(report.op.is_some() && report.group.is_some(), "{e}");
        assert!(!self.reached() && self.pg.failure().is_none());
    }
}

/// Returns lengths of an input and an output that are valid for this op: only the number of tensors can be invalid.
fn counts(op: OpKind) -> (usize, usize) {
    match op.row().shape {
        Shape::GatherFlat | Shape::GatherFlats => (2, 2 * N),
        Shape::ScatterFlat | Shape::ScatterFlats => (2 * N, 2),
        Shape::ExchangeFlat => (2 * N, 2 * N),
        _ => (2, 2),
    }
}

/// Returns whether these numbers of inputs and outputs are valid for the op. If the outputs are a list of lists, `row`
/// is the length of each inner list. Written independently of the implementation.
fn accepted(op: OpKind, root: bool, ins: usize, outs: usize, row: usize) -> bool {
    use OpKind::*;
    match op {
        Send => (ins, outs) == (1, 0),
        Recv | RecvAnySource | Broadcast | AllReduce | Reduce => (ins, outs) == (0, 1),
        AllReduceCoalesced => ins == 0 && outs >= 1,
        AllGather => (ins, outs) == (1, N),
        AllGatherInto | ReduceScatterInto | AllToAllSingle => (ins, outs) == (1, 1),
        AllGatherCoalesced => ins >= 1 && outs == ins * N && row == N,
        AllGatherIntoCoalesced | ReduceScatterIntoCoalesced => ins >= 1 && outs == ins,
        ReduceScatter => (ins, outs) == (N, 1),
        Gather => ins == 1 && outs == if root { N } else { 0 },
        Scatter => outs == 1 && ins == if root { N } else { 0 },
        AllToAll => (ins, outs) == (N, N),
        Barrier | MonitoredBarrier => (ins, outs) == (0, 0),
    }
}

#[test]
fn lists_of_wrong_lengths_are_rejected() {
    let mut all = Refusals::new();
    let mut accepted_once = [false; OpKind::ALL.len()];
    for &op in OpKind::ALL {
        let (in_count, out_count) = counts(op);
        for (ins, outs, root, row) in (0..=N + 1)
            .flat_map(|i| (0..=2 * N + 1).map(move |o| (i, o)))
            .flat_map(|(i, o)| [(i, o, true), (i, o, false)])
            .flat_map(|(i, o, root)| [0, 2, N].map(|row| (i, o, root, row)))
        {
            let mut params = Params::default();
            params.root = if root { ME as u32 } else { 0 };
            let spans = RawSpans {
                inputs: (0..ins).map(|i| all.span(i, in_count)).collect(),
                outputs: (0..outs).map(|o| all.span(16 + o, out_count)).collect(),
                output_row: row,
            };
            let result = all.submit(op, params, spans);
            if accepted(op, root, ins, outs, row) {
                result.unwrap_or_else(|e| panic!("{op} with {ins} inputs, {outs} outputs: {e}"));
                assert!(all.reached());
                accepted_once[op as usize] = true;
            } else {
                all.refuses(result, "list");
            }
        }
    }
    assert_eq!(accepted_once, [true; OpKind::ALL.len()], "an op was never accepted");
}

#[test]
fn invalid_roots_and_peers_are_rejected() {
    let all = Refusals::new();
    let pg = &all.pg;
    let (x, y) = (&mut [0f32; 2], &mut [0f32; 2]);
    all.refuses(pg.broadcast(&mut *x, 3), "root 3");
    all.refuses(pg.reduce(&mut *x, ReduceOp::Sum, 7), "root 7");
    all.refuses(pg.gather(&*x, Root::at(3)), "root 3");
    all.refuses(pg.scatter(Root::at(u32::MAX - 1), &mut *x), "root 4294967294");
    all.refuses(pg.gather(&*x, Root::at(ME as u32)), "output list must have 3");
    all.refuses(pg.scatter(Root::at(ME as u32), &mut *x), "input list must have 3");
    all.refuses(pg.gather(&*x, Root::Me(vec![&mut *y])), "output list must have 3");
    all.refuses(pg.send(&*x, 3, 0), "peer 3");
    all.refuses(pg.send(&*x, ME as u32, 0), "this rank itself");
    all.refuses(pg.recv(&mut *x, ME as u32, 0), "this rank itself");
    let options = c10d_core::options::BroadcastOptions::default().with_root_tensor(1);
    all.refuses(pg.broadcast(&mut *x, options), "root_tensor is 1");
    let options = c10d_core::options::ReduceOptions::new(ReduceOp::Sum).with_root_tensor(2);
    all.refuses(pg.reduce(&mut *x, options, 0), "root_tensor is 2");
}

#[test]
fn invalid_sizes_and_splits_are_rejected() {
    let all = Refusals::new();
    let pg = &all.pg;
    let v = |n: usize| vec![0f32; n];
    all.refuses(pg.all_gather_into(v(2), v(5)), "3 times the 2");
    all.refuses(pg.all_gather_into(v(2), v(2)), "3 times the 2");
    all.refuses(pg.reduce_scatter_into(v(5), v(2), ReduceOp::Sum), "3 times the 2");
    all.refuses(pg.all_gather_into_coalesced(vec![v(2), v(1)], vec![v(6), v(4)]), "output 1");
    all.refuses(pg.reduce_scatter_into_coalesced(vec![v(3), v(2)], vec![v(1), v(1)], ReduceOp::Sum), "input 1");
    all.refuses(pg.all_gather(v(2), vec![v(2), v(3), v(2)]), "must be equal");
    all.refuses(pg.reduce_scatter(vec![v(2), v(3), v(2)], v(2), ReduceOp::Sum), "must be equal");
    all.refuses(pg.gather(v(2), Root::Me(vec![v(2), v(1), v(2)])), "must be equal");
    all.refuses(pg.scatter(Root::Me(vec![v(2), v(1), v(2)]), v(2)), "must be equal");
    all.refuses(pg.all_to_all(vec![v(1), v(2), v(3)], vec![v(1), v(1), v(1)]), "must be equal");
    all.refuses(pg.all_gather_coalesced(vec![v(1)], vec![vec![v(1), v(2), v(1)]]), "must be equal");
    all.refuses(pg.all_gather_coalesced(vec![v(1); 2], vec![vec![v(1); 3], vec![v(1); 2]]), "list 1 has 2");
    // This rank's own entry of the output list must be as long as the tensor that the rank sends to itself. The entries
    // for other ranks may have any length.
    pg.all_gather(v(2), vec![v(9), v(2), v(0)]).unwrap();
    pg.all_to_all(vec![v(1), v(2), v(3)], vec![v(0), v(2), v(7)]).unwrap();
    assert!(all.reached());
    let single = |input: usize, output: usize, ins: &[usize], outs: &[usize]| {
        Ok(pg.run(op::all_to_all_single(v(input), v(output)).splits(ins, outs))?)
    };
    all.refuses(single(4, 3, &[], &[]), "is not a multiple of the number of ranks");
    all.refuses(single(3, 4, &[1, 1, 1], &[]), "is not a multiple of the number of ranks");
    all.refuses(single(3, 3, &[1, 2], &[]), "must be 3 input splits");
    all.refuses(single(3, 3, &[], &[1, 1, 1, 0]), "must be 3 output splits");
    all.refuses(single(3, 3, &[1, 1, 2], &[]), "sum to 4");
    all.refuses(single(3, 3, &[1, usize::MAX, 3], &[]), "more than any memory");
    all.refuses(single(3, 4, &[1, 1, 1], &[1, 2, 1]), "disagree at 1");
    all.refuses(pg.run(op::all_gather_into(v(1), v(3)).splits(&[1], &[1])).map_err(Error::from), "has no split sizes");
    single(4, 6, &[0, 1, 3], &[5, 1, 0]).unwrap();
    assert!(all.reached());
}

#[test]
fn invalid_types_devices_and_addresses_are_rejected() {
    let mut all = Refusals::new();
    let (a, b) = (all.span(0, 2), all.span(1, 6));
    let wrong = |span: Span, dtype, device| Span::new(span.host_ptr().unwrap().cast(), 0, 6, dtype, device);
    let raw = |input, output| RawSpans { inputs: vec![input], outputs: vec![output], output_row: 0 };
    let gather = |spans| all.submit(OpKind::AllGatherInto, Params::default(), spans);
    all.refuses(gather(raw(a, wrong(b, DType::I64, Device::CPU))), "f64 and i64");
    all.refuses(gather(raw(a, wrong(b, DType::F64, Device::cuda(0)))), "cpu and cuda:0");
    all.refuses(gather(raw(a, Span::new(std::ptr::null_mut(), 0, 6, DType::F64, Device::CPU))), "null");
    let odd = Span::new(b.host_ptr().unwrap().cast(), 4, 6, DType::F64, Device::CPU);
    all.refuses(gather(raw(a, odd)), "not aligned");
    let vast = |count| Span::new(b.host_ptr().unwrap().cast(), 0, count, DType::F64, Device::CPU);
    all.refuses(gather(raw(vast(1 << 61), vast(3 << 61))), "larger than any memory");
    all.refuses(gather(raw(vast(u64::MAX), vast(u64::MAX))), "3 times");
    // An empty span needs no address.
    let none = Span::new(std::ptr::null_mut(), 0, 0, DType::F64, Device::CPU);
    gather(raw(none, none)).unwrap();
    assert!(all.reached());
}

#[test]
fn undefined_reduce_operations_are_rejected() {
    let all = Refusals::new();
    let mut memory = [0u128; 4];
    for &dtype in DType::ALL {
        for code in 0..ReduceOp::COUNT as u8 {
            let reduce = ReduceOp::from_code(code, 0.5).unwrap();
            let mut params = Params::default();
            params.reduce = reduce;
            let outputs = vec![Span::new(memory.as_mut_ptr().cast(), 0, 4, dtype, Device::CPU)];
            let spans = RawSpans { outputs, ..RawSpans::default() };
            for op in [OpKind::AllReduce, OpKind::Reduce, OpKind::AllReduceCoalesced] {
                let result = all.submit(op, params.clone(), spans.clone());
                if reduce.is_defined_on(dtype) {
                    result.unwrap();
                    assert!(all.reached());
                } else {
                    all.refuses(result, "is not defined on");
                }
            }
            // Ops that do not reduce ignore the reduce operation.
            all.submit(OpKind::Broadcast, params, spans).unwrap();
            assert!(all.reached());
        }
    }
}

#[test]
fn overlapping_tensors_are_rejected_except_in_place() {
    let mut all = Refusals::new();
    let whole = all.span(0, 6);
    let part = |from: usize, count: usize| {
        Span::new(whole.host_ptr().unwrap().cast(), from as u64 * 8, count as u64, DType::F64, Device::CPU)
    };
    let far = |all: &mut Refusals, i: usize, count| all.span(8 + i, count);
    let mut root = Params::default();
    root.root = ME as u32;
    let run = |all: &Refusals, op, inputs: Vec<Span>, outputs: Vec<Span>, row| {
        all.submit(op, root.clone(), RawSpans { inputs, outputs, output_row: row })
    };
    let own = ME * 2;
    // For these ops, the small buffer may be this rank's block of the large buffer.
    for (op, wrong) in [(OpKind::AllGatherInto, false), (OpKind::ReduceScatterInto, true)] {
        let sides = |p| if wrong { (vec![whole], vec![p]) } else { (vec![p], vec![whole]) };
        for at in 0..5 {
            let (inputs, outputs) = sides(part(at, 2));
            let result = run(&all, op, inputs, outputs, 0);
            if at == own {
                result.unwrap();
                assert!(all.reached());
            } else {
                all.refuses(result, "in-place");
            }
        }
    }
    // For these ops, the single tensor may be this rank's tensor in the list.
    let list: Vec<Span> = (0..3).map(|i| part(i * 2, 2)).collect();
    for i in 0..3 {
        for op in [OpKind::AllGather, OpKind::Gather, OpKind::ReduceScatter, OpKind::Scatter] {
            let gathers = matches!(op, OpKind::AllGather | OpKind::Gather);
            let (inputs, outputs) = if gathers { (vec![list[i]], list.clone()) } else { (list.clone(), vec![list[i]]) };
            let result = run(&all, op, inputs, outputs, 0);
            if i == ME {
                result.unwrap();
                assert!(all.reached());
            } else {
                all.refuses(result, "in-place");
            }
        }
    }
    let rows: Vec<Span> = (0..6).map(|i| far(&mut all, i, 2)).collect();
    run(&all, OpKind::AllGatherCoalesced, vec![rows[ME], rows[N + ME]], rows.clone(), N).unwrap();
    assert!(all.reached());
    let crossed = run(&all, OpKind::AllGatherCoalesced, vec![rows[N + ME], rows[ME]], rows.clone(), N);
    all.refuses(crossed, "in-place");
    // These ops have no in-place layout.
    all.refuses(run(&all, OpKind::AllToAllSingle, vec![whole], vec![whole], 0), "in-place");
    all.refuses(run(&all, OpKind::AllToAll, list.clone(), list.clone(), 0), "in-place");
    // The outputs overlap each other.
    all.refuses(run(&all, OpKind::AllReduceCoalesced, vec![], vec![list[0], list[2], list[0]], 0), "outputs 0 and 2");
    all.refuses(run(&all, OpKind::AllReduceCoalesced, vec![], vec![whole, part(5, 1)], 0), "outputs 0 and 1");
    run(&all, OpKind::AllReduceCoalesced, vec![], vec![part(3, 3), part(0, 3), part(2, 0)], 0).unwrap();
    // Inputs may share memory.
    let out = far(&mut all, 9, 2);
    run(&all, OpKind::ReduceScatter, vec![list[0]; 3], vec![out], 0).unwrap();
    assert!(all.reached());
    // Each handle of a device is separate memory.
    let handle = |h: usize, offset| Span::new(h as *mut (), offset, 4, DType::U8, Device::private(0, 0));
    run(&all, OpKind::AllReduceCoalesced, vec![], vec![handle(64, 0), handle(128, 0), handle(64, 4)], 0).unwrap();
    all.reached();
    let twice = run(&all, OpKind::AllReduceCoalesced, vec![], vec![handle(64, 0), handle(128, 0), handle(64, 3)], 0);
    all.refuses(twice, "outputs 0 and 2");
}

/// Core checks quickly that ten thousand tensors do not overlap.
#[test]
fn long_lists_are_compared_quickly() {
    let pg = common::group(puppet(|job| job.complete(Ok(()))));
    let mut buffers = vec![[0f32; 4]; 10_000];
    common::within(std::time::Duration::from_secs(5), || {
        pg.all_reduce_coalesced(buffers.iter_mut().collect(), ReduceOp::Sum).map(drop).unwrap();
    });
}

/// A valid call that the backend does not offer gets `Unsupported` instead of `InvalidArgument`.
#[test]
fn calls_that_the_backend_does_not_offer_are_unsupported() {
    let mut limited = Capabilities::ALL;
    limited.ops = limited.ops.without(&[OpKind::AllToAll, OpKind::Barrier]);
    limited.moves = DTypeSet::of(&[DType::F32]);
    limited.reduces[ReduceOp::Max.code() as usize] = DTypeSet::NONE;
    let pg = common::group(puppet(|job| job.complete(Ok(()))).offering(limited));
    let unsupported = |result: Result, words: &str| {
        let e = result.unwrap_err();
        assert_eq!((e.kind(), e.status()), (&ErrorKind::Unsupported, Status::Rejected));
        assert!(e.to_string().contains(words) && e.report().backend == "puppet", "{e}");
    };
    unsupported(pg.barrier(), "barrier on CPU");
    unsupported(pg.all_to_all(vec![vec![0f32]], vec![vec![0f32]]).map(drop), "all_to_all");
    unsupported(pg.broadcast(&mut [0u8], 0).map(drop), "broadcast of u8");
    unsupported(pg.all_reduce(&mut [0f32], ReduceOp::Max).map(drop), "all_reduce of f32 with max");
    pg.all_reduce(&mut [0u8], ReduceOp::Sum).unwrap();
    pg.monitored_barrier(c10d_core::options::Missing::All).unwrap();
    let e = pg.backend(DispatchKey::SparseCpu).unwrap_err();
    assert!(e.to_string().contains("declared without a kernel"), "{e}");
}
