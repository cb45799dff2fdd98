//! Limits of the system: reaching one causes an error or is worked around, never a signal, and nothing is left behind.

use crate::stage;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use c10d::launch::JobReport;
use c10d::{ProcessGroup, ReduceOp, Result, op};
use libtest_mimic::{Failed, Trial};
use rustix::process::{Resource, Rlimit, setrlimit};
use stage::{Told, cast, failures, join, lines, shown, tell, tell_error};

pub(crate) fn play(part: &str) -> Result {
    let (name, value) = part.split_once(':').unwrap_or((part, ""));
    if let Some(play) = [
        ("poor", poor as fn(&str) -> Result),
        ("groups", groups),
        ("thread", thread),
        ("memory", memory),
        ("tasks", tasks),
    ]
    .iter()
    .find_map(|(n, play)| (*n == name).then_some(play))
    {
        return play(value);
    }
    match name {
        "files" => limit(Resource::Nofile, open_files() + value.parse::<u64>().unwrap_or(0)),
        "size" => limit(Resource::Fsize, 64 << 10),
        "cgroup" => tighten(Path::new(value)),
        _ => {}
    }
    if let Err(e) = work(name) {
        tell_error(name, &e);
    }
    Ok(())
}

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("limits/few_file_descriptors", few_file_descriptors),
        Trial::test("limits/a_rank_without_descriptors_is_named_by_all", || poor_ranks("auto")),
        Trial::test("limits/a_rank_without_descriptors_is_named_by_all_shm", || poor_ranks("shm")),
        Trial::test("limits/a_rank_without_descriptors_is_named_by_all_tcp", || poor_ranks("tcp")),
        Trial::test("limits/groups_until_descriptors_run_out", groups_until_descriptors_run_out),
        Trial::test("limits/a_rank_without_threads_is_named_by_all", || lacks("thread", "no thread or process left")),
        Trial::test("limits/a_rank_without_tasks_is_named_by_all", a_rank_without_tasks),
        Trial::test("limits/a_rank_without_memory_is_named_by_all", || lacks("memory", "no memory left")),
        Trial::test("limits/small_files_only", || told(run("size", "auto")?, true)),
        Trial::test("limits/small_files_only_and_shm_forced", || told(run("size", "shm")?, false)),
        Trial::test("limits/tight_memory_cgroup", tight_memory_cgroup),
        Trial::test("limits/nothing_left_behind_after_kill_of_all", || nothing_left_behind("shm")),
        Trial::test("limits/nothing_left_behind_after_kill_of_all_tcp", || nothing_left_behind("tcp")),
    ]
}

fn limit(resource: Resource, value: u64) {
    setrlimit(resource, Rlimit { current: Some(value), maximum: Some(value) }).expect("lowering a limit is allowed");
}

fn open_files() -> u64 {
    // The listing itself uses one descriptor.
    std::fs::read_dir("/proc/self/fd").map_or(0, |dir| dir.count() as u64 - 1)
}

fn work(part: &str) -> Result {
    let pg = join(Duration::from_secs(5))?;
    loop {
        for count in [10, 100_000] {
            let mut x = vec![1u32; count];
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            assert_eq!(x, vec![pg.size(); count]);
        }
        if part != "forever" {
            break;
        }
    }
    pg.shutdown()?;
    tell("done");
    Ok(())
}

fn run(part: &str, transport: &str) -> Result<JobReport, Failed> {
    cast(part, 2, transport).run().map_err(|e| e.to_string().into())
}

/// Checks that every rank ended by itself with a result or an error; with `needed`, with a result.
fn told(report: JobReport, needed: bool) -> Result<(), Failed> {
    for rank in 0..2 {
        let done = lines(&report, rank).contains(&"done".to_owned());
        let error = failures(&report, rank).into_iter().find(|told| !told.kind.is_empty());
        let named = error.is_some_and(|told| told.kind != "Internal");
        if !report.exits[rank as usize].success() || !(done || (named && !needed)) {
            return Err(format!("rank {rank}:\n{}", shown(&report)).into());
        }
    }
    Ok(())
}

fn few_file_descriptors() -> Result<(), Failed> {
    for more in [0, 1, 2, 3, 5, 8, 12, 18, 26] {
        told(run(&format!("files:{more}"), "auto")?, false)?;
    }
    told(run("files:100", "auto")?, true)
}

// One of several ranks reaches a limit.

const POOR: u32 = 1;

fn is_poor() -> bool {
    std::env::var("RANK").is_ok_and(|rank| rank == POOR.to_string())
}

/// Makes and uses a group in which one rank has few descriptors.
fn poor(more: &str) -> Result {
    if is_poor() {
        limit(Resource::Nofile, open_files() + more.parse::<u64>().unwrap_or(0));
    }
    if let Err(e) = work("poor") {
        tell_error("poor", &e);
    }
    Ok(())
}

/// Makes groups until one fails.
fn groups(more: &str) -> Result {
    let pg = join(Duration::from_secs(20))?;
    limit(Resource::Nofile, open_files() + more.parse::<u64>().unwrap_or(0));
    let all: Vec<u32> = (0..pg.size()).collect();
    let mut kept = Vec::new();
    loop {
        match pg.new_group(&all) {
            Ok(group) => kept.push(group),
            Err(e) => {
                tell_error(&kept.len().to_string(), &e);
                return Ok(());
            }
        }
    }
}

