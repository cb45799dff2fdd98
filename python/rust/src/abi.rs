//! The border: the functions and structs of `c10d_rs.h`.
//!
//! Each function turns what C gave into values of the library, calls the safe code of the other modules, and turns the
//! outcome back. A panic becomes an error of kind `Internal`.
#![allow(unsafe_code)]

use std::ffi::{c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use c10d::{Error, ErrorKind, ProcessGroup, Result, Store, backend::Registry};

use crate::call::{self, Described};
use crate::error::Report;
use crate::memory::{Callback, Lent, Owner, slice};
use crate::sparse::{self, Entries};
use crate::store::{Foreign, Verb};
use crate::work::Started;

/// `C10DRS_ABI`: grows with every change of the header that an older caller could not live with.
pub const ABI: u32 = 1;

/// `c10drs_text`: bytes, not ended by anything.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Text {
    data: *const c_char,
    len: usize,
}

/// `c10drs_put`: takes bytes that are given in place of a return value.
pub type Put = unsafe extern "C" fn(sink: *mut c_void, bytes: *const c_void, len: usize);

/// `c10drs_store`.
#[derive(Debug)]
#[repr(C)]
pub struct StoreCall {
    context: *mut c_void,
    call: unsafe extern "C" fn(
        context: *mut c_void,
        verb: u32,
        args: *const Text,
        len: usize,
        number: i64,
        timeout_ms: i64,
        out: *mut i64,
        sink: *mut c_void,
        put: Put,
    ) -> c_int,
    release: unsafe extern "C" fn(*mut c_void),
}

// SAFETY: the header demands that the functions may be called on any thread, also at once.
unsafe impl Send for StoreCall {}
// SAFETY: as above.
unsafe impl Sync for StoreCall {}

impl StoreCall {
    /// Asks the store; gives the number and the bytes that it answers, or its reason.
    pub(crate) fn call(&self, verb: Verb, args: &[&[u8]], number: i64, millis: i64) -> Result<(i64, Vec<u8>), String> {
        unsafe extern "C" fn put(sink: *mut c_void, bytes: *const c_void, len: usize) {
            // SAFETY: the sink is the vector below; the store gives bytes that are there.
            unsafe { (*sink.cast::<Vec<u8>>()).extend_from_slice(slice(bytes.cast::<u8>(), len)) }
        }
        let args: Vec<Text> = args.iter().map(|a| Text { data: a.as_ptr().cast(), len: a.len() }).collect();
        let (mut out, mut bytes) = (0i64, Vec::<u8>::new());
        // SAFETY: as the header has it; everything lives until the call returns.
        let code = unsafe {
            let sink = (&raw mut bytes).cast();
            (self.call)(self.context, verb as u32, args.as_ptr(), args.len(), number, millis, &raw mut out, sink, put)
        };
        if code == 0 { Ok((out, bytes)) } else { Err(String::from_utf8_lossy(&bytes).into_owned()) }
    }
}

impl Drop for StoreCall {
    fn drop(&mut self) {
        // SAFETY: the one place; nobody asks the store any more.
        unsafe { (self.release)(self.context) }
    }
}

/// `c10drs_init`.
#[derive(Debug)]
#[repr(C)]
pub struct Init {
    /// The struct's size, by which versions are told apart.
    pub bytes: usize,
    rank: u32,
    size: u32,
    timeout_ms: i64,
    name: Text,
    /// Keys are below it, if it is not empty.
    prefix: Text,
    /// Which backend serves which device; empty: the default ones.
    backends: Text,
    /// In place of a store, rank and size: an init method.
    url: Text,
    /// Names and values by turns.
    hints: *const Text,
    hints_len: usize,
    store: *const StoreCall,
    device_kind: u32,
    device_index: u32,
}

/// `c10drs_tensor`.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Tensor {
    data: *mut c_void,
    count: u64,
    dtype: u32,
}

