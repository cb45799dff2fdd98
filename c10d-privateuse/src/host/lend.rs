//! Memory that is lent to a plugin, and that can be leaked if the plugin never releases it.
#![allow(unsafe_code)]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::sync::Arc;

use c10d_core::backend::{Job, Shape};
use c10d_core::device::{DevicePtr, DeviceRuntime};
use c10d_core::{DispatchKey, Error, Result, Span};

use super::plugin::Hosted;

const ALIGN: usize = 64;

/// The memory that is lent to the plugin for an operation.
pub(super) enum Lent {
    None,
    /// The operation's own buffers. If they are written off (leaked), the caller does not get them back.
    Owned,
    /// The caller's own memory, for a plugin that the user trusts to release it in time. It is never written off.
    Trusted,
    /// A copy of borrowed host memory.
    Copied(Arena),
    /// Device memory that is retained, so that its address is not reused.
    Retained(Retained),
}

/// One allocation with room for all spans. An arena that is passed to `mem::forget` is leaked.
pub(super) struct Arena {
    base: *mut u8,
    layout: Layout,
    /// The offset of each span, inputs first.
    offsets: Vec<usize>,
}

// SAFETY: an arena is the only owner of its memory.
unsafe impl Send for Arena {}

/// Device memory: the index of the device, and the base.
type Allocation = (u16, usize);

/// Device memory that the plugin retains until this value is dropped.
pub(super) struct Retained {
    runtime: Arc<dyn DeviceRuntime>,
    allocations: Vec<Allocation>,
}

/// Returns the device memory that the plugin must retain while the job runs. Returns `None` if there is no device
/// memory, or if all of it is CUDA memory that the operation owns.
pub(super) fn to_retain(plugin: &Hosted, job: &Job) -> Result<Option<Vec<Allocation>>> {
    let request = job.request();
    let spans = || request.inputs().iter().chain(request.outputs()).filter(|s| s.count() > 0);
    // An operation that owns its buffers also owns their CUDA memory, whichever library allocated it.
    let own = job.owns_buffers() && spans().all(|s| s.device().key() == DispatchKey::Cuda);
    if own || spans().all(|s| s.host_ptr().is_some()) {
        return Ok(None);
    }
    let mut allocations = Vec::new();
    for span in spans() {
        let Some(DevicePtr { base, .. }) = span.device_ptr() else {
            return Err(plugin.error("submit", "the call mixes memory of its device with other memory"));
        };
        let allocation = (span.device().index(), base as usize);
        if !allocations.contains(&allocation) {
            allocations.push(allocation);
        }
    }
    Ok(Some(allocations))
}

/// Prepares the memory that is lent to the plugin. May copy memory, but never waits for the plugin.
pub(super) fn lend(plugin: &Hosted, retained: Option<Retained>, job: &Job) -> Result<Lent> {
    if let Some(retained) = retained {
        return Ok(Lent::Retained(retained));
    }
    let request = job.request();
    let spans = || request.inputs().iter().chain(request.outputs());
    if spans().all(|s| s.count() == 0) {
        return Ok(Lent::None);
    }
    if job.owns_buffers() {
        return Ok(Lent::Owned);
    }
    if plugin.is_trusted() {
        return Ok(Lent::Trusted);
    }
    let arena = Arena::new(spans())?;
    let read = matches!(request.op.row().shape, Shape::InPlace | Shape::InPlaceList);
    let inputs = request.inputs().len();
    for (i, span) in spans().enumerate() {
        if i < inputs || read {
            arena.copy_in(i, span);
        }
    }
    Ok(Lent::Copied(arena))
}

impl Lent {
    /// The address that the plugin gets for span `i`, if it differs from the span's own address.
    pub(super) fn address(&self, i: usize) -> Option<*mut u8> {
        match self {
            Lent::Copied(arena) => Some(arena.at(i)),
            _ => None,
        }
    }

    /// Whether the clock (`super::clock`) may end an overdue operation while the plugin still uses the memory.
    pub(super) fn can_be_lost(&self) -> bool {
        !matches!(self, Lent::Trusted)
    }

    /// Copies the results to the caller's memory, which the job still has. A buffer that the op only reads on this rank
    /// stays unchanged, whatever the plugin wrote into its copy.
    pub(super) fn give_back(&self, job: &Job, rank: u32) {
        let request = job.request();
        if let Lent::Copied(arena) = self
            && request.op.writes_outputs(request.params.root == rank)
        {
            let inputs = request.inputs().len();
            for (i, span) in request.outputs().iter().enumerate() {
                arena.copy_out(inputs + i, span);
            }
        }
    }

