//! One test for each kind of link: items of random sizes in both directions at once, checked byte by byte.

use std::time::{Duration, Instant};

use super::*;
use crate::pause::{Interest, Pause};

/// A small random generator (xorshift).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}

/// The seeds for [`exchange`].
pub(crate) fn seeds() -> std::ops::Range<u64> {
    1..6
}

/// Makes an item: a header of 32 bytes that begins with the length of the body, and the body.
fn item(random: &mut Random, largest: usize) -> (Vec<u8>, Vec<u8>) {
    let n = if random.below(3) == 0 { random.below(largest) } else { random.below(100) };
    let mut head = vec![0; 32];
    head[..8].copy_from_slice(&(n as u64).to_le_bytes());
    let first = random.below(256);
    (head, (0..n).map(|i| (first + i * 13) as u8).collect())
}

/// Runs one side (`me` is 0 or 1) of a link. For each seed, sends 200 random items and receives 200. Both sides make
/// the items from the seed, so a side knows what it must receive.
pub(crate) fn exchange(mut link: Link, me: u64, seeds: std::ops::Range<u64>, largest: usize) {
    for seed in seeds {
        let (mut out, mut into) = (Random::new(seed * 2 + me), Random::new(seed * 2 + 1 - me));
        let mut how = Random::new(seed + 77 * me);
        let mut pause = Pause::new(how.below(2) == 0, None);
        let (mut sent, mut received) = (0, 0);
        let (mut sending, mut done) = (item(&mut out, largest), 0);
        let (mut expected, mut got) = (item(&mut into, largest), Vec::new());
        let end = Instant::now() + Duration::from_secs(60);
        while sent < 200 || received < 200 {
            let mut progress = false;
            if sent < 200 {
                let (head, body) = &sending;
                let at = done.min(head.len());
                let body = &body[done - at..];
                let (at_body, len) = (body.as_ptr(), body.len());
                let whole = done == 0
                    && match how.below(6) {
                        0 => false,
                        // SAFETY: the pointer and the length are those of a slice.
                        1 | 2 => unsafe { link.write_whole(head, at_body, len) }.unwrap(),
                        // SAFETY: as above.
                        _ => unsafe { link.write_item(head, at_body, len) }.unwrap(),
                    };
                let n = match whole {
                    true => head.len() + body.len(),
                    // SAFETY: the pointer and the length are those of a slice.
                    false => unsafe { link.write(&head[at..], body.as_ptr(), body.len(), Lend::Nothing) }.unwrap(),
                };
                done += n;
                progress |= n > 0;
                if done == sending.0.len() + sending.1.len() {
                    link.end_write();
                    sent += 1;
                    (sending, done) = (item(&mut out, largest), 0);
                }
            }
            let left = expected.0.len() + expected.1.len() - got.len();
            if received < 200 {
                let whole = match got.is_empty() && how.below(2) == 0 {
                    true => link.peek_whole(left).unwrap(),
                    false => None,
                };
                let n = if whole.is_some() || how.below(2) == 0 {
                    let (p, n) = match whole {
                        Some((p, n)) => (p, n.min(left)),
                        None => {
                            let (p, n) = link.peek().unwrap();
                            (p, n.min(left).min(1 + how.below(3000)))
                        }
                    };
                    // SAFETY: the link has at least `n` bytes, and the other side does not change them.
                    got.extend_from_slice(unsafe { slice::from_raw_parts(p, n) });
                    assert!(link.consume(n));
                    n
                } else {
                    let mut to = vec![0; left.min(1 + how.below(20_000))];
                    // SAFETY: the pointer and the length are those of a vector.
                    let n = unsafe { link.read(to.as_mut_ptr(), to.len(), false) }.unwrap();
                    got.extend_from_slice(&to[..n]);
                    n
                };
                progress |= n > 0;
                if n == left {
                    assert!(got[..32] == expected.0 && got[32..] == expected.1, "item {received} of seed {seed}");
                    link.end_read();
                    received += 1;
                    (expected, got) = (item(&mut into, largest), Vec::new());
                }
            }
            if progress {
                pause.reset();
            } else if let Some(now) = pause.wait([Interest::of(&link, received < 200, sent < 200)]) {
                assert!(now < end, "stuck at {sent} sent, {received} received of seed {seed}");
            }
        }
    }
}
