//! Two binary trees, each for one half of the bytes. A rank with children in one tree is a leaf of the other (except
//! one rank of an odd world), so the work is divided almost equally.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::{Blocks, Hosts, Member};
use crate::plan::{After, Plan, Region, Space};

pub(crate) struct DoubleTree;

impl Schedule for DoubleTree {
    const NAME: &'static str = "double-tree";
    const RANK_ORDER: bool = false;
    const OPS: &[OpKind] = &[OpKind::AllReduce, OpKind::Reduce, OpKind::Broadcast];

    fn all_reduce(me: Member, _: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
        all_reduce(me, bytes, elem, plan);
    }

    fn reduce(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        reduce(me, root, bytes, elem, plan);
    }

    fn broadcast(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
        broadcast(me, root, bytes, elem, plan);
    }
}

/// A node of one of the two trees. The nodes of a tree are numbered; the number of a node is its place.
#[derive(Debug, PartialEq)]
struct Node {
    parent: Option<u32>,
    children: [Option<u32>; 2],
}

impl Node {
    /// Returns the node at place `v` of `n` in the first tree. Place 0 is the root, and odd places are leaves. Let
    /// `bit` be the lowest set bit of `v`. If the bit `2 * bit` of `v` is set, too, the parent is `v - bit`. Otherwise
    /// the parent is `v + bit`, or `v - bit` if place `v + bit` does not exist.
    fn first(v: u32, n: u32) -> Node {
        let inside = |v: u32| (v < n).then_some(v);
        if v == 0 {
            return Node { parent: None, children: [None, if n > 1 { Some(n.next_power_of_two() / 2) } else { None }] };
        }
        let bit = v & v.wrapping_neg();
        let up = (v ^ bit) | bit << 1;
        let half = bit >> 1;
        let low = if half > 0 { Some(v - half) } else { None };
        // The upper child: the first of `v + half`, `v + half / 2`, ... that exists.
        let high =
            std::iter::successors(Some(half), |b| Some(b >> 1)).take_while(|b| *b > 0).find_map(|b| inside(v + b));
        Node { parent: Some(inside(up).unwrap_or(v ^ bit)), children: [low, high] }
    }

    /// Returns the node at place `v` of `n` in tree `which` (0 or 1). The second tree is the first one, mirrored if `n`
    /// is even, and shifted by one place if `n` is odd. So leaves of the first tree are inner nodes of the second.
    fn new(which: usize, v: u32, n: u32) -> Node {
        let (there, back): (u32, &dyn Fn(u32) -> u32) = match (which, n.is_multiple_of(2)) {
            (0, _) => (v, &|v| v),
            (_, true) => (n - 1 - v, &|v| n - 1 - v),
            (_, false) => ((v + n - 1) % n, &|v| (v + 1) % n),
        };
        let node = Node::first(there, n);
        Node { parent: node.parent.map(back), children: node.children.map(|child| child.map(back)) }
    }

    fn children(&self) -> impl Iterator<Item = u32> + use<> {
        self.children.into_iter().flatten()
    }
}

/// Divides `bytes` into two halves, one for each tree.
fn halves(bytes: usize, elem: usize, space: Space) -> [Region; 2] {
    let blocks = Blocks::split(bytes, 2, elem);
    [0, 1].map(|t| blocks.region(space, t))
}

/// Reduces each half towards the root of its tree, and broadcasts the result from this root.
///
/// Takes about `4 * log2(world)` rounds. Each rank sends at most about `2 * bytes`.
pub(crate) fn all_reduce(me: Member, bytes: usize, elem: usize, plan: &mut Plan) {
    let nodes = [0, 1].map(|t| Node::new(t, me.rank, me.world));
    let halves = halves(bytes, elem, Space::Output);
    let mut reduced = [After::Nothing; 2];
    for (t, node) in nodes.iter().enumerate() {
        if node.children().next().is_some() || me.world == 1 {
            let last = node.parent.is_none();
            reduced[t] = After::Follow(plan.reduce(node.children(), halves[t], halves[t], last, After::Nothing));
        }
        if let Some(parent) = node.parent {
            plan.send(parent, halves[t], reduced[t]);
        }
    }
    for (t, node) in nodes.iter().enumerate() {
        let there = node.parent.map_or(reduced[t], |parent| After::Follow(plan.recv(parent, halves[t])));
        for child in node.children() {
            plan.send(child, halves[t], there);
        }
    }
}

