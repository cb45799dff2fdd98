//! Tables that the ranks of a host share: their content, the single copy of a host, and tables that cannot be made.

use crate::{forks, jobs, samples};

use std::cell::Cell;
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytemuck::{Pod, Zeroable};
use c10d::{FillResult, Plain, ProcessGroup, ReduceOp, Result, SharedTable, SharedTables};
use jobs::acts::{VICTIM, WORLD};
use jobs::trials::{CAP, judged, leave, over_threads, rejected, until_all_have_reported, well_or_killed};
use jobs::{join, launch, report_error};
use libtest_mimic::Trial;
use rustix::process::{Resource, Rlimit, Signal, getpid, kill_process, setrlimit};
use samples::Sample;

const PLUGIN: &str = "c-collectives";

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Entry {
    key: u64,
    values: [u32; 2],
}

impl Plain for Entry {
    const IDENTITY: &'static str = "tables::Entry/1";
}

impl Entry {
    fn of(i: usize) -> Entry {
        Entry { key: i as u64 * 3, values: [i as u32, 7] }
    }
}

fn fill(table: &mut [Entry]) -> FillResult {
    if table.iter().any(|entry| *entry != Entry::zeroed()) {
        return Err("the table is not all zeros".into());
    }
    table.iter_mut().enumerate().for_each(|(i, entry)| *entry = Entry::of(i));
    Ok(())
}

/// Returns the inode of the memory file that is mapped at this address, or 0 if there is none.
fn inode(at: usize) -> u64 {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let within = |line: &&str| {
        let (from, to) = line.split(' ').next().and_then(|range| range.split_once('-')).unwrap_or_default();
        let number = |text| usize::from_str_radix(text, 16).unwrap_or_default();
        (number(from)..number(to)).contains(&at)
    };
    let line = maps.lines().find(within).filter(|line| line.contains("memfd:c10d")).unwrap_or_default();
    line.split_whitespace().nth(4).and_then(|inode| inode.parse().ok()).unwrap_or_default()
}

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}

/// Tests tables of several lengths, with and without a root. Returns what is wrong, if anything. `alone` says whether
/// this rank is alone in its process.
fn values(pg: &ProcessGroup, alone: bool) -> Result<Option<String>> {
    let (me, n) = (pg.rank(), pg.size());
    let wrong = |what: String| Ok(Some(what));
    let files = open_files();
    for len in [0, 1, 1000, 300_000] {
        for root in [None, Some(0), Some(n - 1)] {
            let mut calls = [0u32];
            let called = |table: &mut [Entry]| {
                calls[0] += 1;
                fill(table)
            };
            let table: SharedTable<Entry> = match root {
                None => pg.share_on_host(len, called)?,
                Some(root) => pg.share_from(root, len, called)?,
            };
            if calls[0] != u32::from(me == root.unwrap_or(0)) {
                return wrong(format!("{calls:?} calls with root {root:?}"));
            }
            if table.len() != len || !table.iter().enumerate().all(|(i, entry)| *entry == Entry::of(i)) {
                return wrong(format!("{len} entries with root {root:?}"));
            }
            let mut files = vec![0u64; n as usize];
            pg.all_gather_into(&[inode(table.as_ptr() as usize)], &mut files)?;
            if files[0] == 0 || files.iter().any(|file| *file != files[0]) {
                return wrong(format!("the table is in the files {files:?}"));
            }
            let (copy, at) = (table.clone(), table.as_ptr() as usize);
            drop(table);
            if inode(at) != files[0] || copy.get(len / 2) != (len > 0).then(|| Entry::of(len / 2)).as_ref() {
                return wrong("a clone has lost its memory".into());
            }
            drop(copy);
            if alone && inode(at) == files[0] {
                return wrong("a dropped table is still mapped".into());
            }
            pg.barrier()?;
        }
    }
    if alone && open_files() != files {
        return wrong(format!("{} open files, {files} before", open_files()));
    }
    Ok(None)
}

const PARTS: [&str; 7] = ["fails", "panics", "differs", "descriptors", "addresses", "killed", "forks"];

pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![over_threads("tables/threads/values".into(), 1..=5, |pg| values(pg, false))];
    for (transport, worlds) in [("shm", 1..=5), ("tcp", 2..=3), (PLUGIN, 2..=3)] {
        for world in worlds {
            trials.push(Trial::test(format!("tables/{transport}/values_of_{world}"), move || {
                run("values", world, transport)
            }));
        }
    }
    for transport in ["shm", "tcp"] {
        for part in PARTS {
            trials.push(Trial::test(format!("tables/{transport}/{part}"), move || run(part, WORLD, transport)));
        }
    }
    trials
}

