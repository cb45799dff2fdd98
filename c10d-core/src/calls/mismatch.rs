//! The error for two calls that differ.

use crate::backend::Fingerprint;
use crate::catalog::OpKind;
use crate::{Error, ErrorKind, Phase};

const ADVICE: &str = "all ranks must call the same operations with the same arguments in the same order";

/// Returns the error of a rank whose call is `mine` while the call of `ranks` is `theirs`, or `None` if the two agree.
/// The error names the call `mine`, even if a later call reports it.
pub fn mismatch(ranks: impl IntoIterator<Item = u32>, mine: &Fingerprint, theirs: &Fingerprint) -> Option<Error> {
    let (field, mine_text, theirs_text) = mine.disagreement(theirs)?;
    let kind = ErrorKind::Mismatch { field, mine: mine_text, theirs: theirs_text };
    Some(about(mine, Error::new(kind, ADVICE).guilty(ranks).phase(Phase::Announce)))
}

/// Sets the op and number of an error to those of `call`, the call that the error is about. An error about a
/// point-to-point message is not changed, since such a message has no number that ranks share.
pub fn about(call: &Fingerprint, mut error: Error) -> Error {
    let op = OpKind::from_code(call.op);
    if op.is_none_or(|op| !op.is_p2p()) {
        let report = error.report_mut();
        (report.seq, report.op) = (Some(call.seq.into()), op);
    }
    error
}
