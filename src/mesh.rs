//! Ranks on a grid with named axes, and a group for each axis.

use std::sync::Arc;

use c10d_core::text::harmless;
use c10d_core::{Error, ErrorKind, ProcessGroup, Result, op};

use crate::plain::PlainBuf;
use crate::within::Within;

/// The ranks of a group on a grid with named axes. Each axis has a group: the ranks whose coordinates on all other axes
/// equal those of this rank. A clone is cheap.
///
/// ```
/// use c10d::{Mesh, ReduceOp};
/// # fn main() -> c10d::Result<()> {
/// // Two replicas of a model that is split into three parts.
/// c10d::run_ranks(6, |pg| {
///     let mesh = Mesh::new(&pg, &[("dp", 2), ("tp", 3)])?;
///     assert_eq!(mesh.coordinates(), [pg.rank() / 3, pg.rank() % 3]);
///
///     let mut gradient = [pg.rank()];
///     mesh.group("dp")?.all_reduce(&mut gradient, ReduceOp::Sum)?;
///     assert_eq!(gradient, [2 * (pg.rank() % 3) + 3]);
///     Ok(())
/// })?;
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct Mesh(Arc<Grid>);

struct Grid {
    whole: ProcessGroup,
    axes: Vec<Axis>,
    coordinates: Vec<u32>,
}

struct Axis {
    name: String,
    size: u32,
    group: ProcessGroup,
}

impl Mesh {
    /// Puts the ranks of `pg` on a grid. Each axis has a name and a size; the product of the sizes is the world size.
    /// The last axis varies fastest: ranks 0 and 1 differ in it. Every rank calls this function with the same axes.
    ///
    /// # Errors
    /// [`Mismatch`](crate::ErrorKind::Mismatch) of `axes`, which names the ranks that gave other axes than this rank.
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the product of the sizes is not the world size, or if
    /// two axes have one name. All ranks get these errors, and `pg` can still be used. Other errors are those of
    /// [`split`](ProcessGroup::split).
    pub fn new(pg: &ProcessGroup, axes: &[(&str, u32)]) -> Result<Mesh> {
        let within = Within::new(pg, None);
        compare(&within, &described(axes))?;
        check(pg.size(), axes).map_err(|e| within.ended(e))?;
        Mesh::of(pg.clone(), axes)
    }

    /// Makes a mesh with the axes `host` and `local`: the hosts, and the ranks of each host. Hosts are ordered by their
    /// lowest ranks, and the ranks of a host by their numbers; [`whole`](Self::whole) numbers the ranks in this order.
    /// Every rank calls this function.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) on all ranks if the hosts have different numbers of
    /// ranks; the error names the ranks of the hosts that do not have as many ranks as the first host.
    /// ([`split_by_host`](ProcessGroup::split_by_host) allows different numbers.) Other errors are those of
    /// [`split`](ProcessGroup::split).
    pub fn by_host(pg: &ProcessGroup) -> Result<Mesh> {
        let hosts = pg.hosts()?;
        let count = hosts.iter().max().map_or(0, |last| last + 1);
        let of = |host: u32| (0u32..).zip(&hosts).filter(move |(_, h)| **h == host).map(|(rank, _)| rank);
        let local = of(0).count();
        let odd: Vec<u32> = (0..count).filter(|host| of(*host).count() != local).flat_map(of).collect();
        if let [first, ..] = odd[..] {
            let there = of(hosts[first as usize]).count();
            let what = format!(
                "hosts have different numbers of ranks: {local} where rank 0 is, {there} where rank {first} is; use split_by_host"
            );
            return Err(Within::new(pg, None).ended(Error::invalid(what).guilty(odd)));
        }
        let order: Vec<u32> = (0..count).flat_map(of).collect();
        let whole = if order.iter().is_sorted() { Some(pg.clone()) } else { pg.new_group(&order)? };
        let whole = whole.ok_or_else(|| Error::new(ErrorKind::Internal, "a rank is on no host"))?;
        Mesh::of(whole, &[("host", count), ("local", local as u32)])
    }

    fn of(whole: ProcessGroup, axes: &[(&str, u32)]) -> Result<Mesh> {
        let sizes: Vec<u32> = axes.iter().map(|(_, size)| *size).collect();
        let coordinates = unravel(whole.rank(), &sizes);
        let axis = |(at, (name, size)): (usize, &(&str, u32))| {
            let group = among(&whole, &sizes, &coordinates, &[at])?;
            Ok(Axis { name: (*name).to_owned(), size: *size, group })
        };
        let axes = axes.iter().enumerate().map(axis).collect::<Result<_>>()?;
        Ok(Mesh(Arc::new(Grid { whole, axes, coordinates })))
    }

