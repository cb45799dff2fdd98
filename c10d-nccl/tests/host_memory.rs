//! Page-locked memory, which belongs to no device.
#![allow(unsafe_code)]

use crate::common;

#[path = "common/warnings.rs"]
mod warnings;

use c10d_core::ReduceOp;
use common::{SECOND, cuda, on, with_cpu, with_fake};
use cudarc::driver::sys;
use warnings::Warnings;

/// Whether the device's context was made. A context needs memory on its device.
fn has_context(index: i32) -> bool {
    let (mut flags, mut active) = (0, 0);
    // SAFETY: it writes two integers.
    unsafe { sys::cuDevicePrimaryCtxGetState(index, &mut flags, &mut active).result() }.unwrap();
    active != 0
}

#[test]
fn page_locked_memory_makes_no_context_on_another_gpu() {
    with_fake("page_locked_memory_makes_no_context_on_another_gpu", "", || {
        let groups = with_cpu().backend("cpu:gloo-like,cuda:gloo-like");
        groups
            .run_ranks(2, |pg| {
                let index = 5 + pg.rank();
                let mut x = on(index, &[1f32; 4]);
                pg.all_reduce(&mut x, ReduceOp::Sum)?;
                assert_eq!(x.to_vec::<f32>(60 * SECOND)?, [2.0; 4]);
                Ok(())
            })
            .unwrap();
        assert_eq!([0, 5, 6].map(has_context), [false, true, true]);
    });
}

#[test]
fn page_locked_memory_is_freed_on_a_thread_without_a_context() {
    with_fake("page_locked_memory_is_freed_on_a_thread_without_a_context", "", || {
        let locked = |at: u64| {
            let mut flags = 0;
            // SAFETY: any address is allowed; the result is one integer.
            unsafe { sys::cuMemHostGetFlags(&mut flags, at as *mut _).result() }.is_ok()
        };
        let keep = on(5, &[1f32]);
        let at = cuda().allocate_host(4096).expect("a device is in use") as u64;
        assert!(locked(at));
        // SAFETY: it was allocated above, and is freed once.
        std::thread::spawn(move || unsafe { cuda().free_host(at as *mut u8, 4096) }).join().unwrap();
        assert!(!locked(at), "not freed");
        drop(keep);
    });
}

#[test]
fn without_page_locked_memory_copies_use_ordinary_memory() {
    with_fake("without_page_locked_memory_copies_use_ordinary_memory", "locked=none", || {
        let warnings = Warnings::default();
        tracing::subscriber::set_global_default(warnings.clone()).unwrap();
        let groups = with_cpu().backend("cpu:gloo-like,cuda:gloo-like");
        let sums = groups.run_ranks(2, |pg| {
            let mut x = on(pg.rank(), &[1f32; 4]);
            pg.all_reduce(&mut x, ReduceOp::Sum)?;
            x.to_vec::<f32>(60 * SECOND)
        });
        assert_eq!(sums.unwrap(), [[2.0; 4]; 2]);
        let warned = warnings.0.lock().clone();
        let about = |words: &str| warned.lines().filter(|line| line.contains(words)).count();
        assert_eq!(about("page-locked host memory"), 1, "{warned}");
        assert_eq!(about("no locked memory left ("), 1, "{warned}");
    });
}