fn run(part: &str, world: u32, transport: &str) -> Result<(), libtest_mimic::Failed> {
    let ranks = match transport {
        PLUGIN => {
            samples::build(&[Sample::CCollectives]);
            launch(part, world, "shm").env(jobs::PLUGIN, Sample::CCollectives.file())
        }
        _ => launch(part, world, transport),
    };
    judged(ranks, part, world, well_or_killed)
}

pub(crate) fn run_part(part: &str) -> Result {
    let pg = join(CAP)?;
    let said = match part {
        "values" => values(&pg, true)?,
        "fails" => failing(&pg)?,
        "panics" => panicking(&pg)?,
        "differs" => differing(&pg)?,
        "descriptors" => without_descriptors(&pg)?,
        "addresses" => without_addresses(&pg)?,
        "killed" => return killed(&pg),
        "forks" => forking(&pg)?,
        _ => None,
    };
    leave(pg, said)
}

/// Returns the ranks that this rank's error must name: only `rank`, or none if this rank is `rank` itself (`mine`).
fn unless(mine: bool, rank: u32) -> Vec<u32> {
    if mine { Vec::new() } else { vec![rank] }
}

fn failing(pg: &ProcessGroup) -> Result<Option<String>> {
    for leader in [0, VICTIM] {
        let fails = |_: &mut [u64]| -> FillResult { Ok("seven".parse::<u64>().map(drop)?) };
        let result = if leader == 0 { pg.share_on_host(100, fails) } else { pg.share_from(leader, 100, fails) };
        let mine = pg.rank() == leader;
        if mine && !result.as_ref().is_err_and(|e| std::error::Error::source(e).is_some()) {
            return Ok(Some("the error has no cause".into()));
        }
        let words = ["the closure that fills the table failed: invalid digit"];
        let wrong = rejected(result, "Aborted", &unless(mine, leader), &words);
        if wrong.is_some() {
            return Ok(wrong);
        }
    }
    values(pg, true)
}

fn panicking(pg: &ProcessGroup) -> Result<Option<String>> {
    for leader in [0, VICTIM] {
        let panics = |_: &mut [u64]| -> FillResult { panic!("as the test wants it") };
        let call = || if leader == 0 { pg.share_on_host(100, panics) } else { pg.share_from(leader, 100, panics) };
        match catch_unwind(AssertUnwindSafe(call)) {
            Err(panic) if pg.rank() == leader && panic.downcast_ref() == Some(&"as the test wants it") => {}
            Err(_) => return Ok(Some("another panic".into())),
            Ok(result) => {
                let wrong = rejected(result, "Aborted", &[leader], &["the closure that fills the table panicked"]);
                if pg.rank() == leader || wrong.is_some() {
                    return Ok(Some(wrong.unwrap_or_else(|| "no panic".into())));
                }
            }
        }
    }
    values(pg, true)
}

fn differing(pg: &ProcessGroup) -> Result<Option<String>> {
    let victim = pg.rank() == VICTIM;
    let guilty: &[u32] = if victim { &[0, 2] } else { &[VICTIM] };
    let well = |_: &mut [u64]| -> FillResult { Ok(()) };
    let len = pg.share_on_host(if victim { 100 } else { 99 }, well);
    let wrong = rejected(len, "Mismatch", guilty, &["count is", "100", "99"]);
    let kind = if victim {
        pg.share_on_host(8, |_: &mut [u64]| Ok(())).map(drop)
    } else {
        pg.share_on_host(8, |_: &mut [Entry]| Ok(())).map(drop)
    };
    let wrong =
        wrong.or(rejected(kind, "Mismatch", guilty, &["type is", "u64 (8 bytes)", "tables::Entry/1 (16 bytes)"]));
    let root = pg.share_from(if victim { 0 } else { 2 }, 8, well);
    let wrong = wrong.or(rejected(root, "Mismatch", guilty, &["root is", "0", "2"]));
    let way = if victim { pg.share_from(0, 8, well) } else { pg.share_on_host(8, well) };
    let wrong = wrong.or(rejected(way, "Mismatch", guilty, &["root is", "0", "one on each host"]));
    // Arguments that are invalid, but the same on all ranks.
    let wrong = wrong.or(rejected(pg.share_from(3, 8, well), "InvalidArgument", &[], &["root 3 is not a rank"]));
    let wrong =
        wrong.or(rejected(pg.share_on_host(usize::MAX / 8, well), "InvalidArgument", &[], &["no memory can hold"]));
    if wrong.is_some() { Ok(wrong) } else { values(pg, true) }
}