    /// Returns the group of all ranks of the mesh, in row-major order.
    pub fn whole(&self) -> &ProcessGroup {
        &self.0.whole
    }

    /// Returns the names and sizes of the axes, in order.
    pub fn axes(&self) -> impl Iterator<Item = (&str, u32)> {
        self.0.axes.iter().map(|axis| (&*axis.name, axis.size))
    }

    /// Returns this rank's coordinate on each axis.
    pub fn coordinates(&self) -> &[u32] {
        &self.0.coordinates
    }

    /// Returns the rank at these coordinates, numbered as in [`whole`](Self::whole), or `None` if the coordinates are
    /// outside of the grid.
    pub fn rank_at(&self, coordinates: &[u32]) -> Option<u32> {
        let inside = self.0.axes.iter().zip(coordinates).all(|(axis, at)| *at < axis.size);
        (inside && coordinates.len() == self.0.axes.len()).then(|| ravel(coordinates, &self.sizes()))
    }

    /// Returns the group of the ranks whose coordinates on all other axes equal those of this rank. A rank's number in
    /// this group is its coordinate on `axis`.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the mesh has no such axis.
    pub fn group(&self, axis: &str) -> Result<&ProcessGroup> {
        Ok(&self.0.axes[self.axis(axis)?].group)
    }

    /// Returns the rank that is `by` steps away on an axis, numbered as in [`whole`](Self::whole). If `wraps` is true,
    /// counting continues at the other end of the axis; otherwise the result beyond an end is `None`.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the mesh has no such axis.
    pub fn shift(&self, axis: &str, by: i64, wraps: bool) -> Result<Option<u32>> {
        let at = self.axis(axis)?;
        let (mine, size) = (i64::from(self.0.coordinates[at]), i64::from(self.0.axes[at].size));
        let to = match wraps {
            true => (mine + by.rem_euclid(size)) % size,
            false => mine.saturating_add(by),
        };
        if !(0..size).contains(&to) {
            return Ok(None);
        }
        let mut coordinates = self.0.coordinates.clone();
        coordinates[at] = to as u32;
        Ok(self.rank_at(&coordinates))
    }

    /// Makes the group of the ranks whose coordinates on all axes that are not in `axes` equal those of this rank. In
    /// the order of the group, the last axis of `axes` varies fastest. Every rank of the mesh calls this method with
    /// the same axes.
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::ErrorKind::InvalidArgument) if the mesh does not have one of the axes, or if an axis
    /// is named twice. Other errors are those of [`split`](ProcessGroup::split).
    pub fn flatten(&self, axes: &[&str]) -> Result<ProcessGroup> {
        let at = self.chosen(axes)?;
        among(&self.0.whole, &self.sizes(), &self.0.coordinates, &at)
    }

    /// Makes a mesh with only these axes, in this order, of the ranks of [`flatten`](Self::flatten). Every rank of the
    /// mesh calls this method with the same axes.
    ///
    /// # Errors
    /// The same as those of [`flatten`](Self::flatten).
    pub fn slice(&self, axes: &[&str]) -> Result<Mesh> {
        let at = self.chosen(axes)?;
        let whole = self.flatten(axes)?;
        let coordinates = at.iter().map(|at| self.0.coordinates[*at]).collect();
        let axis = |at: &usize| {
            let Axis { name, size, group } = &self.0.axes[*at];
            Axis { name: name.clone(), size: *size, group: group.clone() }
        };
        Ok(Mesh(Arc::new(Grid { whole, axes: at.iter().map(axis).collect(), coordinates })))
    }

    fn sizes(&self) -> Vec<u32> {
        self.0.axes.iter().map(|axis| axis.size).collect()
    }

    fn axis(&self, name: &str) -> Result<usize> {
        self.0.axes.iter().position(|axis| axis.name == name).ok_or_else(|| {
            let there: Vec<&str> = self.0.axes.iter().map(|axis| &*axis.name).collect();
            Error::invalid(format!("the mesh has no axis {name:?}; it has {}", there.join(", ")))
        })
    }

    fn chosen(&self, axes: &[&str]) -> Result<Vec<usize>> {
        let at: Vec<usize> = axes.iter().map(|name| self.axis(name)).collect::<Result<_>>()?;
        match (1..at.len()).find(|i| at[..*i].contains(&at[*i])) {
            Some(twice) => Err(Error::invalid(format!("the axis {:?} is named twice", axes[twice]))),
            None => Ok(at),
        }
    }
}

impl std::fmt::Debug for Mesh {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let axes: Vec<(&str, u32)> = self.axes().collect();
        write!(f, "Mesh({}; this rank at {:?} of {:?})", described(&axes), self.0.coordinates, self.0.whole)
    }
}

