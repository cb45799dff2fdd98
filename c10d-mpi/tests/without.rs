//! A single rank, and a library that cannot be loaded.

use std::sync::Arc;
use std::time::Duration;

use c10d_core::{Builder, ErrorKind, HashStore, ReduceOp};

fn builder() -> Builder {
    let providers = &[&c10d_mpi::PROVIDER, &c10d_gloo_like::PROVIDER];
    Builder::new().providers(providers).backend("cpu:mpi").timeout(Duration::from_secs(10))
}

#[test]
fn one_rank_needs_no_library() {
    let pg = builder().hint("mpi.lib", "/nowhere/libmpi_abi.so.1").store(Arc::new(HashStore::new())).build().unwrap();
    let mut x = vec![1.5f32, f32::NAN];
    pg.all_reduce(&mut x, ReduceOp::Max).unwrap();
    assert!(x[0] == 1.5 && x[1].is_nan());
    pg.barrier().unwrap();
    pg.shutdown().unwrap();
}

#[test]
fn without_a_library_the_error_says_what_to_do() {
    let run = builder().hint("mpi.lib", "/nowhere/libmpi_abi.so.1").run_ranks(2, |_| Ok(()));
    let e = run.unwrap_err();
    let text = e.to_string();
    assert_eq!(*e.kind(), ErrorKind::Unsupported, "{text}");
    for words in ["/nowhere/libmpi_abi.so.1", "pip install mpich", "C10D_MPI_LIB"] {
        assert!(text.contains(words), "{text}");
    }
}
