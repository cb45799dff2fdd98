//! `c10d perf`, as users and scripts use it.

use crate::common;

use std::collections::BTreeSet;
use std::io::Read;
use std::process::{Command, Stdio};

use common::{run, start, start_with, until};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use serde_json::Value;

/// The cells of CSV output, after the header.
fn cells(csv: &str) -> Vec<Vec<&str>> {
    csv.lines().skip(1).map(|line| line.split(',').collect()).collect()
}

#[test]
fn csv_has_every_op_at_every_size_without_errors() {
    let ended = run(&["perf", "--bytes", "8,1K", "--iters", "3", "--format", "csv"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let header = ended.stdout.lines().next().unwrap();
    assert_eq!(header, "op,dtype,bytes,ranks,transport,median_us,min_us,algbw_GBps,busbw_GBps,errors");
    let rows = cells(&ended.stdout);
    let names: BTreeSet<&str> = rows.iter().map(|row| row[0]).collect();
    assert_eq!(names.len(), c10d::OpKind::ALL.len() + 2);
    assert!(c10d::OpKind::ALL.iter().all(|op| names.contains(op.name())));
    for row in &rows {
        assert_eq!(row.len(), 10);
        let bare = row[0].ends_with("barrier");
        assert!(if bare { row[1] == "-" && row[2] == "0" } else { row[1] == "f32" && ["8", "1024"].contains(&row[2]) });
        assert_eq!((row[3], row[4], row[9]), ("2", "auto", "0"));
        let numbers: Vec<f64> = row[5..9].iter().map(|cell| cell.parse().unwrap()).collect();
        assert!(numbers[0] >= numbers[1] && numbers[1] > 0.0, "{row:?}");
    }
    assert_eq!(rows.len(), 2 * names.len() - 2);
}

#[test]
fn sparse_tensors_have_points_of_their_own() {
    if !cfg!(all(feature = "gloo-like", feature = "sparse")) {
        return;
    }
    let common = ["perf", "--ops", "all_reduce_sparse", "--iters", "2", "--format", "csv"];
    let points = ["-n", "3", "--nnz", "40,3K", "--row", "1,5", "--overlap", "0,50,100"];
    let ended = run(&[&common[..], &points].concat());
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.lines().next().unwrap().ends_with(",errors,nnz,row,overlap"));
    let rows = cells(&ended.stdout);
    let seen: Vec<String> = rows.iter().map(|row| row[10..].join(" ")).collect();
    assert_eq!(seen.len(), 12);
    assert_eq!((&*seen[0], &*seen[5], &*seen[11]), ("40 1 0", "40 5 100", "3000 5 100"));
    assert!(rows.iter().all(|row| row[0] == "all_reduce_sparse" && row[9] == "0"), "{}", ended.stdout);
    assert_eq!(rows[0][2], (40 * 12).to_string());

    for (args, word) in [
        (["--overlap", "101"], "percent"),
        (["--reduce", "max"], "only sums are supported"),
        (["--nnz", "x"], "number"),
    ] {
        let ended = run(&[&common[..], &args].concat());
        assert!(!ended.status.success() && ended.stderr.contains(word), "{}", ended.stderr);
    }
}

#[test]
fn iters_is_the_exact_number_of_timed_iterations() {
    let args = ["perf", "--ops", "all_gather_into", "--bytes", "64", "--iters", "7", "--format", "json"];
    let ended = start_with(&args, &[("C10D_LOG", "trace")]).end();
    assert!(ended.status.success(), "{}", ended.stderr);
    let json: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(json["rows"][0]["iters"], 7);
    // The library logs each call. Rank 0 makes one call whose result is checked, and then the timed calls.
    let calls = ended.stderr.lines().filter(|l| l.starts_with("[0]") && l.contains("all_gather_into")).count();
    assert_eq!(calls, 1 + 7, "{}", ended.stderr);
}

#[test]
fn forms_types_and_world_sizes_run_without_errors() {
    for (sizes, args) in [
        ("0,10,5002", &["-n", "3", "--async", "--dtype", "bf16", "--reduce", "avg"][..]),
        ("0,10,5001", &["-n", "3", "--mode", "threads", "--dtype", "i8", "--reduce", "bxor", "--pin"]),
        ("0,8,5000", &["-n", "2", "--transport", "tcp", "--dtype", "complex64", "--reduce", "product"]),
        ("0,10,5001", &["-n", "1", "--transport", "shm", "--dtype", "bool", "--reduce", "max"]),
        ("0,10,5001", &["-n", "2", "--dtype", "f8e4m3"]),
    ] {
        let common = ["perf", "--bytes", sizes, "--iters", "2", "--format", "json"];
        let ended = run(&[&common, args].concat());
        assert!(ended.status.success(), "{args:?}: {}", ended.stderr);
        let json: Value = serde_json::from_str(&ended.stdout).unwrap();
        let rows = json["rows"].as_array().unwrap();
        assert!(rows.len() > 20 && rows.iter().all(|row| row["errors"] == 0 && row["iters"] == 2), "{args:?}");
    }
}

#[test]
fn started_ops_show_how_much_of_them_is_hidden() {
    let ended = run(&["perf", "--async", "--bytes", "8,64K", "--budget-ms", "2", "--format", "csv"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.lines().next().unwrap().ends_with(",errors,hidden"), "{}", ended.stdout);
    let rows = cells(&ended.stdout);
    let share = |row: &Vec<&str>| row.last().unwrap().parse::<f64>().is_ok_and(|share| (0.0..=1.0).contains(&share));
    assert!(rows.len() > 30 && rows.iter().all(|row| row.len() == 11 && share(row)), "{}", ended.stdout);
    let table = run(&["perf", "--async", "--ops", "all_reduce", "--bytes", "8", "--iters", "2"]);
    assert!(table.stdout.contains("hidden %") && table.stdout.contains("1 rows, 0 errors"), "{}", table.stdout);
    let blocking = run(&["perf", "--ops", "all_reduce", "--bytes", "8", "--iters", "2", "--format", "csv"]);
    assert!(!blocking.stdout.contains("hidden"), "{}", blocking.stdout);
}

#[test]
fn the_backend_can_be_chosen() {
    let with = |map| run(&["perf", "--ops", "all_reduce", "--bytes", "64", "--iters", "2", "--backend", map]);
    if cfg!(feature = "gloo-like") {
        let ended = with("cpu:gloo-like");
        assert!(ended.status.success(), "{}", ended.stderr);
    }
    let ended = with("cpu:acme");
    assert!(!ended.status.success() && ended.stderr.contains("acme"), "{}", ended.stderr);
}

#[test]
fn tables_show_the_transport_that_the_environment_decides() {
    let args = ["perf", "--ops", "barrier", "--iters", "2"];
    let ended = start_with(&args, &[("C10D_TRANSPORT", " tcp ")]).end();
    assert!(ended.status.success() && ended.stdout.contains("transport tcp"), "{}{}", ended.stdout, ended.stderr);
    let forced = start_with(&[&args[..], &["--transport", "shm"]].concat(), &[("C10D_TRANSPORT", "tcp")]).end();
    assert!(forced.stdout.contains("transport shm"), "{}{}", forced.stdout, forced.stderr);
}

#[test]
fn the_table_ends_with_the_number_of_errors() {
    let ended = run(&["perf", "--ops", "all_reduce,barrier", "--bytes", "64K", "--budget-ms", "5"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.contains("algorithm") && ended.stdout.contains("64K"), "{}", ended.stdout);
    assert!(ended.stdout.lines().last().unwrap().starts_with("2 rows, 0 errors"), "{}", ended.stdout);
    assert!(!ended.stderr.contains('\r'), "a progress bar although standard error is not a terminal");
}

#[test]
fn a_terminal_gets_a_progress_bar() {
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).unwrap();
    let name = ptsname(&terminal, Vec::new()).unwrap();
    let end = std::fs::OpenOptions::new().write(true).open(name.to_str().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_c10d"));
    command.args(["perf", "--ops", "all_reduce", "--bytes", "8,1K", "--iters", "3"]).env("TERM", "xterm");
    let ended = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(end).status().unwrap();
    assert!(ended.success());
    drop(command);
    let mut shown = Vec::new();
    // Reading ends with an error after the last byte, since no process has the other end open any more.
    let _ = std::fs::File::from(terminal).read_to_end(&mut shown);
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("] 0/2 starting") && shown.contains("] 2/2 all_reduce 1K"), "{shown}");
}

#[test]
fn a_killed_rank_ends_the_run_and_is_named() {
    // Without the kill, this run would take days.
    let running = start(&["perf", "-n", "3", "--ops", "barrier", "--iters", "1000000000000"]);
    let mut victim = None;
    until("rank 1 runs", || {
        victim = rank_process(running.pid(), 1);
        victim.is_some()
    });
    kill_process(victim.unwrap(), Signal::KILL).unwrap();
    let ended = running.end();
    assert!(!ended.status.success());
    // Rank 0 or 2 may notice the death and fail before the launcher sees that rank 1 has ended. Then the report has the
    // error of that rank, which names rank 1.
    let report = ended.stderr.split("\nc10d perf: ").last().unwrap();
    assert!(report.contains("rank 1 was killed by signal 9") || report.contains("PeerDead (rank 1)"), "{report}");
}

/// Returns the process that `launcher` started as `rank`.
fn rank_process(launcher: u32, rank: u32) -> Option<Pid> {
    let variable = format!("RANK={rank}");
    std::fs::read_dir("/proc").unwrap().flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent: u32 = stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()?;
        let environment = std::fs::read(entry.path().join("environ")).ok()?;
        let is_it = parent == launcher && environment.split(|b| *b == 0).any(|v| v == variable.as_bytes());
        if is_it { Pid::from_raw(pid as i32) } else { None }
    })
}

