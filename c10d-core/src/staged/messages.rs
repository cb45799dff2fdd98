//! The thread that runs point-to-point ops. Many messages are in transfer at once: a message waits for another only if
//! the order of messages requires this.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::time::Duration;

use super::host::Host;
use super::parcel::Parcel;
use super::port::{Port, Watched};
use super::shared::Shared;
use super::slot::Slot;
use crate::buffer::Outcome;
use crate::catalog::OpKind;
use crate::device::Event;
use crate::panics::{caught, contain};
use crate::{Error, ErrorKind, Result, Status};

/// The longest sleep of the thread between two polls of a busy device.
const LOOK: Duration = Duration::from_micros(500);
/// The largest number of blocks of host memory that are kept for later messages.
const SPARE: usize = 8;

/// The data that the thread keeps between messages.
#[derive(Default)]
pub(super) struct MessageResources {
    parcels: Vec<Parcel>,
    pub(super) ports: Vec<Port>,
    events: Vec<(u16, Event)>,
    hosts: Vec<Host>,
}

impl MessageResources {
    /// Returns an event of the device: one that an earlier message has used, or else a new one.
    pub(super) fn event(&mut self, device: &Watched<'_>) -> Result<Event> {
        match self.events.iter().position(|(of, _)| *of == device.index) {
            Some(at) => Ok(self.events.swap_remove(at).1),
            None => device.call("create_event", |runtime| runtime.create_event(device.index)),
        }
    }

    /// Returns host memory of at least this many bytes: a block that an earlier message has used, or else a new one.
    pub(super) fn host(&mut self, device: &Watched<'_>, bytes: usize) -> Result<Host> {
        match self.hosts.iter().position(|host| host.bytes() >= bytes) {
            Some(at) => Ok(self.hosts.swap_remove(at)),
            None => device.call("allocate_host", |runtime| Host::new(runtime, bytes)),
        }
    }
}

struct Rouse(Arc<Shared>);

impl Wake for Rouse {
    fn wake(self: Arc<Self>) {
        self.0.messages.rouse();
    }
}

/// Runs messages until the queue is closed and all messages are done.
pub(super) fn serve(shared: &Arc<Shared>) {
    let mut kept = MessageResources::default();
    if let Err(words) = caught(|| work(shared, &mut kept)) {
        shared.die(&Error::new(ErrorKind::Internal, format!("the thread of staged messages panicked: {words}")));
    }
    if shared.death().is_some() {
        // The device may use the memory forever.
        return std::mem::forget(kept);
    }
    for (index, event) in kept.events {
        // SAFETY: the event was made on this device. No work in flight uses it, and it is not used again.
        contain("a device's destroy_event", || unsafe { shared.device.destroy_event(index, event) });
    }
    kept.ports.iter().for_each(|port| Watched::close(&shared.device, port));
}

fn work(shared: &Arc<Shared>, kept: &mut MessageResources) {
    let waker = Waker::from(Arc::new(Rouse(shared.clone())));
    let mut arrived = Vec::new();
    let mut pause = Duration::ZERO;
    loop {
        let at_device = kept.parcels.iter().any(Parcel::is_at_device);
        let closed = shared.messages.take(&mut arrived, at_device.then_some(pause));
        pause = if arrived.is_empty() { (pause * 2).clamp(Duration::from_micros(5), LOOK) } else { Duration::ZERO };
        for slot in arrived.drain(..).filter(|slot| slot.if_open(|| ())) {
            if slot.is_asked() {
                give_back(shared, &slot);
                continue;
            }
            match Parcel::begin(shared, &slot, kept) {
                Ok(parcel) => kept.parcels.push(parcel),
                Err(error) => over(shared, &slot, Err(error)),
            }
        }
        let mut i = 0;
        // A message that waits for the device delays all later messages, so that their order is kept.
        let (mut waits, mut open_tags) = (false, Vec::new());
        while i < kept.parcels.len() {
            let parcel = &mut kept.parcels[i];
            let (slot, index) = (parcel.slot.clone(), parcel.index);
            let port = kept.ports.iter().find(|port| port.index == index);
            let Some(port) = port.filter(|_| slot.if_open(|| ())) else {
                // The op was given up. Its memory is leaked, since the device may use it forever.
                std::mem::forget(kept.parcels.remove(i).host);
                continue;
            };
            let device = Watched { shared, engine: &shared.messages, slot: &slot, index };
            if slot.is_asked() && !parcel.is_taken_back() {
                match parcel.take_back(shared) {
                    Ok(true) => {}
                    Ok(false) => slot.refuse(Ok(())),
                    Err(why) => slot.refuse(Err(why)),
                }
            }
            let receives = slot.call.op != OpKind::Send;
            let waits_for_round = receives && open_tags.contains(&slot.call.params.tag);
            match parcel.advance(&device, port, &waker, waits || waits_for_round) {
                Some(result) => {
                    let parcel = kept.parcels.remove(i);
                    let taken_back = parcel.is_taken_back();
                    let Parcel { index, retained, host, outs, .. } = parcel;
                    kept.events.extend(outs.into_iter().map(|event| (index, event)));
                    kept.hosts.extend(Arc::into_inner(host).filter(|_| kept.hosts.len() < SPARE));
                    if taken_back {
                        give_back(shared, &slot)
                    } else {
                        over(shared, &slot, result)
                    }
                    device.release(&retained);
                    pause = Duration::ZERO;
                }
                None => {
                    waits |= kept.parcels[i].awaits_copies();
                    open_tags.extend(kept.parcels[i].open_tag());
                    i += 1;
                }
            }
        }
        if closed && kept.parcels.is_empty() {
            return;
        }
    }
}

/// Ends a message that was cancelled before anything was sent or received.
fn give_back(shared: &Shared, slot: &Arc<Slot>) {
    slot.give_back();
    shared.leave(slot);
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
