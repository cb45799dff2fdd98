//! Tests of the launcher: the variables and output of ranks, and how ranks end.

use crate::common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use c10d_core::ErrorKind;
use c10d_rendezvous::init;
use c10d_rendezvous::launch::{JobReport, Launch, Output, Signal};
use common::{plays, role, role_args, soon};

/// If a wait takes longer than this, something hangs, and the test fails.
pub(crate) const HANG: Duration = Duration::from_secs(10);

pub(crate) fn sh(script: &str) -> Launch {
    Launch::new("/bin/sh", ["-c", script]).output(Output::Captured).timeout(Duration::from_secs(30))
}

pub(crate) fn text(report: &JobReport, rank: usize) -> String {
    String::from_utf8(report.output[rank].stdout.clone()).unwrap()
}

/// Returns all processes whose command line contains `mark`.
fn living(mark: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Ok(line) = std::fs::read(entry.path().join("cmdline")) else { continue };
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        if line.contains(mark) && !stat.contains(") Z ") {
            found.push(format!("{}: {line}", entry.file_name().display()));
        }
    }
    found
}

/// Waits until no process has `mark` in its command line.
pub(crate) fn gone(mark: &str) {
    let start = Instant::now();
    while !living(mark).is_empty() {
        assert!(start.elapsed() < HANG, "left behind: {:?}", living(mark));
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Returns a number that marks the processes of one test, as the argument of `sleep`.
pub(crate) fn mark() -> String {
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    format!("1000{}.{}", std::process::id(), NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed))
}

/// Starts more ranks than descriptors allow.
#[test]
fn role_poor_launcher() {
    if plays("role_poor_launcher") {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        setrlimit(Resource::Nofile, Rlimit { current: Some(60), ..getrlimit(Resource::Nofile) }).unwrap();
        let e = sh("sleep 20").ranks(100).run().unwrap_err();
        assert_eq!(*e.kind(), ErrorKind::Resource, "{e}");
        println!("\nrefused: {e}");
    }
}

#[test]
fn a_launcher_without_descriptors_says_so_and_ends_the_ranks_that_it_started() {
    let output = role("role_poor_launcher").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = text.lines().find(|line| line.starts_with("refused: ")).unwrap_or_default();
    assert!(line.contains("cannot start rank") && line.contains("the other ranks were ended"), "{text}");
    assert!(line.contains("no file descriptor left (limit 60"), "{text}");
}

#[test]
fn ranks_have_torchruns_variables() {
    let script = "echo $RANK $LOCAL_RANK $WORLD_SIZE $LOCAL_WORLD_SIZE $GROUP_RANK $GROUP_WORLD_SIZE $ROLE_RANK \
                  $ROLE_WORLD_SIZE $TORCHELASTIC_USE_AGENT_STORE $MASTER_ADDR $EXTRA $OWN; echo $MASTER_PORT \
                  $TORCHELASTIC_RUN_ID";
    let launch = || {
        let launch = sh(script).ranks(3).env("EXTRA", "e");
        launch.per_rank_env(|rank| vec![("OWN".into(), format!("own{rank}").into())]).run().unwrap().ok().unwrap()
    };
    let (one, other) = (launch(), launch());
    for rank in 0..3 {
        let line = format!("{rank} {rank} 3 3 0 1 {rank} 3 True 127.0.0.1 e own{rank}");
        assert_eq!(text(&one, rank).lines().next().unwrap(), line);
    }
    let id = |report: &JobReport, rank| text(report, rank).lines().nth(1).unwrap().to_owned();
    assert_eq!(id(&one, 0), id(&one, 2));
    assert_ne!(id(&one, 0).split(' ').nth(1), id(&other, 0).split(' ').nth(1), "each launch has its own id");
    assert_eq!(one.exit_code(), 0);
}

#[test]
fn role_meets() {
    if plays("role_meets") {
        let me = init("env://", Duration::from_secs(20)).unwrap();
        me.store.add("arrived", 1, soon()).unwrap();
        me.store.set(&format!("r{}", me.rank), b"", soon()).unwrap();
        me.store.wait(&["r0", "r1", "r2"], soon()).unwrap();
        println!("\nmet {}", me.size);
    }
}

#[test]
fn ranks_meet_through_the_launchers_store_in_two_jobs_at_once() {
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let launch = Launch::new(std::env::current_exe().unwrap(), role_args("role_meets"));
                let launch = launch.env("C10D_TEST_ROLE", "role_meets").ranks(3).output(Output::Captured);
                let report = launch.timeout(Duration::from_secs(30)).run().unwrap().ok().unwrap();
                assert!((0..3).all(|rank| text(&report, rank).contains("met 3")));
            });
        }
    });
}