/// `c10drs_call`.
#[derive(Debug)]
#[repr(C)]
pub struct CallSpec {
    pub(crate) op: u32,
    /// c10d's code of the reduce operation.
    pub reduce: u32,
    pub(crate) factor: f64,
    pub(crate) root: u32,
    pub(crate) peer: u32,
    pub(crate) tag: u32,
    pub(crate) wait_all_ranks: u32,
    /// -1: the group's.
    pub(crate) timeout_ms: i64,
    pub(crate) device_kind: u32,
    pub(crate) device_index: u32,
    inputs: *const Tensor,
    inputs_len: usize,
    outputs: *const Tensor,
    outputs_len: usize,
    input_splits: *const u64,
    input_splits_len: usize,
    output_splits: *const u64,
    output_splits_len: usize,
}

/// `c10drs_sparse`.
#[derive(Debug)]
#[repr(C)]
pub struct SparseSpec {
    shape: *const u64,
    dims: usize,
    sparse_dim: usize,
    coalesced: u32,
    dtype: u32,
    indices: *const i64,
    nnz: usize,
    values: *const c_void,
    values_len: usize,
}

/// `c10drs_give`: takes the result of a sparse all-reduce.
pub type Give = unsafe extern "C" fn(
    context: *mut c_void,
    indices: *const i64,
    indices_len: usize,
    values: *const c_void,
    values_len: usize,
);

impl Init {
    /// One rank of a world of one, with defaults.
    pub fn alone() -> Init {
        let none = Text { data: std::ptr::null(), len: 0 };
        let name = Text { data: c"alone".as_ptr(), len: 5 };
        Init {
            bytes: size_of::<Init>(),
            rank: 0,
            size: 1,
            timeout_ms: 10_000,
            name,
            prefix: none,
            backends: none,
            url: none,
            hints: std::ptr::null(),
            hints_len: 0,
            store: std::ptr::null(),
            device_kind: 0,
            device_index: 0,
        }
    }
}

impl Tensor {
    /// `count` elements at `data`.
    pub fn new(data: *mut c_void, count: u64, dtype: u32) -> Tensor {
        Tensor { data, count, dtype }
    }
}

impl CallSpec {
    /// A call of this op, on the host, without tensors.
    pub fn new(op: u32) -> CallSpec {
        CallSpec {
            op,
            reduce: 0,
            factor: 1.0,
            root: 0,
            peer: 0,
            tag: 0,
            wait_all_ranks: 0,
            timeout_ms: -1,
            device_kind: 1,
            device_index: 0,
            inputs: std::ptr::null(),
            inputs_len: 0,
            outputs: std::ptr::null(),
            outputs_len: 0,
            input_splits: std::ptr::null(),
            input_splits_len: 0,
            output_splits: std::ptr::null(),
            output_splits_len: 0,
        }
    }

    /// What is written. The list must be there until the call was given away.
    pub fn set_outputs(&mut self, outputs: *const Tensor, len: usize) {
        (self.outputs, self.outputs_len) = (outputs, len);
    }
}

/// `c10drs_group`.
pub struct Group(ProcessGroup);

/// `c10drs_work`.
pub struct WorkHandle(Arc<Started>);

/// Runs safe code; a panic becomes an error.
fn guarded<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        // Its drop may panic in its turn.
        std::mem::forget(payload);
        Err(Error::new(ErrorKind::Internal, "a defect of c10d_rs: the call panicked; its words are on stderr"))
    })
}

/// 0, or 1 and the error.
///
/// # Safety
/// `error` is null, or there is room for a pointer.
unsafe fn answer(result: Result, error: *mut *mut Report) -> c_int {
    let Err(e) = result else { return 0 };
    if !error.is_null() {
        // SAFETY: as promised.
        unsafe { *error = Box::into_raw(Report::new(&e)) };
    }
    1
}

