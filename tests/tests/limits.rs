//! A rank that reaches a limit of the system works around it or gets an error, and no signal ends it. After all ranks
//! are killed, no files or processes remain.

use crate::jobs;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use c10d::launch::JobReport;
use c10d::{ProcessGroup, ReduceOp, Result, op};
use jobs::{Failure, failures, join, launch, lines, report_error, report_line, shown};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Resource, Rlimit, setrlimit};

pub(crate) fn run_part(part: &str) -> Result {
    let (name, value) = part.split_once(':').unwrap_or((part, ""));
    if let Some(run_part) = [
        ("poor", poor as fn(&str) -> Result),
        ("groups", groups),
        ("thread", thread),
        ("memory", memory),
        ("tasks", tasks),
    ]
    .iter()
    .find_map(|(n, run_part)| (*n == name).then_some(run_part))
    {
        return run_part(value);
    }
    restrict(part);
    if let Err(e) = work(name) {
        report_error(name, &e);
    }
    Ok(())
}

/// Lowers a limit of this process.
fn restrict(what: &str) {
    match what.split_once(':').unwrap_or((what, "")) {
        ("files", more) => limit(Resource::Nofile, open_files() + more.parse::<u64>().unwrap_or(0)),
        ("size", _) => limit(Resource::Fsize, SMALL_FILE),
        ("cgroup", group) => tighten(Path::new(group)),
        _ => {}
    }
}

/// The variable with a prefix of file names. Each rank makes a file with this prefix after its first calls.
const STARTED: &str = "C10D_TEST_STARTED";

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("limits/few_file_descriptors", few_file_descriptors),
        Trial::test("limits/a_rank_without_descriptors_is_named_by_all", || poor_ranks("auto")),
        Trial::test("limits/a_rank_without_descriptors_is_named_by_all_shm", || poor_ranks("shm")),
        Trial::test("limits/a_rank_without_descriptors_is_named_by_all_tcp", || poor_ranks("tcp")),
        Trial::test("limits/groups_until_descriptors_run_out", groups_until_descriptors_run_out),
        Trial::test("limits/a_rank_without_threads_is_named_by_all", || {
            lacks("thread", 3, "no thread or process left")
        }),
        Trial::test("limits/a_rank_without_tasks_is_named_by_all", a_rank_without_tasks),
        Trial::test("limits/a_rank_without_memory_is_named_by_all", || lacks("memory", 5, "no memory left")),
        Trial::test("limits/small_files_only", || all_use_tcp(&run("size", "auto")?)),
        Trial::test("limits/small_files_only_and_shm_forced", || {
            all_lack(&run("size", "shm")?, &[&format!("RLIMIT_FSIZE allows {SMALL_FILE};"), "ulimit -f"])
        }),
        Trial::test("limits/a_rank_with_small_files_is_named_by_all", || {
            let report = launch("poor:size", 3, "shm").run().map_err(|e| e.to_string())?;
            all_name_the_poor(&report, &format!("RLIMIT_FSIZE allows {SMALL_FILE};"))
        }),
        Trial::test("limits/tight_memory_cgroup", || in_tight_cgroups("cgroup", "auto", all_use_tcp)),
        Trial::test("limits/tight_memory_cgroup_and_shm_forced", || {
            in_tight_cgroups("cgroup", "shm", |report| all_lack(report, &["memory cgroup has", "(limit"]))
        }),
        Trial::test("limits/a_rank_in_a_tight_memory_cgroup_is_named_by_all", || {
            in_tight_cgroups("poor:cgroup", "shm", |report| all_name_the_poor(report, "memory cgroup has"))
        }),
        Trial::test("limits/nothing_left_behind_after_kill_of_all", || nothing_left_behind("shm")),
        Trial::test("limits/nothing_left_behind_after_kill_of_all_tcp", || nothing_left_behind("tcp")),
    ]
}

const NO_SHARED_MEMORY: &str = "no shared memory";

/// The limit on the size of a file in bytes. A shared segment is larger.
const SMALL_FILE: u64 = 64 << 10;

fn limit(resource: Resource, value: u64) {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).expect("lowering a limit is allowed");
}

fn open_files() -> u64 {
    // The listing itself uses one descriptor.
    std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64 - 1)
}

fn work(part: &str) -> Result {
    let pg = join(Duration::from_secs(5))?;
    let mut started = std::env::var(STARTED).ok();
    loop {
        for count in [10, 100_000] {
            let mut x = vec![1u32; count];
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, vec![pg.size(); count]);
        }
        if let Some(started) = started.take() {
            std::fs::write(format!("{started}-{}", pg.rank()), "").expect("the folder can be written");
        }
        if part != "forever" {
            break;
        }
    }
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    if !maps.contains("memfd:") {
        report_line(NO_SHARED_MEMORY);
    }
    pg.shutdown()?;
    report_line("done");
    Ok(())
}

