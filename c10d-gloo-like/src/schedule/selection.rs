//! The rules of a table that apply to one group, by op and bytes.

use c10d_core::OpKind;

use super::tuned::{TUNED, tuned};
use super::{Algorithm, Fabric, Table};

/// The largest number of bytes for which an algorithm is used, and the algorithm.
type Step = (usize, Algorithm);

/// The choices of one group. They depend only on facts that all ranks know, so all ranks make the same choices.
#[derive(Clone, Debug)]
pub(crate) struct Selection {
    alone: bool,
    /// For each of [`TUNED`], two lists in ascending order of bytes: one for calls whose sums may be rounded several
    /// times, and one for calls whose sums must be rounded once.
    steps: [[Vec<Step>; 2]; TUNED.len()],
}

impl Selection {
    pub(crate) fn new(table: &Table, world: u32, fabric: Fabric) -> Selection {
        let rules = |op: OpKind| {
            let worlds = move |r: &&super::Rule| r.ranks.0 <= world && world <= r.ranks.1;
            table.rules.iter().filter(move |r| r.op == op && r.fabric == fabric).filter(worlds)
        };
        let steps = |op: OpKind, exact: bool| {
            let mut steps: Vec<Step> = Vec::new();
            let fit = rules(op).filter(|r| !exact || !op.reduces() || r.algorithm.reduces_in_rank_order());
            let fit = fit.filter(|r| r.algorithm.serves(op, world));
            for rule in fit {
                let up_to = most(op, rule.up_to, world);
                if steps.last().is_none_or(|last| last.0 < up_to) {
                    steps.push((up_to, rule.algorithm));
                }
            }
            steps
        };
        Selection { alone: world == 1, steps: TUNED.map(|op| [steps(op, false), steps(op, true)]) }
    }

    /// Returns the algorithm of a call. `bytes` is the size of the whole vector (`broadcast`, `reduce`, `all_reduce`)
    /// or of all blocks together (`all_gather`, `reduce_scatter`); it is unused for other ops.
    #[inline]
    pub(crate) fn choose(&self, op: OpKind, bytes: usize, exact: bool) -> Algorithm {
        if self.alone {
            return Algorithm::Local;
        }
        let Some(row) = tuned(op) else { return Algorithm::Direct };
        let mut steps = self.steps[row][usize::from(exact)].iter();
        steps.find(|(up_to, _)| bytes <= *up_to).map_or(Algorithm::Direct, |(_, algorithm)| *algorithm)
    }
}

/// Converts the limit of a rule to the bytes of all blocks. For some ops, a rule's limit counts the bytes of one block.
fn most(op: OpKind, up_to: usize, world: u32) -> usize {
    match op {
        OpKind::AllGatherInto | OpKind::ReduceScatterInto => {
            up_to.saturating_add(1).saturating_mul(world as usize).saturating_sub(1)
        }
        _ => up_to,
    }
}
