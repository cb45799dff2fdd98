//! The first step of every collective of objects: all ranks hear what each gives, and decide alike whether it goes on.

use std::any::type_name;

use c10d_core::text::harmless;
use c10d_core::{Error, ErrorKind, Result, op};

use super::codec::{Header, NUMBERS, Outgoing, TEXT};
use crate::plain::PlainBuf;
use crate::within::Within;

/// What the bytes of objects are called, so that a call of another kind is told from them.
pub(super) const OBJECTS: &str = "objects";

/// Tells all ranks what this one gives, and hears it of them: the length of each rank's object, all within the smallest
/// limit of any rank. Or, on all ranks, an error that names those because of whom nothing is sent.
pub(super) fn agree<T>(within: &Within<'_>, out: &Outgoing, limit: usize) -> Result<Vec<usize>> {
    let n = within.pg.size() as usize;
    let own = out.header::<T>(limit);
    let (mine, mut numbers) = (own.to_numbers(), vec![0u64; n * NUMBERS]);
    let call = op::all_gather_into(PlainBuf::reduced_by(&mine, OBJECTS), PlainBuf::reduced_by(&mut numbers, OBJECTS));
    within.run(call)?;
    let headers: Vec<Header> = numbers.as_chunks().0.iter().map(|numbers| Header::from_numbers(*numbers)).collect();

    let which = |bad: &dyn Fn(&Header) -> bool| -> Vec<u32> {
        (0u32..).zip(&headers).filter(|(_, header)| bad(header)).map(|(rank, _)| rank).collect()
    };
    let limit = headers.iter().map(|header| header.limit).min().unwrap_or_default();
    let (failed, large) = (which(&|h| h.failed), which(&|h| h.length > limit));
    let differ = which(&|h| h.identity != own.identity);
    if let [first, ..] = large[..]
        && failed.is_empty()
        && differ.is_empty()
    {
        let length = headers[first as usize].length;
        return Err(within.ended(too_large(first, length, limit).guilty(large)));
    }
    if failed.is_empty() && headers.iter().all(|header| header.identity == own.identity) {
        return Ok(headers.iter().map(|header| header.length as usize).collect());
    }

    // All ranks come here alike.
    let texts = texts(within, out, &headers)?;
    let text = |rank: u32| harmless(&String::from_utf8_lossy(&texts[rank as usize]), TEXT);
    let error = match (&failed[..], &differ[..]) {
        ([first, ..], _) => {
            let what = format!("nothing was sent: on rank {first}, {}", text(*first));
            Error::invalid(what).guilty(failed)
        }
        (_, [first, ..]) => mismatch::<T>(text(*first)).guilty(differ),
        _ => Error::new(ErrorKind::Internal, "the ranks do not agree whether their objects have one type"),
    };
    Err(within.ended(error))
}

/// Each rank's text about what it gives.
fn texts(within: &Within<'_>, out: &Outgoing, headers: &[Header]) -> Result<Vec<Vec<u8>>> {
    let length = |header: &Header| (header.text as usize).min(TEXT);
    let mut texts: Vec<Vec<u8>> = headers.iter().map(|header| vec![0; length(header)]).collect();
    let outputs = texts.iter_mut().map(|text| PlainBuf::reduced_by(text, OBJECTS)).collect();
    within.run(op::all_gather(PlainBuf::reduced_by(out.text.as_bytes(), OBJECTS), outputs))?;
    Ok(texts)
}

pub(super) fn mismatch<T>(theirs: String) -> Error {
    let kind = ErrorKind::Mismatch { field: "type", mine: type_name::<T>().to_owned(), theirs };
    Error::new(kind, "objects are taken as the type that they were given as")
}

pub(super) fn too_large(rank: u32, length: u64, limit: u64) -> Error {
    let what = format!("the object of rank {rank} has {length} bytes, and {limit} is the limit; see `Objects::limit`");
    Error::invalid(what).guilty([rank])
}