fn run(part: &str, transport: &str) -> Result<JobReport, Failed> {
    launch(part, 2, transport).run().map_err(|e| e.to_string().into())
}

fn ranks(report: &JobReport) -> std::ops::Range<u32> {
    0..report.exits.len() as u32
}

fn all_work(report: &JobReport) -> Result<(), Failed> {
    match ranks(report).all(|rank| worked(report, rank)) {
        true => Ok(()),
        false => Err(shown(report).into()),
    }
}

/// Checks that all ranks worked, and used TCP, since shared memory was impossible.
fn all_use_tcp(report: &JobReport) -> Result<(), Failed> {
    all_work(report)?;
    match ranks(report).all(|rank| lines(report, rank).contains(&NO_SHARED_MEMORY.to_owned())) {
        true => Ok(()),
        false => Err(format!("shared memory was used:\n{}", shown(report)).into()),
    }
}

fn worked(report: &JobReport, rank: u32) -> bool {
    report.exits[rank as usize].success() && lines(report, rank).contains(&"done".to_owned())
}

/// Checks that all ranks ended by themselves and reported the resource that they ran out of.
fn all_lack(report: &JobReport, words: &[&str]) -> Result<(), Failed> {
    for rank in ranks(report) {
        let reported = failures(report, rank);
        let right = reported.iter().any(|t| t.kind == "Resource" && words.iter().all(|word| t.message.contains(word)));
        if !right || !report.exits[rank as usize].success() {
            return Err(format!("rank {rank} did not report {words:?}:\n{}", shown(report)).into());
        }
    }
    Ok(())
}

fn few_file_descriptors() -> Result<(), Failed> {
    let mut failed = 0;
    for more in [0, 1, 2, 3, 5, 8, 12, 18, 26] {
        let report = run(&format!("files:{more}"), "auto")?;
        if all_work(&report).is_err() {
            failed += 1;
            all_lack(&report, &["no file descriptor left (limit"])
                .map_err(|e| format!("{more} more: {}", e.message().unwrap_or("")))?;
        }
    }
    if failed == 0 {
        return Err("no number of descriptors was too few".into());
    }
    all_work(&run("files:100", "auto")?)
}

// One of several ranks reaches a limit.

const POOR: u32 = 1;

fn is_poor() -> bool {
    std::env::var("RANK").is_ok_and(|rank| rank == POOR.to_string())
}

/// Makes and uses a group in which only rank [`POOR`] has a limit.
fn poor(what: &str) -> Result {
    if is_poor() {
        restrict(what);
    }
    if let Err(e) = work("poor") {
        report_error("poor", &e);
    }
    Ok(())
}

/// Makes groups until one fails, with a limit on the descriptors of every rank.
fn groups(more: &str) -> Result {
    let pg = join(Duration::from_secs(20))?;
    limit(Resource::Nofile, open_files() + more.parse::<u64>().unwrap_or(0));
    let all: Vec<u32> = (0..pg.size()).collect();
    let mut kept = Vec::new();
    loop {
        match pg.new_group(&all) {
            Ok(group) => kept.push(group),
            Err(e) => {
                report_error(&kept.len().to_string(), &e);
                return Ok(());
            }
        }
    }
}

/// Limits the address space of rank [`POOR`] to what it uses now, plus `more` bytes. Does nothing on other ranks.
fn limit_addresses(more: u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap_or_default();
    let used: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    if is_poor() {
        limit(Resource::As, used * 1024 + more);
    }
}

/// Makes a group, calls `acts` and a barrier, and reports the first error. The barrier returns the error of another
/// rank.
fn until_it_ends(about: &str, acts: impl FnOnce(&ProcessGroup, Vec<u32>) -> Result) -> Result {
    let pg = join(Duration::from_secs(20))?;
    let mut x = vec![1u32; 10];
    let end = pg.all_reduce(&mut x, ReduceOp::Sum).map(drop);
    if let Err(e) = end.and_then(|()| acts(&pg, x)).and_then(|()| pg.barrier()) {
        report_error(about, &e);
    }
    Ok(())
}

/// Starts a call, for which the rank needs a thread.
fn start(pg: &ProcessGroup, x: Vec<u32>) -> Result {
    pg.start(op::all_reduce(x, ReduceOp::Sum)).wait().map(drop).map_err(|e| e.error)
}

/// Makes calls that need a thread, on one rank without address space for the thread's stack.
fn thread(_: &str) -> Result {
    until_it_ends("thread", |pg, x| {
        limit_addresses(1 << 20);
        start(pg, x)
    })
}

