//! A C plugin's collectives in a group, and the effects on callers when the plugin misbehaves.

use crate::common;

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use c10d_core::{Builder, DType, DispatchKey, Error, ErrorKind, OpKind, ReduceOp, Result, op};
use c10d_privateuse::{Rule, Search, Verdict};

/// A limit that is reached only if something hangs.
const CAP: Duration = Duration::from_secs(20);

fn load(path: &Path, name: &str) -> Builder {
    let report = Search::new().file(path).load();
    assert_eq!(report.decisions[0].verdict, Verdict::Loaded, "{}", report.decisions[0]);
    assert_eq!(report.decisions[0].name.as_deref(), Some(name));
    Builder::new().providers(&report.providers).backend(&format!("cpu:{name}")).timeout(CAP)
}

/// Loads the plugin of `sum.c` with this mode. Further definitions may follow the mode. The plugin's file is deleted
/// when this returns.
fn bad(mode: &str) -> Builder {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = common::directory();
    // Each plugin that a process loads needs a new name.
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let word = mode.split(' ').next().unwrap_or_default();
    let name = format!("bad-{}-{n}", word.to_lowercase().replace('_', "-"));
    load(&common::sum(dir.path(), &name, mode), &name)
}

/// Checks the kind of the error, and that its text has these words.
fn names_it(e: &Error, kind: &ErrorKind, words: &[&str]) {
    assert_eq!(e.kind(), kind, "{e}");
    for word in words {
        assert!(e.to_string().contains(word), "{e} does not say {word:?}");
    }
}

/// Whether an overloaded machine, and not the plugin, may be the cause of the error.
fn starved(e: &Error) -> bool {
    let words = e.to_string();
    *e.kind() == ErrorKind::Timeout || ["has not released", "did not release"].iter().any(|late| words.contains(late))
}

/// Runs an op that must fail by its deadline. If the machine may have been overloaded, runs the op again with a longer
/// timeout, at most a few times.
fn fails(attempt: impl Fn(Duration) -> Vec<Error>) -> Vec<Error> {
    let mut timeout = Duration::from_secs(1);
    loop {
        let errors = attempt(timeout);
        if !errors.iter().any(starved) || timeout > CAP {
            return errors;
        }
        timeout *= 2;
    }
}

