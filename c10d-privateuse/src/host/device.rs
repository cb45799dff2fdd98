//! A plugin's device as a runtime. It converts arguments and results, and counts the owners of device memory.
//! `identity` calls the plugin on another thread, with a time limit. All other methods call it directly.
#![allow(unsafe_code)]

use std::ffi::c_void;

use c10d_core::device::{DevicePtr, DeviceReduce, DeviceRuntime, Elements, Event, Stream, vendor};
use c10d_core::{DTypeSet, Device, DispatchKey, Error, ErrorKind, ReduceOp, Result};

use super::answer;
use super::owners::{Left, Owners};
use super::plugin::Hosted;
use crate::abi::{self, Why, codes};
use crate::table::device_key;

pub(crate) struct PluginDevice {
    plugin: &'static Hosted,
    functions: abi::Device,
    key: DispatchKey,
    owners: Owners,
}

impl PluginDevice {
    pub(super) fn new(plugin: &'static Hosted, functions: abi::Device) -> PluginDevice {
        let key = device_key(&functions).unwrap_or(DispatchKey::PrivateUse1);
        PluginDevice { plugin, functions, key, owners: Owners::default() }
    }

    pub(super) fn key(&self) -> DispatchKey {
        self.key
    }

    /// Frees memory that has no owner any more.
    fn gone(&self, index: u16, base: *mut ()) {
        if let Some(free) = self.functions.free {
            // SAFETY: the function was validated, the plugin allocated the memory, and nothing uses it any more.
            unsafe { free(index.into(), base.cast()) };
        }
    }

    /// Calls a function of the plugin. Returns an error if the plugin does not have the function.
    fn call<F>(&self, name: &'static str, function: Option<F>, call: impl FnOnce(F, *mut Why) -> i32) -> Result {
        let function = function.ok_or_else(|| self.plugin.error(name, "it has no such function"))?;
        let (status, why) = Why::ask(|why| call(function, why));
        answer::status(self.plugin, name, status, &why)
    }
}

