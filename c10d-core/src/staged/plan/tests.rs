//! Runs plans on vectors, with a simple op instead of the CPU backend.

use super::*;

/// The device tensors of a rank. Each element is a unique number.
type Tensors = Vec<Vec<u64>>;

struct World {
    op: OpKind,
    root: usize,
    /// The numbers from which `shapes` computes the lengths of the tensors on each rank.
    counts: Vec<usize>,
    /// The size of an element in bytes.
    size: usize,
}

/// The value of elements that no copy has written.
const UNTOUCHED: u64 = u64::MAX;

impl World {
    /// Returns the lengths of the inputs and outputs (for `ExchangeFlat`, of the blocks) of a rank in a world of `n`
    /// ranks. Where the op allows it, a length depends on sender and receiver.
    fn shapes(&self, rank: usize, n: usize) -> (Vec<usize>, Vec<usize>) {
        let one = self.counts.clone();
        let all: Vec<usize> = one.iter().map(|c| c * n).collect();
        let of = |c: usize, from: usize, to: usize| c * (from % 3) + to;
        let from_each = |to: usize| (0..n).map(|from| of(one[0], from, to)).collect::<Vec<usize>>();
        let to_each = |from: usize| (0..n).map(|to| of(one[0], from, to)).collect::<Vec<usize>>();
        let (root, is_root) = (self.root, rank == self.root);
        match self.op.row().shape {
            Shape::Source => (vec![one[0]], vec![]),
            Shape::Target => (vec![], vec![one[0]]),
            Shape::InPlace => (vec![], vec![one[0]]),
            Shape::InPlaceList => (vec![], one),
            Shape::GatherList => (vec![of(one[0], rank, 1)], (0..n).map(|from| of(one[0], from, 1)).collect()),
            Shape::GatherFlat => (vec![one[0]], vec![all[0]]),
            Shape::GatherLists => {
                let lists = one.iter().flat_map(|c| (0..n).map(|from| of(*c, from, 1))).collect();
                (one.iter().map(|c| of(*c, rank, 1)).collect(), lists)
            }
            Shape::GatherFlats => (one, all),
            Shape::ScatterList => ((0..n).map(|to| of(one[0], 1, to)).collect(), vec![of(one[0], 1, rank)]),
            Shape::ScatterFlat => (vec![all[0]], vec![one[0]]),
            Shape::ScatterFlats => (all, one),
            Shape::RootGather => (vec![of(one[0], rank, root)], if is_root { from_each(root) } else { vec![] }),
            Shape::RootScatter => (if is_root { to_each(root) } else { vec![] }, vec![of(one[0], root, rank)]),
            Shape::ExchangeList | Shape::ExchangeFlat => (to_each(rank), from_each(rank)),
            Shape::Nothing => (vec![], vec![]),
        }
    }
}

/// Computes the outputs of all ranks by the definition of the op, for one round or for the whole tensors.
fn naive(op: OpKind, root: usize, inputs: &[Tensors], outputs: &mut [Tensors]) {
    let n = outputs.len().max(inputs.len());
    let sum = |parts: Vec<Vec<u64>>| {
        let mut acc = vec![0u64; parts[0].len()];
        parts.iter().for_each(|p| acc.iter_mut().zip(p).for_each(|(a, b)| *a = a.wrapping_add(*b)));
        acc
    };
    let block = |tensor: &[u64], r: usize| {
        let len = tensor.len() / n;
        tensor[r * len..(r + 1) * len].to_vec()
    };
    match op.row().shape {
        Shape::InPlace if op == OpKind::Broadcast => {
            let from = outputs[root].clone();
            outputs.iter_mut().for_each(|o| o.clone_from(&from));
        }
        Shape::InPlace | Shape::InPlaceList => {
            for t in 0..outputs[0].len() {
                let all = sum(outputs.iter().map(|o| o[t].clone()).collect());
                for (r, output) in outputs.iter_mut().enumerate() {
                    if op != OpKind::Reduce || r == root {
                        output[t].clone_from(&all);
                    }
                }
            }
        }
        Shape::GatherFlat | Shape::GatherFlats => {
            for output in outputs.iter_mut() {
                for (t, o) in output.iter_mut().enumerate() {
                    *o = inputs.iter().flat_map(|i| i[t].clone()).collect();
                }
            }
        }
        Shape::ScatterFlat | Shape::ScatterFlats => {
            for (r, output) in outputs.iter_mut().enumerate() {
                for (t, o) in output.iter_mut().enumerate() {
                    *o = sum(inputs.iter().map(|i| block(&i[t], r)).collect());
                }
            }
        }
        Shape::ScatterList => {
            for (r, output) in outputs.iter_mut().enumerate() {
                output[0] = sum(inputs.iter().map(|i| i[r].clone()).collect());
            }
        }
        Shape::GatherList | Shape::GatherLists | Shape::RootGather => {
            for output in outputs.iter_mut() {
                output.iter_mut().enumerate().for_each(|(o, tensor)| tensor.clone_from(&inputs[o % n][o / n]));
            }
        }
        Shape::RootScatter => {
            outputs.iter_mut().enumerate().for_each(|(r, output)| output[0].clone_from(&inputs[root][r]));
        }
        Shape::ExchangeList | Shape::ExchangeFlat => {
            for (r, output) in outputs.iter_mut().enumerate() {
                output.iter_mut().enumerate().for_each(|(from, tensor)| tensor.clone_from(&inputs[from][r]));
            }
        }
        Shape::Source | Shape::Target | Shape::Nothing => {}
    }
}

