//! The thread that runs collectives. In rounds that overlap, it copies from the device to the host, runs the op on the
//! CPU backend, and copies the results to the device.

use std::time::Duration;

use super::announce;
use super::host::Host;
use super::plan::{Chunk, HostSpan, Plan};
use super::port::{DEPTH, Port, Watched};
use super::reduction::{self, Scratch};
use super::shared::Shared;
use super::slot::{Call, Slot};
use crate::backend::{Request, let_go, nested};
use crate::buffer::{Outcome, Sink, Span};
use crate::catalog::OpKind;
use crate::options::Params;
use crate::panics::caught;
use crate::store::FOREVER;
use crate::types::Device;
use crate::{Error, ErrorKind, Result, Status};

/// The data that the thread keeps between ops.
#[derive(Default)]
pub(super) struct CollectiveResources {
    ports: Vec<Port>,
    hosts: [Option<Host>; DEPTH],
    scratch: Scratch,
}

/// Runs ops until the queue is closed and empty.
pub(super) fn serve(shared: &Shared) {
    let mut kept = CollectiveResources::default();
    while let Some(slot) = shared.collectives.next() {
        if slot.if_open(|| ()) {
            let mut retained = Vec::new();
            let result = caught(|| run(shared, &slot, &mut kept, &mut retained)).unwrap_or_else(|words| {
                Err(Error::new(ErrorKind::Internal, format!("the thread of staged collectives panicked: {words}")))
            });
            if let Err(error) = &result
                && error.status() == Status::Failed
            {
                shared.die(error);
            }
            slot.finish(result);
            shared.leave(&slot);
            Watched { shared, engine: &shared.collectives, slot: &slot, index: index(&slot.call) }.release(&retained);
        } else {
            shared.leave(&slot);
        }
    }
    if shared.death().is_some() {
        // The device may use this memory forever.
        std::mem::forget(kept);
    } else {
        kept.ports.iter().for_each(|port| Watched::close(&shared.device, port));
        kept.scratch.close(&shared.device);
    }
}

/// Runs an op. The caller must release the memory in `retained`.
fn run(shared: &Shared, slot: &Slot, kept: &mut CollectiveResources, retained: &mut Vec<*mut ()>) -> Result<Outcome> {
    shared.alive()?;
    let call = &slot.call;
    let (inputs, outputs) = call.counts(shared.world as usize);
    let facts = shared.facts(call, &inputs, &outputs);
    if call.dtype.is_none() {
        let plan = Plan::new(facts, shared.chunk);
        return step(shared, slot, &plan, 0, &plan.chunk(0), None);
    }
    let device = Watched { shared, engine: &shared.collectives, slot, index: index(call) };
    device.check_stream()?;
    let plan = match announce::longest(shared, slot, &facts)? {
        Some(longest) => Plan::apart(facts, shared.chunk, longest),
        None => Plan::new(facts, shared.chunk),
    };
    let port = device.port(&mut kept.ports)?;
    *retained = device.retain()?;
    let result = device.begin(port).and_then(|()| {
        if reduction::applies(&device, &plan)? {
            let plan = plan.limited(shared.chunk, reduction::ROUNDS);
            reduction::rounds(&device, &plan, port, &mut kept.hosts, &mut kept.scratch)
        } else {
            rounds(&device, &plan, port, &mut kept.hosts)
        }
    });
    if let Err(error) = &result {
        if error.status() == Status::Failed {
            shared.die(error);
        }
        while !device.drained(port) {
            if slot.give_up(error) {
                // The device may use all memory of the op forever.
                retained.clear();
                kept.scratch.write_off();
                kept.hosts.iter_mut().for_each(|host| std::mem::forget(host.take()));
                return result;
            }
            // The op has borrowed memory that could not be retained, so it cannot be given up. The thread that waits
            // for the op reports every second that the memory is not released.
            std::thread::sleep(Duration::from_millis(10));
        }
    }
    result
}

/// Returns the index of the device that has the op's memory.
pub(super) fn index(call: &Call) -> u16 {
    call.outputs.first().or(call.inputs.first()).map_or(0, |span| span.device().index())
}

fn rounds(device: &Watched<'_>, plan: &Plan<'_>, port: &Port, hosts: &mut [Option<Host>; DEPTH]) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    let mut next = Some(enqueue(device, plan.chunk(0), port, hosts, 0)?);
    for k in 0..plan.rounds() {
        let Some(chunk) = next.take() else { break };
        if k + 1 < plan.rounds() {
            next = Some(enqueue(device, plan.chunk(k + 1), port, hosts, k + 1)?);
        }
        if !chunk.out.is_empty() {
            device.wait_for(port.outs[k % DEPTH], "a copy to the host")?;
        }
        let Some(host) = &hosts[k % DEPTH] else { break };
        outcome = step(device.shared, device.slot, plan, k, &chunk, Some(host))?;
        // SAFETY: the pieces are inside the host memory, which is used again only after this round, see `enqueue`.
        unsafe { device.copy_in(port.back, &chunk.back, host) }?;
        device.record(port.backs[k % DEPTH], port.back)?;
    }
    device.wait_for(port.backs[(plan.rounds() - 1) % DEPTH], "a copy from the host")?;
    Ok(outcome)
}

