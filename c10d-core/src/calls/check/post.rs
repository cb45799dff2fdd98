//! Sends and receives messages ("letters") between ranks through the group's store. Each rank has an inbox there: a
//! sequence of numbered keys, each of which holds a letter.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::CallCheck;
use super::watch::STALLED;
use crate::calls::History;
use crate::calls::letter::Letter;
use crate::panics::caught;

/// How long the store may take to write or read a letter for which no call of the user waits. If a call waits, the
/// limit is [`PATIENCE`](super::PATIENCE).
pub(super) const SOON: Duration = Duration::from_secs(5);
/// How long one request of the receiving thread to the store waits for a letter. After that the thread makes a new
/// request.
pub(super) const LISTEN: Duration = if cfg!(test) { Duration::from_millis(20) } else { Duration::from_secs(3600) };

/// What the sending thread must do.
pub(super) enum Out {
    /// Begin to watch the open calls.
    Watch,
    /// Send a letter to one rank.
    To(u32, Letter),
    /// Send a letter to all other ranks.
    All(Letter),
    /// End both threads of this rank.
    End,
}

impl CallCheck {
    pub(super) fn send(&self, letter: Out) {
        if let Some(Some(out)) = self.out.get() {
            // This fails only after `End`, when the rank has left.
            let _ = out.send(letter);
        }
    }

    /// Sends letters and watches open calls, until `End`.
    pub(super) fn deliver(&self, letters: Receiver<Out>) {
        let (mut watches, mut seen) = (false, 0);
        loop {
            let next = if watches { letters.recv_timeout(STALLED) } else { letters.recv().map_err(Into::into) };
            let soon = Instant::now() + SOON;
            match next {
                Ok(Out::Watch) => watches = true,
                Ok(Out::To(to, letter)) => self.deliver_to(to, &letter, soon),
                Ok(Out::All(letter)) => {
                    (0..self.world).filter(|to| *to != self.me).for_each(|to| self.deliver_to(to, &letter, soon));
                }
                Ok(Out::End) => {
                    // The rank has left. The empty letter wakes the thread in `receive`, which then ends.
                    self.put(self.me, &[], soon);
                    self.calls.lock().delivered = true;
                    return self.answers.notify_all();
                }
                Err(RecvTimeoutError::Timeout) => watches = self.watch(&mut seen),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    pub(super) fn deliver_to(&self, to: u32, letter: &Letter, deadline: Instant) {
        // A rank that has left does not answer questions. So if there is a last letter of that rank, this thread reads
        // it and does not send the question.
        if !matches!(letter, Letter::Ask { .. }) || !self.read_goodbye(to, deadline) {
            self.put(to, &letter.to_bytes(self.me), deadline);
        }
    }

    pub(super) fn put(&self, to: u32, bytes: &[u8], deadline: Instant) {
        let _ = caught(|| {
            let number = self.store.add(&format!("to/{to}"), 1, deadline)?;
            self.store.set(&inbox(to, number), bytes, deadline)
        });
    }

    /// Answers questions and handles other letters, until the rank has left or the store does not answer any more.
    pub(super) fn receive(&self) {
        for number in 1.. {
            let key = inbox(self.me, number);
            let Some(letter) = self.next_letter(&key) else { return };
            let _ = self.store.delete(&key, Instant::now() + SOON);
            match Letter::from_bytes(&letter).filter(|(by, _)| *by < self.world && *by != self.me) {
                Some((by, Letter::Ask { from })) => {
                    let history = self.calls.lock().history(from, History::ANSWER);
                    self.deliver_to(by, &Letter::Calls(history), Instant::now() + SOON);
                }
                Some((by, Letter::Calls(history))) => self.handle_calls(by, history, false),
                Some((by, Letter::Ended(history))) => self.ended(by, history),
                Some((by, Letter::Disagreement(disagreement))) => self.handle_disagreement(by, &disagreement),
                None if self.calls.lock().left => return,
                None => {}
            }
        }
    }

    /// Waits for the letter with this key. `None` if the rank has left, or the store does not answer any more.
    fn next_letter(&self, key: &str) -> Option<Vec<u8>> {
        loop {
            let end = Instant::now() + LISTEN;
            match self.store.get(key, end) {
                Ok(letter) => return Some(letter),
                // No letter arrived in this time. The comparison allows for a store that returns slightly before the
                // deadline.
                Err(_) if Instant::now() + LISTEN / 100 >= end && !self.calls.lock().left => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads the last letter that a peer wrote when it left, or when its program ended without leaving. Returns whether
    /// there is such a letter.
    pub(super) fn read_goodbye(&self, peer: u32, deadline: Instant) -> bool {
        let key = left(peer);
        let read = || self.store.check(&[&key], deadline)?.then(|| self.store.get(&key, deadline)).transpose();
        let Ok(Ok(Some(word))) = caught(read) else { return false };
        match Letter::from_bytes(&word) {
            Some((_, Letter::Calls(history))) => self.handle_calls(peer, history, true),
            Some((_, Letter::Ended(history))) => self.ended(peer, history),
            _ => {}
        }
        true
    }
}

fn inbox(of: u32, number: i64) -> String {
    format!("to/{of}/{number}")
}

pub(super) fn left(rank: u32) -> String {
    format!("left/{rank}")
}
