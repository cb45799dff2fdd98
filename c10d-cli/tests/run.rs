//! `c10d run`, as users use it.

use crate::common;

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::{Running, is_running, reserved_place, run, start, start_piped, until};
use rustix::process::Signal;

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

/// Returns the arguments of `run` with these options, ranks and shell script.
fn script<'a>(options: &[&'a str], script: &'a str) -> Vec<&'a str> {
    [&["run"][..], options, &["--", "sh", "-c", script]].concat()
}

/// Returns a script that runs `before`, prints `ready`, and then sleeps until it is ended.
fn idle(before: &str) -> String {
    format!("{before}; echo ready; while :; do sleep 0.05; done")
}

fn ready(args: &[&str], ranks: usize) -> Running {
    let mut running = start(args);
    (0..ranks).for_each(|_| running.until_said("ready"));
    running
}

#[test]
fn a_rank_that_ignores_the_signal_is_killed_after_the_grace_time() {
    for (signal, code) in [(Signal::TERM, 143), (Signal::INT, 130)] {
        let ignores = idle("trap '' TERM INT");
        let running = ready(&script(&["-n", "2", "--grace", "0.2"], &ignores), 2);
        running.signal(signal);
        let ended = running.end();
        assert_eq!(ended.status.code(), Some(code), "{}", ended.stderr);
        assert!(ended.stderr.contains("ranks [0, 1] did not end within the grace time"), "{}", ended.stderr);
    }
    // The signal also reaches a rank that has left the launcher's process group.
    let leaves = idle("trap '' TERM");
    let mut running = start(&["run", "-n", "1", "--grace", "0.2", "--", "setsid", "sh", "-c", &leaves]);
    running.until_said("ready");
    running.signal(Signal::TERM);
    assert_eq!(running.end().status.code(), Some(143));
}

#[test]
fn a_stopped_rank_is_continued_to_get_the_signal() {
    let stops = "trap 'echo heard $RANK; exit 0' TERM; echo $$ ready; [ $RANK = 1 ] && kill -STOP $$; \
                 while :; do sleep 0.05; done";
    let mut running = start(&script(&["-n", "2", "--grace", "1000"], stops));
    let lines = [running.line(), running.line()];
    let stopped = lines.iter().find_map(|line| line.strip_prefix("[1] ")?.strip_suffix(" ready")).unwrap().to_owned();
    until("rank 1 is stopped", || {
        std::fs::read_to_string(format!("/proc/{stopped}/stat")).is_ok_and(|stat| stat.contains(") T "))
    });
    running.signal(Signal::TERM);
    let ended = running.end();
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.contains("heard 0") && ended.stdout.contains("heard 1"), "{}", ended.stdout);
}

#[test]
fn a_signal_that_comes_twice_at_once_counts_once() {
    let saves = idle("trap 'sleep 0.3; echo saved; exit 0' TERM INT");
    for signal in [Signal::TERM, Signal::INT] {
        let running = ready(&script(&["-n", "2"], &saves), 2);
        running.signal(signal);
        std::thread::sleep(Duration::from_millis(20));
        running.signal(signal);
        let ended = running.end();
        assert!(ended.status.success(), "{}", ended.stderr);
        assert_eq!(ended.stdout.matches("saved").count(), 2, "{}", ended.stdout);
    }
}

#[test]
fn a_second_interrupt_kills_at_once() {
    let ignores = idle("trap '' INT");
    let mut running = ready(&script(&["-n", "2", "--grace", "10000"], &ignores), 2);
    until("the ranks are killed", || {
        running.signal(Signal::INT);
        std::thread::sleep(Duration::from_millis(300));
        running.has_ended()
    });
    assert_eq!(running.end().status.code(), Some(130));
}

#[test]
fn other_signals_are_passed_on_and_end_nothing() {
    let hears = idle("for s in USR1 USR2 HUP WINCH; do trap \"echo heard $s\" $s; done; trap 'exit 0' TERM");
    let mut running = ready(&script(&["-n", "2"], &hears), 2);
    let mut signals = vec![(Signal::USR1, "USR1"), (Signal::USR2, "USR2"), (Signal::WINCH, "WINCH")];
    // If SIGHUP is ignored (as under `nohup`), the launcher does not pass it on.
    if !hang_up_is_ignored() {
        signals.push((Signal::HUP, "HUP"));
    }
    for (signal, name) in signals {
        running.signal(signal);
        (0..2).for_each(|_| running.until_said(&format!("heard {name}")));
    }
    running.signal(Signal::TERM);
    let ended = running.end();
    assert!(ended.status.success(), "{}", ended.stderr);
}

fn hang_up_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() & 1 != 0
}

#[test]
fn standard_input_reaches_rank_0_or_all_or_none() {
    for (options, copies) in [
        (&["-n", "2"][..], [1, 0]),
        (&["-n", "2", "--stdin", "all"], [1, 1]),
        (&["-n", "2", "--stdin", "none"], [0, 0]),
    ] {
        let mut running = start_piped(&script(options, "cat; exit 0"));
        let text = "some data\n".repeat(20_000);
        let mut stdin = running.stdin.take().unwrap();
        // The script may end without reading its input. Then this write fails, which is no error of the test.
        let writer = std::thread::spawn(move || drop(stdin.write_all(text.as_bytes())));
        let ended = running.end();
        writer.join().unwrap();
        assert!(ended.status.success(), "{}", ended.stderr);
        let found = [0, 1].map(|rank| ended.stdout.matches(&format!("[{rank}] some data\n")).count() / 20_000);
        assert_eq!(found, copies, "{options:?}");
    }
}

