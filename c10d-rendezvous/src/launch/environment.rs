//! The environment variables of a rank. They are those that torchrun sets.

use std::ffi::OsString;

use super::nodes::Node;
use super::options::Topology;

pub(super) fn of_rank(topology: &Topology, node: &Node, local: u32) -> Vec<(OsString, OsString)> {
    let rank = topology.rank(local).to_string();
    let world = (topology.nodes * topology.ranks).to_string();
    [
        ("RANK", rank.clone()),
        ("LOCAL_RANK", local.to_string()),
        ("WORLD_SIZE", world.clone()),
        ("LOCAL_WORLD_SIZE", topology.ranks.to_string()),
        ("GROUP_RANK", topology.node_rank.to_string()),
        ("GROUP_WORLD_SIZE", topology.nodes.to_string()),
        ("ROLE_NAME", "default".into()),
        ("ROLE_RANK", rank),
        ("ROLE_WORLD_SIZE", world),
        ("MASTER_ADDR", node.host.clone()),
        ("MASTER_PORT", node.port.to_string()),
        ("TORCHELASTIC_USE_AGENT_STORE", "True".into()),
        ("TORCHELASTIC_RUN_ID", node.run_id.clone()),
        ("TORCHELASTIC_RESTART_COUNT", "0".into()),
        ("TORCHELASTIC_MAX_RESTARTS", "0".into()),
    ]
    .map(|(name, value)| (name.into(), value.into()))
    .into()
}
