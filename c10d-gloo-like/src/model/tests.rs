//! Checks the model against costs computed by hand, and the table's choices against the model.

use super::graph::{Graph, MOST};
use super::*;

/// Returns a cluster whose costs are multiples of a half, so that sums are exact.
fn cluster(hosts: u32, per_host: u32) -> Cluster {
    let inside = Link { latency: 100.0, message: 10.0, send: 1.0, receive: 2.0, reduce: 4.0, wire: 0.0 };
    let between = Link { latency: 1000.0, message: 20.0, send: 3.0, receive: 5.0, reduce: 6.0, wire: 7.0 };
    Cluster { hosts, per_host, cores: per_host, inside, between, shm: true, copy: 0.5, start: 0.0 }
}

fn cost(op: OpKind, bytes: usize, cluster: &Cluster, algorithm: Algorithm) -> Outcome {
    simulate(Scenario { op, bytes, elem: 1 }, cluster, &Table::builtin(), Some(algorithm)).unwrap()
}

#[test]
fn a_message_costs_the_times_of_its_link() {
    let seconds = |hosts, each| cost(OpKind::Broadcast, 8, &cluster(hosts, each), Algorithm::Direct).seconds;
    assert_eq!(seconds(1, 2), (10.0 + 8.0) + 100.0 + (10.0 + 16.0));
    assert_eq!(seconds(2, 1), (20.0 + 24.0) + 56.0 + 1000.0 + (20.0 + 40.0));
    // Rank 1 forwards the message after it has received all of it.
    let chain = cost(OpKind::Broadcast, 8, &cluster(1, 3), Algorithm::Ring);
    assert_eq!((chain.seconds, chain.rounds, chain.sent), (2.0 * (18.0 + 100.0 + 26.0), 2, 8));
    // Two ranks on one core take turns.
    let crowded = Cluster { cores: 1, ..cluster(1, 2) };
    let one_shot = |c: &Cluster| cost(OpKind::AllReduce, 8, c, Algorithm::OneShot).seconds;
    assert_eq!(one_shot(&cluster(1, 2)), 18.0 + 100.0 + (10.0 + 32.0));
    // Rank 1 reduces first, since the message to rank 1 was sent first.
    assert_eq!(one_shot(&crowded), 18.0 + 100.0 + 2.0 * (10.0 + 32.0));
}

#[test]
fn the_network_of_a_host_is_shared() {
    // Both ranks of host 1 send to rank 0 on host 0, and the network carries their bytes one after the other.
    let c = cluster(2, 2);
    let alone = cost(OpKind::Gather, 40, &cluster(2, 1), Algorithm::Direct);
    let shared = cost(OpKind::Gather, 80, &c, Algorithm::Direct);
    assert_eq!(alone.seconds, 20.0 + 60.0 + 140.0 + 1000.0 + 20.0 + 100.0);
    // Each rank sends 20 bytes; the root also receives the 20 bytes of the other rank on its own host.
    assert_eq!(shared.seconds, 20.0 + 60.0 + 2.0 * 140.0 + 1000.0 + 20.0 + 100.0);
}

#[test]
fn long_messages_overlap() {
    let c = cluster(4, 1);
    let bytes = 64 << 16;
    let chain = cost(OpKind::Broadcast, bytes, &c, Algorithm::Ring);
    // A byte takes 7 units of time of the network, 3 of the sender's core and 5 of the receiver's core. So the message
    // takes at least the network's time for its 64 pieces (64 KiB each). The three messages of the chain overlap, so
    // together they take less than 1.7 times as long as one.
    let piece = 7.0 * (64 << 10) as f64;
    let least = 64.0 * piece;
    assert!(chain.seconds > least && chain.seconds < 1.7 * least, "{}", chain.seconds / least);
}

#[test]
fn rounds_and_bytes_are_those_of_the_algorithms() {
    let c = cluster(16, 1);
    let ring = cost(OpKind::AllReduce, 16 << 10, &c, Algorithm::Ring);
    assert_eq!((ring.rounds, ring.sent), (30, 30 << 10));
    let halving = cost(OpKind::AllReduce, 16 << 10, &c, Algorithm::HalvingDoubling);
    assert_eq!((halving.rounds, halving.sent, halving.bounds.sent), (8, 30 << 10, 30 << 10));
    let barrier = cost(OpKind::Barrier, 0, &c, Algorithm::Bruck);
    assert_eq!((barrier.rounds, barrier.sent, barrier.bounds.rounds), (4, 0, 4));
}

