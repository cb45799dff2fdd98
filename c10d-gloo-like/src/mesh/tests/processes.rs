//! Ranks as processes: each runs this test binary again, with only the test `rank`.

use super::files::Files;
use super::*;
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

/// The variable with the scene of a process, which selects what its rank runs (see [`rank`]).
const SCENE: &str = "C10D_TEST_MESH_SCENE";
const RANK: &str = "C10D_TEST_MESH_RANK";
const SIZE: &str = "C10D_TEST_MESH_SIZE";
/// The variable with the transport.
const WAY: &str = "C10D_TEST_MESH_TRANSPORT";
/// The variable with the number of descriptors that rank 1 may still open.
const SPARE: &str = "C10D_TEST_MESH_SPARE";
/// The variable with the rank that cannot make a segment (see [`limit`]).
pub(super) const LIMITED: &str = "C10D_TEST_MESH_LIMITED";
/// The variable with the directory of the store.
const DIR: &str = "C10D_TEST_MESH_DIR";

/// One process for each rank, and the directory of their store. Dropping this kills the processes and deletes the
/// directory.
pub(super) struct Job {
    pub(super) ranks: Vec<Child>,
    store: Files,
}

impl Drop for Job {
    fn drop(&mut self) {
        for rank in &mut self.ranks {
            let _ = rank.kill();
            let _ = rank.wait();
        }
        let _ = std::fs::remove_dir_all(&self.store.0);
    }
}

impl Job {
    pub(super) fn start(scene: &str, size: u32, transport: Transport) -> Job {
        Job::start_with(scene, size, transport, &[])
    }

    pub(super) fn start_with(scene: &str, size: u32, transport: Transport, more: &[(&str, &str)]) -> Job {
        Job::start_by(scene, size, transport, more, |_| Command::new(std::env::current_exe().unwrap()))
    }

    pub(super) fn start_by(
        scene: &str,
        size: u32,
        transport: Transport,
        more: &[(&str, &str)],
        command: impl Fn(u32) -> Command,
    ) -> Job {
        let random = u128::from_be_bytes(c10d_core::process::random().unwrap());
        let dir = std::env::temp_dir().join(format!("c10d-mesh-{random:032x}"));
        std::fs::create_dir(&dir).unwrap();
        let mut job = Job { ranks: Vec::new(), store: Files(dir) };
        for rank in 0..size {
            let child = command(rank)
                .args(["mesh::tests::processes::rank", "--exact", "--nocapture"])
                .envs([(SCENE, scene), (RANK, &rank.to_string()), (SIZE, &size.to_string()), (WAY, transport.name())])
                .env(DIR, &job.store.0)
                .envs(more.iter().copied())
                .stdout(Stdio::null())
                .spawn()
                .unwrap();
            job.ranks.push(child);
        }
        job
    }

    /// Waits until all ranks have set this key, and returns the values.
    pub(super) fn await_all(&mut self, name: &str) -> Vec<String> {
        let ranks: Vec<u32> = (0..self.ranks.len() as u32).collect();
        self.await_ranks(name, &ranks)
    }

    pub(super) fn await_ranks(&mut self, name: &str, ranks: &[u32]) -> Vec<String> {
        ranks
            .iter()
            .map(|rank| {
                let key = format!("{name}/{rank}");
                eventually(&key, || self.store.check(&[&key], Instant::now()).unwrap());
                String::from_utf8(self.store.get(&key, Instant::now()).unwrap()).unwrap()
            })
            .collect()
    }

    pub(super) fn signal(&self, rank: usize, signal: Signal) {
        kill_process(Pid::from_child(&self.ranks[rank]), signal).unwrap();
    }

    pub(super) fn set(&self, key: &str) {
        self.store.set(key, b"", Instant::now()).unwrap();
    }
}

/// A rank, in its own process.
pub(super) struct RankProcess {
    pub(super) rank: u32,
    size: u32,
    store: Arc<Files>,
    transport: Transport,
}