/// Makes calls that need a thread, on one rank whose control group allows no further thread.
fn tasks(group: &str) -> Result {
    until_it_ends("tasks", |pg, x| {
        if is_poor() {
            let group = Path::new(group);
            let entered = std::fs::write(group.join("cgroup.procs"), std::process::id().to_string());
            let current = std::fs::read_to_string(group.join("pids.current")).unwrap_or_default();
            let limited = entered.and_then(|()| std::fs::write(group.join("pids.max"), current.trim()));
            limited.expect("a new group can be limited");
        }
        start(pg, x)
    })
}

/// Makes calls that need memory for intermediate results, on one rank without address space for it. A reduce of up to
/// four ranks on a host needs no such memory.
fn memory(_: &str) -> Result {
    until_it_ends("memory", |pg, _| {
        let mut x = vec![1u32; 16 << 20];
        pg.barrier()?;
        limit_addresses(8 << 20);
        (0..pg.size()).try_for_each(|root| pg.reduce(&mut x, ReduceOp::Sum, root).map(drop))
    })
}

fn a_rank_without_tasks() -> Result<(), Failed> {
    let name = format!("c10d-test-tasks-{}", std::process::id());
    let places = [Path::new(HERE).join("pids").join(&name), Path::new(HERE).join(&name)];
    let Some(group) = places.iter().find(|place| {
        let made = std::fs::create_dir(place).is_ok();
        let usable = made && std::fs::write(place.join("pids.max"), "1000").is_ok();
        if made && !usable {
            let _ = std::fs::remove_dir(place);
        }
        usable
    }) else {
        println!("skipped: no control group for tasks can be made here");
        return Ok(());
    };
    let result = lacks(&format!("tasks:{}", group.display()), 3, "no thread or process left (limit");
    let _ = std::fs::remove_dir(group);
    result
}

/// Checks that all ranks named the limited rank and the resource that it ran out of.
fn all_name_the_poor(report: &JobReport, words: &str) -> Result<(), Failed> {
    for rank in ranks(report) {
        let reported = failures(report, rank);
        let right = reported.iter().any(|t| {
            let guilty: &[u32] = if rank == POOR { &[] } else { &[POOR] };
            t.kind == "Resource" && t.guilty == guilty && t.message.contains(words) && t.message.contains("limit")
        });
        if !right || !report.exits[rank as usize].success() {
            return Err(format!("rank {rank}:\n{}", shown(report)).into());
        }
    }
    Ok(())
}

fn poor_ranks(transport: &str) -> Result<(), Failed> {
    let mut failed = 0;
    for more in [4, 5, 6, 7, 8, 9, 10, 12, 14, 16, 20] {
        let report = launch(&format!("poor:files:{more}"), 3, transport).run().map_err(|e| e.to_string())?;
        if (0..3).all(|rank| lines(&report, rank).contains(&"done".to_owned())) {
            continue;
        }
        failed += 1;
        println!("{transport}, {more} more: {:?}", failures(&report, 0));
        all_name_the_poor(&report, "no file descriptor left")
            .map_err(|e| format!("{more} more: {}", e.message().unwrap_or("")))?;
    }
    if failed > 0 { Ok(()) } else { Err("every number of descriptors was enough".into()) }
}

fn groups_until_descriptors_run_out() -> Result<(), Failed> {
    for transport in ["shm", "tcp", "auto"] {
        let report = launch("groups:80", 3, transport).run().map_err(|e| e.to_string())?;
        for rank in 0..3 {
            let reported = failures(&report, rank);
            println!("{transport}, rank {rank}: {reported:?}");
            let right = |t: &Failure| t.kind == "Resource" && t.message.contains("no file descriptor left (limit");
            if reported.is_empty() || !reported.iter().all(right) {
                return Err(format!("{transport}, rank {rank}:\n{}", shown(&report)).into());
            }
        }
    }
    Ok(())
}

fn lacks(part: &str, world: u32, words: &str) -> Result<(), Failed> {
    for transport in ["shm", "tcp"] {
        let report = launch(part, world, transport).run().map_err(|e| e.to_string())?;
        println!("{transport}: {:?}", failures(&report, 0));
        all_name_the_poor(&report, words)?;
    }
    Ok(())
}

// Memory cgroups.

const HERE: &str = "/sys/fs/cgroup";
const NO_CGROUP: &str = "the group cannot be entered or limited";

