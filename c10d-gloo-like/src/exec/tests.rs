//! Runs plans over real links. The ranks are threads that are connected by shared memory or TCP.

mod multicast;
mod speed;

use std::cell::OnceCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use c10d_core::backend::{Fingerprint, Reports};
use c10d_core::process::token;
use c10d_core::shm::{Window, admit};
use c10d_core::{DType, ErrorKind, HashStore, OpKind, ReduceOp, Result};

use super::announce::Header;
use super::{Call, Executor, Op, Reduction, Spaces};
use crate::mesh::{Mesh, Transport, Wiring};
use crate::pause::Pause;
use crate::plan::Plan;
use crate::schedule::{Algorithm, Blocks, Hosts, Member, direct};
use crate::shm::{Doorbell, Lend, PAST_CACHE};

const TRANSPORTS: [Transport; 2] = [Transport::Shm, Transport::Tcp];
/// The time limit of waits, which only a hang reaches.
const PATIENCE: Duration = Duration::from_secs(30);

struct Rank {
    /// First field: peers get the goodbye before their links break.
    mesh: Mesh,
    me: Member,
    executor: Executor,
    spaces: Spaces,
    plan: Plan,
    seq: u32,
    timeout: Duration,
}

/// Runs `body` on every rank of a world. Returns the ranks' results.
fn ranks<T: Send>(world: u32, transport: Transport, body: impl Fn(&mut Rank) -> T + Sync) -> Vec<T> {
    ranks_with(world, transport, true, body)
}

/// Like [`ranks`]. With `oversubscribed`, the ranks do not spin.
fn ranks_with<T: Send>(
    world: u32,
    transport: Transport,
    oversubscribed: bool,
    body: impl Fn(&mut Rank) -> T + Sync,
) -> Vec<T> {
    static WORLDS: AtomicU64 = AtomicU64::new(0);
    let session = u128::from(WORLDS.fetch_add(1, Ordering::Relaxed)).to_le_bytes();
    let store = Arc::new(HashStore::new());
    let (store, body) = (&store, &body);
    thread::scope(|scope| {
        let threads: Vec<_> = (0..world)
            .map(|rank| {
                scope.spawn(move || {
                    let wiring = Wiring {
                        group: "test".into(),
                        rank,
                        size: world,
                        session,
                        store: store.clone(),
                        reports: Arc::new(Reports::new(store.clone(), rank, world)),
                        transport,
                        tuning: Default::default(),
                        deadline: Instant::now() + PATIENCE,
                        cma: true,
                        silence: PATIENCE,
                        lost: Box::new(Vec::new),
                        warn_after: None,
                    };
                    let mut mesh = Mesh::connect(wiring).unwrap();
                    let bell = mesh.segment.clone().map(Doorbell::new);
                    let links = std::mem::take(&mut mesh.collective);
                    let executor = Executor::new(rank, links, mesh.health.clone(), Pause::new(oversubscribed, bell));
                    let me = Member { world, rank };
                    let (spaces, plan) = (Spaces::new(), Plan::default());
                    body(&mut Rank { mesh, me, executor, spaces, plan, seq: 0, timeout: PATIENCE })
                })
            })
            .collect();
        threads.into_iter().map(|t| t.join().unwrap()).collect()
    })
}

impl Rank {
    /// Makes and runs the plan of one op on these tensors of `u32`.
    fn run(
        &mut self,
        op: OpKind,
        count: u64,
        input: &[u32],
        output: &mut [&mut [u32]],
        fill: impl FnOnce(Member, &mut Plan),
    ) -> Result {
        self.run_rooted(op, 0, count, input, output, fill)
    }

    fn run_rooted(
        &mut self,
        op: OpKind,
        root: u32,
        count: u64,
        input: &[u32],
        output: &mut [&mut [u32]],
        fill: impl FnOnce(Member, &mut Plan),
    ) -> Result {
        let fingerprint = Fingerprint {
            seq: self.seq,
            op: op as u8,
            dtype: DType::U32 as u8,
            reduce: if op.reduces() { 0 } else { Fingerprint::NO_REDUCE },
            step: 0,
            count,
            root,
            rest: 0,
        };
        self.seq += 1;
        self.plan.clear();
        fill(self.me, &mut self.plan);
        self.spaces.clear();
        // SAFETY: the slices outlive the run, and nothing uses the spaces after it without clearing them.
        #[allow(unsafe_code)]
        unsafe {
            self.spaces.add_input(input.as_ptr().cast(), size_of_val(input));
            for o in output.iter_mut() {
                self.spaces.add_output(o.as_mut_ptr().cast(), size_of_val(&**o));
            }
        }
        let (timeout, deadline) = (self.timeout, OnceCell::new());
        let call = Call { fingerprint, op, root };
        let op = Op {
            plan: &self.plan,
            fingerprint,
            uneven: op.is_uneven(),
            elem: 4,
            reduction: op.reduces().then(|| Reduction::new(ReduceOp::Sum, DType::U32, self.me.world)).flatten(),
            deadline: &|| *deadline.get_or_init(|| Instant::now() + timeout),
        };
        self.executor.call(&call, |executor| executor.run(&op, &mut self.spaces, 0))
    }

