//! Which calls are done in two tiers, and their steps.

use smallvec::{SmallVec, smallvec};

use crate::backend::Request;
use crate::catalog::OpKind;
use crate::types::{DType, ReduceOp};

/// The ranks that do a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tier {
    /// The ranks of a host, among themselves.
    Local,
    /// The first rank of each host, among themselves.
    Across,
}

/// One step of an op, in place on its one tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The number of the step, from 1. Step 0 is the barrier with which the call begins.
    pub(super) number: u8,
    pub(super) tier: Tier,
    pub(super) op: OpKind,
    /// The root, as its number in the group.
    pub(super) root: u32,
}

pub(super) type Plan = SmallVec<[Step; 3]>;

/// The number of each rank's host.
pub(super) struct Hosts(pub(super) Vec<u32>);

impl Hosts {
    pub(super) fn ranks(&self, host: u32) -> Vec<u32> {
        (0..).zip(&self.0).filter(|(_, h)| **h == host).map(|(rank, _)| rank).collect()
    }

    /// Returns the first rank of each host.
    pub(super) fn leaders(&self) -> Vec<u32> {
        let first = |host: u32| self.0.iter().position(|h| *h == host).map(|rank| rank as u32);
        (0..).map_while(first).collect()
    }

    fn of(&self, rank: u32) -> u32 {
        self.0.get(rank as usize).copied().unwrap_or_default()
    }

    fn leader(&self, rank: u32) -> u32 {
        self.0.iter().position(|h| *h == self.of(rank)).unwrap_or_default() as u32
    }

    /// Returns the steps of a call in which this rank takes part. `None` if the call is done in one tier, for example
    /// because it has fewer than `least` bytes.
    pub(super) fn plan(&self, request: &Request, rank: u32, least: usize) -> Option<Plan> {
        let [span] = request.outputs() else { return None };
        if span.bytes() < least || !is_tiered(request.op, span.dtype(), request.params.reduce) {
            return None;
        }
        let root = request.params.root;
        let step = |number, tier, op, root| Step { number, tier, op, root };
        let leader = self.leader(rank);
        Some(match request.op {
            OpKind::AllReduce => smallvec![
                step(1, Tier::Local, OpKind::Reduce, leader),
                step(2, Tier::Across, OpKind::AllReduce, 0),
                step(3, Tier::Local, OpKind::Broadcast, leader),
            ],
            OpKind::Broadcast if self.of(rank) == self.of(root) => smallvec![
                step(1, Tier::Local, OpKind::Broadcast, root),
                step(2, Tier::Across, OpKind::Broadcast, leader),
            ],
            OpKind::Broadcast => smallvec![
                step(2, Tier::Across, OpKind::Broadcast, self.leader(root)),
                step(3, Tier::Local, OpKind::Broadcast, leader),
            ],
            _ => return None,
        })
    }
}

/// Returns whether large calls of this kind are done in two tiers. Two tiers may change a result only by the order in
/// which values are combined. So 16-bit floats are excluded (sums would be rounded twice), and averages and
/// premultiplied sums (the division or factor would be applied twice).
pub(super) fn is_tiered(op: OpKind, dtype: DType, reduce: ReduceOp) -> bool {
    let is_short = matches!(dtype, DType::F16 | DType::BF16);
    match op {
        OpKind::Broadcast => true,
        OpKind::AllReduce => !is_short && !matches!(reduce, ReduceOp::Avg | ReduceOp::PreMulSum(_)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Caller;
    use crate::buffer::{Sink, Span};
    use crate::options::Params;

    fn request(op: OpKind, root: u32, reduce: ReduceOp) -> Request {
        let params = Params { root, reduce, ..Params::default() };
        let mut request = Request::new(op, Caller::Waits, params, std::time::Duration::from_secs(1));
        request.spans = Sink { outputs: smallvec![Span::host(std::ptr::null_mut::<u8>(), 64)], ..Sink::default() };
        request
    }

    /// Five ranks: ranks 0 and 2 are on one host, 1 and 3 on another, 4 on a third.
    fn hosts() -> Hosts {
        Hosts(vec![0, 1, 0, 1, 2])
    }

    #[test]
    fn hosts_have_ranks_and_leaders() {
        let hosts = hosts();
        assert_eq!((hosts.ranks(0), hosts.ranks(1), hosts.ranks(2)), (vec![0, 2], vec![1, 3], vec![4]));
        assert_eq!(hosts.leaders(), [0, 1, 4]);
    }

    #[test]
    fn each_rank_gets_its_steps_in_two_tiers() {
        let steps = |op, root, rank: u32| {
            let plan = hosts().plan(&request(op, root, ReduceOp::Sum), rank, 64).unwrap();
            plan.into_iter().map(|s| (s.number, s.tier, s.op, s.root)).collect::<Vec<_>>()
        };
        use Tier::{Across, Local};
        assert_eq!(
            steps(OpKind::AllReduce, 0, 3),
            [(1, Local, OpKind::Reduce, 1), (2, Across, OpKind::AllReduce, 0), (3, Local, OpKind::Broadcast, 1),]
        );
        // The root's host gets the value in step 1, the other hosts later.
        assert_eq!(
            steps(OpKind::Broadcast, 3, 1),
            [(1, Local, OpKind::Broadcast, 3), (2, Across, OpKind::Broadcast, 1)]
        );
        assert_eq!(
            steps(OpKind::Broadcast, 3, 2),
            [(2, Across, OpKind::Broadcast, 1), (3, Local, OpKind::Broadcast, 0)]
        );
    }

    #[test]
    fn small_and_unsuitable_calls_stay_in_one_tier() {
        let plan = |op, reduce, least| hosts().plan(&request(op, 0, reduce), 0, least);
        assert!(plan(OpKind::AllReduce, ReduceOp::Sum, 64).is_some());
        assert_eq!(plan(OpKind::AllReduce, ReduceOp::Sum, 65), None, "the call is smaller than `least`");
        for reduce in [ReduceOp::Avg, ReduceOp::PreMulSum(2.0)] {
            assert_eq!(plan(OpKind::AllReduce, reduce, 1), None);
        }
        assert_eq!(plan(OpKind::AllGatherInto, ReduceOp::Sum, 1), None);
        assert!(!is_tiered(OpKind::AllReduce, DType::BF16, ReduceOp::Sum), "the result would be rounded twice");
        assert!(is_tiered(OpKind::Broadcast, DType::BF16, ReduceOp::Sum));
    }
}
