//! The op, and the executor that runs it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::backend::Fingerprint;
use c10d_core::{OpKind, Result};

use super::announce::{HEADER, Header};
use super::memory::{Spaces, glance};
use super::notes::{Notes, is_note};
use super::reduction::Reduction;
use crate::link::Link;
use crate::mesh::{Health, Open};
use crate::pause::{Interest, Pause};
use crate::plan::{Action, Plan, Step, StepId};
use crate::shm::{Lend, Payload, multicast_pays};
use c10d_core::calls::{Doubt, Whom};

/// A call, as all ranks make it.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    /// The facts on which all ranks must agree.
    pub(crate) fingerprint: Fingerprint,
    pub(crate) op: OpKind,
    /// The root, if the op has one.
    pub(crate) root: u32,
}

impl Call {
    /// Returns the ranks from which `rank` receives nothing in this call. Later, `rank` must check whether these ranks
    /// made the same call.
    #[inline]
    pub(super) fn unheard_by(&self, rank: u32, world: u32) -> Whom {
        Whom::after(self.op, rank, self.root, world)
    }
}

/// One op, as this rank runs it.
pub(crate) struct Op<'a> {
    pub(crate) plan: &'a Plan,
    /// The facts on which all ranks must agree.
    pub(crate) fingerprint: Fingerprint,
    /// Whether lengths may differ between ranks. Then only sender and receiver can compare the length of what one sends
    /// to the other.
    pub(crate) uneven: bool,
    /// The bytes of an element; 1 if there are no elements.
    pub(crate) elem: usize,
    pub(crate) reduction: Option<Reduction>,
    /// Returns the deadline. Called only if the op does not end at once.
    pub(crate) deadline: &'a dyn Fn() -> Instant,
}

/// One direction of the traffic with one peer, during one op.
#[derive(Clone, Copy, Default)]
pub(super) struct Direction {
    /// The number of payload bytes in this op.
    pub(super) total: u64,
    /// The number of bytes of the header that have been sent or received.
    pub(super) head: usize,
    /// Whether the op has items in this direction.
    pub(super) used: bool,
    /// The last sweep (a pass over the pending steps) that could not finish an item: later items must wait.
    pub(super) blocked: u32,
    /// The last sweep in which the link had too few bytes, or no room.
    pub(super) starved: u32,
}

#[derive(Clone, Copy, Default)]
pub(super) struct Traffic {
    pub(super) out: Direction,
    pub(super) into: Direction,
}

/// The number of collectives from one check to the next. A check compares this rank's calls with those of ranks from
/// which this rank received nothing. The answer to a question about a call has arrived by the second check after the
/// call.
pub(super) const LOOK_EVERY: u32 = 4;

/// How many calls ago the oldest call was made that [`Executor::settles_early`] handles. Such a call is still in this
/// rank's call log.
const OLDEST_FRESH: u64 = 48;

/// How long a rank waits for notes before it asks the peers about their calls. A question with its answer takes about
/// as long.
const NOTE_WAIT: Duration = Duration::from_micros(30);
/// How long a rank waits for notes of the hub (the root of a reduce or gather). The hub has more work per call than
/// this rank, and questions would delay it. This rank gains nothing by being far ahead of the hub.
const HUB_WAIT: Duration = Duration::from_micros(500);

/// The value of [`Executor::done`] for a step that is done.
pub(super) const OVER: usize = usize::MAX;

/// Runs the ops of one lane on one rank, one after the other.
pub(crate) struct Executor {
    pub(super) rank: u32,
    /// The links, by rank; `None` for this rank.
    pub(super) links: Vec<Option<Link>>,
    /// Whether all peers can read this rank's multicast ring.
    pub(super) has_multicast: bool,
    /// By step of the op that runs: the bytes that the step sends through this ring. Empty if no step does.
    pub(super) payloads: Vec<Option<Payload>>,
    pub(super) health: Arc<Health>,
    pub(super) pause: Pause,
    pub(super) traffic: Vec<Traffic>,
    /// The number of bytes that are done, by step.
    pub(super) done: Vec<usize>,
    /// The steps that are not done, in plan order.
    pub(super) pending: Vec<StepId>,
    pub(super) sweep: u32,
    /// The number of payload bytes that were sent in all ops so far.
    pub(super) sent: u64,
    /// Whether the peers of the last exchange had room for its items.
    pub(super) has_room: bool,
    pub(super) begun: u64,
    /// The calls in doubt (see `mesh::health::doubt`) that `health` does not have yet.
    pub(super) fresh: Vec<Doubt>,
    /// Whether calls that are not in `fresh` are in doubt.
    pub(super) has_older: bool,
    /// Whether calls are in doubt.
    pub(super) in_doubt: bool,
    /// The number of collectives since the last check, while calls are in doubt.
    pub(super) unlooked: u32,
    /// The notes: what ranks tell each other over TCP about their calls. `None` if all peers share memory with this
    /// rank.
    pub(super) notes: Option<Notes>,
}

impl Executor {
    /// Makes an executor. `links[p]` leads to rank `p`; the entry of this rank is `None`.
    pub(crate) fn new(rank: u32, links: Vec<Option<Link>>, health: Arc<Health>, pause: Pause) -> Executor {
        let traffic = vec![Traffic::default(); links.len()];
        let notes = Notes::new(&links);
        let has_multicast = links.iter().flatten().all(Link::has_multicast);
        Executor {
            rank,
            links,
            has_multicast,
            payloads: Vec::new(),
            health,
            pause,
            traffic,
            done: Vec::new(),
            pending: Vec::new(),
            sweep: 0,
            sent: 0,
            has_room: true,
            begun: 0,
            fresh: Vec::with_capacity(OLDEST_FRESH as usize + LOOK_EVERY as usize),
            has_older: false,
            in_doubt: false,
            unlooked: 0,
            notes,
        }
    }

