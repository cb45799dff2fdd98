//! Exchanges the result of each step of an operation, so that all ranks continue or all stop.

use std::any::Any;
use std::panic::resume_unwind;

use c10d_core::text::harmless;
use c10d_core::{Error, ErrorKind, Result, op};

use crate::plain::PlainBuf;
use crate::within::Within;

/// The maximum length of the text about a failure, in bytes.
const TEXT: usize = 400;
/// The size of the header in bytes: the result of the step and the length of the text. The text, or the rank's data,
/// follows.
const HEAD: usize = 3;

/// Why a step failed on this rank.
pub(crate) enum Failure {
    Error(Error),
    /// A panic of the closure that the program passed to the operation. [`agree`] resumes the panic after the exchange.
    Panic(Box<dyn Any + Send>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// Sends the result of a step on this rank to all ranks: the data of the step, or why the step failed. Returns the data
/// of all ranks. A rank on which the step failed returns its own error or resumes its panic, and the other ranks get an
/// error that names the failed ranks. If sending fails, a rank whose step panicked still resumes its panic. The other
/// ranks then return the error of sending. `what` names the object that the operation makes. The fingerprint contains a
/// hash of this name.
pub(crate) fn agree<const N: usize>(
    within: &Within<'_>,
    what: &'static str,
    mine: Result<[u8; N], Failure>,
) -> Result<Vec<[u8; N]>> {
    const { assert!(N <= TEXT) };
    let mut word = [0u8; HEAD + TEXT];
    let failure = match mine {
        Ok(said) => {
            word[HEAD..HEAD + N].copy_from_slice(&said);
            None
        }
        Err(failure) => {
            let (kind, text) = match &failure {
                Failure::Error(e) => (code(e.kind()), e.report().what.as_str()),
                Failure::Panic(_) => (ABORTED, "the closure that fills the table panicked"),
            };
            let end = (0..=TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            word[0] = kind;
            word[1..HEAD].copy_from_slice(&(end as u16).to_le_bytes());
            word[HEAD..HEAD + end].copy_from_slice(&text.as_bytes()[..end]);
            Some(failure)
        }
    };
    let mut all = vec![0u8; word.len() * within.pg.size() as usize];
    let told = within.run(op::all_gather_into(PlainBuf::reduced_by(&word, what), PlainBuf::reduced_by(&mut all, what)));
    match (failure, told) {
        (Some(Failure::Panic(panic)), _) => resume_unwind(panic),
        (_, Err(e)) => Err(e),
        (Some(Failure::Error(e)), Ok(_)) => Err(within.ended(e)),
        (None, Ok(_)) => heard(within, what, all.as_chunks().0),
    }
}

/// Returns the data of the ranks, or an error if any rank failed.
fn heard<const N: usize>(within: &Within<'_>, what: &str, words: &[[u8; HEAD + TEXT]]) -> Result<Vec<[u8; N]>> {
    let failed: Vec<u32> = (0u32..).zip(words).filter(|(_, word)| word[0] != WELL).map(|(rank, _)| rank).collect();
    let [first, ..] = failed[..] else {
        let said = |word: &[u8; HEAD + TEXT]| std::array::from_fn(|i| word[HEAD + i]);
        return Ok(words.iter().map(said).collect());
    };
    let word = &words[first as usize];
    let len = usize::from(u16::from_le_bytes([word[1], word[2]])).min(TEXT);
    let text = harmless(&String::from_utf8_lossy(&word[HEAD..HEAD + len]), TEXT);
    let what = format!("no {what} was made: on rank {first}, {text}");
    Err(within.ended(Error::new(kind(word[0]), what).guilty(failed)))
}

/// Exchanges the result of a step that has no data.
pub(crate) fn together(within: &Within<'_>, what: &'static str, mine: Result<(), impl Into<Failure>>) -> Result {
    agree(within, what, mine.map(|()| []).map_err(Into::into)).map(|_: Vec<[u8; 0]>| ())
}

const WELL: u8 = 0;
const ABORTED: u8 = 1;
const RESOURCE: u8 = 2;
const PROTOCOL: u8 = 3;

/// Returns the code of a failure of this rank. The other ranks make their error from this code. A kind without a code
/// of its own is sent as `ABORTED`.
fn code(kind: &ErrorKind) -> u8 {
    match kind {
        ErrorKind::Resource => RESOURCE,
        ErrorKind::Protocol => PROTOCOL,
        _ => ABORTED,
    }
}

fn kind(code: u8) -> ErrorKind {
    match code {
        RESOURCE => ErrorKind::Resource,
        PROTOCOL => ErrorKind::Protocol,
        _ => ErrorKind::Aborted,
    }
}