/// Calls `run` with a lowered limit, and restores the limit afterwards.
fn limited<R>(which: Resource, most: u64, run: impl FnOnce() -> R) -> R {
    let before = rustix::process::getrlimit(which);
    setrlimit(which, Rlimit { current: Some(most), ..before }).expect("lowering a limit is allowed");
    let result = run();
    setrlimit(which, before).expect("a limit can be raised again up to its maximum");
    result
}

/// Returns the limit with which this process can open `more` more descriptors.
fn descriptors_with(more: usize) -> u64 {
    let taken = |fd: &u64| std::fs::symlink_metadata(format!("/proc/self/fd/{fd}")).is_ok();
    (0..).filter(|fd| !taken(fd)).nth(more).unwrap_or_default()
}

fn without_descriptors(pg: &ProcessGroup) -> Result<Option<String>> {
    let well = |_: &mut [u64]| -> FillResult { Ok(()) };
    let mut failed = 0;
    for poor in [0, VICTIM] {
        for more in 0..6 {
            let mine = pg.rank() == poor;
            let most = if mine { descriptors_with(more) } else { 1000 };
            pg.barrier()?;
            let result = limited(Resource::Nofile, most, || pg.share_on_host(100, well));
            if result.is_err() {
                failed += 1;
                let words = ["no file descriptor left (limit "];
                if let Some(wrong) = rejected(result, "Resource", &unless(mine, poor), &words) {
                    return Ok(Some(format!("rank {poor} with {more} more: {wrong}")));
                }
            }
        }
    }
    if failed < 4 {
        return Ok(Some(format!("only {failed} calls failed")));
    }
    values(pg, true)
}

/// One rank does not have enough address space: first the rank that makes the table, then a rank that maps it.
fn without_addresses(pg: &ProcessGroup) -> Result<Option<String>> {
    const BYTES: usize = 256 << 20;
    for poor in [0, VICTIM] {
        let mine = pg.rank() == poor;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap_or_default();
        let used: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
        let most = if mine { (used << 10) + (100 << 20) } else { 1 << 46 };
        pg.barrier()?;
        let result = limited(Resource::As, most, || pg.share_on_host(BYTES, |_: &mut [u8]| Ok(())));
        let wrong = rejected(result, "Resource", &unless(mine, poor), &["no memory left (limit"]);
        if let Some(wrong) = wrong {
            return Ok(Some(format!("rank {poor}: {wrong}")));
        }
    }
    values(pg, true)
}

/// The rank that fills the table dies while the others wait for it.
fn killed(pg: &ProcessGroup) -> Result {
    let dies = |_: &mut [u64]| -> FillResult { Ok(kill_process(getpid(), Signal::KILL)?) };
    if let Err(e) = pg.share_from(VICTIM, 100, dies) {
        report_error("killed", &e);
    }
    until_all_have_reported(WORLD - 1)
}

fn forking(pg: &ProcessGroup) -> Result<Option<String>> {
    let early = Cell::new(None);
    let table = pg.share_on_host(1000, |table: &mut [Entry]| {
        early.set(Some(forks::fork(|| {
            std::thread::sleep(CAP);
            Ok(())
        })));
        fill(table)
    })?;
    let child = forks::fork(|| {
        let there = table.iter().enumerate().all(|(i, entry)| *entry == Entry::of(i));
        if there { Ok(()) } else { Err(c10d::Error::invalid("the child cannot read the table")) }
    });
    forks::ended_well(child)?;
    if let Some(early) = early.take() {
        let inode = inode(table.as_ptr() as usize);
        let descriptors = std::fs::read_dir(format!("/proc/{}/fd", early.as_raw_nonzero()));
        let is_the_table = |path| std::fs::metadata(path).is_ok_and(|file| file.ino() == inode);
        let held = descriptors.into_iter().flatten().flatten().any(|entry| is_the_table(entry.path()));
        let maps = std::fs::read_to_string(format!("/proc/{}/maps", early.as_raw_nonzero())).unwrap_or_default();
        let inode = inode.to_string();
        let mapped = maps.lines().any(|line| line.split_whitespace().nth(4) == Some(&*inode));
        let _ = kill_process(early, Signal::KILL);
        let _ = rustix::process::waitpid(Some(early), rustix::process::WaitOptions::empty());
        if held || mapped || maps.is_empty() {
            return Ok(Some(format!("the early child has a descriptor: {held}, a mapping: {mapped}")));
        }
    }
    let mut sum = [1];
    pg.all_reduce(&mut sum, ReduceOp::Sum)?;
    values(pg, true)
}