    fn all_reduce(&mut self, how: Algorithm, data: &mut [u32]) -> Result {
        let bytes = size_of_val(data);
        self.run(OpKind::AllReduce, data.len() as u64, &[], &mut [data], |me, plan| {
            how.all_reduce(me, &Hosts::new(&[0, 0, 1, 1, 1, 2, 3, 3][..me.world as usize]), bytes, 4, plan)
        })
    }
}

/// Returns a number for element `i` of rank `rank`.
fn value(rank: u32, i: usize) -> u32 {
    (rank + 1).wrapping_mul(0x9e37_79b9) ^ (i as u32).wrapping_mul(0x85eb_ca6b)
}

fn on_one_host(me: Member) -> Hosts {
    Hosts::new(&vec![0; me.world as usize])
}

fn vector(rank: u32, len: usize) -> Vec<u32> {
    (0..len).map(|i| value(rank, i)).collect()
}

fn bytes_of(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_ne_bytes()).collect()
}

fn summed(world: u32, len: usize) -> Vec<u32> {
    (0..len).map(|i| (0..world).fold(0, |s: u32, r| s.wrapping_add(value(r, i)))).collect()
}

#[test]
fn a_root_learns_from_notes_that_the_others_make_its_calls() {
    for (world, root) in [(2, 0), (2, 1), (3, 0), (4, 2)] {
        let agreed = ranks(world, Transport::Tcp, |rank| {
            for _ in 0..20 {
                let mut data = [7; 5];
                let fill = |me, plan: &mut Plan| direct::broadcast(me, root, 20, plan);
                rank.run_rooted(OpKind::Broadcast, root, 5, &[], &mut [&mut data], fill).unwrap();
            }
            // On each link, the notes precede the header of the barrier, so this rank has all notes when the barrier
            // has ended.
            rank.run(OpKind::Barrier, 0, &[], &mut [], direct::barrier).unwrap();
            rank.executor.notes.as_mut().unwrap().agreed().to_vec()
        });
        for (rank, agreed) in (0..world).zip(agreed) {
            let wanted = (0..world).map(|peer| if rank == root && peer != root { 20 } else { 0 });
            assert_eq!(agreed, wanted.collect::<Vec<_>>(), "rank {rank} of {world}, root {root}");
        }
    }
}

#[test]
fn every_all_reduce_algorithm_is_correct_and_sends_the_planned_bytes() {
    use Algorithm::*;
    for transport in TRANSPORTS {
        for world in [1, 2, 3, 4, 5] {
            ranks(world, transport, |rank| {
                for how in [OneShot, Direct, Ring, HalvingDoubling, Recursive, Tree, DoubleTree, Hierarchical, TwoLevel]
                {
                    for len in [0, 1, 7, 1000, 300_001] {
                        let mut data = vector(rank.me.rank, len);
                        let before = rank.executor.sent();
                        rank.all_reduce(how, &mut data).unwrap();
                        assert!(data == summed(world, len), "{how:?} {len}");
                        let planned: usize = rank
                            .plan
                            .steps
                            .iter()
                            .map(|s| match s.action {
                                crate::plan::Action::Send { from, .. } => from.len,
                                _ => 0,
                            })
                            .sum();
                        assert_eq!(rank.executor.sent() - before, planned as u64);
                    }
                }
            });
        }
    }
}

