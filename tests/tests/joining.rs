//! Making groups: of those that are left when several died at once, and again and again in the same processes.

use crate::stage;

use std::time::{Duration, Instant};

use c10d::launch::Report;
use c10d::{ReduceOp, Result};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal, getpid, kill_process};
use stage::{Told, cast, failures, join, shown, tell, tell_error};

/// No verdict: only so that a hang ends.
const CAP: Duration = Duration::from_secs(10);

pub(crate) fn play(part: &str) -> Result {
    if part == "deaths" { deaths() } else { again() }
}

pub(crate) fn trials() -> Vec<Trial> {
    let deaths = ["shm", "tcp"].map(|t| Trial::test(format!("joining/deaths/{t}"), move || died_together(t)));
    let again = ["env", "tcp", "slurm"].map(|way| Trial::test(format!("joining/again/{way}"), move || made_again(way)));
    deaths.into_iter().chain(again).collect()
}

fn only(report: &Report, rank: u32, about: &str) -> Result<Told, Failed> {
    let told = failures(report, rank).into_iter().find(|told| told.about == about);
    told.ok_or_else(|| format!("rank {rank} says nothing of {about}\n{}", shown(report)).into())
}

// Several ranks are killed at once, and the others go on.

/// Far more than anything here takes: whoever waits for the dead is seen.
const LONG: Duration = Duration::from_secs(60);
const DEAD: [u32; 2] = [1, 3];
const LEFT: [u32; 3] = [0, 2, 4];

fn deaths() -> Result {
    let pg = join(LONG)?;
    pg.barrier()?;
    if DEAD.contains(&pg.rank()) {
        // Two processes that wake at the same time of the clock.
        let second = Duration::from_secs(1).as_nanos() as u32;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
        std::thread::sleep(Duration::from_nanos((second - now).into()));
        let _ = kill_process(getpid(), Signal::KILL);
    }
    let timed = |about: &str, result: Result| {
        let begin = Instant::now();
        match result {
            Err(e) => tell_error(about, &e),
            Ok(()) => tell(format!("{about}|none|||no error")),
        }
        begin
    };
    let begin = timed("op", pg.barrier());
    // Both are noticed by now, or as good as.
    while pg.lost() != DEAD && begin.elapsed() < CAP / 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begin = timed("known", pg.barrier());
    timed("one", pg.shrink(&DEAD[..1]).map(drop));
    timed("new_group", pg.new_group(&[0, 1, 2]).map(drop));
    let rest = pg.shrink(&DEAD)?;
    let mut x = [1 + rest.rank()];
    rest.all_reduce(&mut x, ReduceOp::Sum)?;
    tell(format!("rest|{} of {} sum {}|||", rest.rank(), rest.size(), x[0]));
    tell(format!("took|{}|||", if begin.elapsed() < CAP / 2 { "no time" } else { "long" }));
    Ok(())
}

fn died_together(transport: &str) -> Result<(), Failed> {
    let report = cast("deaths", 5, transport).run().map_err(|e| e.to_string())?;
    for (place, rank) in LEFT.into_iter().enumerate() {
        for (about, guilty) in [("op", &DEAD[..]), ("known", &DEAD), ("one", &DEAD[1..]), ("new_group", &DEAD)] {
            let told = only(&report, rank, about)?;
            // One may have ended long after the other, on a busy machine.
            let some = about == "op" && told.guilty.iter().all(|rank| DEAD.contains(rank)) && !told.guilty.is_empty();
            if told.kind != "PeerDead" || !some && told.guilty != guilty {
                return Err(format!("rank {rank} says {told:?}\n{}", shown(&report)).into());
            }
        }
        let rest = only(&report, rank, "rest")?.kind;
        let took = only(&report, rank, "took")?.kind;
        if rest != format!("{place} of 3 sum 6") || took != "no time" {
            return Err(format!("rank {rank}: {rest}, took {took}\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

// Groups are made again and again in the same processes.

fn again() -> Result {
    let url = std::env::var("C10D_TEST_URL").unwrap_or_default();
    for round in 0..5 {
        let pg = c10d::builder().init(&url).timeout(CAP).build()?;
        let mut x = [1 + pg.rank()];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        tell(format!("round {round}: {}", x[0]));
    }
    Ok(())
}

fn made_again(way: &str) -> Result<(), Failed> {
    let port = free_port()?;
    let program = std::env::current_exe().map_err(|e| e.to_string())?;
    let start = |rank: u32| {
        let mut command = std::process::Command::new(&program);
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMI", "SLURM_", "MPI_"]
                .iter()
                .any(|s| text.starts_with(s))
            {
                command.env_remove(&name);
            }
        }
        let (rank, job) = (rank.to_string(), std::process::id().to_string());
        match way {
            "env" => command.envs([
                ("RANK", &*rank),
                ("WORLD_SIZE", "3"),
                ("MASTER_ADDR", "127.0.0.1"),
                ("MASTER_PORT", &port),
            ]),
            "slurm" => command.envs([
                ("SLURM_PROCID", &*rank),
                ("SLURM_NTASKS", "3"),
                ("SLURM_NNODES", "1"),
                ("SLURM_JOB_ID", &job),
            ]),
            _ => &mut command,
        };
        let url =
            if way == "tcp" { format!("tcp://127.0.0.1:{port}?rank={rank}&world_size=3") } else { "env://".into() };
        command.env(stage::PART, "joining/again").env("C10D_TEST_URL", url);
        command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn()
    };
    let ranks: Vec<_> = (0..3).map(start).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let ended: Vec<_> = ranks.into_iter().map(std::process::Child::wait_with_output).collect();
    for (rank, output) in ended.into_iter().enumerate() {
        let output = output.map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || said.matches(": 6").count() != 5 {
            return Err(format!("rank {rank}: {said}\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    Ok(())
}

fn free_port() -> Result<String, Failed> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port().to_string())
}
