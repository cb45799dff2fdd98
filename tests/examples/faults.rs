//! How long it takes from the death of a rank until every other one has an error that names it.
//!
//! `cargo run --release -p c10d-conformance --example faults [KILLS]`: each time three processes stream an op (every op
//! of the table in turn), one of them kills itself, and the two others say when they knew.

#[path = "../tests/stage/mod.rs"]
mod stage;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use c10d::{ErrorKind, OpKind, Result};
use rustix::process::{Signal, getpid, kill_process};
use rustix::time::{ClockId, clock_gettime};
use stage::acts::{Arguments, VICTIM, WORLD, act};
use stage::{cast, join, lines, shown, tell};

const CAP: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    if let Some(code) = stage::play(&[("faults", rank)]) {
        return code;
    }
    match table(std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(40)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Nanoseconds of a clock that all processes of a host share.
fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

fn rank(part: &str) -> Result {
    let pg = join(CAP)?;
    let op = OpKind::from_name(part).unwrap_or(OpKind::AllReduce);
    let arguments = Arguments::of(op, 20_000, CAP);
    act(&pg, &arguments)?;
    if pg.rank() == VICTIM {
        std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(20));
            tell(now().to_string());
            let _ = kill_process(getpid(), Signal::KILL);
        });
    }
    let begin = Instant::now();
    while begin.elapsed() < CAP {
        if let Err(e) = act(&pg, &arguments) {
            let known = now();
            let right = matches!(e.kind(), ErrorKind::PeerDead { .. }) && e.report().guilty == [VICTIM];
            tell(if right { known.to_string() } else { format!("wrong: {e}") });
            return Ok(());
        }
    }
    Ok(())
}

fn table(kills: usize) -> Result<(), String> {
    println!("| transport | kills | median | p99 | worst |");
    println!("| --- | --- | --- | --- | --- |");
    for transport in ["shm", "tcp"] {
        let mut times = Vec::new();
        for i in 0..kills {
            times.extend(kill_one(OpKind::ALL[i % OpKind::ALL.len()], transport)?);
        }
        times.sort_unstable();
        let at = |share: f64| times.get(((times.len() as f64 * share) as usize).min(times.len() - 1)).copied();
        let ms = |t: Option<u64>| t.map_or("-".to_owned(), |ns| format!("{:.1} ms", ns as f64 / 1e6));
        println!("| {transport} | {kills} | {} | {} | {} |", ms(at(0.5)), ms(at(0.99)), ms(times.last().copied()));
    }
    Ok(())
}

/// Nanoseconds until each survivor knew.
fn kill_one(op: OpKind, transport: &str) -> Result<Vec<u64>, String> {
    let report = cast(op.name(), WORLD, transport).run().map_err(|e| e.to_string())?;
    let said = |rank: u32| lines(&report, rank).first().and_then(|line| line.parse::<u64>().ok());
    let killed = said(VICTIM);
    let known = (0..WORLD).filter(|rank| *rank != VICTIM).map(said);
    known
        .map(|known| Some(known?.saturating_sub(killed?)))
        .collect::<Option<Vec<u64>>>()
        .ok_or_else(|| format!("{op} over {transport}:\n{}", shown(&report)))
}
