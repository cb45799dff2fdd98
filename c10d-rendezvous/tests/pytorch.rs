//! Tests with PyTorch, if it is installed. `C10D_TORCH_PYTHON` names a Python interpreter that has PyTorch; without
//! this variable, the tests try `python3`.

use crate::common;

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use c10d_core::Store;
use c10d_rendezvous::{TcpStore, init};
use common::{client, free_port, plays, role_args, server};

/// Returns the deadline of a script. PyTorch takes long to load on a busy machine.
fn late() -> Instant {
    Instant::now() + Duration::from_secs(120)
}

fn python() -> Option<&'static str> {
    static FOUND: OnceLock<Option<String>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let named = std::env::var("C10D_TORCH_PYTHON").ok();
        let python = named.clone().unwrap_or_else(|| "python3".into());
        let tried = Command::new(&python).args(["-c", "import torch.distributed"]).output();
        let has_torch = tried.is_ok_and(|out| out.status.success());
        assert!(has_torch || named.is_none(), "C10D_TORCH_PYTHON is {python}, which cannot import torch.distributed");
        has_torch.then_some(python)
    });
    if found.is_none() {
        println!("skipped: no Python with torch (C10D_TORCH_PYTHON names one)");
    }
    found.as_deref()
}

fn script(python: &str, name: &str, args: &[String]) -> Child {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/torch").join(name);
    let mut command = Command::new(python);
    command.arg(path).args(args).stdin(Stdio::piped()).stdout(Stdio::piped());
    command.spawn().unwrap()
}

/// Waits until the script has succeeded. The script is killed at the deadline.
fn succeeds(mut child: Child) {
    let deadline = late();
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let out = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success() && text.contains("python succeeded"), "{} {text}", out.status);
}

#[test]
fn pytorchs_client_works_with_our_server() {
    let Some(python) = python() else { return };
    let server = server();
    let port = server.local_addr().port();
    let child = script(python, "client.py", &[port.to_string()]);
    let store = client(server.local_addr());
    assert_eq!(store.get("from python", late()).unwrap(), b"hello");
    assert_eq!(store.get("x//default_pg/k", late()).unwrap(), b"nested");
    store.set("from rust", b"hello", late()).unwrap();
    assert_eq!(store.queue_pop("to rust", late()).unwrap(), b"item");
    store.queue_push("to python", b"item", late()).unwrap();
    assert!(store.add("both", 1, late()).unwrap() > 0);
    store.barrier("met", 2, late()).unwrap();
    succeeds(child);
    assert_eq!(store.get("both", late()).unwrap(), b"2");
}

#[test]
fn our_client_works_with_pytorchs_server() {
    let Some(python) = python() else { return };
    let mut child = script(python, "server.py", &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let port = lines.find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).unwrap();
    let store = TcpStore::connect("127.0.0.1", port, late()).unwrap();
    let t = late();
    let in_a_moment = || Instant::now() + Duration::from_millis(100);
    assert_eq!(store.get("from python", t).unwrap(), b"hello");
    assert_eq!(store.num_keys(t).unwrap(), 1);
    store.set("k", b"\0v\xff", t).unwrap();
    assert_eq!(store.get("k", t).unwrap(), b"\0v\xff");
    assert_eq!((store.add("n", 5, t).unwrap(), store.add("n", -7, t).unwrap()), (5, -2));
    assert_eq!(store.compare_set("c", b"no", b"1", t).unwrap(), b"no");
    assert_eq!(store.compare_set("c", b"", b"1", t).unwrap(), b"1");
    assert_eq!(store.compare_set("c", b"1", b"2", t).unwrap(), b"2");
    assert!(store.check(&["k", "c"], t).unwrap() && !store.check(&["k", "none"], t).unwrap());
    store.wait(&["k", "c"], t).unwrap();
    assert!(store.wait(&["none"], in_a_moment()).unwrap_err().to_string().contains("none"));
    store.append("a", b"one", t).unwrap();
    store.append("a", b"two", t).unwrap();
    store.multi_set(&[("m1", b"1"), ("m2", b"")], t).unwrap();
    assert_eq!(store.multi_get(&["m1", "a", "m2"], t).unwrap(), [&b"1"[..], b"onetwo", b""]);
    assert!(store.delete("a", t).unwrap() && !store.delete("a", t).unwrap());
    let mut keys = store.list_keys(t).unwrap();
    keys.sort();
    assert_eq!(keys, ["c", "from python", "k", "m1", "m2", "n"]);
    store.queue_push("q", b"x", t).unwrap();
    store.queue_push("q", b"y", t).unwrap();
    assert_eq!(store.queue_len("q", t).unwrap(), 2);
    assert_eq!(store.queue_pop("q", t).unwrap(), b"x");
    assert_eq!(store.queue_try_pop("q", t).unwrap(), Some(b"y".to_vec()));
    assert_eq!(store.queue_try_pop("q", t).unwrap(), None);
    assert!(store.queue_pop("q", in_a_moment()).is_err());
    store.barrier("alone", 1, t).unwrap();
    assert!(store.barrier("lonely", 2, in_a_moment()).is_err());
    assert_eq!(store.count_worker(t).unwrap(), 1);
    let big = vec![7; 8 << 20];
    store.set("big", &big, t).unwrap();
    assert!(store.get("big", t).unwrap() == big);
    store.set("text", b"text", t).unwrap();
    assert!(store.add("text", 1, t).is_err(), "the server closes the connection");
    assert_eq!(store.get("text", t).unwrap(), b"text", "and the client has another");
    std::thread::scope(|scope| {
        let waiter = scope.spawn(|| store.multi_get(&["late", "k"], t).unwrap());
        store.set("late", b"!", t).unwrap();
        assert_eq!(waiter.join().unwrap(), [&b"!"[..], b"\0v\xff"]);
    });
    drop(child.stdin.take());
    child.wait().unwrap();
}

