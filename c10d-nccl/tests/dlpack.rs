//! DLPack tensors in collectives, in host memory and in CUDA memory.

use crate::common;

use std::ptr::NonNull;

use c10d_core::dlpack::{Imported, ImportedMut, ManagedTensorVersioned, export};
use c10d_core::{Device, ReduceOp, Result, op};
use common::{SECOND, cuda, on, place, with_cpu, with_fake};

/// Imports a tensor as if another library had made it.
fn taken(tensor: NonNull<ManagedTensorVersioned>) -> Result<ImportedMut> {
    // SAFETY: the tensor was just made, and nothing else uses it.
    #[allow(unsafe_code)]
    unsafe { Imported::versioned(tensor) }?.writable()
}

#[test]
fn tensors_in_host_and_device_memory_are_reduced() {
    with_fake("tensors_in_host_and_device_memory_are_reduced", "", || {
        let sums = with_cpu().run_ranks(2, |pg| -> Result<Vec<f32>> {
            let mut host = taken(export(vec![1f32 + pg.rank() as f32; 3], &[3, 1])?)?;
            pg.all_reduce(&mut host, ReduceOp::Sum)?;
            let mut there = on(pg.rank(), &[10f32 * (1.0 + pg.rank() as f32); 3]);
            let at = place(&mut there);
            let tensor = taken(export(there, &[3])?)?;
            let tensor = pg.start(op::all_reduce(tensor, ReduceOp::Sum)).wait()?.read();
            assert_eq!(tensor.device(), Device::cuda(pg.rank() as u16));
            let mut back = [0f32; 3];
            let index = pg.rank() as u16;
            let until = std::time::Instant::now() + 60 * SECOND;
            // SAFETY: both sides have three floats, and nothing else uses them until the copy is done.
            #[allow(unsafe_code)]
            unsafe {
                cuda().copy_out(index, 0, back.as_mut_ptr().cast(), at, 12)?;
                cuda().synchronize(index, 0, until)?;
            }
            drop(tensor);
            let mut host = host.read();
            // SAFETY: there are three floats.
            #[allow(unsafe_code)]
            let of_host = unsafe { std::slice::from_raw_parts(span(&mut host), 3) };
            Ok([of_host, &back].concat())
        });
        assert_eq!(sums.unwrap(), vec![vec![3.0, 3.0, 3.0, 30.0, 30.0, 30.0]; 2]);
    });
}

fn span(tensor: &mut Imported) -> *const f32 {
    c10d_core::Buf::span(tensor).host_ptr().unwrap().cast_const().cast()
}
