//! Tests that processes find each other as ranks, by every init method.

use crate::common;

use std::net::ToSocketAddrs;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use c10d_core::{ErrorKind, Store};
use c10d_rendezvous::init;
use common::{free_port, plays, role, server, soon};

/// Runs `init`, exchanges the ranks' numbers through the store, and prints the result.
#[test]
fn role_rank() {
    if !plays("role_rank") {
        return;
    }
    let timeout = std::env::var("C10D_TEST_TIMEOUT_MS").map_or(20_000, |ms| ms.parse().unwrap());
    match init(&std::env::var("C10D_TEST_URL").unwrap(), Duration::from_millis(timeout)) {
        Err(e) => println!("\nerror {e}"),
        Ok(me) => {
            let deadline = soon();
            me.store.set(&format!("rank{}", me.rank), me.rank.to_string().as_bytes(), deadline).unwrap();
            if me.rank > 0 {
                // After this pause, rank 0 (which may serve the store) is finished.
                std::thread::sleep(Duration::from_millis(300));
            }
            let keys: Vec<String> = (0..me.size).map(|r| format!("rank{r}")).collect();
            let met = me.store.multi_get(&keys.iter().map(String::as_str).collect::<Vec<_>>(), deadline).unwrap();
            println!("\nrank {} of {} met {}", me.rank, me.size, String::from_utf8(met.concat()).unwrap());
        }
    }
}

/// Returns the command that runs the test `part` as a rank.
fn rank(part: &str, url: &str, vars: &[(&str, String)]) -> Command {
    let mut command = role(part);
    // The ranks must not see the variables of a launcher that started this test.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        let starters = ["RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMI", "SLURM_", "MPI_"];
        if starters.iter().any(|s| text.starts_with(s)) {
            command.env_remove(&name);
        }
    }
    command.env("C10D_TEST_URL", url).envs(vars.iter().map(|(name, value)| (*name, value)));
    command.stdout(Stdio::piped());
    command
}

/// Waits for a rank. Returns the first line with its result.
fn result(child: Child) -> String {
    let Output { status, stdout, .. } = child.wait_with_output().unwrap();
    let text = String::from_utf8(stdout).unwrap();
    assert!(status.success(), "{text}");
    let line = text.lines().find(|line| line.starts_with("rank ") || line.starts_with("error "));
    line.unwrap_or_else(|| panic!("no result: {text}")).to_owned()
}

