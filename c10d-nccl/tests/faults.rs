//! Faults of NCCL and CUDA. Each test gives the simulated NCCL and CUDA a script (`fake/src/fault.rs`) that says which
//! faults happen. Every call ends in time with the reason, and the group stays failed.

use crate::common;

use std::time::Duration;

use c10d_core::{Error, ErrorKind, ProcessGroup, ReduceOp, Result, op};
use common::{SECOND, builder, on, with_fake, within};

/// A limit that is reached only if something hangs.
const CAP: Duration = Duration::from_secs(100);
/// A timeout for ops that the script does not let end.
const SHORT: Duration = Duration::from_secs(2);
/// A timeout for ops that must end, by success or by an error, before the timeout, even on a busy machine.
const LONG: Duration = Duration::from_secs(60);

/// Makes a group of two ranks, and runs `body` on each. Returns the results, or the error for both ranks if the group
/// cannot be made.
fn two(body: impl Fn(&ProcessGroup) -> Result + Sync) -> Vec<Result> {
    let made = builder().timeout(LONG).run_ranks(2, |pg| Ok(body(&pg)));
    made.unwrap_or_else(|e| vec![Err(e.clone()), Err(e)])
}

fn reduce(pg: &ProcessGroup) -> Result {
    reduce_within(pg, LONG)
}

fn reduce_within(pg: &ProcessGroup, timeout: Duration) -> Result {
    let mut x = on(pg.rank(), &[1f32; 1000]);
    pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).map_err(c10d_core::Error::from)
}

fn error(result: &Result) -> &Error {
    result.as_ref().expect_err("must fail")
}

/// The script makes the second op hang. Checks that this op ends at its deadline with an error that has these words,
/// and that the group stays failed with this cause.
fn ends_in_time(test: &str, script: &str, words: &'static str) {
    ends_within(SHORT, test, script, words);
}

/// The same as [`ends_in_time`], but with this timeout. With `LONG`, the script's fault ends the second op before its
/// deadline.
fn ends_within(timeout: Duration, test: &str, script: &str, words: &'static str) {
    with_fake(test, script, move || {
        let results = within(CAP, || {
            two(|pg| {
                reduce(pg)?;
                let first = reduce_within(pg, timeout).expect_err("the script hangs the second");
                let later = reduce(pg).expect_err("the group is failed");
                assert_eq!(later.report().what, first.report().what, "the first cause stays");
                assert_eq!(pg.failure().map(|e| e.report().what.clone()), Some(first.report().what.clone()));
                Err(first)
            })
        });
        for result in &results {
            let e = error(result);
            assert!(e.to_string().contains(words), "{e}");
            assert!(e.report().op.is_some() && e.report().seq == Some(1), "{e}");
        }
    });
}

#[test]
fn a_kernel_that_never_ends_is_a_timeout() {
    ends_in_time("a_kernel_that_never_ends_is_a_timeout", "hang=1", "did not end in time");
}

#[test]
fn a_call_that_is_never_put_on_the_stream_is_a_timeout() {
    ends_in_time("a_call_that_is_never_put_on_the_stream_is_a_timeout", "issue=1", "did not end in time");
}

#[test]
fn an_event_query_that_hangs_is_named() {
    ends_in_time("an_event_query_that_hangs_is_named", "query=1", "inside cuEventQuery");
}

#[test]
fn an_asynchronous_error_has_the_librarys_text() {
    let words = "the fault script ends the connection";
    ends_within(LONG, "an_asynchronous_error_has_the_librarys_text", "error=1", words);
}

#[test]
fn memory_that_no_adapter_can_lock_is_a_resource_that_ran_out() {
    let words = "no locked memory left (";
    ends_within(LONG, "memory_that_no_adapter_can_lock_is_a_resource_that_ran_out", "unregistered=1", words);
}

#[test]
fn a_lost_context_says_what_to_do() {
    ends_within(LONG, "a_lost_context_says_what_to_do", "lost=1", "the CUDA context is lost: restart this process");
}

