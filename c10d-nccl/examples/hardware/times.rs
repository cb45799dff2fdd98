//! Prints comma-separated lines: the op, its bytes, and one or more medians in microseconds.

use std::time::Instant;

use c10d_core::device::{DeviceBuffer, DevicePtr};
use c10d_core::store::deadline_after;
use c10d_core::{Buf, DType, ProcessGroup, ReduceOp, Result, op};

use super::{MINUTE, builder, cuda};

fn repeats(bytes: usize) -> usize {
    if bytes > 8 << 20 { 20 } else { 100 }
}

/// Returns the sizes of at most `C10D_HARDWARE_MAX` bytes, or all sizes if this variable is not set.
fn sizes(all: impl Iterator<Item = usize>) -> Vec<usize> {
    let most = std::env::var("C10D_HARDWARE_MAX").ok().and_then(|text| text.parse().ok()).unwrap_or(usize::MAX);
    all.filter(|bytes| *bytes <= most).collect()
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn micros(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1e6
}

/// Returns the CPU time in microseconds that all threads of this process have used so far.
fn busy() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

/// Measures NCCL in a group of one rank: how long the caller needs to start an op, the CPU time of an op on all
/// threads, and its total time.
pub(super) fn world_of_one() -> Result<()> {
    let pg = builder("cuda:nccl").build()?;
    println!("op,bytes,enqueue_us,cpu_us,end_to_end_us");
    for op in ["all_reduce", "broadcast", "all_gather_into", "reduce_scatter_into"] {
        for bytes in sizes([4, 4 << 10, 1 << 20, 16 << 20, 256 << 20].into_iter()) {
            let make = || DeviceBuffer::new(&cuda()?, 0, DType::F32, bytes / 4);
            let (mut from, mut to) = (make()?, make()?);
            let (mut enqueue, mut cpu, mut whole) = (Vec::new(), Vec::new(), Vec::new());
            for i in 0..repeats(bytes) + 5 {
                let (begun, used) = (Instant::now(), busy());
                let started;
                match op {
                    "all_reduce" | "broadcast" => {
                        let work = match op {
                            "all_reduce" => pg.start(op::all_reduce(from, ReduceOp::Sum)),
                            _ => pg.start(op::broadcast(from, 0)),
                        };
                        started = micros(begun);
                        from = work.wait()?;
                    }
                    _ => {
                        let work = match op {
                            "all_gather_into" => pg.start(op::all_gather_into(from, to)),
                            _ => pg.start(op::reduce_scatter_into(from, to, ReduceOp::Sum)),
                        };
                        started = micros(begun);
                        (from, to) = work.wait()?;
                    }
                }
                if i >= 5 {
                    enqueue.push(started);
                    whole.push(micros(begun));
                    cpu.push(busy() - used);
                }
            }
            println!("{op},{bytes},{:.2},{:.2},{:.2}", median(enqueue), median(cpu), median(whole));
        }
    }
    pg.shutdown()
}

/// Measures an all-reduce through host memory, and the time of its copies alone, on all ranks at once.
pub(super) fn staged() -> Result<()> {
    let me = c10d_rendezvous::init("env://", MINUTE)?;
    let pg = builder("cpu:gloo-like,cuda:gloo-like").rank(me.rank).size(me.size).store(me.store).build()?;
    let first = me.rank == 0;
    if first {
        println!("op,bytes,us");
    }
    for bytes in sizes((12..=28).step_by(4).map(|power| 1 << power)) {
        let mut x = DeviceBuffer::new(&cuda()?, 0, DType::F32, bytes / 4)?;
        let mut times = Vec::new();
        for i in 0..repeats(bytes) + 3 {
            pg.barrier()?;
            let begun = Instant::now();
            pg.all_reduce(&mut x, ReduceOp::Max)?;
            if i >= 3 {
                times.push(micros(begun));
            }
        }
        let copies = copies(&pg, bytes)?;
        if first {
            println!("all_reduce,{bytes},{:.2}\ncopies,{bytes},{copies:.2}", median(times));
        }
    }
    pg.shutdown()
}

/// Copies this number of bytes to page-locked memory and as many from it, at the same time. Returns the median time in
/// microseconds.
fn copies(pg: &ProcessGroup, bytes: usize) -> Result<f64> {
    let cuda = cuda()?;
    let (out, back) = (cuda.create_stream(0)?, cuda.create_stream(0)?);
    let mut buffers = [DeviceBuffer::new(&cuda, 0, DType::U8, bytes)?, DeviceBuffer::new(&cuda, 0, DType::U8, bytes)?];
    let place =
        |b: &mut DeviceBuffer| b.span().device_ptr().unwrap_or(DevicePtr { base: std::ptr::null_mut(), offset: 0 });
    let [from, to] = buffers.each_mut().map(place);
    let host = [cuda.allocate_host(bytes), cuda.allocate_host(bytes)];
    let [Some(target), Some(source)] = host else {
        return Err(c10d_core::Error::new(c10d_core::ErrorKind::Resource, "no page-locked memory"));
    };
    let mut times = Vec::new();
    for _ in 0..10 {
        pg.barrier()?;
        let begun = Instant::now();
        // SAFETY: all memory has this length, and exists until both streams have finished.
        #[allow(unsafe_code)]
        unsafe {
            cuda.copy_out(0, out, target, from, bytes)?;
            cuda.copy_in(0, back, to, source, bytes)?;
            cuda.synchronize(0, out, deadline_after(MINUTE))?;
            cuda.synchronize(0, back, deadline_after(MINUTE))?;
        }
        times.push(micros(begun));
    }
    // SAFETY: the memory and the streams were made above, and nothing uses them any more.
    #[allow(unsafe_code)]
    unsafe {
        cuda.free_host(target, bytes);
        cuda.free_host(source, bytes);
        cuda.destroy_stream(0, out);
        cuda.destroy_stream(0, back);
    }
    Ok(median(times))
}