/// Starts this number of ranks, and checks that they meet. `place` returns the URL and the variables of a rank.
fn meet(size: u32, place: impl Fn(u32) -> (String, Vec<(&'static str, String)>)) {
    let children: Vec<Child> = (0..size)
        .map(|r| {
            let (url, vars) = place(r);
            rank("role_rank", &url, &vars).spawn().unwrap()
        })
        .collect();
    let all: String = (0..size).map(|r| r.to_string()).collect();
    for (r, child) in children.into_iter().enumerate() {
        assert_eq!(result(child), format!("rank {r} of {size} met {all}"));
    }
}

fn s(n: impl ToString) -> String {
    n.to_string()
}

#[test]
fn ranks_meet_by_tcp() {
    for ip in ["127.0.0.1", "::1"] {
        let Some(port) = free_port(ip) else {
            println!("skipped: no {ip} on this machine");
            continue;
        };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.into() };
        meet(3, |r| (format!("tcp://{host}:{port}?rank={r}&world_size=3"), vec![]));
    }
}

#[test]
fn ranks_meet_by_file() {
    let path = std::env::temp_dir().join(format!("c10d-init-{}", std::process::id()));
    meet(3, |r| (format!("file://{}?rank={r}&world_size=3", path.display()), vec![]));
    std::fs::remove_file(path).unwrap();
}

#[test]
fn ranks_meet_by_torchruns_variables_with_and_without_the_agents_store() {
    let vars = |r: u32, port: u16| {
        vec![
            ("RANK", s(r)),
            ("WORLD_SIZE", s(3)),
            ("MASTER_ADDR", s("localhost")),
            ("MASTER_PORT", s(port)),
            ("TORCHELASTIC_RUN_ID", s("job")),
        ]
    };
    let port = free_port("127.0.0.1").unwrap();
    meet(3, |r| (s("env://"), vars(r, port)));
    let agent = server();
    let port = agent.local_addr().port();
    meet(3, |r| {
        let mut vars = vars(r, port);
        vars.push(("TORCHELASTIC_USE_AGENT_STORE", s("True")));
        (s("env://"), vars)
    });
    let keys = common::client(agent.local_addr()).list_keys(soon()).unwrap();
    assert!(!keys.is_empty() && keys.iter().all(|key| key.starts_with("c10drs/job/")), "{keys:?}");
}

#[test]
fn ranks_on_one_host_meet_by_the_variables_of_mpirun_and_srun() {
    let tmp = std::env::temp_dir().join(format!("c10d-init-tmp-{}", std::process::id()));
    std::fs::create_dir(&tmp).unwrap();
    type Vars = fn(u32) -> Vec<(&'static str, String)>;
    let starters: [Vars; 4] = [
        |r| {
            vec![
                ("OMPI_COMM_WORLD_RANK", s(r)),
                ("OMPI_COMM_WORLD_SIZE", s(3)),
                ("OMPI_COMM_WORLD_LOCAL_SIZE", s(3)),
                ("PMIX_NAMESPACE", s("prterun-../host@1")),
            ]
        },
        |r| vec![("PMI_RANK", s(r)), ("PMI_SIZE", s(3)), ("MPI_LOCALNRANKS", s(3))],
        |r| vec![("PMIX_RANK", s(r)), ("SLURM_NTASKS", s(3)), ("SLURM_NNODES", s(1)), ("PMIX_NAMESPACE", s("n"))],
        |r| {
            vec![
                ("SLURM_PROCID", s(r)),
                ("SLURM_STEP_NUM_TASKS", s(3)),
                ("SLURM_STEP_NUM_NODES", s(1)),
                ("SLURM_JOB_ID", s(7)),
                ("SLURM_STEP_ID", s(0)),
            ]
        },
    ];
    for vars in starters {
        meet(3, |r| {
            let mut vars = vars(r);
            vars.push(("TMPDIR", s(tmp.display())));
            (s("env://"), vars)
        });
        let left: Vec<_> =
            std::fs::read_dir(&tmp).unwrap().flatten().flat_map(|d| d.path().read_dir()).flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
    std::fs::remove_dir_all(tmp).unwrap();
}

#[test]
fn a_meeting_directory_of_others_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let tmp = std::env::temp_dir().join(format!("c10d-init-open-{}", std::process::id()));
    let dir = tmp.join(format!("c10d-{}", rustix::process::geteuid().as_raw()));
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let vars = [("PMI_RANK", s(0)), ("PMI_SIZE", s(1)), ("TMPDIR", s(tmp.display()))];
    let error = result(rank("role_rank", "env://", &vars).spawn().unwrap());
    assert!(error.contains(dir.to_str().unwrap()) && error.contains("MASTER_ADDR"), "{error}");
    std::fs::remove_dir_all(tmp).unwrap();
}

#[test]
fn errors_say_what_to_do() {
    let port = free_port("127.0.0.1").unwrap();
    let addr = [("MASTER_ADDR", s("127.0.0.1")), ("MASTER_PORT", s(port))];
    let two = [("RANK", s(1)), ("WORLD_SIZE", s(2))];
    let timeout = [("C10D_TEST_TIMEOUT_MS", s(300))];
    for (vars, says) in [
        (vec![], vec!["RANK", "c10d run", "mpirun"]),
        (vec![("RANK", s("two")), ("WORLD_SIZE", s(2))], vec!["RANK is \"two\""]),
        (two.to_vec(), vec!["MASTER_ADDR"]),
        ([&two[..], &addr[..], &timeout].concat(), vec!["127.0.0.1", "attempts", "rank 0", "timeout 300ms"]),
        (
            vec![("SLURM_PROCID", s(0)), ("SLURM_NTASKS", s(2)), ("SLURM_NNODES", s(2))],
            vec!["MASTER_ADDR", "SLURM_NNODES is 2"],
        ),
    ] {
        let error = result(rank("role_rank", "env://", &vars).spawn().unwrap());
        for word in says {
            assert!(error.contains(word), "{word} is not in: {error}");
        }
    }
}

#[test]
fn a_taken_port_and_unknown_methods_are_errors() {
    let taken = server();
    let url = format!("tcp://{}?rank=0&world_size=2", taken.local_addr());
    let error = init(&url, Duration::from_secs(5)).err().unwrap();
    assert_eq!(*error.kind(), ErrorKind::Rendezvous);
    assert!(error.to_string().contains(&taken.local_addr().to_string()), "{error}");
    assert!(error.to_string().contains("in use"), "{error}");
    for url in ["mpi://", "", "tcp", "env://x"] {
        let error = init(url, Duration::from_secs(5)).err().unwrap();
        assert!(error.to_string().contains("env://"), "{error}");
    }
}

#[test]
fn the_server_listens_only_at_the_given_address() {
    let port = free_port("127.0.0.1").unwrap();
    let url = format!("tcp://127.0.0.1:{port}?rank=0&world_size=1");
    let me = init(&url, Duration::from_secs(5)).unwrap();
    me.store.set("k", b"v", soon()).unwrap();
    // A socket that is bound to all addresses would answer at 127.0.0.2.
    assert!(std::net::TcpStream::connect(("127.0.0.2", port)).is_err());
}

/// Rank 0 listens at all addresses, and the other ranks use another address of its host.
#[test]
fn the_server_listens_at_every_address_on_request() {
    let port = free_port("127.0.0.1").unwrap();
    let join = |host: &str, rank: u32| {
        let url = format!("tcp://{host}:{port}?rank={rank}&world_size=2");
        init(&url, Duration::from_secs(20)).unwrap()
    };
    let me = join("0.0.0.0", 0);
    me.store.set("k", b"v", soon()).unwrap();
    assert_eq!(join("127.0.0.2", 1).store.get("k", soon()).unwrap(), b"v");
}

#[test]
fn one_process_may_have_several_groups_at_one_address() {
    let port = free_port("127.0.0.1").unwrap();
    let url = |host: &str| format!("tcp://{host}:{port}?rank=0&world_size=1");
    let join = |host: &str| init(&url(host), Duration::from_secs(5)).unwrap();
    let first = join("127.0.0.1");
    let second = join("127.0.0.1");
    first.store.set("k", b"v", soon()).unwrap();
    drop(first);
    assert_eq!(second.store.get("k", soon()).unwrap(), b"v");
    // The server stays until this process ends, and later groups use it, whichever name of its address they give.
    drop(second);
    let other = common::client(([127, 0, 0, 1], port).into());
    assert_eq!(other.get("k", soon()).unwrap(), b"v");
    assert_eq!(join("127.0.0.1").store.get("k", soon()).unwrap(), b"v");
    if "localhost:1".to_socket_addrs().unwrap().any(|addr| addr.is_ipv4()) {
        assert_eq!(join("localhost").store.get("k", soon()).unwrap(), b"v");
    }
}

/// Runs one rank of several jobs in a row.
#[test]
fn role_rounds() {
    if !plays("role_rounds") {
        return;
    }
    let url = std::env::var("C10D_TEST_URL").unwrap();
    for round in 0..5 {
        let me = init(&url, Duration::from_secs(20)).unwrap_or_else(|e| panic!("round {round}: {e}"));
        let key = |rank: u32| format!("{round}/{rank}");
        me.store.set(&key(me.rank), b"", soon()).unwrap();
        let all: Vec<String> = (0..me.size).map(key).collect();
        me.store.wait(&all.iter().map(String::as_str).collect::<Vec<_>>(), soon()).unwrap();
        std::thread::sleep(Duration::from_millis(u64::from((me.rank + round) % me.size) * 30));
        println!("\nrank {} is through round {round}", me.rank);
    }
}

#[test]
fn processes_join_several_groups_in_a_row() {
    let tmp = std::env::temp_dir().join(format!("c10d-init-again-{}", std::process::id()));
    std::fs::create_dir(&tmp).unwrap();
    let at = [("MASTER_ADDR", s("localhost")), ("MASTER_PORT", s(free_port("127.0.0.1").unwrap()))];
    let tcp = free_port("127.0.0.1").unwrap();
    let slurm = [("SLURM_NTASKS", s(3)), ("SLURM_NNODES", s(1)), ("TMPDIR", s(tmp.display()))];
    for way in 0..3 {
        let start = |r: u32| {
            let (url, vars) = match way {
                0 => (s("env://"), [&at[..], &[("RANK", s(r)), ("WORLD_SIZE", s(3))]].concat()),
                1 => (format!("tcp://127.0.0.1:{tcp}?rank={r}&world_size=3"), vec![]),
                _ => (s("env://"), [&slurm[..], &[("SLURM_PROCID", s(r))]].concat()),
            };
            rank("role_rounds", &url, &vars).spawn().unwrap()
        };
        let children: Vec<Child> = (0..3).map(start).collect();
        for (r, child) in children.into_iter().enumerate() {
            let line = result(child);
            assert_eq!(line, format!("rank {r} is through round 0"), "way {way}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(&tmp).unwrap().flatten().flat_map(|d| d.path().read_dir()).flatten().collect();
    assert!(left.is_empty(), "left behind: {left:?}");
    std::fs::remove_dir_all(tmp).unwrap();
}

#[test]
fn rank_0_leaves_at_once_when_it_is_the_last() {
    let port = free_port("127.0.0.1").unwrap();
    let me = init(&format!("tcp://127.0.0.1:{port}?rank=0&world_size=1"), Duration::from_secs(5)).unwrap();
    let start = Instant::now();
    drop(me);
    assert!(start.elapsed() < Duration::from_secs(4), "it waited although no rank needed it");
    init(&format!("tcp://127.0.0.1:{port}?rank=0&world_size=1"), Duration::from_secs(5)).unwrap();
}
