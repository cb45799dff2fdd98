//! Ranks in two network namespaces, over gloo-like, MPI, and both as two tiers, and with a link that is cut.

use crate::{jobs, roots, wheels};

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::process::Command;
use std::time::{Duration, Instant};

use c10d::launch::{JobReport, Launch};
use c10d::{ReduceOp, Result};
use jobs::{failures, launch, lines, report_error, report_line, shown};
use libtest_mimic::{Failed, Trial};

pub(crate) fn run_part(part: &str) -> Result {
    match part {
        "cut" => be_cut_off(),
        "mpi" => work_over_mpi(),
        _ => work(),
    }
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("netns/shared_memory_inside_tcp_across", shared_memory_inside_tcp_across),
        Trial::test("netns/a_cut_link_is_found", a_cut_link_is_found),
        Trial::test("netns/mpi_across/mpich", || mpi_across("mpich", "mpi")),
        Trial::test("netns/mpi_across/intel", || mpi_across("intel", "mpi")),
        Trial::test("netns/two_tiers_across/mpich", || mpi_across("mpich", "gloo-like+mpi")),
        Trial::test("netns/two_tiers_across/intel", || mpi_across("intel", "gloo-like+mpi")),
    ]
}

/// The address of each namespace.
pub(crate) const ADDRESSES: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 213, 77, 1), Ipv4Addr::new(10, 213, 77, 2)];

fn work() -> Result {
    let rank = std::env::var("RANK").unwrap_or_default();
    let store = std::env::var("C10D_TEST_STORE").unwrap_or_default();
    let url = format!("file://{store}?rank={rank}&world_size=4");
    let pg = c10d::builder().init(&url).timeout(Duration::from_secs(10)).build()?;
    for count in [1, 1000, 500_000] {
        let mut x = vec![1 + pg.rank(); count];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x, vec![10; count]);
        let mut all = vec![0u8; 4 * count];
        pg.all_gather_into(vec![pg.rank() as u8; count], &mut all)?;
        assert!(all.chunks(count).zip(0..).all(|(part, r)| part.iter().all(|b| *b == r)));
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    report_line(format!("memory {}", maps.contains("memfd:")));
    for address in connected_to() {
        report_line(format!("connected {address}"));
    }
    // Only every 8th case runs, because each case makes a group through the slow file store.
    roots::play_some(&pg, 8)?.iter().for_each(report_line);
    pg.barrier()?;
    pg.shutdown()
}

/// Runs collectives and messages over MPI or two tiers.
fn work_over_mpi() -> Result {
    let rank = std::env::var("RANK").unwrap_or_default();
    let store = std::env::var("C10D_TEST_STORE").unwrap_or_default();
    let url = format!("file://{store}?rank={rank}&world_size=4");
    let backend = std::env::var(jobs::BACKEND).unwrap_or_default();
    let builder = c10d::builder().init(&url).timeout(Duration::from_secs(50)).backend(&backend);
    // A backend with two tiers uses both, even for small calls.
    let builder = if backend.contains('+') { builder.hint("tiered.least", "1") } else { builder };
    let pg = builder.build()?;
    for count in [1, 1000, 500_000] {
        let mut x = vec![1 + pg.rank(); count];
        pg.all_reduce(&mut x, ReduceOp::Sum)?;
        assert_eq!(x, vec![10; count]);
        let mut y = vec![pg.rank(); count];
        pg.broadcast(&mut y, 3)?;
        assert_eq!(y, vec![3; count]);
    }
    let (next, before) = ((pg.rank() + 1) % 4, (pg.rank() + 3) % 4);
    // There are several rounds, because a defect of MPICH (see `docs/cluster.md`) loses only some messages.
    for round in 0..20 {
        let sent = pg.start(c10d::op::send(vec![pg.rank() + round; 100_000], next, 7));
        let mut got = vec![0; 100_000];
        pg.recv(&mut got, before, 7)?;
        sent.wait()?;
        assert_eq!(got, vec![before + round; 100_000]);
    }
    pg.barrier()?;
    pg.shutdown()?;
    report_line("all is right");
    Ok(())
}

fn be_cut_off() -> Result {
    let rank = std::env::var("RANK").unwrap_or_default();
    let store = std::env::var("C10D_TEST_STORE").unwrap_or_default();
    let url = format!("file://{store}?rank={rank}&world_size=2");
    let builder = c10d::builder().init(&url).timeout(Duration::from_secs(60));
    let pg = builder.hint("gloo-like.link_timeout", "1").build()?;
    // A late rank must not count as cut off.
    let mut x = vec![7u8; 8 << 20];
    if pg.rank() == 0 {
        pg.send(&x, 1, 0)?;
    } else {
        std::thread::sleep(Duration::from_millis(2500));
        pg.recv(&mut x, 0, 0)?;
    }
    pg.barrier()?;
    let begin = Instant::now();
    if pg.rank() == 0 {
        ip(&["link", "set", &std::env::var("C10D_TEST_LINK").unwrap_or_default(), "down"]).expect("root may do this");
    }
    let e = pg.recv(&mut [0u8], 1 - pg.rank(), 0).unwrap_err();
    report_error("cut", &e);
    report_line(format!("in time {}", begin.elapsed() < Duration::from_secs(20)));
    Ok(())
}

