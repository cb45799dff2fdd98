//! Finds the end of a chain of waits (a rank waits for a rank that itself waits for another, and so on): ranks that are
//! gone, ranks that are in no call, or ranks that wait for each other in a circle.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use super::answer::{Answer, LONG};
use super::doing::Wait;

/// The largest number of ranks from which the search for circles starts.
const STARTS: usize = 64;
/// The largest number of links of a chain in an error.
const SHOWN: usize = 8;

/// The waits of rank `me`, and the answers of all others.
pub(super) struct Chains<'a> {
    pub(super) me: u32,
    pub(super) mine: &'a Wait,
    pub(super) answers: &'a [Answer],
}

/// One link of a chain: rank `from` waits for rank `to` in the op of `wait`.
#[derive(Clone, Copy)]
pub(super) struct Link<'a> {
    from: u32,
    wait: &'a Wait,
    to: u32,
}

impl Link<'_> {
    fn words(&self) -> String {
        format!("rank {} waits for rank {} in {}", self.from, self.to, self.wait.call())
    }
}

/// The ranks for which the `start` ranks wait, directly or through other ranks, in order of distance. For each of these
/// ranks, `by` has the link by which it was reached first.
pub(super) struct Reached<'a> {
    start: Vec<u32>,
    pub(super) ranks: Vec<u32>,
    by: HashMap<u32, Link<'a>>,
}

impl<'a> Reached<'a> {
    /// Returns the chain that leads to this rank, as a text. The text is empty if the rank is one of the `start` ranks,
    /// or if the only `start` rank waits for it directly.
    pub(super) fn chain(&self, rank: u32) -> String {
        let mut links: Vec<Link<'a>> = Vec::new();
        let mut at = rank;
        while let Some(link) = self.by.get(&at).filter(|_| !self.start.contains(&at) && links.len() < self.by.len()) {
            links.push(*link);
            at = link.from;
        }
        // The error already names the rank for which this rank waits.
        if self.start.len() == 1 && links.len() < 2 {
            return String::new();
        }
        links.reverse();
        description(&links)
    }
}

fn description(links: &[Link<'_>]) -> String {
    let mut words: Vec<String> = links.iter().take(SHOWN).map(Link::words).collect();
    if links.len() > SHOWN {
        words.push(format!("and so on ({} more)", links.len() - SHOWN));
    }
    words.join(", ")
}

impl<'a> Chains<'a> {
    pub(super) fn size(&self) -> u32 {
        self.answers.len() as u32
    }

    /// Returns the waits in a rank's answer or, if the answer is late, in its previous answer. The list is empty if the
    /// rank has left, or has been silent for too long.
    fn waits(&self, rank: u32) -> &'a [Wait] {
        match self.answers.get(rank as usize) {
            _ if rank == self.me => std::slice::from_ref(self.mine),
            Some(Answer::At(doing)) => &doing.waits,
            Some(Answer::Silent { since, before: Some(before) }) if *since < LONG => &before.waits,
            _ => &[],
        }
    }

    fn links(&self, from: u32) -> impl Iterator<Item = Link<'a>> {
        let size = self.size();
        self.waits(from)
            .iter()
            .flat_map(move |wait| wait.on(from, size).into_iter().map(move |to| Link { from, wait, to }))
    }

    /// Finds all ranks for which these ranks wait, directly or through other ranks.
    pub(super) fn reached(&self, start: &[u32]) -> Reached<'a> {
        let mut reached = Reached { start: start.to_vec(), ranks: Vec::new(), by: HashMap::new() };
        let mut line: VecDeque<u32> = start.iter().copied().collect();
        while let Some(from) = line.pop_front() {
            for link in self.links(from) {
                if let Entry::Vacant(entry) = reached.by.entry(link.to) {
                    entry.insert(link);
                    if link.to != self.me {
                        reached.ranks.push(link.to);
                    }
                    if !start.contains(&link.to) {
                        line.push_back(link.to);
                    }
                }
            }
        }
        reached
    }

    /// Finds ranks that wait for each other in a circle. Returns them, the lowest first, and the circle as a text.
    pub(super) fn deadlock(&self, start: &[u32]) -> Option<(Vec<u32>, String)> {
        let mut candidates = start.to_vec();
        candidates.extend(self.reached(start).ranks);
        candidates.truncate(STARTS);
        let mut circle = candidates.into_iter().find_map(|rank| self.circle(rank))?;
        let lowest = (0..circle.len()).min_by_key(|i| circle[*i].from)?;
        circle.rotate_left(lowest);
        Some((circle.iter().map(|link| link.from).collect(), description(&circle)))
    }

    /// Finds the shortest circle of waits through a rank.
    fn circle(&self, rank: u32) -> Option<Vec<Link<'a>>> {
        let mut by: HashMap<u32, Link<'a>> = HashMap::new();
        let mut line = VecDeque::from([rank]);
        while let Some(from) = line.pop_front() {
            for link in self.links(from).filter(|link| !self.moves(link)) {
                if link.to == rank {
                    let mut links = vec![link];
                    while let Some(before) = by.get(&links[links.len() - 1].from) {
                        links.push(*before);
                    }
                    links.reverse();
                    // Ranks inside one collective always wait for each other: no deadlock.
                    let same = links.iter().all(|l| (l.wait.op, l.wait.at) == (link.wait.op, link.wait.at));
                    return Some(links).filter(|_| link.wait.is_message() || !same);
                }
                if let Entry::Vacant(entry) = by.entry(link.to) {
                    entry.insert(link);
                    line.push_back(link.to);
                }
            }
        }
        None
    }

    /// Whether the two ranks of a link are at the two ends of one message, so that neither is stuck.
    fn moves(&self, link: &Link<'_>) -> bool {
        use c10d_core::OpKind::{Recv, RecvAnySource, Send};
        let ends = |a: &Wait, b: &Wait| {
            a.at == b.at && a.kind() == Some(Send) && matches!(b.kind(), Some(Recv | RecvAnySource))
        };
        link.wait.is_message()
            && self.waits(link.to).iter().any(|theirs| {
                theirs.on(link.to, self.size()).contains(&link.from)
                    && (ends(link.wait, theirs) || ends(theirs, link.wait))
            })
    }
}
