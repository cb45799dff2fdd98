//! The thread that reports completed operations to the host.
//!
//! The report of a failure may abort the group, which takes locks of the backend. The thread that completes an
//! operation may hold these locks.
#![allow(unsafe_code)]

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::task::{Context, Poll, Wake, Waker};

use c10d_core::{Error, ErrorKind, OpError, Outcome, Work};

use super::store::HostTable;
use crate::abi::{self, DoneFn, codes};

/// A message to the reporter.
pub(super) enum News {
    Started {
        token: u64,
        done: DoneFn,
        work: Box<Work<Outcome>>,
    },
    /// The operation with this token may be done, so the reporter must poll it again.
    Stirred(u64),
    /// The group was dropped. The reporter ends after the last operation.
    Over,
}

struct Bell {
    token: u64,
    news: Sender<News>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        let _ = self.news.send(News::Stirred(self.token));
    }
}

type Running = HashMap<u64, (DoneFn, Box<Work<Outcome>>)>;

pub(super) fn report(host_table: HostTable, heard: &Receiver<News>, bell: &Sender<News>) {
    let mut running = Running::new();
    let mut over = false;
    while !(over && running.is_empty()) {
        let Ok(news) = heard.recv() else { return };
        let token = match news {
            News::Started { token, done, work } => {
                running.insert(token, (done, work));
                token
            }
            News::Stirred(token) => token,
            News::Over => {
                over = true;
                continue;
            }
        };
        let Some((done, work)) = running.get_mut(&token) else { continue };
        let waker = Waker::from(Arc::new(Bell { token, news: bell.clone() }));
        if let Poll::Ready(result) = Pin::new(&mut **work).poll(&mut Context::from_waker(&waker)) {
            let done = *done;
            running.remove(&token);
            tell(&host_table, done, token, result);
        }
    }
}

fn tell(host_table: &HostTable, done: DoneFn, token: u64, result: Result<Outcome, OpError<Outcome>>) {
    let (outcome, error) = match result {
        Ok(outcome) => (outcome, None),
        Err(e) => (Outcome::default(), Some(e.error)),
    };
    let message = error.as_ref().map(words).unwrap_or_default();
    let (field, mine, theirs) = match error.as_ref().map(Error::kind) {
        Some(ErrorKind::Mismatch { field, mine, theirs }) => (*field, mine.as_str(), theirs.as_str()),
        _ => ("", "", ""),
    };
    let guilty: &[u32] = error.as_ref().map_or(&[], |e| &e.report().guilty);
    let result = abi::Result {
        status: error.as_ref().map_or(codes::OK, codes::status),
        source: outcome.source,
        guilty_count: guilty.len() as u32,
        guilty: guilty.as_ptr(),
        message: message.as_ptr().cast(),
        message_len: message.len() as u64,
        field: field.as_ptr().cast(),
        field_len: field.len() as u64,
        mine: mine.as_ptr().cast(),
        mine_len: mine.len() as u64,
        theirs: theirs.as_ptr().cast(),
        theirs_len: theirs.len() as u64,
        ..abi::empty()
    };
    // SAFETY: the host gave this table and this function. The operation is done, and `done` is called once.
    unsafe { done(host_table.host(), token, &result) };
}

/// Returns the text of the error, without the parts that the host adds.
fn words(error: &Error) -> String {
    let report = error.report();
    let mut words = match &report.kind {
        ErrorKind::PeerDead { how } if report.what.is_empty() => how.clone(),
        _ => report.what.clone(),
    };
    if let Some(source) = &report.source {
        words = format!("{words}: {source}");
    }
    words
}
