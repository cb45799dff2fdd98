//! NCCL's API. Each function behaves as NCCL's documentation describes.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::Arc;

use c10d_core::{DType, ReduceOp};
use parking_lot::Mutex;

use crate::comm::{self, Comm, IN_PROGRESS};
use crate::exec::{self, Call, Kind};
use crate::fault;
use crate::world::{Touch, WORLD};

const SUCCESS: c_int = 0;
const SYSTEM_ERROR: c_int = 2;
const INVALID_ARGUMENT: c_int = 4;
const INVALID_USAGE: c_int = 5;

/// The unique id of a communicator, which callers pass by value.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u8; 128]);

/// The first fields of `ncclConfig_t`. This library reads no other fields.
#[repr(C)]
pub struct Config {
    size: usize,
    magic: u32,
    version: u32,
    blocking: c_int,
}

const MAGIC: [u8; 4] = *b"fake";

#[derive(Default)]
struct Group {
    depth: u32,
    calls: Vec<(u64, u64, Call)>,
    broken: Option<c_int>,
}

thread_local! {
    static GROUP: RefCell<Group> = RefCell::default();
    static LAUNCHES: Cell<u64> = const { Cell::new(0) };
}

/// The text of the last error in this process. It is used for communicators without an error text of their own.
static WORDS: Mutex<String> = Mutex::new(String::new());

/// Whether this thread has made more launches than the number that the script has for the word `name`.
pub(crate) fn launched_past(name: &str) -> bool {
    LAUNCHES.get() > 0 && fault::number(name).is_some_and(|n| LAUNCHES.get() > n)
}

