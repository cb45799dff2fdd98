//! Runs a program as N ranks: `launch N PROGRAM [ARGS]..`. With `launch N@NODE/NODES,HOST:PORT PROGRAM [ARGS]..`, this
//! is host NODE of NODES hosts with N ranks each, and host 0 serves the store at HOST:PORT.

use c10d_rendezvous::launch::Launch;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(ranks), Some(program)) = (args.next(), args.next()) else {
        return Err("usage: launch N[@NODE/NODES,HOST:PORT] PROGRAM [ARGS]..".into());
    };
    let mut launch = Launch::new(program, args);
    let (ranks, hosts) = ranks.split_once('@').map_or((ranks.as_str(), None), |(n, hosts)| (n, Some(hosts)));
    if let Some(hosts) = hosts {
        let (node, rdzv) = hosts.split_once(',').ok_or("no HOST:PORT")?;
        let (node, nodes) = node.split_once('/').ok_or("no NODES")?;
        launch = launch.node_rank(node.parse()?).nnodes(nodes.parse()?).rdzv(rdzv);
    }
    let report = launch.ranks(ranks.parse()?).run()?;
    if let Some(failure) = &report.failure {
        eprintln!("launch: {failure}");
    } else if let Some(elsewhere) = &report.elsewhere {
        eprintln!("launch: ended because {elsewhere}");
    }
    std::process::exit(report.exit_code())
}
