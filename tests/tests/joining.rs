//! Making groups: of survivors, repeatedly in the same processes, and with wrong settings.

use crate::jobs;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use c10d::launch::JobReport;
use c10d::{ErrorKind, ReduceOp, Result};
use jobs::{Failure, failures, join, launch, report_error, report_line, shown};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Signal, getpid, kill_process};

/// A time limit that only a hang reaches.
const CAP: Duration = Duration::from_secs(10);

pub(crate) fn run_part(part: &str) -> Result {
    match part {
        "deaths" => deaths(),
        "again" => again(),
        _ => settings(),
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    let deaths = ["shm", "tcp"].map(|t| Trial::test(format!("joining/deaths/{t}"), move || died_together(t)));
    let again = ["env", "tcp", "slurm"].map(|way| Trial::test(format!("joining/again/{way}"), move || made_again(way)));
    let wrong = [
        Trial::test("joining/contradictions", || contradictions().map_err(Failed::from)),
        Trial::test("joining/nobody_to_receive_from", || nobody_to_receive_from().map_err(Failed::from)),
        Trial::test("joining/misspelt_settings", misspelt_settings),
        Trial::test("joining/spaces_around_the_address", spaces_around_the_address),
    ];
    deaths.into_iter().chain(again).chain(wrong).collect()
}

fn only(report: &JobReport, rank: u32, about: &str) -> Result<Failure, Failed> {
    let failure = failures(report, rank).into_iter().find(|failure| failure.about == about);
    failure.ok_or_else(|| format!("rank {rank} reported nothing about {about}\n{}", shown(report)).into())
}

// Several ranks are killed at once, and the others continue.

/// A timeout far longer than these tests may take.
const LONG: Duration = Duration::from_secs(60);
/// The limit for `shrink` when all the dead are known.
const AT_ONCE: Duration = Duration::from_secs(1);
const DEAD: [u32; 2] = [1, 3];
const LEFT: [u32; 3] = [0, 2, 4];

fn deaths() -> Result {
    let pg = join(LONG)?;
    pg.barrier()?;
    if DEAD.contains(&pg.rank()) {
        // Both processes sleep until the next full second, so that they die at the same time.
        let second = Duration::from_secs(1).as_nanos() as u32;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |t| t.subsec_nanos());
        std::thread::sleep(Duration::from_nanos((second - now).into()));
        let _ = kill_process(getpid(), Signal::KILL);
    }
    let timed = |about: &str, result: Result| {
        let begin = Instant::now();
        match result {
            Err(e) => report_error(about, &e),
            Ok(()) => report_line(format!("{about}|none|||no error")),
        }
        begin
    };
    let begin = timed("op", pg.barrier());
    // Wait until this rank has learned of both deaths.
    while pg.lost() != DEAD && begin.elapsed() < CAP / 2 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let begin = timed("known", pg.barrier());
    timed("one", pg.shrink(&DEAD[..1]).map(drop));
    timed("new_group", pg.new_group(&[0, 1, 2]).map(drop));
    let agreed = pg.shrink_to_survivors(LONG / 2)?;
    report_line(format!("agreed|{} of {}|||", agreed.rank(), agreed.size()));
    agreed.barrier()?;
    let shrinks = Instant::now();
    let rest = pg.shrink(&DEAD)?;
    report_line(format!("shrink|{}|||", shrinks.elapsed().as_micros()));
    let mut x = [1 + rest.rank()];
    rest.all_reduce(&mut x, ReduceOp::Sum)?;
    report_line(format!("rest|{} of {} sum {}|||", rest.rank(), rest.size(), x[0]));
    report_line(format!("took|{}|||", if begin.elapsed() < CAP / 2 { "no time" } else { "long" }));
    Ok(())
}