/// The remote addresses of this process's established connections.
fn connected_to() -> BTreeSet<Ipv4Addr> {
    let own: BTreeSet<String> = std::fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(std::fs::read_link(entry.ok()?.path()).ok()?.to_string_lossy().into_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap_or_default();
    let remote = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (remote, state, inode) = (words.get(2)?, words.get(3)?, words.get(9)?);
        let address = u32::from_str_radix(remote.split(':').next()?, 16).ok()?;
        let ours = *state == "01" && own.contains(&format!("socket:[{inode}]"));
        ours.then(|| Ipv4Addr::from(address.to_le_bytes()))
    };
    table.lines().filter_map(remote).collect()
}

/// Two namespaces, and the devices that connect them, one in each. Dropping the value removes them.
pub(crate) struct Namespaces(pub(crate) [String; 2], [String; 2]);

impl Namespaces {
    pub(crate) fn new(more: &str) -> Result<Namespaces, String> {
        let id = std::process::id();
        let names = ["a", "b"].map(|side| format!("c10d-{id}-{side}{more}"));
        let [va, vb] = [format!("v{id}a{more}"), format!("v{id}b{more}")];
        let namespaces = Namespaces(names.clone(), [va.clone(), vb.clone()]);
        let [a, b] = &names;
        ip(&["netns", "add", a])?;
        ip(&["netns", "add", b])?;
        ip(&["link", "add", &va, "netns", a, "type", "veth", "peer", "name", &vb, "netns", b])?;
        for (name, device, address) in [(a, &va, ADDRESSES[0]), (b, &vb, ADDRESSES[1])] {
            ip(&["-n", name, "addr", "add", &format!("{address}/24"), "dev", device])?;
            ip(&["-n", name, "link", "set", device, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        for (name, device) in [(a, &va), (b, &vb)] {
            wait_until_up(name, device)?;
        }
        Ok(namespaces)
    }

    /// Runs a job with the same number of ranks in each namespace.
    fn run(&self, job: Launch, ranks: u32) -> Result<JobReport, Failed> {
        let (names, devices) = (self.0.clone(), self.1.clone());
        let store = std::env::temp_dir().join(format!("c10d-netns-{}", names[0]));
        let report = job
            .env("C10D_TEST_STORE", &store)
            // The launcher would set a loopback address, which ranks in the other namespace cannot reach.
            .per_rank_env(move |rank| {
                // libfabric, which Intel MPI uses, may otherwise choose the loopback device.
                let device = &devices[(rank * 2 / ranks) as usize];
                let address = ADDRESSES[0].to_string();
                vec![("MASTER_ADDR".into(), address.into()), ("FI_TCP_IFACE".into(), device.into())]
            })
            .per_rank_wrapper(move |rank| {
                ["ip", "netns", "exec", &names[(rank * 2 / ranks) as usize]].iter().map(Into::into).collect()
            })
            .run();
        let _ = std::fs::remove_file(&store);
        Ok(report.map_err(|e| e.to_string())?)
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in &self.0 {
            let _ = ip(&["netns", "del", name]);
        }
    }
}

/// Waits until a device is up, which is some time after `ip link set` has returned.
fn wait_until_up(namespace: &str, device: &str) -> Result<(), String> {
    let until = Instant::now() + Duration::from_secs(10);
    while !ip(&["-n", namespace, "link", "show", "dev", device])?.contains("state UP") {
        if Instant::now() >= until {
            return Err(format!("{device} is not up after 10 s"));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Runs `ip`, and returns what it printed.
fn ip(arguments: &[&str]) -> Result<String, String> {
    let output = Command::new("ip").args(arguments).output().map_err(|e| format!("no iproute2: {e}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("ip {}: {}", arguments.join(" "), said.trim()));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn a_cut_link_is_found() -> Result<(), Failed> {
    let namespaces = match Namespaces::new("c") {
        Ok(namespaces) => namespaces,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let job = launch("cut", 2, "auto").env("C10D_TEST_LINK", &namespaces.1[0]);
    let report = namespaces.run(job, 2)?;
    for rank in 0..2 {
        let named = failures(&report, rank).iter().any(|t| t.kind == "PeerDead" && t.guilty == [1 - rank]);
        if !named || !lines(&report, rank).contains(&"in time true".to_owned()) {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

fn shared_memory_inside_tcp_across() -> Result<(), Failed> {
    let namespaces = match Namespaces::new("") {
        Ok(namespaces) => namespaces,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let report = namespaces.run(launch("work", 4, "auto"), 4)?;
    for rank in 0..4 {
        let across = ADDRESSES[1 - rank as usize / 2];
        let want = ["memory true".to_owned(), format!("connected {across}")];
        if !report.exits[rank as usize].success() || lines(&report, rank) != want {
            return Err(format!("rank {rank} must report {want:?}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

fn mpi_across(library: &str, backend: &str) -> Result<(), Failed> {
    // This is part of the names of network devices, which must be short.
    let id = format!("{}{}", &library[..1], backend.len());
    let wheel = wheels::LIBRARIES.iter().find(|wheel| wheel.name == library).ok_or("no such library")?;
    let (path, namespaces) = match wheel.path().and_then(|path| Ok((path, Namespaces::new(&id)?))) {
        Ok(found) => found,
        Err(why) => {
            println!("skipped: {why}");
            return Ok(());
        }
    };
    let job = launch("mpi", 4, "auto")
        .env(jobs::BACKEND, format!("cpu:{backend}"))
        .env("C10D_MPI_LIB", path)
        .env("FI_PROVIDER", "tcp");
    let report = namespaces.run(job, 4)?;
    for rank in 0..4 {
        if !report.exits[rank as usize].success() || lines(&report, rank) != ["all is right"] {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}
