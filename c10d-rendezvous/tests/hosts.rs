//! Tests of the launchers of several hosts. The launchers run one job and end together. Clients outside the job cannot
//! end the launchers.

use crate::common;
use crate::launch::{HANG, gone, mark, sh, text};

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_rendezvous::launch::{JobReport, Launch};
use common::{ServerProcess, client, free_port, plays, role, soon};
use rustix::process::{Pid, Signal, kill_process};

fn place() -> String {
    format!("127.0.0.1:{}", free_port("127.0.0.1").unwrap())
}

/// Runs these launches at the same time, each as the launcher of one host. Returns their reports.
fn hosts(launches: Vec<Launch>) -> Vec<c10d_core::Result<JobReport>> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = launches.into_iter().map(|launch| scope.spawn(move || launch.run())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

#[test]
fn several_hosts_are_one_job() {
    let rdzv = place();
    let host = |node| {
        sh("echo $RANK $LOCAL_RANK $WORLD_SIZE $GROUP_RANK $TORCHELASTIC_RUN_ID").ranks(2).nnodes(2).node_rank(node)
    };
    let reports = hosts((0..2).map(|node| host(node).rdzv(&rdzv)).collect());
    let reports: Vec<_> = reports.into_iter().map(|report| report.unwrap().ok().unwrap()).collect();
    let id = text(&reports[0], 0).split_whitespace().last().unwrap().to_owned();
    for (node, report) in reports.iter().enumerate() {
        for local in 0..2 {
            assert_eq!(text(report, local).trim(), format!("{} {local} 4 {node} {id}", node * 2 + local));
        }
    }
}

#[test]
fn a_failure_on_one_host_ends_the_others() {
    let rdzv = place();
    let mark = mark();
    let script = format!("if [ $RANK = 3 ]; then exit 9; fi; sleep {mark}");
    let start = Instant::now();
    let reports = hosts((0..2).map(|node| sh(&script).ranks(2).nnodes(2).node_rank(node).rdzv(&rdzv)).collect());
    assert!(start.elapsed() < Duration::from_secs(20));
    let [here, there] = [reports[1].as_ref().unwrap(), reports[0].as_ref().unwrap()];
    assert_eq!((here.failure.as_ref().unwrap().exit.rank, here.exit_code()), (3, 9));
    assert!(there.failure.is_none() && there.exit_code() == 1);
    assert!(there.elsewhere.as_ref().unwrap().contains("rank 3 exited with code 9"), "{:?}", there.elsewhere);
    gone(&mark);
}

#[test]
fn hosts_that_disagree_or_are_missing_are_named() {
    let rdzv = place();
    let host = |node, ranks| sh("exit 0").ranks(ranks).nnodes(2).node_rank(node).rdzv(&rdzv);
    let reports = hosts(vec![host(0, 2), host(1, 3)]);
    for report in reports {
        let error = report.err().unwrap().to_string();
        assert!(error.contains("2 ranks") && error.contains("3 on each") || error.contains("3 ranks"), "{error}");
    }
    let rdzv = place();
    let alone = sh("exit 0").nnodes(3).rdzv(&rdzv).join_timeout(Duration::from_millis(300));
    let error = alone.run().unwrap_err().to_string();
    assert!(error.contains("[1, 2] of 3"), "{error}");
    let rdzv = place();
    let lost = sh("exit 0").nnodes(2).node_rank(1).rdzv(&rdzv).join_timeout(Duration::from_millis(300));
    assert!(lost.run().unwrap_err().to_string().contains(&rdzv));
}

#[test]
fn a_store_that_ends_while_hosts_meet_is_named() {
    let server = ServerProcess::start();
    let watcher = client(server.addr);
    let join = |node| sh("exit 0").nnodes(3).node_rank(node).rdzv(server.addr.to_string());
    let error = std::thread::scope(|scope| {
        let launch = join(1);
        let launcher = scope.spawn(move || launch.run());
        watcher.set("c10d-launch/link", b"1 x", soon()).unwrap();
        watcher.wait(&["c10d-launch/host/1"], soon()).unwrap();
        server.signal(Signal::KILL);
        launcher.join().unwrap().unwrap_err()
    });
    assert_eq!(*error.kind(), c10d_core::ErrorKind::Store, "{error}");
    assert!(error.to_string().contains(&server.addr.port().to_string()), "{error}");
}

/// Returns a script that waits for a file, and the path of the file.
fn until_flag(mark: &str) -> (String, std::path::PathBuf) {
    let flag = std::env::temp_dir().join(format!("c10d-hosts-{mark}"));
    (format!("while [ ! -e {} ]; do sleep 0.01; done", flag.display()), flag)
}

#[test]
fn strangers_do_not_end_a_job() {
    let (rdzv, mark) = (place(), mark());
    let (wait, flag) = until_flag(&mark);
    let host = |node| sh(&format!("echo $$ > {}.{node}; {wait}", flag.display())).nnodes(2).node_rank(node).rdzv(&rdzv);
    let jobs = [host(0), host(1)];
    let started = [0, 1].map(|node| format!("{}.{node}", flag.display()));
    let reports = std::thread::scope(|scope| {
        let reports = scope.spawn(|| hosts(jobs.into()));
        while !started.iter().all(|file| std::path::Path::new(file).exists()) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let stranger = client(rdzv.parse().unwrap());
        for key in ["failed", "failed/0", "failed/1", "done/0", "done/1", "host/0", "host/1", "link", "run"] {
            stranger.set(&format!("c10d-launch/{key}"), b"\x1b]0;owned\x07 rank 1 died", soon()).unwrap();
        }
        // A launcher that read these keys as messages of its peer would have ended its ranks within this time.
        std::thread::sleep(Duration::from_millis(500));
        std::fs::write(&flag, "").unwrap();
        reports.join().unwrap()
    });
    for report in reports {
        let report = report.unwrap();
        assert_eq!((report.exit_code(), report.elsewhere), (0, None));
    }
    started.iter().for_each(|file| std::fs::remove_file(file).unwrap());
    std::fs::remove_file(flag).unwrap();
}

/// Runs, in a separate process, the launcher of host `C10D_TEST_NODE` of two hosts with two ranks each. The last line
/// that it prints is its result.
#[test]
fn role_host() {
    if plays("role_host") {
        println!();
        let var = |name: &str| std::env::var(name).unwrap();
        let node = var("C10D_TEST_NODE").parse().unwrap();
        let launch = Launch::new("/bin/sh", ["-c", &var("C10D_TEST_SCRIPT")]).ranks(2).nnodes(2).node_rank(node);
        let report = launch.rdzv(var("C10D_TEST_RDZV")).run().unwrap();
        println!("told: {}", report.elsewhere.as_deref().unwrap_or("nothing"));
        std::process::exit(report.exit_code());
    }
}

/// Starts two launchers, and waits until each of their ranks has printed a line `ready`.
fn two_hosts(script: &str) -> [(Child, BufReader<std::process::ChildStdout>); 2] {
    let rdzv = place();
    let children = [0, 1].map(|node| {
        let mut command = role("role_host");
        command.env("C10D_TEST_NODE", node.to_string()).env("C10D_TEST_RDZV", &rdzv).env("C10D_TEST_SCRIPT", script);
        command.stdout(Stdio::piped()).spawn().unwrap()
    });
    children.map(|mut child| {
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut line, mut said) = (String::new(), 0);
        while said < 2 {
            line.clear();
            assert!(out.read_line(&mut line).unwrap() > 0, "the launcher ended");
            said += usize::from(line.contains("ready"));
        }
        (child, out)
    })
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

#[test]
fn a_launcher_that_dies_is_noticed_by_the_others() {
    for dead in [0, 1] {
        let mark = mark();
        let hosts = two_hosts(&format!("echo ready; sleep {mark}"));
        let start = Instant::now();
        signal(&hosts[dead].0, Signal::KILL);
        let mut pair = hosts.into_iter();
        let (first, second) = (pair.next().unwrap(), pair.next().unwrap());
        let (mut victim, mut other) = if dead == 0 { (first, second) } else { (second, first) };
        let mut told = String::new();
        other.1.read_to_string(&mut told).unwrap();
        assert!(told.contains(&format!("told: the launcher on host {dead} ended")), "{told}");
        assert_eq!(other.0.wait().unwrap().code(), Some(1));
        assert!(start.elapsed() < HANG);
        victim.0.wait().unwrap();
        gone(&mark);
    }
}

#[test]
fn a_launcher_that_stalls_ends_nobody() {
    // `C10D_TEST_STALL` may set a longer pause in seconds. However long a launcher pauses, it must not count as dead:
    // the operating system of its host still answers.
    let stall = std::env::var("C10D_TEST_STALL").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(0.5);
    for stalled in [0, 1] {
        let (wait, flag) = until_flag(&mark());
        let hosts = two_hosts(&format!("echo ready; {wait}; echo went on"));
        signal(&hosts[stalled].0, Signal::STOP);
        std::thread::sleep(Duration::from_secs_f64(stall));
        signal(&hosts[stalled].0, Signal::CONT);
        std::fs::write(&flag, "").unwrap();
        for (mut launcher, mut out) in hosts {
            let mut text = String::new();
            out.read_to_string(&mut text).unwrap();
            assert!(text.matches("went on").count() == 2 && text.contains("told: nothing"), "{text}");
            assert!(launcher.wait().unwrap().success());
        }
        std::fs::remove_file(flag).unwrap();
    }
}

#[test]
fn the_host_of_the_store_stays_until_the_others_are_done() {
    let host = |script: &str, rdzv: &str| -> Vec<Launch> {
        let part = |node| sh(script).nnodes(2).node_rank(node).rdzv(rdzv).join_timeout(Duration::from_millis(1500));
        (0..2).map(part).collect()
    };
    // The job runs longer than `join_timeout`, the time in which the launchers must find each other.
    for (script, codes) in [("[ $RANK = 0 ] || sleep 2", [0, 0]), ("[ $RANK = 0 ] || { sleep 0.5; exit 9; }", [1, 9])] {
        let reports = hosts(host(script, &place()));
        let found: Vec<i32> = reports.into_iter().map(|report| report.unwrap().exit_code()).collect();
        assert_eq!(found, codes, "{script}");
    }
}

#[test]
fn a_host_that_cannot_start_its_ranks_is_reported_to_the_others() {
    let (rdzv, mark) = (place(), mark());
    let on = |node, launch: Launch| launch.nnodes(2).node_rank(node).rdzv(&rdzv);
    let host = || sh(&format!("sleep {mark}"));
    let wrapped = host().per_rank_wrapper(|_| vec!["/no/such/wrapper".into()]);
    let absent = Launch::new("/no/such/program", [&mark]);
    for (broken, what) in [(wrapped, "/no/such/wrapper"), (absent, "/no/such/program")] {
        let mut reports = hosts(vec![on(0, host()), on(1, broken)]).into_iter();
        let (first, second) = (reports.next().unwrap().unwrap(), reports.next().unwrap());
        assert!(second.unwrap_err().to_string().contains(what));
        let told = first.elsewhere.as_deref().unwrap();
        assert!(told.contains(what) && told.contains("(host 1)"), "{told}");
        assert_eq!(first.exit_code(), 1);
    }
    gone(&mark);
}

#[test]
fn a_signal_to_one_launcher_ends_the_job() {
    let mark = mark();
    let [first, mut second] =
        two_hosts(&format!("trap 'exit 0' TERM; echo ready; while sleep 0.02; do :; done # {mark}"));
    signal(&first.0, Signal::TERM);
    let mut told = String::new();
    second.1.read_to_string(&mut told).unwrap();
    assert!(told.contains("ended by SIGTERM (host 0)"), "{told}");
    assert_eq!(second.0.wait().unwrap().code(), Some(1));
    let (mut first, _) = first;
    assert_eq!(first.wait().unwrap().code(), Some(0), "all of its ranks ended well");
    gone(&mark);
}
