//! Mocks of CUDA and NCCL, which do nothing but log the calls.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use c10d_core::backend::{Backend, GroupInit, Provider, Registration};
use c10d_core::device::{DevicePtr, DeviceRuntime, Event, Stream};
use c10d_core::sync::Mutex;
use c10d_core::{Device, DispatchKey, Error, ErrorKind, Result};

use crate::backend::Nccl;
use crate::cuda::CudaApi;
use crate::kernels::Kernel;
use crate::nccl::{Call, Comm, Config, DataType, NcclApi, NcclResult, Optional, RedOp, UniqueId, Version};
use crate::start::StartOptions;

#[derive(Clone, Default)]
pub(super) struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    fn add(&self, line: String) {
        self.0.lock().push(line);
    }

    pub(super) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

static LOGS: Mutex<BTreeMap<(String, u32), Log>> = Mutex::new(BTreeMap::new());

pub(super) fn log(group: &str, rank: u32) -> Log {
    LOGS.lock().entry((group.to_owned(), rank)).or_default().clone()
}

pub(super) static PROVIDER: Provider = Provider {
    source: "mock",
    backends: &[Registration {
        name: "mock",
        keys: &[DispatchKey::Cuda],
        priority: 100,
        probe: &|| Ok(()),
        create: &create,
    }],
    ..Provider::EMPTY
};

/// The hint with the rank that cannot make the group.
pub(super) const POOR: &str = "mock.poor";

fn create(init: &GroupInit) -> Result<Arc<dyn Backend>> {
    if init.hint(POOR) == Some(&init.rank.to_string()) {
        return Err(Error::new(ErrorKind::Resource, "no descriptor left (limit 100)"));
    }
    Ok(Arc::new(connect(init)?))
}

pub(super) fn connect(init: &GroupInit) -> Result<Nccl> {
    let log = log(&init.group, init.rank);
    let (old, slow) = (init.hint("mock.old").is_some(), init.hint("mock.slow").is_some());
    let nccl = Arc::new(Mock { log: log.clone(), next: AtomicU64::new(1), old, slow, group_end: None });
    let cuda = MockCuda { log, ..MockCuda::at_work(0) };
    Nccl::connect(nccl, Arc::new(cuda), StartOptions::of(init, 0)?)
}

/// Makes the device for the buffers of a test.
pub(super) fn cuda() -> Arc<dyn DeviceRuntime> {
    Arc::new(MockCuda::at_work(0))
}

/// The same as `cuda`, with the trait that the backend uses.
pub(super) fn cuda_api() -> Arc<dyn CudaApi> {
    Arc::new(MockCuda::at_work(0))
}

pub(crate) struct MockCuda {
    log: Log,
    next: AtomicU64,
    /// How many times `query` still answers that the device has not finished.
    questions: AtomicU64,
    freed: AtomicU64,
}

impl MockCuda {
    /// Makes a device that is busy for this number of polls.
    pub(crate) fn at_work(questions: u64) -> MockCuda {
        let (questions, freed) = (AtomicU64::new(questions), AtomicU64::new(0));
        MockCuda { log: Log::default(), next: AtomicU64::new(1), questions, freed }
    }

    pub(crate) fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    fn give_back(&self) {
        assert_eq!(self.questions.load(Ordering::Relaxed), 0, "freed while the device is at work");
        self.freed.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: its memory is a number that is never used as an address, and copies do nothing.
unsafe impl DeviceRuntime for MockCuda {
    fn name(&self) -> &'static str {
        "cuda"
    }
    fn device(&self, index: u16) -> Device {
        Device::cuda(index)
    }
    fn count(&self) -> Result<u16> {
        Ok(1)
    }
    fn allocate(&self, _: u16, _: usize) -> Result<*mut ()> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Ok((NEXT.fetch_add(1, Ordering::Relaxed) << 20) as *mut ())
    }
    unsafe fn free(&self, _: u16, _: *mut ()) {
        self.give_back();
    }
    unsafe fn release(&self, _: u16, _: *mut ()) {
        self.give_back();
    }
    fn create_stream(&self, _: u16) -> Result<Stream> {
        Ok(self.next.fetch_add(1, Ordering::Relaxed))
    }
    unsafe fn destroy_stream(&self, _: u16, _: Stream) {}
    fn create_event(&self, _: u16) -> Result<Event> {
        Ok(0)
    }
    unsafe fn destroy_event(&self, _: u16, _: Event) {}
    unsafe fn record(&self, _: u16, _: Event, stream: Stream) -> Result {
        self.log.add(format!("record on {stream}"));
        Ok(())
    }
    unsafe fn wait(&self, _: u16, stream: Stream, _: Event) -> Result {
        self.log.add(format!("{stream} waits"));
        Ok(())
    }
    unsafe fn query(&self, _: u16, _: Event) -> Result<bool> {
        let one_less = |n: u64| n.checked_sub(1);
        Ok(self.questions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less).is_err())
    }
    unsafe fn copy_in(&self, _: u16, _: Stream, _: DevicePtr, _: *const u8, _: usize) -> Result {
        Ok(())
    }
    unsafe fn copy_out(&self, _: u16, _: Stream, _: *mut u8, _: DevicePtr, _: usize) -> Result {
        Ok(())
    }
    unsafe fn copy(&self, _: u16, stream: Stream, _: DevicePtr, _: DevicePtr, bytes: usize) -> Result {
        self.log.add(format!("copy {bytes} on {stream}"));
        Ok(())
    }
}

