//! The reference: the inputs and the expected outputs of each rank.

use c10d_core::OpKind;
use c10d_core::backend::Shape;

use crate::case::{COALESCED, Case};
use crate::data;
use crate::fold::fold;
use crate::tensor::Tensor;

/// The tensors of one rank for a case.
pub(crate) struct Tensors<T = Tensor> {
    pub(crate) inputs: Vec<T>,
    pub(crate) outputs: Vec<T>,
}

/// The expected content of an output.
pub(crate) struct Want {
    pub(crate) bytes: Vec<u8>,
    /// The allowed difference of each real number if it was not reduced in rank order. If empty, no difference is
    /// allowed.
    pub(crate) bounds: Vec<f64>,
}

impl From<Vec<u8>> for Want {
    fn from(bytes: Vec<u8>) -> Want {
        Want { bytes, bounds: Vec::new() }
    }
}

/// Returns the tensors of rank `me` before the call.
pub(crate) fn begin(case: &Case, me: u32) -> Tensors {
    let n = case.world;
    let is_root = me == case.root;
    let empty = |count: usize| Tensor::zeros(case.dtype, count);
    let mine = |slot: usize, count: usize| data::input(case, me, slot, count);
    let per_rank = |list: usize| (0..n).map(move |r| case.len(list, r));
    let lists = 0..COALESCED;
    let (inputs, outputs): (Vec<Tensor>, Vec<Tensor>) = match case.op.row().shape {
        Shape::Source if is_root => ((0..n as usize).map(|to| mine(to, case.count)).collect(), vec![]),
        Shape::Source => (vec![], vec![empty(case.count)]),
        Shape::Target if is_root => (vec![], (0..n).map(|_| empty(case.count)).collect()),
        Shape::Target => (vec![mine(0, case.count)], vec![]),
        Shape::InPlace => (vec![], vec![mine(0, case.count)]),
        Shape::InPlaceList => (vec![], lists.map(|list| mine(list, case.len(list, me))).collect()),
        Shape::GatherList => (vec![mine(0, case.len(0, me))], per_rank(0).map(empty).collect()),
        Shape::GatherFlat => (vec![mine(0, case.count)], vec![empty(case.count * n as usize)]),
        Shape::GatherLists => (
            lists.clone().map(|list| mine(list, case.len(list, me))).collect(),
            lists.flat_map(|list| per_rank(list).map(empty)).collect(),
        ),
        Shape::GatherFlats => (
            lists.clone().map(|list| mine(list, case.len(list, me))).collect(),
            lists.map(|list| empty(case.len(list, me) * n as usize)).collect(),
        ),
        Shape::ScatterList => {
            (per_rank(0).enumerate().map(|(to, len)| mine(to, len)).collect(), vec![empty(case.len(0, me))])
        }
        Shape::ScatterFlat => (vec![mine(0, case.count * n as usize)], vec![empty(case.count)]),
        Shape::ScatterFlats => (
            lists.clone().map(|list| mine(list, case.len(list, me) * n as usize)).collect(),
            lists.map(|list| empty(case.len(list, me))).collect(),
        ),
        Shape::RootGather if is_root => (vec![mine(0, case.len(0, me))], per_rank(0).map(empty).collect()),
        Shape::RootGather => (vec![mine(0, case.len(0, me))], vec![]),
        Shape::RootScatter if is_root => {
            (per_rank(0).enumerate().map(|(to, len)| mine(to, len)).collect(), vec![empty(case.len(0, me))])
        }
        Shape::RootScatter => (vec![], vec![empty(case.len(0, me))]),
        Shape::ExchangeList => (
            (0..n).map(|to| mine(to as usize, case.pair(me, to))).collect(),
            (0..n).map(|from| empty(case.pair(from, me))).collect(),
        ),
        Shape::ExchangeFlat => (
            vec![mine(0, (0..n).map(|to| case.pair(me, to)).sum())],
            vec![empty((0..n).map(|from| case.pair(from, me)).sum())],
        ),
        Shape::Nothing => (vec![], vec![]),
    };
    Tensors { inputs, outputs }
}

/// Returns the expected outputs of rank `me`.
pub(crate) fn end(case: &Case, me: u32) -> Vec<Want> {
    let ranks = || 0..case.world;
    let (n, i) = (case.world as usize, me as usize);
    let is_root = me == case.root;
    let from = |rank: u32, slot: usize, count: usize| data::input(case, rank, slot, count).bytes().to_vec();
    let concat = |list: usize| ranks().flat_map(|r| from(r, list, case.len(list, r))).collect::<Vec<u8>>().into();
    let reduce = |slot: usize, whole: usize, part: std::ops::Range<usize>| {
        let size = case.dtype.size();
        let all: Vec<Vec<u8>> = ranks().map(|r| from(r, slot, whole)).collect();
        let parts: Vec<&[u8]> = all.iter().map(|bytes| &bytes[part.start * size..part.end * size]).collect();
        let folded = fold(case.dtype, case.reduce, &parts);
        Want { bytes: folded.bytes, bounds: folded.bounds }
    };
    match case.op.row().shape {
        Shape::Source if is_root => vec![],
        Shape::Source => vec![from(case.root, i, case.count).into()],
        Shape::Target if is_root => {
            ranks()
                .map(|r| {
                    if r == me {
                        Tensor::zeros(case.dtype, case.count).bytes().to_vec()
                    } else {
                        from(r, 0, case.count)
                    }
                })
                .map(Want::from)
                .collect()
        }
        Shape::Target => vec![],
        Shape::InPlace if case.op == OpKind::Broadcast => vec![from(case.root, 0, case.count).into()],
        Shape::InPlace if case.op == OpKind::Reduce && !is_root => vec![from(me, 0, case.count).into()],
        Shape::InPlace => vec![reduce(0, case.count, 0..case.count)],
        Shape::InPlaceList => (0..COALESCED).map(|l| reduce(l, case.len(l, me), 0..case.len(l, me))).collect(),
        Shape::GatherList => ranks().map(|r| from(r, 0, case.len(0, r)).into()).collect(),
        Shape::GatherFlat => vec![concat(0)],
        Shape::GatherLists => {
            (0..COALESCED).flat_map(|l| ranks().map(move |r| from(r, l, case.len(l, r)).into())).collect()
        }
        Shape::GatherFlats => (0..COALESCED).map(concat).collect(),
        Shape::ScatterList => vec![reduce(i, case.len(0, me), 0..case.len(0, me))],
        Shape::ScatterFlat => vec![reduce(0, case.count * n, case.count * i..case.count * (i + 1))],
        Shape::ScatterFlats => (0..COALESCED)
            .map(|l| case.len(l, me))
            .enumerate()
            .map(|(l, len)| reduce(l, len * n, len * i..len * (i + 1)))
            .collect(),
        Shape::RootGather if is_root => ranks().map(|r| from(r, 0, case.len(0, r)).into()).collect(),
        Shape::RootGather => vec![],
        Shape::RootScatter => vec![from(case.root, i, case.len(0, me)).into()],
        Shape::ExchangeList => ranks().map(|r| from(r, i, case.pair(r, me)).into()).collect(),
        Shape::ExchangeFlat => {
            let size = case.dtype.size();
            let part = |r: u32| {
                let start: usize = (0..me).map(|to| case.pair(r, to)).sum();
                let whole = ranks().map(|to| case.pair(r, to)).sum();
                from(r, 0, whole)[start * size..(start + case.pair(r, me)) * size].to_vec()
            };
            vec![ranks().flat_map(part).collect::<Vec<u8>>().into()]
        }
        Shape::Nothing => vec![],
    }
}