impl RankProcess {
    pub(super) fn wiring(&self) -> Wiring {
        wiring(self.rank, self.size, self.store.clone(), self.transport)
    }

    pub(super) fn mesh(&self) -> Result<Mesh> {
        Mesh::connect(self.wiring())
    }

    pub(super) fn tell(&self, name: &str, value: &str) {
        self.store.set(&format!("{name}/{}", self.rank), value.as_bytes(), deadline_after(CAP)).unwrap();
    }

    pub(super) fn await_key(&self, key: &str) {
        self.store.wait(&[key], deadline_after(CAP)).unwrap();
    }

    /// Reports an error as kind, named ranks, everything else.
    pub(super) fn report(&self, error: &Error) {
        let guilty: Vec<String> = error.report().guilty.iter().map(u32::to_string).collect();
        self.tell("result", &format!("{} [{}] {error}", error.kind().name(), guilty.join(" ")));
    }
}

/// Runs a rank, in a process that a test below has started for it. In other processes, does nothing.
#[test]
fn rank() {
    let Ok(scene) = std::env::var(SCENE) else { return };
    let var = |name| std::env::var(name).unwrap();
    let me = RankProcess {
        rank: var(RANK).parse().unwrap(),
        size: var(SIZE).parse().unwrap(),
        store: Arc::new(Files(PathBuf::from(var(DIR)))),
        transport: Transport::from_name(&var(WAY)).unwrap(),
    };
    match scene.as_str() {
        "talk" => talks(&me),
        "lacks" => lacks_descriptors(&me),
        "killed" => is_killed(&me),
        "stopped" => is_stopped(&me),
        "asked often" => hosts::is_asked_often(&me),
        "leaves" => leaves(&me),
        "differs" => differs(&me),
        scene => forks::run_scene(scene, &me),
    }
    if scene != "leaves" || me.rank != 2 {
        // The other ranks may still ask this rank, so its process must live until the test allows its end.
        me.await_key("end");
    }
}

pub(super) const TRANSPORTS: [Transport; 2] = [Transport::Shm, Transport::Tcp];

/// Limits the size of files on the selected rank, so that it cannot make a segment.
pub(super) fn limit(me: &RankProcess) {
    let limited = std::env::var(LIMITED).is_ok_and(|r| r == me.rank.to_string());
    if limited {
        // Less than the size of a segment, and more than the store writes.
        setrlimit(Resource::Fsize, Rlimit { current: Some(64 << 10), maximum: Some(64 << 10) }).unwrap();
    }
}

fn talks(me: &RankProcess) {
    limit(me);
    match me.mesh() {
        Err(error) => me.report(&error),
        Ok(mut mesh) => {
            talk(&mut mesh, me.rank);
            me.tell("result", &format!("{:?}", mesh.topology));
        }
    }
}

#[test]
fn processes_talk() {
    for transport in [Transport::Auto, Transport::Shm, Transport::Tcp] {
        let mut job = Job::start("talk", 3, transport);
        let topologies = job.await_all("result");
        assert!(topologies.iter().all(|t| *t == topologies[0] && t.starts_with("Topology")), "{topologies:?}");
        job.set("end");
    }
}

/// Runs three ranks, of which rank 1 cannot make a segment. Returns the result of each rank.
fn limited(transport: Transport) -> Vec<String> {
    let mut job = Job::start_with("talk", 3, transport, &[(LIMITED, "1")]);
    let results = job.await_all("result");
    job.set("end");
    results
}

#[test]
fn without_a_segment_a_rank_uses_tcp() {
    let topologies = limited(Transport::Auto);
    assert!(topologies.iter().all(|t| *t == topologies[0] && t.starts_with("Topology")), "{topologies:?}");
    // Only ranks 0 and 2 share memory.
    assert!(topologies[0].contains("shm: [[4], [0], [1]]"), "{}", topologies[0]);
}

