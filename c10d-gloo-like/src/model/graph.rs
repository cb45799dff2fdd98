//! The plans of all ranks as one graph of steps and messages.
//!
//! In a world that is too large, the ranks of host 0 represent all ranks, if the world looks the same from every host.
//! That is, ranks at the same position on their hosts have the same steps. If a rank of host 0 has a peer on host `p`,
//! the rank at the same position on host `h` has the corresponding peer on host `p + h`, modulo the number of hosts.

use c10d_core::{Error, Result};

use super::cluster::Cluster;
use super::plans;
use super::scenario::Scenario;
use crate::plan::{Action, After, Plan};
use crate::schedule::{Algorithm, Hosts, Member};

/// The largest number of steps of a graph, and of its messages. Such a graph needs about 2 GiB.
pub(super) const MOST: usize = 12 << 20;
/// The largest number of pieces of all steps of a graph.
const MOST_PIECES: u64 = 24 << 20;
/// The size of the pieces of a long message, in bytes. The size is doubled until there are at most [`MOST_PIECES`]
/// pieces.
const PIECE: u64 = 64 << 10;
/// In worlds with more ranks than this, one host represents all hosts if possible, even if a graph of all ranks would
/// fit.
const LARGE: u32 = 256;
/// The id that stands for no step.
pub(super) const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Kind {
    Send,
    Receive,
    Reduce,
    Copy,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Node {
    pub(super) rank: u32,
    pub(super) kind: Kind,
    /// For a send, 1 if its peer is on another host; for other steps, the number of peers on other hosts.
    pub(super) between: u32,
    /// The number of peers from which the step receives.
    pub(super) peers: u32,
    pub(super) bytes: u64,
    /// The index of the step's first piece among all pieces.
    pub(super) first_piece: u32,
    pub(super) pieces: u32,
    pub(super) after: After,
    /// The offset of this step's bytes in those of the step that it follows.
    pub(super) offset: u64,
    /// For a send: the receiving step, and the previous and next sends to the same peer.
    pub(super) target: u32,
    pub(super) previous: u32,
    pub(super) next: u32,
}

/// The steps of the ranks that are simulated.
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// The index of each rank's first step, and the end of the last rank's steps.
    pub(super) starts: Vec<u32>,
    /// Pairs of a step and a step that follows it, sorted.
    pub(super) followers: Vec<(u32, u32)>,
    pub(super) pieces: usize,
    /// The largest number of bytes that a rank sends.
    pub(super) sent: u64,
}

/// One end of a message: receiver and sender as one number (see [`key`]), and the step.
type End = (u64, u32);

#[derive(Default)]
struct Building {
    nodes: Vec<Node>,
    starts: Vec<u32>,
    sends: Vec<End>,
    receives: Vec<End>,
    sent: u64,
}

impl Graph {
    /// Makes the graph of a call. If the graph has more than `most` steps, the world must look the same from every
    /// host.
    pub(super) fn new(scenario: Scenario, cluster: &Cluster, how: Algorithm, most: usize) -> Result<Graph> {
        let world = cluster.ranks();
        let of: Vec<u32> = (0..world).map(|r| cluster.host(r)).collect();
        let hosts = Hosts::new(&of);
        let plan = |rank: u32, plan: &mut Plan| {
            plan.clear();
            plans::fill(scenario, how, Member { world, rank }, &hosts, plan);
        };
        let fill = |kept: u32| {
            let (mut building, mut scratch) = (Building::default(), Plan::default());
            let fits = (0..kept).all(|rank| {
                plan(rank, &mut scratch);
                building.add(rank, kept, world, cluster, &scratch) && building.nodes.len() <= most
            });
            fits.then_some(building)
        };
        let part = || if is_symmetric(cluster, &plan) { fill(cluster.per_host) } else { None };
        let building = if world > LARGE { part().or_else(|| fill(world)) } else { fill(world).or_else(part) };
        let what = || {
            let (op, name) = (scenario.op, how.name());
            Error::invalid(format!("{name} {op} on {world} ranks has too many steps to simulate (the limit is {most})"))
        };
        building.ok_or_else(what)?.finish()
    }
}

/// Whether the ranks of three other hosts have the same steps as those of the first, with peers at the same distances.
/// Lengths may differ by up to 128 bytes, as those of blocks do (`Blocks::split`).
fn is_symmetric(cluster: &Cluster, plan: &impl Fn(u32, &mut Plan)) -> bool {
    let (world, each) = (cluster.ranks(), cluster.per_host);
    let (mut here, mut there) = (Plan::default(), Plan::default());
    let others = [1, cluster.hosts / 2, cluster.hosts - 1];
    cluster.hosts > 1
        && (0..each).all(|rank| {
            plan(rank, &mut here);
            others.iter().all(|host| {
                let shift = host * each;
                plan(rank + shift, &mut there);
                let alike = |a: &Plan, b: &Plan, id: usize| {
                    let (x, y) = (&a.steps[id], &b.steps[id]);
                    let sum = |plan: &Plan, back: u32| {
                        let peers = plan.partners(id as u32).iter();
                        peers.map(|p| u64::from((p + world - back) % world)).sum::<u64>()
                    };
                    std::mem::discriminant(&x.action) == std::mem::discriminant(&y.action)
                        && std::mem::discriminant(&x.after) == std::mem::discriminant(&y.after)
                        && x.action.len().abs_diff(y.action.len()) <= 128
                        && sum(a, 0) == sum(b, shift)
                };
                here.steps.len() == there.steps.len() && (0..here.steps.len()).all(|id| alike(&here, &there, id))
            })
        })
}

