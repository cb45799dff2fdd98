//! Two groups of two ranks. In each group, rank 0 calls an all-reduce that rank 1 does not call. In the first group the
//! all-reduce ends at its deadline, and the device must still be usable. In the second group rank 1 aborts the group,
//! which ends the all-reduce.

use std::time::{Duration, Instant};

use c10d_core::{Error, ErrorKind, ProcessGroup, ReduceOp, Result, op};

use super::{MINUTE, SECOND, builder, on};

const SHORT: Duration = Duration::from_secs(2);
/// A limit that is reached only if something hangs.
const CAP: Duration = Duration::from_secs(20);

pub(super) fn run() -> Result<()> {
    let me = c10d_rendezvous::init("env://", MINUTE)?;
    let group = |name: &str| {
        let builder = builder("cpu:gloo-like,cuda:nccl").name(name);
        builder.rank(me.rank).size(me.size).store(me.store.clone()).build()
    };
    let late = group("late")?;
    reduce(&late)?;
    let begun = Instant::now();
    if me.rank == 0 {
        let e = failure(late.run(op::all_reduce(on(&[1f32; 1000])?, ReduceOp::Sum).timeout(SHORT)))?;
        let (kind, after) = (e.kind().clone(), begun.elapsed());
        check(kind == ErrorKind::Timeout && e.report().guilty == [1] && after < CAP, &e)?;
        println!("timeout of {SHORT:?}: rank 1 named after {after:.3?}");
        // The device can still be used.
        reduce(&late.shrink(&[1])?)?;
    } else {
        // No rank sends to this rank. The call ends because the group has failed on rank 0.
        let e = failure(late.recv(on(&[0f32])?, 0, 0))?;
        check(begun.elapsed() < CAP, &e)?;
    }
    let given_up = group("given up")?;
    reduce(&given_up)?;
    if me.rank == 1 {
        std::thread::sleep(SECOND);
        given_up.abort("enough");
    } else {
        let begun = Instant::now();
        let e = failure(given_up.start(op::all_reduce(on(&[1f32; 1000])?, ReduceOp::Sum)).wait().map_err(Error::from))?;
        let after = begun.elapsed();
        check(*e.kind() == ErrorKind::Aborted && e.report().guilty == [1] && after < CAP, &e)?;
        println!("abort by rank 1 after a second: noticed after {after:.3?}");
        println!("ok: timeout and abort, the device can be used afterwards");
    }
    Ok(())
}

fn reduce(pg: &ProcessGroup) -> Result<()> {
    let mut x = on(&[1f32; 4])?;
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    let sum = pg.size() as f32;
    let got = x.to_vec::<f32>(SECOND)?;
    if got == [sum; 4] { Ok(()) } else { Err(Error::invalid(format!("the sum is {got:?}"))) }
}

fn failure<T, E: Into<Error>>(result: Result<T, E>) -> Result<Error> {
    result.err().map(Into::into).ok_or_else(|| Error::invalid("an op succeeded that must fail"))
}

fn check(holds: bool, e: &Error) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(format!("the operation did not end as it should: {e}"))) }
}