#[test]
fn several_tensors_are_reduced_as_one_vector() {
    for transport in TRANSPORTS {
        ranks(3, transport, |rank| {
            let cuts = [0, 5, 5, 6, 1003, 40_000];
            let mut data = vector(rank.me.rank, 40_000);
            let mut rest = &mut data[..];
            let mut pieces = Vec::new();
            for cut in cuts.windows(2) {
                let (piece, tail) = rest.split_at_mut(cut[1] - cut[0]);
                pieces.push(piece);
                rest = tail;
            }
            let fill = |me, plan: &mut Plan| direct::all_reduce(me, 160_000, 4, plan);
            rank.run(OpKind::AllReduceCoalesced, 40_000, &[], &mut pieces, fill).unwrap();
            assert!(data == summed(3, 40_000));
        });
    }
}

#[test]
fn large_copies_that_bypass_the_cache_are_correct() {
    // The input has `len` elements of 4 bytes, and the output twice as many: 12 · `len` bytes, and 24 · `len` bytes on
    // two ranks, a little more than `PAST_CACHE`. The blocks do not begin at cache lines.
    let len = PAST_CACHE / 2 / 3 / 4 + 5;
    for transport in TRANSPORTS {
        ranks(2, transport, |rank| {
            let mut all = vec![0; 2 * len + 1];
            let fill = |me, plan: &mut Plan| direct::all_gather(me, Blocks::uniform(2, 4 * len), plan);
            let input = vector(rank.me.rank, len);
            rank.run(OpKind::AllGatherInto, len as u64, &input, &mut [&mut all[1..]], fill).unwrap();
            assert!(all[0] == 0 && all[1..=len] == vector(0, len) && all[len + 1..] == vector(1, len));
        });
    }
}

#[test]
fn large_blocks_are_copied_once() {
    let len = 100_003;
    for world in [2, 3] {
        ranks(world, Transport::Shm, |rank| {
            // A rank lends private memory to a peer only after the peer has made its links. After a broadcast from each
            // rank, all links are made.
            rank.run(OpKind::Broadcast, 0, &[], &mut [&mut []], |me, plan| direct::broadcast(me, 0, 0, plan)).unwrap();
            rank.run(OpKind::Broadcast, 0, &[], &mut [&mut []], |me, plan| direct::broadcast(me, 1, 0, plan)).unwrap();
            rank.run(OpKind::Broadcast, 0, &[], &mut [&mut []], |me, plan| direct::broadcast(me, 2 % world, 0, plan))
                .unwrap();
            let all = vector(rank.me.rank, world as usize * len);
            let mut got = vec![0; all.len()];
            let fill = |me, plan: &mut Plan| {
                let blocks = Blocks::uniform(world, 4 * len);
                direct::all_to_all(me, blocks, blocks, plan);
            };
            rank.run(OpKind::AllToAllSingle, all.len() as u64, &all, &mut [&mut got], fill).unwrap();
            let (me, segment) = (rank.me.rank as usize, rank.mesh.segment.clone().unwrap());
            for peer in 0..world as usize {
                assert_eq!(got[peer * len..][..len], vector(peer as u32, world as usize * len)[me * len..][..len]);
                assert!(!segment.has(&bytes_of(&all[(peer + 1) * len - 16..][..16])), "the block went through a ring");
            }
            // The root of a broadcast has no other work while a peer would copy lent bytes, so it writes the bytes into
            // its ring.
            let mut whole = vector(rank.me.rank + 7, len);
            rank.run(OpKind::Broadcast, len as u64, &[], &mut [&mut whole], |me, plan| {
                direct::broadcast(me, 0, 4 * len, plan);
            })
            .unwrap();
            assert_eq!(segment.has(&bytes_of(&whole[len - 16..])), rank.me.rank == 0);
        });
    }
}

/// A rank may lend its caller's memory when it panics. The caller may free the memory as soon as the panic reaches it.
#[test]
fn memory_that_a_panicked_call_lent_is_not_used_any_more() {
    let (len, panicked, over) = (100_003, Barrier::new(2), Barrier::new(2));
    let results = ranks(2, Transport::Shm, |rank| {
        // Ranks lend private memory only when both have made their links.
        for root in [0, 1] {
            let fill = |me, plan: &mut Plan| direct::broadcast(me, root, 0, plan);
            rank.run(OpKind::Broadcast, 0, &[], &mut [&mut []], fill).unwrap();
        }
        let fill = |me, plan: &mut Plan| direct::scatter(me, 0, 4 * len, Blocks::uniform(2, 4 * len), plan);
        let mut own = vec![0; len];
        if rank.me.rank == 1 {
            panicked.wait();
            let result = rank.run(OpKind::Scatter, len as u64, &[], &mut [&mut own], fill);
            over.wait();
            return Some(result.map(|()| own == vector(0, 2 * len)[len..]));
        }
        let mut input = vector(0, 2 * len);
        // No instant is that late. So this rank panics when it computes the deadline, while it waits for rank 1.
        rank.timeout = Duration::MAX;
        let call = || rank.run(OpKind::Scatter, len as u64, &input, &mut [&mut own], fill);
        assert!(catch_unwind(AssertUnwindSafe(call)).is_err());
        input.fill(0);
        panicked.wait();
        over.wait();
        None
    });
    let error = results[1].clone().unwrap().expect_err("whether the bytes are right");
    assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Internal, &[0][..]), "{error}");
}