// SAFETY: every call is passed on to the plugin, whose contract (c10d_plugin.h) has the same guarantees.
unsafe impl DeviceRuntime for PluginDevice {
    fn name(&self) -> &'static str {
        self.plugin.name
    }

    fn device(&self, index: u16) -> Device {
        if self.key == DispatchKey::Cuda { Device::cuda(index) } else { Device::private(vendor(self.name()), index) }
    }

    fn identity(&self, index: u16) -> Option<String> {
        let identity = self.functions.identity?;
        // The function is called while a group is made, so it has a time limit.
        let asked = self.plugin.in_time("identity", move || {
            let (mut room, mut len) = ([0u8; 256], 0);
            let (capacity, text) = (room.len() as u64, room.as_mut_ptr().cast());
            // SAFETY: the function was validated; `text` has `capacity` bytes, and `len` is valid.
            let (status, _) = Why::ask(|why| unsafe { identity(index.into(), text, capacity, &mut len, why) });
            (status, len, room)
        });
        let (status, len, room) = asked.inspect_err(|e| tracing::warn!(target: "c10d::plugin", "{e}")).ok()?;
        let len = usize::try_from(len).ok().filter(|len| status == codes::OK && (1..=room.len()).contains(len))?;
        Some(String::from_utf8_lossy(&room[..len]).into_owned())
    }

    fn count(&self) -> Result<u16> {
        let mut count = 0;
        // SAFETY: the function was validated, and `count` is valid.
        self.call("count", self.functions.count, |f, why| unsafe { f(&mut count, why) })?;
        u16::try_from(count).map_err(|_| self.plugin.error("count", format!("it returned {count}, which is too many")))
    }

    fn allocate(&self, index: u16, bytes: usize) -> Result<*mut ()> {
        let mut base: *mut c_void = std::ptr::null_mut();
        self.call("allocate", self.functions.allocate, |f, why| {
            // SAFETY: the function was validated, and `base` is valid.
            unsafe { f(index.into(), bytes as u64, &mut base, why) }
        })?;
        if base.is_null() {
            return Err(self.plugin.error("allocate", "it returned success, but no memory"));
        }
        if !self.owners.first(index, base as usize) {
            return Err(self.plugin.error("allocate", "it returned memory that is still in use"));
        }
        Ok(base.cast())
    }

    unsafe fn free(&self, index: u16, base: *mut ()) {
        if self.owners.less(index, base as usize) == Left::Nobody {
            self.gone(index, base);
        }
    }

    unsafe fn retain(&self, index: u16, base: *mut ()) -> bool {
        if self.owners.more(index, base as usize) {
            return true;
        }
        // c10d did not allocate this memory. The plugin may be able to retain it.
        let Some(retain) = self.functions.retain else { return false };
        // SAFETY: the caller's guarantee is the same as the ABI's.
        let (status, _) = Why::ask(|why| unsafe { retain(index.into(), base.cast(), why) });
        status == codes::OK
    }

    unsafe fn release(&self, index: u16, base: *mut ()) {
        match (self.owners.less(index, base as usize), self.functions.release) {
            (Left::Somebody, _) | (Left::Unknown, None) => {}
            (Left::Nobody, _) => self.gone(index, base),
            // SAFETY: the caller's guarantee is the same as the ABI's.
            (Left::Unknown, Some(release)) => unsafe { release(index.into(), base.cast()) },
        }
    }

    fn allocate_host(&self, bytes: usize) -> Option<*mut u8> {
        let allocate = self.functions.allocate_host?;
        // SAFETY: the function was validated, and needs nothing else.
        let base = unsafe { allocate(bytes as u64) };
        (!base.is_null()).then_some(base.cast())
    }

    unsafe fn free_host(&self, base: *mut u8, bytes: usize) {
        if let Some(free) = self.functions.free_host {
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { free(base.cast(), bytes as u64) };
        }
    }

    fn create_stream(&self, index: u16) -> Result<Stream> {
        let mut stream = 0;
        match self.functions.create_stream {
            None => Ok(0),
            some => {
                // SAFETY: the function was validated, and `stream` is valid.
                let made = self.call("create_stream", some, |f, why| unsafe { f(index.into(), &mut stream, why) });
                made.map(|()| stream)
            }
        }
    }

    unsafe fn destroy_stream(&self, index: u16, stream: Stream) {
        if let Some(destroy) = self.functions.destroy_stream {
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { destroy(index.into(), stream) };
        }
    }

    fn create_event(&self, index: u16) -> Result<Event> {
        let mut event = 0;
        match self.functions.create_event {
            None => Ok(0),
            some => {
                // SAFETY: the function was validated, and `event` is valid.
                let made = self.call("create_event", some, |f, why| unsafe { f(index.into(), &mut event, why) });
                made.map(|()| event)
            }
        }
    }

    unsafe fn destroy_event(&self, index: u16, event: Event) {
        if let Some(destroy) = self.functions.destroy_event {
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { destroy(index.into(), event) };
        }
    }

    unsafe fn record(&self, index: u16, event: Event, stream: Stream) -> Result {
        match self.functions.record {
            None => Ok(()),
            // SAFETY: the caller's guarantee is the same as the ABI's.
            some => self.call("record", some, |f, why| unsafe { f(index.into(), event, stream, why) }),
        }
    }

    unsafe fn wait(&self, index: u16, stream: Stream, event: Event) -> Result {
        match self.functions.wait {
            None => Ok(()),
            // SAFETY: the caller's guarantee is the same as the ABI's.
            some => self.call("wait", some, |f, why| unsafe { f(index.into(), stream, event, why) }),
        }
    }

    unsafe fn query(&self, index: u16, event: Event) -> Result<bool> {
        let mut reached = 1;
        if let some @ Some(_) = self.functions.query {
            // SAFETY: the caller's guarantee is the same as the ABI's, and `reached` is valid.
            self.call("query", some, |f, why| unsafe { f(index.into(), event, &mut reached, why) })?;
        }
        match reached {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(self.plugin.error("query", format!("it set `reached` to {other}, not to 0 or 1"))),
        }
    }

    unsafe fn copy_in(&self, index: u16, stream: Stream, to: DevicePtr, from: *const u8, bytes: usize) -> Result {
        self.call("copy_in", self.functions.copy_in, |f, why| {
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { f(index.into(), stream, to.base.cast(), to.offset, from.cast(), bytes as u64, why) }
        })
    }

    unsafe fn copy_out(&self, index: u16, stream: Stream, to: *mut u8, from: DevicePtr, bytes: usize) -> Result {
        self.call("copy_out", self.functions.copy_out, |f, why| {
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { f(index.into(), stream, to.cast(), from.base.cast(), from.offset, bytes as u64, why) }
        })
    }

    unsafe fn copy(&self, index: u16, stream: Stream, to: DevicePtr, from: DevicePtr, bytes: usize) -> Result {
        self.call("copy", self.functions.copy, |f, why| {
            let (to, at) = (to.base.cast(), to.offset);
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { f(index.into(), stream, to, at, from.base.cast_const().cast(), from.offset, bytes as u64, why) }
        })
    }

    fn reduction(&self) -> Option<&dyn DeviceReduce> {
        self.functions.reduce.is_some().then_some(self)
    }
}

// SAFETY: every call is passed on to the plugin, whose contract (c10d_plugin.h) has the same guarantees.
unsafe impl DeviceReduce for PluginDevice {
    fn reduces(&self, op: ReduceOp) -> DTypeSet {
        // SAFETY: the function was validated, and needs nothing else.
        self.functions.reduces.map_or(DTypeSet::NONE, |f| codes::dtypes(unsafe { f(op.code().into()) }))
    }

    unsafe fn reduce(
        &self,
        index: u16,
        stream: Stream,
        op: ReduceOp,
        Elements { dtype, count }: Elements,
        acc: DevicePtr,
        with: DevicePtr,
    ) -> Result {
        if matches!(op, ReduceOp::Avg | ReduceOp::PreMulSum(_)) {
            return Err(Error::new(ErrorKind::Internal, "devices do not reduce with averages or factors"));
        }
        self.call("reduce", self.functions.reduce, |f, why| {
            let (index, op, dtype) = (index.into(), op.code().into(), dtype as u32);
            let (with, at) = (with.base.cast_const().cast(), with.offset);
            // SAFETY: the caller's guarantee is the same as the ABI's.
            unsafe { f(index, stream, op, dtype, acc.base.cast(), acc.offset, with, at, count as u64, why) }
        })
    }
}
