//! CUDA modules and kernels. The kernels are the real sources, compiled for the CPU and run one thread after another.
#![allow(non_snake_case, missing_docs, clippy::missing_safety_doc)]

use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::cuda::{INVALID_CONTEXT, INVALID_HANDLE, INVALID_VALUE, LAUNCH_FAILED, SUCCESS, current, said};
use crate::fault;
use crate::world::{Touch, WORLD, Work};

include!(concat!(env!("OUT_DIR"), "/kernels.rs"));

unsafe extern "C" {
    fn c10d_host_grid(blocks: c_uint, threads: c_uint);
    fn c10d_host_thread(block: c_uint, thread: c_uint);
}

const INVALID_PTX: c_int = 218;
const NOT_FOUND: c_int = 500;

/// The parameters of each kernel, one letter for each: `r` is an address of memory that the kernel only reads, `w` is
/// an address of memory that the kernel writes (and may read), and `.` is a number.
const USES: [(&str, &str); 14] = [
    ("c10d_reduce_", ".wr."),
    ("c10d_scale_", "..w."),
    ("c10d_sparse_linearise_", "r.r.ww"),
    ("c10d_sparse_check_", "r..w"),
    ("c10d_sparse_locate_", "r.r.ww"),
    ("c10d_sparse_mark_", "r.r.w"),
    ("c10d_sparse_place_", "r.r.r.rw"),
    ("c10d_sparse_union_", "r.r.rw"),
    ("c10d_sparse_gather_", "r.r.w"),
    ("c10d_sparse_sums", "r.w"),
    ("c10d_sparse_scan", "rw."),
    ("c10d_sparse_fill_", ".w."),
    ("c10d_sparse_scatter_", "rr..w"),
    ("c10d_sparse_merge_", ".rrr..w"),
];

/// A module's device, and the names in its PTX.
struct Module {
    device: u16,
    names: Vec<String>,
}

/// A kernel's device, and its index in `KERNELS`.
#[derive(Clone, Copy)]
struct Function {
    device: u16,
    kernel: usize,
}

#[derive(Default)]
struct Loaded {
    modules: HashMap<u64, Module>,
    functions: HashMap<u64, Function>,
    next: u64,
}

/// The number of kernel launches so far, if the fault script has the word `kernel`.
static LAUNCHES: AtomicU64 = AtomicU64::new(0);
static LOADED: LazyLock<Mutex<Loaded>> = LazyLock::new(Mutex::default);

