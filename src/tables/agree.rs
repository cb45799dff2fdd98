//! After each step all ranks hear how it went on all, so that they go on, or end, alike.

use std::any::Any;
use std::panic::resume_unwind;

use c10d_core::text::harmless;
use c10d_core::{Error, ErrorKind, Result, op};

use crate::plain::PlainBuf;
use crate::within::Within;

/// What the bytes of these exchanges are called, so that a call of another kind is told from them.
const TABLE: &str = "shared table";
/// The longest text about a failure.
const TEXT: usize = 400;
/// In front of the text or what is said: how it went, and the text's length.
const HEAD: usize = 3;

/// Why a step did not go well on this rank.
pub(super) enum Failure {
    Error(Error),
    /// Of the closure: it goes on when the others know.
    Panic(Box<dyn Any + Send>),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Error(error)
    }
}

/// Tells all ranks how a step went here: what this rank has to say, or that it failed. What all ranks said; or, on all, an
/// error that names those that failed.
pub(super) fn agree<const N: usize>(within: &Within<'_>, mine: Result<[u8; N], Failure>) -> Result<Vec<[u8; N]>> {
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
                Failure::Panic(_) => (ABORTED, "the closure that fills it panicked"),
            };
            let end = (0..=TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or_default();
            word[0] = kind;
            word[1..HEAD].copy_from_slice(&(end as u16).to_le_bytes());
            word[HEAD..HEAD + end].copy_from_slice(&text.as_bytes()[..end]);
            Some(failure)
        }
    };
    let mut all = vec![0u8; word.len() * within.pg.size() as usize];
    let told =
        within.run(op::all_gather_into(PlainBuf::reduced_by(&word, TABLE), PlainBuf::reduced_by(&mut all, TABLE)));
    match (failure, told) {
        (Some(Failure::Panic(panic)), _) => resume_unwind(panic),
        (_, Err(e)) => Err(e),
        (Some(Failure::Error(e)), Ok(_)) => Err(within.ended(e)),
        (None, Ok(_)) => heard(within, all.as_chunks().0),
    }
}

/// What the ranks said, if all had something to say.
fn heard<const N: usize>(within: &Within<'_>, words: &[[u8; HEAD + TEXT]]) -> Result<Vec<[u8; N]>> {
    let failed: Vec<u32> = (0u32..).zip(words).filter(|(_, word)| word[0] != WELL).map(|(rank, _)| rank).collect();
    let [first, ..] = failed[..] else {
        let said = |word: &[u8; HEAD + TEXT]| std::array::from_fn(|i| word[HEAD + i]);
        return Ok(words.iter().map(said).collect());
    };
    let word = &words[first as usize];
    let len = usize::from(u16::from_le_bytes([word[1], word[2]])).min(TEXT);
    let text = harmless(&String::from_utf8_lossy(&word[HEAD..HEAD + len]), TEXT);
    let what = format!("no table was made: on rank {first}, {text}");
    Err(within.ended(Error::new(kind(word[0]), what).guilty(failed)))
}

const WELL: u8 = 0;
const ABORTED: u8 = 1;
const RESOURCE: u8 = 2;
const PROTOCOL: u8 = 3;

/// As what the others have a rank's failure. One of a call between some of the ranks was a failure of theirs alone.
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