fn fresh(world: &World, n: usize) -> (Vec<Tensors>, Vec<Tensors>) {
    let mut next = 1;
    let mut fill = |counts: Vec<usize>, used: bool| -> Tensors {
        let mut tensor = |count| {
            (0..count)
                .map(|_| {
                    next += 1;
                    if used { next * next } else { UNTOUCHED }
                })
                .collect()
        };
        counts.into_iter().map(&mut tensor).collect()
    };
    let in_place = matches!(world.op.row().shape, Shape::InPlace | Shape::InPlaceList);
    let ranks = (0..n).map(|r| world.shapes(r, n));
    ranks.map(|(i, o)| (fill(i, true), fill(o, in_place))).unzip()
}

/// Splits a tensor into the parts of the ranks.
fn parts(tensor: &[u64], counts: &[usize]) -> Tensors {
    let mut rest = tensor;
    counts
        .iter()
        .map(|count| {
            let (part, behind) = rest.split_at(*count);
            rest = behind;
            part.to_vec()
        })
        .collect()
}

fn plan<'a>(world: &World, rank: usize, counts: &'a [(Vec<usize>, Vec<usize>)], chunk: usize) -> Plan<'a> {
    let (inputs, outputs) = &counts[rank];
    let facts =
        CallShape { op: world.op, rank, world: counts.len(), root: world.root, size: world.size, inputs, outputs };
    let longest = counts.iter().flat_map(|(i, o)| i.iter().chain(o)).max().copied().unwrap_or(0);
    let apart = world.op.is_uneven() || world.op.is_p2p();
    if apart { Plan::apart(facts, chunk, longest) } else { Plan::new(facts, chunk) }
}

/// Runs the plans of all ranks, round by round. Returns the outputs of all ranks, and the number of steps of the op:
/// the rounds, and the announcement if there is one.
fn simulate(world: &World, n: usize, chunk: usize) -> (Vec<Tensors>, usize) {
    let (inputs, outputs) = fresh(world, n);
    let in_blocks = world.op.row().shape == Shape::ExchangeFlat;
    let on_device = |ranks: Vec<Tensors>| -> Vec<Tensors> {
        if in_blocks { ranks.iter().map(|blocks| vec![blocks.concat()]).collect() } else { ranks }
    };
    let (inputs, mut outputs) = (on_device(inputs), on_device(outputs));
    let counts: Vec<_> = (0..n).map(|r| world.shapes(r, n)).collect();
    let plans: Vec<Plan<'_>> = (0..n).map(|rank| plan(world, rank, &counts, chunk)).collect();
    let size = world.size;
    assert!(
        plans.iter().all(|p| p.rounds() == plans[0].rounds() && p.each() == plans[0].each()),
        "all ranks cut their tensors into the same rounds"
    );
    for k in 0..plans[0].rounds() {
        let chunks: Vec<Chunk> = plans.iter().map(|p| p.chunk(k)).collect();
        let mut hosts: Vec<Vec<u64>> = chunks.iter().map(|c| vec![UNTOUCHED; c.bytes / size]).collect();
        for (rank, chunk) in chunks.iter().enumerate() {
            for p in &chunk.out {
                let tensors = if p.operand == Operand::Input { &inputs[rank] } else { &outputs[rank] };
                let from = &tensors[p.tensor][p.first..p.first + p.count];
                hosts[rank][p.at / size..][..p.count].copy_from_slice(from);
            }
        }
        let take = |spans: &[HostSpan], splits: Option<&Vec<usize>>, host: &[u64]| -> Tensors {
            let whole = |(at, count): &HostSpan| host[at / size..][..*count].to_vec();
            match splits {
                Some(splits) => parts(&whole(&spans[0]), splits),
                None => spans.iter().map(whole).collect(),
            }
        };
        let host = || chunks.iter().zip(&hosts);
        let ins: Vec<Tensors> = host().map(|(c, h)| take(&c.inputs, c.splits.as_ref().map(|s| &s.0), h)).collect();
        let mut outs: Vec<Tensors> =
            host().map(|(c, h)| take(&c.outputs, c.splits.as_ref().map(|s| &s.1), h)).collect();
        naive(world.op, world.root, &ins, &mut outs);
        let outs = on_device(outs);
        for (rank, chunk) in chunks.iter().enumerate() {
            for ((at, count), values) in chunk.outputs.iter().zip(&outs[rank]) {
                assert_eq!(values.len(), *count, "the result of a round has the length of its host span");
                hosts[rank][at / size..][..values.len()].copy_from_slice(values);
            }
            for p in &chunk.back {
                assert_eq!(p.operand, Operand::Output);
                let to = &mut outputs[rank][p.tensor][p.first..p.first + p.count];
                to.copy_from_slice(&hosts[rank][p.at / size..][..p.count]);
            }
        }
    }
    if in_blocks {
        outputs = outputs.iter().zip(&counts).map(|(o, (_, splits))| parts(&o[0], splits)).collect();
    }
    (outputs, plans[0].first_step() + plans[0].rounds())
}