#[test]
fn the_first_failure_is_reported_with_its_last_lines_and_ends_the_others() {
    let mark = mark();
    let script = format!("if [ $RANK = 1 ]; then echo one >&2; echo my last words >&2; exit 7; fi; sleep {mark}");
    let start = Instant::now();
    let report = sh(&script).ranks(3).run().unwrap();
    assert!(start.elapsed() < HANG);
    let failure = report.failure.as_ref().unwrap();
    assert_eq!((failure.exit.rank, failure.exit.code, report.exit_code()), (1, Some(7), 7));
    assert_eq!(failure.stderr, "one\nmy last words");
    assert!(failure.to_string().contains("rank 1 exited with code 7"), "{failure}");
    assert_eq!(report.exits.iter().filter(|exit| exit.signal == Some(15)).count(), 2);
    gone(&mark);
    let error = report.ok().unwrap_err();
    assert_eq!(error.report().guilty, [1]);
    assert_eq!(*error.kind(), ErrorKind::PeerDead { how: "exited with code 7".into() });
    assert!(error.to_string().contains("my last words"), "{error}");
}

#[test]
fn death_by_a_signal_is_reported() {
    let report = sh("if [ $RANK = 0 ]; then kill -SEGV $$; fi; sleep 1000").ranks(2).run().unwrap();
    let failure = report.failure.as_ref().unwrap();
    assert_eq!((failure.exit.rank, failure.exit.signal, report.exit_code()), (0, Some(11), 139));
    assert!(failure.to_string().contains("signal 11 (SIGSEGV)"), "{failure}");
}

#[test]
fn a_rank_that_ignores_sigterm_is_killed_after_the_grace_time() {
    let mark = mark();
    let flag = std::env::temp_dir().join(format!("c10d-launch-{mark}"));
    // Rank 1 fails only after rank 0 has begun to ignore SIGTERM.
    let script = format!(
        "if [ $RANK = 1 ]; then while [ ! -e $FLAG ]; do sleep 0.01; done; exit 3; fi; trap '' TERM; : > $FLAG; \
         while :; do sleep {mark}; done"
    );
    let report = sh(&script).env("FLAG", &flag).ranks(2).grace(Duration::from_millis(100)).run().unwrap();
    std::fs::remove_file(flag).unwrap();
    assert_eq!(report.exits[0].signal, Some(9));
    assert_eq!(report.exit_code(), 3);
    gone(&mark);
}

#[test]
fn children_of_ranks_end_with_the_job() {
    let mark = mark();
    let report = sh(&format!("sleep {mark} & exit 0")).ranks(2).run().unwrap();
    assert_eq!(report.exit_code(), 0);
    gone(&mark);
}

#[test]
fn a_program_that_cannot_run_is_one_error_before_any_rank() {
    for (program, says) in [
        ("no-such-program", "PATH"),
        ("./no/such/program", "No such file"),
        ("/etc/passwd", "not an executable"),
        ("/", "not an executable"),
    ] {
        let error = Launch::new(program, [""; 0]).ranks(4).run().unwrap_err().to_string();
        assert!(error.contains(program) && error.contains(says), "{error}");
    }
    let mark = mark();
    let launch = sh(&format!("sleep {mark}")).ranks(3);
    let launch = launch.per_rank_wrapper(|rank| if rank == 2 { vec!["/no/such/wrapper".into()] } else { Vec::new() });
    let error = launch.run().unwrap_err().to_string();
    assert!(error.contains("rank 2") && error.contains("/no/such/wrapper"), "{error}");
    gone(&mark);
    for wrong in [sh("").ranks(0), sh("").nnodes(0), sh("").nnodes(2), sh("").node_rank(1), sh("").rdzv("nowhere")] {
        assert_eq!(*wrong.run().unwrap_err().kind(), ErrorKind::InvalidArgument);
    }
}

#[test]
fn wrappers_come_before_the_program() {
    let launch = sh("echo $WRAPPED").ranks(2);
    let launch = launch.per_rank_wrapper(|rank| vec!["/usr/bin/env".into(), format!("WRAPPED=w{rank}").into()]);
    let report = launch.run().unwrap().ok().unwrap();
    assert_eq!((text(&report, 0).trim(), text(&report, 1).trim()), ("w0", "w1"));
}

