//! Tests with devices that hang, stall or fail in the middle of an op. By the deadline, the caller must get an error
//! that names the device.

use crate::common;

use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use c10d_core::device::{DeviceBuffer, DeviceRuntime};
use c10d_core::{Builder, Error, ErrorKind, ProcessGroup, ReduceOp, op};
use c10d_guarded::{Guarded, What};
use common::{CAP, returns};

/// A timeout that expires in these tests.
const SHORT: Duration = Duration::from_millis(300);

/// The calls of the device runtime that an op makes.
const CALLS: [&str; 9] =
    ["retain", "create_stream", "create_event", "allocate_host", "record", "wait", "copy_out", "query", "copy_in"];
/// The calls that an op makes before the device gets any data of the op.
const EARLY: [&str; 2] = ["create_stream", "create_event"];

fn buffer(runtime: &Arc<Guarded>, index: u16, count: usize) -> DeviceBuffer {
    let device: Arc<dyn DeviceRuntime> = runtime.clone();
    DeviceBuffer::from_slice(&device, index, &vec![1f32; count], CAP).unwrap()
}

/// Makes a group of one rank, whose ops run in rounds of 256 bytes.
fn alone(builder: &Builder) -> ProcessGroup {
    builder.clone().hint("staged.chunk", "256").build().unwrap()
}

/// Runs an op that fails by its deadline with this text. If the machine was too busy to call the device, the error is
/// different, and the op runs again with a longer timeout. After each attempt the device recovers.
fn fails(
    runtime: &Arc<Guarded>,
    how: &str,
    attempt: impl Fn(Duration) -> Vec<Error> + Send + Sync + 'static,
) -> Vec<Error> {
    let attempt = Arc::new(attempt);
    let mut timeout = SHORT;
    loop {
        let attempt = attempt.clone();
        let errors = returns(move || attempt(timeout));
        runtime.recover();
        if errors.iter().all(|e| e.to_string().contains(how)) || timeout > CAP / 4 {
            return errors;
        }
        timeout *= 2;
    }
}

/// Waits until `holds` returns `true`. Fails the test after [`CAP`].
fn until(what: &str, holds: impl Fn() -> bool) {
    let end = Instant::now() + CAP;
    while !holds() {
        assert!(Instant::now() < end, "not in time: {what}");
        std::thread::yield_now();
    }
}

fn names_device_and_call(error: &Error, call: &str) {
    assert_eq!(*error.kind(), ErrorKind::Device, "{error}");
    let text = error.to_string();
    for word in ["hangs:0", &format!("stuck in {call} for"), "all_reduce", "hangs staged by gloo-like"] {
        assert!(text.contains(word), "{word:?} is missing: {text}");
    }
}

#[test]
fn the_error_names_the_device_and_the_call_that_hang() {
    let (runtime, builder) = staged!("hangs");
    for call in CALLS {
        for form in ["blocking", "owned", "scoped"] {
            if call == "retain" && form != "owned" {
                // The memory is not retained yet, so a call with borrowed memory must wait for the device.
                continue;
            }
            let (device, builder, how) = (runtime.clone(), builder.clone(), format!("stuck in {call} for"));
            let stuck = how.clone();
            let errors = fails(&runtime, &how, move |timeout| {
                let pg = alone(&builder);
                let mut x = buffer(&device, 0, 200);
                device.hang(0, call);
                let error = match form {
                    "blocking" => {
                        pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).unwrap_err().error
                    }
                    "owned" => {
                        let op = op::all_reduce(x, ReduceOp::Sum).timeout(timeout);
                        let failed = pg.start(op).wait().unwrap_err();
                        // The device may still use the memory that it got, so the memory is leaked.
                        let early = EARLY.contains(&call) || !failed.error.to_string().contains(&stuck);
                        assert!(failed.buffer.is_none() || early, "{call}: {failed}");
                        failed.error
                    }
                    _ => {
                        let op = op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout);
                        pg.scope(|s| s.start(op).wait().map(drop)).unwrap_err()
                    }
                };
                assert!(pg.failure().is_some());
                vec![error]
            });
            names_device_and_call(&errors[0], call);
        }
    }
}

#[test]
fn a_call_that_returns_late_starts_no_further_work() {
    let (runtime, builder) = staged!("late");
    let device = runtime.clone();
    let errors = fails(&runtime, "stuck in copy_out", move |timeout| {
        let pg = alone(&builder);
        let mut x = buffer(&device, 0, 2000);
        device.hang(0, "copy_out");
        let error = pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).unwrap_err().error;
        device.start_log();
        vec![error]
    });
    assert!(errors[0].to_string().contains("stuck in copy_out"), "{}", errors[0]);
    until("the call returns", || runtime.hanging() == 0);
    // A thread that continued the op would make its next call within this time.
    std::thread::sleep(Duration::from_millis(20));
    let given: Vec<_> = runtime.log().into_iter().filter(|entry| !entry.ran).collect();
    assert!(given.len() <= 1, "only the call that hung may go on: {given:?}");
}

