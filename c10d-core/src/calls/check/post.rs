//! The messages ("letters") between ranks, in the group's store: each rank has an inbox there with numbered letters.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use super::CallCheck;
use super::watch::STALLED;
use crate::calls::History;
use crate::calls::letter::Letter;
use crate::panics::caught;

/// How long the store may take for a message that nobody waits for.
pub(super) const SOON: Duration = Duration::from_secs(5);
/// No deadline; the store may have a limit of its own.
const LONG: Duration = Duration::from_secs(3600);

/// A task for the sending thread.
pub(super) enum Out {
    /// There are open calls to watch.
    Watch,
    To(u32, Letter),
    /// To all.
    All(Letter),
    End,
}

impl CallCheck {
    pub(super) fn send(&self, letter: Out) {
        if let Some(Some(out)) = self.out.get() {
            // If the thread is gone, the store was gone before.
            let _ = out.send(letter);
        }
    }

    /// Sends letters, and watches open calls.
    pub(super) fn deliver(&self, letters: Receiver<Out>) {
        let (mut watches, mut seen) = (false, 0);
        loop {
            let next = if watches { letters.recv_timeout(STALLED[0]) } else { letters.recv().map_err(Into::into) };
            let soon = Instant::now() + SOON;
            match next {
                Ok(Out::Watch) => watches = true,
                Ok(Out::To(to, letter)) => self.deliver_to(to, &letter, soon),
                Ok(Out::All(letter)) => {
                    (0..self.world).filter(|to| *to != self.me).for_each(|to| self.deliver_to(to, &letter, soon));
                }
                // Wakes the thread that waits in `receive`.
                Ok(Out::End) => return self.put(self.me, &[], soon),
                Err(RecvTimeoutError::Timeout) => watches = self.watch(&mut seen),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    pub(super) fn deliver_to(&self, to: u32, letter: &Letter, deadline: Instant) {
        // A rank that has left does not answer.
        if !matches!(letter, Letter::Ask { .. }) || !self.read_last_word(to, deadline) {
            self.put(to, &letter.to_bytes(self.me), deadline);
        }
    }

    pub(super) fn put(&self, to: u32, bytes: &[u8], deadline: Instant) {
        let _ = caught(|| {
            let number = self.store.add(&format!("to/{to}"), 1, deadline)?;
            self.store.set(&inbox(to, number), bytes, deadline)
        });
    }

    /// Answers questions and handles answers, until the rank leaves or the store is gone.
    pub(super) fn receive(&self) {
        for number in 1.. {
            let key = inbox(self.me, number);
            let limit = Instant::now() + LONG;
            let Ok(letter) = self.store.get(&key, limit) else { return };
            let _ = self.store.delete(&key, Instant::now() + SOON);
            match Letter::from_bytes(&letter).filter(|(by, _)| *by < self.world && *by != self.me) {
                Some((by, Letter::Ask { from })) => {
                    let history = self.calls.lock().history(from, History::ANSWER);
                    self.deliver_to(by, &Letter::Told(history), Instant::now() + SOON);
                }
                Some((by, Letter::Told(history))) => self.told(by, history, false),
                Some((by, Letter::Ended(history))) => self.ended(by, history),
                Some((by, Letter::Parted(parted))) => self.parted(by, &parted),
                None if self.calls.lock().left => return,
                None => {}
            }
        }
    }

    /// Reads the history that a peer wrote when it left, if it has left.
    pub(super) fn read_last_word(&self, peer: u32, deadline: Instant) -> bool {
        let key = left(peer);
        let read = || self.store.check(&[&key], deadline)?.then(|| self.store.get(&key, deadline)).transpose();
        let Ok(Ok(Some(word))) = caught(read) else { return false };
        match Letter::from_bytes(&word) {
            Some((_, Letter::Told(history))) => self.told(peer, history, true),
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