#[test]
fn a_job_writes_to_stops_and_kills_single_ranks() {
    let script = "while read -r line; do echo \"$RANK heard $line\"; done; exit 5";
    let mut job = sh(script).ranks(3).output(Output::Piped).keep_going().spawn().unwrap();
    assert_eq!(job.ranks().collect::<Vec<_>>(), [0, 1, 2]);
    let mut pipes: Vec<_> =
        (0..3).map(|r| (job.take_stdin(r).unwrap(), BufReader::new(job.take_stdout(r).unwrap()))).collect();
    assert!(job.take_stdin(0).is_err() && job.take_stdout(9).is_err());
    let ask = |rank: usize, pipes: &mut Vec<(std::process::ChildStdin, BufReader<_>)>, word: &str| {
        writeln!(pipes[rank].0, "{word}").unwrap();
        let mut line = String::new();
        pipes[rank].1.read_line(&mut line).unwrap();
        assert_eq!(line, format!("{rank} heard {word}\n"));
    };
    (0..3).for_each(|rank| ask(rank, &mut pipes, "hello"));

    job.signal(1, Signal::Stop).unwrap();
    let state =
        |pid| std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap().split(' ').nth(2).unwrap().to_owned();
    let pid = job.pid(1).unwrap();
    while state(pid) != "T" {
        std::thread::yield_now();
    }
    job.signal(1, Signal::Continue).unwrap();
    ask(1, &mut pipes, "still there");

    assert!(!job.has_ended(2).unwrap());
    job.signal(2, Signal::Kill).unwrap();
    while !job.has_ended(2).unwrap() {
        std::thread::yield_now();
    }
    job.signal(2, Signal::Kill).unwrap();
    ask(0, &mut pipes, "going on");
    drop(pipes);
    let report = job.wait(soon()).unwrap();
    assert_eq!(report.exits.iter().map(|exit| exit.status()).collect::<Vec<_>>(), [5, 5, 137]);
    assert_eq!(report.failure.unwrap().exit.rank, 2);
}

#[test]
fn a_job_past_its_deadline_is_killed_and_named() {
    let mark = mark();
    let script = format!("if [ $RANK = 1 ]; then exit 0; fi; trap '' TERM; while :; do sleep {mark}; done");
    let mut job = sh(&script).ranks(3).spawn().unwrap();
    while !job.has_ended(1).unwrap() {
        std::thread::yield_now();
    }
    let error = job.wait(Instant::now() + Duration::from_millis(100)).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Timeout);
    assert_eq!(error.report().guilty, [0, 2]);
    gone(&mark);
    job = sh(&script).ranks(2).spawn().unwrap();
    drop(job);
    assert!(living(&mark).is_empty(), "{:?}", living(&mark));
}

/// The operating system kills ranks when the thread that started them ends, so the launcher must not start them from
/// its caller's thread.
#[test]
fn ranks_outlive_the_thread_that_launched_them() {
    let job = std::thread::spawn(|| sh("read -r x; echo done").output(Output::Piped).spawn().unwrap()).join().unwrap();
    let mut job = job;
    let (mut stdin, mut stdout) = (job.take_stdin(0).unwrap(), job.take_stdout(0).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    writeln!(stdin).unwrap();
    let mut text = String::new();
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "done\n");
    job.wait(soon()).unwrap().ok().unwrap();
}

#[test]
fn kept_output_is_bounded_and_ranks_may_close_their_output() {
    let script = "head -c 60000000 /dev/zero; head -c 60000000 /dev/zero >&2; exec >&- 2>&-; exit 4";
    let report = sh(script).ranks(2).run().unwrap();
    assert_eq!(report.exits.iter().filter(|exit| exit.code == Some(4)).count() + ended_by_us(&report), 2);
    for output in &report.output {
        assert!(output.stdout.len() <= 32 << 20 && output.stderr.len() <= 32 << 20);
    }
}

/// Returns how many ranks were ended by SIGTERM.
fn ended_by_us(report: &JobReport) -> usize {
    report.exits.iter().filter(|exit| exit.signal == Some(15)).count()
}

/// The process that `launcher` starts: a launcher that runs the shell script `C10D_TEST_SCRIPT` as `C10D_TEST_RANKS`
/// ranks.
#[test]
fn role_launcher() {
    if plays("role_launcher") {
        println!();
        let ranks = std::env::var("C10D_TEST_RANKS").unwrap().parse().unwrap();
        let launch = Launch::new("/bin/sh", ["-c", &std::env::var("C10D_TEST_SCRIPT").unwrap()]).ranks(ranks);
        std::process::exit(launch.run().unwrap().exit_code());
    }
}

fn launcher(ranks: u32, script: &str) -> Command {
    let mut command = role("role_launcher");
    command.env("C10D_TEST_RANKS", ranks.to_string()).env("C10D_TEST_SCRIPT", script);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn signal(child: &std::process::Child, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_child(child), signal).unwrap();
}

