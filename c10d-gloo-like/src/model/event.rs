//! Simulates a graph of steps, event by event. The bytes of a step move in pieces.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::cluster::{Cluster, Link};
use super::graph::{Graph, Kind, NONE, Node};
use crate::plan::After;

#[derive(Clone, Copy, Default)]
struct Progress {
    /// The number of pieces that are done.
    done: u32,
    /// Whether the step's next piece is in the queue.
    queued: bool,
    /// For `After::All` and `After::Trail`: `None` until all steps for which this step waits are done. Then: the time
    /// at which the last of them was done, and the length of the longest chain of messages to one of them.
    released: Option<(f64, u32)>,
    /// The length of the longest chain of messages that leads to the step.
    rounds: u32,
}

/// The front of a rank's sends, or of its other steps: the first step of its kind that is not over. A step with
/// `After::Trail(d)` waits until the front of the sends is behind step `d`. A step with `After::All(d)` waits until the
/// front of the other steps is behind step `d`.
#[derive(Clone, Copy, Default)]
struct Front {
    /// The front's index, or the end of the rank's steps if all are over.
    next: u32,
    /// The time at which the last step before the front was over.
    time: f64,
    rounds: u32,
    /// The first step that may wait for the front.
    waiting: u32,
}

/// Returns the number of bytes of a piece of a step.
fn piece_bytes(node: &Node, number: u32) -> f64 {
    let (number, pieces) = (u64::from(number), u64::from(node.pieces));
    (node.bytes * (number + 1) / pieces - node.bytes * number / pieces) as f64
}

struct Simulation<'a> {
    graph: &'a Graph,
    cluster: &'a Cluster,
    progress: Vec<Progress>,
    /// For each piece: how many messages have arrived for it.
    arrived: Vec<u32>,
    /// For each piece: the time at which its last message arrived and, later, the time at which it was done.
    at: Vec<f64>,
    /// The fronts of the sends, and of the other steps, by rank.
    fronts: [Vec<Front>; 2],
    /// For each core: whether it is busy, and the steps that wait for it with the times at which they were ready.
    cores: Vec<Core>,
    /// The time from which the network of each host is free, for sending and for receiving.
    networks: Vec<[f64; 2]>,
    queue: BinaryHeap<Reverse<(u64, Event)>>,
}

#[derive(Clone, Default)]
struct Core {
    works: bool,
    waiting: BinaryHeap<Reverse<(u64, u32)>>,
}

/// An event. Events at the same time are handled in this order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A core has finished a piece.
    Free(u32),
    /// A piece of a send, given by the step and the piece's number, leaves the sender's host (`Out`) or arrives at the
    /// receiver's host (`In`).
    Out(u32, u32),
    In(u32, u32),
    /// The next piece of a step can be done.
    Ready(u32),
}

/// Returns the seconds until the last step is over, and the number of rounds.
pub(super) fn run(graph: &Graph, cluster: &Cluster) -> (f64, u32) {
    let ranks = graph.starts.len() - 1;
    let front = |rank: usize| Front { next: graph.starts[rank], waiting: graph.starts[rank], ..Front::default() };
    let fronts: Vec<Front> = (0..ranks).map(front).collect();
    let hosts = ranks.div_ceil(cluster.per_host as usize);
    let mut simulation = Simulation {
        graph,
        cluster,
        progress: vec![Progress::default(); graph.nodes.len()],
        arrived: vec![0; graph.pieces],
        at: vec![0.0; graph.pieces],
        fronts: [fronts.clone(), fronts],
        cores: vec![Core::default(); hosts * cluster.cores as usize],
        networks: vec![[0.0; 2]; hosts],
        queue: BinaryHeap::new(),
    };
    for rank in 0..ranks as u32 {
        simulation.advance_fronts(rank);
    }
    (0..graph.nodes.len() as u32).for_each(|id| simulation.offer(id));
    while let Some(Reverse((time, event))) = simulation.queue.pop() {
        simulation.happen(f64::from_bits(time), event);
    }
    debug_assert!(simulation.progress.iter().zip(&graph.nodes).all(|(p, n)| p.done == n.pieces), "a deadlock");
    let end = simulation.at.iter().fold(0.0, |end: f64, at| end.max(*at));
    (end, simulation.progress.iter().map(|p| p.rounds).max().unwrap_or(0))
}

