//! The table of choices: the algorithm of a call, by op, fabric, ranks and bytes.

use std::fmt;

use c10d_core::OpKind;
use c10d_core::OpKind::{AllGatherInto, AllReduce, Barrier, Broadcast, Reduce, ReduceScatterInto};

use super::Algorithm::{
    self, Bruck, Direct, DoubleTree, HalvingDoubling, Hierarchical, OneShot, Recursive, Ring, ScatterGather, Tree,
    TwoLevel,
};
use super::Fabric::{self, Loopback, Mixed, Shm, Tcp};
use crate::mesh::Tuning;

/// One line of a [`Table`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// One of [`TUNED`](super::TUNED).
    pub op: OpKind,
    /// The fabric of the ranks.
    pub fabric: Fabric,
    /// The smallest and the largest world, both inclusive.
    pub ranks: (u32, u32),
    /// The largest number of bytes, inclusive: of the whole vector, or of a rank's block for `all_gather_into` and
    /// `reduce_scatter_into`.
    pub up_to: usize,
    /// The algorithm to use.
    pub algorithm: Algorithm,
}

/// The algorithm of a call is that of the first rule that fits, or `direct` if no rule fits. A rule whose algorithm
/// does not reduce in rank order does not fit calls whose sums must be rounded once (16-bit floats, pre-multiplied
/// sums). A rule also does not fit worlds for which its algorithm has no plan: `recursive` reduces only in worlds whose
/// size is a power of two.
///
/// All ranks of a group must have the same table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// The rules, in the order in which they are tried.
    pub rules: Vec<Rule>,
    /// The name of the file from which the table was read; `None` if it was not read from a file.
    pub(crate) file: Option<String>,
}

impl Table {
    /// Makes a table of these rules.
    pub fn new(rules: Vec<Rule>) -> Table {
        Table { rules, file: None }
    }

    /// Returns the built-in table.
    pub fn builtin() -> Table {
        Table::new(BUILTIN.to_vec())
    }

    /// Makes a table that uses `algorithm` for every op for which the algorithm has plans, whatever the size, and the
    /// rules of this table for all other ops.
    pub fn preferring(mut self, algorithm: Algorithm) -> Table {
        let rule = |op: &OpKind, fabric| Rule { op: *op, fabric, ranks: (2, ANY_WORLD), up_to: usize::MAX, algorithm };
        let forced = algorithm.ops().iter().flat_map(|op| Fabric::ALL.map(|fabric| rule(op, fabric)));
        self.rules.splice(0..0, forced.collect::<Vec<_>>());
        self
    }

    /// Returns the data that ranks compare to check that their tables are the same.
    pub(crate) fn tuning(&self) -> Tuning {
        let text: String = self.rules.iter().map(Rule::to_string).collect();
        let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        Tuning { hash, file: self.file.clone().unwrap_or_default() }
    }
}

impl fmt::Display for Rule {
    /// Writes a row of a tuning file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (op, fabric, (from, to)) = (self.op.name(), self.fabric.name(), self.ranks);
        write!(f, "{{ op = \"{op}\", fabric = \"{fabric}\", ranks = [{from}, {to}], ")?;
        if self.up_to != usize::MAX {
            write!(f, "up_to = {}, ", self.up_to)?;
        }
        write!(f, "algorithm = \"{}\" }}", self.algorithm.name())
    }
}

/// The largest world of a rule without a limit.
const ANY_WORLD: u32 = u32::MAX;

const fn rule(op: OpKind, fabric: Fabric, ranks: (u32, u32), up_to: usize, algorithm: Algorithm) -> Rule {
    Rule { op, fabric, ranks, up_to, algorithm }
}

const K: usize = 1 << 10;
const M: usize = 1 << 20;
const ANY: usize = usize::MAX;

/// World sizes. The rules for up to eight ranks on one host were measured on 2 cores (AMD Zen 4; those of `broadcast`
/// and `reduce` over shared memory: Intel Ice Lake). All others were computed with [`crate::model`].
const ALL: (u32, u32) = (2, ANY_WORLD);
const TWO: (u32, u32) = (2, 2);
const SOME: (u32, u32) = (3, 8);
const MANY: (u32, u32) = (9, ANY_WORLD);

