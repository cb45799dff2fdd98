//! Reads the variables of torchrun, Open MPI, PMI, PMIx and SLURM.

use c10d_core::Result;

use super::{Meeting, Membership, checked, one_host, unclear};

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables in which one kind of launcher gives a process its rank. In each list except `job`, the first variable
/// that is set counts.
struct Starter {
    rank: &'static str,
    size: &'static [&'static str],
    /// The variables with the number of ranks on this host.
    local_size: &'static [&'static str],
    /// The variables with the number of hosts.
    hosts: &'static [&'static str],
    /// The variables that together name the job; those that are set are joined.
    job: &'static [&'static str],
    /// Whether ranks that are all on one host need no `MASTER_ADDR`.
    alone: bool,
}

/// The launchers in the order in which they are tried. SLURM comes last: a process that mpirun starts inside a SLURM
/// job has the variables of both.
const STARTERS: &[Starter] = &[
    Starter { rank: "RANK", size: &["WORLD_SIZE"], local_size: &[], hosts: &[], job: &[], alone: false },
    Starter {
        rank: "OMPI_COMM_WORLD_RANK",
        size: &["OMPI_COMM_WORLD_SIZE"],
        local_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
        hosts: &[],
        job: &["PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid"],
        alone: true,
    },
    Starter {
        rank: "PMI_RANK",
        size: &["PMI_SIZE"],
        local_size: &["MPI_LOCALNRANKS", "PMI_LOCAL_SIZE"],
        hosts: SLURM_HOSTS,
        job: &["PMI_JOBID", "SLURM_JOB_ID", "SLURM_STEP_ID"],
        alone: true,
    },
    Starter {
        rank: "PMIX_RANK",
        size: &["OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"],
        local_size: &["OMPI_COMM_WORLD_LOCAL_SIZE"],
        hosts: SLURM_HOSTS,
        job: &["PMIX_NAMESPACE"],
        alone: true,
    },
    Starter {
        rank: "SLURM_PROCID",
        size: &["SLURM_STEP_NUM_TASKS", "SLURM_NTASKS", "SLURM_NPROCS"],
        local_size: &[],
        hosts: SLURM_HOSTS,
        job: &["SLURM_JOB_ID", "SLURM_STEP_ID"],
        alone: true,
    },
];

const SLURM_HOSTS: &[&str] = &["SLURM_STEP_NUM_NODES", "SLURM_JOB_NUM_NODES", "SLURM_NNODES"];

/// Returns the membership that the variables describe.
pub(super) fn membership(lookup: Lookup<'_>) -> Result<Membership> {
    // A blank value counts as not set.
    let lookup = |name: &str| lookup(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty());
    membership_of(&lookup)
}

fn membership_of(lookup: Lookup<'_>) -> Result<Membership> {
    let starter = STARTERS.iter().find(|s| lookup(s.rank).is_some()).ok_or_else(|| {
        let names = STARTERS.iter().map(|s| s.rank).collect::<Vec<_>>().join(", ");
        unclear(format!(
            "env:// found no rank, since none of {names} is set. Start the program with `c10d run`, torchrun, mpirun \
             or srun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT"
        ))
    })?;
    let rank = number(lookup, &[starter.rank])?;
    let size = number(lookup, starter.size)?;
    let ((rank_name, rank), (size_name, size)) = match (rank, size) {
        (Some(rank), Some(size)) => (rank, size),
        _ => {
            let missing = starter.size.join(" nor ");
            return Err(unclear(format!("env://: {} is set, but not {missing}", starter.rank)));
        }
    };
    let (rank, size) = checked(rank, size, (rank_name, size_name))?;
    let run = lookup("TORCHELASTIC_RUN_ID").unwrap_or_else(|| "none".into());
    Ok(Membership { rank, size, meeting: meeting(lookup, starter, size)?, prefix: Some(format!("c10drs/{run}")) })
}