/// One rank uses PyTorch and the other does not. Each of them serves the store once, as rank 0.
#[test]
fn mixed_ranks_meet_by_tcp() {
    let Some(python) = python() else { return };
    for ours in [0, 1] {
        let port = free_port("127.0.0.1").unwrap();
        let child = script(python, "join.py", &[port.to_string(), (1 - ours).to_string()]);
        let url = format!("tcp://127.0.0.1:{port}?rank={ours}&world_size=2");
        let me = init(&url, Duration::from_secs(120)).unwrap();
        me.store.set(&format!("rank{ours}"), ours.to_string().as_bytes(), late()).unwrap();
        assert_eq!(me.store.multi_get(&["rank0", "rank1"], late()).unwrap(), [b"0", b"1"]);
        client(([127, 0, 0, 1], port).into()).barrier("end", 2, late()).unwrap();
        succeeds(child);
    }
}

#[test]
fn role_under_torchrun() {
    if plays("role_under_torchrun") {
        let me = init("env://", Duration::from_secs(120)).unwrap();
        me.store.set(&format!("rank{}", me.rank), b"", late()).unwrap();
        me.store.wait(&["rank0", "rank1"], late()).unwrap();
        println!("\nunder torchrun: {} of {}", me.rank, me.size);
        me.store.add("left", 1, late()).unwrap();
    }
}

#[test]
fn started_by_torchrun() {
    let Some(python) = python() else { return };
    let port = free_port("127.0.0.1").unwrap().to_string();
    for how in [&["--standalone"][..], &["--nnodes=1", "--master-addr=127.0.0.1", "--master-port", &port]] {
        let mut command = Command::new(python);
        command.args(["-m", "torch.distributed.run", "--no-python", "--nproc-per-node=2"]).args(how);
        command.arg(std::env::current_exe().unwrap()).args(role_args("role_under_torchrun"));
        let out = command.env("C10D_TEST_ROLE", "role_under_torchrun").output().unwrap();
        let text = String::from_utf8_lossy(&out.stdout);
        for rank in 0..2 {
            let line = format!("under torchrun: {rank} of 2");
            assert!(out.status.success() && text.contains(&line), "{how:?}: {text}");
        }
    }
}

#[test]
fn our_launcher_starts_pytorch() {
    let Some(python) = python() else { return };
    let program = "import torch.distributed as d; s, r, n = next(d.rendezvous('env://')); s.set(f'r{r}', ''); \
                   s.wait(['r0', 'r1']); print('rank', r, 'of', n); s.barrier('end', n)";
    let launch = c10d_rendezvous::launch::Launch::new(python, ["-c", program]).ranks(2);
    let launch = launch.output(c10d_rendezvous::launch::Output::Captured).timeout(Duration::from_secs(120));
    let report = launch.run().unwrap().ok().unwrap();
    for (rank, output) in report.output.iter().enumerate() {
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&format!("rank {rank} of 2")), "{text}");
    }
}
