//! Tests with ranks that have forked. The end of a rank is detected even if a child has copies of its sockets.
#![allow(unsafe_code)]

use super::hosts::two_hosts;
use super::processes::*;
use super::*;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use std::process::Command;

/// Runs a rank in one of the scenes of this file.
pub(super) fn run_scene(scene: &str, me: &RankProcess) {
    match scene {
        "forked" => has_forked(me, false),
        "cloned" => has_forked(me, true),
        scene => panic!("no scene {scene}"),
    }
}

/// Forks a child that sleeps for 30 s. With `bare`, no fork handlers of the C library run.
fn idle_child(bare: bool) -> i32 {
    // SAFETY: the child calls only functions that are allowed after a fork of a process with threads (`sleep`,
    // `_exit`).
    let pid =
        unsafe { if bare { libc::syscall(libc::SYS_clone, libc::SIGCHLD, 0, 0, 0, 0) as i32 } else { libc::fork() } };
    if pid == 0 {
        // SAFETY: both functions take a number, and no memory is involved.
        unsafe {
            libc::sleep(30);
            libc::_exit(0);
        }
    }
    assert!(pid > 0);
    pid
}

fn has_forked(me: &RankProcess, bare: bool) {
    limit(me);
    let mesh = me.mesh().unwrap();
    mesh.health.announce(&call(0, 1)).unwrap();
    let child = if me.rank == 2 { idle_child(bare).to_string() } else { String::new() };
    me.tell("ready", &child);
    waits_for_a_failure(me, &mesh);
}

/// Kills rank 2, and checks that all others name it while its child lives.
fn is_named_while_its_child_lives(mut job: Job, what: &str) {
    let child = job.await_all("ready")[2].parse().ok().and_then(Pid::from_raw).unwrap();
    let killed = microseconds();
    job.signal(2, Signal::KILL);
    let results = job.await_ranks("result", &[0, 1, 3]);
    let lives = test_kill_process(child);
    kill_process(child, Signal::KILL).unwrap();
    let since = |at: String| at.parse::<u128>().unwrap().saturating_sub(killed);
    let times: Vec<u128> = job.await_ranks("at", &[0, 1, 3]).into_iter().map(since).collect();
    println!("{what}: known after {times:?} us: {results:?}");
    assert!(results.iter().all(|r| r.starts_with("PeerDead [2]")), "{what}: {results:?}");
    assert_eq!(lives, Ok(()), "{what}: the child must still live when the ranks name its parent");
    job.set("end");
}

#[test]
fn a_killed_rank_is_named_while_its_child_lives() {
    for scene in ["forked", "cloned"] {
        for transport in TRANSPORTS {
            is_named_while_its_child_lives(Job::start(scene, 4, transport), &format!("{scene}, {}", transport.name()));
        }
        // The pairs of rank 2 use TCP, all other pairs use shared memory.
        let mixed = Job::start_with(scene, 4, Transport::Auto, &[(LIMITED, "2")]);
        is_named_while_its_child_lives(mixed, &format!("{scene}, mixed"));
    }
}

#[test]
fn a_killed_rank_is_named_by_other_hosts_while_its_child_lives() {
    let hosts = match two_hosts() {
        Ok(hosts) => hosts,
        Err(why) => return println!("skipped: no network namespaces here: {}", why.trim()),
    };
    let job = Job::start_by("forked", 4, Transport::Auto, &[], |rank| {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &hosts.0[rank as usize % 2]]).arg(std::env::current_exe().unwrap());
        command
    });
    is_named_while_its_child_lives(job, "two hosts");
}

/// Another user gets no byte and no descriptor, as dialler or listener.
#[test]
fn another_user_is_turned_away_at_both_ends() {
    const OTHER: libc::uid_t = 65534;
    let stop = || false;
    let patience = socket::Patience { deadline: deadline_after(CAP), stop: &stop };
    let name = |end: &str| format!("c10d-test-{end}-{}", std::process::id());
    // Unlike the C function, the system call changes the user of this thread only.
    //
    // SAFETY: the arguments are numbers.
    let become_other = || unsafe { libc::syscall(libc::SYS_setresuid, -1, OTHER, -1) } == 0;
    let run = |f: &(dyn Fn() -> bool + Sync)| std::thread::scope(|s| s.spawn(|| become_other() && f()).join().unwrap());
    if !run(&|| true) {
        return println!("skipped: only root may act as another user");
    }
    // Another user listens with a rank's name.
    let (ours, theirs) = (name("ours"), name("theirs"));
    let held = c10d_core::sync::Mutex::new(None);
    assert!(run(&|| held.lock().insert(socket::listen_unix(&theirs)).is_ok()));
    match socket::dial_unix(&theirs, &patience) {
        Err(socket::Trouble::Stranger(OTHER)) => {}
        other => panic!("{other:?}"),
    }
    // Another user dials: the listener closes the connection without an answer.
    let mut listener = JoinListener::new(Some(socket::listen_unix(&ours).unwrap()), Vec::new());
    std::thread::scope(|s| {
        s.spawn(|| {
            let soon = || Instant::now() + Duration::from_millis(300);
            let patience = socket::Patience { deadline: soon(), stop: &stop };
            assert!(matches!(listener.next(&patience, |_| None), Ok(None)));
        });
        assert!(run(&|| {
            use std::io::Read;
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&ours).unwrap();
            let mut stream = std::os::unix::net::UnixStream::connect_addr(&address).unwrap();
            let hello = handshake::Handshake {
                purpose: handshake::Purpose::Control,
                session: [0; 16],
                group: 0,
                from: 1,
                to: 0,
            };
            let _ = std::io::Write::write_all(&mut stream, &hello.to_bytes());
            stream.set_read_timeout(Some(CAP)).unwrap();
            matches!(stream.read(&mut [0; 8]), Ok(0)) || matches!(stream.read(&mut [0; 8]), Ok(0))
        }));
    });
}
