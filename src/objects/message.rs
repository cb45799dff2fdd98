//! Sends an object from one rank to another: a header, then the name of the type, then the object's bytes in
//! pieces. A receiver that rejects the object still receives all pieces, but needs memory for only one of them.

use serde::de::DeserializeOwned;

use c10d_core::text::harmless;
use c10d_core::{Error, Result, op};

use super::agree::{OBJECTS, mismatch, too_large};
use super::codec::{Header, NUMBERS, Outgoing, TEXT, decode};
use crate::plain::PlainBuf;
use crate::within::Within;

/// The size of a piece in bytes.
const PIECE: usize = 4 << 20;

/// Sends the object of `out`, or, if the object cannot be sent or is too large, the reason, which the receiver returns
/// as its error.
pub(super) fn send<T>(within: &Within<'_>, out: Outgoing, limit: usize, to: u32, tag: u32) -> Result {
    let mut out = out;
    let length = out.bytes.first().map_or(0, Vec::len);
    if length > limit {
        out = Outgoing::failed(format!("the object has {length} bytes, but the sender's limit is {limit} bytes"));
    }
    let header = out.header::<T>(limit).to_numbers();
    within.run(op::send(PlainBuf::reduced_by(&header, OBJECTS), to, tag))?;
    let mut body = out.text.clone().into_bytes();
    body.extend(out.bytes.iter().flatten());
    for piece in body.chunks(PIECE) {
        within.run(op::send(PlainBuf::reduced_by(piece, OBJECTS), to, tag))?;
    }
    if out.failed {
        let what = format!("the object was not sent to rank {to}, only the reason: {}", out.text);
        return Err(within.ended(Error::invalid(what).guilty([within.pg.rank()])));
    }
    Ok(())
}

/// Receives an object from rank `from`, or from any rank if `from` is `None`. Also returns the sender's rank.
pub(super) fn recv<T: DeserializeOwned>(
    within: &Within<'_>,
    limit: usize,
    from: Option<u32>,
    tag: u32,
) -> Result<(T, u32)> {
    let mut numbers = [0u64; NUMBERS];
    let to = PlainBuf::reduced_by(&mut numbers, OBJECTS);
    let from = match from {
        Some(from) => within.run(op::recv(to, from, tag)).map(|_| from)?,
        None => within.run(op::recv_any_source(to, tag))?.1,
    };
    let header = Header::from_numbers(numbers);
    let own = Outgoing::nothing::<T>().header::<T>(limit);
    let text = (header.text as usize).min(TEXT);
    let total = (text as u64).saturating_add(if header.failed { 0 } else { header.length });

    // This rank also receives the pieces of an object that it rejects, and drops them: the next object with this tag
    // follows them.
    let refused = header.failed || header.identity != own.identity || header.length > limit as u64;
    let room = if refused { (total as usize).min(PIECE) } else { total as usize };
    let mut body = vec![0u8; room];
    let mut about = Vec::new();
    let mut done = 0u64;
    while done < total {
        let len = (total - done).min(PIECE as u64) as usize;
        let at = if refused { 0 } else { done as usize };
        let piece = &mut body[at..at + len];
        within.run(op::recv(PlainBuf::reduced_by(&mut *piece, OBJECTS), from, tag))?;
        if done == 0 {
            about = piece[..text.min(len)].to_vec();
        }
        done += len as u64;
    }
    let about = || harmless(&String::from_utf8_lossy(&about), TEXT);
    let error = if header.failed {
        Error::invalid(format!("rank {from} sent no object: {}", about())).guilty([from])
    } else if header.identity != own.identity {
        mismatch::<T>(about()).guilty([from])
    } else if refused {
        too_large(from, header.length, limit as u64)
    } else {
        match decode(&body[text..]) {
            Ok(object) => return Ok((object, from)),
            Err(why) => super::no_object::<T>(from, &why),
        }
    };
    Err(within.ended(error))
}
