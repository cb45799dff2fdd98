//! Calls the functions of the loaded library.
#![allow(unsafe_code)]

use std::ffi::{CStr, c_char, c_void};

use super::api::{Call, NcclApi, Optional};
use super::library::Library;
use super::types::{Comm, Config, NcclResult, RedOp, UniqueId, Version};

/// The result of a function that the library lacks.
const ABSENT: NcclResult = NcclResult::INVALID_USAGE;

fn done<T>(result: NcclResult, value: T) -> Result<T, NcclResult> {
    if result == NcclResult::SUCCESS { Ok(value) } else { Err(result) }
}

fn text(words: *const c_char) -> String {
    if words.is_null() {
        return String::new();
    }
    // SAFETY: the library returns null or a string that ends with a zero byte.
    unsafe { CStr::from_ptr(words) }.to_string_lossy().trim().to_owned()
}

impl NcclApi for Library {
    fn version(&self) -> Version {
        self.version
    }

    fn has(&self, what: Optional) -> bool {
        match what {
            Optional::InitRankScalable => self.functions.init_rank_scalable.is_some(),
            Optional::AllToAll => self.functions.all_to_all.is_some(),
            Optional::Shrink => self.functions.shrink.is_some(),
        }
    }

    fn error_string(&self, result: NcclResult) -> String {
        // SAFETY: the function accepts any code.
        text(unsafe { (self.functions.error_string)(result) })
    }

    fn last_error(&self, comm: Comm) -> String {
        // SAFETY: the communicator exists or is null, which stands for the process.
        self.functions.last_error.map_or_else(String::new, |f| text(unsafe { f(comm) }))
    }

    fn unique_id(&self) -> Result<UniqueId, NcclResult> {
        let mut id = UniqueId::default();
        // SAFETY: the function writes to `id`, which has its size.
        let result = unsafe { (self.functions.get_unique_id)(&mut id) };
        done(result, id)
    }

    fn init(&self, size: i32, ids: &[UniqueId], rank: i32, config: &Config) -> (NcclResult, Comm) {
        let (mut comm, mut config) = (Comm::NULL, *config);
        let result = match (ids, self.functions.init_rank_scalable) {
            // SAFETY: all pointers are to local values; the library copies the settings.
            ([id], _) => unsafe { (self.functions.init_rank_config)(&mut comm, size, *id, rank, &mut config) },
            (ids, Some(f)) => {
                let mut ids = ids.to_vec();
                // SAFETY: the same as above; the list has the given length, and the library copies it.
                unsafe { f(&mut comm, size, rank, ids.len() as i32, ids.as_mut_ptr(), &mut config) }
            }
            _ => ABSENT,
        };
        (result, comm)
    }

    unsafe fn split(&self, comm: Comm, color: Option<i32>, key: i32, new: *mut Comm, config: &Config) -> NcclResult {
        const NO_COLOR: i32 = -1;
        let mut config = *config;
        // SAFETY: the caller guarantees `comm` and `new`; the library copies the settings.
        unsafe { (self.functions.split)(comm, color.unwrap_or(NO_COLOR), key, new, &mut config) }
    }

    unsafe fn shrink(&self, comm: Comm, without: &[i32], new: *mut Comm, config: &Config) -> NcclResult {
        /// The flag with which NCCL does not abort running calls before the shrink.
        const DEFAULT: i32 = 0;
        let (mut config, mut without) = (*config, without.to_vec());
        // SAFETY: the same as in `split`; the list has the given length, and the library copies it.
        let call = |f: unsafe extern "C" fn(_, _, _, _, _, _) -> _| unsafe {
            f(comm, without.as_mut_ptr(), without.len() as i32, new, &raw mut config, DEFAULT)
        };
        self.functions.shrink.map_or(ABSENT, call)
    }

    unsafe fn async_error(&self, comm: Comm) -> Result<NcclResult, NcclResult> {
        let mut state = NcclResult::SUCCESS;
        // SAFETY: the caller guarantees the communicator.
        let result = unsafe { (self.functions.get_async_error)(comm, &mut state) };
        done(result, state)
    }