/// Waits until the host memory of round `k` is free, and enqueues the copies from the device.
pub(super) fn enqueue(
    device: &Watched<'_>,
    chunk: Chunk,
    port: &Port,
    hosts: &mut [Option<Host>; DEPTH],
    k: usize,
) -> Result<Chunk> {
    if k >= DEPTH {
        device.wait_for(port.backs[k % DEPTH], "a copy from the host")?;
    }
    let host = &mut hosts[k % DEPTH];
    if host.as_ref().is_none_or(|host| host.bytes() < chunk.bytes) {
        drop(host.take());
        *host = Some(device.call("allocate_host", |runtime| Host::new(runtime, chunk.bytes))?);
    }
    if let Some(host) = host {
        // SAFETY: the pieces are inside the host memory, which is not used until the event is reached.
        unsafe { device.copy_out(port.out, &chunk.out, host) }?;
    }
    device.record(port.outs[k % DEPTH], port.out)?;
    Ok(chunk)
}

/// Runs the step of round `k` on the CPU backend.
fn step(
    shared: &Shared,
    slot: &Slot,
    plan: &Plan<'_>,
    k: usize,
    chunk: &Chunk,
    host: Option<&Host>,
) -> Result<Outcome> {
    hand_over(shared, slot, request(slot, chunk, host, k + plan.first_step(), plan.each()))
}

/// Runs, on the CPU backend, a step that moves data for a reduction on the device. Its fingerprint has the step's op
/// instead of the call's, so the ranks get a mismatch if some ranks reduce on the host and others on the device.
pub(super) fn exchange(
    shared: &Shared,
    slot: &Slot,
    host: &Host,
    number: u8,
    each: usize,
    (op, params): (OpKind, Params),
    (inputs, outputs): (&[HostSpan], &[HostSpan]),
) -> Result<Outcome> {
    let chunk = Chunk { inputs: inputs.to_vec(), outputs: outputs.to_vec(), ..Chunk::default() };
    let mut request = request(slot, &chunk, Some(host), number.into(), each);
    (request.op, request.params) = (op, params);
    request.fingerprint.op = op as u8;
    hand_over(shared, slot, request)
}

/// Runs a step on the CPU backend, and waits for it.
pub(super) fn hand_over(shared: &Shared, slot: &Slot, request: Request) -> Result<Outcome> {
    shared.alive()?;
    slot.set_at_cpu(true);
    let result = nested(&*shared.cpu, None, request);
    slot.set_at_cpu(false);
    result.map_err(without_times)
}

/// Removes the elapsed time and the timeout from a step's error, since the op sets its own values.
pub(super) fn without_times(mut error: Error) -> Error {
    let report = error.report_mut();
    (report.elapsed, report.deadline) = (None, None);
    error
}

/// Makes the request for round `k` on the CPU backend: the op's kind and parameters, on the round's host memory. `each`
/// is the number of elements per round, or 0 if there is only one round.
pub(super) fn request(slot: &Slot, chunk: &Chunk, host: Option<&Host>, k: usize, each: usize) -> Request {
    let call = &slot.call;
    let mut spans = Sink { output_row: call.output_row, ..Sink::default() };
    if let (Some(dtype), Some(host)) = (call.dtype, host) {
        let span =
            |(at, count): &(usize, usize)| Span::new(host.base().cast(), *at as u64, *count as u64, dtype, Device::CPU);
        spans.inputs.extend(chunk.inputs.iter().map(span));
        spans.outputs.extend(chunk.outputs.iter().map(span));
    }
    let mut params = call.params.clone();
    if let Some((inputs, outputs)) = &chunk.splits {
        params.set_splits(inputs.clone(), outputs.clone());
    }
    let mut request = step_of(slot, k as u8, call.op, params, spans);
    if each > 0 {
        // Ranks that cut their tensors into different rounds must get a mismatch.
        request.fingerprint.rest ^= (each as u32).wrapping_mul(0x9e37_79b9).rotate_left(7) ^ (each as u64 >> 32) as u32;
    }
    request
}

/// Makes a request for a step on the CPU backend: a round, the announcement, or the movement of data for a reduction on
/// the device.
pub(super) fn step_of(slot: &Slot, number: u8, op: OpKind, params: Params, spans: Sink) -> Request {
    let call = &slot.call;
    let mut request = call.outer.step(number, op, params, spans);
    // The step's deadline is a little before that of the op, since the CPU backend may need time after its deadline to
    // find out for which rank it waited.
    let timeout = call.outer.timeout.min(FOREVER);
    let margin = (let_go(timeout) / 4 * 3).min(timeout / 4);
    request.timeout = timeout - margin;
    request.deadline = call.outer.deadline.checked_sub(margin).unwrap_or(call.outer.deadline).into();
    // If the op is itself a step of another op, the op's step number is mixed into `rest`, because the round's number
    // replaces it in the fingerprint.
    let outer = call.outer.fingerprint.step;
    request.fingerprint.rest ^= u32::from(outer).wrapping_mul(0x85eb_ca6b);
    request
}