fn meeting(lookup: Lookup<'_>, starter: &Starter, size: u32) -> Result<Meeting> {
    let Some(host) = lookup("MASTER_ADDR") else {
        return same_host(lookup, starter, size);
    };
    let host = one_host("env://: MASTER_ADDR", &host)?;
    let port = match number::<u16>(lookup, &["MASTER_PORT"])? {
        Some((_, port)) if port > 0 || size == 1 => port,
        Some(_) => {
            let what = "env://: MASTER_PORT is 0, so the other ranks cannot know the port; set it to a free port of the \
                        host of rank 0";
            return Err(unclear(what.into()));
        }
        None => return Err(unclear(format!("env://: MASTER_ADDR is {host:?}, but MASTER_PORT is not set"))),
    };
    let agent = lookup("TORCHELASTIC_USE_AGENT_STORE").unwrap_or_default();
    match agent.to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(Meeting::Server { host, port }),
        "false" | "0" | "" => Ok(Meeting::Rank0 { host, port }),
        _ => Err(unclear(format!("env://: TORCHELASTIC_USE_AGENT_STORE is {agent:?}, neither True nor False"))),
    }
}

fn same_host(lookup: Lookup<'_>, starter: &Starter, size: u32) -> Result<Meeting> {
    let missing = |why: &str| {
        unclear(format!(
            "env://: MASTER_ADDR is not set{why}; set MASTER_ADDR to an address of the host of rank 0, and MASTER_PORT \
             to a free port there"
        ))
    };
    if !starter.alone {
        return Err(missing(""));
    }
    let local = number::<u32>(lookup, starter.local_size)?;
    let hosts = number::<u32>(lookup, starter.hosts)?;
    match (local, hosts) {
        _ if size == 1 => {}
        (Some((_, local)), _) if local == size => {}
        (None, Some((_, 1))) => {}
        (Some((name, local)), _) => {
            return Err(missing(&format!(", and not all {size} ranks are on this host ({name} is {local})")));
        }
        (None, Some((name, hosts))) => {
            return Err(missing(&format!(", and the ranks are on several hosts ({name} is {hosts})")));
        }
        (None, None) => return Err(missing(", and no variable shows that all ranks are on one host")),
    }
    let names: Vec<String> = starter.job.iter().filter_map(|name| lookup(name)).collect();
    Ok(Meeting::SameHost { job: if names.is_empty() { None } else { Some(names.join(".")) } })
}

