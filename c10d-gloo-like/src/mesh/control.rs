//! The messages (frames) that ranks exchange about their health, and their encoding.
//!
//! A frame consists of the length of its body (4 bytes) and the body: a tag (1 byte), and fields in a layout that the
//! tag determines. Bytes that are no valid frame are an error of the peer.

use c10d_core::backend::Fingerprint;

use super::doing::Doing;
use super::revoke::Revoke;
use super::wire::{Reader, fingerprint, option, put_option};
use crate::call_log::Position;
use c10d_core::calls::CallId;
use c10d_core::calls::History;

/// The largest length of a body. The longest is that of a [`Revoke`] in a large group.
pub(super) const MAX: usize = 64 << 10;

/// A message about health.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Frame {
    /// A question: what is the receiver's position, and which call did the receiver make with the id `place`?
    Query { id: u32, place: CallId },
    /// The answer to [`Frame::Query`]. The watcher thread of the asked rank sends it, even if that rank's other threads
    /// are busy.
    State { id: u32, place: CallId, doing: Doing, fingerprint: Option<Fingerprint> },
    /// The report that the group has failed, with the cause.
    Revoke(Box<Revoke>),
    /// A question: does the receiver still reach rank `of`? The sender's connection to `of` has ended without a
    /// goodbye.
    Reach { of: u32 },
    /// The answer to [`Frame::Reach`]. If `alive`, rank `of` still answers the sender. If not, rank `of` has left, or
    /// the sender's connection to it has ended.
    Reached { of: u32, alive: bool },
    /// The sender leaves the group. `last` is the last call that the sender completed. `failed`: the group has failed
    /// and all ranks were sent the cause.
    Goodbye { last: Option<CallId>, failed: bool },
    /// The sender's program ends without leaving the group. The fields are those of [`Frame::Goodbye`].
    Exited { last: Option<CallId>, failed: bool },
    /// A question: which calls did the receiver make, from number `from` on?
    Ask { from: u64 },
    /// The answer to [`Frame::Ask`]. With `last`, there was no question: the sender is about to say goodbye.
    Calls { last: bool, history: History },
}

impl Frame {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; 4];
        match self {
            Frame::Query { id, place } => {
                out.push(1);
                out.extend_from_slice(&id.to_le_bytes());
                put_place(&mut out, *place);
            }
            Frame::State { id, place, doing, fingerprint } => {
                out.push(2);
                out.extend_from_slice(&id.to_le_bytes());
                put_place(&mut out, *place);
                put_option(&mut out, doing.position.last, put_place);
                out.push(doing.position.inside.into());
                put_option(&mut out, *fingerprint, |out, p| out.extend_from_slice(&p.to_bytes()));
                doing.put(&mut out);
            }
            Frame::Revoke(revoke) => {
                out.push(3);
                revoke.put(&mut out);
            }
            Frame::Reach { of } => {
                out.push(13);
                out.extend_from_slice(&of.to_le_bytes());
            }
            Frame::Reached { of, alive } => {
                out.push(14);
                out.extend_from_slice(&of.to_le_bytes());
                out.push((*alive).into());
            }
            Frame::Goodbye { last, failed } => {
                out.extend_from_slice(&[4, u8::from(*failed)]);
                put_option(&mut out, *last, put_place);
            }
            Frame::Exited { last, failed } => {
                out.extend_from_slice(&[5, u8::from(*failed)]);
                put_option(&mut out, *last, put_place);
            }
            Frame::Ask { from } => out.extend_from_slice(&Frame::ask(*from)[4..]),
            Frame::Calls { last, history } => {
                out.extend_from_slice(&[11, u8::from(*last)]);
                put_history(&mut out, history);
            }
        }
        let len = out.len() as u32 - 4;
        out[..4].copy_from_slice(&len.to_le_bytes());
        out
    }

    /// Returns the bytes of a [`Frame::Ask`], without an allocation.
    pub(crate) fn ask(from: u64) -> [u8; 13] {
        let mut out = [9, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0];
        out[5..].copy_from_slice(&from.to_le_bytes());
        out
    }

    fn from_body(body: &[u8]) -> Option<Frame> {
        let mut r = Reader(body);
        let frame = match r.u8()? {
            1 => Frame::Query { id: r.u32()?, place: place(&mut r)? },
            2 => {
                let (id, at) = (r.u32()?, place(&mut r)?);
                let position = Position { last: option(&mut r, place)?, inside: r.u8()? != 0 };
                let fingerprint = option(&mut r, fingerprint)?;
                Frame::State { id, place: at, doing: Doing::read(position, &mut r)?, fingerprint }
            }
            13 => Frame::Reach { of: r.u32()? },
            14 => Frame::Reached { of: r.u32()?, alive: r.u8()? != 0 },
            3 => Frame::Revoke(Box::new(Revoke::read(&mut r)?)),
            4 => {
                let failed = r.u8()? != 0;
                Frame::Goodbye { last: option(&mut r, place)?, failed }
            }
            5 => {
                let failed = r.u8()? != 0;
                Frame::Exited { last: option(&mut r, place)?, failed }
            }
            10 => Frame::Ask { from: r.u64()? },
            11 => Frame::Calls { last: r.u8()? != 0, history: history(&mut r)? },
            _ => return None,
        };
        r.end()?;
        Some(frame)
    }
}

fn put_place(out: &mut Vec<u8>, place: CallId) {
    out.extend_from_slice(&place.seq.to_le_bytes());
    out.push(place.step);
}

fn place(r: &mut Reader<'_>) -> Option<CallId> {
    Some(CallId { seq: r.u32()?, step: r.u8()? })
}

fn put_history(out: &mut Vec<u8>, history: &History) {
    let calls = &history.calls[..history.calls.len().min(History::GOODBYE)];
    out.extend_from_slice(&history.until.to_le_bytes());
    out.extend_from_slice(&(calls.len() as u32).to_le_bytes());
    for (number, fingerprint) in calls {
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&fingerprint.to_bytes());
    }
}

fn history(r: &mut Reader<'_>) -> Option<History> {
    let until = r.u64()?;
    let n = r.u32()? as usize;
    if n > History::GOODBYE {
        return None;
    }
    let calls = (0..n).map(|_| Some((r.u64()?, fingerprint(r)?))).collect::<Option<_>>()?;
    Some(History { until, calls })
}

/// Splits received bytes, which arrive in pieces of any size, into frames.
#[derive(Default)]
pub(crate) struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Adds received bytes. If the caller takes all complete frames with `next`, less than one frame stays in the
    /// buffer.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Returns the next complete frame, or `None` if more bytes are needed. After an error, decoding must end.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, &'static str> {
        let Some(head) = self.buffer.first_chunk::<4>() else { return Ok(None) };
        let len = u32::from_le_bytes(*head) as usize;
        if len > MAX {
            return Err("a frame that is too long");
        }
        let Some(body) = self.buffer.get(4..4 + len) else { return Ok(None) };
        let frame = Frame::from_body(body).ok_or("a frame that cannot be decoded")?;
        self.buffer.drain(..4 + len);
        Ok(Some(frame))
    }
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
