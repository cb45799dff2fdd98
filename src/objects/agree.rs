//! The first step of every collective of objects: the ranks exchange headers. After that, either all ranks continue the
//! call, or all reject it.

use std::any::type_name;

use c10d_core::text::harmless;
use c10d_core::{Error, ErrorKind, Result, op};

use super::codec::{Header, NUMBERS, Outgoing, TEXT};
use crate::plain::PlainBuf;
use crate::within::Within;

/// The name whose hash is in the fingerprint of every call that moves objects.
pub(super) const OBJECTS: &str = "objects";

/// Exchanges headers with all ranks. Returns for each rank the length of its object, or of the largest of its objects.
/// If an object cannot be sent or is too large, or if the types differ, no object is sent, and all ranks get an error
/// that names the ranks at fault.
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

    // All ranks have the same headers, so either all ranks reach this point or none does.
    let texts = texts(within, out, &headers)?;
    let text = |rank: u32| harmless(&String::from_utf8_lossy(&texts[rank as usize]), TEXT);
    let error = match (&failed[..], &differ[..]) {
        ([first, ..], _) => {
            let what = format!("no object was sent: on rank {first}, {}", text(*first));
            Error::invalid(what).guilty(failed)
        }
        (_, [first, ..]) => mismatch::<T>(text(*first)).guilty(differ),
        _ => Error::new(ErrorKind::Internal, "the headers of the objects contradict each other"),
    };
    Err(within.ended(error))
}

/// Returns the texts of all ranks. A rank's text is the type of its object, or why the object cannot be sent.
fn texts(within: &Within<'_>, out: &Outgoing, headers: &[Header]) -> Result<Vec<Vec<u8>>> {
    let length = |header: &Header| (header.text as usize).min(TEXT);
    let mut texts: Vec<Vec<u8>> = headers.iter().map(|header| vec![0; length(header)]).collect();
    let outputs = texts.iter_mut().map(|text| PlainBuf::reduced_by(text, OBJECTS)).collect();
    within.run(op::all_gather(PlainBuf::reduced_by(out.text.as_bytes(), OBJECTS), outputs))?;
    Ok(texts)
}

pub(super) fn mismatch<T>(theirs: String) -> Error {
    let kind = ErrorKind::Mismatch { field: "type", mine: type_name::<T>().to_owned(), theirs };
    Error::new(kind, "all ranks must give or expect objects of the same type")
}

pub(super) fn too_large(rank: u32, length: u64, limit: u64) -> Error {
    let what =
        format!("the object of rank {rank} has {length} bytes, but the limit is {limit} bytes; see `Objects::limit`");
    Error::invalid(what).guilty([rank])
}
