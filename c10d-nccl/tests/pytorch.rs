//! Communicators with a rank of PyTorch: the ids are in torch's stores. The rank of PyTorch (torch/peer.py) makes
//! torch's calls, with the fake library. `C10D_TORCH_PYTHON` is a Python that has torch; the default is `python3`.

use crate::common;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use c10d_core::{Builder, ErrorKind, ReduceOp, Result, Store};
use c10d_rendezvous::tcp_store::ServerOptions;
use c10d_rendezvous::{TcpStore, TcpStoreServer};
use common::{SECOND, fake, on, with_fake};

fn python() -> Option<String> {
    let named = std::env::var("C10D_TORCH_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".into());
    let tried = Command::new(&python).env_remove("LD_LIBRARY_PATH").args(["-c", "import torch.distributed"]).output();
    let has_torch = tried.is_ok_and(|out| out.status.success());
    assert!(has_torch || named.is_none(), "C10D_TORCH_PYTHON is {python}, which cannot import torch.distributed");
    if !has_torch {
        println!("skipped: no Python with torch (C10D_TORCH_PYTHON names one)");
    }
    has_torch.then_some(python)
}

fn late() -> Instant {
    Instant::now() + Duration::from_secs(100)
}

fn with_torch(dialect: &str, store: Arc<dyn Store>, rank: u32) -> Builder {
    let builder = Builder::new().providers(&[&c10d_nccl::PROVIDER]).backend("cuda:nccl").timeout(90 * SECOND);
    builder.hint("nccl.compat", dialect).rank(rank).size(2).store(store)
}

/// Runs the ops that match those of PyTorch's rank in peer.py.
fn ops(dialect: &str, store: Arc<dyn Store>, rank: u32) -> Result {
    let pg = with_torch(dialect, store, rank).build()?;
    let mut x = on(rank, &[1.0 + rank as f32, 10.0]);
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    assert_eq!(x.to_vec::<f32>(60 * SECOND)?, [3.0, 20.0]);
    pg.barrier()?;

    let (_, all) = pg.all_gather(on(rank, &[rank as f32, 5.0]), vec![on(rank, &[0f32; 2]), on(rank, &[0f32; 2])])?;
    let all: Vec<Vec<f32>> = all.iter().map(|t| t.to_vec(60 * SECOND)).collect::<Result<_>>()?;
    assert_eq!(all, [[0.0, 5.0], [1.0, 5.0]]);
    let inputs = vec![on(rank, &[1f32, 2.0]), on(rank, &[3f32, 4.0])];
    let (_, sum) = pg.reduce_scatter(inputs, on(rank, &[0f32; 2]), ReduceOp::Sum)?;
    assert_eq!(sum.to_vec::<f32>(60 * SECOND)?, [[2.0, 4.0], [6.0, 8.0]][rank as usize]);
    let mine = 10.0 * rank as f32;
    let (_, parts) = pg.all_to_all_single(on(rank, &[mine, mine + 1.0]), on(rank, &[0f32; 2]))?;
    assert_eq!(parts.to_vec::<f32>(60 * SECOND)?, [rank as f32, 10.0 + rank as f32]);

    let (sent, mut got, peer) = (on(rank, &[7.0 + rank as f32]), on(rank, &[0f32]), 1 - rank);
    if rank == 0 {
        pg.send(&sent, peer, 3)?;
        pg.recv(&mut got, peer, 3)?;
    } else {
        pg.recv(&mut got, peer, 3)?;
        pg.send(&sent, peer, 3)?;
    }
    assert_eq!(got.to_vec::<f32>(60 * SECOND)?, [7.0 + peer as f32]);
    assert!(pg.new_group(&[0]).is_err_and(|e| *e.kind() == ErrorKind::Unsupported));
    Ok(())
}