#[test]
fn buffers_of_the_group_are_not_lent_while_a_step_waits_to_overwrite_them() {
    ranks(2, Transport::Shm, |rank| {
        let len = 1 << 16;
        let mut window = Window::new(4 * len).unwrap();
        admit(window.fd().try_clone_to_owned().unwrap(), |_| Some(4 * len as u64)).unwrap();
        window.open_to(vec![token().unwrap()]);
        // SAFETY: every bit pattern is a valid `u32`.
        #[allow(unsafe_code)]
        let (_, data, _) = unsafe { window.align_to_mut::<u32>() };
        data.copy_from_slice(&vector(rank.me.rank, len));
        rank.all_reduce(Algorithm::OneShot, data).unwrap();
        assert_eq!(*data, summed(2, len));
    });
}

#[test]
fn a_sender_notices_that_its_reader_has_left() {
    let errors = ranks(2, Transport::Shm, |rank| {
        if rank.me.rank == 1 {
            // Rank 0 probably waits by then. Otherwise it learns of the death when its call begins.
            thread::sleep(Duration::from_millis(200));
            return None;
        }
        let input = vector(0, 200_000);
        let mut own = vec![0; 100_000];
        let begin = Instant::now();
        let fill = |me, plan: &mut Plan| direct::scatter(me, 0, 400_000, Blocks::uniform(2, 400_000), plan);
        let error = rank.run(OpKind::Scatter, 100_000, &input, &mut [&mut own], fill).unwrap_err();
        Some((error, begin.elapsed()))
    });
    let (error, took) = errors[0].as_ref().unwrap();
    assert!(error.report().guilty == [1] && *took < PATIENCE / 2, "{error:?} after {took:?}");
}

#[test]
fn plans_that_forward_or_receive_nothing_do_not_bypass_the_cache() {
    let only_stores = |fill: &dyn Fn(&mut Plan)| {
        let mut plan = Plan::default();
        fill(&mut plan);
        plan.only_stores_received()
    };
    let me = Member { world: 3, rank: 1 };
    assert!(only_stores(&|plan| direct::broadcast(me, 0, 300, plan)));
    assert!(only_stores(&|plan| direct::all_gather(me, Blocks::uniform(3, 100), plan)));
    assert!(!only_stores(&|plan| direct::broadcast(me, 1, 300, plan)), "the root receives nothing");
    assert!(!only_stores(&|plan| Algorithm::ScatterGather.broadcast(me, 0, 300, 1, plan)));
    assert!(only_stores(&|plan| direct::all_reduce(me, 300, 4, plan)), "the sent sums are not received");
    assert!(!only_stores(&|plan| direct::reduce_scatter(me, Blocks::uniform(3, 100), plan)));
}

