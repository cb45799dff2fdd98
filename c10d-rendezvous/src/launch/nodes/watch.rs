//! Exchanges reports with the launchers of other hosts: about failures, and about the end of a host's ranks.

use std::sync::Arc;

use rustix::event::{PollFd, PollFlags, poll};

use super::link::{Link, Word};
use crate::launch::requests::Requests;

pub(super) struct Watch {
    pub(super) node: u32,
    pub(super) links: Vec<Link>,
    pub(super) requests: Arc<Requests>,
}

impl Watch {
    /// Runs until the owner abandons the job, or until the ranks have ended: on host 0 the ranks of all hosts, on any
    /// other host its own ranks. Host 0 forwards the failures that it receives.
    pub(super) fn run(mut self) {
        let mut told_done = false;
        loop {
            let (failed, done, over) = self.requests.take_news();
            if let Some(what) = failed {
                self.send_to_all(None, &Word::Failed(format!("{what} (host {})", self.node)));
            }
            if done && !told_done {
                told_done = true;
                self.send_to_all(None, &Word::Done);
            }
            // The launcher of host 0 waits until the other hosts are done, because it serves the store.
            let finished = done && (self.node > 0 || self.links.iter().all(|link| link.done));
            if over || finished || self.links.is_empty() && done {
                return;
            }
            let mut fds = vec![PollFd::new(self.requests.news(), PollFlags::IN)];
            fds.extend(self.links.iter().map(|link| PollFd::new(link, PollFlags::IN)));
            match poll(&mut fds, None) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    tracing::warn!(error = %e, "the launcher cannot receive from the other hosts any more");
                    return;
                }
            }
            drop(fds);
            self.receive();
        }
    }

    fn receive(&mut self) {
        let mut failures = Vec::new();
        self.links.retain_mut(|link| {
            let from = if self.node == 0 { link.node } else { 0 };
            match link.receive() {
                Ok(words) => {
                    failures.extend(words.into_iter().filter_map(|word| match word {
                        Word::Failed(what) => Some((from, what)),
                        Word::Done => None,
                    }));
                    true
                }
                // The other host has reported its end.
                Err(_) if link.done => false,
                Err(e) => {
                    let how = format!("the launcher on host {from} ended before it reported on its ranks ({e})");
                    failures.push((from, how));
                    false
                }
            }
        });
        for (from, what) in failures {
            self.requests.failed_elsewhere(what.clone());
            if self.node == 0 {
                self.send_to_all(Some(from), &Word::Failed(what));
            }
        }
    }

    fn send_to_all(&mut self, but: Option<u32>, word: &Word) {
        for link in self.links.iter_mut().filter(|link| Some(link.node) != but) {
            link.send(word);
        }
    }
}
