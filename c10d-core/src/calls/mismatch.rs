//! Two calls that differ, as an error.

use crate::backend::Fingerprint;
use crate::catalog::OpKind;
use crate::{Error, ErrorKind, Phase};

const ADVICE: &str = "all ranks must call the same operations with the same arguments in the same order";

/// The error of a rank whose call is `mine` while the call of `ranks` is `theirs`; `None` if the two agree. It names
/// the call in which they differ, whichever call reports it.
pub fn mismatch(ranks: impl IntoIterator<Item = u32>, mine: &Fingerprint, theirs: &Fingerprint) -> Option<Error> {
    let (field, mine_text, theirs_text) = mine.disagreement(theirs)?;
    let kind = ErrorKind::Mismatch { field, mine: mine_text, theirs: theirs_text };
    Some(about(mine, Error::new(kind, ADVICE).guilty(ranks).phase(Phase::Announce)))
}

/// The error with the call that it is about. Messages have no number.
pub fn about(call: &Fingerprint, mut error: Error) -> Error {
    let op = OpKind::from_code(call.op);
    if op.is_none_or(|op| !op.is_p2p()) {
        let report = error.report_mut();
        (report.seq, report.op) = (Some(call.seq.into()), op);
    }
    error
}
