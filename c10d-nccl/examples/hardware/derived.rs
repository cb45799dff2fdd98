//! Groups that NCCL derives from a group that is in use: parts of it, and the group without one rank.

use c10d_core::{ProcessGroup, ReduceOp, Result, op};

use super::{MINUTE, SECOND, builder, on, same};

pub(super) fn run() -> Result<()> {
    let me = c10d_rendezvous::init("env://", MINUTE)?;
    let pg = builder("cpu:gloo-like,cuda:nccl").rank(me.rank).size(me.size).store(me.store).build()?;
    // The backend divides the group only after this op has ended.
    let work = pg.start(op::all_reduce(on(&vec![1f32; 1 << 20])?, ReduceOp::Sum));
    if let Some(reversed) = pg.split(Some(0), me.size - me.rank)? {
        let mut x = on(&[me.rank as f32])?;
        reversed.broadcast(&mut x, 0)?;
        same("a broadcast in reverse order", &x.to_vec::<f32>(SECOND)?, &[(me.size - 1) as f32])?;
        sum(&reversed)?;
        reversed.shutdown()?;
    }
    same("the op before", &work.wait()?.to_vec::<f32>(SECOND)?[..1], &[me.size as f32])?;
    if let Some(first) = pg.new_group(&[0])? {
        sum(&first)?;
    }
    sum(&pg)?;
    // No rank has failed, so `ncclCommShrink` makes the group without the last rank, if NCCL has this function.
    let last = me.size - 1;
    if me.rank != last {
        let rest = pg.shrink(&[last])?;
        sum(&rest)?;
        rest.shutdown()?;
    }
    sum(&pg)?;
    pg.shutdown()?;
    println!("ok: split, sub-group and shrink while the parent group is open");
    Ok(())
}

fn sum(pg: &ProcessGroup) -> Result<()> {
    let mut x = on(&[1f32; 4])?;
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    same("a sum", &x.to_vec::<f32>(SECOND)?, &[pg.size() as f32; 4])
}
