//! Ranks that are started in different ways: by URLs, and by the variables of launchers, which these tests set for
//! child processes. In each case, MPI starts through the group's store, even if a launcher's variables are set.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use c10d_core::{ReduceOp, Result};
use libtest_mimic::{Failed, Trial};

use crate::groups::{builder, wrong};
use crate::wheels::Wheel;

/// The variable with the URL that a rank passes to `init`. It is set for processes that are ranks.
const URL: &str = "C10D_TEST_URL";
const LIMIT: Duration = Duration::from_secs(20);
const SIZE: u32 = 3;

type Variables = Vec<(&'static str, String)>;

/// A way to start ranks: a function that returns the URL and the variables of a rank. Each run has a new `Meeting`.
struct Start {
    name: &'static str,
    rank: fn(&Meeting, u32) -> (String, Variables),
}

/// The port and the folder through which the ranks of a run find each other.
struct Meeting {
    port: u16,
    folder: PathBuf,
}

const STARTS: [Start; 7] = [
    Start { name: "tcp", rank: |at, r| (format!("tcp://127.0.0.1:{}?rank={r}&world_size={SIZE}", at.port), vec![]) },
    Start {
        name: "file",
        rank: |at, r| (format!("file://{}/store?rank={r}&world_size={SIZE}", at.folder.display()), vec![]),
    },
    Start {
        name: "torchrun",
        rank: |at, r| {
            let mut variables = vec![("RANK", text(r)), ("WORLD_SIZE", text(SIZE)), ("LOCAL_RANK", text(r))];
            variables.extend([("GROUP_RANK", text(0)), ("TORCHELASTIC_RUN_ID", text("job"))]);
            variables.extend([("MASTER_ADDR", text("127.0.0.1")), ("MASTER_PORT", text(at.port))]);
            variables.push(("TORCHELASTIC_USE_AGENT_STORE", text("False")));
            (text("env://"), variables)
        },
    },
    Start {
        name: "slurm",
        rank: |_, r| {
            let mut variables =
                vec![("SLURM_PROCID", text(r)), ("SLURM_NTASKS", text(SIZE)), ("SLURM_NNODES", text(1))];
            variables.extend([("SLURM_JOB_ID", text(7)), ("SLURM_STEP_ID", text(0)), ("SLURM_LOCALID", text(r))]);
            (text("env://"), variables)
        },
    },
    // The variables that `srun --mpi=pmix` sets. MPICH must not use those of PMIx.
    Start {
        name: "slurm_pmix",
        rank: |_, r| {
            let mut variables = vec![("PMIX_RANK", text(r)), ("PMIX_NAMESPACE", text("slurm.pmix.7.0"))];
            variables.extend([("SLURM_NTASKS", text(SIZE)), ("SLURM_NNODES", text(1)), ("SLURM_JOB_ID", text(8))]);
            (text("env://"), variables)
        },
    },
    Start {
        name: "open_mpi",
        rank: |_, r| {
            let mut variables = vec![("OMPI_COMM_WORLD_RANK", text(r)), ("OMPI_COMM_WORLD_SIZE", text(SIZE))];
            variables.extend([("OMPI_COMM_WORLD_LOCAL_SIZE", text(SIZE)), ("PMIX_RANK", text(r))]);
            variables.push(("PMIX_NAMESPACE", text("prterun-host-1@1")));
            (text("env://"), variables)
        },
    },
    // The variables that hydra and other launchers set. Here, no launcher answers at the port.
    Start {
        name: "pmi",
        rank: |_, r| {
            let mut variables = vec![("PMI_RANK", text(r)), ("PMI_SIZE", text(SIZE)), ("MPI_LOCALNRANKS", text(SIZE))];
            variables.extend([("PMI_JOBID", text(9)), ("PMI_PORT", text("127.0.0.1:1")), ("PMI_ID", text(r))]);
            (text("env://"), variables)
        },
    },
];

fn text(value: impl ToString) -> String {
    value.to_string()
}

/// If this process was started as a rank, runs the rank and exits.
pub(crate) fn serve_rank() {
    let Ok(url) = std::env::var(URL) else { return };
    if let Err(e) = run_part(&url) {
        println!("{e:?}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn run_part(url: &str) -> Result {
    let joined = c10d_rendezvous::init(url, LIMIT)?;
    let (rank, size) = (joined.rank, joined.size);
    // The start of MPI must not change the environment.
    let before: Vec<_> = std::env::vars_os().collect();
    let pg = builder().rank(rank).size(size).store(joined.store).build()?;
    let changed = std::env::vars_os().filter(|variable| !before.contains(variable)).map(|(name, _)| name);
    let changed: Vec<_> = changed.filter(|name| name.to_string_lossy().starts_with("PM")).collect();
    if !changed.is_empty() || std::env::vars_os().count() < before.len() {
        return Err(wrong(format!("the environment has changed: {changed:?}")));
    }
    let mut x = vec![rank + 1; 30_000];
    pg.all_reduce(&mut x, ReduceOp::Sum)?;
    if x.iter().any(|n| *n != 6) {
        return Err(wrong(format!("{} instead of 6", x[0])));
    }
    pg.shutdown()?;
    println!("rank {rank} of {size} has finished");
    Ok(())
}

pub(crate) fn trials(library: &'static Wheel, path: &str) -> Vec<Trial> {
    let trial = |start: &'static Start| {
        let path = path.to_owned();
        Trial::test(format!("{}_starts/{}", library.name, start.name), move || run(library, &path, start))
    };
    STARTS.iter().map(trial).collect()
}

fn run(library: &Wheel, path: &str, start: &Start) -> Result<(), Failed> {
    let folder = std::env::temp_dir().join(format!("c10d-{}-{}-{}", library.name, start.name, std::process::id()));
    std::fs::create_dir_all(&folder)?;
    // The listener is closed again, so rank 0 can use the port. The system does not soon assign the port to another
    // process.
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let meeting = Meeting { port, folder };
    let begin = |rank| child(library, path, &meeting.folder, (start.rank)(&meeting, rank)).spawn();
    let children = (0..SIZE).map(begin).collect::<Result<Vec<Child>, _>>();
    let ended = children.map_err(Failed::from).and_then(ends);
    let _ = std::fs::remove_dir_all(&meeting.folder);
    ended
}

fn child(library: &Wheel, path: &str, folder: &Path, (url, variables): (String, Variables)) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap_or_default());
    for (name, _) in std::env::vars_os() {
        let starters = ["RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_", "OMPI_", "PMI", "SLURM_", "MPI_"];
        if starters.iter().any(|starter| name.to_string_lossy().starts_with(starter)) {
            command.env_remove(&name);
        }
    }
    command.env(URL, url).env("TMPDIR", folder).env("C10D_MPI_LIB", path).envs(variables);
    command.envs(library.variables.iter().copied()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Waits for all ranks. Returns an error unless each rank succeeded and printed that it has finished.
fn ends(mut children: Vec<Child>) -> Result<(), Failed> {
    let until = Instant::now() + 3 * LIMIT;
    while Instant::now() < until && children.iter_mut().any(|child| matches!(child.try_wait(), Ok(None))) {
        std::thread::sleep(Duration::from_millis(10));
    }
    let mut wrong = Vec::new();
    for (rank, mut child) in children.into_iter().enumerate() {
        let _ = child.kill();
        let output = child.wait_with_output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        if !output.status.success() || !said.contains(&format!("rank {rank} of {SIZE} has finished")) {
            wrong.push(format!("rank {rank} {}: {said}{}", output.status, String::from_utf8_lossy(&output.stderr)));
        }
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}
