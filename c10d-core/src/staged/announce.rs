//! The announcement before an op whose counts may differ between ranks. Each rank tells every other rank how many
//! elements it sends to that rank, and the length of its longest tensor. Data is sent in rounds, one piece of each
//! tensor per round, so the longest tensor of any rank gives the number of rounds. Before any data is sent, a rank
//! reports an error if it expects another number of elements than a peer has announced.

use super::collective::{hand_over, step_of};
use super::plan::CallShape;
use super::shared::Shared;
use super::slot::Slot;
use crate::buffer::{Sink, Span};
use crate::catalog::{OpKind, Shape};
use crate::options::Params;
use crate::types::{DType, DispatchKey, ReduceOp};
use crate::{Error, ErrorKind, Phase, Result};

/// The numbers that a rank announces to another rank: how many elements it sends to that rank, and how many elements
/// its longest tensor has.
type Announcement = [u64; 2];

/// The announcement's fingerprint contains this value. So ranks get a mismatch if one rank announces while another rank
/// runs a round of the op.
const MARK: u32 = 0xa55e_3b1d;

/// Returns the number of elements of the longest tensor of any rank. `None` if the op needs no announcement, or if the
/// CPU backend cannot send one.
pub(super) fn longest(shared: &Shared, slot: &Slot, facts: &CallShape<'_>) -> Result<Option<usize>> {
    let own = facts.inputs.iter().chain(facts.outputs).copied().max().unwrap_or(0);
    if !facts.op.is_uneven() {
        return Ok(None);
    }
    if facts.world == 1 {
        return Ok(Some(own));
    }
    let capabilities = shared.cpu.capabilities_on(DispatchKey::Cpu);
    if !capabilities.offers(OpKind::AllToAllSingle, DType::U64, ReduceOp::Sum) {
        return Ok(None);
    }
    let (to, from) = pairs(facts);
    let mut mine: Vec<Announcement> = to.into_iter().map(|count| [count as u64, own as u64]).collect();
    let mut theirs = vec![Announcement::default(); facts.world];
    let span = |told: &mut [Announcement]| Span::host(told.as_mut_ptr().cast::<u64>(), 2 * facts.world);
    let mut spans = Sink::default();
    spans.inputs.push(span(&mut mine));
    spans.outputs.push(span(&mut theirs));
    let mut request = step_of(slot, 0, OpKind::AllToAllSingle, Params::default(), spans);
    request.fingerprint.rest ^= MARK;
    hand_over(shared, slot, request)?;
    for (rank, (expected, [sent, _])) in from.into_iter().zip(&theirs).enumerate() {
        if expected as u64 != *sent {
            return Err(differs(rank as u32, expected, *sent));
        }
    }
    let longest = theirs.iter().map(|[_, longest]| *longest as usize).max().unwrap_or(0);
    Ok(Some(longest.max(own)))
}

fn differs(rank: u32, mine: usize, theirs: u64) -> Error {
    let kind = ErrorKind::Mismatch { field: "splits", mine: mine.to_string(), theirs: theirs.to_string() };
    let what = format!(
        "these are the numbers of elements that rank {rank} sends to this rank: this rank expects the first number, \
        and rank {rank} announced the second"
    );
    Error::new(kind, what).guilty([rank]).phase(Phase::Announce)
}

/// Returns the number of elements that this rank sends to each rank, and the number that it expects from each rank.
fn pairs(facts: &CallShape<'_>) -> (Vec<usize>, Vec<usize>) {
    let CallShape { rank, world, root, inputs, outputs, .. } = *facts;
    let all = |tensors: &[usize]| vec![tensors[0]; world];
    let root_alone = |tensors: &[usize]| (0..world).map(|r| if r == root { tensors[0] } else { 0 }).collect();
    let at_root = |tensors: &[usize]| if rank == root { tensors.to_vec() } else { vec![0; world] };
    match facts.op.row().shape {
        Shape::GatherList => (all(inputs), outputs.to_vec()),
        Shape::GatherLists => {
            let of = |rank| outputs.iter().skip(rank).step_by(world).sum();
            (vec![inputs.iter().sum(); world], (0..world).map(of).collect())
        }
        Shape::ScatterList => (inputs.to_vec(), all(outputs)),
        Shape::RootGather => (root_alone(inputs), at_root(outputs)),
        Shape::RootScatter => (at_root(inputs), root_alone(outputs)),
        _ => (inputs.to_vec(), outputs.to_vec()),
    }
}
