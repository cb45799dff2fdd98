//! A device, with its queue, its failure and its kernels.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use c10d_core::device::{Event, Stream};
use c10d_core::{Error, ErrorKind, Result};
use parking_lot::Mutex;
use wgpu::util::DeviceExt;

use crate::kernel::Kernel;
use crate::memory::Memory;
use crate::streams::Streams;

/// The maximum number of bytes of one copy or dispatch.
pub(crate) const PIECE: u64 = 16 << 20;
/// Copies and kernels work on whole words of 4 bytes, even if the caller's range ends inside a word. Sizes of
/// allocations are multiples of this number, so the last word is inside the buffer.
const GRAIN: u64 = 256;

pub(crate) struct Gpu {
    name: String,
    pub(crate) device: wgpu::Device,
    pub(crate) queue: wgpu::Queue,
    /// The first failure of the device, or of a call after which the device cannot be used. Later calls return it.
    failure: Arc<OnceLock<String>>,
    pub(crate) streams: Mutex<Streams>,
    pipelines: Mutex<HashMap<Kernel, wgpu::ComputePipeline>>,
}

impl Gpu {
    pub(crate) fn open(adapter: &wgpu::Adapter) -> Result<Gpu> {
        let name = adapter.get_info().name;
        let request = adapter.request_device(&wgpu::DeviceDescriptor {
            label: Some("c10d"),
            required_limits: adapter.limits(),
            ..Default::default()
        });
        let opened = pollster::block_on(request);
        let (device, queue) = opened.map_err(|e| error(&name, "it could not be opened").caused_by(e))?;
        let failure: Arc<OnceLock<String>> = Arc::default();
        let (lost, wrong) = (failure.clone(), failure.clone());
        device.set_device_lost_callback(move |reason, why| {
            let _ = lost.set(format!("the device was lost ({reason:?}): {why}"));
        });
        device.on_uncaptured_error(Arc::new(move |e| {
            let _ = wrong.set(e.to_string());
        }));
        Ok(Gpu { failure, ..Gpu::adopt(device, queue) })
    }

    /// Uses a device that the program has opened. The program's own error handler gets the errors of this device.
    pub(crate) fn adopt(device: wgpu::Device, queue: wgpu::Queue) -> Gpu {
        let name = device.adapter_info().name;
        let (failure, streams, pipelines) = Default::default();
        Gpu { name, device, queue, failure, streams, pipelines }
    }

    pub(crate) fn error(&self, what: impl std::fmt::Display) -> Error {
        error(&self.name, what)
    }

    pub(crate) fn failure(&self) -> Arc<OnceLock<String>> {
        self.failure.clone()
    }

    pub(crate) fn check(&self) -> Result {
        self.failure.get().map_or(Ok(()), |what| Err(self.error(what)))
    }

    pub(crate) fn allocate(&self, bytes: usize) -> Result<Memory> {
        self.check()?;
        let none =
            |why: String| Error::new(ErrorKind::Resource, format!("{}: no buffer of {bytes} bytes: {why}", self.name));
        let most = self.device.limits().max_buffer_size;
        let size = (bytes as u64).checked_next_multiple_of(GRAIN).filter(|size| *size <= most);
        let size = size.ok_or_else(|| none(format!("the adapter allows at most {most} bytes")))?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
        let usage = wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST;
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("c10d"),
            size,
            usage,
            mapped_at_creation: false,
        });
        match pollster::block_on(scope.pop()) {
            None => Ok(Memory { buffer }),
            Some(e) => Err(none(e.to_string())),
        }
    }

    /// Makes a buffer with these bytes, for a kernel.
    pub(crate) fn constant(&self, bytes: &[u8], usage: wgpu::BufferUsages) -> wgpu::Buffer {
        self.device.create_buffer_init(&wgpu::util::BufferInitDescriptor {
            label: Some("c10d"),
            contents: bytes,
            usage,
        })
    }

    pub(crate) fn pipeline(&self, kernel: Kernel) -> Result<wgpu::ComputePipeline> {
        let mut pipelines = self.pipelines.lock();
        if let Some(pipeline) = pipelines.get(&kernel) {
            return Ok(pipeline.clone());
        }
        let text = kernel.source().ok_or_else(|| Error::unsupported(format!("{}: no {kernel:?}", self.name)))?;
        let scope = self.device.push_error_scope(wgpu::ErrorFilter::Validation);
        let module = self.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some("c10d"),
            source: wgpu::ShaderSource::Wgsl(text.into()),
        });
        let pipeline = self.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some("c10d"),
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: Default::default(),
            cache: None,
        });
        if let Some(e) = pollster::block_on(scope.pop()) {
            return Err(self.error(format!("{kernel:?} does not compile: {e}")));
        }
        pipelines.insert(kernel, pipeline.clone());
        Ok(pipeline)
    }

    /// Records the event after all work that the queue and the stream have so far.
    pub(crate) fn record(&self, event: Event, stream: Stream) -> Result {
        self.check()?;
        let mark = self.streams.lock().record(event, stream);
        self.queue.on_submitted_work_done(move || mark.passed.store(true, Ordering::Release));
        Ok(())
    }

    /// Whether the event is reached. Runs the device's callbacks, and does not wait.
    pub(crate) fn query(&self, event: Event) -> Result<bool> {
        let mark = self.streams.lock().mark(event);
        self.poll(wgpu::PollType::Poll)?;
        self.check()?;
        Ok(mark.is_none_or(|mark| mark.is_reached()))
    }

    /// Waits for the queue, for 50 ms at most.
    pub(crate) fn pause(&self) -> Result {
        self.poll(wgpu::PollType::Wait { submission_index: None, timeout: Some(Duration::from_millis(50)) })
    }

    fn poll(&self, how: wgpu::PollType) -> Result {
        match self.device.poll(how) {
            Ok(_) | Err(wgpu::PollError::Timeout) => Ok(()),
            Err(e) => Err(self.error("its queue cannot be polled").caused_by(e)),
        }
    }
}

fn error(name: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Device, format!("wgpu device {name:?}: {what}"))
}
