//! Two ranks in containers, each with some namespaces of its own, over every transport. The expected results are those
//! of the table in `docs/containers.md`.

use crate::{jobs, netns};

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use c10d::{Mesh, ReduceOp, Result, SharedTables};
use jobs::{failures, launch, lines, report_line, shown};
use libtest_mimic::{Failed, Trial};

/// The namespaces that each rank has for itself, and the commands that make them.
const OWN: [(&str, &[&str]); 10] = [
    ("nothing", &[]),
    ("pid", &["unshare", "-p", "-f", "--kill-child", "--mount-proc"]),
    // The reverse of `docker run --pid host`: /proc belongs to the outer namespace.
    ("pid, outer proc", &["unshare", "-p", "-f", "--kill-child"]),
    ("mount", &["unshare", "-m"]),
    ("ipc", &["unshare", "-i"]),
    ("pid, mount, ipc", &["unshare", "-p", "-f", "--kill-child", "--mount-proc", "-i"]),
    ("user", &["unshare", "-U"]),
    ("user, pid, mount, ipc", &["unshare", "-U", "-r", "-p", "-f", "--kill-child", "--mount-proc", "-i"]),
    ("full dev shm, no locked memory", &["unshare", "-m", "sh", "-c", NOTHING_SPECIAL, "sh"]),
    ("no proc", &["unshare", "-m", "sh", "-c", "umount -l /proc && exec \"$@\"", "sh"]),
];

/// Runs a command with no room for files in `/dev/shm`, and without the right to lock memory. A process with the
/// capability `CAP_IPC_LOCK` has no limit on locked memory, so this capability is dropped.
const NOTHING_SPECIAL: &str = "mount -t tmpfs -o nr_inodes=1 none /dev/shm && ulimit -l 0 && \
    exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock \"$@\"";

/// The number in the names of the next two network namespaces. The number differs between concurrent tests.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// The cases that are also tested with separate networks.
const FEW: [&str; 4] = ["nothing", "pid", "pid, mount, ipc", "user"];

