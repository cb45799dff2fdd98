//! One rank of a communicator whose other rank is in PyTorch (see torch_mixed.py).

use c10d_core::{ReduceOp, Result};

use super::{MINUTE, SECOND, builder, on, same};

pub(super) fn run() -> Result<()> {
    let dialect = std::env::args().nth(2).unwrap_or_default();
    let me = c10d_rendezvous::init("env://", MINUTE)?;
    let group = builder("cuda:nccl").hint("nccl.compat", &dialect);
    let pg = group.rank(me.rank).size(me.size).store(me.root).build()?;
    let rank = me.rank as f32;
    let mut x = on(&[1.0 + rank, 10.0])?;
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    same("all_reduce", &x.to_vec::<f32>(SECOND)?, &[3.0, 20.0])?;
    let (_, all) = pg.all_gather(on(&[rank])?, vec![on(&[9f32])?, on(&[9f32])?])?;
    same("all_gather", &[all[0].to_vec::<f32>(SECOND)?, all[1].to_vec(SECOND)?].concat(), &[0.0, 1.0])?;
    let (_, sum) = pg.reduce_scatter(vec![on(&[1f32])?, on(&[2f32])?], on(&[0f32])?, ReduceOp::Sum)?;
    same("reduce_scatter", &sum.to_vec::<f32>(SECOND)?, &[2.0 * (1.0 + rank)])?;
    let (_, parts) = pg.all_to_all_single(on(&[10.0 * rank, 10.0 * rank + 1.0])?, on(&[0f32; 2])?)?;
    same("all_to_all_single", &parts.to_vec::<f32>(SECOND)?, &[rank, 10.0 + rank])?;
    pg.barrier()?;
    // PyTorch's rank sends first.
    let mut got = on(&[0f32])?;
    pg.recv(&mut got, 0, 0)?;
    same("recv", &got.to_vec::<f32>(SECOND)?, &[7.0])?;
    pg.send(&on(&[8f32])?, 0, 0)?;
    pg.shutdown()?;
    println!("ok: 7 ops with PyTorch, {dialect}");
    Ok(())
}
