//! A message in transfer, in rounds. The CPU backend gets each round of a send as soon as its copy to the host is
//! complete. Each round of a receive is copied to the device as soon as it has arrived. Sender and receiver have the
//! same rounds, since they have the same count.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Waker;
use std::time::Instant;

use super::collective::{index, request, without_times};
use super::host::Host;
use super::messages::MessageResources;
use super::plan::{Chunk, Plan};
use super::port::{Port, Watched};
use super::shared::Shared;
use super::slot::Slot;
use crate::backend::{Detached, Job, JobId};
use crate::buffer::Outcome;
use crate::catalog::OpKind;
use crate::device::Event;
use crate::panics::caught;
use crate::{Error, ErrorKind, Phase, Result, Status};

pub(super) struct Parcel {
    pub(super) slot: Arc<Slot>,
    pub(super) index: u16,
    pub(super) retained: Vec<*mut ()>,
    /// Host memory for the whole message, so that rounds do not wait for each other's memory.
    pub(super) host: Arc<Host>,
    /// Events on the stream to the host. A send has one event for each round, recorded after the copy of the round. A
    /// receive has one event, recorded after the earlier work of the caller's stream.
    pub(super) outs: Vec<Event>,
    chunks: Vec<Chunk>,
    each: usize,
    /// The rounds that are at the CPU backend.
    steps: VecDeque<Arc<Detached<Arc<Host>>>>,
    /// The number of rounds that were given to the CPU backend.
    given: usize,
    /// The number of rounds that the CPU backend has finished.
    through: usize,
    outcome: Outcome,
    stage: Stage,
}

enum Stage {
    /// Rounds are given to the CPU backend and collected from it.
    Moving,
    /// The last copies to the device are running. The first event of `outs` is recorded again, after these copies.
    Back,
    /// The message has failed, but the device may still use the memory.
    Failed(Error),
    /// The message was taken back from the CPU backend, but the device may still use the memory.
    TakenBack,
}

impl Parcel {
    /// Allocates the memory of a message, and enqueues its copies to the host.
    pub(super) fn begin(shared: &Shared, slot: &Arc<Slot>, kept: &mut MessageResources) -> Result<Parcel> {
        shared.alive()?;
        let call = &slot.call;
        let (inputs, outputs) = call.counts(shared.world as usize);
        let count = inputs.iter().chain(&outputs).sum();
        let plan = Plan::apart(shared.facts(call, &inputs, &outputs), shared.chunk, count);
        let (mut chunks, mut bytes) = (Vec::with_capacity(plan.rounds()), 0);
        for k in 0..plan.rounds() {
            let chunk = plan.chunk(k).behind(bytes);
            bytes += chunk.bytes;
            chunks.push(chunk);
        }
        let index = index(call);
        let device = Watched { shared, engine: &shared.messages, slot, index };
        device.check_stream()?;
        let marks = if call.op == OpKind::Send { chunks.len() } else { 1 };
        let outs = (0..marks).map(|_| kept.event(&device)).collect::<Result<Vec<Event>>>()?;
        let host = Arc::new(kept.host(&device, bytes)?);
        let port = device.port(&mut kept.ports)?;
        let retained = device.retain()?;
        device.begin(port)?;
        let mut parcel = Parcel {
            slot: slot.clone(),
            index,
            retained,
            host,
            outs,
            chunks,
            each: plan.each(),
            steps: VecDeque::new(),
            given: 0,
            through: 0,
            outcome: Outcome::default(),
            stage: Stage::Moving,
        };
        if let Err(error) = parcel.copy_out(&device, port) {
            shared.die(&error);
            parcel.stage = Stage::Failed(error);
        }
        Ok(parcel)
    }

    fn copy_out(&self, device: &Watched<'_>, port: &Port) -> Result {
        for (mark, chunk) in self.outs.iter().zip(&self.chunks) {
            // SAFETY: only this message uses the host memory. The memory is not freed before the event is reached. If
            // it is not known whether the event is reached, the memory is leaked.
            unsafe { device.copy_out(port.out, &chunk.out, &self.host) }?;
            device.record(*mark, port.out)?;
        }
        Ok(())
    }

    /// Returns whether the message waits for the device: for copies, or for work before them.
    pub(super) fn is_at_device(&self) -> bool {
        !matches!(self.stage, Stage::Moving) || self.awaits_copies()
    }

    /// Returns whether the message waits for copies to the host, or for work before them.
    pub(super) fn awaits_copies(&self) -> bool {
        matches!(self.stage, Stage::Moving) && self.given < self.outs.len()
    }

    /// Returns the tag of a receive from any source if not all of its rounds were given to the CPU backend. Another
    /// receive with this tag must wait, since it could take a round of this message.
    pub(super) fn open_tag(&self) -> Option<u32> {
        let call = &self.slot.call;
        let open = call.op == OpKind::RecvAnySource && self.given < self.chunks.len();
        (open && !self.is_taken_back()).then_some(call.params.tag)
    }

    pub(super) fn is_taken_back(&self) -> bool {
        matches!(self.stage, Stage::TakenBack)
    }