pub(crate) fn run_part(part: &str) -> Result {
    if part == "uneven" {
        return uneven();
    }
    let rank = std::env::var("RANK").unwrap_or_default();
    let store = std::env::var("C10D_TEST_STORE").unwrap_or_default();
    let url = format!("file://{store}?rank={rank}&world_size=2");
    let pg = c10d::builder().init(&url).timeout(Duration::from_secs(10)).build()?;
    for count in [1, 1000, 300_000] {
        assert_eq!(pg.all_reduce(vec![1 + pg.rank(); count], ReduceOp::Sum)?, vec![3; count]);
        let other = 1 - pg.rank();
        let sent = pg.start(c10d::op::send(vec![pg.rank(); count], other, 0));
        assert_eq!(pg.recv(vec![9; count], other, 0)?, vec![other; count]);
        sent.wait()?;
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    // The number of ranks on the host and the number of ranks that can share memory may differ.
    let (host, sharing) = (pg.split_by_host()?.size(), pg.split_by_memory()?.size());
    let mesh = Mesh::by_host(&pg)?;
    let axes: Vec<(&str, u32)> = mesh.axes().collect();
    assert_eq!(axes, [("host", 2 / host), ("local", host)]);
    assert_eq!(mesh.group("local")?.size(), host);
    // A rank that cannot share memory has its own table, and still gets the root's elements.
    let mut fills = [0u32];
    let table = pg.share_on_host(100_000, |table: &mut [u32]| {
        fills[0] = 1;
        table.fill(7);
        Ok(())
    })?;
    assert_eq!(pg.all_reduce(fills.to_vec(), ReduceOp::Sum)?, [2 / sharing]);
    assert!(table.iter().all(|x| *x == 7));
    let from_1 = pg.share_from(1, 100_000, |table: &mut [u32]| {
        table.fill(pg.rank() + 8);
        Ok(())
    })?;
    assert!(from_1.len() == 100_000 && from_1.iter().all(|x| *x == 9));
    report_line(format!("memory {}, {host} on the host, {sharing} can share", maps.contains("memfd:")));
    pg.barrier()?;
    pg.shutdown()
}

fn uneven() -> Result {
    let pg = jobs::join(Duration::from_secs(20))?;
    let local = pg.split_by_host()?;
    let leaders = pg.split((local.rank() == 0).then_some(0), pg.rank())?.map(|leaders| leaders.size());
    report_line(format!("{} here, {:?} hosts, {:?}", local.size(), leaders, pg.hosts()?));
    if let Err(e) = Mesh::by_host(&pg) {
        jobs::report_error("by_host", &e);
    }
    pg.barrier()?;
    pg.shutdown()
}

fn judge_uneven() -> Result<(), Failed> {
    let without_proc = OWN.last().map_or(&[][..], |(_, wrapper)| *wrapper);
    if !Command::new("unshare").args(&without_proc[1..]).arg("true").output().is_ok_and(|o| o.status.success()) {
        println!("skipped: no unshare, or no right to use it");
        return Ok(());
    }
    let wrapper = move |rank| if rank == 1 { without_proc.iter().map(Into::into).collect() } else { Vec::new() };
    let report = launch("uneven", 3, "auto").per_rank_wrapper(wrapper).run().map_err(|e| e.to_string())?;
    let hosts =
        ["2 here, Some(2) hosts, [0, 1, 0]", "1 here, Some(2) hosts, [0, 1, 0]", "2 here, None hosts, [0, 1, 0]"];
    for (rank, said) in (0..3).zip(hosts) {
        let reported = failures(&report, rank);
        let refused = reported.last().is_some_and(|one| {
            one.kind == "InvalidArgument"
                && one.guilty == [1]
                && one.message.contains("2 where rank 0 is, 1 where rank 1 is")
        });
        if !refused || lines(&report, rank).first().is_none_or(|line| line != said) {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![Trial::test("namespaces/uneven hosts", judge_uneven)];
    for (own, unshare) in OWN {
        for net in [false, true].into_iter().filter(|net| !net || FEW.contains(&own)) {
            for transport in ["auto", "shm", "tcp"] {
                let network = if net { "own network" } else { "one network" };
                let name = format!("namespaces/{network}, own {own}/{transport}");
                trials.push(Trial::test(name.clone(), move || run(&name, own, unshare, net, transport)));
            }
        }
    }
    trials
}

/// Returns whether memory is shared, or the error if the transport is impossible.
fn expected(own: &str, net: bool, transport: &str) -> Result<bool, &'static str> {
    let apart = match own {
        _ if net => Some("are in different network namespaces of one host"),
        "no proc" => Some("may be on different hosts (boot id or network namespace of one is unknown"),
        own if own.starts_with("user") => Some("are in different user namespaces"),
        _ => None,
    };
    match (transport, apart) {
        ("shm", Some(why)) => Err(why),
        ("tcp", _) | (_, Some(_)) => Ok(false),
        _ => Ok(true),
    }
}

/// Returns how many ranks are on the host of a rank, and how many can share memory with it.
fn neighbours(own: &str, net: bool) -> (u32, u32) {
    let apart = net || own == "no proc" || own.starts_with("user");
    (if own == "no proc" { 1 } else { 2 }, if apart { 1 } else { 2 })
}

fn run(name: &str, own: &str, unshare: &'static [&str], net: bool, transport: &str) -> Result<(), Failed> {
    let skipped = |why: String| {
        println!("skipped: {why}");
        Ok(())
    };
    if let Some((program, arguments)) = unshare.split_first() {
        match Command::new(program).args(arguments).arg("true").output() {
            Ok(output) if output.status.success() => {}
            Ok(output) => return skipped(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(e) => return skipped(format!("no {program}: {e}")),
        }
    }
    let tag: String = name.chars().filter(char::is_ascii_alphanumeric).collect();
    let namespaces =
        match net.then(|| netns::Namespaces::new(&format!("n{}", NEXT.fetch_add(1, Ordering::Relaxed)))).transpose() {
            Ok(namespaces) => namespaces,
            Err(why) => return skipped(why),
        };
    let names = namespaces.as_ref().map(|n| n.0.clone());
    let store = std::env::temp_dir().join(format!("c10d-{tag}-{}", std::process::id()));
    let mut ranks = launch("work", 2, transport).env("C10D_TEST_STORE", &store).per_rank_wrapper(move |rank| {
        let inside = names.as_ref().map(|names| ["ip", "netns", "exec", &names[rank as usize]].map(Into::into));
        inside.into_iter().flatten().chain(unshare.iter().map(Into::into)).collect()
    });
    if net {
        ranks = ranks.per_rank_env(|_| vec![("MASTER_ADDR".into(), netns::ADDRESSES[0].to_string().into())]);
    }
    let report = ranks.run();
    let _ = std::fs::remove_file(&store);
    let report = report.map_err(|e| e.to_string())?;
    let (host, sharing) = neighbours(own, net);
    for rank in 0..2 {
        let well = match expected(own, net, transport) {
            Ok(memory) => {
                report.exits[rank as usize].success()
                    && lines(&report, rank) == [format!("memory {memory}, {host} on the host, {sharing} can share")]
            }
            Err(why) => failures(&report, rank)
                .iter()
                .any(|failure| failure.kind == "Rendezvous" && failure.message.contains(why)),
        };
        if !well {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}