#[test]
fn rounds_do_what_the_whole_op_does() {
    for op in OpKind::ALL.iter().copied() {
        for n in [1, 2, 3, 4, 5, 8] {
            for (counts, chunk) in [
                (vec![7], 1 << 20),
                (vec![100], 64),
                (vec![100, 0, 33, 1], 80),
                (vec![0], 64),
                (vec![0, 0], 64),
                (vec![5000, 3], 8),
                (vec![1, 2, 1000], 256),
            ] {
                let root = n - 1;
                let world = World { op, root, counts, size: 8 };
                let (inputs, mut whole) = fresh(&world, n);
                naive(op, root, &inputs, &mut whole);
                let (got, steps) = simulate(&world, n, chunk);
                assert_eq!(got, whole, "{op} in a world of {n}, {:?} by {chunk}", world.counts);
                assert!((1..=STEPS).contains(&steps));
            }
        }
    }
}

/// Returns the number of rounds of an op whose tensors have about `count` elements of 4 bytes.
fn rounds(op: OpKind, world: usize, count: usize, chunk: usize) -> usize {
    let w = World { op, root: 1, counts: vec![count], size: 4 };
    let counts: Vec<_> = (0..world).map(|rank| w.shapes(rank, world)).collect();
    plan(&w, 0, &counts, chunk).rounds()
}

#[test]
fn rounds_have_the_requested_size_unless_there_would_be_too_many() {
    assert_eq!(rounds(OpKind::AllReduce, 4, 1 << 20, 1 << 20), 4);
    assert_eq!(rounds(OpKind::AllReduce, 4, (1 << 20) + 1, 1 << 20), 5);
    assert_eq!(rounds(OpKind::AllGatherInto, 4, 1 << 20, 1 << 20), 16, "the outputs are larger than the input");
    assert_eq!(rounds(OpKind::ReduceScatterInto, 4, 1 << 20, 1 << 20), 16);
    assert_eq!(rounds(OpKind::AllReduce, 4, 1 << 30, 1 << 20), 255);
    // The longest tensor has a little more than `2 * count` elements.
    for op in [OpKind::AllGather, OpKind::AllToAllSingle, OpKind::Gather, OpKind::AllGatherCoalesced] {
        assert_eq!(rounds(op, 4, 1 << 20, 1 << 20), 33, "{op}");
        assert_eq!(rounds(op, 4, 1 << 30, 1 << 20), 254, "{op}: one step is the announcement");
    }
    assert_eq!(rounds(OpKind::Recv, 4, 1 << 20, 1 << 20), 4);
}

#[test]
fn only_needed_copies_are_made() {
    let moves = |op: OpKind, rank: usize| {
        let world = World { op, root: 1, counts: vec![10], size: 4 };
        let (inputs, outputs) = world.shapes(rank, 3);
        let facts = CallShape { op, rank, world: 3, root: 1, size: 4, inputs: &inputs, outputs: &outputs };
        let chunk = Plan::new(facts, 1 << 20).chunk(0);
        (!chunk.out.is_empty(), !chunk.back.is_empty())
    };
    assert_eq!([moves(OpKind::Broadcast, 0), moves(OpKind::Broadcast, 1)], [(false, true), (true, false)]);
    assert_eq!([moves(OpKind::Reduce, 0), moves(OpKind::Reduce, 1)], [(true, false), (true, true)]);
    assert_eq!([moves(OpKind::Gather, 0), moves(OpKind::Gather, 1)], [(true, false), (true, true)]);
    assert_eq!([moves(OpKind::Scatter, 0), moves(OpKind::Scatter, 1)], [(false, true), (true, true)]);
    assert_eq!([moves(OpKind::Send, 0), moves(OpKind::Recv, 0)], [(true, false), (false, true)]);
    assert_eq!(moves(OpKind::Barrier, 0), (false, false));
}
