//! Tests of the plans of barriers.

use super::super::{bruck, direct};
use super::*;

#[test]
fn barrier() {
    for world in WORLDS {
        let none = |_| 0;
        let plan = |rank| planned(|p| direct::barrier(Member { world, rank }, p));
        let make = || World::new(world, ELEM, plan, |_| vec![], |_| vec![]);
        check(world, 1, &Promise { rounds: 1, sent: &none, once: false }, &make, &|_| ());
        let plan = |rank| planned(|p| bruck::barrier(Member { world, rank }, p));
        let dissemination = || World::new(world, ELEM, plan, |_| vec![], |_| vec![]);
        let promise = Promise { rounds: doublings(world), sent: &none, once: false };
        check(world, 1, &promise, &dissemination, &|_| ());
        assert!(world == 1 || make().all_met() && dissemination().all_met());
    }
}
