//! The algorithms: pure functions that say, for one rank of a world, what to send, receive and reduce.
//!
//! Every function here is called by all ranks of an op with the same arguments, but for the rank itself. Each appends to
//! an empty [`Plan`]. All numbers are bytes, in multiples of the element size. An op in place has its data in
//! [`Space::Output`](crate::plan::Space::Output); where the input is the own block of the output, the copy between them is
//! one from a place to itself.
//!
//! An algorithm is a file, with its name, where it applies and its plans, and its line in [`Algorithm`].

mod algorithm;
mod blocks;
mod bruck;
pub(crate) mod direct;
mod halving_doubling;
mod hierarchical;
mod local;
mod member;
mod one_shot;
mod ring;
mod scatter_gather;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod tests;
mod tree;

pub(crate) use algorithm::{Choice, Fabric, exact};
pub(crate) use blocks::Blocks;
pub(crate) use member::Member;

use crate::plan::Plan;
use algorithm::Schedule;

macro_rules! algorithms {
    ($($file:ident::$name:ident,)*) => {
        /// How an op is done.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Algorithm {
            $($name,)*
        }

        impl Algorithm {
            /// The first of the list that applies.
            pub(crate) fn choose(choice: &Choice) -> Algorithm {
                $(if $file::$name::applies(choice) {
                    return Algorithm::$name;
                })*
                Algorithm::Direct
            }

            /// The name in tables.
            pub(crate) const fn name(self) -> &'static str {
                match self {
                    $(Algorithm::$name => $file::$name::NAME,)*
                }
            }

            /// Whether every element is reduced once, in rank order, at one place.
            pub(crate) const fn reduces_in_rank_order(self) -> bool {
                match self {
                    $(Algorithm::$name => $file::$name::RANK_ORDER,)*
                }
            }
        }

        /// The plans; see [`Schedule`].
        impl Algorithm {
            pub(crate) fn all_reduce(self, me: Member, hosts: &[u32], bytes: usize, elem: usize, plan: &mut Plan) {
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

            pub(crate) fn reduce_scatter(self, me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::reduce_scatter(me, blocks, plan),)*
                }
            }

            pub(crate) fn all_gather(self, me: Member, blocks: Blocks<'_>, plan: &mut Plan) {
                match self {
                    $(Algorithm::$name => $file::$name::all_gather(me, blocks, plan),)*
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

// The first that applies is taken.
algorithms! {
    local::Local,
    one_shot::OneShot,
    hierarchical::Hierarchical,
    scatter_gather::ScatterGather,
    bruck::Bruck,
    ring::Ring,
    tree::Tree,
    halving_doubling::HalvingDoubling,
    algorithm::Direct,
}