impl Loaded {
    fn handle(&mut self) -> u64 {
        self.next += 1;
        0x50_0000 + self.next * 16
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadData(module: *mut u64, image: *const c_char) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    // SAFETY: the caller guarantees that the text ends with a zero.
    let text = unsafe { CStr::from_ptr(image) }.to_string_lossy();
    if !text.contains(".version ") || !text.contains(".target ") {
        return INVALID_PTX;
    }
    // The real function may also wait for the whole device.
    crate::cuda::cuCtxSynchronize();
    let name = |entry: &str| entry.split_once('(').map(|(name, _)| name.to_owned());
    let names = text.split(".entry ").skip(1).filter_map(name).collect();
    let mut loaded = LOADED.lock();
    let handle = loaded.handle();
    loaded.modules.insert(handle, Module { device, names });
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *module = handle };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleGetFunction(function: *mut u64, module: u64, name: *const c_char) -> c_int {
    // SAFETY: the caller guarantees that the name ends with a zero.
    let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
    let mut loaded = LOADED.lock();
    let Some(found) = loaded.modules.get(&module) else { return INVALID_HANDLE };
    let kernel = KERNELS.iter().position(|(known, ..)| *known == name);
    let (Some(kernel), true) = (kernel, found.names.iter().any(|n| *n == name)) else { return NOT_FOUND };
    let made = Function { device: found.device, kernel };
    let handle = loaded.handle();
    loaded.functions.insert(handle, made);
    // SAFETY: the caller guarantees that the pointer may be written.
    unsafe { *function = handle };
    SUCCESS
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuLaunchKernel(
    function: u64,
    blocks: c_uint,
    blocks_y: c_uint,
    blocks_z: c_uint,
    threads: c_uint,
    threads_y: c_uint,
    threads_z: c_uint,
    shared: c_uint,
    stream: u64,
    parameters: *const *const u64,
    extra: *const c_void,
) -> c_int {
    let Some(device) = current() else { return INVALID_CONTEXT };
    let here = fault::number("rank").is_none_or(|rank| rank == u64::from(device));
    if here && fault::number("kernel").is_some_and(|n| LAUNCHES.fetch_add(1, Ordering::Relaxed) >= n) {
        fault::hang();
    }
    let Some(found) = LOADED.lock().functions.get(&function).copied() else { return INVALID_HANDLE };
    let flat = blocks_y == 1 && blocks_z == 1 && threads_y == 1 && threads_z == 1;
    if !flat || shared != 0 || !extra.is_null() || blocks == 0 || threads == 0 || threads > 1024 {
        eprintln!(
            "fake CUDA: rejected a launch of {blocks} blocks of {threads} threads: a grid has one dimension, at least \
             one block of 1 to 1024 threads, no shared memory and no extra arguments"
        );
        return INVALID_VALUE;
    }
    let (name, count, code) = KERNELS[found.kernel];
    // SAFETY: there are as many pointers to arguments of 64 bits as the PTX has parameters.
    let arguments: Vec<u64> = (0..count).map(|i| unsafe { **parameters.add(i) }).collect();
    let uses = USES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, uses)| *uses);
    let Some(uses) = uses.filter(|uses| uses.len() == count) else {
        return said(Err(format!("the table USES does not describe the parameters of {name}")));
    };
    let work: Work = Box::new(move || {
        // SAFETY: the code is that of a kernel, and the caller guarantees the arguments.
        unsafe { run(code, &arguments, blocks, threads) }
    });
    let mut world = WORLD.lock();
    let Some(stream) = world.stream(stream, device) else { return INVALID_HANDLE };
    if found.device != device || world.stream_device(stream) != Some(device) {
        eprintln!("fake CUDA: {name} is of device {}, its stream is not", found.device);
        return INVALID_HANDLE;
    }
    let mut touches = Vec::new();
    // SAFETY: there are as many pointers to arguments of 64 bits as the PTX has parameters.
    let arguments = (0..count).map(|i| unsafe { **parameters.add(i) });
    for (at, what) in arguments.zip(uses.bytes()).filter(|(at, what)| *what != b'.' && *at != 0) {
        let Some(bytes) = world.rest(at) else {
            eprintln!("fake CUDA: {name} is given {at:#x}, which is no device's memory");
            return LAUNCH_FAILED;
        };
        touches.push(Touch { at, bytes, writes: what == b'w' });
    }
    said(world.enqueue(stream, &touches, work))
}

/// Runs all threads of a grid.
///
/// # Safety
/// The code takes this number of arguments (integers or addresses), and may be run with these.
unsafe fn run(code: unsafe extern "C" fn(), arguments: &[u64], blocks: c_uint, threads: c_uint) {
    macro_rules! call {
        ($($type:ident $i:literal),*) => {{
            // SAFETY: addresses and integers of 64 bits are passed in the same way.
            let code: unsafe extern "C" fn($($type),*) = unsafe { std::mem::transmute(code) };
            // SAFETY: the caller guarantees the code and the arguments.
            unsafe { code($(arguments[$i]),*) }
        }};
    }
    // SAFETY: the function sets the size of the grid, in variables of this host thread.
    unsafe { c10d_host_grid(blocks, threads) };
    for (block, thread) in (0..blocks).flat_map(|b| (0..threads).map(move |t| (b, t))) {
        // SAFETY: the function sets the index of the kernel's thread, in variables of this host thread.
        unsafe { c10d_host_thread(block, thread) };
        match arguments.len() {
            3 => call!(u64 0, u64 1, u64 2),
            4 => call!(u64 0, u64 1, u64 2, u64 3),
            5 => call!(u64 0, u64 1, u64 2, u64 3, u64 4),
            6 => call!(u64 0, u64 1, u64 2, u64 3, u64 4, u64 5),
            7 => call!(u64 0, u64 1, u64 2, u64 3, u64 4, u64 5, u64 6),
            8 => call!(u64 0, u64 1, u64 2, u64 3, u64 4, u64 5, u64 6, u64 7),
            n => unreachable!("no kernel has {n} parameters"),
        }
    }
}
