//! Runs the plans of all ranks on symbolic bytes, in an order that depends on a seed. Each link between two ranks holds
//! only a few bytes.
//!
//! The simulation panics if the plans deadlock, if bytes are left on a link, if a reduction combines bytes of different
//! positions, if a step reads a byte that an earlier step has yet to write, or if a step overwrites a byte that an
//! earlier step has yet to read or write.

use std::collections::VecDeque;

use crate::plan::{Action, After, Plan, Region, Space};

/// A symbolic byte: the reduction of the bytes at position `pos` of these ranks, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) pos: usize,
    pub(crate) ranks: Vec<u8>,
    /// The length of the longest chain of reductions that led to the byte.
    pub(crate) reductions: u8,
}

impl Value {
    pub(crate) fn of(rank: u32, pos: usize) -> Value {
        Value { pos, ranks: vec![rank as u8], reductions: 0 }
    }
}

/// A seeded source of numbers (splitmix64).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n as u64) as usize
    }
}

type Memory = [Vec<Option<Value>>; 3];

struct Rank {
    plan: Plan,
    memory: Memory,
    /// For each step, the number of bytes that it has moved, and whether it has ended.
    done: Vec<usize>,
    over: Vec<bool>,
    priority: Vec<usize>,
    /// For each peer, whether the header to that peer was sent, and whether that peer's header was read.
    heads_sent: Vec<bool>,
    heads_read: Vec<bool>,
}

struct Wire {
    head: bool,
    bytes: VecDeque<Value>,
}

pub(crate) struct World {
    ranks: Vec<Rank>,
    wires: Vec<Wire>,
    elem: usize,
    capacity: usize,
}

impl World {
    /// Makes a world from the plan of each rank, `plan(rank)`, and the initial contents of its spaces, `input(rank)`
    /// and `output(rank)`. In these contents, `None` stands for a byte that nobody has written.
    pub(crate) fn new(
        world: u32,
        elem: usize,
        plan: impl Fn(u32) -> Plan,
        input: impl Fn(u32) -> Vec<Option<Value>>,
        output: impl Fn(u32) -> Vec<Option<Value>>,
    ) -> World {
        let ranks: Vec<Rank> = (0..world)
            .map(|r| {
                let plan = plan(r);
                let steps = plan.steps.len();
                let memory = [input(r), output(r), vec![None; plan.scratch]];
                let heads = vec![false; world as usize];
                Rank {
                    plan,
                    memory,
                    done: vec![0; steps],
                    over: vec![false; steps],
                    priority: vec![0; steps],
                    heads_sent: heads.clone(),
                    heads_read: heads,
                }
            })
            .collect();
        let wires = (0..world * world).map(|_| Wire { head: false, bytes: VecDeque::new() }).collect();
        World { ranks, wires, elem, capacity: elem }
    }

    pub(crate) fn output(&self, rank: u32) -> &[Option<Value>] {
        &self.ranks[rank as usize].memory[Space::Output as usize]
    }

    pub(crate) fn input(&self, rank: u32) -> &[Option<Value>] {
        &self.ranks[rank as usize].memory[Space::Input as usize]
    }

    pub(crate) fn sent(&self, rank: u32) -> usize {
        let sends = self.ranks[rank as usize].plan.steps.iter();
        sends.filter(|s| matches!(s.action, Action::Send { .. })).map(|s| s.action.len()).sum()
    }

    /// Runs the plans to the end, in an order that depends on the seed.
    pub(crate) fn run(&mut self, seed: u64) {
        let mut random = Random(seed);
        self.capacity = self.elem * (1 + random.below(8));
        for r in &mut self.ranks {
            r.priority = (0..r.over.len()).map(|_| random.below(1 << 20)).collect();
        }
        // With an even seed, all steps advance in a random order. With an odd seed, steps have random priorities, and
        // each pass advances only the first step that can advance.
        let starve = seed % 2 == 1;
        let mut all: Vec<(usize, usize)> =
            (0..self.ranks.len()).flat_map(|r| (0..self.ranks[r].over.len()).map(move |s| (r, s))).collect();
        while !all.is_empty() {
            if starve {
                all.sort_by_key(|&(r, s)| self.ranks[r].priority[s]);
            } else {
                for i in (1..all.len()).rev() {
                    all.swap(i, random.below(i + 1));
                }
            }
            let mut moved = false;
            for &(r, s) in &all {
                let most = if starve { usize::MAX } else { self.elem * (1 + random.below(16)) };
                moved |= self.advance(r, s, most);
                if moved && starve {
                    break;
                }
            }
            assert!(moved, "deadlock, seed {seed}: {:?}", self.waiting());
            all.retain(|&(r, s)| !self.ranks[r].over[s]);
        }
        assert!(self.wires.iter().all(|w| w.bytes.is_empty() && !w.head), "bytes are left on a link");
    }