/// Prints the reason, stores it as the last error, and returns the code.
fn refuse(code: c_int, why: impl Into<String>) -> c_int {
    let why = why.into();
    eprintln!("fake NCCL: {why}");
    *WORDS.lock() = why;
    code
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetVersion(version: *mut c_int) -> c_int {
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *version = fault::number("version").map_or(22809, |v| v as c_int) };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetErrorString(code: c_int) -> *const c_char {
    match code {
        SUCCESS => c"no error",
        SYSTEM_ERROR => c"unhandled system error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        6 => c"remote process exited or there was a network error",
        IN_PROGRESS => c"NCCL operation in progress",
        _ => c"unknown result code",
    }
    .as_ptr()
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGetLastError(comm: u64) -> *const c_char {
    let words = comm::get(comm).map(|c| c.words.lock().clone()).filter(|w| !w.is_empty());
    let words = words.unwrap_or_else(|| WORDS.lock().clone());
    // The text is leaked, since the caller may read it at any time.
    CString::new(words).unwrap_or_default().into_raw()
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetUniqueId(id: *mut UniqueId) -> c_int {
    match comm::meeting() {
        Ok(port) => {
            let mut bytes = [0; 128];
            bytes[..4].copy_from_slice(&MAGIC);
            bytes[4..6].copy_from_slice(&port.to_le_bytes());
            // SAFETY: the caller guarantees that the pointer may be written.
            unsafe { *id = UniqueId(bytes) };
            SUCCESS
        }
        Err(e) => refuse(SYSTEM_ERROR, e.to_string()),
    }
}

fn port(id: &UniqueId) -> Option<u16> {
    (id.0[..4] == MAGIC).then(|| u16::from_le_bytes([id.0[4], id.0[5]]))
}

/// Begins to make a communicator.
fn begin(id: &UniqueId, rank: c_int, size: c_int, config: &Config) -> Result<u64, c_int> {
    if config.magic != 0xcafe_beef || config.version == 0 || config.size < 32 {
        return Err(refuse(INVALID_ARGUMENT, "the settings were not initialised"));
    }
    if config.blocking != 0 {
        return Err(refuse(INVALID_USAGE, "the communicator is blocking, so its calls may never return"));
    }
    let Some(port) = port(id) else { return Err(refuse(INVALID_ARGUMENT, "no id of this library")) };
    let Some(device) = crate::cuda::current() else { return Err(refuse(INVALID_USAGE, "the thread has no device")) };
    if rank < 0 || rank >= size {
        return Err(refuse(INVALID_ARGUMENT, format!("rank {rank} of {size}")));
    }
    if fault::is("init", "hang", rank as u32) {
        fault::hang();
    }
    Ok(Comm::begin(port, rank as u32, size as u32, device))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut u64,
    size: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut Config,
) -> c_int {
    // SAFETY: the caller guarantees that the settings may be read.
    match begin(&id, rank, size, unsafe { &*config }) {
        Ok(handle) => {
            // SAFETY: the caller guarantees that the pointer may be written.
            unsafe { *comm = handle };
            IN_PROGRESS
        }
        Err(code) => code,
    }
}

/// Makes a communicator without settings. This waits until the ranks have connected.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut u64, size: c_int, id: UniqueId, rank: c_int) -> c_int {
    let config = Config { size: 80, magic: 0xcafe_beef, version: 22800, blocking: 0 };
    let handle = match begin(&id, rank, size, &config) {
        Ok(handle) => handle,
        Err(code) => return code,
    };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *comm = handle };
    while comm::get(handle).is_some_and(|c| c.state() == IN_PROGRESS) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    comm::get(handle).map_or(SYSTEM_ERROR, |c| c.state())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankScalable(
    comm: *mut u64,
    size: c_int,
    rank: c_int,
    ids: c_int,
    list: *mut UniqueId,
    config: *mut Config,
) -> c_int {
    if ids < 1 {
        return refuse(INVALID_ARGUMENT, "no ids");
    }
    // SAFETY: the caller guarantees that the list may be read, and it is not empty.
    let first = unsafe { *list };
    if config.is_null() {
        // SAFETY: the caller guarantees the same of these arguments.
        return unsafe { ncclCommInitRank(comm, size, first, rank) };
    }
    // SAFETY: the caller guarantees the same of these arguments.
    unsafe { ncclCommInitRankConfig(comm, size, first, rank, config) }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(comm: u64, color: c_int, key: c_int, new: *mut u64, _: *mut Config) -> c_int {
    let parent = match ready(comm) {
        Ok(parent) => parent,
        Err(code) => return code,
    };
    if parent.is_at_work() {
        return refuse(INVALID_USAGE, "a communicator is divided while it is at work");
    }
    let color = u32::try_from(color).ok();
    // SAFETY: the caller guarantees that `new` may be written.
    unsafe { parent.derive(new, move |group| group.split(color, key as u32)) };
    IN_PROGRESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommShrink(
    comm: u64,
    without: *const c_int,
    count: c_int,
    new: *mut u64,
    _: *mut Config,
    flags: c_int,
) -> c_int {
    let parent = match ready(comm) {
        Ok(parent) => parent,
        Err(code) => return code,
    };
    if flags == 0 && parent.is_at_work() {
        return refuse(INVALID_USAGE, "a communicator is shrunk while it is at work");
    }
    // SAFETY: the list has the given length.
    let lost = unsafe { std::slice::from_raw_parts(without, count as usize) };
    let lost: Vec<u32> = lost.iter().map(|r| *r as u32).collect();
    // SAFETY: the caller guarantees that `new` may be written.
    unsafe { parent.derive(new, move |group| group.shrink(&lost).map(Some)) };
    IN_PROGRESS
}

fn ready(handle: u64) -> Result<Arc<Comm>, c_int> {
    let comm = comm::get(handle).ok_or_else(|| refuse(INVALID_ARGUMENT, "the communicator does not exist"))?;
    match comm.state() {
        0 if comm.is_finalized() => Err(refuse(INVALID_USAGE, "the communicator was finalized")),
        0 => Ok(comm),
        IN_PROGRESS => Err(refuse(INVALID_ARGUMENT, "the communicator is not ready")),
        code => Err(code),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommFinalize(comm: u64) -> c_int {
    match ready(comm) {
        Ok(comm) => {
            comm.finalize();
            IN_PROGRESS
        }
        Err(code) => code,
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommDestroy(comm: u64) -> c_int {
    match comm::get(comm) {
        Some(c) if c.state() == IN_PROGRESS => refuse(INVALID_USAGE, "destroyed while it is at work"),
        Some(_) => {
            drop(comm::take(comm));
            SUCCESS
        }
        None => refuse(INVALID_ARGUMENT, "the communicator does not exist"),
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclCommAbort(comm: u64) -> c_int {
    let Some(comm) = comm::take(comm) else { return refuse(INVALID_ARGUMENT, "the communicator does not exist") };
    if fault::is("abort", "hang", comm.rank) {
        fault::hang();
    }
    if fault::is("abort", "slow", comm.rank) {
        std::thread::sleep(std::time::Duration::from_secs(1));
    }
    comm.abort();
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: u64, state: *mut c_int) -> c_int {
    let Some(comm) = comm::get(comm) else { return refuse(INVALID_ARGUMENT, "the communicator does not exist") };
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *state = comm.ask() };
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupStart() -> c_int {
    GROUP.with_borrow_mut(|g| g.depth += 1);
    SUCCESS
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclGroupEnd() -> c_int {
    let group = GROUP.with_borrow_mut(|g| {
        g.depth = g.depth.saturating_sub(1);
        (g.depth == 0).then(|| std::mem::take(g))
    });
    let Some(group) = group else { return SUCCESS };
    if let Some(code) = group.broken {
        return code;
    }
    let mut comms: Vec<u64> = Vec::new();
    for (comm, ..) in &group.calls {
        if !comms.contains(comm) {
            comms.push(*comm);
        }
    }
    let mut result = SUCCESS;
    for comm in comms {
        let of_comm = group.calls.iter().filter(|(c, ..)| *c == comm);
        let streams: Vec<u64> = of_comm.clone().map(|(_, stream, _)| *stream).collect();
        if streams.iter().any(|s| *s != streams[0]) {
            return refuse(INVALID_USAGE, "one communicator on two streams in one group");
        }
        let launched = launch(comm, streams[0], of_comm.map(|(.., call)| call.clone()).collect());
        result = if launched == SUCCESS { result } else { launched };
    }
    result
}

/// Puts the calls of a launch on the stream, as one piece of work.
fn launch(handle: u64, stream: u64, calls: Vec<Call>) -> c_int {
    let comm = match ready(handle) {
        Ok(comm) => comm,
        Err(code) => return code,
    };
    let own = |kind: Kind| calls.iter().filter(|c| c.kind == kind && c.peer == comm.rank).count();
    let messages = |c: &Call| matches!(c.kind, Kind::Send | Kind::Recv);
    if calls.iter().any(messages) && own(Kind::Send) != own(Kind::Recv) {
        return refuse(
            INVALID_USAGE,
            "a message from a rank to itself needs its send and its receive in the same group",
        );
    }
    let mut touches = Vec::new();
    for call in &calls {
        let (reads, writes) = call.ranges(comm.rank, comm.size);
        touches.push(Touch { at: call.from, bytes: reads, writes: false });
        touches.push(Touch { at: call.to, bytes: writes, writes: true });
    }
    let n = comm.launch();
    let (this, here) = (comm.clone(), fault::number("rank").is_none_or(|r| r == u64::from(comm.rank)));
    let is = |name: &str| here && fault::number(name) == Some(n);
    let (hangs, errs, garbles, behind) = (is("hang"), is("error"), is("garble"), is("behind"));
    let unregistered = is("unregistered");
    let work = move || {
        if hangs || errs || unregistered {
            this.stick();
            // After an aborted call, the contents of its outputs are unknown.
            for call in &calls {
                let (_, writes) = call.ranges(this.rank, this.size);
                // SAFETY: the range is device memory, which was checked at the call and exists until the work is
                // finished.
                unsafe { std::ptr::write_bytes(call.to as *mut u8, 0xff, writes) };
            }
            this.landed();
            return;
        }
        for call in calls.iter().filter(|_| garbles) {
            let (reads, _) = call.ranges(this.rank, this.size);
            // SAFETY: the range is device memory, which was checked at the call and exists until the work is finished.
            unsafe { std::ptr::write_bytes(call.from as *mut u8, 0xff, reads) };
        }
        if let Some(group) = this.group()
            && let Err(e) = exec::run(&group, &calls)
        {
            this.fail(6, &e.to_string());
            // Like a real CUDA kernel, the work does not end by itself after an error, so that nobody uses the data as
            // a result.
            this.stick();
        }
        if behind {
            this.let_others_go_on(n);
        }
        this.landed();
    };
    if WORLD.lock().stream_device(stream) != Some(comm.device) {
        comm.landed();
        return refuse(INVALID_ARGUMENT, "a stream that is not of the communicator's device");
    }
    LAUNCHES.set(LAUNCHES.get() + 1);
    let of = comm.clone();
    let enqueue = move || WORLD.lock().enqueue(stream, &touches, Box::new(work)).inspect_err(|_| of.landed());
    if let Some(asks) = fault::number("progress") {
        let of = comm.clone();
        comm.later(asks, move || match enqueue() {
            Ok(()) => of.set(SUCCESS),
            Err(why) => of.fail(INVALID_USAGE, &why),
        });
        return IN_PROGRESS;
    }
    if let Err(why) = enqueue() {
        return refuse(INVALID_USAGE, why);
    }
    if errs {
        comm.fail(6, "the fault script ends the connection");
    }
    if unregistered {
        comm.fail(2, "Call to ibv_reg_mr failed with error Cannot allocate memory");
    }
    if is("issue") {
        comm.set(IN_PROGRESS);
        return IN_PROGRESS;
    }
    SUCCESS
}

fn dtype(code: c_int) -> Option<DType> {
    use DType::*;
    [I8, U8, I32, U32, I64, U64, F16, F32, F64, BF16].get(usize::try_from(code).ok()?).copied()
}

/// Adds a call to the current NCCL group. Without a group, the call is launched alone.
#[allow(clippy::too_many_arguments)]
fn call(
    kind: Kind,
    from: u64,
    to: u64,
    count: usize,
    ty: c_int,
    op: c_int,
    peer: c_int,
    comm: u64,
    stream: u64,
) -> c_int {
    let made = GROUP.with_borrow(|g| g.depth > 0);
    let refused = |code: c_int| {
        GROUP.with_borrow_mut(|g| g.broken = if made { Some(code) } else { None });
        code
    };
    let c = match ready(comm) {
        Ok(c) => c,
        Err(code) => return refused(code),
    };
    let Some(dtype) = dtype(ty) else { return refused(refuse(INVALID_ARGUMENT, format!("data type {ty}"))) };
    let factors = c.factors.lock();
    let reduce = match op {
        0 => ReduceOp::Sum,
        1 => ReduceOp::Product,
        2 => ReduceOp::Max,
        3 => ReduceOp::Min,
        4 => ReduceOp::Avg,
        made => match factors.get(made as usize - 5).copied().flatten() {
            Some(factor) => ReduceOp::PreMulSum(factor),
            None => return refused(refuse(INVALID_ARGUMENT, format!("reduction {made} does not exist"))),
        },
    };
    if matches!(kind, Kind::Send | Kind::Recv) && !made {
        return refused(refuse(INVALID_USAGE, "a message outside of a group"));
    }
    if peer < 0 || peer as u32 >= c.size {
        return refused(refuse(INVALID_ARGUMENT, format!("rank {peer} of {}", c.size)));
    }
    drop(factors);
    let call = Call { kind, from, to, count, dtype, reduce, peer: peer as u32 };
    if made {
        GROUP.with_borrow_mut(|g| g.calls.push((comm, stream, call)));
        return SUCCESS;
    }
    launch(comm, stream, vec![call])
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAllReduce(f: u64, t: u64, n: usize, ty: c_int, op: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::AllReduce, f, t, n, ty, op, 0, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclReduce(f: u64, t: u64, n: usize, ty: c_int, op: c_int, root: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::Reduce, f, t, n, ty, op, root, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclBroadcast(f: u64, t: u64, n: usize, ty: c_int, root: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::Broadcast, f, t, n, ty, 0, root, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAllGather(f: u64, t: u64, n: usize, ty: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::AllGather, f, t, n, ty, 0, 0, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclReduceScatter(f: u64, t: u64, n: usize, ty: c_int, op: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::ReduceScatter, f, t, n, ty, op, 0, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclAlltoAll(f: u64, t: u64, n: usize, ty: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::AllToAll, f, t, n, ty, 0, 0, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclSend(f: u64, n: usize, ty: c_int, peer: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::Send, f, 0, n, ty, 0, peer, comm, s)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclRecv(t: u64, n: usize, ty: c_int, peer: c_int, comm: u64, s: u64) -> c_int {
    call(Kind::Recv, 0, t, n, ty, 0, peer, comm, s)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclRedOpCreatePreMulSum(
    op: *mut c_int,
    scalar: *const c_void,
    ty: c_int,
    residence: c_int,
    comm: u64,
) -> c_int {
    let comm = match ready(comm) {
        Ok(comm) => comm,
        Err(code) => return code,
    };
    if residence != 1 {
        return refuse(INVALID_ARGUMENT, "the scalar is not in host memory");
    }
    // SAFETY: the caller guarantees that the scalar is one element of the type.
    let factor = unsafe {
        match dtype(ty) {
            Some(DType::F32) => f64::from(*scalar.cast::<f32>()),
            Some(DType::F64) => *scalar.cast::<f64>(),
            Some(DType::F16) => half(u32::from(*scalar.cast::<u16>()), 10, 15),
            Some(DType::BF16) => f64::from(f32::from_bits(u32::from(*scalar.cast::<u16>()) << 16)),
            _ => return refuse(INVALID_ARGUMENT, format!("no factor of data type {ty}")),
        }
    };
    let mut factors = comm.factors.lock();
    factors.push(Some(factor));
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *op = 4 + factors.len() as c_int };
    SUCCESS
}

/// Returns the value of a 16-bit float that is finite and normal.
fn half(bits: u32, fraction: u32, bias: i32) -> f64 {
    let exponent = (bits >> fraction & 0x1f) as i32 - bias;
    let mantissa = f64::from(bits & ((1 << fraction) - 1)) / f64::from(1u32 << fraction);
    let sign = if bits >> 15 == 1 { -1.0 } else { 1.0 };
    sign * (1.0 + mantissa) * 2f64.powi(exponent)
}

#[unsafe(no_mangle)]
pub extern "C" fn ncclRedOpDestroy(op: c_int, comm: u64) -> c_int {
    let Some(comm) = comm::get(comm) else { return refuse(INVALID_ARGUMENT, "the communicator does not exist") };
    let mut factors = comm.factors.lock();
    match factors.get_mut((op as usize).wrapping_sub(5)).and_then(Option::take) {
        Some(_) => SUCCESS,
        None => refuse(INVALID_ARGUMENT, format!("reduction {op} does not exist")),
    }
}