/// If two rules are for the same worlds and sizes, the later one is for sums that must be rounded once. Calls with such
/// sums skip rules whose algorithms do not reduce in rank order.
#[rustfmt::skip]
const BUILTIN: &[Rule] = &[
    rule(AllReduce, Shm, TWO, 8 * K, OneShot),
    rule(AllReduce, Shm, (3, 4), 2 * K, OneShot),
    rule(AllReduce, Shm, (5, 8), K, OneShot),
    rule(AllReduce, Shm, (9, 12), 2 * K, OneShot),
    rule(AllReduce, Shm, (13, ANY_WORLD), 4 * K, Recursive),
    rule(AllReduce, Shm, (13, ANY_WORLD), 128 * K, HalvingDoubling),
    rule(AllReduce, Loopback, TWO, M, OneShot),
    rule(AllReduce, Loopback, (4, 4), 32 * K, Recursive),
    rule(AllReduce, Loopback, (3, ANY_WORLD), 64 * K, Tree),
    rule(AllReduce, Loopback, (3, 8), 8 * K, OneShot),
    rule(AllReduce, Loopback, (4, 4), 4 * M, HalvingDoubling),
    rule(AllReduce, Loopback, MANY, M, HalvingDoubling),
    rule(AllReduce, Loopback, MANY, ANY, Ring),
    rule(AllReduce, Tcp, TWO, 64 * K, OneShot),
    rule(AllReduce, Tcp, SOME, 4 * K, OneShot),
    rule(AllReduce, Tcp, SOME, 16 * K, Recursive),
    rule(AllReduce, Tcp, SOME, 16 * K, OneShot),
    rule(AllReduce, Tcp, (9, 16), 4 * K, OneShot),
    rule(AllReduce, Tcp, MANY, 16 * K, Recursive),
    rule(AllReduce, Tcp, (17, 28), 64 * K, HalvingDoubling),
    rule(AllReduce, Tcp, (29, 48), 256 * K, HalvingDoubling),
    rule(AllReduce, Tcp, (49, ANY_WORLD), 512 * K, HalvingDoubling),
    rule(AllReduce, Tcp, (49, ANY_WORLD), ANY, DoubleTree),
    rule(AllReduce, Mixed, (2, 8), 16 * K, Recursive),
    rule(AllReduce, Mixed, MANY, 4 * K, Recursive),
    rule(AllReduce, Mixed, (2, 8), 8 * K, OneShot),
    rule(AllReduce, Mixed, (9, 32), 16 * K, Hierarchical),
    rule(AllReduce, Mixed, (33, ANY_WORLD), 2 * K, Tree),
    rule(AllReduce, Mixed, ALL, ANY, TwoLevel),

    rule(Broadcast, Shm, SOME, ANY, Direct),
    rule(Broadcast, Shm, (9, 24), 8 * K, Tree),
    rule(Broadcast, Shm, (25, ANY_WORLD), 32 * K, Tree),
    rule(Broadcast, Shm, (9, 64), ANY, ScatterGather),
    rule(Broadcast, Shm, (65, ANY_WORLD), ANY, DoubleTree),
    rule(Broadcast, Loopback, SOME, 64 * K, Recursive),
    rule(Broadcast, Loopback, (3, 4), ANY, Ring),
    rule(Broadcast, Loopback, SOME, ANY, ScatterGather),
    rule(Broadcast, Loopback, MANY, M, Tree),
    rule(Broadcast, Loopback, MANY, ANY, Ring),
    rule(Broadcast, Tcp, SOME, 16 * K, Direct),
    rule(Broadcast, Tcp, (9, 16), 16 * K, Tree),
    rule(Broadcast, Tcp, (17, ANY_WORLD), 64 * K, Tree),
    rule(Broadcast, Tcp, (3, 28), ANY, ScatterGather),
    rule(Broadcast, Tcp, (29, ANY_WORLD), ANY, DoubleTree),
    rule(Broadcast, Mixed, (2, 8), ANY, Tree),
    rule(Broadcast, Mixed, (9, 32), M, Tree),
    rule(Broadcast, Mixed, (33, ANY_WORLD), 512 * K, Tree),
    rule(Broadcast, Mixed, (33, 128), 4 * M, DoubleTree),
    rule(Broadcast, Mixed, (9, 128), ANY, Ring),
    rule(Broadcast, Mixed, (129, ANY_WORLD), ANY, DoubleTree),

    rule(Reduce, Shm, (3, 4), ANY, Direct),
    rule(Reduce, Shm, (5, 8), 64 * K, Direct),
    rule(Reduce, Shm, (9, 24), 2 * K, Direct),
    rule(Reduce, Shm, MANY, 32 * K, DoubleTree),
    rule(Reduce, Shm, MANY, 32 * K, Direct),
    rule(Reduce, Shm, MANY, M, ScatterGather),
    rule(Reduce, Shm, MANY, ANY, DoubleTree),
    rule(Reduce, Shm, (3, ANY_WORLD), ANY, ScatterGather),
    rule(Reduce, Loopback, SOME, 64 * K, Direct),
    rule(Reduce, Loopback, MANY, 64 * K, Tree),
    rule(Reduce, Loopback, (3, ANY_WORLD), ANY, ScatterGather),
    rule(Reduce, Tcp, SOME, 16 * K, Direct),
    rule(Reduce, Tcp, (9, 16), 4 * K, Direct),
    rule(Reduce, Tcp, (9, 28), 32 * K, Tree),
    rule(Reduce, Tcp, (29, 80), 2 * K, Tree),
    rule(Reduce, Tcp, (29, 48), 64 * K, DoubleTree),
    rule(Reduce, Tcp, (49, 80), 128 * K, DoubleTree),
    rule(Reduce, Tcp, (81, ANY_WORLD), K, Tree),
    rule(Reduce, Tcp, (81, ANY_WORLD), ANY, DoubleTree),
    rule(Reduce, Tcp, (29, ANY_WORLD), 64 * K, Direct),
    rule(Reduce, Tcp, (49, 80), 512 * K, ScatterGather),
    rule(Reduce, Tcp, (3, 48), M, ScatterGather),
    rule(Reduce, Tcp, (3, 80), ANY, DoubleTree),
    rule(Reduce, Tcp, (3, ANY_WORLD), ANY, ScatterGather),
    rule(Reduce, Mixed, (2, 8), ANY, Tree),
    rule(Reduce, Mixed, (9, 20), 64 * K, Tree),
    rule(Reduce, Mixed, (21, 32), 256 * K, Tree),
    rule(Reduce, Mixed, (33, ANY_WORLD), 32 * K, Tree),
    rule(Reduce, Mixed, (33, 80), 128 * K, DoubleTree),
    rule(Reduce, Mixed, (3, ANY_WORLD), 32 * K, Direct),
    rule(Reduce, Mixed, (9, 20), 512 * K, ScatterGather),
    rule(Reduce, Mixed, (33, 80), 512 * K, ScatterGather),
    rule(Reduce, Mixed, MANY, ANY, DoubleTree),
    rule(Reduce, Mixed, (3, ANY_WORLD), ANY, ScatterGather),

    rule(AllGatherInto, Shm, MANY, 16 * K, Bruck),
    rule(AllGatherInto, Loopback, SOME, 16 * K, Bruck),
    rule(AllGatherInto, Loopback, (4, 4), 64 * K, Bruck),
    rule(AllGatherInto, Loopback, (4, 4), ANY, Ring),
    rule(AllGatherInto, Loopback, MANY, 32 * K, Bruck),
    rule(AllGatherInto, Loopback, MANY, ANY, Ring),
    rule(AllGatherInto, Tcp, (17, ANY_WORLD), ANY, Bruck),
    rule(AllGatherInto, Mixed, ALL, 16 * K, TwoLevel),
    rule(AllGatherInto, Mixed, (2, 8), 128 * K, Direct),
    rule(AllGatherInto, Mixed, ALL, ANY, Ring),

    rule(ReduceScatterInto, Shm, MANY, 4 * K, Recursive),
    rule(ReduceScatterInto, Loopback, SOME, 16 * K, Recursive),
    rule(ReduceScatterInto, Loopback, MANY, 16 * K, Direct),
    rule(ReduceScatterInto, Loopback, MANY, ANY, Ring),
    rule(ReduceScatterInto, Tcp, MANY, 8 * K, Recursive),
    rule(ReduceScatterInto, Tcp, (9, 48), 128 * K, Direct),
    rule(ReduceScatterInto, Tcp, (9, 48), ANY, Ring),
    rule(ReduceScatterInto, Mixed, ALL, 4 * K, Recursive),
    rule(ReduceScatterInto, Mixed, MANY, ANY, Ring),

    rule(Barrier, Shm, MANY, ANY, Bruck),
    rule(Barrier, Loopback, (3, ANY_WORLD), ANY, Bruck),
    rule(Barrier, Tcp, MANY, ANY, Bruck),
    rule(Barrier, Mixed, MANY, ANY, Bruck),
];
