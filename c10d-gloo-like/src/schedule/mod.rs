//! The algorithms: pure functions that compute, for one rank of a world, what to send, receive and reduce.
//!
//! All ranks of an op call these functions with the same arguments, except for the rank itself and, in `gather`,
//! `scatter` and `all_to_all`, the blocks. Each function appends its steps to a [`Plan`]. Lengths are in bytes, and
//! multiples of the element size. An in-place op has its data in [`Space::Output`](crate::plan::Space::Output). The
//! number of rounds of a plan is the length of the longest chain of messages in which each message depends on the one
//! before it.
//!
//! Each algorithm has a file with its name, its ops and its plans, and a line in the call of the macro `algorithms!`
//! below. The macro makes the enum [`Algorithm`]. The [`table`] chooses the algorithm of a call.

mod algorithm;
mod blocks;
mod bruck;
pub(crate) mod direct;
mod double_tree;
mod halving_doubling;
mod hierarchical;
mod hosts;
mod local;
mod member;
mod one_shot;
mod recursive;
mod ring;
mod scatter_gather;
mod selection;
#[cfg(test)]
mod simulate;
mod table;
#[cfg(test)]
mod tests;
mod tree;
mod tuned;
mod tuning_file;
mod two_level;

pub use algorithm::Fabric;
pub(crate) use algorithm::exact;
pub(crate) use blocks::Blocks;
pub(crate) use hosts::Hosts;
pub(crate) use member::Member;
pub(crate) use selection::Selection;
pub use table::{Rule, Table};
pub use tuned::TUNED;
#[cfg(test)]
pub(crate) use tuned::tuned;

use c10d_core::OpKind;

use crate::plan::Plan;
use algorithm::Schedule;

macro_rules! algorithms {
    ($($(#[$doc:meta])* $file:ident::$name:ident,)*) => {
        /// The algorithm of an op.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Algorithm {
            $($(#[$doc])* $name,)*
        }

        impl Algorithm {
            /// Every algorithm.
            pub const ALL: &'static [Algorithm] = &[$(Algorithm::$name,)*];

            /// The name in tables.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Algorithm::$name => $file::$name::NAME,)*
                }
            }

            /// Returns the algorithm of this name, if there is one.
            pub fn from_name(name: &str) -> Option<Algorithm> {
                Algorithm::ALL.iter().copied().find(|a| a.name() == name)
            }

            /// The ops for which the algorithm has its own plans, among those for which a [`Table`] chooses.
            pub const fn ops(self) -> &'static [OpKind] {
                match self {
                    $(Algorithm::$name => $file::$name::OPS,)*
                }
            }

            /// Whether the algorithm has a plan of its own for `op`, one of [`Algorithm::ops`], in a world of this
            /// size.
            pub fn serves(self, op: OpKind, world: u32) -> bool {
                match self {
                    $(Algorithm::$name => $file::$name::serves(op, world),)*
                }
            }

            /// Whether a rank that reduces an element reduces the values of all ranks in one step, in rank order.
            pub const fn reduces_in_rank_order(self) -> bool {
                match self {
                    $(Algorithm::$name => $file::$name::RANK_ORDER,)*
                }
            }
        }

        /// The plans; see [`Schedule`].
        impl Algorithm {
            pub(crate) fn all_reduce(self, me: Member, hosts: &Hosts, bytes: usize, elem: usize, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::all_reduce(me, hosts, bytes, elem, plan),)*
                }
            }

            pub(crate) fn reduce(self, me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::reduce(me, root, bytes, elem, plan),)*
                }
            }

            pub(crate) fn broadcast(self, me: Member, root: u32, bytes: usize, elem: usize, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::broadcast(me, root, bytes, elem, plan),)*
                }
            }

            pub(crate) fn reduce_scatter(self, me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::reduce_scatter(me, hosts, blocks, plan),)*
                }
            }

            pub(crate) fn all_gather(self, me: Member, hosts: &Hosts, blocks: Blocks<'_>, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::all_gather(me, hosts, blocks, plan),)*
                }
            }

            pub(crate) fn barrier(self, me: Member, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::barrier(me, plan),)*
                }
            }
        }
    };
}

algorithms! {
    /// A world of one rank, which sends nothing.
    local::Local,
    /// Every rank sends all its data to every other rank in one round.
    one_shot::OneShot,
    /// Reduces inside each host, then between the first ranks of the hosts. The first rank of each host sends the
    /// result to the other ranks of the host.
    hierarchical::Hierarchical,
    /// Each rank does a part of the root's work.
    scatter_gather::ScatterGather,
    /// Every rank communicates with ranks at distances that double.
    bruck::Bruck,
    /// Every rank communicates only with its two neighbours in a circle.
    ring::Ring,
    /// Binomial trees.
    tree::Tree,
    /// Two binary trees, each for half of the bytes.
    double_tree::DoubleTree,
    /// Ranks communicate first inside each host, then between hosts, then inside each host again.
    two_level::TwoLevel,
    /// Recursive halving, then recursive doubling with the same partners in reverse order.
    halving_doubling::HalvingDoubling,
    /// Recursive doubling with whole vectors; for a reduce-scatter, recursive halving.
    recursive::Recursive,
    /// Every rank sends each block of its data directly to the rank that needs it; an all-reduce takes two rounds. All
    /// calls for which the table has no rule use this algorithm.
    algorithm::Direct,
}