    /// Takes all rounds back from the CPU backend. If it is too late for that, takes no round back and returns `false`.
    /// A message that was taken back is done when the device has completed the work of the message.
    pub(super) fn take_back(&mut self, shared: &Shared) -> Result<bool> {
        if !matches!(self.stage, Stage::Moving) || self.through > 0 {
            return Ok(false);
        }
        if !self.steps.is_empty() {
            let ids: Vec<JobId> = self.steps.iter().map(|step| step.id()).collect();
            let asked = caught(|| shared.cpu.cancel(&ids));
            let jobs = asked.unwrap_or_else(|words| {
                let what = format!("backend {} panicked while it cancelled a message: {words}", shared.cpu.name());
                Err(Error::new(ErrorKind::Internal, what).rejected())
            })?;
            if jobs.is_empty() {
                return Ok(false);
            }
            jobs.into_iter().for_each(Job::complete_cancelled);
            self.steps.clear();
        }
        self.slot.set_at_cpu(false);
        self.stage = Stage::TakenBack;
        Ok(true)
    }

    /// Does everything that can be done now without waiting. Returns the result if the message is done. If `waits` is
    /// set, an earlier message must come first, so no round is given to the CPU backend.
    pub(super) fn advance(
        &mut self,
        device: &Watched<'_>,
        port: &Port,
        waker: &Waker,
        waits: bool,
    ) -> Option<Result<Outcome>> {
        let over = match &self.stage {
            Stage::Moving => self.go_on(device, port, waker, waits),
            Stage::Back => in_time(device, self.outs[0]),
            Stage::TakenBack => self.outs.iter().try_fold(true, |all, mark| Ok(in_time(device, *mark)? && all)),
            Stage::Failed(error) => return device.drained_now(port).then(|| Err(error.clone())),
        };
        match over {
            Ok(over) => over.then(|| Ok(std::mem::take(&mut self.outcome))),
            Err(error) => {
                if error.status() == Status::Failed {
                    device.shared.die(&error);
                }
                self.stage = Stage::Failed(error);
                self.advance(device, port, waker, waits)
            }
        }
    }

    /// Gives rounds to the CPU backend and collects them. Returns whether the message is done.
    fn go_on(&mut self, device: &Watched<'_>, port: &Port, waker: &Waker, waits: bool) -> Result<bool> {
        self.hand_over(device, waits)?;
        while self.collect(device, port, waker)? {
            // After the first round of a receive from any source, its other rounds can be given. The loop polls again,
            // which registers the waker for the next round.
            self.hand_over(device, waits)?;
        }
        if self.through < self.chunks.len() {
            return Ok(false);
        }
        if self.chunks.iter().all(|chunk| chunk.back.is_empty()) {
            return Ok(true);
        }
        device.record(self.outs[0], port.back)?;
        self.stage = Stage::Back;
        in_time(device, self.outs[0])
    }

    /// Gives the CPU backend the rounds that are ready.
    fn hand_over(&mut self, device: &Watched<'_>, waits: bool) -> Result {
        while let Some(chunk) = self.chunks.get(self.given) {
            if let Some(mark) = self.outs.get(self.given)
                && !in_time(device, *mark)?
            {
                break;
            }
            // All rounds of a receive from any source have one sender. The first round shows this sender, so the others
            // are given after it has arrived.
            let follows = self.given > 0 && self.slot.call.op == OpKind::RecvAnySource;
            if waits || follows && self.through == 0 {
                break;
            }
            let mut request = request(&self.slot, chunk, Some(&self.host), self.given, self.each);
            if follows {
                (request.op, request.params.peer) = (OpKind::Recv, self.outcome.source);
            }
            self.slot.set_at_cpu(true);
            self.steps.push_back(Detached::start(&*device.shared.cpu, request, self.host.clone()));
            self.given += 1;
        }
        Ok(())
    }

    /// Collects the rounds that the CPU backend has finished, and enqueues their copies to the device. Returns whether
    /// there were any.
    fn collect(&mut self, device: &Watched<'_>, port: &Port, waker: &Waker) -> Result<bool> {
        let before = self.through;
        while self.steps.front().is_some_and(|step| step.poll(waker))
            && let Some(step) = self.steps.pop_front()
        {
            let outcome = step.outcome().map_err(without_times)?;
            if self.through == 0 {
                self.outcome = outcome;
            }
            // SAFETY: as in `copy_out`; the CPU backend has finished with the round.
            unsafe { device.copy_in(port.back, &self.chunks[self.through].back, &self.host) }?;
            self.through += 1;
        }
        self.slot.set_at_cpu(!self.steps.is_empty());
        Ok(self.through > before)
    }
}

/// Returns whether the event is reached. Returns an error if the event is not reached at the op's deadline, or if the
/// staged backend has ended.
fn in_time(device: &Watched<'_>, event: Event) -> Result<bool> {
    device.shared.alive()?;
    if device.reached(event)? {
        return Ok(true);
    }
    if Instant::now() < device.slot.call.outer.deadline {
        return Ok(false);
    }
    let what = format!("device {} did not finish a copy of a message in time", device.shared.device_of(device.slot));
    Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Transfer))
}
