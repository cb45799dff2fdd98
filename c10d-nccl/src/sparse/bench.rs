//! The device's part of a sparse call: its memory, its stream, and its work.
#![allow(unsafe_code)]

use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DevicePtr, DeviceRuntime, Stream};
use c10d_core::{Buf, BufMut, DType, Device, Error, ErrorKind, Memory, Phase, Result, Span};

use crate::cuda::{CudaApi, WorkStream};
use crate::kernels::Kernel;

/// How long to wait, at the end of a call, until the device has finished. After that, the memory that the device may
/// still use is leaked.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);
/// The maximum pause between two polls.
const PAUSE: Duration = Duration::from_micros(200);

/// Elements in device memory. The bench owns the memory, or the caller keeps it during the whole call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tensor {
    pub(super) at: u64,
    pub(super) count: usize,
    pub(super) dtype: DType,
}

impl Tensor {
    /// Returns the tensor of a span, or `None` if the span is not on a CUDA device.
    pub(super) fn of(span: &Span) -> Option<Tensor> {
        match span.memory() {
            Memory::Cuda(at) => Some(Tensor { at, count: span.count(), dtype: span.dtype() }),
            _ => None,
        }
    }

    pub(super) fn slice(self, start: usize, count: usize) -> Result<Tensor> {
        match start.checked_add(count) {
            Some(end) if end <= self.count => {
                Ok(Tensor { at: self.at + (start * self.dtype.size()) as u64, count, ..self })
            }
            _ => Err(Error::new(ErrorKind::Internal, "a slice beyond its tensor")),
        }
    }

    pub(super) fn bytes(self) -> usize {
        self.count * self.dtype.size()
    }

    fn place(self) -> DevicePtr {
        DevicePtr { base: self.at as *mut (), offset: 0 }
    }
}

/// A tensor that a step (one dense op of the sparse call) uses.
pub(super) struct Lent {
    tensor: Tensor,
    index: u16,
}

impl Lent {
    /// # Safety
    /// Until the step has ended, the tensor's memory exists and only the step uses it.
    pub(super) unsafe fn new(tensor: Tensor, index: u16) -> Lent {
        Lent { tensor, index }
    }
}

// SAFETY: the caller of `new` guarantees that the memory exists until the step has ended.
unsafe impl Buf for Lent {
    fn span(&mut self) -> Span {
        let Tensor { at, count, dtype } = self.tensor;
        Span::new(at as *mut (), 0, count as u64, dtype, Device::cuda(self.index))
    }
}
// SAFETY: the caller of `new` guarantees that only the step uses the memory.
unsafe impl BufMut for Lent {}

/// The resources of one call. All work is on one stream, and runs after the earlier work of the caller's stream.
pub(super) struct Bench {
    cuda: Arc<dyn CudaApi>,
    runtime: Arc<dyn DeviceRuntime>,
    index: u16,
    line: WorkStream,
    deadline: Instant,
    buffers: Vec<(u64, DeviceBuffer)>,
    /// Host memory that the device reads or writes.
    hosts: Vec<Box<[u8]>>,
    /// The error if this call's stream cannot wait for the caller's stream.
    refused: Option<Error>,
}

impl Bench {
    pub(super) fn new(cuda: Arc<dyn CudaApi>, index: u16, caller: Stream, deadline: Instant) -> Result<Bench> {
        cuda.enter_own(index)?;
        let mut line = WorkStream::new(cuda.clone(), index)?;
        let refused = line.check(caller).err();
        if refused.is_none() {
            let before = line.before(caller)?;
            line.follow(before)?;
        }
        let (buffers, hosts) = (Vec::new(), Vec::new());
        Ok(Bench { runtime: cuda.clone(), cuda, index, line, deadline, buffers, hosts, refused })
    }

    /// Returns an error if the caller's tensors must not be read, because this call's stream cannot wait for the
    /// caller's stream.
    pub(super) fn is_open(&self) -> Result {
        self.refused.clone().map_or(Ok(()), Err)
    }

    pub(super) fn stream(&self) -> Stream {
        self.line.stream()
    }