    /// Ends the job while the plugin may still use the lent memory, which is leaked. Returns the number of leaked
    /// bytes.
    pub(super) fn write_off(self, job: Job, error: Error) -> u64 {
        match self {
            // The clock does not end operations with `Trusted` memory, so the plugin has already called `done` for
            // this operation.
            Lent::None | Lent::Trusted => {
                job.complete(Err(error));
                0
            }
            Lent::Copied(arena) => {
                let bytes = arena.layout.size() as u64;
                std::mem::forget(arena);
                job.complete(Err(error));
                bytes
            }
            Lent::Retained(retained) => {
                let bytes = sum(&job);
                std::mem::forget(retained);
                job.complete(Err(error));
                bytes
            }
            Lent::Owned => {
                let bytes = sum(&job);
                // `Lent::Owned` is used only if the job owns its buffers, so `fail_keeping` succeeds.
                let kept = job.fail_keeping(error);
                debug_assert!(kept.is_ok());
                bytes
            }
        }
    }
}

fn sum(job: &Job) -> u64 {
    let request = job.request();
    request.inputs().iter().chain(request.outputs()).map(|s| s.bytes() as u64).sum()
}

impl Arena {
    fn new<'a>(spans: impl Iterator<Item = &'a Span>) -> Result<Arena> {
        let none = |bytes: usize| Error::no_memory(format!("no memory for a copy of {bytes} bytes"));
        let (mut offsets, mut size) = (Vec::new(), 0usize);
        for span in spans {
            offsets.push(size);
            size = size
                .checked_add(span.bytes())
                .and_then(|s| s.checked_next_multiple_of(ALIGN))
                .ok_or_else(|| none(size))?;
        }
        let layout = Layout::from_size_align(size.max(ALIGN), ALIGN).map_err(|_| none(size))?;
        // SAFETY: the size is at least `ALIGN`, so it is not 0.
        let base = unsafe { alloc_zeroed(layout) };
        if base.is_null() {
            return Err(none(size));
        }
        Ok(Arena { base, layout, offsets })
    }

    fn at(&self, i: usize) -> *mut u8 {
        self.base.wrapping_add(self.offsets[i])
    }

    fn copy_in(&self, i: usize, span: &Span) {
        if let Some(from) = span.host_ptr().filter(|_| span.bytes() > 0) {
            // SAFETY: the job still has the caller's memory. The arena has room for the span, and does not overlap it.
            unsafe { std::ptr::copy_nonoverlapping(from, self.at(i), span.bytes()) };
        }
    }

    fn copy_out(&self, i: usize, span: &Span) {
        if let Some(to) = span.host_ptr().filter(|_| span.bytes() > 0) {
            // SAFETY: the same as for `copy_in`; the job may write to its outputs.
            unsafe { std::ptr::copy_nonoverlapping(self.at(i), to, span.bytes()) };
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: the memory comes from `alloc_zeroed` with this layout, and the plugin has released it.
        unsafe { dealloc(self.base, self.layout) };
    }
}

impl Retained {
    /// Asks the plugin to retain the memory. The plugin may take any time to return.
    pub(super) fn take(
        plugin: &Hosted,
        runtime: Option<Arc<dyn DeviceRuntime>>,
        allocations: Vec<Allocation>,
    ) -> Result<Retained> {
        let runtime = runtime.ok_or_else(|| plugin.error("submit", "it has no device part for this memory"))?;
        let mut retained = Retained { runtime, allocations: Vec::new() };
        for allocation in allocations {
            // SAFETY: the job has the memory. If the job is given up while this call runs, the memory may be freed; the
            // ABI tells plugins about this case.
            if !unsafe { retained.runtime.retain(allocation.0, allocation.1 as *mut ()) } {
                let what = "it cannot retain this memory during an operation; start the call with owned buffers";
                return Err(plugin.error("retain", what));
            }
            retained.allocations.push(allocation);
        }
        Ok(retained)
    }
}

impl Drop for Retained {
    fn drop(&mut self) {
        for (index, base) in &self.allocations {
            // SAFETY: `take` has retained this memory, and it is released once.
            unsafe { self.runtime.release(*index, *base as *mut ()) };
        }
    }
}