fn died_together(transport: &str) -> Result<(), Failed> {
    let report = launch("deaths", 5, transport).run().map_err(|e| e.to_string())?;
    for (place, rank) in LEFT.into_iter().enumerate() {
        for (about, guilty) in [("op", &DEAD[..]), ("known", &DEAD), ("one", &DEAD[1..]), ("new_group", &DEAD)] {
            let failure = only(&report, rank, about)?;
            // On a busy machine one of the two killed ranks may end long after the other.
            let some =
                about == "op" && failure.guilty.iter().all(|rank| DEAD.contains(rank)) && !failure.guilty.is_empty();
            if failure.kind != "PeerDead" || !some && failure.guilty != guilty {
                return Err(format!("rank {rank} reported {failure:?}\n{}", shown(&report)).into());
            }
        }
        let shrunk = only(&report, rank, "shrink")?.kind;
        if !shrunk.parse().is_ok_and(|micros| Duration::from_micros(micros) < AT_ONCE) {
            return Err(format!("rank {rank}: shrink took {shrunk} us\n{}", shown(&report)).into());
        }
        let rest = only(&report, rank, "rest")?.kind;
        let agreed = only(&report, rank, "agreed")?.kind;
        if agreed != format!("{place} of 3") {
            return Err(format!("rank {rank} agreed on {agreed}\n{}", shown(&report)).into());
        }
        let took = only(&report, rank, "took")?.kind;
        if rest != format!("{place} of 3 sum 6") || took != "no time" {
            return Err(format!("rank {rank}: {rest}, took {took}\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

// Groups are made repeatedly in the same processes.

fn again() -> Result {
    let url = std::env::var("C10D_TEST_URL").unwrap_or_default();
    for round in 0..5 {
        let pg = c10d::builder().init(&url).timeout(CAP).build()?;
        let mut x = [1 + pg.rank()];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        report_line(format!("round {round}: {}", x[0]));
    }
    Ok(())
}

fn made_again(way: &str) -> Result<(), Failed> {
    let port = free_port()?;
    let job = std::process::id().to_string();
    let start = |rank: u32| {
        let rank = rank.to_string();
        let mut command = alone("again");
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
        command.env("C10D_TEST_URL", url).spawn()
    };
    rounds_of(start)
}

/// Uses settings with white space around their values.
fn spaces_around_the_address() -> Result<(), Failed> {
    let port = free_port()?;
    rounds_of(|rank| {
        let (rank, port) = (format!(" {rank}"), format!("{port}\n"));
        let place = [("RANK", &*rank), ("WORLD_SIZE", "3 "), ("MASTER_ADDR", "localhost \n"), ("MASTER_PORT", &port)];
        alone("again").envs(place).env("C10D_TEST_URL", " env://\n").spawn()
    })
}

/// Returns a command that runs `part` in one process, without the variables of launchers.
fn alone(part: &str) -> Command {
    const STARTERS: [&str; 8] = ["RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMI", "SLURM_", "MPI_"];
    let mut command = Command::new(std::env::current_exe().expect("a running program has a path"));
    for (name, _) in std::env::vars_os() {
        if STARTERS.iter().any(|s| name.to_string_lossy().starts_with(s)) {
            command.env_remove(&name);
        }
    }
    command.env(jobs::PART, format!("joining/{part}")).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Starts three ranks that run all rounds, and checks that they succeed.
fn rounds_of(start: impl Fn(u32) -> std::io::Result<Child>) -> Result<(), Failed> {
    let ranks: Vec<_> = (0..3).map(start).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let ended: Vec<_> = ranks.into_iter().map(Child::wait_with_output).collect();
    for (rank, output) in ended.into_iter().enumerate() {
        let output = output.map_err(|e| e.to_string())?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || said.matches(": 6").count() != 5 {
            return Err(format!("rank {rank}: {said}\n{}", String::from_utf8_lossy(&output.stderr)).into());
        }
    }
    Ok(())
}

// Wrong settings are rejected or reported.

fn contradictions() -> Result<(), String> {
    let url = "tcp://127.0.0.1:0?rank=0&world_size=1";
    let init = || c10d::builder().init(url);
    let store = || std::sync::Arc::new(c10d::HashStore::new());
    let begin = Instant::now();
    let cases = [
        (init().rank(5).build().map(drop), vec!["rank", "5", "says 0", url]),
        (init().size(9).build().map(drop), vec!["size", "9", "says 1", url]),
        // The rank gets this error before it waits for another rank.
        (c10d::builder().init("tcp://127.0.0.1:1?rank=1&world_size=2").rank(0).build().map(drop), vec!["says 1"]),
        (init().store(store()).build().map(drop), vec!["store", url]),
        (init().run_ranks(2, |_| Ok(())).map(drop), vec!["all 2 ranks as threads", url]),
        (c10d::builder().rank(1).run_ranks(2, |_| Ok(())).map(drop), vec!["rank is set to 1"]),
        (c10d::builder().size(9).run_ranks(2, |_| Ok(())).map(drop), vec!["size is set to 9", "2"]),
        (c10d::builder().store(store()).run_ranks(2, |_| Ok(())).map(drop), vec!["store"]),
        (c10d::builder().name("a\nb").build().map(drop), vec!["\"a\\nb\""]),
    ];
    for (result, words) in cases {
        let e = result.err().ok_or_else(|| format!("{words:?}: accepted"))?;
        let text = e.to_string();
        if *e.kind() != ErrorKind::InvalidArgument || !words.iter().all(|word| text.contains(word)) {
            return Err(format!("{words:?}: {text}"));
        }
    }
    // The same value given twice is accepted.
    let pg = init().rank(0).size(1).build().map_err(|e| e.to_string())?;
    drop(pg);
    if begin.elapsed() < CAP { Ok(()) } else { Err("the error came only after a wait".into()) }
}

fn nobody_to_receive_from() -> Result<(), String> {
    let begin = Instant::now();
    let e = c10d::run_ranks(1, |pg| {
        let e = pg.recv_any_source(vec![0u8], 0).unwrap_err();
        pg.barrier()?;
        Ok(e)
    });
    let e = e.map_err(|e| e.to_string())?.remove(0);
    let right = *e.kind() == ErrorKind::InvalidArgument && begin.elapsed() < CAP;
    if right { Ok(()) } else { Err(e.to_string()) }
}

fn settings() -> Result {
    let made =
        || c10d::builder().hint("gloo-like.transprt", "tcp").hint("other.thing", "1").run_ranks(2, |pg| pg.barrier());
    made()?;
    made().map(drop)
}

fn misspelt_settings() -> Result<(), Failed> {
    let mut command = alone("settings");
    command
        .env("C10D_TRANSPROT", "shm")
        .env("C10D_NONSENSE", "1")
        .env("C10D_TRANSPORT", " shm ")
        .env("C10D_LOG", "off");
    let output = command.output().map_err(|e| e.to_string())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = [
        "nothing reads the hint \"gloo-like.transprt\"; do you mean \"gloo-like.transport\"?",
        "nothing reads the hint \"other.thing\", since this program has no backend of that name",
        "nothing in this program reads the variable \"C10D_TRANSPROT\"; do you mean \"C10D_TRANSPORT\"?",
        "nothing in this program reads the variable \"C10D_NONSENSE\"",
    ];
    let warnings = said.lines().filter(|line| line.starts_with("c10d: nothing")).count();
    let all = expected.iter().all(|line| said.lines().filter(|l| l.strip_prefix("c10d: ") == Some(line)).count() == 1);
    if output.status.success() && all && warnings == expected.len() { Ok(()) } else { Err(said.into_owned().into()) }
}

fn free_port() -> Result<String, Failed> {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).map_err(|e| e.to_string())?;
    Ok(listener.local_addr().map_err(|e| e.to_string())?.port().to_string())
}