/// # Safety
/// As the header has it.
unsafe fn text(text: &Text) -> String {
    // SAFETY: as promised.
    String::from_utf8_lossy(unsafe { slice(text.data.cast::<u8>(), text.len) }).into_owned()
}

/// # Safety
/// As the header has it: the lists are there until the call returns.
unsafe fn described(spec: &CallSpec) -> Described<'_> {
    // SAFETY: as promised.
    unsafe {
        Described {
            spec,
            inputs: slice(spec.inputs, spec.inputs_len),
            outputs: slice(spec.outputs, spec.outputs_len),
            input_splits: slice(spec.input_splits, spec.input_splits_len),
            output_splits: slice(spec.output_splits, spec.output_splits_len),
        }
    }
}

/// # Safety
/// The tensors' memory stays until the buffers are dropped.
unsafe fn lent(call: &Described<'_>) -> Result<(Vec<Lent>, Vec<Lent>)> {
    let device = call.device()?;
    // SAFETY: as promised.
    let lend = |t: &Tensor| Ok(unsafe { Lent::new(t.data, t.count, call::dtype(t.dtype)?, device) });
    let list = |tensors: &[Tensor]| tensors.iter().map(lend).collect::<Result<Vec<_>>>();
    Ok((list(call.inputs)?, list(call.outputs)?))
}

/// The version of the interface.
#[unsafe(no_mangle)]
pub extern "C" fn c10drs_abi() -> u32 {
    ABI
}

/// Puts the library's version, and what is registered, in words.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_info(sink: *mut c_void, put: Put) {
    let words = guarded(|| Ok(info())).unwrap_or_else(|e| e.to_string());
    // SAFETY: as promised.
    unsafe { put(sink, words.as_ptr().cast(), words.len()) }
}

fn info() -> String {
    let mut out = format!("version {}\n", env!("CARGO_PKG_VERSION"));
    match Registry::collect(c10d::builtin()) {
        Ok(registry) => {
            for (backend, source) in registry.backends() {
                let devices: Vec<_> = backend.keys.iter().map(|key| key.device_word()).collect();
                let why = (backend.probe)().err().map(|e| e.report().what.clone());
                let (name, why) = (backend.name, why.map_or("available".to_owned(), |why| format!("not here: {why}")));
                out += &format!("backend {name} of {source}, devices {}: {why}\n", devices.join(", "));
            }
        }
        Err(e) => out += &format!("{e}\n"),
    }
    out
}

/// Makes a group; blocks until all ranks are there.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_open(init: *const Init, group: *mut *mut Group, error: *mut *mut Report) -> c_int {
    // The store is taken over in any case.
    // SAFETY: as promised.
    let (init, store) = unsafe { (&*init, (*init).store.as_ref().map(|store| std::ptr::read(store))) };
    // SAFETY: as promised.
    let made = guarded(|| unsafe { open(init, store) });
    // SAFETY: as promised.
    unsafe {
        let made = made.map(|made| *group = Box::into_raw(Box::new(Group(made))));
        answer(made, error)
    }
}

/// # Safety
/// As the header has it.
unsafe fn open(init: &Init, store: Option<StoreCall>) -> Result<ProcessGroup> {
    if init.bytes != size_of::<Init>() {
        let what = format!("c10drs_init has {} bytes, not {}: another version's", size_of::<Init>(), init.bytes);
        return Err(Error::invalid(what));
    }
    // SAFETY: as promised.
    let (name, prefix, backends, url) =
        unsafe { (text(&init.name), text(&init.prefix), text(&init.backends), text(&init.url)) };
    let timeout = Duration::from_millis(init.timeout_ms.max(1) as u64);
    let mut builder = c10d::builder().name(&name).timeout(timeout).backend(&backends);
    if url.is_empty() {
        builder = builder.rank(init.rank).size(init.size);
    } else {
        builder = builder.init(&url);
    }
    if let Some(store) = store {
        let store: Arc<dyn Store> = Arc::new(Foreign(store));
        builder = builder.store(match prefix.is_empty() {
            true => store,
            false => Arc::new(c10d::PrefixStore::new(prefix, store)),
        });
    }
    // SAFETY: as promised.
    let hints = unsafe { slice(init.hints, init.hints_len) };
    for pair in hints.chunks_exact(2) {
        // SAFETY: as promised.
        let (name, value) = unsafe { (text(&pair[0]), text(&pair[1])) };
        builder = builder.hint(&name, &value);
    }
    if init.device_kind != 0 {
        builder = builder.device(call::device(init.device_kind, init.device_index)?);
    }
    builder.build()
}

