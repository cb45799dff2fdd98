//! `c10d run`, as a user sees it.

use crate::common;

use std::net::SocketAddr;

use common::{is_running, run, start, until};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

#[test]
fn ranks_know_who_they_are_and_output_has_the_rank_in_front() {
    let script = "echo rank $RANK of $WORLD_SIZE, local $LOCAL_RANK, at $MASTER_ADDR:$MASTER_PORT; echo to stderr >&2";
    let ended = run(&["run", "-n", "3", "--", "sh", "-c", script]);
    assert!(ended.status.success(), "{}", ended.stderr);
    for rank in 0..3 {
        let line = format!("[{rank}] rank {rank} of 3, local {rank}, at ");
        assert!(ended.stdout.lines().any(|l| l.starts_with(&line) && !l.ends_with(':')), "{}", ended.stdout);
        assert!(ended.stderr.lines().any(|l| l == format!("[{rank}] to stderr")), "{}", ended.stderr);
    }
}

#[test]
fn the_first_failing_rank_gives_the_exit_code_and_its_last_words() {
    let script = "if [ $RANK = 1 ]; then echo first >&2; echo the disk is full >&2; exit 7; fi; sleep 100";
    let ended = run(&["run", "-n", "3", "--", "sh", "-c", script]);
    assert_eq!(ended.status.code(), Some(7));
    let report = ended.stderr.split("c10d run: ").nth(1).unwrap();
    assert!(report.starts_with("rank 1 exited with code 7"), "{report}");
    assert!(report.contains("the disk is full"), "{report}");
}

#[test]
fn a_rank_killed_by_a_signal_is_named_with_it() {
    let ended = run(&["run", "-n", "2", "--", "sh", "-c", "[ $RANK = 0 ] && kill -9 $$; sleep 100"]);
    assert_eq!(ended.status.code(), Some(128 + 9));
    assert!(ended.stderr.contains("rank 0 was killed by signal 9 (SIGKILL)"), "{}", ended.stderr);
}

#[test]
fn signals_are_passed_on() {
    let script = "trap 'echo heard it; exit 3' TERM; echo ready; while :; do sleep 0.05; done";
    let mut running = start(&["run", "-n", "2", "--", "sh", "-c", script]);
    let mut ready = [running.line(), running.line()];
    ready.sort();
    assert_eq!(ready, ["[0] ready", "[1] ready"]);
    running.signal(Signal::TERM);
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(128 + 15), "{}", ended.stderr);
    for rank in 0..2 {
        assert!(ended.stdout.contains(&format!("[{rank}] heard it")), "{}", ended.stdout);
    }
}

#[test]
fn nothing_outlives_a_killed_launcher() {
    let script = "sleep 1000 & echo $$ $!; wait";
    let mut running = start(&["run", "-n", "2", "--", "sh", "-c", script]);
    let lines = [running.line(), running.line()].join(" ");
    let pids: Vec<u32> = lines.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert_eq!(pids.len(), 4, "{lines}");
    assert!(pids.iter().all(|pid| is_running(*pid)));
    running.signal(Signal::KILL);
    until("all processes are gone", || !pids.iter().any(|pid| is_running(*pid)));
}

#[test]
fn a_program_that_cannot_run_is_named() {
    for program in ["no-such-program", "./no/such/file", "/etc/passwd"] {
        let ended = run(&["run", "-n", "2", "--", program, "--flag"]);
        assert_eq!(ended.status.code(), Some(1));
        assert!(ended.stderr.contains(program), "{}", ended.stderr);
    }
}

#[test]
fn several_hosts_meet_at_the_rendezvous() {
    // Bound, not listening, and willing to share: nobody else is given the port, and the server can have it.
    let reserved = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    reserved.set_reuse_address(true).unwrap();
    reserved.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    let place = reserved.local_addr().unwrap().as_socket().unwrap().to_string();
    let host = |node: &str| {
        start(&[
            "run",
            "-n",
            "2",
            "--nnodes",
            "2",
            "--node-rank",
            node,
            "--rdzv",
            &place,
            "--",
            "sh",
            "-c",
            "echo $RANK/$WORLD_SIZE",
        ])
    };
    let (first, second) = (host("0"), host("1"));
    let (first, second) = (first.end(), second.end());
    assert!(first.status.success() && second.status.success(), "{}{}", first.stderr, second.stderr);
    let mut lines: Vec<&str> = first.stdout.lines().chain(second.stdout.lines()).collect();
    lines.sort_unstable();
    assert_eq!(lines, ["[0] 0/4", "[1] 1/4", "[2] 2/4", "[3] 3/4"]);
}
