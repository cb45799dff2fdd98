//! The device runtime for c10d.
#![allow(unsafe_code)]

use c10d_core::device::{DevicePtr, DeviceReduce, DeviceRuntime, Elements, Event, Stream};
use c10d_core::{DTypeSet, Error, ReduceOp, Result};
use wgpu::{Backends, DeviceType, Instance, InstanceDescriptor};

use crate::copies::Region;
use crate::gpu::Gpu;
use crate::kernel::{self, Kernel};
use crate::memory::Memory;

/// The runtime of the machine's GPUs, or of the program's devices.
pub struct Wgpu {
    gpus: Vec<Gpu>,
    /// The errors of the devices that could not be opened.
    closed: Vec<Error>,
}

impl Wgpu {
    /// Opens all GPUs, or a software implementation if there is no GPU. Devices that cannot be opened are left out.
    ///
    /// # Errors
    /// `Unsupported`: there is no GPU and no software implementation. `Device`: no device could be opened.
    pub(crate) fn open() -> Result<Wgpu> {
        let instance = Instance::new(InstanceDescriptor::new_without_display_handle_from_env());
        let adapters = pollster::block_on(instance.enumerate_adapters(Backends::PRIMARY));
        let is_real = |a: &&wgpu::Adapter| a.get_info().device_type != DeviceType::Cpu;
        let real: Vec<_> = adapters.iter().filter(is_real).collect();
        let chosen = if real.is_empty() { adapters.iter().collect() } else { real };
        if chosen.is_empty() {
            let what = "wgpu finds no adapter: no GPU with Vulkan, Metal or DX12 and its driver, and no software Vulkan \
                        (Mesa's is mesa-vulkan-drivers on Debian)";
            return Err(Error::unsupported(what));
        }
        let (gpus, closed) = opened(chosen.into_iter().map(Gpu::open))?;
        Ok(Wgpu { gpus, closed })
    }

    pub(crate) fn adopt(devices: Vec<(wgpu::Device, wgpu::Queue)>) -> Wgpu {
        let gpus = devices.into_iter().map(|(device, queue)| Gpu::adopt(device, queue)).collect();
        Wgpu { gpus, closed: Vec::new() }
    }

    fn gpu(&self, index: u16) -> Result<&Gpu> {
        self.gpus.get(usize::from(index)).ok_or_else(|| {
            let closed: Vec<String> = self.closed.iter().map(|e| format!("; {}", e.report().what)).collect();
            let have = self.gpus.len();
            Error::invalid(format!(
                "there is no wgpu device {index}; the devices are numbered from 0, and their number is {have}{}",
                closed.concat()
            ))
        })
    }
}

/// Returns the devices that could be opened, and the errors of the others. Returns an error if no device could be
/// opened.
fn opened<T>(all: impl Iterator<Item = Result<T>>) -> Result<(Vec<T>, Vec<Error>)> {
    let (mut open, mut closed) = (Vec::new(), Vec::new());
    for one in all {
        match one {
            Ok(one) => open.push(one),
            Err(e) => closed.push(e),
        }
    }
    if open.is_empty() && !closed.is_empty() { Err(closed.swap_remove(0)) } else { Ok((open, closed)) }
}

/// # Safety
/// `of.base` is a handle that still has an owner.
unsafe fn region(of: DevicePtr) -> Region {
    // SAFETY: the caller guarantees it.
    Region { buffer: unsafe { Memory::buffer(of) }, offset: of.offset }
}