/// Runs rank `rank` here and the other rank in PyTorch. Returns the keys that are in the store at the end.
fn together(python: &str, dialect: &str, rank: u32, ranks_per_root: Option<&str>) -> Vec<String> {
    let server = TcpStoreServer::bind("127.0.0.1:0".parse().unwrap(), ServerOptions::default()).unwrap();
    let port = server.local_addr().port();
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/torch/peer.py"));
    command.arg(fake()).args([port.to_string(), (1 - rank).to_string(), dialect.to_owned()]);
    // Torch loads its own NCCL, which the fake must not replace.
    command.env_remove("LD_LIBRARY_PATH").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    if let Some(n) = ranks_per_root {
        command.env("TORCH_NCCL_RANKS_PER_ROOT", n);
    }
    let child = command.spawn().unwrap();
    let store = TcpStore::connect("127.0.0.1", port, late()).unwrap();
    let done = ops(dialect, Arc::new(store), rank);
    let mut child = Some(child);
    if done.is_err() {
        let _ = child.as_mut().map(|c| c.kill());
    }
    // This closes the process's standard input, so that its rank ends.
    let said = child.take().map(|c| c.wait_with_output().unwrap()).unwrap();
    let (out, err) = (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
    assert!(done.is_ok() && out.contains("all ops succeeded"), "{dialect}, rank {rank}: {done:?}\n{out}\n{err}");
    let mut keys = TcpStore::connect("127.0.0.1", port, late()).unwrap().list_keys(late()).unwrap();
    keys.sort();
    keys
}

#[test]
fn ranks_share_a_communicator_with_the_first_engine() {
    with_fake("ranks_share_a_communicator_with_the_first_engine", "", || {
        let Some(python) = python() else { return };
        for rank in [0, 1] {
            let keys = together(&python, "torch-legacy", rank, None);
            assert_eq!(keys, ["default_pg/0//cuda//0", "default_pg/0//cuda//0:1"], "and nothing else");
        }
    });
}

#[test]
fn ranks_share_a_communicator_with_the_second_engine() {
    with_fake("ranks_share_a_communicator_with_the_second_engine", "", || {
        let Some(python) = python() else { return };
        for rank in [0, 1] {
            let keys = together(&python, "torch-nccl2", rank, None);
            assert_eq!(keys, ["default_pg/0//cuda//0/nccl_storekey_0"], "and nothing else");
        }
    });
}

/// Each rank is a root, which makes an id.
#[test]
fn ranks_share_a_communicator_that_has_several_roots() {
    with_fake("ranks_share_a_communicator_that_has_several_roots", "", || {
        let Some(python) = python() else { return };
        // SAFETY: the process has no other thread that reads its environment.
        #[allow(unsafe_code)]
        unsafe {
            std::env::set_var("TORCH_NCCL_RANKS_PER_ROOT", "1");
        }
        let keys = together(&python, "torch-legacy", 1, Some("1"));
        let root = |n: u32| format!("default_pg/0//cuda//UniqueNCCLID:{n}");
        assert_eq!(keys, ["default_pg/0//cuda//0:1".to_owned(), root(0), root(1)]);
        let keys = together(&python, "torch-nccl2", 0, Some("1"));
        assert_eq!(keys, [0, 1].map(|n| format!("default_pg/0//cuda//0/nccl_storekey_0_{n}")));
    });
}

#[test]
fn invalid_settings_of_a_group_with_pytorch_are_rejected() {
    with_fake("invalid_settings_of_a_group_with_pytorch_are_rejected", "", || {
        let store = || Arc::new(c10d_core::HashStore::new());
        let refused = |builder: Builder, words: &str| {
            let e = builder.build().expect_err(words);
            assert!(*e.kind() == ErrorKind::InvalidArgument && e.to_string().contains(words), "{e}");
        };
        refused(with_torch("torch", store(), 0), "torch-legacy or torch-nccl2");
        refused(with_torch("torch-nccl2", store(), 0).backend(""), "needs a backend map");
        let both = with_torch("torch-nccl2", store(), 0).providers(&[&c10d_gloo_like::PROVIDER]);
        refused(both.backend("cpu:gloo-like,cuda:nccl"), "gloo-like on cpu cannot be");
    });
}