    fn waiting(&self) -> Vec<(usize, usize)> {
        let steps = |r: usize| (0..self.ranks[r].over.len()).filter(move |s| !self.ranks[r].over[*s]);
        (0..self.ranks.len()).filter_map(|r| steps(r).next().map(|s| (r, s))).collect()
    }

    /// Returns how many bytes of the step may be moved by now, given the progress of the steps on which the step
    /// depends. Returns `None` if the step may not even send or receive its header.
    fn limit(&self, r: usize, s: usize) -> Option<usize> {
        let rank = &self.ranks[r];
        let steps = &rank.plan.steps;
        let len = steps[s].action.len();
        let is_send = |i: usize| matches!(steps[i].action, Action::Send { .. });
        match steps[s].after {
            After::Nothing => Some(len),
            After::Follow(d) => {
                let d = d as usize;
                let (source, target) = (steps[s].action.source().unwrap(), steps[d].action.target().unwrap());
                assert!(d < s && source.lies_in(&target), "step {s} cannot follow step {d}");
                let there = rank.done[d].saturating_sub(source.offset - target.offset);
                if rank.over[d] { Some(len) } else { (there > 0).then_some(there.min(len)) }
            }
            After::Trail(d) => {
                assert!((d as usize) < s);
                let sends = (0..=d as usize).filter(|i| is_send(*i) && !rank.over[*i]);
                Some(sends.map(|i| rank.done[i]).min().unwrap_or(len).min(len))
            }
            After::All(d) => {
                assert!((d as usize) < s);
                (0..=d as usize).all(|i| is_send(i) || rank.over[i]).then_some(len)
            }
        }
    }

    fn receives_from(plan: &Plan, s: usize) -> &[u32] {
        match &plan.steps[s].action {
            Action::Recv { peer, .. } => std::slice::from_ref(peer),
            Action::Reduce { peers, .. } => &plan.peers[peers.start as usize..peers.end as usize],
            _ => &[],
        }
    }

    /// Returns whether an earlier step with the same peer and direction is unfinished, so that this step has to wait.
    fn must_queue(&self, r: usize, s: usize) -> bool {
        let rank = &self.ranks[r];
        let earlier = (0..s).filter(|i| !rank.over[*i]);
        if let Action::Send { peer, .. } = rank.plan.steps[s].action {
            return { earlier }.any(|i| matches!(rank.plan.steps[i].action, Action::Send { peer: p, .. } if p == peer));
        }
        let mine = Self::receives_from(&rank.plan, s);
        { earlier }.any(|i| Self::receives_from(&rank.plan, i).iter().any(|p| mine.contains(p)))
    }

    fn advance(&mut self, r: usize, s: usize, most: usize) -> bool {
        let Some(limit) = self.limit(r, s).filter(|_| !self.ranks[r].over[s] && !self.must_queue(r, s)) else {
            return false;
        };
        let world = self.ranks.len();
        let action = self.ranks[r].plan.steps[s].action.clone();
        let peers = Self::receives_from(&self.ranks[r].plan, s).to_vec();
        let done = self.ranks[r].done[s];
        let mut n = most.min(limit - done.min(limit));
        let mut moved = false;
        if let Action::Send { peer, .. } = action {
            let wire = &mut self.wires[r * world + peer as usize];
            if !std::mem::replace(&mut self.ranks[r].heads_sent[peer as usize], true) {
                wire.head = true;
                moved = true;
            }
            n = n.min(self.capacity - wire.bytes.len());
        }
        for p in &peers {
            let wire = &mut self.wires[*p as usize * world + r];
            if !self.ranks[r].heads_read[*p as usize] {
                if !std::mem::take(&mut wire.head) {
                    return moved;
                }
                self.ranks[r].heads_read[*p as usize] = true;
                moved = true;
            }
            n = n.min(wire.bytes.len());
        }
        if matches!(action, Action::Reduce { .. }) {
            n -= n % self.elem;
        }
        for i in done..done + n {
            self.byte(r, s, i, &action, &peers);
            self.ranks[r].done[s] = i + 1;
        }
        let over = done + n == action.len();
        self.ranks[r].over[s] = over;
        moved || over || n > 0
    }

    fn byte(&mut self, r: usize, s: usize, i: usize, action: &Action, peers: &[u32]) {
        let world = self.ranks.len();
        let own = action.source().map(|from| self.read(r, s, from, i));
        let mut sources: Vec<Value> = Vec::new();
        for p in peers {
            sources.push(self.wires[*p as usize * world + r].bytes.pop_front().unwrap());
        }
        if let Action::Send { peer, .. } = action {
            self.wires[r * world + *peer as usize].bytes.push_back(own.unwrap());
            return;
        }
        let value = if let Action::Reduce { .. } = action {
            sources.insert(peers.iter().filter(|p| (**p as usize) < r).count(), own.unwrap());
            let pos = sources[0].pos;
            assert!(sources.iter().all(|v| v.pos == pos), "reduces bytes that do not belong together: {sources:?}");
            let reductions = 1 + sources.iter().map(|v| v.reductions).max().unwrap();
            Value { pos, reductions, ranks: sources.into_iter().flat_map(|v| v.ranks).collect() }
        } else {
            own.or(sources.pop()).unwrap()
        };
        let to = action.target().unwrap();
        self.write(r, s, to, i, value);
    }

