//! Backends that connect some ranks of a group.

use std::sync::Arc;
use std::time::Duration;

use super::plan::Step;
use crate::backend::{Backend, GroupInit, OtherBackends, Outer, Request, let_go, nested};
use crate::buffer::{Sink, Span};
use crate::catalog::OpKind;
use crate::error::Status;
use crate::options::Params;
use crate::types::ReduceOp;
use crate::{Error, Result};

/// A backend that connects some ranks of the group, including this one.
pub(super) struct TierBackend {
    pub(super) backend: Arc<dyn Backend>,
    /// The ranks that the backend connects, by their numbers in the group.
    ranks: Vec<u32>,
}

/// Gives the backend of a tier access to the group's other backends. Lost ranks get their numbers in the tier.
struct TierOthers {
    group: Arc<dyn OtherBackends>,
    ranks: Vec<u32>,
}

impl OtherBackends for TierOthers {
    fn backend(&self, init: &GroupInit, name: &str) -> Result<Arc<dyn Backend>> {
        self.group.backend(init, name)
    }

    fn anew(&self) -> Arc<dyn OtherBackends> {
        Arc::new(TierOthers { group: self.group.anew(), ranks: self.ranks.clone() })
    }

    fn lost(&self) -> Vec<u32> {
        let lost = self.group.lost();
        (0..).zip(&self.ranks).filter(|(_, rank)| lost.contains(rank)).map(|(index, _)| index).collect()
    }
}

impl TierBackend {
    /// Connects these ranks, in this order, by the backend of this name. `None` if this rank is not among them, or is
    /// the only rank.
    pub(super) fn connect(init: &GroupInit, name: &str, ranks: Vec<u32>) -> Result<Option<TierBackend>> {
        let Some(index) = ranks.iter().position(|rank| *rank == init.rank).filter(|_| ranks.len() > 1) else {
            return Ok(None);
        };
        let others = Arc::new(TierOthers { group: init.others.anew(), ranks: ranks.clone() });
        // The first two ranks identify the tier: two tiers can have the same first rank, but not the same first two.
        let purpose = format!("tier/{}/{}", ranks[0], ranks[1]);
        let mut own = init.under(&purpose, others);
        for (i, b) in purpose.bytes().enumerate() {
            own.session[i % 16] = own.session[i % 16].rotate_left(3) ^ b;
        }
        (own.rank, own.size) = (index as u32, ranks.len() as u32);
        Ok(Some(TierBackend { backend: own.backend(name)?, ranks }))
    }

    /// Returns the number in this tier of a rank of the group.
    pub(super) fn index(&self, rank: u32) -> Option<u32> {
        self.ranks.iter().position(|r| *r == rank).map(|index| index as u32)
    }

    /// Runs a step among the tier's ranks, and waits for it. The span's memory must stay valid until this function
    /// returns.
    pub(super) fn run(&self, outer: &Outer, step: &Step, span: &Span, reduce: ReduceOp) -> Result {
        let Step { number, op, root, .. } = *step;
        let params = Params { reduce, root: self.index(root).unwrap_or_default(), ..Params::default() };
        let spans = Sink { outputs: [*span].into_iter().collect(), ..Sink::default() };
        let later = patience(outer.timeout) * u32::from(number);
        let mut request = Outer { deadline: outer.deadline + later, ..*outer }.step(number, op, params, spans);
        // If the op is itself a step of another op, its step number is mixed into `rest`, because this step's number
        // replaces it in the fingerprint.
        request.fingerprint.rest ^= u32::from(outer.fingerprint.step).wrapping_mul(0x85eb_ca6b);
        run_step(&*self.backend, request).map_err(|e| self.in_group(e))
    }

    /// Makes an error of a tier name the ranks by their numbers in the group.
    fn in_group(&self, mut error: Error) -> Error {
        let report = error.report_mut();
        report.guilty.iter_mut().for_each(|rank| *rank = self.ranks.get(*rank as usize).copied().unwrap_or(*rank));
        if !report.guilty.is_empty() {
            report.what = format!("{} (this text numbers the ranks within {:?})", report.what, self.ranks);
        }
        error
    }
}

/// Runs a barrier with the call's fingerprint on `backend`, which connects all ranks. If another rank makes a different
/// call, with or without tiers, this rank gets a mismatch.
pub(super) fn announce(backend: &dyn Backend, outer: &Outer) -> Result {
    let mut request = outer.step(0, OpKind::Barrier, Params::default(), Sink::default());
    request.fingerprint = outer.fingerprint;
    run_step(backend, request)
}

/// Runs a step of an op on a backend, and waits for it.
fn run_step(backend: &dyn Backend, request: Request) -> Result {
    let op = request.op;
    nested(backend, None, request).map(drop).map_err(|mut error| {
        let report = error.report_mut();
        // A rejected step has sent nothing, but an earlier step may have sent data, so the call has failed.
        report.status = Status::Failed;
        if report.op == Some(op) {
            report.op = None;
        }
        error
    })
}

/// The time between the deadlines of two consecutive steps. Ranks that wait for a late rank are in an earlier step than
/// the ranks that wait for them. So the error of the earlier step, which names the late rank, comes first.
fn patience(timeout: Duration) -> Duration {
    let_go(timeout) / 5
}
