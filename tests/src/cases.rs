//! Selects the cases from the op table and a backend's capabilities.

use c10d_core::backend::{Capabilities, Shape};
use c10d_core::{DType, OpKind, ReduceOp};

use crate::case::{Case, Form, Size};

/// Which cases are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Selection {
    /// Every combination of op, element type and reduce operation at least once, and for each op every world size, size
    /// class and form, with even and with uneven lengths.
    Cover,
    /// All cases.
    Full,
}

impl Selection {
    /// Returns `Full` if the variable `C10D_SUITE` is `full`, otherwise `Cover`.
    pub fn from_env() -> Selection {
        match std::env::var("C10D_SUITE").as_deref() {
            Ok("full") => Selection::Full,
            _ => Selection::Cover,
        }
    }
}

/// The dimensions of cases besides op, element type and reduce operation.
pub(crate) struct Space<'a> {
    pub(crate) worlds: &'a [u32],
    /// The size in bytes from which the backend divides transfers into chunks.
    pub(crate) chunk: usize,
    pub(crate) selection: Selection,
}

/// Returns every case of a backend with these capabilities.
pub(crate) fn cases(capabilities: &Capabilities, space: &Space<'_>) -> Vec<Case> {
    let mut out = Vec::new();
    let offered =
        |op: OpKind| capabilities.ops.contains(op) && partner(op).is_none_or(|p| capabilities.ops.contains(p));
    for op in OpKind::ALL.iter().copied().filter(|op| offered(*op)) {
        let kinds = kinds(op, capabilities);
        let variants = variants(op, space);
        match space.selection {
            Selection::Cover => {
                // A case combines a kind (element type and reduce operation) with a variant. Each element of the longer
                // list is used once; the shorter list is repeated.
                let rounds = kinds.len().max(cover_len(op, space));
                for i in 0..rounds {
                    let (dtype, reduce) = kinds[i % kinds.len()];
                    out.push(case(op, dtype, reduce, cover(op, space, i), i, space));
                }
            }
            Selection::Full => {
                for (i, variant) in variants.iter().enumerate() {
                    for (j, (dtype, reduce)) in kinds.iter().enumerate() {
                        out.push(case(op, *dtype, *reduce, *variant, i + j, space));
                    }
                }
            }
        }
    }
    out
}

/// Returns the op that the peer of a message must call; `None` for collectives.
fn partner(op: OpKind) -> Option<OpKind> {
    match op {
        OpKind::Send => Some(OpKind::Recv),
        OpKind::Recv | OpKind::RecvAnySource => Some(OpKind::Send),
        _ => None,
    }
}

/// Returns the element types and reduce operations that the backend offers for an op.
fn kinds(op: OpKind, capabilities: &Capabilities) -> Vec<(DType, ReduceOp)> {
    if op.row().shape == Shape::Nothing {
        return vec![(DType::U8, ReduceOp::Sum)];
    }
    let reduces = if op.reduces() { reduce_ops() } else { vec![ReduceOp::Sum] };
    let pairs = reduces.into_iter().flat_map(|r| DType::ALL.iter().map(move |d| (*d, r)));
    let meaningful = pairs.filter(|(d, r)| !op.reduces() || r.is_defined_on(*d));
    let offered = |op, (dtype, reduce): &(DType, ReduceOp)| capabilities.offers(op, *dtype, *reduce);
    meaningful.filter(|pair| offered(op, pair) && partner(op).is_none_or(|other| offered(other, pair))).collect()
}

/// Returns every reduce operation. The factor of `PreMulSum` is 0.3, which no type can represent exactly.
pub(crate) fn reduce_ops() -> Vec<ReduceOp> {
    (0..ReduceOp::COUNT as u8).filter_map(|code| ReduceOp::from_code(code, 0.3)).collect()
}

type Variant = (u32, Size, Form, bool);

fn sizes(op: OpKind) -> &'static [Size] {
    if op.row().shape == Shape::Nothing { &[Size::Zero] } else { &Size::ALL }
}

/// Returns whether the lengths in an op may differ between ranks.
fn may_be_uneven(op: OpKind) -> bool {
    op.is_uneven()
}

fn variants(op: OpKind, space: &Space<'_>) -> Vec<Variant> {
    let mut out = Vec::new();
    for world in space.worlds {
        for size in sizes(op) {
            for form in Form::of(op) {
                out.push((*world, *size, *form, false));
                if may_be_uneven(op) {
                    out.push((*world, *size, *form, true));
                }
            }
        }
    }
    out
}