#[test]
fn invalid_arguments_are_rejected_before_anything_runs() {
    for (args, says) in [
        (&["--ops", "allreduce"][..], "all_reduce"),
        (&["--bytes", "8q"], "8q"),
        (&["--dtype", "f31"], "f32"),
        (&["--reduce", "plus"], "sum"),
        (&["-n", "0"], "0"),
        (&["--iters", "0"], "0"),
        (&["--ops", "all_reduce", "--reduce", "band"], "band is not defined on f32"),
        (&["--ops", "send_recv", "-n", "1"], "needs two ranks"),
        (&["-n", "4000000000", "--ops", "barrier"], "16384"),
        (&["-n", "4000000000", "--mode", "threads"], "16384"),
        (&["--bytes", "64G"], "the limit is 16G"),
        (&["--bytes", "1000000000G"], "the limit is 16G"),
        (&["--ops", "all_reduce", "--bytes", "4G", "-n", "16384"], "memory that this host has left"),
        (&["--bytes", "3"], "not a whole number of f32 elements of 4 bytes"),
        (&["--bytes", "2:64:3"], "--bytes 2"),
        (&["--ops", "send_recv", "--dtype", "complex128", "--bytes", "16,8"], "--bytes 8"),
        (&["--ops", "all_reduce_sparse", "--nnz", "1000000000", "--row", "1000000000"], "limit"),
        (&["--ops", "all_reduce_sparse", "--nnz", "18446744073709551615"], "limit is 1000000000"),
        (&["--ops", "all_reduce_sparse", "--overlap", "101"], "percent"),
        (&["--budget-ms", "18446744073709551615"], "86400000"),
    ] {
        if !cfg!(feature = "sparse") && args.contains(&"all_reduce_sparse") {
            continue;
        }
        let ended = run(&[&["perf"], args].concat());
        assert!(ended.status.code() == Some(2) && ended.stdout.is_empty(), "{args:?}: {}", ended.stderr);
        assert!(ended.stderr.contains(says), "{args:?}: {}", ended.stderr);
    }
}