#[test]
fn a_line_that_ends_in_a_carriage_return_is_shown() {
    // The script writes the next line only after the test has seen the previous line.
    let bar = r"printf '1 of 3\r'; read x; printf '2 of 3'; read x; printf '\r3 of 3'; read x; echo";
    let mut running = start_piped(&script(&["-n", "1"], bar));
    running.until_said("[0] 1 of 3\r");
    let mut stdin = running.stdin.take().unwrap();
    writeln!(stdin).unwrap();
    running.until_said("[0] 2 of 3\r");
    writeln!(stdin).unwrap();
    running.until_said("[0] 3 of 3\r");
    writeln!(stdin).unwrap();
    assert_eq!(running.end().stdout, "[0] 3 of 3\n");
}

#[test]
fn a_closed_reader_ends_the_job() {
    let mut running = start(&script(&["-n", "2"], "echo $$; exec yes"));
    let pid: u32 = running.line().split(' ').nth(1).unwrap().parse().unwrap();
    running.stop_reading();
    let ended = running.end();
    assert_eq!(ended.status.code(), Some(128 + 13), "{}", ended.stderr);
    assert!(!is_running(pid));
}

#[test]
fn nobody_needs_to_read_standard_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_c10d"));
    command.args(script(&["-n", "2"], "read x; i=0; while [ $i -lt 1000 ]; do echo $i >&2; i=$((i+1)); done; exit 6"));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stderr.take());
    drop(child.stdin.take());
    assert_eq!(child.wait().unwrap().code(), Some(6));
    // The pipe is open, but nobody reads it. It becomes full: it can hold the 30,000 empty lines of the rank, but not
    // these lines with the prefix `[0] `.
    let mut command = Command::new(env!("CARGO_BIN_EXE_c10d"));
    command.args(script(&["-n", "1"], "head -c 30000 /dev/zero | tr '\\0' '\\n' >&2; exit 6"));
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    until("it ends", || child.try_wait().unwrap().is_some());
    assert_eq!(child.wait().unwrap().code(), Some(6));
    // The exit status for an invalid argument does not depend on whether the output is read.
    let mut command = Command::new(env!("CARGO_BIN_EXE_c10d"));
    let mut child = command.args(["run", "-n", "0", "--", "true"]).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stderr.take());
    assert_eq!(child.wait().unwrap().code(), Some(2));
}

#[test]
fn invalid_arguments_end_with_code_2_and_name_the_limit() {
    for (options, says) in [
        (&["-n", "4000000000"][..], "16384"),
        (&["-n", "16385"], "16384"),
        (&["-n", "0"], "1..=16384"),
        (&["-n", "1", "--nnodes", "4000000000", "--rdzv", "h:1"], "65536"),
        (&["-n", "1", "--nnodes", "2"], "--rdzv"),
        (&["-n", "1", "--node-rank", "1"], "numbered from 0"),
        (&["-n", "1", "--rdzv", "nowhere"], "host:port"),
        (&["-n", "1", "--grace", "-1"], "31536000"),
        (&["-n", "1", "--grace=1e300"], "31536000"),
        (&["-n", "1", "--timeout", "NaN"], "31536000"),
        (&["-n", "1", "--join-timeout", "long"], "31536000"),
        (&["-n", "1", "--env", "NAME"], "NAME=VALUE"),
        (&["-n", "1", "--stdin", "1"], "rank0"),
        (&["-v", "-n", "1"], "'-v'"),
    ] {
        let ended = run(&script(options, "echo it ran"));
        assert_eq!(ended.status.code(), Some(2), "{options:?}: {}", ended.stderr);
        assert!(ended.stdout.is_empty() && ended.stderr.contains(says), "{options:?}: {}", ended.stderr);
    }
    // Options after the program belong to the program.
    let ended = run(&["run", "-n", "1", "echo", "-v", "-n", "2"]);
    assert_eq!(ended.stdout, "[0] -v -n 2\n");
}

#[test]
fn variables_are_given_and_time_is_limited() {
    let ended = run(&script(&["-n", "2", "--env", "A=b=c", "--env", "EMPTY="], "echo $A.${EMPTY-unset}"));
    assert_eq!(ended.stdout.matches(" b=c.\n").count(), 2, "{}", ended.stdout);
    // Ranks have the grace time to clean up.
    let saves = idle("trap 'echo saved; exit 0' TERM");
    let ended = run(&script(&["-n", "2", "--timeout", "1"], &saves));
    assert_eq!(ended.status.code(), Some(124), "{}", ended.stderr);
    assert!(ended.stderr.contains("ranks 0, 1"), "{}", ended.stderr);
}

#[test]
fn ranks_continue_without_the_dead_on_request() {
    let dies = |how: &str| format!("if [ $RANK = 1 ]; then {how}; fi; sleep 0.3; echo went on; [ $RANK != 3 ]");
    let (killed, failed) = (dies("kill -9 $$"), dies("exit 7"));
    for (options, script_, code, went_on) in [
        (&["-n", "3"][..], &killed, 137, 0),
        (&["-n", "3", "--keep-going"], &killed, 137, 2),
        (&["-n", "3", "--success", "survivors"], &killed, 0, 2),
        (&["-n", "3", "--success", "survivors"], &failed, 7, 2),
        (&["-n", "4", "--success", "survivors"], &killed, 137, 3),
        (&["-n", "3", "--success", "any"], &failed, 0, 2),
        (&["-n", "4", "--success", "any"], &killed, 0, 3),
    ] {
        let ended = run(&script(options, script_));
        assert_eq!(ended.status.code(), Some(code), "{options:?}: {}", ended.stderr);
        assert_eq!(ended.stdout.matches("went on").count(), went_on, "{options:?}");
        assert!(ended.stderr.contains("rank 1 "), "{}", ended.stderr);
    }
}

#[test]
fn several_hosts_meet_at_the_rendezvous() {
    let (_reserved, place) = reserved_place();
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