    /// Returns the links to the peers, for use between two ops.
    pub(crate) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        (0..).zip(&self.links).filter_map(|(peer, link)| Some((peer, link.as_ref()?)))
    }

    pub(crate) fn all_share_memory(&self) -> bool {
        self.links.iter().flatten().all(|link| matches!(link, Link::Shm(_)))
    }

    /// See [`Pause::beside_others`].
    #[inline]
    pub(crate) fn beside_others(&mut self, beside: bool) {
        self.pause.beside_others(beside);
    }

    /// Chooses the steps that send through the multicast ring. All steps that send the same bytes use the same way.
    pub(super) fn choose_payloads(&mut self, plan: &Plan, spaces: &Spaces, lend: Lend) {
        self.payloads.clear();
        let pays = |step: &Step| match step.action {
            Action::Send { from, copies: copies @ 2.., .. } if multicast_pays(from.len, copies) => Some((from, copies)),
            _ => None,
        };
        if !self.has_multicast || !plan.steps.iter().any(|step| pays(step).is_some()) {
            return;
        }
        // If the peers read private memory of this rank, its bytes are copied only once even without the multicast
        // ring.
        let links = || self.links.iter().flatten();
        if lend == Lend::All && links().any(Link::lends_private) {
            return;
        }
        let payload = |step| {
            let (from, copies) = pays(step)?;
            let at = spaces.address(&from)?;
            // Bytes that a link lends in place do not go through the ring.
            let is_lent = links().any(|link| link.lends(at, from.len));
            (!is_lent).then_some(Payload { at, len: from.len, copies })
        };
        self.payloads.extend(plan.steps.iter().map(payload));
    }

    /// Returns how many payload bytes this rank has sent in all ops.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Compares the other ranks' calls with this rank's calls, and waits for answers to earlier questions. `has_hub`:
    /// the last call has a hub.
    pub(super) fn verify(&mut self, has_hub: bool) -> Result {
        self.unlooked = 0;
        self.in_doubt = if self.notes.is_some() {
            self.verify_by_notes(if has_hub { HUB_WAIT } else { NOTE_WAIT })?
        } else {
            self.health.verify(&mut self.fresh, true)?
        };
        self.has_older = self.in_doubt;
        Ok(())
    }

    /// Settles the calls in doubt that all peers have made, if all peers share memory. This is faster than
    /// [`verify`](Executor::verify), since it reads one word per call and peer. Returns `false` if `verify` must check
    /// now, since a peer has made another call, or has made a call so long ago that its log has forgotten it.
    #[inline]
    pub(super) fn settles_early(&mut self) -> bool {
        let age = self.fresh.first().map_or(0, |oldest| self.begun - oldest.number);
        if self.notes.is_some() || self.has_older || age > OLDEST_FRESH {
            return false;
        }
        // A peer may differ in a later call than the one that another peer has not made yet, so all calls are compared.
        let (mut settled, mut waits) = (0, false);
        for doubt in &self.fresh {
            match self.health.compare_digests(doubt.number) {
                Some(true) if !waits => settled += 1,
                Some(true) => {}
                Some(false) => return false,
                None => waits = true,
            }
        }
        self.fresh.drain(..settled);
        self.unlooked = 0;
        self.in_doubt = !self.fresh.is_empty();
        true
    }

    /// Compares the other ranks' calls with this rank's calls, without waiting.
    pub(super) fn glance_at_calls(&mut self) -> Result {
        self.unlooked = 0;
        self.in_doubt = self.health.verify(&mut self.fresh, false)?;
        self.has_older = self.in_doubt;
        Ok(())
    }

    /// Compares calls by notes. If a note about a call before the last check is missing, waits for it up to `patience`,
    /// then asks the peers. Returns whether calls are in doubt.
    fn verify_by_notes(&mut self, patience: Duration) -> Result<bool> {
        let before = self.fresh.first().map_or(self.begun, |doubt| doubt.number);
        let mut open = self.compare_notes(before)?;
        let Some(prompt) = self.notes.as_ref().map(|notes| notes.prompt) else { return Ok(false) };
        if open == Open::Old && prompt {
            let until = Instant::now() + patience;
            while open == Open::Old && Instant::now() < until {
                let links = self.links.iter().flatten().filter(|link| matches!(link, Link::Tcp(_)));
                self.pause.wait(links.map(|link| Interest::of(link, true, false)));
                open = self.compare_notes(before)?;
            }
            self.pause.reset();
        }
        if let Some(notes) = &mut self.notes {
            notes.prompt = open != Open::Old;
        }
        if open == Open::Old { self.health.ask_about(before) } else { Ok(open == Open::Young) }
    }

    /// Compares this rank's calls with the peers' calls in shared memory and notes.
    fn compare_notes(&mut self, before: u64) -> Result<Open> {
        for peer in 0..self.links.len() as u32 {
            self.take_notes(peer);
        }
        let agreed = self.notes.as_mut().map_or(&[][..], Notes::agreed);
        self.health.compare_calls(&mut self.fresh, agreed, before)
    }

    /// Takes the notes that are in the stream before the next header of `peer`. If the link is broken, the next op that
    /// needs it returns the error.
    pub(super) fn take_notes(&mut self, peer: u32) {
        let (Some(notes), Some(Some(link @ Link::Tcp(_)))) = (&mut self.notes, self.links.get_mut(peer as usize))
        else {
            return;
        };
        while let Some(header) = glance(link).first::<HEADER>().map(|bytes| Header::from_bytes(&bytes))
            && is_note(&header)
        {
            // `consume` fails only for lent bytes, and a header is never lent.
            let _ = link.consume(HEADER);
            notes.take(peer, &header);
        }
    }
}