impl Simulation<'_> {
    fn node(&self, id: u32) -> &Node {
        &self.graph.nodes[id as usize]
    }

    fn is_over(&self, id: u32) -> bool {
        self.progress[id as usize].done == self.node(id).pieces
    }

    /// Returns the time from which the step's next piece can be done. `None` if the piece needs something that is
    /// missing.
    fn ready(&self, id: u32) -> Option<f64> {
        let node = self.node(id);
        let progress = &self.progress[id as usize];
        let piece = node.first_piece + progress.done;
        let mut time = if progress.done > 0 { self.at[piece as usize - 1] } else { 0.0 };
        match node.after {
            After::Nothing => {}
            After::Follow(d) => {
                let source = self.node(d);
                // `end`: the end of the piece in the bytes of the source. `needed`: the number of the source's pieces
                // up to `end`.
                let end = node.offset + node.bytes * u64::from(progress.done + 1) / u64::from(node.pieces);
                let needed = (end * u64::from(source.pieces)).div_ceil(source.bytes.max(1)).max(1);
                let needed = (needed as u32).min(source.pieces);
                if self.progress[d as usize].done < needed {
                    return None;
                }
                time = time.max(self.at[(source.first_piece + needed - 1) as usize]);
            }
            After::All(_) | After::Trail(_) => time = time.max(progress.released?.0),
        }
        if node.kind == Kind::Send && node.previous != NONE {
            let before = self.node(node.previous);
            if !self.is_over(node.previous) {
                return None;
            }
            time = time.max(self.at[(before.first_piece + before.pieces - 1) as usize]);
        }
        if self.arrived[piece as usize] < node.peers {
            return None;
        }
        Some(if node.peers > 0 { time.max(self.at[piece as usize]) } else { time })
    }

    /// Queues the step's next piece, if it can be done.
    fn offer(&mut self, id: u32) {
        if self.progress[id as usize].queued || self.is_over(id) {
            return;
        }
        if let Some(time) = self.ready(id) {
            self.progress[id as usize].queued = true;
            self.schedule(time, Event::Ready(id));
        }
    }

    fn schedule(&mut self, time: f64, event: Event) {
        self.queue.push(Reverse((time.to_bits(), event)));
    }

    fn happen(&mut self, time: f64, event: Event) {
        match event {
            Event::Ready(id) => {
                let core = self.core(self.node(id).rank);
                if std::mem::replace(&mut self.cores[core].works, true) {
                    self.cores[core].waiting.push(Reverse((time.to_bits(), id)));
                } else {
                    self.work(time, id);
                }
            }
            Event::Free(core) => match self.cores[core as usize].waiting.pop() {
                Some(Reverse((_, id))) => self.work(time, id),
                None => self.cores[core as usize].works = false,
            },
            Event::Out(id, number) => {
                let node = *self.node(id);
                let network = &mut self.networks[self.cluster.host(node.rank) as usize][0];
                *network = network.max(time) + piece_bytes(&node, number) * self.cluster.between.wire;
                let there = *network + self.cluster.between.latency;
                self.schedule(there, Event::In(id, number));
            }
            Event::In(id, number) => {
                let node = *self.node(id);
                let host = self.host(self.node(node.target).rank);
                let busy = self.networks[host][1] + piece_bytes(&node, number) * self.cluster.between.wire;
                // The networks of both hosts carry a piece at the same time, so the receiving network delays a piece
                // only while it is busy with earlier pieces.
                self.networks[host][1] = busy.max(time);
                self.arrive(&node, number, self.networks[host][1]);
            }
        }
    }

    /// Simulates the next piece of a step on its rank's core from `time` on.
    fn work(&mut self, time: f64, id: u32) {
        let node = *self.node(id);
        let progress = self.progress[id as usize];
        let number = progress.done;
        let end = time + self.cost(&node, piece_bytes(&node, number), number == 0);
        self.schedule(end, Event::Free(self.core(node.rank) as u32));
        let piece = (node.first_piece + progress.done) as usize;
        self.at[piece] = end;
        let rounds = progress.rounds.max(self.rounds_before(&node, progress));
        self.progress[id as usize] = Progress { done: progress.done + 1, queued: false, rounds, ..progress };
        if node.kind == Kind::Send {
            self.progress[id as usize].rounds = rounds.max(self.rounds_before(&node, progress) + 1);
            self.progress[node.target as usize].rounds =
                self.progress[node.target as usize].rounds.max(self.progress[id as usize].rounds);
            match node.between {
                0 => self.arrive(&node, number, end + self.cluster.inside.latency),
                _ => self.schedule(end, Event::Out(id, number)),
            }
        }
        self.offer(id);
        let followers = &self.graph.followers;
        let begin = followers.partition_point(|(of, _)| *of < id);
        for &(_, follower) in followers[begin..].iter().take_while(|(of, _)| *of == id) {
            self.offer(follower);
        }
        if self.is_over(id) {
            if node.kind == Kind::Send && node.next != NONE {
                self.offer(node.next);
            }
            self.advance_fronts(node.rank);
        }
    }

    /// Returns the seconds for which a piece occupies a core.
    fn cost(&self, node: &Node, bytes: f64, first: bool) -> f64 {
        let (inside, between) = (&self.cluster.inside, &self.cluster.between);
        let each = |per: &dyn Fn(&Link) -> f64, inner: u32, outer: u32| {
            let of = |link: &Link, n: u32| f64::from(n) * (bytes * per(link) + if first { link.message } else { 0.0 });
            of(inside, inner) + of(between, outer)
        };
        let inner = node.peers - node.between.min(node.peers);
        match node.kind {
            Kind::Send => each(&|l| l.send, 1 - node.between, node.between),
            Kind::Receive => each(&|l| l.receive, inner, node.between),
            Kind::Reduce => each(&|l| l.reduce, inner, node.between),
            Kind::Copy => bytes * self.cluster.copy,
        }
    }

    fn host(&self, rank: u32) -> usize {
        self.cluster.host(rank) as usize
    }

    fn core(&self, rank: u32) -> usize {
        let cores = self.cluster.cores;
        self.host(rank) * cores as usize + (rank % self.cluster.per_host % cores) as usize
    }

    /// Handles the arrival of a piece of a send. The receiver can take the piece at `time`.
    fn arrive(&mut self, node: &Node, number: u32, time: f64) {
        let piece = (self.node(node.target).first_piece + number) as usize;
        self.arrived[piece] += 1;
        self.at[piece] = self.at[piece].max(time);
        self.offer(node.target);
    }

    fn rounds_before(&self, node: &Node, progress: Progress) -> u32 {
        match node.after {
            After::Follow(d) => self.progress[d as usize].rounds,
            After::All(_) => progress.released.map_or(0, |(_, rounds)| rounds),
            _ => 0,
        }
    }

    /// Moves the rank's fronts forward, and releases the steps that waited for these fronts.
    fn advance_fronts(&mut self, rank: u32) {
        let end = self.graph.starts[rank as usize + 1];
        for (which, sends) in [(0, true), (1, false)] {
            let mut front = self.fronts[which][rank as usize];
            let counts = |node: &Node| (node.kind == Kind::Send) == sends;
            let waits_here = |node: &Node| match node.after {
                After::Trail(d) if sends => Some(d),
                After::All(d) if !sends => Some(d),
                _ => None,
            };
            loop {
                while front.waiting < end {
                    match waits_here(self.node(front.waiting)) {
                        Some(d) if d >= front.next => break,
                        Some(_) => {
                            self.progress[front.waiting as usize].released = Some((front.time, front.rounds));
                            self.fronts[which][rank as usize] = front;
                            self.offer(front.waiting);
                        }
                        None => {}
                    }
                    front.waiting += 1;
                }
                if front.next == end || counts(self.node(front.next)) && !self.is_over(front.next) {
                    break;
                }
                if counts(self.node(front.next)) {
                    let node = self.node(front.next);
                    let last = self.at[(node.first_piece + node.pieces - 1) as usize];
                    front.time = front.time.max(last);
                    front.rounds = front.rounds.max(self.progress[front.next as usize].rounds);
                }
                front.next += 1;
            }
            self.fronts[which][rank as usize] = front;
        }
    }
}
