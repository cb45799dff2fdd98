//! Network namespaces as hosts.

use super::processes::Job;
use super::*;
use std::process::Command;

/// Two network namespaces with a cable between them; both end with it.
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
    let id = std::process::id();
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