// SAFETY: a buffer exists until its last owner has released it and the queue has finished with it. Host memory is read
// before `copy_in` returns, and written before an event after `copy_out` is reached.
unsafe impl DeviceRuntime for Wgpu {
    fn name(&self) -> &'static str {
        "wgpu"
    }

    fn count(&self) -> Result<u16> {
        Ok(u16::try_from(self.gpus.len()).unwrap_or(u16::MAX))
    }

    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()> {
        self.gpu(index)?.allocate(bytes).map(Memory::into_handle)
    }

    unsafe fn free(&self, _: u16, base: *mut ()) {
        // SAFETY: the caller has this owner of the handle, and does not use it any more.
        unsafe { Memory::release(base) }
    }

    unsafe fn retain(&self, _: u16, base: *mut ()) -> bool {
        // SAFETY: the caller has an owner of the handle.
        unsafe { Memory::retain(base) };
        true
    }

    unsafe fn release(&self, _: u16, base: *mut ()) {
        // SAFETY: `retain` has added this owner.
        unsafe { Memory::release(base) }
    }

    fn create_stream(&self, index: u16) -> Result<Stream> {
        Ok(self.gpu(index)?.streams.lock().create())
    }

    unsafe fn destroy_stream(&self, index: u16, stream: Stream) {
        if let Ok(gpu) = self.gpu(index) {
            gpu.streams.lock().destroy_stream(stream);
        }
    }

    fn create_event(&self, index: u16) -> Result<Event> {
        Ok(self.gpu(index)?.streams.lock().create())
    }

    unsafe fn destroy_event(&self, index: u16, event: Event) {
        if let Ok(gpu) = self.gpu(index) {
            gpu.streams.lock().destroy_event(event);
        }
    }

    unsafe fn record(&self, index: u16, event: Event, stream: Stream) -> Result {
        self.gpu(index)?.record(event, stream)
    }

    unsafe fn wait(&self, index: u16, stream: Stream, event: Event) -> Result {
        self.gpu(index)?.streams.lock().wait(stream, event);
        Ok(())
    }

    unsafe fn query(&self, index: u16, event: Event) -> Result<bool> {
        self.gpu(index)?.query(event)
    }

    unsafe fn copy_in(&self, index: u16, stream: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result {
        // SAFETY: the caller guarantees the handle and the host memory.
        unsafe { self.gpu(index)?.copy_in(stream, &region(to), from, bytes) }
    }

    unsafe fn copy_out(&self, index: u16, stream: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result {
        // SAFETY: the caller guarantees the handle and the host memory.
        unsafe { self.gpu(index)?.copy_out(stream, to, &region(from), bytes) }
    }

    unsafe fn copy(&self, index: u16, _: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result {
        // SAFETY: the caller guarantees both handles.
        let (to, from) = unsafe { (region(to), region(from)) };
        self.gpu(index)?.copy(&to, &from, bytes as u64)
    }

    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        Some(self)
    }
}

// SAFETY: the same as for `DeviceRuntime`.
unsafe impl DeviceReduce for Wgpu {
    fn reduces(&self, op: ReduceOp) -> DTypeSet {
        kernel::reduces(op)
    }

    unsafe fn reduce(
        &self,
        index: u16,
        _: Stream,
        op: ReduceOp,
        Elements { dtype, count }: Elements,
        acc: DevicePtr,
        with: DevicePtr,
    ) -> Result {
        // SAFETY: the caller guarantees both handles.
        let (acc, with) = unsafe { (region(acc), region(with)) };
        let kernel = Kernel::Reduce(op.code(), dtype);
        self.gpu(index)?.run(kernel, &acc, &with, (count * kernel.size()) as u64)
    }
}

#[cfg(test)]
mod tests {
    use c10d_core::ErrorKind;

    use super::*;

    #[test]
    fn devices_that_do_not_open_are_left_out() {
        let closed = |what: &'static str| Err(Error::new(ErrorKind::Device, what));
        let (open, said) = opened([Ok(1), closed("lost"), Ok(3)].into_iter()).unwrap();
        assert_eq!((open, said.len()), (vec![1, 3], 1));
        let e = opened::<u32>([closed("first"), closed("second")].into_iter()).unwrap_err();
        assert!(e.to_string().contains("first"), "{e}");
    }
}
