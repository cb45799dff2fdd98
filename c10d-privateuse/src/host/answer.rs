//! Converts a plugin's answer to a result, or to an error that names the plugin.
#![allow(unsafe_code)]

use c10d_core::backend::Fingerprint;
use c10d_core::{Error, ErrorKind, OpKind, Outcome, Result, Status};

use super::plugin::Hosted;
use crate::abi::{self, codes};

/// Converts the status code and reason that a function of the plugin returned.
pub(super) fn status(plugin: &Hosted, call: &str, status: i32, why: &str) -> Result {
    if status == codes::OK {
        return Ok(());
    }
    let kind = codes::kind(status);
    let kind = kind.ok_or_else(|| plugin.error(call, format!("it returned {status}, which is not a status code")))?;
    let why = if why.is_empty() { "it gave no reason" } else { why };
    Err(Error::new(kind, format!("plugin {:?}, {call}: {why}", plugin.name)))
}

/// The operation that the plugin ended, and the size of the operation's group.
pub(super) struct About<'a> {
    pub(super) plugin: &'a Hosted,
    pub(super) op: OpKind,
    pub(super) fingerprint: Fingerprint,
    pub(super) size: u32,
}

/// Converts the result that the plugin passed to `done`.
///
/// # Safety
/// `result` is null, or points to a `c10d_result` that is valid by the ABI.
pub(super) unsafe fn outcome(about: &About<'_>, result: *const abi::Result) -> Result<Outcome> {
    let broken = |why: String| Err(about.plugin.error(&format!("done({})", about.op), why));
    if result.is_null() {
        return broken("it gave no result".into());
    }
    // SAFETY: by the ABI, at least the size can be read.
    let size = unsafe { result.cast::<u32>().read() } as usize;
    if size < <abi::Result as abi::Sized32>::LEAST {
        return broken(format!("its c10d_result has size {size} in its first field, which is too small"));
    }
    // SAFETY: by the ABI, the struct has the size in its first field. The check above ensures that this is at least the
    // size of `abi::Result`.
    let result = unsafe { result.read() };
    if result.status == codes::OK {
        if about.op == OpKind::RecvAnySource && result.source >= about.size {
            return broken(format!("it named rank {} as the sender, of {} ranks", result.source, about.size));
        }
        return Ok(Outcome { source: result.source, payload: None });
    }
    // SAFETY: by the ABI, these are null or point to texts of these lengths.
    let (message, field) =
        unsafe { (abi::text(result.message, result.message_len), abi::text(result.field, result.field_len)) };
    let Err(error) = status(about.plugin, about.op.name(), result.status, &message) else {
        return broken("it reported an error with the status OK".into());
    };
    if *error.kind() == ErrorKind::Plugin || result.guilty_count > about.size {
        return Err(error);
    }
    let mut error = error;
    if result.guilty_count > 0 && !result.guilty.is_null() {
        // SAFETY: by the ABI, the array has this number of ranks.
        let ranks = unsafe { std::slice::from_raw_parts(result.guilty, result.guilty_count as usize) };
        error = error.guilty(ranks.iter().copied().filter(|r| *r < about.size));
    }
    match &mut error.report_mut().kind {
        ErrorKind::PeerDead { how } if !message.is_empty() => *how = message.into_owned(),
        ErrorKind::Mismatch { field: name, mine, theirs } => {
            if !result.fingerprint.is_null() {
                // SAFETY: by the ABI, it points to 24 bytes.
                let bytes = unsafe { result.fingerprint.cast::<[u8; Fingerprint::SIZE]>().read() };
                if let Some(differs) = about.fingerprint.disagreement(&Fingerprint::from_bytes(&bytes)) {
                    (*name, *mine, *theirs) = differs;
                }
            } else if let Some(known) = ErrorKind::FIELDS.iter().find(|f| **f == field) {
                // With any other field, the error says only that the calls differ.
                *name = known;
                // SAFETY: by the ABI, these are null or point to texts of these lengths.
                (*mine, *theirs) = unsafe {
                    (
                        abi::text(result.mine, result.mine_len).into_owned(),
                        abi::text(result.theirs, result.theirs_len).into_owned(),
                    )
                };
            }
        }
        _ => {}
    }
    Err(error)
}

/// Sets the error's status to [`Status::Failed`]: whatever status code the plugin returned, the ranks may have got
/// different results.
pub(super) fn failed(mut error: Error) -> Error {
    error.report_mut().status = Status::Failed;
    error
}