/// Each half has a tree of all ranks except the op's root. The ranks reduce the half towards the root of its tree,
/// which sends the result to the op's root.
///
/// Takes about `2 * log2(world)` rounds. Each rank except the root sends `bytes`.
pub(crate) fn reduce(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
    let (from, to) = (halves(bytes, elem, Space::Input), halves(bytes, elem, Space::Output));
    let others = me.world - 1;
    let rank = |place: u32| me.at(place + 1, root);
    let v = me.counted_from(root);
    for t in 0..2 {
        if v == 0 {
            plan.reduce(top(t, others).map(rank), from[t], to[t], true, After::Nothing);
            continue;
        }
        let node = Node::new(t, v - 1, others);
        let parent = node.parent.map_or(root, rank);
        if node.children().next().is_none() {
            plan.send(parent, from[t], After::Nothing);
            continue;
        }
        let part = plan.scratch(from[t].len);
        let reduced = plan.reduce(node.children().map(rank), from[t], part, false, After::Nothing);
        plan.send(parent, part, After::Follow(reduced));
    }
}

/// Returns the place of the root of a tree; `None` if the tree has no places.
fn top(which: usize, n: u32) -> Option<u32> {
    (n > 0).then(|| match (which, n.is_multiple_of(2)) {
        (0, _) => 0,
        (_, true) => n - 1,
        (_, false) => 1 % n,
    })
}

/// Each half has a tree of all ranks except the op's root. The op's root sends the half to the root of its tree, which
/// broadcasts the half in the tree.
///
/// Takes about `2 * log2(world)` rounds. Each rank sends at most about `bytes`.
pub(crate) fn broadcast(me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
    let others = me.world - 1;
    let rank = |place: u32| me.at(place + 1, root);
    let v = me.counted_from(root);
    for (t, half) in halves(bytes, elem, Space::Output).into_iter().enumerate() {
        if v == 0 {
            if let Some(place) = top(t, others) {
                plan.send(rank(place), half, After::Nothing);
            }
            continue;
        }
        let node = Node::new(t, v - 1, others);
        let there = After::Follow(plan.recv(node.parent.map_or(root, rank), half));
        for child in node.children() {
            plan.send(rank(child), half, there);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both trees have all places and logarithmic depth. In the two trees together, a place has at most two children;
    /// the test accepts three.
    #[test]
    fn the_trees_complement_each_other() {
        for n in 1..=130u32 {
            for t in 0..2 {
                let nodes: Vec<Node> = (0..n).map(|v| Node::new(t, v, n)).collect();
                assert_eq!((0..n).filter(|v| nodes[*v as usize].parent.is_none()).count(), 1);
                for v in 0..n {
                    assert!(nodes[v as usize].children().all(|c| nodes[c as usize].parent == Some(v)));
                    assert_eq!(top(t, n) == Some(v), nodes[v as usize].parent.is_none());
                    let up = std::iter::successors(Some(v), |v| nodes[*v as usize].parent).take(99).count() as u32;
                    assert!(up <= n.next_power_of_two().trailing_zeros() + 1, "{v} of {n}: {up}");
                }
                assert_eq!(nodes.iter().map(|node| node.children().count() as u32).sum::<u32>(), n - 1);
            }
            for v in 0..n {
                let children = |t| Node::new(t, v, n).children().count();
                assert!(children(0) + children(1) <= 3, "{v} of {n}");
            }
        }
    }
}