#[test]
fn without_a_segment_the_transport_shm_is_an_error() {
    let errors = limited(Transport::Shm);
    for (rank, error) in errors.iter().enumerate() {
        let named: &[&str] = if rank == 1 { &["Resource []"] } else { &["Rendezvous [1]", "Resource [1]"] };
        assert!(named.iter().any(|n| error.starts_with(n)), "rank {rank}: {error}");
    }
}

/// Joins, with few descriptors left on rank 1. Reports the topology or the error.
fn lacks_descriptors(me: &RankProcess) {
    let limit = getrlimit(Resource::Nofile);
    if me.rank == 1 {
        let more: u64 = std::env::var(SPARE).unwrap().parse().unwrap();
        // The count includes the directory's descriptor.
        let open = std::fs::read_dir("/proc/self/fd").unwrap().count() as u64 - 1;
        setrlimit(Resource::Nofile, Rlimit { current: Some(open + more), ..limit }).unwrap();
    }
    let deadline = deadline_after(Duration::from_secs(2));
    let joined = Mesh::connect(Wiring { deadline, ..wiring(me.rank, me.size, me.store.clone(), me.transport) });
    setrlimit(Resource::Nofile, limit).unwrap();
    match joined {
        Err(error) => me.report(&error),
        Ok(mesh) => me.tell("result", &format!("{:?}", mesh.topology)),
    }
}

#[test]
fn without_descriptors_a_join_works_or_ends_in_an_error() {
    for (transport, spare) in [(Transport::Auto, 1), (Transport::Auto, 7), (Transport::Auto, 30), (Transport::Tcp, 5)] {
        let spare = spare.to_string();
        let mut job = Job::start_with("lacks", 3, transport, &[(SPARE, &spare)]);
        let results = job.await_all("result");
        println!("{} with {spare} descriptors left: {}", transport.name(), results[1]);
        let joined = results.iter().filter(|r| r.starts_with("Topology")).count();
        assert!(joined == 3 || (joined == 0 && spare != "30"), "{results:?}");
        job.set("end");
    }
}

/// A rank of the test that kills rank 2 while all ranks are in a call.
fn is_killed(me: &RankProcess) {
    let mesh = me.mesh().unwrap();
    mesh.health.announce(&call(0, 1)).unwrap();
    me.tell("ready", "");
    waits_for_a_failure(me, &mesh);
}

/// Waits until the group has failed. Reports the time and the cause.
pub(super) fn waits_for_a_failure(me: &RankProcess, mesh: &Mesh) {
    eventually("a failure", || mesh.health.failed());
    me.tell("at", &microseconds().to_string());
    me.report(&mesh.health.cause().unwrap());
}

/// The time in microseconds, from a clock that all processes share.
pub(super) fn microseconds() -> u128 {
    std::time::UNIX_EPOCH.elapsed().unwrap().as_micros()
}

#[test]
fn a_killed_rank_is_named_by_all_survivors() {
    for transport in TRANSPORTS {
        let mut job = Job::start("killed", 4, transport);
        job.await_all("ready");
        let killed = microseconds();
        job.signal(2, Signal::KILL);
        for result in job.await_ranks("result", &[0, 1, 3]) {
            assert!(result.starts_with("PeerDead [2]"), "{result}");
        }
        let since = |at: String| at.parse::<u128>().unwrap().saturating_sub(killed);
        let times: Vec<u128> = job.await_ranks("at", &[0, 1, 3]).into_iter().map(since).collect();
        println!("{}: known after {times:?} us", transport.name());
        job.set("end");
    }
}