/// If a world looks the same from each host, a simulation of one host costs the same, within 2 %, as one of all ranks.
#[test]
fn one_host_represents_all_hosts() {
    for (hosts, each) in [(8, 2), (5, 3), (16, 1)] {
        let c = cluster(hosts, each);
        for (op, how) in [
            (OpKind::AllReduce, Algorithm::Ring),
            (OpKind::AllReduce, Algorithm::Direct),
            (OpKind::AllGatherInto, Algorithm::Ring),
            (OpKind::ReduceScatterInto, Algorithm::Ring),
            (OpKind::AllToAllSingle, Algorithm::Direct),
            (OpKind::Barrier, Algorithm::Bruck),
        ] {
            let scenario = Scenario { op, bytes: hosts as usize * each as usize * 1024, elem: 1 };
            let whole = Graph::new(scenario, &c, how, MOST).unwrap();
            let part = Graph::new(scenario, &c, how, whole.nodes.len() - 1).unwrap();
            assert_eq!(part.nodes.len(), whole.nodes.len() / hosts as usize, "{op} {how:?}");
            let ((a, rounds), (b, others)) = (event::run(&whole, &c), event::run(&part, &c));
            assert!((a / b - 1.0).abs() < 0.02 && rounds == others, "{op} {how:?}: {a} {b}, {rounds} {others}");
        }
    }
    // A tree does not look the same from every host, so all ranks must be simulated, with more than the 20 steps
    // allowed here.
    let scenario = Scenario { op: OpKind::AllReduce, bytes: 64, elem: 1 };
    let error = Graph::new(scenario, &cluster(8, 2), Algorithm::Tree, 20).err().unwrap();
    assert!(error.to_string().contains("tree all_reduce on 16 ranks has too many steps"), "{error}");
}

#[test]
fn invalid_clusters_are_rejected() {
    let scenario = Scenario { op: OpKind::AllReduce, bytes: 64, elem: 1 };
    let refused = |c: Cluster| simulate(scenario, &c, &Table::builtin(), None).unwrap_err().to_string();
    assert!(refused(cluster(0, 2)).contains("at least one host"));
    assert!(refused(cluster(1 << 16, 2)).contains("the limit is 65536 ranks"));
    assert!(refused(Cluster { copy: f64::NAN, ..cluster(2, 2) }).contains("finite"));
    let send = Scenario { op: OpKind::Send, ..scenario };
    assert!(simulate(send, &cluster(2, 2), &Table::builtin(), None).is_err());
}

/// Returns clusters of all shapes. The numbers of ranks are powers of two and others.
fn shapes() -> Vec<Cluster> {
    let network = |hosts, each| Cluster::new(hosts, each, 12.5e9, 5e-6);
    let flat = [2, 3, 6, 8, 12, 24, 32, 64, 100].map(|hosts| network(hosts, 1));
    let deep = [(2, 2), (4, 4), (3, 8), (8, 8), (12, 4)].map(|(hosts, each)| network(hosts, each));
    // For smaller worlds on one host, the table's rules come from measurements.
    let one = [9, 16, 48].map(|ranks| Cluster::one_host(ranks, ranks, true));
    [&flat[..], &deep[..], &one[..]].concat()
}

/// Returns the outcome of the selected algorithm, and those of all algorithms, the best first.
fn compare(op: OpKind, bytes: usize, cluster: &Cluster) -> (Outcome, Vec<Outcome>) {
    let scenario = Scenario { op, bytes, elem: 4 };
    let table = Table::builtin();
    // One-shot sends all data to every rank: never the best for large data.
    let hopeless = |a: Algorithm| a == Algorithm::OneShot && bytes * cluster.ranks() as usize > 1 << 20;
    let able = Algorithm::ALL.iter().copied().filter(|a| a.ops().contains(&op) && !hopeless(*a));
    let mut all: Vec<Outcome> = able.map(|a| simulate(scenario, cluster, &table, Some(a)).unwrap()).collect();
    all.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    (simulate(scenario, cluster, &table, None).unwrap(), all)
}

#[test]
fn the_selected_algorithm_is_nearly_the_best() {
    let mut wrong = Vec::new();
    for cluster in shapes() {
        for op in crate::schedule::TUNED {
            for bytes in [8, 1 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 8 << 20] {
                let (selected, all) = compare(op, bytes, &cluster);
                let place = format!("{} on {}x{}, {bytes} bytes", op.name(), cluster.hosts, cluster.per_host);
                if selected.seconds > 1.2 * all[0].seconds {
                    let ratio = selected.seconds / all[0].seconds;
                    wrong.push(format!(
                        "{place}: {} {ratio:.2} of {}",
                        selected.algorithm.name(),
                        all[0].algorithm.name()
                    ));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} rows:\n{}", wrong.len(), wrong.join("\n"));
}