// SAFETY: the same as for `DeviceRuntime`; kernels do nothing.
unsafe impl CudaApi for MockCuda {
    fn enter(&self, _: u16) -> Result {
        Ok(())
    }
    fn device_of(&self, _: u64) -> Result<Option<u16>> {
        Ok(Some(0))
    }
    fn has_kernels(&self) -> Result {
        Ok(())
    }
    unsafe fn launch(&self, _: u16, stream: Stream, kernel: &Kernel, _: usize, _: &[u64]) -> Result {
        self.log.add(format!("{} on {stream}", kernel.name));
        Ok(())
    }
}

pub(super) struct Mock {
    pub(super) log: Log,
    pub(super) next: AtomicU64,
    /// Whether the library lacks the optional functions.
    pub(super) old: bool,
    /// Whether the library never finishes anything.
    pub(super) slow: bool,
    /// The result of `group_end`, if it is not success.
    pub(super) group_end: Option<NcclResult>,
}

impl Mock {
    fn did(&self, line: String) -> NcclResult {
        self.log.add(line);
        NcclResult::SUCCESS
    }

    fn data(&self, what: &str, c: Call, more: String) -> NcclResult {
        let ty = match c.dtype {
            DataType::F32 => "f32",
            DataType::U8 => "u8",
            _ => "?",
        };
        self.did(format!("{what} {}x{ty}{more} on {}", c.count, c.stream))
    }
}

fn op(op: RedOp) -> String {
    match op {
        RedOp::SUM => " sum".to_owned(),
        RedOp::AVG => " avg".to_owned(),
        RedOp::MAX => " max".to_owned(),
        RedOp(made) => format!(" op{made}"),
    }
}

impl NcclApi for Mock {
    fn version(&self) -> Version {
        Version::new(2, 28, 9)
    }
    fn has(&self, _: Optional) -> bool {
        !self.old
    }
    fn error_string(&self, _: NcclResult) -> String {
        String::new()
    }
    fn last_error(&self, _: Comm) -> String {
        String::new()
    }
    fn unique_id(&self) -> Result<UniqueId, NcclResult> {
        let mut id = UniqueId::default();
        id.0[0] = self.next.fetch_add(1, Ordering::Relaxed) as u8;
        Ok(id)
    }
    fn init(&self, size: i32, ids: &[UniqueId], rank: i32, _: &Config) -> (NcclResult, Comm) {
        self.did(format!("init {rank} of {size} with {} ids", ids.len()));
        (NcclResult::IN_PROGRESS, Comm(self as *const Mock as *mut _))
    }
    unsafe fn split(&self, _: Comm, color: Option<i32>, key: i32, new: *mut Comm, _: &Config) -> NcclResult {
        // SAFETY: the caller guarantees `new`.
        unsafe { *new = color.map_or(Comm::NULL, |_| Comm(self as *const Mock as *mut _)) };
        self.did(format!("split {color:?} {key}"))
    }
    unsafe fn shrink(&self, _: Comm, without: &[i32], new: *mut Comm, _: &Config) -> NcclResult {
        // SAFETY: the caller guarantees `new`.
        unsafe { *new = Comm(self as *const Mock as *mut _) };
        self.did(format!("shrink by {without:?}"))
    }
    unsafe fn async_error(&self, _: Comm) -> Result<NcclResult, NcclResult> {
        Ok(if self.slow { NcclResult::IN_PROGRESS } else { NcclResult::SUCCESS })
    }
    unsafe fn finalize(&self, _: Comm) -> NcclResult {
        self.did("finalize".to_owned())
    }
    unsafe fn destroy(&self, _: Comm) -> NcclResult {
        self.did("destroy".to_owned())
    }
    unsafe fn abort(&self, _: Comm) -> NcclResult {
        self.did("abort".to_owned())
    }
    fn group_start(&self) -> NcclResult {
        self.did("group {".to_owned())
    }
    fn group_end(&self) -> NcclResult {
        let ended = self.did("}".to_owned());
        self.group_end.unwrap_or(ended)
    }
    unsafe fn premul_sum(&self, scalar: &[u8], _: DataType, _: Comm) -> Result<RedOp, NcclResult> {
        self.did(format!("make op5 of {} bytes", scalar.len()));
        Ok(RedOp(5))
    }
    unsafe fn destroy_op(&self, op: RedOp, _: Comm) -> NcclResult {
        self.did(format!("destroy op{}", op.0))
    }
    unsafe fn all_reduce(&self, c: Call, o: RedOp) -> NcclResult {
        self.data("all_reduce", c, op(o))
    }
    unsafe fn reduce(&self, c: Call, o: RedOp, root: i32) -> NcclResult {
        self.data("reduce", c, format!("{} to {root}", op(o)))
    }
    unsafe fn broadcast(&self, c: Call, root: i32) -> NcclResult {
        self.data("broadcast", c, format!(" from {root}"))
    }
    unsafe fn all_gather(&self, c: Call) -> NcclResult {
        self.data("all_gather", c, String::new())
    }
    unsafe fn reduce_scatter(&self, c: Call, o: RedOp) -> NcclResult {
        self.data("reduce_scatter", c, op(o))
    }
    unsafe fn all_to_all(&self, c: Call) -> NcclResult {
        self.data("all_to_all", c, String::new())
    }
    unsafe fn send(&self, c: Call, peer: i32) -> NcclResult {
        self.data("send", c, format!(" to {peer}"))
    }
    unsafe fn recv(&self, c: Call, peer: i32) -> NcclResult {
        self.data("recv", c, format!(" from {peer}"))
    }
}