/// A rank of the test that stops rank 2 while all ranks are in a call.
fn is_stopped(me: &RankProcess) {
    let mesh = me.mesh().unwrap();
    let fingerprint = call(0, 1);
    mesh.health.announce(&fingerprint).unwrap();
    me.tell("ready", "");
    if me.rank == 2 {
        eventually("the failure", || mesh.health.failed());
        return me.report(&mesh.health.cause().unwrap());
    }
    me.await_key("stopped");
    // Like a waiting rank, this rank asks its peers until the deadline.
    for _ in 0..12 {
        mesh.health.stalled(&fingerprint);
        std::thread::sleep(Duration::from_millis(50));
    }
    // Each rank waits for the next rank.
    me.report(&mesh.health.timeout(&fingerprint, &[(me.rank + 1) % me.size]));
}

#[test]
fn a_stopped_rank_is_named_by_all_and_learns_of_it() {
    for transport in TRANSPORTS {
        let mut job = Job::start("stopped", 4, transport);
        job.await_all("ready");
        job.signal(2, Signal::STOP);
        let stat = format!("/proc/{}/stat", job.ranks[2].id());
        eventually("the stop", || std::fs::read_to_string(&stat).unwrap().contains(") T "));
        job.set("stopped");
        for result in job.await_ranks("result", &[0, 1, 3]) {
            assert!(result.starts_with("Timeout [2]"), "{result}");
            assert!(result.contains("rank 2 is stopped or unreachable"), "{result}");
        }
        job.signal(2, Signal::CONT);
        let result = &job.await_ranks("result", &[2])[0];
        assert!(result.starts_with("Timeout [") && !result.starts_with("Timeout [2]"), "{result}");
        assert!(result.contains("gave up waiting for this rank"), "{result}");
        job.set("end");
    }
}

fn leaves(me: &RankProcess) {
    let mesh = me.mesh().unwrap();
    mesh.health.announce(&call(0, 1)).unwrap();
    mesh.health.finish();
    if me.rank == 2 {
        // The drop of the mesh sends the goodbye, then the process ends.
        return;
    }
    eventually("the goodbye", || mesh.health.has_left(2, CAP));
    // A false failure would show by then.
    std::thread::sleep(Duration::from_millis(100));
    assert!(!mesh.health.failed(), "{:?}", mesh.health.cause());
    me.tell("fine", "");
    me.await_key("go");
    me.report(&mesh.health.announce(&call(1, 1)).unwrap_err());
}

#[test]
fn a_rank_that_left_fails_only_calls_that_need_it() {
    for transport in TRANSPORTS {
        let mut job = Job::start("leaves", 4, transport);
        job.await_ranks("fine", &[0, 1, 3]);
        job.set("go");
        for result in job.await_ranks("result", &[0, 1, 3]) {
            assert!(result.starts_with("PeerDead [2]") && result.contains("left the group after seq 0"), "{result}");
        }
        job.set("end");
    }
}

fn differs(me: &RankProcess) {
    let mesh = me.mesh().unwrap();
    if me.rank == 3 {
        // This rank makes its call after it has received a report of the mismatch. The group fails on this rank when
        // its call shows with which rank it agrees.
        eventually("the report of the mismatch", || mesh.health.disputed());
        assert!(!mesh.health.failed());
    }
    let fingerprint = call(0, if me.rank == 1 { 2 } else { 1 });
    let begun = mesh.health.announce(&fingerprint);
    eventually("the mismatch", || {
        mesh.health.stalled(&fingerprint);
        mesh.health.failed()
    });
    assert!(me.rank != 3 || begun.is_err());
    me.report(&mesh.health.cause().unwrap());
}

#[test]
fn a_different_call_is_named_by_all() {
    for transport in TRANSPORTS {
        let mut job = Job::start("differs", 4, transport);
        for (rank, result) in job.await_all("result").iter().enumerate() {
            if rank == 1 {
                assert!(result.contains("count is 2 here, 1 there"), "{result}");
            } else {
                assert!(result.starts_with("Mismatch [1]"), "rank {rank}: {result}");
                assert!(result.contains("count is 1 here, 2 there"), "{result}");
            }
        }
        job.set("end");
    }
}
