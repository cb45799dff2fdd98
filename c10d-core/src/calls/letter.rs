//! The messages ("letters") that ranks write to each other about their calls, and their form in the store. The bytes
//! that are read are not trusted: they are limited in size, and invalid bytes are ignored.

use super::History;
use crate::ErrorKind;
use crate::backend::Fingerprint;

/// The largest length in bytes of a field's value in a letter. Longer values are cut.
const TEXT: usize = 200;

/// A message from one rank to another.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Letter {
    /// A question: which calls has the receiver made, from number `from` on?
    Ask { from: u64 },
    /// An answer: the calls of the sender. A rank that leaves also writes such a letter, for ranks that ask later.
    Calls(History),
    /// The calls of the sender, whose program ends without leaving the group.
    Ended(History),
    /// The group of the sender has failed, since the sender's call differs from the call of another rank.
    Disagreement(Disagreement),
}

/// The report of one of two ranks that made different calls.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Disagreement {
    /// The call of the reporting rank.
    pub(super) mine: Fingerprint,
    /// The rank that made the other call.
    pub(super) peer: u32,
    /// The field that differs, the value of the reporting rank, and the value of the other rank.
    pub(super) differs: (&'static str, String, String),
}

impl Letter {
    /// Returns the bytes of a letter that rank `by` writes to the store.
    pub(super) fn to_bytes(&self, by: u32) -> Vec<u8> {
        let mut out = by.to_le_bytes().to_vec();
        match self {
            Letter::Ask { from } => {
                out.push(0);
                out.extend_from_slice(&from.to_le_bytes());
            }
            Letter::Calls(history) | Letter::Ended(history) => {
                out.push(if matches!(self, Letter::Ended(_)) { 3 } else { 1 });
                out.extend_from_slice(&history.until.to_le_bytes());
                for (number, fingerprint) in &history.calls {
                    out.extend_from_slice(&number.to_le_bytes());
                    out.extend_from_slice(&fingerprint.to_bytes());
                }
            }
            Letter::Disagreement(Disagreement { mine, peer, differs: (field, value, other) }) => {
                out.push(2);
                out.extend_from_slice(&mine.to_bytes());
                out.extend_from_slice(&peer.to_le_bytes());
                out.push(ErrorKind::field_code(field));
                for text in [value, other] {
                    // This is `str::floor_char_boundary`, which the oldest supported compiler does not have.
                    let end = (0..=TEXT.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                    let text = &text[..end];
                    out.push(text.len() as u8);
                    out.extend_from_slice(text.as_bytes());
                }
            }
        }
        out
    }

    /// Reads the rank of the sender and the letter. `None` if the bytes are not a letter.
    pub(super) fn from_bytes(mut bytes: &[u8]) -> Option<(u32, Letter)> {
        let rest = &mut bytes;
        let by = u32::from_le_bytes(take(rest)?);
        let letter = match take::<1>(rest)? {
            [0] => Letter::Ask { from: u64::from_le_bytes(take(rest)?) },
            [kind @ (1 | 3)] => {
                let until = u64::from_le_bytes(take(rest)?);
                let mut calls = Vec::new();
                while !rest.is_empty() && calls.len() < History::GOODBYE {
                    calls.push((u64::from_le_bytes(take(rest)?), Fingerprint::from_bytes(&take(rest)?)));
                }
                let history = History { until, calls };
                if kind == 3 { Letter::Ended(history) } else { Letter::Calls(history) }
            }
            [2] => {
                let mine = Fingerprint::from_bytes(&take(rest)?);
                let peer = u32::from_le_bytes(take(rest)?);
                let field = ErrorKind::FIELDS.get(usize::from(take::<1>(rest)?[0]))?;
                let differs = (*field, text(rest)?, text(rest)?);
                Letter::Disagreement(Disagreement { mine, peer, differs })
            }
            _ => return None,
        };
        rest.is_empty().then_some((by, letter))
    }
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = bytes.split_first_chunk()?;
    *bytes = tail;
    Some(*head)
}

fn text(bytes: &mut &[u8]) -> Option<String> {
    let len = usize::from(take::<1>(bytes)?[0]);
    let (head, tail) = bytes.split_at_checked(len)?;
    *bytes = tail;
    Some(String::from_utf8_lossy(head).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_arrive_as_they_were_written() {
        let call = Fingerprint { seq: 3, op: 5, root: 2, ..Fingerprint::default() };
        let about =
            |field, value: &str| Disagreement { mine: call, peer: 7, differs: (field, value.into(), "1".into()) };
        let disagreement = |value: &str| about("root", value);
        let letters = [
            Letter::Ask { from: 9 },
            Letter::Calls(History { until: 4, calls: vec![(2, call), (3, call)] }),
            Letter::Ended(History { until: 4, calls: vec![(3, call)] }),
            Letter::Disagreement(disagreement("2")),
            Letter::Disagreement(about("type", "test::Mine")),
            Letter::Disagreement(about("sparse_indices", "not given")),
        ];
        for letter in letters {
            let bytes = letter.to_bytes(6);
            assert_eq!(Letter::from_bytes(&bytes), Some((6, letter)));
            for len in 0..bytes.len() {
                let _ = Letter::from_bytes(&bytes[..len]);
            }
        }
        let long = Letter::Disagreement(disagreement(&"ä".repeat(150))).to_bytes(6);
        assert_eq!(Letter::from_bytes(&long), Some((6, Letter::Disagreement(disagreement(&"ä".repeat(100))))));
        for bytes in [&[][..], &[9; 4], &[9; 5], &[1, 0, 0, 0, 2, 3], &[0xff; 400]] {
            assert_eq!(Letter::from_bytes(bytes), None);
        }
    }
}