#[test]
fn many_small_ops_of_all_kinds_run_in_a_row() {
    for transport in TRANSPORTS {
        for world in [2, 4] {
            ranks(world, transport, |rank| {
                let me = rank.me.rank;
                for round in 0..100 {
                    let root = round % world;
                    rank.run(OpKind::Barrier, 0, &[], &mut [], direct::barrier).unwrap();

                    let mut data = vector(me, 3);
                    rank.all_reduce(Algorithm::OneShot, &mut data).unwrap();
                    assert_eq!(data, summed(world, 3));

                    let mut data = vector(me, 5);
                    let fill = |me, p: &mut Plan| Algorithm::Tree.broadcast(me, root, 20, 4, p);
                    rank.run(OpKind::Broadcast, 5, &[], &mut [&mut data], fill).unwrap();
                    assert_eq!(data, vector(root, 5));

                    let mut all = vec![0; 2 * world as usize];
                    let blocks = Blocks::uniform(world, 8);
                    let fill = |me, p: &mut Plan| Algorithm::Bruck.all_gather(me, &on_one_host(me), blocks, p);
                    rank.run(OpKind::AllGatherInto, 2, &vector(me, 2), &mut [&mut all], fill).unwrap();
                    assert_eq!(all, (0..world).flat_map(|r| vector(r, 2)).collect::<Vec<_>>());

                    let mut mine = [0; 1];
                    let fill = |me, p: &mut Plan| Algorithm::Tree.reduce(me, root, 4, 4, p);
                    let mut output: Vec<&mut [u32]> = if me == root { vec![&mut mine] } else { vec![] };
                    rank.run(OpKind::Reduce, 1, &vector(me, 1), &mut output, fill).unwrap();
                    assert!(me != root || mine[..] == summed(world, 1));

                    let mut part = [0; 1];
                    let input = vector(me, world as usize);
                    let blocks = Blocks::uniform(world, 4);
                    let fill = |me, p: &mut Plan| Algorithm::Ring.reduce_scatter(me, &on_one_host(me), blocks, p);
                    rank.run(OpKind::ReduceScatterInto, 1, &input, &mut [&mut part], fill).unwrap();
                    assert_eq!(part[0], summed(world, world as usize)[me as usize]);

                    // Rank r sends p elements to rank p.
                    let starts: Vec<usize> = (0..=world as usize).map(|p| p * p.saturating_sub(1) / 2 * 4).collect();
                    let input = vector(me, starts[world as usize] / 4);
                    let mut output = vec![0; (me * world) as usize];
                    let there = Blocks::uniform(world, me as usize * 4);
                    let fill = |me, p: &mut Plan| direct::all_to_all(me, Blocks::Listed(&starts), there, p);
                    rank.run(OpKind::AllToAllSingle, 0, &input, &mut [&mut output], fill).unwrap();
                    let from = |r: u32| (0..me as usize).map(move |i| (r, i));
                    let first = starts[me as usize] / 4;
                    let expected = (0..world).flat_map(from).map(|(r, i)| value(r, first + i));
                    assert_eq!(output, expected.collect::<Vec<_>>());
                }
            });
        }
    }
}

/// Returns the field of the mismatch and the ranks that the error names.
fn mismatch(result: Result) -> (&'static str, Vec<u32>) {
    let error = result.unwrap_err();
    match error.kind() {
        ErrorKind::Mismatch { field, .. } => (field, error.report().guilty.clone()),
        _ => panic!("{error}"),
    }
}

#[test]
fn a_different_count_is_named_by_both_ranks() {
    for transport in TRANSPORTS {
        let found = ranks(2, transport, |rank| {
            let mut data = vector(0, if rank.me.rank == 0 { 4 } else { 50_000 });
            mismatch(rank.all_reduce(Algorithm::Direct, &mut data))
        });
        assert_eq!(found, [("count", vec![1]), ("count", vec![0])]);
    }
}

#[test]
fn different_splits_are_named() {
    for transport in TRANSPORTS {
        let found = ranks(2, transport, |rank| {
            // Rank 1 expects more than rank 0 sends to it.
            let theirs = if rank.me.rank == 1 { [12, 8] } else { [8, 8] };
            let starts = [0, theirs[0], theirs[0] + theirs[1]];
            let mut output = vec![0; starts[2] / 4];
            let blocks = Blocks::Listed(&starts);
            let fill = |me, p: &mut Plan| direct::all_to_all(me, Blocks::uniform(2, 8), blocks, p);
            let first = rank.run(OpKind::AllToAllSingle, 0, &vector(0, 4), &mut [&mut output], fill);
            // If the op ends before a rank can detect the mismatch, the next op fails.
            first.and_then(|()| rank.all_reduce(Algorithm::OneShot, &mut [1]))
        });
        let [zero, one] = &found[..] else { panic!() };
        let error = one.as_ref().unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Mismatch { field: "splits", .. }), "{error}");
        assert!(zero.is_err());
    }
}

#[test]
fn a_different_op_is_named_by_all_ranks() {
    for transport in TRANSPORTS {
        let found = ranks(3, transport, |rank| {
            let mut data = vector(0, 4);
            match rank.me.rank {
                // This rank sends nothing to rank 1, and continues with the next op.
                2 => {
                    let fill = |me, p: &mut Plan| Algorithm::Direct.reduce(me, 0, 16, 4, p);
                    let first = rank.run(OpKind::Reduce, 4, &data, &mut [], fill);
                    mismatch(first.and_then(|()| rank.all_reduce(Algorithm::OneShot, &mut data)))
                }
                _ => mismatch(rank.all_reduce(Algorithm::OneShot, &mut data)),
            }
        });
        assert_eq!(found[..2], [("op", vec![2]), ("op", vec![2])]);
        assert_eq!(found[2].0, "op");
    }
}

