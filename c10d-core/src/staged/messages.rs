//! Point-to-point ops: many at once, none of which waits for another, but for sends, which go out in their order.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use super::collective::{index, request, told};
use super::host::Host;
use super::plan::{Chunk, Plan};
use super::port::{Port, Watched};
use super::shared::Shared;
use super::slot::Slot;
use crate::device::Event;
use crate::job::{Detached, Outcome};
use crate::{Error, ErrorKind, Phase, Result, Status};

/// How long the thread sleeps at most between two looks at a device that is at work.
const LOOK: Duration = Duration::from_micros(500);
/// Host memory kept for later messages.
const SPARE: usize = 8;

/// A message on its way.
struct Parcel {
    slot: Arc<Slot>,
    index: u16,
    retained: Vec<*mut ()>,
    chunk: Chunk,
    host: Arc<Host>,
    event: Event,
    stage: Stage,
}

enum Stage {
    /// Being copied to the host, up to the event.
    Out,
    /// With the CPU backend.
    Cpu(Arc<Detached<Arc<Host>>>),
    /// Being copied to the device, up to the event.
    Back(Outcome),
    /// Failed, while the device may still be at it.
    Failed(Error),
}

/// What the thread keeps between messages.
#[derive(Default)]
struct Kept {
    parcels: Vec<Parcel>,
    ports: Vec<Port>,
    events: Vec<(u16, Event)>,
    hosts: Vec<Host>,
}

struct Rouse(Arc<Shared>);

impl Wake for Rouse {
    fn wake(self: Arc<Self>) {
        self.0.messages.rouse();
    }
}

/// Does messages until the line is closed and all are over.
pub(super) fn serve(shared: &Arc<Shared>) {
    let mut kept = Kept::default();
    let done = catch_unwind(AssertUnwindSafe(|| work(shared, &mut kept)));
    if done.is_err() {
        shared.die(&Error::new(ErrorKind::Internal, "the thread of staged messages panicked"));
    }
    if shared.death().is_some() {
        // Something may be in flight for ever.
        return std::mem::forget(kept);
    }
    for (index, event) in kept.events {
        // SAFETY: made on this device, recorded on nothing that runs, not used again.
        let _ = catch_unwind(AssertUnwindSafe(|| unsafe { shared.device.destroy_event(index, event) }));
    }
    kept.ports.iter().for_each(|port| Watched::close(&shared.device, port));
}

fn work(shared: &Arc<Shared>, kept: &mut Kept) {
    let waker = Waker::from(Arc::new(Rouse(shared.clone())));
    let mut arrived = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        let at_device = kept.parcels.iter().any(|p| !matches!(p.stage, Stage::Cpu(_)));
        let closed = shared.messages.take(&mut arrived, at_device.then_some(pause));
        pause = if arrived.is_empty() { (pause * 2).clamp(Duration::from_micros(5), LOOK) } else { Duration::ZERO };
        for slot in arrived.drain(..).filter(|slot| slot.if_open(|| ())) {
            match begin(shared, &slot, kept) {
                Ok(parcel) => kept.parcels.push(parcel),
                Err(error) => over(shared, &slot, Err(error)),
            }
        }
        let mut i = 0;
        let mut send_waits = false;
        while i < kept.parcels.len() {
            let parcel = &mut kept.parcels[i];
            let (slot, index) = (parcel.slot.clone(), parcel.index);
            let port = kept.ports.iter().find(|port| port.index == index);
            let Some(port) = port.filter(|_| slot.if_open(|| ())) else {
                // Given up: the device may use the memory for ever.
                std::mem::forget(kept.parcels.remove(i).host);
                continue;
            };
            let device = Watched { shared, engine: &shared.messages, slot: &slot, index };
            match advance(&device, port, parcel, &waker, send_waits) {
                Some(result) => {
                    let parcel = kept.parcels.remove(i);
                    kept.events.push((parcel.index, parcel.event));
                    drop(parcel.stage);
                    kept.hosts.extend(Arc::into_inner(parcel.host).filter(|_| kept.hosts.len() < SPARE));
                    over(shared, &slot, result);
                    device.release(&parcel.retained);
                    pause = Duration::ZERO;
                }
                None => {
                    send_waits |= matches!(kept.parcels[i].stage, Stage::Out);
                    i += 1;
                }
            }
        }
        if closed && kept.parcels.is_empty() {
            return;
        }
    }
}