    /// Allocates memory that exists until the call has ended.
    pub(super) fn allocate(&mut self, dtype: DType, count: usize) -> Result<Tensor> {
        let mut buffer = DeviceBuffer::new(&self.runtime, self.index, dtype, count)?;
        let at = match buffer.span().memory() {
            Memory::Cuda(at) => at,
            _ => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    "the CUDA runtime returned memory that is not CUDA memory",
                ));
            }
        };
        self.buffers.push((at, buffer));
        Ok(Tensor { at, count, dtype })
    }

    pub(super) fn upload(&mut self, dtype: DType, bytes: Vec<u8>) -> Result<Tensor> {
        let tensor = self.allocate(dtype, bytes.len() / dtype.size())?;
        self.write(tensor, bytes)?;
        Ok(tensor)
    }

    fn write(&mut self, to: Tensor, bytes: Vec<u8>) -> Result {
        let bytes = bytes.into_boxed_slice();
        if !bytes.is_empty() {
            // SAFETY: both sides have this length, and exist until the device has finished the copy.
            unsafe {
                self.cuda.copy_in(self.index, self.line.stream(), to.place(), bytes.as_ptr(), to.bytes())?;
            }
            self.hosts.push(bytes);
        }
        Ok(())
    }

    pub(super) fn upload_numbers(&mut self, numbers: &[u64]) -> Result<Tensor> {
        self.upload(DType::U64, numbers.iter().flat_map(|n| n.to_ne_bytes()).collect())
    }

    /// Waits until the device has finished all its work, and returns the contents of a tensor.
    pub(super) fn download(&mut self, from: Tensor) -> Result<Vec<u8>> {
        let mut bytes = vec![0; from.bytes()].into_boxed_slice();
        if bytes.is_empty() {
            return Ok(Vec::new());
        }
        let to = bytes.as_mut_ptr();
        self.hosts.push(bytes);
        // SAFETY: both sides have this length, and exist until the device has finished the copy.
        unsafe { self.cuda.copy_out(self.index, self.line.stream(), to, from.place(), from.bytes())? };
        self.settle()?;
        Ok(self.hosts.pop().unwrap_or_default().into_vec())
    }

    pub(super) fn download_numbers(&mut self, from: Tensor) -> Result<Vec<u64>> {
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0, |n, byte| n << 8 | u64::from(*byte));
        let number =
            |bytes: &[u8]| if cfg!(target_endian = "big") { number(bytes).swap_bytes() } else { number(bytes) };
        Ok(self.download(from)?.chunks_exact(from.dtype.size()).map(number).collect())
    }

    pub(super) fn copy(&mut self, from: Tensor, to: Tensor) -> Result {
        if from.bytes() == 0 {
            return Ok(());
        }
        if from.bytes() > to.bytes() {
            return Err(Error::new(ErrorKind::Internal, "a copy beyond its tensor"));
        }
        // SAFETY: the tensors do not overlap, and each has this number of bytes.
        unsafe { self.cuda.copy(self.index, self.line.stream(), to.place(), from.place(), from.bytes()) }
    }

    /// # Safety
    /// The arguments fit the kernel, and all memory to which they refer belongs to the call.
    pub(super) unsafe fn launch(&mut self, kernel: &Kernel, threads: usize, arguments: &[u64]) -> Result {
        // SAFETY: the caller guarantees the arguments and the memory.
        unsafe { self.cuda.launch(self.index, self.line.stream(), kernel, threads, arguments) }
    }

    /// Waits until the device has finished all its work.
    pub(super) fn settle(&mut self) -> Result {
        self.settle_by(self.deadline)
    }

    fn settle_by(&mut self, deadline: Instant) -> Result {
        let mark = self.line.mark()?;
        let mut pause = Duration::from_micros(5);
        for turn in 0.. {
            if self.line.passed(&mark)? {
                self.line.forget(mark);
                return Ok(());
            }
            if Instant::now() >= deadline {
                let what = "the device did not finish its work on a sparse tensor in time";
                return Err(Error::new(ErrorKind::Timeout, what).phase(Phase::Transfer));
            }
            if turn < 64 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(pause);
                pause = (pause * 2).min(PAUSE);
            }
        }
        Ok(())
    }

    /// Removes a buffer from the bench and returns it. The device must have finished all work on the buffer.
    pub(super) fn take(&mut self, tensor: Tensor) -> Result<DeviceBuffer> {
        // Empty tensors may have the same address, so the count and the type are compared, too.
        let found = self
            .buffers
            .iter()
            .position(|(at, b)| *at == tensor.at && b.count() == tensor.count && b.dtype() == tensor.dtype);
        let at = found.ok_or_else(|| Error::new(ErrorKind::Internal, "the buffer of a result is missing"))?;
        Ok(self.buffers.swap_remove(at).1)
    }

    /// Frees everything. If the device does not finish in time, leaks the memory that it may still use, and returns
    /// `false`.
    pub(super) fn end(mut self, patience: Duration) -> bool {
        let over = self.settle_by(Instant::now() + patience).is_ok();
        if over {
            self.line.close();
        } else {
            std::mem::forget((std::mem::take(&mut self.buffers), std::mem::take(&mut self.hosts)));
        }
        over
    }
}
