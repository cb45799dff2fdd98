//! The cost of a group: allocations of blocking ops, and resident memory at rest.
#![allow(unsafe_code)]

mod jobs;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use c10d::{ProcessGroup, ReduceOp, Result};
use jobs::{join, launch, lines, report_line, shown};
use libtest_mimic::{Arguments, Failed, Trial};

/// An allocator that counts the allocations of threads that have enabled counting.
struct Counting;

thread_local! {
    static COUNTED: Cell<bool> = const { Cell::new(false) };
}
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

fn note() {
    if COUNTED.try_with(Cell::get).unwrap_or(false) {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: every method only calls the same method of the system's allocator with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller guarantees the requirements of this function.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees the requirements of this function.
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note();
        // SAFETY: the caller guarantees the requirements of this function.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    if let Some(code) = jobs::run_part(&[("memory", |part| if part == "idle" { idle() } else { small_ops() })]) {
        return code;
    }
    let trials = ["shm", "tcp"].into_iter().flat_map(|transport| {
        [
            Trial::test(format!("{transport}/idle_group_is_small"), move || idle_group_is_small(transport)),
            Trial::test(format!("{transport}/blocking_ops_allocate_nothing"), move || allocate_nothing(transport)),
        ]
    });
    libtest_mimic::run(&Arguments::from_args(), trials.collect()).exit_code()
}

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0)
}

fn idle() -> Result {
    let before = resident_kib();
    let pg = join(Duration::from_secs(10))?;
    pg.barrier()?;
    std::thread::sleep(Duration::from_millis(100));
    report_line(format!("{}", resident_kib().saturating_sub(before)));
    pg.barrier()?;
    pg.shutdown()
}

fn idle_group_is_small(transport: &str) -> Result<(), Failed> {
    let report = launch("idle", 2, transport).run().map_err(|e| e.to_string())?;
    for rank in 0..2 {
        let kib: usize = lines(&report, rank).first().and_then(|l| l.parse().ok()).ok_or_else(|| shown(&report))?;
        println!("{transport}: rank {rank} uses {kib} KiB more with a group");
        if kib >= 8 << 10 {
            return Err(format!("rank {rank}: an idle group costs {kib} KiB").into());
        }
    }
    Ok(())
}

/// An op that must not allocate, and its name.
type Op = (&'static str, fn(&ProcessGroup, &mut [f32], &mut [f32]) -> Result);

const OPS: [Op; 8] = [
    ("all_reduce", |pg, x, _| pg.all_reduce(x, ReduceOp::Sum).map(drop)),
    ("broadcast", |pg, x, _| pg.broadcast(x, 1).map(drop)),
    ("reduce", |pg, x, _| pg.reduce(x, ReduceOp::Max, 0).map(drop)),
    ("all_gather_into", |pg, x, y| pg.all_gather_into(x, y).map(drop)),
    ("reduce_scatter_into", |pg, x, y| pg.reduce_scatter_into(y, x, ReduceOp::Sum).map(drop)),
    ("all_to_all_single", |pg, x, y| pg.all_to_all_single(x, &mut y[..8]).map(drop)),
    ("barrier", |pg, _, _| pg.barrier()),
    ("send and recv", |pg, x, _| {
        if pg.rank() == 0 {
            pg.send(&*x, 1, 1)?;
            pg.recv(x, 1, 2).map(drop)
        } else {
            pg.recv(&mut *x, 0, 1)?;
            pg.send(x, 0, 2).map(drop)
        }
    }),
];

fn small_ops() -> Result {
    let pg = join(Duration::from_secs(10))?;
    let (mut x, mut y) = (vec![1f32; 8], vec![1f32; 16]);
    for (name, run) in OPS {
        for _ in 0..200 {
            run(&pg, &mut x, &mut y)?;
        }
        // On a busy machine, a rank that waits long asks its peers about their calls, which allocates memory. So the
        // rank reports the smallest count of all rounds.
        let mut least = usize::MAX;
        for _ in 0..20 {
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            COUNTED.set(true);
            let result = (0..100).try_for_each(|_| run(&pg, &mut x, &mut y));
            COUNTED.set(false);
            result?;
            least = least.min(ALLOCATIONS.load(Ordering::Relaxed) - before);
        }
        report_line(format!("{name}: {least}"));
    }
    pg.shutdown()
}

fn allocate_nothing(transport: &str) -> Result<(), Failed> {
    let report = launch("small ops", 2, transport).run().map_err(|e| e.to_string())?;
    let want: Vec<String> = OPS.iter().map(|(name, _)| format!("{name}: 0")).collect();
    for rank in 0..2 {
        if lines(&report, rank) != want {
            return Err(format!("allocations in 100 ops on rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}