/// Waits until `there` returns `true`. Fails the test after a minute.
fn wait_for(what: &str, there: impl Fn() -> bool) {
    let end = Instant::now() + 3 * CAP;
    while !there() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_c_plugin_reduces_in_every_form() {
    let dir = common::directory();
    let builder = load(&common::sum(dir.path(), "sum", "HONEST"), "sum");
    for world in 1..=4 {
        let sums = builder.clone().run_ranks(world, |pg| {
            assert_eq!(pg.backend(DispatchKey::Cpu)?, "sum");
            let mut x = vec![pg.rank() as f32 + 1.0; 1000];
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            let y = pg.start(op::all_reduce(vec![1f32; 3], ReduceOp::Sum)).wait()?;
            let mut z = [2f32; 5];
            pg.scope(|s| s.start(op::all_reduce(&mut z, ReduceOp::Sum)).wait())?;
            pg.all_reduce(&mut [0f32; 0], ReduceOp::Sum)?;
            pg.barrier()?;
            let e = pg.all_reduce(&mut [1f64], ReduceOp::Sum).unwrap_err();
            assert_eq!(*e.kind(), ErrorKind::Unsupported);
            let out = (x[0], x[999], y, z);
            pg.shutdown()?;
            Ok(out)
        });
        let n = world as f32;
        let sum = n * (n + 1.0) / 2.0;
        assert_eq!(sums.unwrap(), vec![(sum, sum, vec![n; 3], [2.0 * n; 5]); world as usize]);
    }
}

#[test]
fn messages_of_a_batch_are_submitted_together() {
    let pg_of = bad("BATCHES_ONLY");
    pg_of
        .run_ranks(2, |pg| {
            let other = 1 - pg.rank();
            for round in 0..20u8 {
                let sends = (0..3).map(|tag| op::send(vec![f32::from(round); 2], other, tag)).collect();
                let receives = (0..3).rev().map(|tag| op::recv(vec![0f32; 2], other, tag)).collect();
                let (sent, received) = pg.batch(sends, receives);
                for work in received {
                    assert_eq!(work.wait()?, [f32::from(round); 2]);
                }
                sent.into_iter().try_for_each(|work| work.wait().map(drop))?;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn a_batch_keeps_the_order_of_messages() {
    let dir = common::directory();
    load(&common::sum(dir.path(), "sum-behind", "HONEST"), "sum-behind")
        .run_ranks(2, |pg| {
            let other = 1 - pg.rank();
            for _ in 0..20 {
                // Messages with one tag arrive in the order in which they were started, in a batch or not.
                let first = pg.start(op::recv(vec![0f32], other, 2));
                let (_, second) = pg.batch::<Vec<f32>, _>(Vec::new(), vec![op::recv(vec![0f32], other, 2)]);
                let third = pg.start(op::recv(vec![0f32], other, 2));
                let sent = pg.start(op::send(vec![1f32], other, 2));
                let (batch, _) = pg.batch::<_, Vec<f32>>(vec![op::send(vec![2f32], other, 2)], Vec::new());
                let last = pg.start(op::send(vec![3f32], other, 2));
                assert_eq!(first.wait()?, [1.0]);
                assert_eq!(second.into_iter().next().unwrap().wait()?, [2.0]);
                assert_eq!(third.wait()?, [3.0]);
                for work in [sent, last].into_iter().chain(batch) {
                    work.wait()?;
                }
            }
            Ok(())
        })
        .unwrap();
}

/// Loads the plugin of `sum.c` with this mode as a trusted plugin.
fn trusted(mode: &str, name: &str) -> Builder {
    let dir = common::directory();
    let report = Search::new().trust(name).file(common::sum(dir.path(), name, mode)).load();
    assert!(report.decisions[0].detail.contains("trusted"), "{}", report.decisions[0]);
    assert_eq!(report.decisions.len(), 1, "{}", report.decisions[1]);
    Builder::new().providers(&report.providers).backend(&format!("cpu:{name}")).timeout(CAP)
}

#[test]
fn a_trusted_name_without_a_plugin_is_reported() {
    let report = Search::new().trust("acmee").load();
    assert_eq!(report.decisions.len(), 1);
    assert_eq!((report.decisions[0].verdict, report.decisions[0].rule), (Verdict::Skipped, Some(Rule::Filter)));
    assert!(report.decisions[0].detail.contains("\"acmee\""), "{}", report.decisions[0]);
}

#[test]
fn a_trusted_plugin_works_on_the_callers_memory() {
    // The plugin writes the address of its output to the output. `seen` compares it with the address of `x`.
    let (copied, own) = (bad("ADDRESS").build().unwrap(), trusted("ADDRESS", "trusted-address").build().unwrap());
    let seen = |pg: &c10d_core::ProcessGroup, x: &mut [f32]| {
        let at = x.as_ptr() as usize;
        pg.all_reduce(&mut *x, ReduceOp::Sum).unwrap();
        at == x[..2].iter().rev().fold(0, |at, half| at << 32 | half.to_bits() as usize)
    };
    let mut x = [0f32; 16];
    assert!(!seen(&copied, &mut x));
    assert!(seen(&own, &mut x));
}

#[test]
fn a_trusted_plugin_that_is_late_has_the_memory_until_it_answers() {
    let dir = common::directory();
    let gate = dir.path().join("gate");
    let pg = trusted(&format!("LATE GATE=\"{}\"", gate.display()), "trusted-late").build().unwrap();
    let done = std::thread::scope(|s| {
        s.spawn(|| {
            wait_for("the group fails", || pg.failure().is_some());
            std::fs::write(&gate, "").unwrap();
        });
        pg.run(op::all_reduce(&mut [1f32; 64], ReduceOp::Sum).timeout(Duration::from_millis(300)))
            .map(drop)
            .map_err(Error::from)
    });
    // The late answer is accepted, but the group has failed already because the plugin is late.
    assert!(done.is_ok(), "{done:?}");
    let e = pg.barrier().unwrap_err();
    assert!(matches!(e.kind(), ErrorKind::Plugin | ErrorKind::Internal), "{e}");
    assert!(e.to_string().contains("trusted-late"), "{e}");
}

#[test]
fn types_that_an_op_does_not_take_are_refused() {
    let dir = common::directory();
    load(&common::sum(dir.path(), "sum-types", "HONEST"), "sum-types")
        .run_ranks(2, |pg| {
            let e = pg.send(&[1u8], 1 - pg.rank(), 0).unwrap_err();
            names_it(&e, &ErrorKind::Unsupported, &["send of u8", "sum-types"]);
            let offers = pg.capabilities(DispatchKey::Cpu)?;
            let offered = |op| offers.offers(op, DType::U8, ReduceOp::Sum);
            assert!(offered(OpKind::Recv) && !offered(OpKind::Send));
            Ok(())
        })
        .unwrap();
}

#[test]
fn an_error_while_no_call_waits_is_reported() {
    let pg = bad("FAILS_IDLE").build().unwrap();
    assert!(pg.failure().is_none());
    pg.all_reduce(&mut [1f32], ReduceOp::Sum).unwrap();
    wait_for("the group reports the plugin's error", || pg.failure().is_some());
    let error = pg.failure().unwrap();
    assert!(matches!(error.kind(), ErrorKind::PeerDead { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("its process is gone") && text.contains("bad-fails-idle"), "{error}");
    assert_eq!(error.report().guilty, [0]);
    assert_eq!(pg.barrier().unwrap_err().report().what, error.report().what);
}

#[test]
fn a_waiting_receive_does_not_delay_a_send() {
    let dir = common::directory();
    let builder = load(&common::sum(dir.path(), "sum-p2p", "HONEST"), "sum-p2p");
    builder
        .run_ranks(2, |pg| {
            let other = 1 - pg.rank();
            // Each rank waits for the other's message before it sends its own.
            let got = pg.start(op::recv(vec![0f32; 2], other, 0));
            pg.send(&[pg.rank() as f32; 2], other, 0)?;
            assert_eq!(got.wait()?, [other as f32; 2]);
            Ok(())
        })
        .unwrap();
}

/// Runs one op by `run`, one by `start` and one in a scope, each in a new group. Returns the errors.
fn each_form(builder: &Builder) -> Vec<Error> {
    let group = || builder.clone().build().unwrap();
    fails(|timeout| {
        let mut x = [1f32; 64];
        vec![
            group().run(op::all_reduce(&mut [1f32; 64], ReduceOp::Sum).timeout(timeout)).unwrap_err().error,
            group().start(op::all_reduce(vec![1f32; 64], ReduceOp::Sum).timeout(timeout)).wait().unwrap_err().error,
            group().scope(|s| s.start(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).wait()).unwrap_err(),
        ]
    })
}

#[test]
fn a_plugin_that_hangs_in_submit_is_named() {
    for e in each_form(&bad("HANG_IN_SUBMIT")) {
        names_it(&e, &ErrorKind::Plugin, &["bad-hang-in-submit", "submit(all_reduce)", "did not return"]);
    }
}

#[test]
fn a_plugin_that_never_answers_is_named() {
    for e in each_form(&bad("NEVER_DONE")) {
        names_it(&e, &ErrorKind::Plugin, &["bad-never-done", "submit(all_reduce)", "did not call `done`"]);
    }
}

#[test]
fn operations_queued_after_an_operation_that_hangs_end_in_time() {
    let builder = bad("HANG_IN_SUBMIT");
    let errors = fails(|timeout| {
        let pg = builder.clone().build().unwrap();
        let start = |_| pg.start(op::all_reduce(vec![1f32; 4], ReduceOp::Sum).timeout(timeout));
        let works: Vec<_> = (0..4).map(start).collect();
        let mut errors: Vec<_> = works.into_iter().map(|work| work.wait().unwrap_err().error).collect();
        errors.push(pg.barrier().unwrap_err());
        errors
    });
    for e in errors {
        names_it(&e, &ErrorKind::Plugin, &["bad-hang-in-submit"]);
    }
}

#[test]
fn owned_buffers_of_an_operation_that_never_ends_are_lost_and_not_reused() {
    let builder = bad("NEVER_DONE");
    fails(|timeout| {
        let pg = builder.clone().build().unwrap();
        let lost = pg.start(op::all_reduce(vec![1f32; 64], ReduceOp::Sum).timeout(timeout)).wait().unwrap_err();
        assert!(lost.buffer.is_none() || starved(&lost.error), "{}", lost.error);
        vec![lost.error]
    });
}

#[test]
fn a_late_answer_writes_nothing_and_is_not_a_second_fault() {
    let dir = common::directory();
    let (gate, answered) = (dir.path().join("gate"), dir.path().join("gate.answered"));
    let builder = bad(&format!("LATE GATE=\"{}\"", gate.display()));
    let errors = fails(|timeout| {
        let mut x = vec![1f32; 64];
        vec![
            builder
                .clone()
                .build()
                .unwrap()
                .run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout))
                .unwrap_err()
                .error,
        ]
    });
    names_it(&errors[0], &ErrorKind::Plugin, &["bad-late"]);
    std::fs::write(gate, "").unwrap();
    wait_for("the plugin answers", || answered.exists());
    // Being late does not break the plugin's contract: a new group can be made.
    builder.build().unwrap();
}

#[test]
fn a_plugin_may_answer_from_another_thread() {
    let pg = bad("LATER").build().unwrap();
    pg.all_reduce(&mut [1f32], ReduceOp::Sum).unwrap();
    pg.start(op::all_reduce(vec![1f32; 7], ReduceOp::Sum)).wait().unwrap();
}

/// Runs ops until one fails. Returns the error.
fn soon(pg: &c10d_core::ProcessGroup) -> Error {
    let run = || pg.all_reduce(&mut [1f32; 8], ReduceOp::Sum).map(drop);
    let end = Instant::now() + CAP;
    loop {
        match run() {
            Err(e) => return e,
            Ok(_) => assert!(Instant::now() < end, "no op failed"),
        }
    }
}

/// Rank 0 only reads its buffer of the reduce, and rank 1 its buffer of the broadcast. These two buffers must not
/// change, although the plugin writes to its copies of them.
#[test]
fn a_buffer_that_a_rank_only_reads_stays_unchanged() {
    let dir = common::directory();
    let file = common::plugin("rooted.c", &dir.path().join("x.so"), &["NAME=\"scribbles\"", "SCRIBBLES"]);
    let got = load(&file, "scribbles").run_ranks(2, |pg| {
        let mine = pg.rank() as i32 + 1;
        let (mut reduced, mut sent) = ([mine; 3], [mine; 3]);
        pg.reduce(&mut reduced, ReduceOp::Sum, 1)?;
        pg.broadcast(&mut sent, 1)?;
        Ok((reduced, sent))
    });
    assert_eq!(got.unwrap(), [([1; 3], [2; 3]), ([3; 3], [2; 3])]);
}

#[test]
fn a_plugin_that_answers_twice_is_named() {
    let pg = bad("TWICE").build().unwrap();
    names_it(&soon(&pg), &ErrorKind::Plugin, &["bad-twice", "done", "twice"]);
}

#[test]
fn a_plugin_that_answers_an_unknown_token_is_named_and_not_used_again() {
    let builder = bad("UNKNOWN_TOKEN");
    let pg = builder.clone().build().unwrap();
    names_it(&soon(&pg), &ErrorKind::Plugin, &["bad-unknown-token", "done", "does not exist"]);
    // The host refuses to make further groups with this plugin.
    names_it(&builder.build().unwrap_err(), &ErrorKind::Plugin, &["bad-unknown-token"]);
}

#[test]
fn a_plugin_that_returns_unknown_codes_is_named() {
    for e in each_form(&bad("ODD_STATUS")) {
        names_it(&e, &ErrorKind::Plugin, &["bad-odd-status", "4711"]);
    }
    for e in each_form(&bad("ODD_RETURN")) {
        names_it(&e, &ErrorKind::Plugin, &["bad-odd-return", "-7"]);
    }
    for e in each_form(&bad("NO_RESULT")) {
        names_it(&e, &ErrorKind::Plugin, &["bad-no-result", "no result"]);
    }
}

#[test]
fn a_plugin_that_ends_an_operation_and_returns_an_error_is_named() {
    let pg = bad("BOTH").build().unwrap();
    names_it(&soon(&pg), &ErrorKind::Plugin, &["bad-both", "as well", "and an error"]);
}

#[test]
fn a_plugin_that_hangs_while_the_group_is_made_is_named() {
    let builder = bad("HANG_IN_CREATE");
    let errors = fails(|timeout| vec![builder.clone().timeout(timeout).build().unwrap_err()]);
    names_it(&errors[0], &ErrorKind::Plugin, &["bad-hang-in-create", "create_group"]);
}

#[test]
fn a_plugin_that_answers_after_its_group_is_destroyed_is_named() {
    let builder = bad("AFTER_DESTROY");
    let (first, second) = (builder.clone().build().unwrap(), builder.build().unwrap());
    first.all_reduce(&mut [1f32], ReduceOp::Sum).unwrap();
    second.all_reduce(&mut [1f32], ReduceOp::Sum).unwrap();
    drop(first);
    names_it(&soon(&second), &ErrorKind::Plugin, &["bad-after-destroy", "done"]);
}

#[test]
fn a_mismatch_is_named_from_the_fingerprints() {
    let pg = bad("MISMATCHED").build().unwrap();
    let e = pg.all_reduce(&mut [1f32; 8], ReduceOp::Sum).unwrap_err();
    let ErrorKind::Mismatch { field, mine, theirs } = e.kind() else { panic!("{e}") };
    assert_eq!((*field, mine.as_str(), theirs.as_str()), ("count", "8", "9"));
    assert_eq!(e.report().guilty, [0]);
}

#[test]
fn a_mismatch_has_the_field_that_the_plugin_names() {
    let pg = bad("MISMATCHED FIELD=\"type\"").build().unwrap();
    let e = pg.all_reduce(&mut [1f32; 8], ReduceOp::Sum).unwrap_err();
    let ErrorKind::Mismatch { field, mine, theirs } = e.kind() else { panic!("{e}") };
    assert_eq!((*field, mine.as_str(), theirs.as_str()), ("type", "8", "9"));
}

/// A rank of c-collectives dies while the other rank waits for it to make a group.
#[test]
fn a_rank_that_dies_while_c_collectives_makes_a_group_is_named() {
    let dir = common::directory();
    let program = dir.path().join("meet");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/c/meet.c");
    let include = format!("-I{}", common::include().display());
    let words = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", &include].map(std::ffi::OsStr::new);
    common::cc(words.into_iter().chain([source.as_os_str(), "-o".as_ref(), program.as_os_str()]));
    for (when, rank) in [("seated", 1), ("first", 0), ("split", 1)] {
        let out = std::process::Command::new(&program).arg(when).output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        assert_eq!(text, format!("dead: rank {rank}: its process has ended\n"), "{when}");
    }
}

#[test]
fn abort_from_another_thread_ends_an_op_that_hangs() -> Result {
    // The timeout is so long that no deadline ends the op.
    let pg = bad("NEVER_DONE").timeout(Duration::from_secs(3600)).build()?;
    let work = pg.start(op::all_reduce(vec![1f32; 4], ReduceOp::Sum));
    std::thread::scope(|s| s.spawn(|| pg.abort("enough")).join()).unwrap();
    let e = work.wait().unwrap_err().error;
    names_it(&e, &ErrorKind::Aborted, &["enough"]);
    Ok(())
}

/// A waker that panics. It is called on the thread on which the plugin reports the end of the operation.
struct Alarm;

impl std::task::Wake for Alarm {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("a waker's panic");
    }
}

#[test]
fn wakers_that_panic_do_not_affect_later_ops() {
    use std::future::Future;
    let dir = common::directory();
    let builder = load(&common::sum(dir.path(), "alarmed", "HONEST"), "alarmed");
    let sums = builder.run_ranks(2, |pg| {
        let waker = std::sync::Arc::new(Alarm).into();
        let mut woken = 0;
        while woken < 3 {
            let mut work = pg.start(op::all_reduce(vec![1f32; 1000], ReduceOp::Sum));
            // If the op ended before the poll, no waker is called.
            let late = std::pin::Pin::new(&mut work).poll(&mut std::task::Context::from_waker(&waker)).is_pending();
            let mut all = [u32::from(late) as f32];
            pg.all_reduce(&mut all, ReduceOp::Sum)?;
            woken += all[0] as u32;
        }
        let sum = pg.all_reduce(vec![1f32], ReduceOp::Sum)?;
        // The shutdown succeeds only if every operation was counted as ended.
        pg.shutdown_within(CAP).map(|()| sum)
    });
    assert_eq!(sums.unwrap(), [[2.0]; 2]);
}
