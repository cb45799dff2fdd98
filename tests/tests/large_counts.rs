//! More than 2³¹ elements in one call. This takes memory and time, so it runs only with `C10D_SUITE=full`.

use std::sync::Mutex;
use std::time::Duration;

use c10d::{ReduceOp, Result, op};
use libtest_mimic::{Failed, Trial};

use crate::jobs::{self, join, launch, lines, report_line, shown};
use crate::wheels;

/// The number of elements of a call: too large for a signed 32-bit number, and odd.
const COUNT: usize = (1 << 31) + 3;
/// The number of elements of each of two ranks. Together these are more than 2³¹.
const HALF: usize = (1 << 30) + 2;
/// The memory in GiB that both ranks together need, including the memory of the transports.
const GIB: usize = 9;
const LIMIT: Duration = Duration::from_secs(200);
/// The period of the data: a prime number, so that elements from a wrong offset are found.
const PERIOD: usize = 1_000_003;

/// Only one of the tests runs at a time, because each needs much memory.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) fn trials() -> Vec<Trial> {
    // One transport of each library is enough, because c10d passes the data to MPI in pieces of at most 1 MiB.
    let libraries = wheels::LIBRARIES.iter().filter(|library| library.variables.is_empty()).map(|l| l.name);
    let trial = |transport: &'static str| {
        Trial::test(format!("large_counts/{transport}"), move || {
            let _alone = ALONE.lock();
            if let Some(why) = why_not() {
                println!("skipped: {why}");
                return Ok(());
            }
            run(transport)
        })
    };
    ["shm", "tcp"].into_iter().chain(libraries).map(trial).collect()
}

/// Returns why the tests are skipped, or `None` if they run.
fn why_not() -> Option<String> {
    if !std::env::var("C10D_SUITE").is_ok_and(|suite| suite == "full") {
        return Some("C10D_SUITE is not full".to_owned());
    }
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = memory.lines().find_map(|line| line.strip_prefix("MemAvailable:")).unwrap_or_default();
    let kib: usize = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    (kib >> 20 < GIB).then(|| format!("{} GiB of memory are available, and {GIB} are needed", kib >> 20))
}

fn run(transport: &str) -> Result<(), Failed> {
    let job = match wheels::LIBRARIES.iter().find(|library| library.name == transport) {
        None => launch("all", 2, transport),
        Some(library) => {
            let path = match library.path() {
                Ok(path) => path,
                Err(why) => {
                    println!("skipped: {why}");
                    return Ok(());
                }
            };
            launch("all", 2, "shm").env(jobs::BACKEND, "cpu:mpi").env("C10D_MPI_LIB", path)
        }
    };
    let report = job.timeout(LIMIT).run().map_err(|e| e.to_string())?;
    for rank in 0..2 {
        if !report.exits[rank as usize].success() || lines(&report, rank) != ["all is right"] {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

/// One period of a rank's data.
fn period(rank: u32) -> Vec<u8> {
    (0..PERIOD as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8 ^ rank as u8).collect()
}

fn fill(data: &mut [u8], rank: u32) {
    let period = period(rank);
    data.chunks_mut(PERIOD).for_each(|chunk| chunk.copy_from_slice(&period[..chunk.len()]));
}

fn check(what: &str, data: &[u8], rank: u32) {
    let period = period(rank);
    let wrong = data.chunks(PERIOD).position(|chunk| chunk != &period[..chunk.len()]);
    assert_eq!(wrong.map(|n| n * PERIOD), None, "{what}: the elements are wrong from about this index on");
}

pub(crate) fn run_part(_: &str) -> Result {
    let pg = join(LIMIT)?;
    let first = pg.rank() == 0;
    // All calls use one buffer, to save memory.
    let mut data = vec![0u8; 2 * HALF];
    let large = &mut data[..COUNT];
    if first {
        fill(large, 0);
    }
    pg.broadcast(&mut *large, 0)?;
    check("broadcast", large, 0);

    large.fill(0);
    if first {
        fill(large, 2);
        pg.send(&*large, 1, 0)?;
        large.fill(0);
    } else {
        pg.recv(&mut *large, 0, 0)?;
        check("recv", large, 2);
    }

    // Rank 1 has the elements that it received, and rank 0 has zeros.
    pg.all_reduce(&mut *large, ReduceOp::Bor)?;
    check("all_reduce", large, 2);

    // Rank 1 gets everything, and rank 0 nothing.
    if first {
        fill(large, 3);
        pg.run(op::all_to_all_single(&*large, &mut [0u8; 0][..]).splits(&[0, COUNT], &[0, 0]))?;
    } else {
        pg.run(op::all_to_all_single(&[0u8; 0][..], &mut *large).splits(&[0, 0], &[COUNT, 0]))?;
        check("all_to_all_single", large, 3);
    }

    let mut mine = vec![0; HALF];
    fill(&mut mine, pg.rank() + 4);
    pg.all_gather_into(&mine, &mut data)?;
    check("all_gather_into", &data[..HALF], 4);
    check("all_gather_into", &data[HALF..], 5);
    pg.barrier()?;
    pg.shutdown()?;
    report_line("all is right");
    Ok(())
}