/// Leaves the limited rank this many bytes of address space.
fn limit_addresses(more: u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap_or_default();
    let used: u64 = line.trim().trim_end_matches("kB").trim().parse().unwrap_or(0);
    if is_poor() {
        limit(Resource::As, used * 1024 + more);
    }
}

/// Uses a working group until it fails, and reports the error. If another rank reached the limit in a later call, this
/// rank gets the error in its next call.
fn until_it_ends(about: &str, acts: impl FnOnce(&ProcessGroup, Vec<u32>) -> Result) -> Result {
    let pg = join(Duration::from_secs(20))?;
    let mut x = vec![1u32; 10];
    let end = pg.all_reduce(&mut x, ReduceOp::Sum).map(drop);
    if let Err(e) = end.and_then(|()| acts(&pg, x)).and_then(|()| pg.barrier()) {
        tell_error(about, &e);
    }
    Ok(())
}

/// A started call needs a thread.
fn start(pg: &ProcessGroup, x: Vec<u32>) -> Result {
    pg.start(op::all_reduce(x, ReduceOp::Sum)).wait().map(drop).map_err(|e| e.error)
}

/// Needs a thread. On one rank there is no address space for its stack.
fn thread(_: &str) -> Result {
    until_it_ends("thread", |pg, x| {
        limit_addresses(1 << 20);
        start(pg, x)
    })
}

/// The same, but the limit is that of tasks of the rank's control group.
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

/// Needs memory for intermediate results, which one rank does not have.
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
    let result = lacks(&format!("tasks:{}", group.display()), "no thread or process left (limit");
    let _ = std::fs::remove_dir(group);
    result
}

/// Checks that all ranks named the limited rank and what it ran out of.
fn all_name_the_poor(report: &JobReport, words: &str) -> Result<(), Failed> {
    for rank in 0..3 {
        let told = failures(report, rank);
        let right = told.iter().any(|t| {
            let guilty: &[u32] = if rank == POOR { &[] } else { &[POOR] };
            t.kind == "Resource" && t.guilty == guilty && t.words.contains(words) && t.words.contains("limit")
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
        let report = cast(&format!("poor:{more}"), 3, transport).run().map_err(|e| e.to_string())?;
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
        let report = cast("groups:80", 3, transport).run().map_err(|e| e.to_string())?;
        for rank in 0..3 {
            let told = failures(&report, rank);
            println!("{transport}, rank {rank}: {told:?}");
            let right = |t: &Told| t.kind == "Resource" && t.words.contains("no file descriptor left (limit");
            if told.is_empty() || !told.iter().all(right) {
                return Err(format!("{transport}, rank {rank}:\n{}", shown(&report)).into());
            }
        }
    }
    Ok(())
}

fn lacks(part: &str, words: &str) -> Result<(), Failed> {
    for transport in ["shm", "tcp"] {
        let report = cast(part, 3, transport).run().map_err(|e| e.to_string())?;
        println!("{transport}: {:?}", failures(&report, 0));
        all_name_the_poor(&report, words)?;
    }
    Ok(())
}

// Memory cgroups.

const HERE: &str = "/sys/fs/cgroup";

/// Makes a memory cgroup for the ranks, if this process may.
fn new_group() -> Option<PathBuf> {
    let name = format!("c10d-test-{}", std::process::id());
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
        Some(place)
    } else {
        let _ = std::fs::remove_dir(&place);
        None
    }
}

/// Moves this process into the group, and allows the group 6 MiB more memory than it uses.
fn tighten(group: &Path) {
    let current = |file: &str| std::fs::read_to_string(group.join(file)).ok()?.trim().parse::<u64>().ok();
    let joined = std::fs::write(group.join("cgroup.procs"), std::process::id().to_string());
    let used = current("memory.current").or_else(|| current("memory.usage_in_bytes")).unwrap_or(0);
    let file = if group.join("memory.max").exists() { "memory.max" } else { "memory.limit_in_bytes" };
    // The second rank starts under the limit that the first rank has set, and needs memory to start.
    let limit = used + (6 << 20);
    let limited = std::fs::write(group.join(file), limit.to_string());
    if joined.is_err() || limited.is_err() {
        tell("skipped: the group cannot be entered or limited");
    }
}

fn tight_memory_cgroup() -> Result<(), Failed> {
    let Some(group) = new_group() else {
        println!("skipped: no memory cgroup can be made here");
        return Ok(());
    };
    let report = run(&format!("cgroup:{}", group.display()), "auto");
    let _ = std::fs::remove_dir(&group);
    let report = report?;
    if lines(&report, 0).iter().any(|line| line.starts_with("skipped")) {
        println!("skipped: a memory cgroup can be made here, but not used");
        return Ok(());
    }
    told(report, false)
}

// What is left behind.

fn names_in(dir: &Path) -> BTreeSet<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// Returns the named files of shared memory that a process maps or has open. Files of other jobs do not count.
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
    let job = cast("forever", 3, transport).env("TMPDIR", &own).spawn().map_err(|e| e.to_string())?;
    std::thread::sleep(Duration::from_millis(700));
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
