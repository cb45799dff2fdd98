//! Backends of some of a group's ranks.

use std::sync::Arc;
use std::time::Duration;

use super::plan::Step;
use crate::backend::{Backend, GroupInit, OtherBackends, Outer, let_go, nested};
use crate::buffer::{Sink, Span};
use crate::catalog::OpKind;
use crate::error::Status;
use crate::options::Params;
use crate::store::PrefixStore;
use crate::types::ReduceOp;
use crate::{Error, Result};

/// A backend of some of the group's ranks, this one among them.
pub(super) struct Part {
    pub(super) backend: Arc<dyn Backend>,
    /// Its ranks' numbers in the group.
    ranks: Vec<u32>,
}

/// The other backends of a part.
struct PartsOthers {
    group: Arc<dyn OtherBackends>,
    ranks: Vec<u32>,
}

impl OtherBackends for PartsOthers {
    fn backend(&self, init: &GroupInit, name: &str) -> Result<Arc<dyn Backend>> {
        self.group.backend(init, name)
    }

    fn anew(&self) -> Arc<dyn OtherBackends> {
        Arc::new(PartsOthers { group: self.group.anew(), ranks: self.ranks.clone() })
    }

    fn lost(&self) -> Vec<u32> {
        let lost = self.group.lost();
        (0..).zip(&self.ranks).filter(|(_, rank)| lost.contains(rank)).map(|(index, _)| index).collect()
    }
}

impl Part {
    /// Connects these ranks, in this order, by the backend of this name. `None`: this rank is not among them, or alone.
    pub(super) fn connect(init: &GroupInit, name: &str, ranks: Vec<u32>) -> Result<Option<Part>> {
        let Some(index) = ranks.iter().position(|rank| *rank == init.rank).filter(|_| ranks.len() > 1) else {
            return Ok(None);
        };
        let others = Arc::new(PartsOthers { group: init.others.anew(), ranks: ranks.clone() });
        // What follows from the ranks tells parts apart that have a first rank in common.
        let purpose = format!("part/{}/{}", ranks[0], ranks[1]);
        let mut own = init.with(Arc::new(PrefixStore::new(&purpose, init.store.clone())), others);
        for (i, b) in purpose.bytes().enumerate() {
            own.session[i % 16] = own.session[i % 16].rotate_left(3) ^ b;
        }
        (own.rank, own.size) = (index as u32, ranks.len() as u32);
        Ok(Some(Part { backend: own.backend(name)?, ranks }))
    }

    /// The number in this part of one of the group's ranks.
    pub(super) fn index(&self, rank: u32) -> Option<u32> {
        self.ranks.iter().position(|r| *r == rank).map(|index| index as u32)
    }

    /// Does a step among the part's ranks, and waits for it. The span's memory is the op's until this returns.
    pub(super) fn run(&self, outer: &Outer, step: &Step, span: &Span, reduce: ReduceOp) -> Result {
        let Step { number, op, root, .. } = *step;
        let params = Params { reduce, root: self.index(root).unwrap_or_default(), ..Params::default() };
        let spans = Sink { outputs: [*span].into_iter().collect(), ..Sink::default() };
        run_step(&*self.backend, outer, number, (op, params, spans)).map_err(|e| self.in_group(e))
    }

    /// A part's error, by the group's numbers.
    fn in_group(&self, mut error: Error) -> Error {
        let report = error.report_mut();
        report.guilty.iter_mut().for_each(|rank| *rank = self.ranks.get(*rank as usize).copied().unwrap_or(*rank));
        if !report.guilty.is_empty() {
            report.what = format!("{} (words count the ranks among {:?})", report.what, self.ranks);
        }
        error
    }
}

/// Does a step of an op by one backend, and waits for it.
pub(super) fn run_step(
    backend: &dyn Backend,
    outer: &Outer,
    number: u8,
    (op, params, spans): (OpKind, Params, Sink),
) -> Result {
    let later = patience(outer.timeout) * u32::from(number.saturating_sub(1));
    let outer = Outer { deadline: outer.deadline + later, ..*outer };
    nested(backend, None, outer.step(number, op, params, spans)).map(drop).map_err(|mut error| {
        let report = error.report_mut();
        // Something was sent, if not in this step.
        report.status = Status::Failed;
        if report.op == Some(op) {
            report.op = None;
        }
        error
    })
}

/// How much later than the step before it a step ends: a rank that is late is named by those that wait for it first.
fn patience(timeout: Duration) -> Duration {
    let_go(timeout) / 5
}