/// Returns the number in the first of these variables that is set, with the variable's name.
fn number<N: std::str::FromStr>(lookup: Lookup<'_>, names: &[&'static str]) -> Result<Option<(&'static str, N)>> {
    let Some((name, text)) = names.iter().find_map(|name| Some((*name, lookup(name)?))) else { return Ok(None) };
    match text.parse() {
        Ok(number) => Ok(Some((name, number))),
        Err(_) => Err(unclear(format!("env://: {name} is {text:?}, which is not a number in range"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &str) -> Result<Membership> {
        let vars: Vec<(&str, &str)> = vars.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
        membership(&|name| vars.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned()))
    }

    fn server(host: &str, port: u16) -> Meeting {
        Meeting::Server { host: host.into(), port }
    }

    fn rank0(host: &str, port: u16) -> Meeting {
        Meeting::Rank0 { host: host.into(), port }
    }

    fn alone(job: &str) -> Meeting {
        Meeting::SameHost { job: Some(job.into()) }
    }

    #[test]
    fn the_variables_of_every_launcher_are_understood() {
        let torch = "RANK=1 WORLD_SIZE=2 MASTER_ADDR=n0 MASTER_PORT=29500";
        for (vars, rank, size, meeting, prefix) in [
            (torch.to_owned(), 1, 2, rank0("n0", 29500), "c10drs/none"),
            (
                format!("{torch} TORCHELASTIC_USE_AGENT_STORE=True TORCHELASTIC_RUN_ID=ab"),
                1,
                2,
                server("n0", 29500),
                "c10drs/ab",
            ),
            (format!("{torch} TORCHELASTIC_USE_AGENT_STORE=False"), 1, 2, rank0("n0", 29500), "c10drs/none"),
            (
                "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=4 PMIX_NAMESPACE=j@1 \
                 PMIX_RANK=2 SLURM_PROCID=0 SLURM_NTASKS=1"
                    .into(),
                2,
                4,
                alone("j@1"),
                "c10drs/none",
            ),
            (
                "OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=2 MASTER_ADDR=n0 MASTER_PORT=1"
                    .into(),
                2,
                4,
                rank0("n0", 1),
                "c10drs/none",
            ),
            ("PMI_RANK=0 PMI_SIZE=2 MPI_LOCALNRANKS=2 PMI_JOBID=7".into(), 0, 2, alone("7"), "c10drs/none"),
            ("PMIX_RANK=1 SLURM_NTASKS=2 SLURM_NNODES=1 PMIX_NAMESPACE=n".into(), 1, 2, alone("n"), "c10drs/none"),
            (
                "SLURM_PROCID=3 SLURM_NTASKS=8 SLURM_STEP_NUM_TASKS=4 SLURM_NNODES=2 SLURM_STEP_NUM_NODES=1 \
                 SLURM_JOB_ID=12 SLURM_STEP_ID=0"
                    .into(),
                3,
                4,
                alone("12.0"),
                "c10drs/none",
            ),
            ("PMI_RANK=0 PMI_SIZE=1".into(), 0, 1, Meeting::SameHost { job: None }, "c10drs/none"),
        ] {
            let found = read(&vars).unwrap();
            assert_eq!(found, Membership { rank, size, meeting, prefix: Some(prefix.into()) }, "{vars}");
        }
    }

    #[test]
    fn spaces_around_values_are_ignored() {
        let spaced = |name: &str| {
            let value = match name {
                "RANK" => " 1\n",
                "WORLD_SIZE" => "2 ",
                "MASTER_ADDR" => "\tn0 \n",
                "MASTER_PORT" => " 29500 ",
                "TORCHELASTIC_RUN_ID" | "TORCHELASTIC_USE_AGENT_STORE" | "OMPI_COMM_WORLD_RANK" => " ",
                _ => return None,
            };
            Some(value.to_owned())
        };
        let meeting = rank0("n0", 29500);
        assert_eq!(
            membership(&spaced).unwrap(),
            Membership { rank: 1, size: 2, meeting, prefix: Some("c10drs/none".into()) }
        );
        let blank = |name: &str| match name {
            "RANK" => Some(String::new()),
            "WORLD_SIZE" => Some(" ".to_owned()),
            "PMI_RANK" => Some("0".to_owned()),
            "PMI_SIZE" => Some("1".to_owned()),
            _ => None,
        };
        assert_eq!(membership(&blank).unwrap().size, 1);
        for host in ["n0\nn1", "n0 n1", "n0,n1", "http://n0", "n0\u{7}"] {
            let several = |name: &str| if name == "MASTER_ADDR" { Some(host.to_owned()) } else { spaced(name) };
            let error = membership(&several).unwrap_err().to_string();
            assert!(error.contains(&format!("MASTER_ADDR is {host:?}")), "{error}");
        }
    }

    #[test]
    fn errors_name_the_variable_and_its_value() {
        for (vars, says) in [
            ("", vec!["RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID", "MASTER_ADDR"]),
            ("RANK=0", vec!["WORLD_SIZE"]),
            ("RANK=x WORLD_SIZE=2", vec!["RANK is \"x\""]),
            ("RANK=-1 WORLD_SIZE=2", vec!["RANK is \"-1\""]),
            ("RANK=2 WORLD_SIZE=2", vec!["RANK is 2", "WORLD_SIZE is 2"]),
            ("RANK=0 WORLD_SIZE=0", vec!["WORLD_SIZE is 0"]),
            ("RANK=0 WORLD_SIZE=2", vec!["MASTER_ADDR"]),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h", vec!["MASTER_PORT"]),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=99999", vec!["MASTER_PORT is \"99999\""]),
            ("RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=0", vec!["MASTER_PORT is 0"]),
            (
                "RANK=0 WORLD_SIZE=2 MASTER_ADDR=h MASTER_PORT=1 TORCHELASTIC_USE_AGENT_STORE=maybe",
                vec!["TORCHELASTIC_USE_AGENT_STORE is \"maybe\""],
            ),
            (
                "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4 OMPI_COMM_WORLD_LOCAL_SIZE=2",
                vec!["MASTER_ADDR", "OMPI_COMM_WORLD_LOCAL_SIZE is 2"],
            ),
            ("SLURM_PROCID=0 SLURM_NTASKS=4 SLURM_NNODES=2", vec!["MASTER_ADDR", "SLURM_NNODES is 2"]),
            ("SLURM_PROCID=0 SLURM_NTASKS=4", vec!["MASTER_ADDR", "no variable shows"]),
            ("SLURM_PROCID=0", vec!["SLURM_NTASKS"]),
            ("PMIX_RANK=0", vec!["SLURM_NTASKS"]),
        ] {
            let error = read(vars).unwrap_err().to_string();
            for name in says {
                assert!(error.contains(name), "{vars}: {error}");
            }
        }
    }
}