/// Returns how many variants `cover` must give until every value of every dimension was used.
fn cover_len(op: OpKind, space: &Space<'_>) -> usize {
    let pairs = space.worlds.len() * Form::of(op).len();
    pairs.max(sizes(op).len() * 2)
}

/// Returns the i-th variant. The dimensions advance at different rates, so that their combinations vary.
fn cover(op: OpKind, space: &Space<'_>, i: usize) -> Variant {
    let (worlds, sizes, forms) = (space.worlds, sizes(op), Form::of(op));
    let world = worlds[i % worlds.len()];
    let size = sizes[(i + i / (sizes.len() * worlds.len())) % sizes.len()];
    let form = forms[(i % worlds.len() + i / worlds.len()) % forms.len()];
    let uneven = may_be_uneven(op) && (i / 2) % 2 == 1;
    (world, size, form, uneven)
}

fn case(
    op: OpKind,
    dtype: DType,
    reduce: ReduceOp,
    (world, size, form, uneven): Variant,
    turn: usize,
    space: &Space<'_>,
) -> Case {
    let chunk = space.chunk / dtype.size();
    let ranks = world as usize;
    let many = !matches!(op.row().shape, Shape::InPlace | Shape::Source | Shape::Target);
    let large = if many { (16 * chunk).div_ceil(ranks) } else { 16 * chunk };
    let count = match size {
        Size::Zero => 0,
        Size::One => 1,
        Size::Odd => 13,
        Size::BelowChunk => chunk - 1,
        Size::Chunk => chunk,
        Size::AboveChunk => chunk + 1,
        Size::Large => large + 7,
    };
    // The root is rank 0 in the first turn, then the last rank, then the rank before the last, and so on.
    let root = (turn as u32).wrapping_mul(world.saturating_sub(1).max(1)) % world;
    Case { op, dtype, reduce, world, root, size, count, form, uneven }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cover_of(worlds: &[u32]) -> Vec<Case> {
        cases(&Capabilities::ALL, &Space { worlds, chunk: 64 << 10, selection: Selection::Cover })
    }

    #[test]
    fn every_op_has_every_world_size_form_and_type() {
        let worlds = [1, 2, 3, 4, 5, 8];
        let all = cover_of(&worlds);
        println!("{} cases", all.len());
        for op in OpKind::ALL.iter().copied() {
            let of_op: Vec<&Case> = all.iter().filter(|c| c.op == op).collect();
            assert!(!of_op.is_empty(), "{op}");
            for world in worlds {
                assert!(of_op.iter().any(|c| c.world == world), "{op} in a world of {world}");
            }
            for size in sizes(op) {
                assert!(of_op.iter().any(|c| c.size == *size && c.world > 1), "{op} {size:?}");
            }
            for form in Form::of(op) {
                assert!(of_op.iter().any(|c| c.form == *form && c.world > 1), "{op} {form:?}");
            }
            if may_be_uneven(op) {
                assert!(of_op.iter().any(|c| c.uneven && c.world > 1) && of_op.iter().any(|c| !c.uneven), "{op}");
            }
            if op.is_rooted() {
                assert!(of_op.iter().any(|c| c.root > 0) && of_op.iter().any(|c| c.root == 0 && c.world > 1));
            }
            for (dtype, reduce) in kinds(op, &Capabilities::ALL) {
                assert!(of_op.iter().any(|c| c.dtype == dtype && c.reduce == reduce), "{op} {dtype} {reduce}");
            }
        }
    }

    #[test]
    fn names_are_unique() {
        for selection in [Selection::Cover, Selection::Full] {
            let space = Space { worlds: &[1, 2, 3, 8], chunk: 64 << 10, selection };
            let all = cases(&Capabilities::ALL, &space);
            let mut names: Vec<String> = all.iter().map(Case::to_string).collect();
            let count = names.len();
            names.sort();
            names.dedup();
            println!("{selection:?}: {count}");
            assert_eq!(names.len(), count);
        }
    }

    #[test]
    fn cases_are_limited_to_the_capabilities() {
        use c10d_core::DTypeSet;
        let mut few = Capabilities { ops: c10d_core::backend::OpSet::of(&[OpKind::AllReduce]), ..Capabilities::ALL };
        few.reduces = [DTypeSet::NONE; ReduceOp::COUNT];
        few.reduces[0] = DTypeSet::of(&[DType::F32]);
        let all = cases(&few, &Space { worlds: &[2], chunk: 1 << 10, selection: Selection::Full });
        assert!(all.iter().all(|c| c.op == OpKind::AllReduce && c.dtype == DType::F32 && c.reduce == ReduceOp::Sum));
        assert_eq!(all.len(), 7 * 4);
    }
}
