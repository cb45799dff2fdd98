//! The GPU that a rank uses.

use crate::common;

use c10d_core::{Device, DeviceCoo, ReduceOp, Result};
use common::{SECOND, builder, on, with_cpu, with_fake};

#[test]
fn a_rank_uses_the_gpu_of_the_builder_or_the_hint() {
    with_fake("a_rank_uses_the_gpu_of_the_builder_or_the_hint", "", || {
        let reduced = |groups: c10d_core::Builder| -> Result<Vec<f32>> {
            let pg = groups.rank(0).size(1).build()?;
            let mut x = on(3, &[5f32]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            x.to_vec(60 * SECOND)
        };
        assert_eq!(reduced(builder().device(Device::cuda(3))).unwrap(), [5.0]);
        assert_eq!(reduced(builder().hint("nccl.device", "3")).unwrap(), [5.0]);
        let e = reduced(builder().hint("nccl.device", "8")).unwrap_err();
        assert!(e.to_string().contains("here are 8 CUDA devices"), "{e}");
        let e = reduced(builder().device(Device::cuda(8))).unwrap_err();
        assert!(e.to_string().contains("there is no cuda:8"), "{e}");
    });
}

/// A sub-group's communicator is on the GPU that the rank has in the whole group. Here a sparse call uses this
/// communicator.
#[test]
fn sub_groups_use_the_same_gpu() {
    with_fake("sub_groups_use_the_same_gpu", "", || {
        let got = with_cpu().run_ranks(4, |pg| -> Result<Vec<f32>> {
            let Some(part) = pg.new_group(&[3, 1])? else { return Ok(Vec::new()) };
            let t = DeviceCoo::new([4], 1, on(pg.rank(), &[2i64]), on(pg.rank(), &[pg.rank() as f32]))?;
            part.all_reduce(t, ReduceOp::Sum)?.values().to_vec(60 * SECOND)
        });
        assert_eq!(got.unwrap(), [vec![], vec![4.0], vec![], vec![4.0]]);
    });
}
