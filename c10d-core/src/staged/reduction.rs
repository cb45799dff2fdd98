//! Reductions on the device (level 1 in `docs/backends.md`), in which the CPU backend only moves data. Each rank gets
//! its part of every rank's elements, reduces these parts on its device in rank order, and sends the result to the
//! ranks that need it.

use super::collective::{enqueue, exchange};
use super::host::Host;
use super::plan::{Chunk, HostSpan, Plan, STEPS};
use super::port::{DEPTH, Port, Watched};
use crate::buffer::Outcome;
use crate::catalog::{OpKind, Shape};
use crate::device::{DevicePtr, DeviceReduce, Elements, Scale};
use crate::options::Params;
use crate::panics::contain;
use crate::types::{DispatchKey, ReduceOp};
use crate::{Error, ErrorKind, Result};

/// The device memory in which elements are reduced. It is kept between ops.
#[derive(Default)]
pub(super) struct Scratch {
    index: u16,
    base: Option<*mut ()>,
    bytes: usize,
}

/// Returns whether the device can reduce this call and the CPU backend can move the data for it.
pub(super) fn applies(device: &Watched<'_>, plan: &Plan<'_>) -> Result<bool> {
    let (shared, call) = (device.shared, &device.slot.call);
    let Some(dtype) = call.dtype.filter(|_| call.op.reduces() && shared.world > 1 && !plan.is_empty()) else {
        return Ok(false);
    };
    let reduce = call.params.reduce;
    let moves = [OpKind::AllToAllSingle, OpKind::AllToAll, OpKind::AllGatherInto, OpKind::Gather];
    if !moves.iter().all(|op| shared.cpu.capabilities_on(DispatchKey::Cpu).offers(*op, dtype, ReduceOp::Sum)) {
        return Ok(false);
    }
    let (op, scales) = (summed(reduce), summed(reduce) != reduce);
    let does = |r: &dyn DeviceReduce| r.reduces(op).contains(dtype) && (!scales || r.scales().contains(dtype));
    device.call("reduction", |runtime| Ok(runtime.reduction().is_some_and(does)))
}

/// Returns the operation without scaling: the sum for an average and a premultiplied sum.
fn summed(reduce: ReduceOp) -> ReduceOp {
    if matches!(reduce, ReduceOp::Avg | ReduceOp::PreMulSum(_)) { ReduceOp::Sum } else { reduce }
}

/// The largest number of rounds of a reduction. Fingerprints distinguish [`STEPS`] steps: two per round, and perhaps
/// the announcement (`announce.rs`) before them.
pub(super) const ROUNDS: usize = (STEPS - 1) / 2;

/// The layout of a round's host memory.
struct Layout {
    /// The number of elements of one rank's part.
    part: usize,
    /// The number of elements of the parts of all ranks together.
    all: usize,
    /// The offset, in bytes, of the parts that this rank receives.
    received: usize,
    /// The offset, in bytes, of this rank's part of the result.
    result: usize,
    /// The number of bytes of host memory that the round needs.
    bytes: usize,
}

fn layout(chunk: &Chunk, world: usize, size: usize, shape: Shape) -> Layout {
    let count = chunk.outputs.first().map_or(0, |(_, count)| *count);
    let part = if scatters(shape) { count } else { count.div_ceil(world) };
    let all = part * world;
    // The tensors of an input list may have different lengths, and together be larger than `all * size`. The received
    // parts begin after them.
    let received = if shape == Shape::ScatterList { chunk.bytes } else { (all * size).next_multiple_of(64) };
    let result = received + (all * size).next_multiple_of(64);
    Layout { part, all, received, result, bytes: result + part * size }
}

/// Returns whether each rank gets only its part of the result.
fn scatters(shape: Shape) -> bool {
    matches!(shape, Shape::ScatterList | Shape::ScatterFlat | Shape::ScatterFlats)
}