fn over(shared: &Shared, slot: &Arc<Slot>, result: Result<Outcome>) {
    if let Err(error) = &result
        && error.status() == Status::Failed
    {
        shared.die(error);
    }
    slot.finish(result);
    shared.leave(slot);
}

/// Gives a message its memory, and takes its first step.
fn begin(shared: &Shared, slot: &Arc<Slot>, kept: &mut Kept) -> Result<Parcel> {
    shared.alive()?;
    let call = &slot.call;
    let (inputs, outputs) = call.counts(shared.world as usize);
    let facts = shared.facts(call, &inputs, &outputs);
    let chunk = Plan::new(facts, usize::MAX).chunk(0);
    let index = index(call);
    let device = Watched { shared, engine: &shared.messages, slot, index };
    let port = device.port(&mut kept.ports)?;
    let event = match kept.events.iter().position(|(of, _)| *of == index) {
        Some(at) => kept.events.swap_remove(at).1,
        None => device.call("create_event", |runtime| runtime.create_event(index))?,
    };
    let host = match kept.hosts.iter().position(|host| host.bytes() >= chunk.bytes) {
        Some(at) => kept.hosts.swap_remove(at),
        None => device.call("allocate_host", |runtime| Host::new(runtime, chunk.bytes))?,
    };
    let retained = device.retain()?;
    device.begin(port)?;
    let host = Arc::new(host);
    let mut parcel = Parcel { slot: slot.clone(), index, retained, chunk, host, event, stage: Stage::Out };
    // SAFETY: the host memory is the message's alone, and stays until the mark is reached, or for ever.
    let given = unsafe { device.copy_out(port.out, &parcel.chunk.out, &parcel.host) };
    if let Err(error) = given.and_then(|()| device.record(event, port.out)) {
        shared.die(&error);
        parcel.stage = Stage::Failed(error);
    }
    Ok(parcel)
}

/// Takes the next step if it can be taken; `Some` = the message is over.
fn advance(
    device: &Watched<'_>,
    port: &Port,
    parcel: &mut Parcel,
    waker: &Waker,
    send_waits: bool,
) -> Option<Result<Outcome>> {
    let shared = device.shared;
    let next = match &mut parcel.stage {
        Stage::Out => match in_time(device, parcel.event) {
            Ok(false) => return None,
            // Messages of one sender keep their order.
            Ok(true) if send_waits => return None,
            Ok(true) => {
                let request = request(device.slot, &parcel.chunk, Some(&parcel.host), 0, 0);
                device.slot.set_at_cpu(true);
                Ok(Stage::Cpu(Detached::start(&*shared.cpu, request, parcel.host.clone())))
            }
            Err(error) => Err(error),
        },
        Stage::Cpu(step) if !step.poll(waker) => return None,
        Stage::Cpu(step) => {
            let outcome = step.outcome();
            device.slot.set_at_cpu(false);
            match outcome {
                Ok(outcome) if parcel.chunk.back.is_empty() => return Some(Ok(outcome)),
                Ok(outcome) => {
                    // SAFETY: as in `begin`.
                    let given = unsafe { device.copy_in(port.back, &parcel.chunk.back, &parcel.host) };
                    given.and_then(|()| device.record(parcel.event, port.back)).map(|()| Stage::Back(outcome))
                }
                Err(error) => return Some(Err(told(error))),
            }
        }
        Stage::Back(outcome) => match in_time(device, parcel.event) {
            Ok(false) => return None,
            Ok(true) => return Some(Ok(std::mem::take(outcome))),
            Err(error) => Err(error),
        },
        Stage::Failed(error) => return device.drained_now(port).then(|| Err(error.clone())),
    };
    parcel.stage = next.unwrap_or_else(|error| {
        shared.die(&error);
        Stage::Failed(error)
    });
    advance(device, port, parcel, waker, send_waits)
}

/// Whether the mark is reached; an error if it should have been, or if the backend is dead.
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