#[test]
fn ranks_that_wait_for_each_other_in_a_circle_get_a_mismatch() {
    for transport in TRANSPORTS {
        let found = ranks(3, transport, |rank| {
            let mut data = vector(0, 4);
            // Each rank waits for the next in a broadcast of its own.
            let root = (rank.me.rank + 1) % 3;
            let fill = |me, p: &mut Plan| direct::broadcast(me, root, 16, p);
            rank.run(OpKind::Broadcast, u64::from(root), &[], &mut [&mut data], fill)
        });
        for result in found {
            assert_eq!(mismatch(result).0, "count");
        }
    }
}

#[test]
fn an_absent_rank_is_named_at_the_deadline() {
    for transport in TRANSPORTS {
        let found = ranks(3, transport, |rank| {
            rank.timeout = Duration::from_millis(200);
            if rank.me.rank == 1 {
                // This rank is absent until the group has failed.
                let until = Instant::now() + PATIENCE;
                while !rank.mesh.health.failed() && Instant::now() < until {
                    thread::sleep(Duration::from_millis(5));
                }
                return None;
            }
            rank.all_reduce(Algorithm::OneShot, &mut [1]).err()
        });
        for error in [&found[0], &found[2]] {
            let error = error.as_ref().unwrap();
            assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Timeout, &[1][..]), "{error}");
        }
    }
}

#[test]
fn a_rank_that_left_is_named_but_what_it_sent_counts() {
    for transport in TRANSPORTS {
        let found = ranks(2, transport, |rank| {
            let mut data = vector(rank.me.rank, 6);
            let fill = |me, p: &mut Plan| direct::broadcast(me, 1, 24, p);
            if rank.me.rank == 0 {
                let until = Instant::now() + PATIENCE;
                while !rank.mesh.health.is_leaving(1) {
                    assert!(Instant::now() < until, "rank 1 does not leave");
                    thread::yield_now();
                }
            }
            rank.run(OpKind::Broadcast, 6, &[], &mut [&mut data], fill).unwrap();
            assert_eq!(data, vector(1, 6));
            (rank.me.rank == 0).then(|| rank.all_reduce(Algorithm::OneShot, &mut [1]).unwrap_err())
        });
        let error = found[0].as_ref().unwrap();
        assert!(matches!(error.kind(), ErrorKind::PeerDead { .. }) && error.report().guilty == [1], "{error}");
    }
}

#[test]
fn a_peer_that_sends_slowly_does_not_extend_the_deadline() {
    const COUNT: u64 = 3000;
    for transport in TRANSPORTS {
        let found = ranks(2, transport, |rank| {
            let mut data = vec![0; COUNT as usize];
            let fill = |me, p: &mut Plan| direct::broadcast(me, 1, 4 * COUNT as usize, p);
            if rank.me.rank == 0 {
                rank.timeout = Duration::from_millis(200);
                return rank.run(OpKind::Broadcast, COUNT, &[], &mut [&mut data], fill).err();
            }
            let fingerprint = Fingerprint {
                op: OpKind::Broadcast as u8,
                dtype: DType::U32 as u8,
                reduce: Fingerprint::NO_REDUCE,
                count: COUNT,
                ..Fingerprint::default()
            };
            let header = Header { fingerprint, total: 4 * COUNT }.to_bytes();
            let link = rank.executor.links[0].as_mut().unwrap();
            for byte in header.into_iter().chain((0..4 * COUNT).map(|_| 1)) {
                // SAFETY: the length of the body is 0, so the pointer is not used.
                #[allow(unsafe_code)]
                let written = unsafe { link.write(&[byte], std::ptr::null(), 0, Lend::Nothing) };
                if written.is_err() || rank.mesh.health.failed() {
                    break;
                }
                thread::sleep(Duration::from_millis(1));
            }
            None
        });
        let error = found[0].as_ref().expect("the op must end at its deadline");
        assert_eq!((error.kind(), &error.report().guilty[..]), (&ErrorKind::Timeout, &[1][..]), "{error}");
    }
}
