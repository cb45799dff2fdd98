//! A rank's report of what it is doing: its position in the collectives, the ranks for which it waits, and its last
//! call, if it rejected that call.

use c10d_core::backend::Fingerprint;
use c10d_core::waiting::ranks;
use c10d_core::{Error, OpKind};

use super::wire::{Reader, put_text};
use crate::call_log::Position;

/// The largest number of waits in one message.
pub(crate) const WAITS: usize = 16;
/// The largest number of ranks per wait.
const RANKS: usize = 64;
/// The largest number of bytes of a rejection's text.
const WHY: usize = 200;

/// An op that is in progress on a rank.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Wait {
    /// The op's code.
    pub(crate) op: u8,
    /// The number of a collective, or the tag of a message.
    pub(crate) at: u32,
    /// The ranks for which the op waits. An empty list means any rank for a receive from any source. For any other op
    /// it means that the ranks are unknown: the op makes progress or has just begun.
    pub(crate) on: Vec<u32>,
    /// Whether the call is a started message, so that no thread is inside it. Always `false` for a collective.
    pub(crate) started: bool,
}

impl Wait {
    pub(crate) fn of(fingerprint: &Fingerprint, on: Vec<u32>) -> Wait {
        Wait {
            op: fingerprint.op,
            at: if is_p2p(fingerprint) { fingerprint.root } else { fingerprint.seq },
            on,
            started: false,
        }
    }

    pub(super) fn kind(&self) -> Option<OpKind> {
        OpKind::from_code(self.op)
    }

    pub(super) fn is_message(&self) -> bool {
        self.kind().is_some_and(OpKind::is_p2p)
    }

    /// Returns the ranks for which the op waits. The op runs on `rank`, in a group of `size` ranks.
    pub(super) fn on(&self, rank: u32, size: u32) -> Vec<u32> {
        if self.on.is_empty() && self.kind() == Some(OpKind::RecvAnySource) {
            return (0..size).filter(|r| *r != rank).collect();
        }
        self.on.iter().copied().filter(|r| *r != rank && *r < size).collect()
    }

    /// Returns a text for the call, as in `all_reduce seq 12` and `send tag 3`.
    pub(super) fn call(&self) -> String {
        let word = if self.is_message() { "tag" } else { "seq" };
        format!("{} {word} {}", self.kind().map_or("an op", OpKind::name), self.at)
    }

    /// Returns a text for the wait, as in `waits for rank 3 in send tag 3`.
    pub(super) fn words(&self) -> String {
        match &self.on[..] {
            [] if self.kind() == Some(OpKind::RecvAnySource) => format!("waits for any rank in {}", self.call()),
            [] => format!("is still in {}", self.call()),
            on => format!("waits for {} in {}", ranks(on), self.call()),
        }
    }
}

/// Whether the call is between two ranks.
pub(crate) fn is_p2p(fingerprint: &Fingerprint) -> bool {
    OpKind::from_code(fingerprint.op).is_some_and(OpKind::is_p2p)
}

/// A call that the calling rank rejected before anything was sent.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Refused {
    /// The op's code.
    pub(crate) op: u8,
    /// The error's kind and text.
    pub(crate) why: String,
}

impl Refused {
    pub(super) fn new(op: OpKind, error: &Error) -> Refused {
        let mut why = format!("{}: {}", error.kind().name(), error.report().what);
        while why.len() > WHY {
            why.pop();
        }
        Refused { op: op as u8, why }
    }

    pub(super) fn words(&self) -> String {
        let op = OpKind::from_code(self.op).map_or("an op", OpKind::name);
        format!("rejected its own last call, {op} ({})", self.why)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Doing {
    pub(crate) position: Position,
    pub(crate) waits: Vec<Wait>,
    /// The last call, if it was rejected.
    pub(crate) refused: Option<Refused>,
}

impl Doing {
    /// Returns the first call inside which a thread waits (not a started message).
    pub(super) fn blocked(&self) -> Option<&Wait> {
        self.waits.iter().find(|wait| !wait.started)
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        let waits = &self.waits[..self.waits.len().min(WAITS)];
        out.push(waits.len() as u8);
        for wait in waits {
            let on = &wait.on[..wait.on.len().min(RANKS)];
            out.extend_from_slice(&[wait.op, on.len() as u8, wait.started.into()]);
            out.extend_from_slice(&wait.at.to_le_bytes());
            on.iter().for_each(|rank| out.extend_from_slice(&rank.to_le_bytes()));
        }
        out.push(self.refused.is_some().into());
        if let Some(refused) = &self.refused {
            out.push(refused.op);
            put_text(out, &refused.why, WHY);
        }
    }

    pub(super) fn read(position: Position, r: &mut Reader<'_>) -> Option<Doing> {
        let n = usize::from(r.u8()?);
        if n > WAITS {
            return None;
        }
        let wait = |r: &mut Reader<'_>| {
            let (op, on, started, at) = (r.u8()?, usize::from(r.u8()?), r.u8()? != 0, r.u32()?);
            if on > RANKS {
                return None;
            }
            Some(Wait { op, at, on: (0..on).map(|_| r.u32()).collect::<Option<_>>()?, started })
        };
        let waits = (0..n).map(|_| wait(r)).collect::<Option<_>>()?;
        let refused = match r.u8()? {
            0 => None,
            1 => Some(Refused { op: r.u8()?, why: r.text(WHY)? }),
            _ => return None,
        };
        Some(Doing { position, waits, refused })
    }
}