#[test]
fn a_message_that_does_not_come_names_its_sender() {
    with_fake("a_message_that_does_not_come_names_its_sender", "", || {
        let errors = within(CAP, || {
            builder().timeout(LONG).run_ranks(2, |pg| {
                if pg.rank() == 1 {
                    return Ok(None);
                }
                let mut x = on(0, &[1f32; 10]);
                Ok(pg.run(op::recv(&mut x, 1, 0).timeout(SHORT)).err().map(|e| e.error))
            })
        });
        let e = errors.unwrap().swap_remove(0).expect("nothing comes");
        assert_eq!((e.kind(), &*e.report().guilty), (&ErrorKind::Timeout, &[1][..]), "{e}");
    });
}

#[test]
fn calls_end_although_an_abort_hangs() {
    with_fake("calls_end_although_an_abort_hangs", "hang=0,abort=hang", || {
        let results = within(CAP, || {
            two(|pg| {
                let x = on(pg.rank(), &[1f32; 1000]);
                let ended = pg.start(op::all_reduce(x, ReduceOp::Sum).timeout(SHORT)).wait();
                let e = ended.expect_err("the script hangs it");
                // The hung op may still write to the buffer's memory. The backend has retained this memory, so it is
                // not reused, and the buffer may be returned.
                assert!(e.buffer.is_some());
                Err(e.error)
            })
        });
        for result in &results {
            assert_eq!(*error(result).kind(), ErrorKind::Timeout, "{}", error(result));
        }
    });
}

#[test]
fn abort_ends_what_is_in_flight() {
    with_fake("abort_ends_what_is_in_flight", "hang=0", || {
        let results = within(CAP, || {
            two(|pg| {
                let x = on(pg.rank(), &[1f32; 10]);
                let work = pg.start(op::all_reduce(x, ReduceOp::Sum));
                pg.abort("enough");
                Err(work.wait().expect_err("aborted").error)
            })
        });
        assert!(results.iter().all(|r| *error(r).kind() == ErrorKind::Aborted), "{results:?}");
    });
}

#[test]
fn a_rank_that_hangs_in_init_is_named() {
    with_fake("a_rank_that_hangs_in_init_is_named", "init=hang,rank=1", || {
        let errors = std::sync::Mutex::new(Vec::new());
        let store: std::sync::Arc<dyn c10d_core::Store> = std::sync::Arc::new(c10d_core::HashStore::new());
        within(CAP, || {
            std::thread::scope(|s| {
                for rank in 0..2 {
                    let (errors, store) = (&errors, store.clone());
                    s.spawn(move || {
                        let made = builder().timeout(2 * SECOND).rank(rank).size(2).store(store).build();
                        errors.lock().unwrap().push((rank, made.expect_err("never ready")));
                    });
                }
            });
        });
        for (rank, e) in errors.into_inner().unwrap() {
            assert_eq!(*e.kind(), ErrorKind::Timeout, "{e}");
            if rank == 0 {
                assert_eq!(e.report().guilty, [1], "{e}");
            } else {
                assert!(e.to_string().contains("inside ncclCommInitRankConfig"), "{e}");
            }
        }
    });
}

#[test]
fn a_communicator_that_is_never_ready() {
    with_fake("a_communicator_that_is_never_ready", "init=progress", || {
        let made = within(CAP, || builder().timeout(2 * SECOND).run_ranks(2, |_| Ok(())));
        let e = made.expect_err("never ready");
        assert!(e.to_string().contains("not ready in time"), "{e}");
    });
}

#[test]
fn receiving_from_anybody_is_not_offered() {
    with_fake("receiving_from_anybody_is_not_offered", "", || {
        let results = two(|pg| {
            let mut x = on(pg.rank(), &[1f32; 4]);
            let e = pg.recv_any_source(&mut x, 0).map(drop).expect_err("NCCL has no call for it");
            assert_eq!(*e.kind(), ErrorKind::Unsupported, "{e}");
            // The call was not sent, so the group can still be used.
            reduce(pg)
        });
        assert!(results.iter().all(Result::is_ok), "{results:?}");
    });
}