#[test]
fn borrowed_memory_that_cannot_be_retained_is_waited_for() {
    let (runtime, builder) = staged!("forgets");
    let (device, group) = (runtime.clone(), builder.clone());
    fails(&runtime, "stuck in copy_in", move |timeout| {
        let (pg, mut x) = (alone(&group), buffer(&device, 0, 200));
        device.forget();
        device.hang(0, "copy_in");
        let error = std::thread::scope(|s| {
            s.spawn(|| {
                // After the op's deadline the group has failed, but the call has not returned yet.
                while pg.failure().is_none() {
                    std::thread::sleep(Duration::from_millis(5));
                }
                device.start_log();
                device.recover();
            });
            pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).unwrap_err().error
        });
        // The copy that hung has run before the call returned.
        let over = device.log().iter().any(|entry| entry.what == What::CopyIn && entry.ran);
        assert!(over || !error.to_string().contains("stuck"), "{error}");
        vec![error]
    });
    // If the op owns the memory, the memory is leaked instead.
    let device = runtime.clone();
    fails(&runtime, "stuck in copy_in", move |timeout| {
        let (pg, x) = (alone(&builder), buffer(&device, 0, 200));
        device.forget();
        device.hang(0, "copy_in");
        let failed = pg.start(op::all_reduce(x, ReduceOp::Sum).timeout(timeout)).wait().unwrap_err();
        assert!(failed.buffer.is_none() || !failed.error.to_string().contains("stuck"), "{failed}");
        vec![failed.error]
    });
}

#[test]
fn a_device_that_stalls_is_named_and_late_work_finds_its_memory() {
    let (runtime, builder) = staged!("stalls");
    let (device, how) = (runtime.clone(), "device stalls:0 did not finish a copy to the host in time");
    let errors = fails(&runtime, how, move |timeout| {
        let pg = alone(&builder);
        let mut x = buffer(&device, 0, 200);
        let before = device.allocations();
        device.stall(0);
        let error = pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).unwrap_err().error;
        // The memory is freed while the device still has queued copies of it.
        drop(x);
        assert!(device.allocations() == before || !error.to_string().contains(how), "the memory must be retained");
        vec![error]
    });
    assert_eq!(*errors[0].kind(), ErrorKind::Timeout, "{}", errors[0]);
    assert!(errors[0].to_string().contains(how), "{}", errors[0]);
}

#[test]
fn a_devices_error_reaches_all_ranks() {
    let (runtime, builder) = staged!("fails");
    for fault in ["copy_out", "copy_in", "query", "a copy"] {
        let (device, builder) = (runtime.clone(), builder.clone().hint("staged.chunk", "256"));
        let errors = returns(move || {
            builder
                .run_ranks(2, |pg| {
                    let index = pg.rank() as u16;
                    let mut x = buffer(&device, index, 500);
                    pg.barrier()?;
                    match fault {
                        _ if pg.rank() == 0 => {}
                        "a copy" => device.fail_copy(1, 5, "parity error"),
                        call => device.fail(1, call, "parity error"),
                    }
                    let error = pg.all_reduce(&mut x, ReduceOp::Sum).map(drop).unwrap_err();
                    Ok(error)
                })
                .unwrap()
        });
        let text = errors[1].to_string();
        assert_eq!(*errors[1].kind(), ErrorKind::Device, "{text}");
        assert!(text.contains("parity error") && text.contains("device fails:1"), "{text}");
        assert!(fault == "a copy" || text.contains(&format!("{fault}: parity error")), "{text}");
        assert_eq!(errors[0].report().guilty, [1], "{}", errors[0]);
        runtime.recover();
    }
}

#[test]
fn peers_get_the_error_although_no_caller_waits() {
    let (runtime, builder) = staged!("unheard");
    let errors = returns(move || {
        let heard = Barrier::new(2);
        builder
            .timeout(3 * CAP)
            .run_ranks(2, |pg| {
                let mut x = buffer(&runtime, pg.rank() as u16, 500);
                pg.barrier()?;
                if pg.rank() == 1 {
                    runtime.fail(1, "copy_in", "parity error");
                    let work = pg.start(op::all_reduce(x, ReduceOp::Sum));
                    heard.wait();
                    return Ok(work.wait().map(drop).unwrap_err().error);
                }
                let error = pg.all_reduce(&mut x, ReduceOp::Sum).and_then(|_| pg.barrier()).unwrap_err();
                heard.wait();
                Ok(error)
            })
            .unwrap()
    });
    assert_eq!(errors[0].report().guilty, [1], "{}", errors[0]);
}

