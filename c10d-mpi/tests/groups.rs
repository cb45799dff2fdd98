//! Groups in one MPI world: subgroups, a group of the survivors after a rank was killed, a rank that leaves before it
//! knows of a failure, ranks that are threads of one process, ranks started by `mpiexec`, and a program that uses MPI
//! itself. The ranks are processes of this program.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_void};
use std::time::{Duration, Instant};

use c10d_core::{Builder, Error, ErrorKind, ProcessGroup, ReduceOp, Result};
use c10d_rendezvous::launch::{Exit, Launch, Output};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal, getpid, kill_process};

use crate::unaware;
use crate::wheels::Wheel;

/// The variable that names the test (one of [`PARTS`]) in which this process is a rank.
const PART: &str = "C10D_TEST_PART";
/// The variable with the hint `mpi.bootstrap` for the ranks of `launched`.
const BOOTSTRAP: &str = "C10D_TEST_BOOTSTRAP";
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
pub(crate) const WORLD: u32 = 4;
pub(crate) const VICTIM: u32 = 3;
type Play = fn() -> Result;
const PARTS: [(&str, Play); 7] = [
    ("subgroups", subgroups),
    ("shrink", shrink),
    ("unaware", unaware::leave),
    ("threads", threads),
    ("library", library),
    ("launched", launched),
    ("beside", beside),
];

