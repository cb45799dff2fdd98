//! The plans of the two binary trees, for every op that has them.

use super::super::double_tree;
use super::*;

#[test]
fn double_trees() {
    for world in WORLDS {
        for bytes in sizes(world) {
            // A rank has at most two children in both trees together. So it sends at most four halves in an all-reduce
            // (two of them to its parents), and at most two in a broadcast. The limits here are one half higher.
            let most = |w: &World, most: usize| assert!((0..world).all(|r| w.sent(r) <= most), "{world} {bytes}");
            for seed in seeds(world, bytes).take(4) {
                let plan = |rank| planned(|p| double_tree::all_reduce(Member { world, rank }, bytes, ELEM, p));
                let mut w = World::new(world, ELEM, plan, |_| vec![], |r| vector(r, bytes));
                most(&w, 5 * (bytes / 2 + ELEM));
                w.run(seed);
                for r in 0..world {
                    assert_reduced(world, w.output(r), 0, false);
                    assert_eq!(w.output(r), w.output(0));
                }
                for root in roots(world) {
                    let plan = |rank| planned(|p| double_tree::reduce(Member { world, rank }, root, bytes, ELEM, p));
                    let output = |r| if r == root { nothing(bytes) } else { vec![] };
                    let mut w = World::new(world, ELEM, plan, |r| vector(r, bytes), output);
                    most(&w, bytes);
                    w.run(seed);
                    assert_reduced(world, w.output(root), 0, false);
                    (0..world).for_each(|r| assert_eq!(w.input(r), vector(r, bytes)));

                    let plan = |rank| planned(|p| double_tree::broadcast(Member { world, rank }, root, bytes, ELEM, p));
                    let output = |r| if r == root { vector(r, bytes) } else { nothing(bytes) };
                    let mut w = World::new(world, ELEM, plan, |_| vec![], output);
                    most(&w, 3 * (bytes / 2 + ELEM));
                    w.run(seed);
                    (0..world).for_each(|r| assert_eq!(w.output(r), vector(root, bytes)));
                }
            }
        }
    }
}
