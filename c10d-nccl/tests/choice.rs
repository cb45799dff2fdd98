//! Tests which backend serves CUDA buffers if the backend map names none for CUDA.

use crate::common;

use c10d_core::{Builder, DispatchKey, ReduceOp};
use common::{SECOND, fake, on, with_fake, with_library};

fn open_map() -> Builder {
    Builder::new().providers(&[&c10d_nccl::PROVIDER, &c10d_gloo_like::PROVIDER]).timeout(20 * SECOND)
}

/// Returns the backend that serves CUDA on each of two ranks, after checking that it works.
fn served(builder: impl Fn(u32) -> Builder + Sync) -> Vec<String> {
    let store = std::sync::Arc::new(c10d_core::HashStore::new());
    std::thread::scope(|s| {
        let rank = |rank: u32| {
            let builder = builder(rank).rank(rank).size(2).store(store.clone());
            move || {
                let pg = builder.build().unwrap();
                let device = if pg.backend(DispatchKey::Cuda).unwrap().contains("staged") { 0 } else { rank };
                let mut x = on(device, &[1f32; 3]);
                pg.all_reduce(&mut x, ReduceOp::Sum).unwrap();
                assert_eq!(x.to_vec::<f32>(60 * SECOND).unwrap(), [2.0; 3]);
                pg.backend(DispatchKey::Cuda).unwrap().to_owned()
            }
        };
        let ranks: Vec<_> = (0..2).map(|r| s.spawn(rank(r))).collect();
        ranks.into_iter().map(|r| r.join().unwrap()).collect()
    })
}

#[test]
fn nccl_where_all_have_it() {
    with_fake("nccl_where_all_have_it", "", || {
        assert_eq!(served(|_| open_map()), ["nccl"; 2]);
    });
}

#[test]
fn staged_where_ranks_share_a_gpu() {
    with_fake("staged_where_ranks_share_a_gpu", "", || {
        let got = served(|_| open_map().device(c10d_core::Device::cuda(0)));
        assert!(got.iter().all(|name| name.contains("staged")), "{got:?}");
    });
}

/// There is one GPU and the ranks' devices are not set, so both ranks would choose this GPU.
#[test]
fn staged_where_there_is_one_gpu() {
    with_fake("staged_where_there_is_one_gpu", "devices=1", || {
        let got = served(|_| open_map());
        assert!(got.iter().all(|name| name.contains("staged")), "{got:?}");
    });
}

/// The driver can be loaded, but no libnccl. If the map names NCCL, no other backend is used instead.
#[test]
fn staged_where_nccl_is_missing() {
    let library = || {
        let dir = std::env::temp_dir().join(format!("c10d-nccl-choice-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("driver.so");
        std::fs::copy(fake(), &file).unwrap();
        file
    };
    with_library("staged_where_nccl_is_missing", library, |_| {
        let got = served(|_| open_map());
        assert!(got.iter().all(|name| name.contains("staged")), "{got:?}");
        let e = open_map().backend("cpu:gloo-like,cuda:nccl").run_ranks(2, |_| Ok(())).expect_err("by name");
        assert!(e.to_string().contains("libnccl.so.2"), "{e}");
    });
}
