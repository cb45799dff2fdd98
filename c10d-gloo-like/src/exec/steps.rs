//! Advances the steps of a plan, each as far as possible.

use c10d_core::Result;

use super::announce::{HEADER, Header, length_error};
use super::executor::{Executor, OVER, Op};
use super::failure::broken;
use super::memory::{Shown, Spaces, peek};
use super::notes::is_note;
use crate::plan::{Action, After, Region, StepId};

/// How many bytes a step reduces or copies before the sweep goes on to the next step: enough to be efficient, few
/// enough to stay in the cache.
const CHUNK: usize = 64 << 10;

impl Executor {
    /// Visits every unfinished step once. Returns whether anything moved.
    #[inline]
    pub(super) fn sweep(&mut self, op: &Op<'_>, spaces: &mut Spaces) -> Result<bool> {
        self.sweep = self.sweep.wrapping_add(1);
        let mut moved = false;
        let mut kept = 0;
        for i in 0..self.pending.len() {
            let id = self.pending[i];
            moved |= self.advance(op, spaces, id, kept)?;
            if self.done[id as usize] != OVER {
                self.pending[kept] = id;
                kept += 1;
            }
        }
        self.pending.truncate(kept);
        Ok(moved)
    }

    /// Advances a step as far as possible. `kept` is the number of earlier steps that are pending. Returns whether
    /// anything moved.
    #[inline]
    fn advance(&mut self, op: &Op<'_>, spaces: &mut Spaces, id: StepId, kept: usize) -> Result<bool> {
        let step = &op.plan.steps[id as usize];
        match &step.action {
            Action::Send { peer, from, .. } => {
                if self.traffic[*peer as usize].out.blocked == self.sweep {
                    return Ok(false);
                }
                let ready = self.limit(op, id, kept);
                self.send(op, spaces, id, *peer, from, ready).map_err(|e| broken(&self.health, *peer, e))
            }
            Action::Recv { peer, to } => {
                if self.traffic[*peer as usize].into.blocked == self.sweep {
                    return Ok(false);
                }
                self.recv(op, spaces, id, *peer, to)
            }
            Action::Reduce { peers, own, to, last } => {
                let peers = &op.plan.peers[peers.start as usize..peers.end as usize];
                let queues = peers.iter().any(|p| self.traffic[*p as usize].into.blocked == self.sweep);
                let ready = if queues { None } else { self.limit(op, id, kept) };
                let moved = match ready {
                    Some(ready) => self.reduce(op, spaces, id, peers, (own, to, *last), ready)?,
                    None => false,
                };
                if self.done[id as usize] != OVER {
                    peers.iter().for_each(|p| self.traffic[*p as usize].into.blocked = self.sweep);
                }
                Ok(moved)
            }
            Action::Copy { from, to } => {
                let done = self.done[id as usize];
                let Some(ready) = self.limit(op, id, kept) else { return Ok(false) };
                let n = (ready - done).min(CHUNK);
                spaces.copy(from, to, done, n);
                self.done[id as usize] = if done + n == to.len { OVER } else { done + n };
                Ok(n > 0 || to.len == 0)
            }
        }
    }

    /// Returns how many bytes of the step may be done by now; `None` if it may not begin.
    #[inline]
    fn limit(&self, op: &Op<'_>, id: StepId, kept: usize) -> Option<usize> {
        let steps = &op.plan.steps;
        let step = &steps[id as usize];
        let len = step.action.len();
        let earlier = &self.pending[..kept];
        match step.after {
            After::Nothing => Some(len),
            After::Follow(d) => {
                let done = self.done[d as usize];
                if done == OVER {
                    return Some(len);
                }
                let (source, target) = (step.action.source()?, steps[d as usize].action.target()?);
                let there = done.saturating_sub(source.offset - target.offset).min(len);
                (there > 0).then_some(there)
            }
            After::Trail(d) => {
                let sends = earlier.iter().take_while(|i| **i <= d);
                let sends = sends.filter(|i| matches!(steps[**i as usize].action, Action::Send { .. }));
                Some(sends.map(|i| self.done[*i as usize]).min().unwrap_or(len).min(len))
            }
            After::All(d) => {
                let mut before = earlier.iter().take_while(|i| **i <= d);
                before.all(|i| matches!(steps[*i as usize].action, Action::Send { .. })).then_some(len)
            }
        }
    }

    fn send(
        &mut self,
        op: &Op<'_>,
        spaces: &mut Spaces,
        id: StepId,
        peer: u32,
        from: &Region,
        ready: Option<usize>,
    ) -> Result<bool> {
        let payload = self.payloads.get(id as usize).copied().flatten();
        let direction = &mut self.traffic[peer as usize].out;
        let (Some(ready), Some(link)) = (ready, &mut self.links[peer as usize]) else {
            direction.blocked = self.sweep;
            return Ok(false);
        };
        let mut send = |link: &mut _, head: &[u8], done, most| match payload {
            Some(payload) => spaces.multicast(link, head, payload, done, most),
            None => spaces.send(link, head, from, done, most).map(|(taken, offered)| (taken, offered, taken < offered)),
        };
        let start = self.done[id as usize];
        let mut done = start;
        let (mut moved, mut has_more) = (false, direction.starved != self.sweep);
        if direction.head < HEADER {
            if ready == done && from.len > 0 {
                // The header is sent together with the first bytes, which are not ready.
                direction.blocked = self.sweep;
                return Ok(false);
            }
            if let Some(notes) = &mut self.notes
                && !notes.flush(peer, link)?
            {
                (direction.blocked, direction.starved) = (self.sweep, self.sweep);
                return Ok(false);
            }
            let header = Header { fingerprint: op.fingerprint, total: direction.total }.to_bytes();
            let (taken, offered, waits) = send(link, &header[direction.head..], done, ready - done)?;
            moved = taken > 0;
            let head = taken.min(HEADER - direction.head);
            direction.head += head;
            done += taken - head;
            has_more = taken == offered;
            if waits {
                direction.starved = self.sweep;
            }
        } else if from.len == 0 {
            self.done[id as usize] = OVER;
            return Ok(true);
        }
        while done < ready && has_more {
            let (taken, offered, waits) = send(link, &[], done, ready - done)?;
            done += taken;
            has_more = taken == offered;
            if waits {
                direction.starved = self.sweep;
            }
        }
        self.sent += (done - start) as u64;
        if done == from.len && direction.head == HEADER {
            link.end_write();
            self.done[id as usize] = OVER;
            return Ok(true);
        }
        self.done[id as usize] = done;
        direction.blocked = self.sweep;
        Ok(moved || done > start)
    }

