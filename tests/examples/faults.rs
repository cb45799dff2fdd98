//! Measures, for each kind of fault, which ranks the errors of the survivors name, and how soon the survivors get them.
//!
//! `cargo run --release -p c10d-conformance --example faults [TIMES]`: three processes run all-reduces, until one
//! process has the fault. This is repeated `TIMES` times (20 unless given). For kills, each repetition runs the next op
//! of `OpKind::ALL`.

#[path = "../tests/jobs/mod.rs"]
mod jobs;

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use c10d::launch::{JobReport, Launch, Signal};
use c10d::{Error, OpKind, ProcessGroup, Result};
use jobs::acts::{Arguments, VICTIM, WORLD, act};
use jobs::{Failure, failures, join, launch, lines, report_error, report_line, shown};
use rustix::net::{Shutdown, connect_unspec, shutdown, sockopt};
use rustix::process::{PidfdFlags, PidfdGetfdFlags, Signal as Sig, getpid, kill_process, pidfd_getfd, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

/// The timeout of all ops that do not have [`TIMEOUT`], and the longest time for which a rank makes calls.
const CAP: Duration = Duration::from_secs(30);
/// The timeout of ops that wait for a rank that is stopped or makes no call.
const TIMEOUT: Duration = Duration::from_secs(1);
const SURVIVORS: [u32; 2] = [0, 2];

/// The name of each kind of fault, and the event from which the time to the error is counted.
const FAULTS: [(&str, &str); 8] = [
    ("killed", "the kill"),
    ("stopped", "the deadline"),
    ("absent", "the deadline"),
    ("left", "the goodbye"),
    ("exited without leaving", "the exit"),
    ("mismatch", "the call"),
    ("connection reset", "the reset"),
    ("cut link", "the cut"),
];

fn main() -> ExitCode {
    if let Some(code) = jobs::run_part(&[("faults", rank)]) {
        return code;
    }
    match table(std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(20)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Returns the time in nanoseconds on a clock that all processes of a host share.
fn now() -> u64 {
    let t = clock_gettime(ClockId::Monotonic);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

// The ranks.

fn rank(part: &str) -> Result {
    let (fault, op) = part.split_once(':').unwrap_or((part, ""));
    let pg = if fault == "cut link" { join_by_file()? } else { join(CAP)? };
    let op = OpKind::from_name(op).unwrap_or(OpKind::AllReduce);
    let waits = matches!(fault, "stopped" | "absent");
    let arguments = Arguments::of(op, 20_000, if waits { TIMEOUT } else { CAP });
    act(&pg, &Arguments { timeout: CAP, ..arguments })?;
    if fault == "connection reset" {
        publish(&pg)?;
    }
    pg.barrier()?;
    if pg.rank() == VICTIM {
        return suffer(fault, pg, &arguments);
    }
    survive(fault, &pg, &arguments);
    Ok(())
}

/// Makes calls until one of them returns an error, and reports the error. Stops after [`CAP`].
fn survive(fault: &str, pg: &ProcessGroup, arguments: &Arguments) {
    let begin = Instant::now();
    while begin.elapsed() < CAP {
        let call = now();
        if let Err(e) = act(pg, arguments) {
            report_line(format!("knew {}", now()));
            report_line(format!("due {}", call + arguments.timeout.as_nanos() as u64));
            report_error(fault, &e);
            return;
        }
    }
}

fn suffer(fault: &str, pg: ProcessGroup, arguments: &Arguments) -> Result {
    let at = || report_line(format!("at {}", now()));
    let soon = || std::thread::sleep(Duration::from_millis(20));
    match fault {
        "killed" => {
            std::thread::spawn(move || {
                soon();
                at();
                let _ = kill_process(getpid(), Sig::KILL);
            });
            survive(fault, &pg, arguments);
        }
        "stopped" => drop(kill_process(getpid(), Sig::STOP)),
        "absent" => std::thread::sleep(3 * TIMEOUT),
        "left" => {
            at();
            drop(pg);
        }
        "exited without leaving" => {
            at();
            std::process::exit(0);
        }
        "mismatch" => {
            at();
            survive(fault, &pg, &Arguments { count: arguments.count + 1, ..*arguments });
        }
        "connection reset" => {
            let link = links_to_0(&pg)?;
            at();
            for socket in link {
                // Disconnecting a TCP socket sends a reset. UNIX sockets have no resets.
                if addresses(&socket).is_none() || connect_unspec(&socket).is_err() {
                    let _ = shutdown(&socket, Shutdown::Both);
                }
            }
            survive(fault, &pg, arguments);
        }
        _ => {
            at();
            let _ = ip(&["link", "set", &std::env::var(LINK).unwrap_or_default(), "down"]);
            survive(fault, &pg, arguments);
        }
    }
    Ok(())
}

/// Returns duplicates of the descriptors of this process's sockets.
fn sockets() -> Vec<OwnedFd> {
    let Ok(me) = pidfd_open(getpid(), PidfdFlags::empty()) else { return Vec::new() };
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let numbers = numbers.filter_map(|entry| {
        let path = entry.ok()?.path();
        let is_socket = std::fs::read_link(&path).ok()?.to_string_lossy().starts_with("socket:");
        is_socket.then(|| path.file_name()?.to_str()?.parse().ok()).flatten()
    });
    numbers.filter_map(|number| pidfd_getfd(&me, number, PidfdGetfdFlags::empty()).ok()).collect()
}

fn addresses(socket: &OwnedFd) -> Option<(SocketAddr, SocketAddr)> {
    let stream = TcpStream::from(socket.try_clone().ok()?);
    Some((stream.local_addr().ok()?, stream.peer_addr().ok()?))
}

const KEY: &str = "faults/rank 0";

/// On rank 0, writes its process id and the addresses of its TCP connections into the store, under [`KEY`].
fn publish(pg: &ProcessGroup) -> Result {
    if pg.rank() == 0 {
        let ends: Vec<String> =
            sockets().iter().filter_map(addresses).map(|(own, other)| format!("{own} {other}")).collect();
        let text = format!("{}\n{}", getpid().as_raw_nonzero(), ends.join("\n"));
        pg.store().set(KEY, text.as_bytes(), Instant::now() + CAP)?;
    }
    Ok(())
}

/// Returns this process's ends of its connections with rank 0.
fn links_to_0(pg: &ProcessGroup) -> Result<Vec<OwnedFd>> {
    let text = pg.store().get(KEY, Instant::now() + CAP)?;
    let text = String::from_utf8_lossy(&text).into_owned();
    let ends: BTreeSet<&str> = text.lines().skip(1).collect();
    let pid: Option<i32> = text.lines().next().and_then(|pid| pid.parse().ok());
    let is_theirs = |socket: &OwnedFd| match addresses(socket) {
        Some((own, other)) => ends.contains(format!("{other} {own}").as_str()),
        None => sockopt::socket_peercred(socket).is_ok_and(|peer| Some(peer.pid.as_raw_nonzero().get()) == pid),
    };
    Ok(sockets().into_iter().filter(is_theirs).collect())
}

// The fault "cut link": the victim and the survivors are in two network namespaces, and the link between these is cut.

/// The variables with the name of the victim's end of the link, and with the path of the file store.
const LINK: &str = "C10D_FAULTS_LINK";
const FILE: &str = "C10D_FAULTS_STORE";

fn join_by_file() -> Result<ProcessGroup> {
    let var = |name| std::env::var(name).unwrap_or_default();
    let url = format!("file://{}?rank={}&world_size={WORLD}", var(FILE), var("RANK"));
    c10d::builder().init(&url).timeout(CAP).build()
}

fn ip(arguments: &[&str]) -> Result<(), String> {
    let output =
        Command::new("ip").args(arguments).output().map_err(|e| format!("cannot run `ip` (of iproute2): {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(said.trim().to_owned()) }
}

struct Hosts([String; 2]);

impl Hosts {
    fn new() -> Result<Hosts, String> {
        let id = std::process::id();
        let hosts = Hosts(["a", "b"].map(|side| format!("c10d-faults-{id}-{side}")));
        let [a, b] = &hosts.0;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["link", "add", "west", "netns", a, "type", "veth", "peer", "name", "east", "netns", b])?;
        for (host, end, address) in [(a, "west", "10.213.78.1/24"), (b, "east", "10.213.78.2/24")] {
            ip(&["-n", host, "addr", "add", address, "dev", end])?;
            ip(&["-n", host, "link", "set", end, "up"])?;
            ip(&["-n", host, "link", "set", "lo", "up"])?;
        }
        Ok(hosts)
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.0.iter().for_each(|host| drop(ip(&["netns", "del", host])));
    }
}

// The table.

fn table(times: usize) -> Result<(), String> {
    println!("| fault of rank {VICTIM} | transport | runs | error, ranks named | median | worst | counted from |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for (fault, since) in FAULTS {
        for transport in ["shm", "tcp"] {
            // Shared memory has no link. The errors of a cut link come late, so only one is measured.
            let times = match fault {
                "cut link" if transport == "shm" => continue,
                "cut link" => 1,
                _ => times,
            };
            let mut delays = Vec::new();
            let mut named = BTreeSet::new();
            for i in 0..times {
                let op = OpKind::ALL[i % OpKind::ALL.len()].name();
                let part = if fault == "killed" { format!("killed:{op}") } else { fault.to_owned() };
                let report = match once(fault, launch(&part, WORLD, transport)) {
                    Ok(report) => report,
                    Err(why) if fault == "cut link" => {
                        println!("| {fault} | {transport} | 0 | skipped: {why} | | | |");
                        break;
                    }
                    Err(why) => return Err(why),
                };
                for rank in SURVIVORS {
                    let Some((failure, delay)) = read(&report, rank) else {
                        return Err(format!("{part} over {transport}, rank {rank}:\n{}", shown(&report)));
                    };
                    named.insert(format!("{} {:?}", failure.kind, failure.guilty));
                    delays.push(delay);
                }
            }
            delays.sort_unstable();
            let ms = |t: Option<&i64>| t.map_or("-".to_owned(), |ns| format!("{:.1} ms", *ns as f64 / 1e6));
            let named: Vec<String> = named.into_iter().collect();
            if !delays.is_empty() {
                let (median, worst) = (ms(delays.get(delays.len() / 2)), ms(delays.last()));
                println!("| {fault} | {transport} | {times} | {} | {median} | {worst} | {since} |", named.join("; "));
            }
        }
    }
    Ok(())
}

/// Runs the ranks until all have ended. A stopped rank is killed at the end.
fn once(fault: &str, ranks: Launch) -> Result<JobReport, String> {
    let words = |e: Error| e.to_string();
    if fault == "cut link" {
        let hosts = Hosts::new()?;
        let names = hosts.0.clone();
        let store = std::env::temp_dir().join(format!("c10d-faults-{}", std::process::id()));
        let report = ranks
            .env(FILE, &store)
            .env(LINK, "east")
            .per_rank_env(|_| vec![("MASTER_ADDR".into(), "10.213.78.1".into())])
            .per_rank_wrapper(move |rank| {
                let host = &names[usize::from(rank == VICTIM)];
                ["ip", "netns", "exec", host].iter().map(Into::into).collect()
            })
            .run();
        let _ = std::fs::remove_file(&store);
        return report.map_err(words);
    }
    let job = ranks.spawn().map_err(words)?;
    let begin = Instant::now();
    while begin.elapsed() < CAP && !SURVIVORS.iter().all(|rank| job.has_ended(*rank).unwrap_or(true)) {
        std::thread::sleep(Duration::from_millis(5));
    }
    if fault == "stopped" {
        job.signal(VICTIM, Signal::Kill).map_err(words)?;
    }
    job.wait(Instant::now() + CAP).map_err(words)
}

/// Returns the error that a survivor reported, and the nanoseconds from the event in [`FAULTS`] to the error.
fn read(report: &JobReport, rank: u32) -> Option<(Failure, i64)> {
    let number = |rank, word: &str| {
        let line = lines(report, rank).into_iter().find(|line| line.starts_with(word))?;
        line.split(' ').nth(1)?.parse::<i64>().ok()
    };
    let failure = failures(report, rank).into_iter().find(|failure| !failure.kind.is_empty())?;
    let since = number(VICTIM, "at ").or_else(|| number(rank, "due "))?;
    Some((failure, number(rank, "knew ")? - since))
}