/// Runs a call on this thread, and waits for its end.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_run(
    group: *const Group,
    spec: *const CallSpec,
    source: *mut u32,
    error: *mut *mut Report,
) -> c_int {
    // SAFETY: as promised; the buffers are gone when the call returns.
    let result = guarded(|| unsafe {
        let call = described(&*spec);
        let (inputs, outputs) = lent(&call)?;
        Ok((*group).0.run(call.call(inputs, outputs)?)?)
    });
    // SAFETY: as promised.
    unsafe {
        let result = result.map(|(_, _, from)| {
            if !source.is_null() {
                *source = from;
            }
        });
        answer(result, error)
    }
}

/// Starts a call. What is wrong with it is told by the wait; null, and the error, where there is nothing to wait for.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_start(
    group: *const Group,
    spec: *const CallSpec,
    release: unsafe extern "C" fn(*mut c_void),
    owner: *mut c_void,
    error: *mut *mut Report,
) -> *mut WorkHandle {
    // SAFETY: as promised; it is released in any case.
    let owner = unsafe { Owner::new(release, owner) };
    // SAFETY: as promised: the memory stays until the owner is released, with the buffers.
    let started = guarded(|| unsafe {
        let call = described(&*spec);
        let (mut inputs, mut outputs) = lent(&call)?;
        if let Some(first) = inputs.first_mut().or(outputs.first_mut()) {
            first.owned_by(owner);
        }
        Ok(Started::new((*group).0.start(call.call(inputs, outputs)?)))
    });
    match started {
        Ok(started) => Box::into_raw(Box::new(WorkHandle(started))),
        Err(e) => {
            // SAFETY: as promised.
            unsafe { answer(Err(e), error) };
            std::ptr::null_mut()
        }
    }
}

/// Whether the op is over.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_done(work: *const WorkHandle) -> c_int {
    // SAFETY: as promised.
    c_int::from(unsafe { &(*work).0 }.is_done())
}

/// Waits so many milliseconds, or, for -1, as long as the op may take. 0: it is over, and well. 1: it is over; the error.
/// 2: it is not over.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_wait(
    work: *const WorkHandle,
    timeout_ms: i64,
    source: *mut u32,
    error: *mut *mut Report,
) -> c_int {
    let patience = u64::try_from(timeout_ms).ok().map(Duration::from_millis);
    // SAFETY: as promised.
    let outcome = guarded(|| Ok(unsafe { &(*work).0 }.wait(patience)));
    // SAFETY: as promised.
    unsafe {
        match outcome {
            Ok(None) => 2,
            Ok(Some(Ok(from))) => {
                if !source.is_null() {
                    *source = from;
                }
                0
            }
            Ok(Some(Err(e))) | Err(e) => answer(Err(e), error),
        }
    }
}

/// Has `function(context)` called, once, on any thread, when the op is over. 0: it is over already, and nothing is called.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_notify(
    work: *const WorkHandle,
    function: unsafe extern "C" fn(*mut c_void),
    context: *mut c_void,
) -> c_int {
    // SAFETY: as promised.
    let (started, tell) = unsafe { (&(*work).0, Callback::new(function, context)) };
    c_int::from(guarded(|| Ok(started.notify(tell))).unwrap_or(false))
}