/// Makes the group of the ranks whose coordinates on all axes that are not in `chosen` equal `coordinates`.
fn among(whole: &ProcessGroup, sizes: &[u32], coordinates: &[u32], chosen: &[usize]) -> Result<ProcessGroup> {
    let rest: Vec<usize> = (0..sizes.len()).filter(|at| !chosen.contains(at)).collect();
    let of = |axes: &[usize]| {
        let pick = |from: &[u32]| axes.iter().map(|at| from[*at]).collect::<Vec<u32>>();
        ravel(&pick(coordinates), &pick(sizes))
    };
    let group = whole.split(Some(of(&rest)), of(chosen))?;
    group.ok_or_else(|| Error::new(ErrorKind::Internal, "a rank of a mesh is in no group"))
}

/// Returns the rank at these coordinates. The last axis varies fastest.
fn ravel(coordinates: &[u32], sizes: &[u32]) -> u32 {
    coordinates.iter().zip(sizes).fold(0, |rank, (at, size)| rank * size + at)
}

fn unravel(mut rank: u32, sizes: &[u32]) -> Vec<u32> {
    let mut coordinates = vec![0; sizes.len()];
    for (at, size) in coordinates.iter_mut().zip(sizes).rev() {
        (*at, rank) = (rank % size, rank / size);
    }
    coordinates
}

fn described(axes: &[(&str, u32)]) -> String {
    axes.iter().map(|(name, size)| format!("{name}={size}")).collect::<Vec<_>>().join(" × ")
}

fn check(world: u32, axes: &[(&str, u32)]) -> Result {
    if let Some(twice) = (1..axes.len()).find(|i| axes[..*i].iter().any(|(name, _)| *name == axes[*i].0)) {
        return Err(Error::invalid(format!("two axes have the name {:?}", axes[twice].0)));
    }
    let product = axes.iter().try_fold(1u32, |product, (_, size)| product.checked_mul(*size));
    if product != Some(world) {
        return Err(Error::invalid(format!("{} does not make a grid of {world} ranks", described(axes))));
    }
    Ok(())
}

/// Compares the axes of all ranks. The error names the ranks that gave other axes than this rank.
fn compare(within: &Within<'_>, mine: &str) -> Result {
    const AXES: &str = "axes of a mesh";
    // A rank sends at most this many bytes of the text `mine`, and a hash of the whole text.
    const TEXT: usize = 240;
    let hash = mine
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    let mut own = [0u8; TEXT + 9];
    let end = (0..=TEXT.min(mine.len())).rev().find(|at| mine.is_char_boundary(*at)).unwrap_or_default();
    own[..end].copy_from_slice(&mine.as_bytes()[..end]);
    own[TEXT] = end as u8;
    own[TEXT + 1..].copy_from_slice(&hash.to_le_bytes());

    let mut all = vec![0u8; own.len() * within.pg.size() as usize];
    within.run(op::all_gather_into(PlainBuf::reduced_by(&own, AXES), PlainBuf::reduced_by(&mut all, AXES)))?;
    let texts: Vec<&[u8]> = all.chunks_exact(own.len()).collect();
    let guilty: Vec<u32> = (0u32..).zip(&texts).filter(|(_, text)| **text != own).map(|(rank, _)| rank).collect();
    let [first, ..] = guilty[..] else { return Ok(()) };
    let text = texts[first as usize];
    let theirs = harmless(&String::from_utf8_lossy(&text[..usize::from(text[TEXT]).min(TEXT)]), TEXT);
    let kind = ErrorKind::Mismatch { field: "axes", mine: mine.to_owned(), theirs };
    Err(within.ended(Error::new(kind, "all ranks of a mesh must give the same axes").guilty(guilty)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_axis_varies_fastest() {
        let sizes = [2, 3, 4];
        assert_eq!(unravel(17, &sizes), [1, 1, 1]);
        assert_eq!(unravel(3, &sizes), [0, 0, 3]);
        assert!((0..24).all(|rank| ravel(&unravel(rank, &sizes), &sizes) == rank));
        assert_eq!((ravel(&[], &[]), unravel(0, &[])), (0, vec![]));
    }

    #[test]
    fn invalid_grids_are_rejected() {
        assert!(check(6, &[("a", 2), ("b", 3)]).is_ok());
        assert!(check(1, &[]).is_ok());
        for (axes, words) in [
            (&[("a", 2), ("b", 2)][..], "a=2 × b=2 does not make a grid of 6 ranks"),
            (&[("a", 6), ("a", 1)], "two axes have the name \"a\""),
            (&[("a", 0)], "does not make a grid"),
            (&[("a", 1 << 31), ("b", 2)], "does not make a grid"),
        ] {
            assert!(check(6, axes).unwrap_err().to_string().contains(words));
        }
    }
}