/// Makes a memory cgroup for the ranks. Returns `None` if this process may not make one.
fn new_group() -> Option<PathBuf> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    let name = format!("c10d-test-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
    let groups = std::fs::read_to_string("/proc/self/cgroup").ok()?;
    let own = |controller: &str| {
        let line = groups.lines().find(|line| line.split(':').nth(1) == Some(controller))?;
        Some(line.splitn(3, ':').nth(2)?.trim_start_matches('/').to_owned())
    };
    let place = match own("memory") {
        Some(own) => Path::new(HERE).join("memory").join(own).join(name),
        None => Path::new(HERE).join(own("")?).join(name),
    };
    std::fs::create_dir(&place).ok()?;
    let limited = ["memory.max", "memory.limit_in_bytes"].iter().any(|file| place.join(file).exists());
    if limited {
        // In cgroups version 2, child groups have the controller only if this file enables it.
        let _ = std::fs::write(place.join("cgroup.subtree_control"), "+memory");
        Some(place)
    } else {
        let _ = std::fs::remove_dir(&place);
        None
    }
}

/// Moves this process into its own child of `group`, and allows the child 4 MiB more memory than it uses: too little
/// for the shared segments of eight ranks, but enough for TCP.
fn tighten(group: &Path) {
    let own = group.join(std::env::var("RANK").unwrap_or_default());
    let joined = std::fs::create_dir(&own)
        .and_then(|()| std::fs::write(own.join("cgroup.procs"), std::process::id().to_string()));
    let current = |file: &str| std::fs::read_to_string(own.join(file)).ok()?.trim().parse::<u64>().ok();
    let used = current("memory.current").or_else(|| current("memory.usage_in_bytes")).unwrap_or(0);
    let file = if own.join("memory.max").exists() { "memory.max" } else { "memory.limit_in_bytes" };
    let limited = std::fs::write(own.join(file), (used + (4 << 20)).to_string());
    if joined.is_err() || limited.is_err() {
        report_line(NO_CGROUP);
    }
}

/// Runs a part in which ranks enter tight cgroups, and judges the result.
fn in_tight_cgroups(
    part: &str,
    transport: &str,
    judge: impl FnOnce(&JobReport) -> Result<(), Failed>,
) -> Result<(), Failed> {
    let Some(group) = new_group() else {
        println!("skipped: no memory cgroup can be made here");
        return Ok(());
    };
    let report = launch(&format!("{part}:{}", group.display()), 8, transport).run();
    for own in names_in(&group).into_iter().chain([group]).filter(|path| path.is_dir()) {
        let _ = std::fs::remove_dir(own);
    }
    let report = report.map_err(|e| e.to_string())?;
    if ranks(&report).any(|rank| lines(&report, rank).contains(&NO_CGROUP.to_owned())) {
        println!("skipped: a memory cgroup can be made here, but not used");
        return Ok(());
    }
    judge(&report)
}

// Files and processes that remain.

fn names_in(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Returns the named files of shared memory that a process maps or has open.
fn shared_by(pid: u32) -> BTreeSet<PathBuf> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let maps = std::fs::read_to_string(process.join("maps")).unwrap_or_default();
    let mapped = maps.lines().filter_map(|line| line.find('/').map(|start| PathBuf::from(&line[start..])));
    let open = names_in(&process.join("fd")).into_iter().filter_map(|fd| std::fs::read_link(fd).ok());
    mapped.chain(open).filter(|path| path.starts_with("/dev/shm")).collect()
}

fn nothing_left_behind(transport: &str) -> Result<(), Failed> {
    let own = std::env::temp_dir().join(format!("c10d-left-{}-{transport}", std::process::id()));
    std::fs::create_dir(&own)?;
    let started = format!("{}-started", own.display());
    let job = launch("forever", 3, transport).env("TMPDIR", &own).env(STARTED, &started);
    let job = job.spawn().map_err(|e| e.to_string())?;
    for started in (0..3).map(|rank| format!("{started}-{rank}")) {
        while !Path::new(&started).exists() && (0..3).all(|rank| !job.has_ended(rank).unwrap_or(true)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = std::fs::remove_file(started);
    }
    let running = (0..3).all(|rank| !job.has_ended(rank).unwrap_or(true));
    let pids: Vec<u32> = (0..3).filter_map(|rank| job.pid(rank).ok()).collect();
    let shared: BTreeSet<PathBuf> = pids.iter().copied().flat_map(shared_by).collect();
    job.kill_all();
    let report = job.wait(Instant::now() + Duration::from_secs(10)).map_err(|e| e.to_string())?;
    if !running {
        return Err(format!("the ranks did not run:\n{}", shown(&report)).into());
    }
    let left: Vec<PathBuf> = shared.into_iter().filter(|path| path.exists()).chain(names_in(&own)).collect();
    std::fs::remove_dir_all(&own)?;
    let alive: Vec<&u32> = pids.iter().filter(|pid| Path::new(&format!("/proc/{pid}")).exists()).collect();
    if left.is_empty() && alive.is_empty() {
        Ok(())
    } else {
        Err(format!("left behind: {left:?}, processes {alive:?}").into())
    }
}
