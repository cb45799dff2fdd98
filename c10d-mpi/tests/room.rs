//! Ranks that share a `/dev/shm` with little space. Without this crate's check of the space, the operating system would
//! kill the ranks inside MPI.

use std::process::Command;
use std::time::Duration;

use c10d_core::{ErrorKind, ReduceOp, Result};
use c10d_rendezvous::launch::{Launch, Output};
use libtest_mimic::{Failed, Trial};

use crate::groups::{builder, wrong};
use crate::wheels::Wheel;

/// The variable with the role of this process in a test: `launcher` or `rank`.
const ROLE: &str = "C10D_TEST_ROOM";
const RANKS: u32 = 3;
/// Mounts a `/dev/shm` of 64 KiB, and then runs a program.
const LITTLE: &str = "mount -t tmpfs -o size=64k none /dev/shm && exec \"$@\"";

/// If this process was started for a role, runs it and exits.
pub(crate) fn serve() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let played = if role == "rank" { rank() } else { launch() };
    if let Err(e) = played {
        println!("{e:?}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

/// Starts the ranks inside the mount namespace of this process (see [`run`]), so that they have the same `/dev/shm`.
fn launch() -> Result {
    let program = std::env::current_exe().map_err(|e| wrong(e.to_string()))?;
    let launch = Launch::new(program, std::iter::empty::<&str>()).ranks(RANKS).env(ROLE, "rank");
    let report = launch.output(Output::Captured).keep_going().timeout(Duration::from_secs(60)).run()?;
    for (exit, output) in report.exits.iter().zip(&report.output) {
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        println!("rank {} {exit}: {out}{err}", exit.rank);
    }
    Ok(())
}

fn rank() -> Result {
    let joined = c10d_rendezvous::init("env://", Duration::from_secs(20))?;
    let made = builder().rank(joined.rank).size(joined.size).store(joined.store).build();
    let words = made.and_then(|pg| {
        let sum = pg.all_reduce(vec![1u32; 30_000], ReduceOp::Sum)?;
        pg.shutdown()?;
        Ok(format!("sum {}", sum[0]))
    });
    match words {
        Ok(words) => println!("{words}"),
        Err(e) if *e.kind() == ErrorKind::Resource && e.report().guilty == [0, 1, 2] => println!("{e}"),
        Err(e) => return Err(e),
    }
    Ok(())
}

pub(crate) fn trial(library: &'static Wheel, path: &str) -> Trial {
    let path = path.to_owned();
    Trial::test(format!("{}_room/little_shared_memory", library.name), move || run(library, &path))
}

fn run(library: &Wheel, path: &str) -> Result<(), Failed> {
    let inside = |program: &std::ffi::OsStr| {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", LITTLE, "sh"]).arg(program);
        command
    };
    match inside("true".as_ref()).output() {
        Ok(output) if output.status.success() => {}
        _ => {
            println!("skipped: no unshare, or no right to mount");
            return Ok(());
        }
    }
    let mut command = inside(std::env::current_exe()?.as_os_str());
    command.env(ROLE, "launcher").env("C10D_MPI_LIB", path).envs(library.variables.iter().copied());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    // Without shared memory, Intel MPI needs no space, but MPICH does.
    let words = match library.name {
        "intel_tcp" => "sum 3",
        _ => "/dev/shm has too little space for MPI: 65536 bytes are left",
    };
    if said.matches(words).count() == RANKS as usize && said.matches("code 0").count() == RANKS as usize {
        return Ok(());
    }
    Err(format!("{}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)).into())
}