/// Runs the op's rounds with the reduction on the device.
pub(super) fn rounds(
    device: &Watched<'_>,
    plan: &Plan<'_>,
    port: &Port,
    hosts: &mut [Option<Host>; DEPTH],
    scratch: &mut Scratch,
) -> Result<Outcome> {
    let (shared, call) = (device.shared, &device.slot.call);
    let world = shared.world as usize;
    let dtype = call.dtype.ok_or_else(|| Error::new(ErrorKind::Internal, "a reduction without an element type"))?;
    let size = dtype.size();
    let shape = call.op.row().shape;
    let scatters = scatters(shape);
    let start = |hosts: &mut [Option<Host>; DEPTH], k: usize| {
        let mut chunk = plan.chunk(k);
        let layout = layout(&chunk, world, size, shape);
        chunk.bytes = layout.bytes;
        enqueue(device, chunk, port, hosts, k).map(|chunk| (chunk, layout))
    };
    let mut next = Some(start(hosts, 0)?);
    for k in 0..plan.rounds() {
        let Some((chunk, at)) = next.take() else { break };
        if k + 1 < plan.rounds() {
            next = Some(start(hosts, k + 1)?);
        }
        device.wait_for(port.outs[k % DEPTH], "a copy to the host")?;
        let Some(host) = &hosts[k % DEPTH] else { break };
        if !scatters {
            pad(host, chunk.outputs[0].1 * size, at.all * size);
        }
        let step = |which: u8, op: OpKind, inputs: &[HostSpan], outputs: &[HostSpan]| {
            let mut params = Params::default();
            params.root = call.params.root;
            let number = (plan.first_step() + 2 * k) as u8 + which;
            exchange(shared, device.slot, host, number, plan.each(), (op, params), (inputs, outputs))
        };
        if shape == Shape::ScatterList {
            let received: Vec<HostSpan> = (0..world).map(|r| (at.received + r * at.part * size, at.part)).collect();
            step(0, OpKind::AllToAll, &chunk.inputs, &received)?;
        } else {
            step(0, OpKind::AllToAllSingle, &[(0, at.all)], &[(at.received, at.all)])?;
        }
        let base = room(device, scratch, at.all * size)?;
        // SAFETY: the host memory at `received` and the scratch memory have this many bytes. They are used again only
        // by later work on the same stream, or after the event of this round.
        unsafe { device.load(port.back, base, host, at.received, at.all * size) }?;
        if let ReduceOp::PreMulSum(factor) = call.params.reduce {
            scale(device, port.back, Scale::Times(factor), Elements { dtype, count: at.all }, base)?;
        }
        let (op, part) = (summed(call.params.reduce), Elements { dtype, count: at.part });
        for rank in 1..world {
            reduce(device, port.back, op, part, base, base.after(rank * at.part * size))?;
        }
        if call.params.reduce == ReduceOp::Avg {
            scale(device, port.back, Scale::Over(world as f64), part, base)?;
        }
        if scatters {
            let beyond = chunk.outputs[0].0;
            for piece in &chunk.back {
                device.move_to(port.back, piece, base.after(piece.at - beyond))?;
            }
        } else {
            // SAFETY: the host memory has room for a part at `result`. The part is read only after the event is
            // reached.
            unsafe { device.unload(port.back, base, host, at.result, at.part * size) }?;
            device.record(port.backs[k % DEPTH], port.back)?;
            device.wait_for(port.backs[k % DEPTH], "a reduction")?;
            let result = [(at.result, at.part)];
            if call.op == OpKind::Reduce {
                let parts: Vec<HostSpan> = (0..world).map(|rank| (rank * at.part * size, at.part)).collect();
                let is_root = shared.rank == call.params.root;
                step(1, OpKind::Gather, &result, if is_root { &parts } else { &[] })?;
            } else {
                step(1, OpKind::AllGatherInto, &result, &[(0, at.all)])?;
            }
            // SAFETY: the pieces are inside the host memory, which is used again only after this round.
            unsafe { device.copy_in(port.back, &chunk.back, host) }?;
        }
        device.record(port.backs[k % DEPTH], port.back)?;
    }
    device.wait_for(port.backs[(plan.rounds() - 1) % DEPTH], "a copy from the host")?;
    Ok(Outcome::default())
}

/// Writes zeros into the padding of the last part, so that no uninitialised bytes are sent.
fn pad(host: &Host, from: usize, to: usize) {
    // SAFETY: the range is inside the layout, which fits into the host memory, and no copy in flight uses it.
    unsafe { host.base().add(from).write_bytes(0, to - from) };
}

/// Returns scratch memory of at least `bytes` bytes on this device. All rounds of an op use one device, and the first
/// round needs the most bytes. So the memory is replaced only in the first round, when no work uses it.
fn room(device: &Watched<'_>, scratch: &mut Scratch, bytes: usize) -> Result<DevicePtr> {
    if let Some(base) = scratch.base.filter(|_| scratch.bytes >= bytes && scratch.index == device.index) {
        return Ok(DevicePtr { base, offset: 0 });
    }
    if let Some(base) = scratch.base.take() {
        device.call("free", |runtime| {
            // SAFETY: the memory was returned by `allocate` and is freed once. No work in flight uses it.
            unsafe { runtime.free(scratch.index, base) };
            Ok(())
        })?;
    }
    let bytes = bytes.next_power_of_two();
    let base = device.call("allocate", |runtime| runtime.allocate(device.index, bytes))?;
    *scratch = Scratch { index: device.index, base: Some(base), bytes };
    Ok(DevicePtr { base, offset: 0 })
}

impl Scratch {
    /// Frees the device memory. No work may be in flight.
    pub(super) fn close(self, device: &std::sync::Arc<dyn crate::device::DeviceRuntime>) {
        if let Some(base) = self.base {
            // SAFETY: the memory was returned by `allocate` and is freed once. No work in flight uses it.
            contain("a device's free", || unsafe { device.free(self.index, base) });
        }
    }

    /// Leaks the device memory, which the device may use forever.
    pub(super) fn write_off(&mut self) {
        self.base = None;
    }
}

fn reduce(
    device: &Watched<'_>,
    stream: u64,
    op: ReduceOp,
    elements: Elements,
    acc: DevicePtr,
    with: DevicePtr,
) -> Result {
    device.call("reduce", |runtime| match runtime.reduction() {
        // SAFETY: both ranges are in the scratch memory and do not overlap.
        Some(reduction) => unsafe { reduction.reduce(device.index, stream, op, elements, acc, with) },
        None => {
            Err(Error::new(ErrorKind::Device, "the device's runtime offered reductions before, and now offers none"))
        }
    })
}

fn scale(device: &Watched<'_>, stream: u64, by: Scale, elements: Elements, at: DevicePtr) -> Result {
    device.call("scale", |runtime| match runtime.reduction() {
        // SAFETY: the range is in the scratch memory.
        Some(reduction) => unsafe { reduction.scale(device.index, stream, by, elements, at) },
        None => {
            Err(Error::new(ErrorKind::Device, "the device's runtime offered reductions before, and now offers none"))
        }
    })
}