/// Gives the handle back. The op goes on, and nobody is told any more.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_work_free(work: *mut WorkHandle) {
    if !work.is_null() {
        // SAFETY: as promised.
        let work = unsafe { Box::from_raw(work) };
        let _ = guarded(|| {
            drop(work);
            Ok(())
        });
    }
}

/// Reduces a sparse tensor, on this thread; the result is given before the function returns.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_sparse_all_reduce(
    group: *const Group,
    spec: *const CallSpec,
    tensor: *const SparseSpec,
    give: Give,
    context: *mut c_void,
    error: *mut *mut Report,
) -> c_int {
    // SAFETY: as promised.
    let result = guarded(|| unsafe {
        let (call, tensor) = (described(&*spec), &*tensor);
        let entries = Entries {
            shape: slice(tensor.shape, tensor.dims),
            sparse_dim: tensor.sparse_dim,
            coalesced: tensor.coalesced != 0,
            indices: slice(tensor.indices, tensor.nnz.saturating_mul(tensor.sparse_dim)),
            values: tensor.values,
            count: tensor.values_len,
            dtype: call::dtype(tensor.dtype)?,
        };
        let mut give = |indices: &[i64], values: *const c_void, len: usize| {
            give(context, indices.as_ptr(), indices.len(), values, len)
        };
        sparse::all_reduce(&(*group).0, &entries, call.reduce()?, call.timeout(), &mut give)
    });
    // SAFETY: as promised.
    unsafe { answer(result, error) }
}

/// The group's failure, or null.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_failure(group: *const Group) -> *mut Report {
    // SAFETY: as promised.
    let found = guarded(|| Ok(unsafe { &(*group).0 }.failure().map(Report::new)));
    found.ok().flatten().map_or(std::ptr::null_mut(), Box::into_raw)
}

/// Fails the group.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_abort(group: *const Group, why: Text) {
    // SAFETY: as promised.
    let _ = guarded(|| unsafe {
        (*group).0.abort(&text(&why));
        Ok(())
    });
}

/// Waits for what is in flight, and leaves the group, within this time.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_shutdown(group: *const Group, timeout_ms: i64, error: *mut *mut Report) -> c_int {
    let limit = Duration::from_millis(timeout_ms.max(0) as u64);
    // SAFETY: as promised.
    let result = guarded(|| unsafe { &(*group).0 }.clone().shutdown_within(limit));
    // SAFETY: as promised.
    unsafe { answer(result, error) }
}

/// Makes a group of those that are left.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_shrink(
    group: *const Group,
    lost: *const u32,
    lost_len: usize,
    left: *mut *mut Group,
    error: *mut *mut Report,
) -> c_int {
    // SAFETY: as promised.
    let made = guarded(|| unsafe { (*group).0.shrink(slice(lost, lost_len)) });
    // SAFETY: as promised.
    unsafe {
        let made = made.map(|made| *left = Box::into_raw(Box::new(Group(made))));
        answer(made, error)
    }
}

/// A group's rank.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_rank(group: *const Group) -> u32 {
    // SAFETY: as promised.
    unsafe { &(*group).0 }.rank()
}

/// A group's size.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_size(group: *const Group) -> u32 {
    // SAFETY: as promised.
    unsafe { &(*group).0 }.size()
}

/// Gives the group back; leaves it, if it was not shut down.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_close(group: *mut Group) {
    if !group.is_null() {
        // SAFETY: as promised.
        let group = unsafe { Box::from_raw(group) };
        let _ = guarded(|| {
            drop(group);
            Ok(())
        });
    }
}

/// Gives an error back.
///
/// # Safety
/// As the header has it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn c10drs_error_free(error: *mut Report) {
    if !error.is_null() {
        // SAFETY: as promised.
        drop(unsafe { Box::from_raw(error) });
    }
}
