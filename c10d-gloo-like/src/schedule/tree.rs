//! Binomial trees: they need few rounds and few messages, for small payloads in large worlds.
//!
//! Ranks are counted from the root. The subtree of rank `v` is `v .. v + 2^k`, where `2^k` is the lowest set bit of
//! `v`. The subtree of the root has all ranks. The parent of `v` is `v` without its lowest set bit.

use c10d_core::OpKind;

use super::algorithm::Schedule;
use super::member::doublings;
use super::{Hosts, Member};
use crate::plan::{After, Plan, Space};

pub(crate) struct Tree;

impl Schedule for Tree {
    const NAME: &'static str = "tree";
    const RANK_ORDER: bool = false;

    const OPS: &[OpKind] = &[OpKind::AllReduce, OpKind::Reduce, OpKind::Broadcast];

    fn all_reduce(me: Member, _: &Hosts, bytes: usize, _: usize, plan: &mut Plan) {
        all_reduce(me, bytes, plan);
    }

    fn reduce(me: Member, root: u32, bytes: usize, _: usize, plan: &mut Plan) {
        reduce(me, root, bytes, plan);
    }

    fn broadcast(me: Member, root: u32, bytes: usize, _: usize, plan: &mut Plan) {
        broadcast(me, root, bytes, plan);
    }
}

/// A rank in the tree, counted from the root.
struct Node {
    me: Member,
    root: u32,
    v: u32,
    /// The parent is `v - span`; the subtree is `v .. v + span`, up to the last rank.
    span: u32,
}

impl Node {
    fn new(me: Member, root: u32) -> Node {
        let v = me.counted_from(root);
        let span = if v == 0 { 1 << doublings(me.world) } else { v & v.wrapping_neg() };
        Node { me, root, v, span }
    }

    fn rank(&self, v: u32) -> u32 {
        self.me.at(v, self.root)
    }

    fn parent(&self) -> Option<u32> {
        (self.v > 0).then(|| self.rank(self.v - self.span))
    }

    /// Returns the children, counted from the root, those with the largest subtrees first.
    fn children(&self) -> impl Iterator<Item = u32> + use<> {
        let (v, world) = (self.v, self.me.world);
        (0..self.span.trailing_zeros()).rev().map(move |k| v + (1 << k)).filter(move |c| *c < world)
    }
}

/// Reduces towards rank 0, which broadcasts the result.
///
/// Takes `2 * floor(log2(world))` rounds. Each rank except 0 sends `bytes` up, and each sends `bytes` down to every
/// child.
pub(crate) fn all_reduce(me: Member, bytes: usize, plan: &mut Plan) {
    let node = Node::new(me, 0);
    let all = Space::Output.at(0, bytes);
    let mut after = After::Nothing;
    if node.children().next().is_some() || me.world == 1 {
        after = After::Follow(plan.reduce(node.children(), all, all, me.rank == 0, after));
    }
    if let Some(parent) = node.parent() {
        plan.send(parent, all, after);
        after = After::Follow(plan.recv(parent, all));
    }
    for child in node.children() {
        plan.send(child, all, after);
    }
}

/// Reduces towards the root.
///
/// Takes `floor(log2(world))` rounds. Each rank except the root sends `bytes`.
pub(crate) fn reduce(me: Member, root: u32, bytes: usize, plan: &mut Plan) {
    let node = Node::new(me, root);
    let input = Space::Input.at(0, bytes);
    let Some(parent) = node.parent() else {
        let children = node.children().map(|c| node.rank(c));
        plan.reduce(children, input, Space::Output.at(0, bytes), true, After::Nothing);
        return;
    };
    if node.children().next().is_none() {
        plan.send(parent, input, After::Nothing);
        return;
    }
    let part = plan.scratch(bytes);
    let children = node.children().map(|c| node.rank(c));
    let reduced = plan.reduce(children, input, part, false, After::Nothing);
    plan.send(parent, part, After::Follow(reduced));
}

/// Broadcasts from the root.
///
/// Takes `floor(log2(world))` rounds. Each rank sends `bytes` to every child.
pub(crate) fn broadcast(me: Member, root: u32, bytes: usize, plan: &mut Plan) {
    let node = Node::new(me, root);
    let all = Space::Output.at(0, bytes);
    let after = node.parent().map_or(After::Nothing, |parent| After::Follow(plan.recv(parent, all)));
    for child in node.children() {
        plan.send(node.rank(child), all, after);
    }
}
