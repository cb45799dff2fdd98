//! Notes: messages by which ranks that do not share memory learn that they make the same calls.
//!
//! The root of a broadcast receives no headers, so the root does not notice that another rank makes another call.
//! Therefore each rank sends a note to each rank that received nothing from it. A note has the number of the sender's
//! calls and a digest of these calls. If the digest equals the receiver's digest of the same number of calls, the two
//! ranks made the same calls. If the digests differ, or if no note arrives in time, the receiver asks the sender over
//! the control connection, which is expensive.
//!
//! A rank sends notes three calls after the first call in which a peer received nothing from it. A rank looks for notes
//! once every four calls. A note has the form of a header, and is sent before the header of the next item. In a reduce
//! or gather only the root sends notes: the root has compared the headers of all other ranks with its own call.

use std::collections::VecDeque;

use c10d_core::backend::Fingerprint;

use super::announce::{HEADER, Header};
use crate::link::Link;

/// The value in a note's header in place of the op's code.
const NOTE: u8 = u8::MAX;
/// The value of [`Notes::unheard`] at which a rank sends notes.
const EVERY: u32 = 4;
/// The number of digests that a rank stores.
const KEPT: usize = 64;
/// The largest number of notes in [`NotePeer::ahead`]; further notes replace the oldest.
const AHEAD: usize = 16;

pub(super) struct Notes {
    /// The digests of the latest calls: `digests[n % KEPT]` is the digest of the first `n` calls.
    digests: [u64; KEPT],
    /// The number of calls that this rank has made.
    made: u64,
    /// 0 if each peer has received something from this rank in every call since the last notes. Otherwise the number of
    /// calls since the first call in which a peer received nothing, including that call.
    unheard: u32,
    peers: Vec<NotePeer>,
    /// For each peer, a number `n`: the peer's first `n` calls are the same as this rank's.
    agreed: Vec<u64>,
    /// Whether recent notes arrived in time. If so, it is useful to wait briefly for a note.
    pub(super) prompt: bool,
}

#[derive(Clone, Default)]
struct NotePeer {
    /// Whether, since the last note, there was a call in which the peer received nothing from this rank.
    due: bool,
    /// The rest of a partly sent note.
    rest: VecDeque<u8>,
    /// Notes that were not compared yet, for example because this rank has yet to make the calls. Each is a number of
    /// calls and their digest.
    ahead: VecDeque<(u64, u64)>,
}

impl Notes {
    /// Makes the notes of a rank with these links. `None` if all peers share memory with this rank: no peer needs
    /// notes.
    pub(super) fn new(links: &[Option<Link>]) -> Option<Notes> {
        let needed = links.iter().flatten().any(|link| matches!(link, Link::Tcp(_)));
        let peers = vec![NotePeer::default(); links.len()];
        let agreed = vec![0; links.len()];
        needed.then_some(Notes { digests: [0; KEPT], made: 0, unheard: 0, peers, agreed, prompt: true })
    }

    /// Records a call of this rank. The ranks `missed` received nothing from this rank. Returns whether notes are due.
    pub(super) fn made(&mut self, call: &Fingerprint, missed: impl Iterator<Item = u32>) -> bool {
        let digest = extend(self.digests[self.made as usize % KEPT], call);
        self.made += 1;
        self.digests[self.made as usize % KEPT] = digest;
        let mut due = self.unheard > 0;
        for peer in missed {
            self.peers[peer as usize].due = true;
            due = true;
        }
        self.unheard += u32::from(due);
        self.unheard >= EVERY
    }

    /// Sends the notes that are due. If the link has no room, the note is not sent; the peer asks this rank instead if
    /// it needs the note.
    pub(super) fn send(&mut self, links: &mut [Option<Link>]) {
        self.unheard = 0;
        let digest = self.digests[self.made as usize % KEPT];
        let note = note(self.made, digest).to_bytes();
        for (peer, link) in self.peers.iter_mut().zip(links) {
            if !std::mem::take(&mut peer.due) {
                continue;
            }
            if let Some(link @ Link::Tcp(_)) = link
                && peer.rest.is_empty()
                // The next op that needs the link returns its error.
                && let Ok(taken @ 1..HEADER) = link.write_head(&note)
            {
                peer.rest.extend(&note[taken..]);
            }
        }
    }

    /// Sends the rest of a partly sent note, before any other bytes. Returns whether the whole note has been sent.
    pub(super) fn flush(&mut self, peer: u32, link: &mut Link) -> c10d_core::Result<bool> {
        let rest = &mut self.peers[peer as usize].rest;
        while !rest.is_empty() {
            let taken = link.write_head(rest.make_contiguous())?;
            if taken == 0 {
                return Ok(false);
            }
            rest.drain(..taken);
        }
        Ok(true)
    }

