//! Whether the ranks issue the same collectives. NCCL does not look; ranks that disagree would hang, or get garbage.
//!
//! Each rank sends the fingerprint of its call to the next rank and compares the one of the rank before, beside NCCL's own
//! work. A job is over when both are.

use std::sync::Arc;
use std::time::Duration;

use c10d_core::{Error, ErrorKind, Fingerprint, Phase, Result};
use crossbeam_channel::{Receiver, Sender, unbounded};

use crate::board::Board;
use crate::engine::Order;
use crate::side::Messages;
use crate::start::spawn;

/// A collective that this rank has issued.
struct Issued {
    id: u64,
    print: Fingerprint,
    timeout: Duration,
}

/// Where issued collectives are told.
pub(crate) struct Checks {
    tell: Sender<(Fingerprint, Duration)>,
    hear: Sender<Issued>,
}

impl Checks {
    /// Starts the two threads that tell and hear.
    pub(crate) fn start(side: &Messages, board: &Arc<Board>, orders: &Sender<Order>) -> Result<Checks> {
        let (tell, told) = unbounded::<(Fingerprint, Duration)>();
        let (hear, heard) = unbounded();
        let (teller, hearer) = (side.clone(), side.clone());
        spawn("c10d-nccl-tell", move || {
            // A peer that cannot be told is gone, which the watch over it says.
            told.into_iter().take_while(|(print, timeout)| teller.tell(print, *timeout).is_ok()).for_each(drop);
        })?;
        let (board, orders) = (board.clone(), orders.clone());
        spawn("c10d-nccl-hear", move || {
            if let Err(e) = listen(&hearer, &board, heard) {
                board.fail(e);
                let _ = orders.send(Order::Look);
            }
        })?;
        Ok(Checks { tell, hear })
    }

    /// A job's collective was given to NCCL's thread.
    pub(crate) fn issued(&self, id: u64, print: Fingerprint, timeout: Duration) {
        // Threads that are gone have failed the group.
        let _ = self.tell.send((print, timeout));
        let _ = self.hear.send(Issued { id, print, timeout });
    }
}

fn listen(side: &Messages, board: &Board, heard: Receiver<Issued>) -> Result {
    for Issued { id, print, timeout } in heard {
        // One that is late is the deadline's to name, and one that is gone the watch's.
        let Ok(theirs) = side.hear(timeout) else { return Ok(()) };
        if let Some((field, mine, theirs)) = print.disagreement(&theirs) {
            let what = "the ranks disagree about this collective";
            let kind = ErrorKind::Mismatch { field, mine, theirs };
            return Err(Error::new(kind, what).guilty([side.before()]).phase(Phase::Announce));
        }
        board.checked(id);
    }
    Ok(())
}