/// If this process was started as a rank of a test, runs the rank's part of this test and exits.
pub(crate) fn serve_part() {
    let Ok(part) = std::env::var(PART) else { return };
    let played = match PARTS.iter().find(|(name, _)| *name == part) {
        Some((_, run_part)) => run_part(),
        None => Err(wrong(format!("there is no part {part}"))),
    };
    if let Err(e) = played {
        println!("{e:?}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

pub(crate) fn trials(library: &'static Wheel, path: &str) -> Vec<Trial> {
    let trial = |(part, _): &(&'static str, Play)| {
        let (part, path) = (*part, path.to_owned());
        Trial::test(format!("{}_groups/{part}", library.name), move || run(library, &path, part))
    };
    PARTS.iter().map(trial).collect()
}

fn run(library: &Wheel, path: &str, part: &str) -> Result<(), Failed> {
    match part {
        "launched" => {
            return ["env", "store"].iter().try_for_each(|bootstrap| run_by_mpiexec(library, path, part, bootstrap));
        }
        "beside" => return run_by_mpiexec(library, path, part, "env"),
        _ => {}
    }
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let ranks = if ["threads", "library"].contains(&part) { 1 } else { WORLD };
    let launch =
        Launch::new(program, std::iter::empty::<&str>()).ranks(ranks).env(PART, part).env("C10D_MPI_LIB", path);
    let launch = library.variables.iter().fold(launch, |launch, (name, value)| launch.env(name, value));
    let report = launch.output(Output::Captured).keep_going().timeout(Duration::from_secs(60)).run();
    let report = report.map_err(|e| e.to_string())?;
    // Over TCP, MPI sometimes ends a process that was sending a message to a dead process, with the exit code 144.
    let by_mpi = |exit: &Exit| exit.to_string().contains("code 144");
    if part == "shrink" && !library.variables.is_empty() && report.exits.iter().any(by_mpi) {
        println!("skipped: MPI has ended a survivor");
        return Ok(());
    }
    for (exit, output) in report.exits.iter().zip(&report.output) {
        let killed = part == "shrink" && exit.rank == VICTIM;
        if exit.to_string().contains("code 0") == killed {
            let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            return Err(format!("rank {} {exit}\n{out}{err}", exit.rank).into());
        }
    }
    Ok(())
}

/// Runs this program under the library's own launcher. The MPI processes exchange addresses through the launcher if
/// `bootstrap` is `env`; if it is `store`, the launcher only starts the ranks.
fn run_by_mpiexec(library: &Wheel, path: &str, part: &str, bootstrap: &str) -> Result<(), Failed> {
    let launcher = std::path::Path::new(path).ancestors().nth(2).map(|env| env.join("bin/mpiexec.hydra"));
    let launcher = launcher.filter(|file| file.exists()).ok_or("the wheel has no mpiexec.hydra")?;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let mut command = std::process::Command::new(launcher);
    command.args(["-n", "2"]).arg(program).env(PART, part).env(BOOTSTRAP, bootstrap).env("C10D_MPI_LIB", path);
    command.envs(library.variables.iter().copied());
    if part == "beside" {
        // A program that starts MPI itself must make sure that MPI finds libfabric.
        let folder = std::path::Path::new(path).parent().ok_or("the library is in no folder")?;
        command.env("LD_LIBRARY_PATH", folder).env("FI_PROVIDER_PATH", folder);
    }
    let output = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.matches("all is well").count() == 2 {
        return Ok(());
    }
    Err(format!("{bootstrap}, {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}

pub(crate) fn builder() -> Builder {
    Builder::new().providers(&[&c10d_mpi::PROVIDER, &c10d_gloo_like::PROVIDER]).backend("cpu:mpi").timeout(LIMIT)
}

fn join() -> Result<ProcessGroup> {
    let joined = c10d_rendezvous::init("env://", LIMIT)?;
    builder().rank(joined.rank).size(joined.size).store(joined.store).build()
}

pub(crate) fn wrong(what: String) -> Error {
    Error::new(ErrorKind::Internal, what)
}

/// Runs an all-reduce to which this member contributes `mine`, and checks that the sum is `want`.
fn sums_to(group: &ProcessGroup, mine: u32, want: u32) -> Result {
    let mut x = vec![mine; 30_000];
    group.all_reduce(&mut x, ReduceOp::Sum)?;
    if x.iter().all(|n| *n == want) { Ok(()) } else { Err(wrong(format!("{} instead of {want}", x[0]))) }
}

fn subgroups() -> Result {
    let pg = join()?;
    let rank = pg.rank();
    sums_to(&pg, rank, 6)?;
    // Ranks 0 and 2 get no group, and continue at once.
    if let Some(pair) = pg.new_group(&[1, 3])? {
        sums_to(&pair, rank, 4)?;
    }
    let reversed = pg.split(Some(rank % 2), WORLD - rank)?.ok_or_else(|| wrong("no part".to_owned()))?;
    if reversed.rank() != u32::from(rank < 2) {
        return Err(wrong(format!("rank {rank} is {} in its part", reversed.rank())));
    }
    sums_to(&reversed, rank, if rank % 2 == 0 { 2 } else { 4 })?;
    // Two threads of a process use two groups at the same time.
    std::thread::scope(|s| {
        let other = s.spawn(|| (0..50).try_for_each(|_| sums_to(&reversed, rank, if rank % 2 == 0 { 2 } else { 4 })));
        (0..50).try_for_each(|_| sums_to(&pg, rank, 6))?;
        other.join().map_err(|_| wrong("a thread panicked".to_owned()))?
    })?;
    let (next, before) = ((rank + 1) % WORLD, (rank + WORLD - 1) % WORLD);
    let (mine, mut theirs) = (vec![rank as u8; 3_000_001], vec![0u8; 3_000_001]);
    std::thread::scope(|s| {
        let sent = s.spawn(|| pg.send(&mine, next, 0x7fff_ffff));
        pg.recv(&mut theirs, before, 0x7fff_ffff)?;
        sent.join().map_err(|_| wrong("a thread panicked".to_owned()))?
    })?;
    if theirs.iter().any(|b| u32::from(*b) != before) {
        return Err(wrong("the message has other bytes".to_owned()));
    }
    pg.shutdown()
}

fn shrink() -> Result {
    let pg = join()?;
    let rank = pg.rank();
    sums_to(&pg, rank, 6)?;
    if rank == VICTIM {
        let _ = kill_process(getpid(), Signal::KILL);
    }
    let begin = Instant::now();
    let error = loop {
        match sums_to(&pg, rank, 6) {
            Err(e) => break e,
            Ok(()) if begin.elapsed() > LIMIT => return Err(wrong("no error after a rank was killed".to_owned())),
            Ok(()) => {}
        }
    };
    if error.report().guilty != [VICTIM] || !matches!(error.kind(), ErrorKind::PeerDead { .. }) {
        return Err(error);
    }
    let left = pg.shrink_to_survivors(LIMIT)?;
    drop(pg);
    for _ in 0..20 {
        sums_to(&left, rank, 3)?;
    }
    // Rank 0 serves the store, so it ends last.
    left.store().add("through", 1, Instant::now() + LIMIT)?;
    while rank == 0 && left.store().add("through", 0, Instant::now() + LIMIT)? < 3 {
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

fn launched() -> Result {
    let joined = c10d_rendezvous::init("env://", LIMIT)?;
    let builder = builder().hint("mpi.bootstrap", &std::env::var(BOOTSTRAP).unwrap_or_default());
    let pg = builder.rank(joined.rank).size(joined.size).store(joined.store).build()?;
    let rank = pg.rank();
    sums_to(&pg, rank, 1)?;
    pg.shutdown()?;
    // One process ends before the other. The launcher must not treat this as a crash.
    std::thread::sleep(Duration::from_millis(300) * rank);
    println!("all is well");
    Ok(())
}

/// Two ranks in one process must get an error.
fn threads() -> Result {
    match builder().run_ranks(2, |_| Ok(())) {
        Err(e) if e.to_string().contains("one rank per process") => Ok(()),
        Err(e) => Err(e),
        Ok(_) => Err(wrong("two ranks of one process have a group".to_owned())),
    }
}

/// Checks the path and the version text of the loaded library.
fn library() -> Result {
    let (path, version) = c10d_mpi::library()?;
    let wanted = std::env::var("C10D_MPI_LIB").unwrap_or_default();
    let vendor = if wanted.contains("intel") { "Intel(R) MPI Library 2021." } else { "MPICH Version:" };
    if path.to_str() == Some(&*wanted) && version.starts_with(vendor) {
        return Ok(());
    }
    Err(wrong(format!("{} has the version text {version:?}", path.display())))
}

/// Runs a program that starts, uses and finalizes MPI itself. Before it finalizes MPI, it also uses groups of c10d.
fn beside() -> Result {
    const MULTIPLE: c_int = 4096;
    const WORLD: *mut c_void = 0x101 as *mut c_void;
    let failed = |e: libloading::Error| wrong(e.to_string());
    let path = std::env::var("C10D_MPI_LIB").unwrap_or_default();
    type Init = unsafe extern "C" fn(*mut c_void, *mut c_void, c_int, *mut c_int) -> c_int;
    // SAFETY: the library is an MPI library with the standard ABI, whose functions have these types.
    let (mpi_init, barrier, finalize) = unsafe {
        let library = Box::leak(Box::new(libloading::Library::new(path).map_err(failed)?));
        (
            library.get::<Init>(b"MPI_Init_thread").map_err(failed)?,
            library.get::<unsafe extern "C" fn(*mut c_void) -> c_int>(b"MPI_Barrier").map_err(failed)?,
            library.get::<unsafe extern "C" fn() -> c_int>(b"MPI_Finalize").map_err(failed)?,
        )
    };
    let null = std::ptr::null_mut();
    let mut given = 0;
    // SAFETY: null is allowed for both arguments; the function writes one integer.
    let code = unsafe { mpi_init(null, null, MULTIPLE, &mut given) };
    if (code, given) != (0, MULTIPLE) {
        return Err(wrong(format!("MPI_Init_thread returned {code} and level {given}")));
    }
    for _ in 0..2 {
        let joined = c10d_rendezvous::init("env://", LIMIT)?;
        let pg = builder().rank(joined.rank).size(joined.size).store(joined.store).build()?;
        for _ in 0..10 {
            sums_to(&pg, pg.rank(), 1)?;
            // SAFETY: MPI is started. Both ranks call this function, so it returns.
            if unsafe { barrier(WORLD) } != 0 {
                return Err(wrong("MPI_Barrier failed".to_owned()));
            }
        }
        pg.shutdown()?;
    }
    // SAFETY: MPI is started, and no group uses it any more, so this is the last call of MPI.
    if unsafe { finalize() } != 0 {
        return Err(wrong("MPI_Finalize failed".to_owned()));
    }
    println!("all is well");
    Ok(())
}