#[test]
fn ops_queued_after_an_op_that_hangs_end_with_it() {
    let (runtime, builder) = staged!("queue");
    let device = runtime.clone();
    let errors = fails(&runtime, "stuck in copy_out", move |timeout| {
        let pg = alone(&builder);
        device.hang(0, "copy_out");
        let start = || pg.start(op::all_reduce(buffer(&device, 0, 10), ReduceOp::Sum).timeout(timeout));
        let works = [start(), start(), start()];
        let to_self = op::all_to_all_single(buffer(&device, 0, 4), buffer(&device, 0, 4)).timeout(timeout);
        let to_self = pg.start(to_self);
        let mut errors: Vec<Error> = works.into_iter().map(|work| work.wait().unwrap_err().error).collect();
        errors.push(to_self.wait().unwrap_err().error);
        errors
    });
    for error in errors {
        assert!(error.to_string().contains("queue:0 has been stuck in copy_out"), "{error}");
    }
}

#[test]
fn a_queued_op_keeps_its_own_deadline() {
    let (runtime, builder) = staged!("line");
    let device = runtime.clone();
    let errors = fails(&runtime, "which still waits for other ranks", move |timeout| {
        let heard = Barrier::new(2);
        let errors = builder.clone().timeout(Duration::from_secs(3600)).run_ranks(2, |pg| {
            pg.barrier()?;
            let mut errors = Vec::new();
            if pg.rank() == 0 {
                let long = pg.start(op::all_reduce(buffer(&device, 0, 10), ReduceOp::Sum));
                let short = pg.start(op::all_reduce(buffer(&device, 0, 10), ReduceOp::Sum).timeout(timeout));
                errors.push(short.wait().unwrap_err().error);
                errors.push(long.wait().unwrap_err().error);
            }
            heard.wait();
            Ok(errors)
        });
        errors.unwrap().swap_remove(0)
    });
    for error in &errors {
        assert_eq!(*error.kind(), ErrorKind::Timeout, "{error}");
        assert!(error.to_string().contains("all_reduce seq 1, which still waits for other ranks"), "{error}");
    }
}

#[test]
fn abort_ends_an_op_whose_device_hangs() {
    let (runtime, builder) = staged!("aborts");
    let device = runtime.clone();
    let error = returns(move || {
        // The timeout is so long that no deadline ends the op.
        let pg = builder.timeout(Duration::from_secs(3600)).build().unwrap();
        let mut x = buffer(&runtime, 0, 200);
        runtime.hang(0, "copy_in");
        let (other, device) = (pg.clone(), runtime.clone());
        std::thread::spawn(move || {
            while device.hanging() == 0 {
                std::thread::yield_now();
            }
            other.abort("enough");
        });
        pg.all_reduce(&mut x, ReduceOp::Sum).map(drop).unwrap_err()
    });
    assert_eq!(*error.kind(), ErrorKind::Aborted, "{error}");
    device.recover();
}

#[test]
fn messages_on_a_device_that_hangs_end_in_time() {
    for (call, sends) in [("copy_out", true), ("copy_in", false)] {
        let (runtime, builder) = staged!("mail");
        let (device, how) = (runtime.clone(), format!("stuck in {call}"));
        let errors = fails(&runtime, &how, move |timeout| {
            let mut errors = builder
                .clone()
                .run_ranks(2, |pg| {
                    let index = pg.rank() as u16;
                    let mut x = buffer(&device, index, 50);
                    pg.barrier()?;
                    device.hang(u16::from(!sends), call);
                    let done = match pg.rank() {
                        0 => pg.run(op::send(&x, 1, 3).timeout(timeout)).map(drop).map_err(Error::from),
                        _ => pg.run(op::recv(&mut x, 0, 3).timeout(timeout)).map(drop).map_err(Error::from),
                    };
                    Ok(done.err())
                })
                .unwrap();
            vec![errors.swap_remove(usize::from(!sends)).expect("its device hangs")]
        });
        assert!(errors[0].to_string().contains(&how), "{}", errors[0]);
    }
}

#[test]
fn ops_after_a_release_that_hangs_fail() {
    let (runtime, builder) = staged!("releases");
    let device = runtime.clone();
    let errors = fails(&runtime, "stuck in release", move |timeout| {
        let pg = alone(&builder);
        let mut x = buffer(&device, 0, 200);
        device.hang(0, "release");
        pg.all_reduce(&mut x, ReduceOp::Sum).map(drop).unwrap();
        vec![pg.run(op::all_reduce(&mut x, ReduceOp::Sum).timeout(timeout)).map(drop).unwrap_err().error]
    });
    assert!(errors[0].to_string().contains("stuck in release"), "{}", errors[0]);
}