/// Reads the launcher's output until each of `n` ranks has printed `word`.
fn until_said(child: &mut std::process::Child, word: &str, n: usize) -> BufReader<std::process::ChildStdout> {
    let mut out = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    let mut said = 0;
    while said < n {
        line.clear();
        assert!(out.read_line(&mut line).unwrap() > 0, "the launcher ended");
        said += usize::from(line.contains(word));
    }
    out
}

#[test]
fn no_orphan_when_the_launcher_is_killed() {
    let mark = mark();
    let script = format!("trap '' TERM INT HUP; sleep {mark} & echo ready; sleep {mark}; sleep {mark}");
    let mut child = launcher(3, &script).spawn().unwrap();
    let out = until_said(&mut child, "ready", 3);
    assert!(!living(&mark).is_empty());
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&mark);
    drop(out);
}

/// A guardian is a process that ends the ranks if their launcher was killed. If the guardian is dead, the operating
/// system kills the ranks.
#[test]
fn the_kernel_ends_the_ranks_of_a_killed_launcher() {
    let mark = mark();
    let mut child = launcher(3, &format!("echo ready; exec sleep {mark}")).spawn().unwrap();
    let out = until_said(&mut child, "ready", 3);
    let of_launcher = |line: &String| {
        let pid = line.split(':').next().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.contains(&format!("PPid:\t{}\n", child.id()))
    };
    let guardian = living("kill -9 0").into_iter().find(of_launcher).unwrap();
    let guardian = guardian.split(':').next().unwrap().parse().unwrap();
    rustix::process::kill_process(rustix::process::Pid::from_raw(guardian).unwrap(), rustix::process::Signal::KILL)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    gone(&mark);
    drop(out);
}

#[test]
fn signals_are_forwarded_once_and_a_later_interrupt_kills() {
    let mark = mark();
    let script = "trap 'echo caught; exit 3' INT; echo ready; while :; do sleep 0.02; done";
    let mut child = launcher(2, script).spawn().unwrap();
    let mut out = until_said(&mut child, "ready", 2);
    signal(&child, rustix::process::Signal::INT);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest.matches("caught").count(), 2, "{rest}");
    assert_eq!(child.wait().unwrap().code(), Some(130));

    let script = format!("trap 'echo caught' INT; echo ready; while :; do sleep 0.02; done # {mark}");
    let mut child = launcher(2, &script).spawn().unwrap();
    let out = until_said(&mut child, "ready", 2);
    signal(&child, rustix::process::Signal::INT);
    child.stdout = Some(out.into_inner());
    let out = until_said(&mut child, "caught", 2);
    assert!(child.try_wait().unwrap().is_none());
    std::thread::sleep(Duration::from_millis(1100));
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(out);
    gone(&mark);
}

#[test]
fn under_nohup_a_hang_up_ends_nothing() {
    let child = launcher(2, "echo ready; sleep 0.3; echo survived");
    let args: Vec<_> = child.get_args().map(ToOwned::to_owned).collect();
    let mut nohup = Command::new("/bin/sh");
    nohup.args(["-c", "trap '' HUP; exec \"$0\" \"$@\""]).arg(child.get_program()).args(args);
    nohup.envs(child.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let mut child = nohup.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut out = until_said(&mut child, "ready", 2);
    signal(&child, rustix::process::Signal::HUP);
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!((child.wait().unwrap().code(), rest.matches("survived").count()), (Some(0), 2), "{rest}");
}

#[test]
fn lines_of_ranks_are_not_mixed() {
    let script = "i=0; while [ $i -lt 300 ]; do printf 'rank '; printf \"$RANK\"; printf ' line %d\\n' $i; i=$((i+1)); \
                  done; printf 'no newline'";
    let out = launcher(4, script).output().unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    for rank in 0..4 {
        let prefix = format!("[{rank}] ");
        let mine: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix(&prefix)).collect();
        let mut expected: Vec<String> = (0..300).map(|i| format!("rank {rank} line {i}")).collect();
        expected.push("no newline".into());
        assert_eq!(mine, expected);
    }
}

#[test]
fn a_launcher_whose_errors_nobody_reads_goes_on_and_one_whose_output_nobody_reads_ends() {
    let script = "echo ready; sleep 0.2; i=0; while [ $i -lt 2000 ]; do echo line $i >&2; i=$((i+1)); done; exit 6";
    let mut child = launcher(2, script).spawn().unwrap();
    drop(child.stderr.take());
    let out = until_said(&mut child, "ready", 2);
    assert_eq!(child.wait().unwrap().code(), Some(6));
    drop(out);
    let mark = mark();
    let mut child = launcher(2, &format!("echo ready; while sleep 0.02; do echo more; done # {mark}")).spawn().unwrap();
    drop(until_said(&mut child, "ready", 2));
    assert_eq!(child.wait().unwrap().code(), Some(128 + 13));
    gone(&mark);
}
