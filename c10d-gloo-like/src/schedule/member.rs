//! A rank's position among the others.

/// One rank of a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) world: u32,
    pub(crate) rank: u32,
}

impl Member {
    /// Returns the rank `distance` after this one, around the circle. `distance <= world`.
    pub(crate) fn ahead(self, distance: u32) -> u32 {
        (self.rank + distance) % self.world
    }

    /// Returns the rank `distance` before this one, around the circle. `distance <= world`.
    pub(crate) fn behind(self, distance: u32) -> u32 {
        (self.rank + self.world - distance) % self.world
    }

    /// Returns all other ranks, beginning with the next one.
    pub(crate) fn others(self) -> impl Iterator<Item = u32> + Clone {
        (1..self.world).map(move |d| self.ahead(d))
    }

    /// Returns this rank's number, counted from the root.
    pub(crate) fn counted_from(self, root: u32) -> u32 {
        (self.rank + self.world - root) % self.world
    }

    /// Returns the rank whose [`Member::counted_from`] is `v`.
    pub(crate) fn at(self, v: u32, root: u32) -> u32 {
        (v + root) % self.world
    }
}

/// Returns the smallest `k` with `2^k >= n`: the number of rounds to reach `n` ranks if the number of reached ranks
/// doubles in each round.
pub(crate) fn doublings(n: u32) -> u32 {
    n.next_power_of_two().trailing_zeros()
}