    /// Reads a byte. Panics if an earlier step of the plan has yet to write this byte.
    fn read(&self, r: usize, s: usize, from: Region, i: usize) -> Value {
        let rank = &self.ranks[r];
        for e in (0..s).filter(|e| !rank.over[*e]) {
            let pending = rank.plan.steps[e].action.target().is_some_and(|t| covers(t, rank.done[e], from, i));
            assert!(!pending, "rank {r}: step {s} reads a byte that step {e} has not written yet");
        }
        rank.memory[from.space as usize][from.offset + i].clone().expect("reads a byte that nobody wrote")
    }

    /// Writes a byte. Panics if an earlier step of the plan has yet to read or write this byte.
    fn write(&mut self, r: usize, s: usize, to: Region, i: usize, value: Value) {
        let rank = &mut self.ranks[r];
        for e in (0..s).filter(|e| !rank.over[*e]) {
            let action = &rank.plan.steps[e].action;
            let pending = [action.source(), action.target()].into_iter().flatten();
            for region in pending {
                assert!(
                    !covers(region, rank.done[e], to, i),
                    "rank {r}: step {s} overwrites what step {e} still needs"
                );
            }
        }
        rank.memory[to.space as usize][to.offset + i] = Some(value);
    }

    /// Returns two values for each step of each rank. The first is the number of messages in the longest chain that
    /// ends at the step; if the step is a send, its own message counts. The second is a set of ranks (one bit each):
    /// this rank, and the ranks whose messages have reached the step, directly or through other ranks.
    fn chains(&self) -> Vec<Vec<(u32, u64)>> {
        let world = self.ranks.len();
        let mut known: Vec<Vec<Option<(u32, u64)>>> = self.ranks.iter().map(|r| vec![None; r.over.len()]).collect();
        let left = |known: &Vec<Vec<Option<_>>>| known.iter().flatten().filter(|k| k.is_none()).count();
        while left(&known) > 0 {
            let before = left(&known);
            for r in 0..world {
                for s in 0..known[r].len() {
                    if known[r][s].is_none() {
                        known[r][s] = self.chain(&known, r, s);
                    }
                }
            }
            assert!(left(&known) < before, "the messages depend on each other in a cycle");
        }
        known.into_iter().map(|steps| steps.into_iter().map(Option::unwrap).collect()).collect()
    }

    /// Returns the two values of [`World::chains`] for one step, or `None` if those of a step on which it depends are
    /// not known yet.
    fn chain(&self, known: &[Vec<Option<(u32, u64)>>], r: usize, s: usize) -> Option<(u32, u64)> {
        let plan = &self.ranks[r].plan;
        let join = |a: (u32, u64), b: (u32, u64)| (a.0.max(b.0), a.1 | b.1);
        let mut chain = (0, 1 << r);
        match plan.steps[s].after {
            After::Follow(d) => chain = join(chain, known[r][d as usize]?),
            After::All(d) => {
                for i in (0..=d as usize).filter(|i| !matches!(plan.steps[*i].action, Action::Send { .. })) {
                    chain = join(chain, known[r][i]?);
                }
            }
            _ => {}
        }
        for p in Self::receives_from(plan, s) {
            let nth = (0..s).filter(|i| Self::receives_from(plan, *i).contains(p)).count();
            let theirs = &self.ranks[*p as usize].plan.steps;
            let sends = (0..theirs.len())
                .filter(|i| matches!(theirs[*i].action, Action::Send { peer, .. } if peer as usize == r));
            let send = { sends }.nth(nth).expect("receives an item that nobody sends");
            assert_eq!(theirs[send].action.len(), plan.steps[s].action.len(), "the two ends of an item differ");
            chain = join(chain, known[*p as usize][send]?);
        }
        if let Action::Send { .. } = plan.steps[s].action {
            chain.0 += 1;
        }
        Some(chain)
    }

    /// Returns the number of rounds: the number of messages in the longest chain in which each message depends on the
    /// message before it.
    pub(crate) fn rounds(&self) -> u32 {
        self.chains().iter().flatten().map(|c| c.0).max().unwrap_or(0)
    }

    /// Returns whether every rank has heard from every other rank, directly or through others, by the end of its last
    /// step.
    pub(crate) fn all_met(&self) -> bool {
        let all = (1 << self.ranks.len()) - 1;
        self.chains().iter().all(|steps| steps.iter().fold(0, |heard, c| heard | c.1) == all)
    }
}

/// Returns whether byte `i` of the region `other` is in `region`, outside the first `done` bytes of `region`.
fn covers(region: Region, done: usize, other: Region, i: usize) -> bool {
    let at = other.offset + i;
    region.space == other.space && at >= region.offset + done && at < region.offset + region.len
}
