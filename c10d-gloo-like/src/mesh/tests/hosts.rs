//! Tests in which each network namespace acts as a host.

use super::processes::{Job, RankProcess};
use super::*;
use rustix::process::Signal;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// Two network namespaces with a link between them. Dropping this removes the namespaces.
pub(super) struct TwoHosts(pub(super) [String; 2]);

impl Drop for TwoHosts {
    fn drop(&mut self) {
        self.0.iter().for_each(|name| drop(ip(&["netns", "del", name])));
    }
}

fn ip(args: &[&str]) -> std::result::Result<(), String> {
    let out = Command::new("ip").args(args).output().map_err(|e| format!("no program ip: {e}"))?;
    if out.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&out.stderr).into_owned()) }
}

pub(super) fn two_hosts() -> std::result::Result<TwoHosts, String> {
    // Tests run at the same time, so each call needs its own names.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let hosts = TwoHosts([format!("c10dA{id}"), format!("c10dB{id}")]);
    let [a, b] = &hosts.0;
    ip(&["netns", "add", a])?;
    ip(&["netns", "add", b])?;
    ip(&["link", "add", "east", "netns", a, "type", "veth", "peer", "name", "west", "netns", b])?;
    for (host, link, address) in [(a, "east", "10.77.0.1/24"), (b, "west", "10.77.0.2/24")] {
        ip(&["-n", host, "addr", "add", address, "dev", link])?;
        ip(&["-n", host, "link", "set", link, "up"])?;
        ip(&["-n", host, "link", "set", "lo", "up"])?;
    }
    Ok(hosts)
}

#[test]
fn network_namespaces_are_hosts() {
    let hosts = match two_hosts() {
        Ok(hosts) => hosts,
        Err(why) => return println!("skipped: no network namespaces here: {}", why.trim()),
    };
    let mut job = Job::start_by("talk", 4, Transport::Auto, &[], |rank| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &hosts.0[rank as usize % 2]]).arg(std::env::current_exe().unwrap());
        command
    });
    for topology in job.await_all("result") {
        assert_eq!(topology, "Topology { hosts: [0, 1, 0, 1], shm: [[4], [8], [1], [2]] }");
    }
    job.set("end");
}

/// Runs a rank of the scene in which rank 0 asks the stopped rank 1 more questions than rank 1's receive buffer can
/// hold.
pub(super) fn is_asked_often(me: &RankProcess) {
    let silence = Duration::from_secs(1);
    let mesh = Mesh::connect(Wiring { silence, ..me.wiring() }).unwrap();
    let fingerprint = call(0, 1);
    mesh.health.announce(&fingerprint).unwrap();
    me.tell("ready", "");
    if me.rank == 1 {
        eventually("the failure", || mesh.health.failed());
        return me.report(&mesh.health.cause().unwrap());
    }
    me.await_key("stopped");
    for _ in 0..1_000_000 {
        mesh.health.stalled(&fingerprint);
    }
    // After `silence`, a rank counts as dead if the operating system of its host has not answered.
    std::thread::sleep(2 * silence);
    me.report(&mesh.health.timeout(&fingerprint, &[1]));
}

/// Rank 1 is stopped and its receive buffer is full, so its operating system accepts no more data from rank 0.
#[test]
fn a_stopped_rank_is_not_dead_however_often_it_is_asked() {
    let hosts = match two_hosts() {
        Ok(hosts) => hosts,
        Err(why) => return println!("skipped: no network namespaces here: {}", why.trim()),
    };
    let mut job = Job::start_by("asked often", 2, Transport::Tcp, &[], |rank| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &hosts.0[rank as usize]]).arg(std::env::current_exe().unwrap());
        command
    });
    job.await_all("ready");
    job.signal(1, Signal::STOP);
    let stat = format!("/proc/{}/stat", job.ranks[1].id());
    eventually("the stop", || std::fs::read_to_string(&stat).unwrap().contains(") T "));
    job.set("stopped");
    let result = &job.await_ranks("result", &[0])[0];
    assert!(result.starts_with("Timeout [1]"), "{result}");
    job.signal(1, Signal::CONT);
    let result = &job.await_ranks("result", &[1])[0];
    assert!(result.contains("gave up waiting for this rank"), "{result}");
    job.set("end");
}