    pub(super) fn take(&mut self, peer: u32, header: &Header) {
        let Some(peer) = self.peers.get_mut(peer as usize) else { return };
        if peer.ahead.len() == AHEAD {
            peer.ahead.pop_front();
        }
        peer.ahead.push_back(read(header));
    }

    /// Compares the notes that have arrived. Returns for each peer a number `n`: its first `n` calls are the same as
    /// this rank's.
    pub(super) fn agreed(&mut self) -> &[u64] {
        for (peer, agreed) in self.peers.iter_mut().zip(&mut self.agreed) {
            while let Some((made, digest)) = peer.ahead.front().copied().filter(|(made, _)| *made <= self.made) {
                peer.ahead.pop_front();
                let remembered = self.made - made < KEPT as u64;
                if remembered && self.digests[made as usize % KEPT] == digest {
                    *agreed = made.max(*agreed);
                }
            }
        }
        &self.agreed
    }
}

#[inline]
pub(super) fn is_note(header: &Header) -> bool {
    header.fingerprint.op == NOTE
}

fn note(made: u64, digest: u64) -> Header {
    Header { fingerprint: Fingerprint { op: NOTE, count: made, ..Fingerprint::default() }, total: digest }
}

fn read(note: &Header) -> (u64, u64) {
    (note.fingerprint.count, note.total)
}

/// Extends the digest by a call. It need not resist attacks: two different lists of calls must only be unlikely to have
/// the same digest.
#[inline]
fn extend(digest: u64, call: &Fingerprint) -> u64 {
    let bytes = call.to_bytes();
    bytes.chunks_exact(8).fold(digest, |digest, word| {
        let word = u64::from_le_bytes(word.try_into().unwrap_or_default());
        let mixed = (digest ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ mixed >> 29
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(seq: u32, root: u32) -> Fingerprint {
        Fingerprint { seq, op: 1, root, ..Fingerprint::default() }
    }

    fn notes() -> Notes {
        let peers = vec![NotePeer::default(); 2];
        Notes { digests: [0; KEPT], made: 0, unheard: 0, peers, agreed: vec![0; 2], prompt: true }
    }

    /// Returns the notes of a rank after calls with these roots, and the note that reports these calls.
    fn after(roots: impl IntoIterator<Item = u32>) -> (Notes, Header) {
        let mut notes = notes();
        for (seq, root) in (0..).zip(roots) {
            notes.made(&call(seq, root), [1].into_iter());
        }
        let header = note(notes.made, notes.digests[notes.made as usize % KEPT]);
        (notes, Header::from_bytes(&header.to_bytes()))
    }

    #[test]
    fn the_same_calls_agree() {
        let (mut mine, theirs) = after([0; 100]);
        assert!(is_note(&theirs));
        mine.take(1, &theirs);
        assert_eq!(mine.agreed(), [0, 100]);
    }

    #[test]
    fn notes_with_one_different_call_do_not_agree() {
        for odd in 0..8 {
            let (mut mine, _) = after([0; 8]);
            mine.take(1, &after((0..8).map(|i| u32::from(i == odd))).1);
            assert_eq!(mine.agreed()[1], 0, "{odd}");
        }
    }

    #[test]
    fn a_note_of_a_peer_that_is_ahead_counts_later() {
        let (mut mine, _) = after([0; 4]);
        mine.take(1, &after([0; 4]).1);
        mine.take(1, &after([0; 6]).1);
        assert_eq!(mine.agreed()[1], 4);
        mine.made(&call(4, 0), [].into_iter());
        assert_eq!(mine.agreed()[1], 4);
        mine.made(&call(5, 0), [].into_iter());
        assert_eq!(mine.agreed()[1], 6);
    }

    #[test]
    fn old_notes_are_ignored_and_memory_is_bounded() {
        let (mut mine, _) = after([0; 200]);
        mine.take(1, &after([0; 100]).1);
        assert_eq!(mine.agreed()[1], 0);
        (0..1000).for_each(|_| mine.take(1, &note(u64::MAX, 7)));
        assert_eq!((mine.agreed()[1], mine.peers[1].ahead.len()), (0, AHEAD));
        mine.take(9, &note(1, 1));
    }

    #[test]
    fn notes_are_due_three_calls_after_the_first_call_that_a_peer_missed() {
        let mut notes = notes();
        let mut calls = |missed: &[u32]| -> Vec<bool> {
            let due = missed.iter().map(|missed| {
                let due = notes.made(&call(0, 0), (0..*missed).map(|_| 1));
                if due {
                    notes.send(&mut [None, None]);
                }
                due
            });
            due.collect()
        };
        assert_eq!(calls(&[1, 1, 1, 1, 1, 1, 1, 1]), [false, false, false, true, false, false, false, true]);
        // Notes are due as often if the root changes.
        assert_eq!(calls(&[1, 0, 1, 0, 1, 0, 1, 0]), [false, false, false, true, false, false, false, true]);
        assert_eq!(calls(&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0]), [&[false; 8][..], &[true, false]].concat());
    }
}