impl Building {
    /// Appends the steps of a rank. Only the first `kept` ranks of the world are in the graph. Returns `false` if there
    /// are too many steps or messages.
    fn add(&mut self, rank: u32, kept: u32, world: u32, cluster: &Cluster, plan: &Plan) -> bool {
        let first = self.nodes.len() as u32;
        self.starts.push(first);
        let peers: usize = plan.steps.iter().enumerate().map(|(i, _)| plan.partners(i as u32).len()).sum();
        if self.nodes.len() + plan.steps.len() > MOST || self.sends.len() + self.receives.len() + peers > 2 * MOST {
            return false;
        }
        let mut sent = 0;
        for (i, step) in plan.steps.iter().enumerate() {
            let id = first + i as u32;
            let partners = plan.partners(i as u32);
            let outside = partners.iter().filter(|p| cluster.host(**p) != cluster.host(rank)).count();
            let kind = match step.action {
                Action::Send { peer, .. } => {
                    sent += step.action.len() as u64;
                    // `stand_in` is the rank of the graph that represents the peer. `from` is as far from `stand_in` as
                    // this rank is from the peer.
                    let stand_in = peer % kept;
                    let from = (rank + world - (peer - stand_in)) % world;
                    self.sends.push((key(stand_in, from), id));
                    Kind::Send
                }
                Action::Recv { .. } => Kind::Receive,
                Action::Reduce { .. } => Kind::Reduce,
                Action::Copy { .. } => Kind::Copy,
            };
            if kind != Kind::Send {
                self.receives.extend(partners.iter().map(|peer| (key(rank, *peer), id)));
            }
            let offset = match step.after {
                After::Follow(d) => {
                    let target = plan.steps[d as usize].action.target();
                    let source = step.action.source();
                    source.zip(target).map_or(0, |(s, t)| s.offset.saturating_sub(t.offset) as u64)
                }
                _ => 0,
            };
            self.nodes.push(Node {
                rank,
                kind,
                between: outside as u32,
                peers: if kind == Kind::Send { 0 } else { partners.len() as u32 },
                bytes: step.action.len() as u64,
                first_piece: 0,
                pieces: 1,
                after: match step.after {
                    After::Nothing => After::Nothing,
                    After::Follow(d) => After::Follow(first + d),
                    After::Trail(d) => After::Trail(first + d),
                    After::All(d) => After::All(first + d),
                },
                offset,
                target: NONE,
                previous: NONE,
                next: NONE,
            });
        }
        self.sent = self.sent.max(sent);
        true
    }

    /// Connects the two ends of each message, and cuts the messages into pieces.
    fn finish(mut self) -> Result<Graph> {
        self.starts.push(self.nodes.len() as u32);
        self.sends.sort_unstable();
        self.receives.sort_unstable();
        if self.sends.len() != self.receives.len() {
            return Err(Error::invalid("the plans of the ranks do not match"));
        }
        for i in 0..self.sends.len() {
            let ((pair, send), (other, receive)) = (self.sends[i], self.receives[i]);
            debug_assert_eq!(pair, other);
            self.nodes[send as usize].target = receive;
            if let Some((_, before)) = i.checked_sub(1).map(|i| self.sends[i]).filter(|(p, _)| *p == pair) {
                self.nodes[send as usize].previous = before;
                self.nodes[before as usize].next = send;
            }
        }
        let of = |size: u64| move |n: &Node| n.bytes.div_ceil(size).max(1);
        let sizes = std::iter::successors(Some(PIECE), |size| Some(size * 2));
        let size = { sizes }.find(|size| self.nodes.iter().map(of(*size)).sum::<u64>() <= MOST_PIECES);
        let pieces = of(size.unwrap_or(u64::MAX));
        let mut count = 0;
        for node in &mut self.nodes {
            node.pieces = pieces(node) as u32;
        }
        // Both ends of a message have equally many pieces, even if their lengths differ by a remainder.
        for &(_, send) in &self.sends {
            let target = self.nodes[send as usize].target as usize;
            self.nodes[send as usize].pieces = self.nodes[target].pieces;
        }
        for node in &mut self.nodes {
            node.first_piece = count;
            count += node.pieces;
        }
        let follows = |(id, n): (usize, &Node)| match n.after {
            After::Follow(d) => Some((d, id as u32)),
            _ => None,
        };
        let mut followers: Vec<(u32, u32)> = self.nodes.iter().enumerate().filter_map(follows).collect();
        followers.sort_unstable();
        let Building { nodes, starts, sent, .. } = self;
        Ok(Graph { nodes, starts, followers, pieces: count as usize, sent })
    }
}

fn key(receiver: u32, sender: u32) -> u64 {
    u64::from(receiver) << 32 | u64::from(sender)
}