#[test]
fn a_running_job_is_joined() {
    let program = env!("CARGO_BIN_EXE_c10d");
    let perf =
        [program, "perf", "--ops", "all_reduce,all_gather_into", "--bytes", "48", "--iters", "2", "--format", "csv"];
    let job = |options: &[&str], more: &[&str]| run(&[&["run"], options, &["--"], &perf[..], more].concat());
    for more in [&[][..], &["-n", "3", "--pin"]] {
        let ended = job(&["-n", "3"], more);
        assert!(ended.status.success(), "{}", ended.stderr);
        // Only rank 0 prints: the header and a row per op.
        let rows: Vec<&str> = ended.stdout.lines().filter_map(|line| line.strip_prefix("[0] ")).collect();
        assert!(rows.len() == 3 && ended.stdout.lines().count() == 3, "{}", ended.stdout);
        assert!(rows[1..].iter().all(|row| row.split(',').nth(3) == Some("3") && row.ends_with(",0")), "{rows:?}");
    }
    for (more, says) in [(&["-n", "2"][..], "a job of 3 ranks"), (&["--mode", "threads"], "--alone")] {
        let ended = job(&["-n", "3"], more);
        assert_eq!(ended.status.code(), Some(2), "{}", ended.stderr);
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    // With `--alone`, `perf` starts its own two ranks, although it is a rank of a job.
    let ended = job(&["-n", "1"], &["--alone"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    assert!(ended.stdout.lines().skip(1).all(|row| row.split(',').nth(3) == Some("2")), "{}", ended.stdout);
}

#[test]
fn the_smallest_size_is_at_least_one_element() {
    let ended = run(&["perf", "--ops", "all_reduce", "--dtype", "complex128", "--iters", "1", "--format", "csv"]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let sizes: Vec<&str> = cells(&ended.stdout).iter().map(|row| row[2]).collect();
    assert_eq!(sizes, ["16", "8192", "1048576", "16777216"]);
}

#[test]
fn a_closed_reader_ends_it_without_a_message() {
    for mode in ["processes", "threads"] {
        let args = [
            "perf",
            "--ops",
            "barrier,all_reduce",
            "--bytes",
            "8:1M",
            "--iters",
            "20",
            "--format",
            "csv",
            "--mode",
            mode,
        ];
        let mut running = start(&args);
        assert!(running.line().starts_with("op,"));
        running.stop_reading();
        let ended = running.end();
        assert_eq!((ended.status.code(), ended.stderr.as_str()), (Some(128 + 13), ""), "{mode}");
    }
}

const JOINED: [&str; 8] = ["perf", "--ops", "all_reduce", "--bytes", "48", "--iters", "2", "--format"];

#[test]
fn jobs_of_all_starters_are_joined() {
    type Variables = &'static [(&'static str, &'static str)];
    let starters: [(&str, Variables); 4] = [
        ("OMPI_COMM_WORLD_RANK", &[("OMPI_COMM_WORLD_SIZE", "2"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "2")]),
        ("PMI_RANK", &[("PMI_SIZE", "2"), ("MPI_LOCALNRANKS", "2")]),
        ("PMIX_RANK", &[("SLURM_NTASKS", "2"), ("SLURM_NNODES", "1")]),
        ("SLURM_PROCID", &[("SLURM_NTASKS", "2"), ("SLURM_NNODES", "1")]),
    ];
    let job = format!("perf-{}", std::process::id());
    let args = [&JOINED[..], &["csv"]].concat();
    for (name, variables) in starters {
        let jobs = ["PMIX_NAMESPACE", "PMI_JOBID", "SLURM_JOB_ID"].map(|name| (name, job.as_str()));
        let rank = |rank| start_with(&args, &[&[(name, rank)], variables, &jobs].concat());
        let [first, second] = [rank("0"), rank("1")].map(common::Running::end);
        assert!(first.status.success() && second.status.success(), "{name}: {}{}", first.stderr, second.stderr);
        assert_eq!(cells(&first.stdout).iter().map(|row| row[3]).collect::<Vec<_>>(), ["2"], "{name}");
        assert_eq!(second.stdout, "", "{name}");
    }
    // A variable that is empty or has only spaces counts as not set.
    let ended = start_with(&args, &[("RANK", ""), ("SLURM_PROCID", " ")]).end();
    assert!(ended.status.success() && cells(&ended.stdout)[0][3] == "2", "{}", ended.stderr);
}

#[test]
fn a_job_over_two_hosts_is_joined() {
    let place = common::reserved_place();
    let program = env!("CARGO_BIN_EXE_c10d");
    let host = |node: &str| {
        let options = ["run", "-n", "1", "--nnodes", "2", "--node-rank", node, "--rdzv", &place.1, "--", program];
        start(&[&options[..], &JOINED, &["csv"]].concat())
    };
    let [first, second] = [host("0"), host("1")].map(common::Running::end);
    assert!(first.status.success() && second.status.success(), "{}{}", first.stderr, second.stderr);
    let rows: Vec<&str> = first.stdout.lines().collect();
    assert!(rows.len() == 2 && rows[1].starts_with("[0] all_reduce,f32,48,2,"), "{}", first.stdout);
    assert_eq!(second.stdout, "");
}

#[test]
fn a_plot_has_a_line_for_each_op_with_bytes() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let path = file.path().to_str().unwrap();
    let ops = "all_reduce,broadcast,barrier";
    let ended = run(&["perf", "--ops", ops, "--bytes", "8,1K,64K", "--iters", "3", "--plot", path]);
    assert!(ended.status.success(), "{}", ended.stderr);
    let picture = std::fs::read_to_string(path).unwrap();
    // An op with bytes has a line in both charts, so its name occurs twice. A barrier has no bytes and no line.
    let count = |text: &str| picture.lines().filter(|line| line.trim() == text).count();
    assert_eq!(["all_reduce", "broadcast", "barrier"].map(count), [2, 2, 0], "{picture}");
    for label in ["time of an op (µs, median)", "bus bandwidth (GB/s)", "bytes"] {
        assert!(count(label) > 0, "{label}: {picture}");
    }
    let ended = run(&["perf", "--ops", "all_reduce", "--bytes", "8", "--iters", "3", "--plot", "/nowhere/x.svg"]);
    assert!(!ended.status.success() && ended.stderr.contains("--plot /nowhere/x.svg"), "{}", ended.stderr);
}

#[test]
fn a_backend_that_this_build_lacks_is_named_with_its_feature() {
    // Other members of the workspace may enable further features of the command. So the test reads from the command's
    // output which backends the command has.
    let info = run(&["info"]).stdout;
    let has = |name: &&str| info.lines().any(|row| row.split_whitespace().next() == Some(*name));
    for name in ["mpi", "nccl"].iter().filter(|name| !has(name)) {
        let ended = run(&["perf", "--backend", name, "--ops", "barrier", "--iters", "1"]);
        assert!(!ended.status.success());
        let words = [format!("no backend is named {name:?}"), format!("the cargo feature `{name}`")];
        assert!(words.iter().all(|words| ended.stderr.contains(words)), "{}", ended.stderr);
    }
}