    unsafe fn finalize(&self, comm: Comm) -> NcclResult {
        // SAFETY: the caller guarantees the communicator.
        unsafe { (self.functions.finalize)(comm) }
    }

    unsafe fn destroy(&self, comm: Comm) -> NcclResult {
        // SAFETY: the caller guarantees the communicator.
        unsafe { (self.functions.destroy)(comm) }
    }

    unsafe fn abort(&self, comm: Comm) -> NcclResult {
        // SAFETY: the caller guarantees the communicator.
        unsafe { (self.functions.abort)(comm) }
    }

    fn group_start(&self) -> NcclResult {
        // SAFETY: the function has no arguments.
        unsafe { (self.functions.group_start)() }
    }

    fn group_end(&self) -> NcclResult {
        // SAFETY: the function has no arguments. It issues calls whose arguments were guaranteed when they were made.
        unsafe { (self.functions.group_end)() }
    }

    unsafe fn premul_sum(&self, scalar: &[u8], dtype: super::types::DataType, comm: Comm) -> Result<RedOp, NcclResult> {
        /// The scalar is in host memory, and NCCL reads it before the call returns.
        const HOST_IMMEDIATE: i32 = 1;
        let mut op = RedOp::SUM;
        let scalar = scalar.as_ptr().cast_mut().cast::<c_void>();
        // SAFETY: the caller guarantees that the scalar is one element of the type.
        let result = unsafe { (self.functions.premul_sum)(&mut op, scalar, dtype, HOST_IMMEDIATE, comm) };
        done(result, op)
    }

    unsafe fn destroy_op(&self, op: RedOp, comm: Comm) -> NcclResult {
        // SAFETY: `premul_sum` made the operation for this communicator.
        unsafe { (self.functions.destroy_op)(op, comm) }
    }

    unsafe fn all_reduce(&self, c: Call, op: RedOp) -> NcclResult {
        // SAFETY: in this method and all below, the caller guarantees memory, communicator and stream.
        unsafe { (self.functions.all_reduce)(c.source(), c.target(), c.count, c.dtype, op, c.comm, c.stream()) }
    }

    unsafe fn reduce(&self, c: Call, op: RedOp, root: i32) -> NcclResult {
        // SAFETY: see `all_reduce`.
        unsafe { (self.functions.reduce)(c.source(), c.target(), c.count, c.dtype, op, root, c.comm, c.stream()) }
    }

    unsafe fn broadcast(&self, c: Call, root: i32) -> NcclResult {
        // SAFETY: see `all_reduce`.
        unsafe { (self.functions.broadcast)(c.source(), c.target(), c.count, c.dtype, root, c.comm, c.stream()) }
    }

    unsafe fn all_gather(&self, c: Call) -> NcclResult {
        // SAFETY: see `all_reduce`.
        unsafe { (self.functions.all_gather)(c.source(), c.target(), c.count, c.dtype, c.comm, c.stream()) }
    }

    unsafe fn reduce_scatter(&self, c: Call, op: RedOp) -> NcclResult {
        // SAFETY: see `all_reduce`.
        unsafe { (self.functions.reduce_scatter)(c.source(), c.target(), c.count, c.dtype, op, c.comm, c.stream()) }
    }

    unsafe fn all_to_all(&self, c: Call) -> NcclResult {
        // SAFETY: see `all_reduce`.
        let call = |f: unsafe extern "C" fn(_, _, _, _, _, _) -> _| unsafe {
            f(c.source(), c.target(), c.count, c.dtype, c.comm, c.stream())
        };
        self.functions.all_to_all.map_or(ABSENT, call)
    }

    unsafe fn send(&self, c: Call, peer: i32) -> NcclResult {
        // SAFETY: see `all_reduce`.
        unsafe { (self.functions.send)(c.source(), c.count, c.dtype, peer, c.comm, c.stream()) }
    }

    unsafe fn recv(&self, c: Call, peer: i32) -> NcclResult {
        // SAFETY: see `all_reduce`.
        unsafe { (self.functions.recv)(c.target(), c.count, c.dtype, peer, c.comm, c.stream()) }
    }
}