    fn recv(&mut self, op: &Op<'_>, spaces: &Spaces, id: StepId, peer: u32, to: &Region) -> Result<bool> {
        let mut moved = false;
        if self.traffic[peer as usize].into.head < HEADER {
            if self.show(op, peer, to.len)?.is_none() {
                self.traffic[peer as usize].into.blocked = self.sweep;
                return Ok(false);
            }
            moved = true;
        }
        let start = self.done[id as usize];
        let mut done = start;
        let direction = &mut self.traffic[peer as usize].into;
        let Some(link) = &mut self.links[peer as usize] else { return Ok(false) };
        while done < to.len {
            let (got, asked) = spaces.receive(link, to, done).map_err(|e| broken(&self.health, peer, e))?;
            done += got;
            if got < asked {
                direction.starved = self.sweep;
                break;
            }
        }
        if done == to.len {
            if to.len > 0 {
                link.end_read();
            }
            self.done[id as usize] = OVER;
            return Ok(true);
        }
        self.done[id as usize] = done;
        direction.blocked = self.sweep;
        Ok(moved || done > start)
    }

    fn reduce(
        &mut self,
        op: &Op<'_>,
        spaces: &mut Spaces,
        id: StepId,
        peers: &[u32],
        (own, to, last): (&Region, &Region, bool),
        ready: usize,
    ) -> Result<bool> {
        let done = self.done[id as usize];
        let mut n = (ready - done).min(CHUNK);
        let least = op.elem.min(to.len);
        let mut moved = false;
        let mut complete = true;
        spaces.begin_sources();
        let mine = peers.partition_point(|p| *p < self.rank);
        for (i, peer) in peers.iter().enumerate() {
            if i == mine {
                spaces.source(None);
            }
            let unknown = self.traffic[*peer as usize].into.head < HEADER;
            let Some(shown) = self.show(op, *peer, to.len)? else {
                complete = false;
                continue;
            };
            moved |= unknown;
            if shown.len < least {
                self.traffic[*peer as usize].into.starved = self.sweep;
            }
            n = n.min(shown.len);
            spaces.source(Some(shown));
        }
        if mine == peers.len() {
            spaces.source(None);
        }
        n -= n % op.elem;
        if !complete || (n == 0 && to.len > 0) {
            return Ok(moved);
        }
        if let Some(reduction) = &op.reduction {
            spaces.reduce(reduction, last, own, to, done, n);
        }
        let over = done + n == to.len;
        for peer in peers {
            let Some(link) = &mut self.links[*peer as usize] else { continue };
            if !link.consume(n) {
                return Ok(false);
            }
            if over && to.len > 0 {
                link.end_read();
            }
        }
        self.done[id as usize] = if over { OVER } else { done + n };
        Ok(true)
    }

    /// Compares and consumes the header of an item of `len` bytes. Returns the bytes after it that the peer has sent
    /// and that are not consumed, or `None` if the header is not complete.
    fn show(&mut self, op: &Op<'_>, peer: u32, len: usize) -> Result<Option<Shown>> {
        let Some(link) = &mut self.links[peer as usize] else { return Ok(None) };
        if len == 0 && self.traffic[peer as usize].into.head == HEADER {
            // An empty item ends with its header. The link is not used, since the peer may be gone.
            return Ok(Some(Shown::NONE));
        }
        let direction = &mut self.traffic[peer as usize].into;
        let (shown, header) = loop {
            let shown = peek(link).map_err(|e| broken(&self.health, peer, e))?;
            if direction.head == HEADER {
                return Ok(Some(shown));
            }
            let Some(bytes) = shown.first::<HEADER>() else {
                direction.starved = self.sweep;
                return Ok(None);
            };
            let header = Header::from_bytes(&bytes);
            match &mut self.notes {
                Some(notes) if is_note(&header) => notes.take(peer, &header),
                _ => break (shown, header),
            }
            let _ = link.consume(HEADER);
        };
        if header.fingerprint != op.fingerprint {
            return Err(self.contradiction(op, peer, &header.fingerprint));
        }
        if header.total != direction.total {
            return Err(self.health.fail(length_error(peer, op.uneven, op.elem, direction.total, header.total)));
        }
        // `consume` fails only for lent bytes, and a header is never lent.
        let _ = link.consume(HEADER);
        if len == 0 {
            link.end_read();
        }
        direction.head = HEADER;
        Ok(Some(shown.after(HEADER)))
    }
}
