//! Runs a list of cases on one rank.

use c10d_core::{ProcessGroup, Result};

use crate::case::Case;
use crate::device::RankDevice;
use crate::reference::{self, Tensors};
use crate::{check, issue};

/// One rank's result of one case.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The outputs are right; the number is their hash.
    Passed(u64),
    /// The values are wrong. The group can still be used.
    Wrong(String),
    /// A call returned an error. The group is not used any more.
    Failed(String),
}

/// Runs the cases in order and reports each result. Stops at the first error of an op.
pub(crate) fn run(
    pg: &ProcessGroup,
    cases: &[Case],
    device: Option<&RankDevice>,
    mut report: impl FnMut(usize, Verdict),
) {
    for (i, case) in cases.iter().enumerate() {
        let verdict = run_case(pg, case, device);
        let over = matches!(verdict, Verdict::Failed(_));
        report(i, verdict);
        if over {
            return;
        }
    }
}

fn run_case(pg: &ProcessGroup, case: &Case, device: Option<&RankDevice>) -> Verdict {
    let algorithm = pg.algorithm(case.op, case.bytes(), case.dtype, case.reduce).filter(|_| device.is_none());
    let in_rank_order = algorithm.is_some_and(|a| a.reduces_in_rank_order);
    // If the backend does not reduce in rank order, a second run must still give the same bits.
    let runs = if case.op.reduces() && !in_rank_order { 2 } else { 1 };
    let mut digests = Vec::new();
    for _ in 0..runs {
        let done = match issued(pg, case, device) {
            Ok(done) => done,
            Err(e) => return Verdict::Failed(e.to_string()),
        };
        if let Err(what) = right(pg, case, &done, in_rank_order) {
            let by = algorithm.map_or(String::new(), |a| format!(" (algorithm {})", a.name));
            return Verdict::Wrong(format!("{what}{by}"));
        }
        digests.push(check::digest(&done.outputs));
    }
    digests.dedup();
    match digests[..] {
        [digest] => Verdict::Passed(digest),
        _ => Verdict::Wrong("two runs gave different bits".into()),
    }
}

fn issued(pg: &ProcessGroup, case: &Case, device: Option<&RankDevice>) -> Result<Tensors> {
    issue::issue(pg, case, reference::begin(case, pg.rank()), device)
}

fn right(pg: &ProcessGroup, case: &Case, done: &Tensors, in_rank_order: bool) -> Result<(), String> {
    let me = pg.rank();
    let begun = reference::begin(case, me);
    if done.inputs != begun.inputs {
        return Err("an input was written".into());
    }
    let wants = reference::end(case, me);
    if wants.len() != done.outputs.len() {
        return Err(format!("{} outputs came back, but must be {}", done.outputs.len(), wants.len()));
    }
    for (i, (got, want)) in done.outputs.iter().zip(&wants).enumerate() {
        check::output(case, got, want, in_rank_order).map_err(|what| format!("output {i}: {what}"))?;
    }
    Ok(())
}
